"""The review queue: what an auditor should look at, in the order in which it matters, until she signs it off.

    break-glass    every access that a person opened for herself in an emergency, with the looks by it
    alert          what else alerted an auditor (a damaged log, a pruning)
    denied         refusals of one day, person, grant and code, with the most frequent reasons
    volume         a day on which somebody got far more rows than on her own days before
    lookups        a day on which somebody asked for far more members by id than on her own days before
    first-use      the first read of a person under a grant

An item's id ends in the number of its last event, and a sign-off names the id: what happens after it comes back.
The sign-off is an event of the chain; nobody signs off what she did herself.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from workbench.broker.audit_alerts import ALERTS
from workbench.broker.audit_chain import audit_event, readable
from workbench.broker.audit_read import OPERATOR, person
from workbench.errors import WorkbenchError

KINDS = {"B": "break-glass", "A": "alert", "D": "denied", "V": "volume", "L": "lookups", "F": "first-use"}
"""By the letter with which an item's id begins, in the order of the queue."""
BREAK_GLASS = ("break-glass", "break-glass-read")
"""An access, and a look by it."""
DENIALS = ("refused", "binding-refused", "report-refused", "audit-refused", "break-glass-refused")
SIGNED = "review-signed"
BROKER = "broker"
"""Who builds slices: no caller."""

PAST_DAYS, ENOUGH_DAYS = 60, 5
"""A day is held against so many of the caller's own active days before it; with fewer than the second it is not judged."""
FAR = 3.5
"""A modified z-score, 0.6745 (x - median) / MAD, above which a value is an outlier: Iglewicz and Hoaglin, How to Detect
and Handle Outliers, 1993, chapter 3. The median and MAD of the past do not move with a few odd days in it."""
LEAST_SPREAD = 0.25
"""The MAD counts as at least this share of the median, so that nothing below 2.3 times the usual is unusual: a short or
very regular past would make every second day odd. Chosen for this queue; a site may defend another."""
FLOORS = {"V": 1_000, "L": 20}
"""Rows, or members asked for by id, up to which a day is never unusual."""
REASONS_SHOWN = 3
"""A caller who is refused for many reasons shall not choose which of them the auditor reads: the most frequent, and how many more."""
SHORTEST_NOTE = 10
"""Characters of the note that a sign-off of a break-glass needs."""


class NothingToSign(WorkbenchError):
    """The queue has no such item now."""

    code = "nothing-to-sign"
    http_status = 404


class SignOffRefused(WorkbenchError):
    """This sign-off is not taken."""

    code = "sign-off-refused"
    http_status = 400


@dataclass(frozen=True)
class Item:
    """One thing to look at. `says` is a sentence for people; `first` and `last` are numbers of events."""

    id: str
    kind: str
    at: str
    user: str
    grant: str
    says: str
    times: int
    first: int
    last: int

    def as_json(self) -> dict[str, Any]:
        """The item as an answer gives it."""
        return asdict(self)


@dataclass(frozen=True)
class Day:
    """What one person took under one grant on one UTC day: rows of answers, answers, members asked for by id."""

    day: str
    user: str
    grant: str
    rows: int
    answers: int
    members: int
    last: int
    at: str

    def as_json(self) -> dict[str, Any]:
        """The day as an answer gives it."""
        return asdict(self)


def queue(engine: sa.Engine, volume: Sequence[Day] | None = None) -> list[Item]:
    """What is not signed off, in the order of `KINDS`, the newest first within each.

    `volume` is what `days` gives, for a caller who has it.
    """
    signed = set(_signed(engine))
    with engine.connect() as connection:
        found = [
            *_break_glass(connection),
            *_other_alerts(connection),
            *_denials(connection),
            *_first_uses(connection),
        ]
    found += unusual(days(engine) if volume is None else volume)
    newest = sorted((item for item in found if item.id not in signed), key=lambda item: -item.last)
    order = {letter: place for place, letter in enumerate(KINDS)}
    return sorted(newest, key=lambda item: order[item.id[0]])


def check_sign_off(items: Sequence[Item], id: str, auditor: str, note: str) -> Item:
    """The item that this sign-off ends. Raises NothingToSign, SignOffRefused."""
    item = next((item for item in items if item.id == id.strip().upper()), None)
    if item is None:
        raise NothingToSign(
            "The review queue has no such item now.",
            hint="It may have grown or be signed: look at the queue again.",
        )
    if item.user == auditor or (item.user.startswith(OPERATOR) and auditor.startswith(OPERATOR)):
        raise SignOffRefused(
            "Nobody signs off what she did herself.",
            hint="Ask another auditor.",
            code="own-matter",
            http_status=403,
        )
    if item.kind == "break-glass" and len(note.strip()) < SHORTEST_NOTE:
        raise SignOffRefused(
            "A break-glass is signed off with a note.",
            hint=f"Say in {SHORTEST_NOTE} characters or more what you found.",
        )
    return item


def days(engine: sa.Engine) -> list[Day]:
    """One row per day, person and grant with an answered read, in order of time."""
    columns = {c.name: c for c in readable(engine)}
    day, caller = sa.func.substr(audit_event.c.at, 1, 10).label("day"), person()
    query = (
        sa.select(
            day,
            caller.label("person"),
            audit_event.c.grant,
            sa.func.coalesce(sa.func.sum(audit_event.c.rows), 0).label("rows"),
            sa.func.count().label("answers"),
            sa.func.count(columns["subject"].distinct()).label("members"),
            sa.func.max(audit_event.c.seq).label("last"),
            sa.func.max(audit_event.c.at).label("at"),
        )
        .where(audit_event.c.event == "ended")
        .group_by(day, caller, audit_event.c.grant)
        .order_by(day)
    )
    with engine.connect() as connection:
        return [
            Day(day, user or "", grant or "", int(rows), int(answers), int(members), int(last), at)
            for day, user, grant, rows, answers, members, last, at in connection.execute(query)
        ]


def unusual(found: Sequence[Day]) -> Iterator[Item]:
    """The days on which somebody took far more than on her own days before, under the same grant."""
    callers: dict[tuple[str, str], list[Day]] = defaultdict(list)
    for day in found:
        callers[day.user, day.grant].append(day)
    for own in callers.values():
        for number, day in enumerate(own):
            past = own[max(0, number - PAST_DAYS) : number]
            for letter, amount, what in (
                ("V", day.rows, "rows"),
                ("L", day.members, "members asked for by id"),
            ):
                if amount <= FLOORS[letter]:
                    continue
                before = [earlier.rows if letter == "V" else earlier.members for earlier in past]
                if is_far(amount, before, FLOORS[letter]):
                    usual = statistics.median(before)
                    says = f"{amount:,} {what} on {day.day}; usual for this person under this grant: {usual:,.0f} a day."
                    yield Item(
                        f"{letter}{day.last}",
                        KINDS[letter],
                        day.at,
                        day.user,
                        day.grant,
                        says,
                        day.answers,
                        0,
                        day.last,
                    )


def is_far(amount: float, past: Sequence[float], floor: float) -> bool:
    """Whether an amount lies far above the past by the modified z-score. Never within the floor or on a short past."""
    if amount <= floor or len(past) < ENOUGH_DAYS:
        return False
    usual = statistics.median(past)
    spread = statistics.median([abs(value - usual) for value in past])
    return 0.6745 * (amount - usual) > FAR * max(spread, LEAST_SPREAD * usual, LEAST_SPREAD * floor)


def _break_glass(connection: sa.Connection) -> Iterator[Item]:
    """One item per access, with the looks by it: a later look brings a signed one back."""
    e, subject = audit_event.c, {c.name: c for c in readable(connection.engine)}["subject"]
    query = sa.select(
        e.seq, e.at, e.event, e.user, e.grant, e.code, e.reason, e.detail, e.statement, subject
    ).where(e.event.in_(BREAK_GLASS))
    accesses: dict[tuple[Any, ...], list[Any]] = defaultdict(list)
    for row in connection.execute(query.order_by(e.seq)):
        accesses[row.user, row.grant, row.subject, row.statement].append(row)
    for rows in accesses.values():
        first, last = rows[0], rows[-1]
        said = " · ".join(filter(None, (first.code, first.reason, first.detail))) or "no reason"
        looks = sum(row.event != BREAK_GLASS[0] for row in rows)
        says = f"Opened one member's record by break-glass: {said.rstrip('.')}. Looked at it {looks:,} time{'' if looks == 1 else 's'}."
        yield Item(
            f"B{last.seq}",
            KINDS["B"],
            last.at,
            first.user or "",
            first.grant or "",
            says,
            looks,
            first.seq,
            last.seq,
        )


def _other_alerts(connection: sa.Connection) -> Iterator[Item]:
    e = audit_event.c
    kinds = sorted(ALERTS - set(BREAK_GLASS))
    query = sa.select(e.seq, e.at, e.event, e.user, e.grant, e.reason).where(e.event.in_(kinds))
    for row in connection.execute(query):
        says = f"{row.event}: {row.reason or 'see the event'}"
        yield Item(
            f"A{row.seq}", KINDS["A"], row.at, row.user or "", row.grant or "", says, 1, row.seq, row.seq
        )


def _denials(connection: sa.Connection) -> Iterator[Item]:
    e = audit_event.c
    day = sa.func.substr(e.at, 1, 10)
    caller = person()
    same = (day, caller, e.grant, e.code)
    reasons: dict[tuple[Any, ...], list[str]] = {}
    told = sa.select(*same, e.reason).where(e.event.in_(DENIALS), e.reason.is_not(None))
    for *key, reason in connection.execute(
        told.group_by(*same, e.reason).order_by(sa.func.count().desc(), e.reason)
    ):
        reasons.setdefault(tuple(key), []).append(reason)
    query = (
        sa.select(
            day.label("day"),
            caller.label("user"),
            e.grant,
            e.code,
            sa.func.count().label("times"),
            sa.func.min(e.seq).label("first"),
            sa.func.max(e.seq).label("last"),
            sa.func.max(e.at).label("at"),
        )
        .where(e.event.in_(DENIALS))
        .group_by(*same)
    )
    for row in connection.execute(query):
        why = reasons.get((row.day, row.user, row.grant, row.code)) or [row.code or "no reason"]
        more = f" And {len(why) - REASONS_SHOWN:,} more reasons." if len(why) > REASONS_SHOWN else ""
        says = f"Refused {row.times:,} time{'' if row.times == 1 else 's'}: {' '.join(why[:REASONS_SHOWN])}{more}"
        yield Item(
            f"D{row.last}",
            KINDS["D"],
            row.at,
            row.user or "",
            row.grant or "",
            says,
            row.times,
            row.first,
            row.last,
        )


def _first_uses(connection: sa.Connection) -> Iterator[Item]:
    e, caller = audit_event.c, person()
    first = (
        sa.select(sa.func.min(e.seq).label("seq"))
        .where(e.event == "admitted", e.user != BROKER)
        .group_by(caller, e.grant)
        .subquery()
    )
    query = sa.select(e.seq, e.at, e.user, caller.label("person"), e.grant, e.purpose, e.channel).join(
        first, e.seq == first.c.seq
    )
    for row in connection.execute(query):
        purpose = (row.purpose or "no purpose").replace("_", " ")
        says = f"First read of this person under this grant, for {purpose}, on the channel {row.channel}."
        if row.person != row.user:
            says += f" It was asked as {row.user}."
        yield Item(
            f"F{row.seq}", KINDS["F"], row.at, row.person or "", row.grant or "", says, 1, row.seq, row.seq
        )


def _signed(engine: sa.Engine) -> Iterator[str]:
    query = sa.select(audit_event.c.detail).where(audit_event.c.event == SIGNED)
    with engine.connect() as connection:
        for detail in connection.scalars(query):
            yield str(json.loads(detail)["item"])
