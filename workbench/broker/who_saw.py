"""Who saw a member: every read of the log that may have shown her, graded by how sure that is.

    named        asked for by her id (or the token that stands for it), whether she was in the answer or not
    returned     her id or token was in an answer
    may          an answer of which cannot be told whose rows it held
    possible     she was in the slice, and the answer did not show her by id

The log holds marks, no ids. A member's marks are made from her id and from her token in every namespace of the vault.
Who was in a slice stands in the lake's list of its members, which outlives the slice. An answer's list tells whose ids
left in plain; a caller who disguises them leaves a line of grade `possible` or `may`, never none.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import sqlalchemy as sa

from workbench.broker.audit_chain import audit_event, readable
from workbench.broker.audit_marks import CAPPED, Marks, Wanted
from workbench.broker.audit_read import person
from workbench.broker.published_slice import Slice, UnknownSlice, members_file, open_slice
from workbench.broker.said import BROKER_ENDED
from workbench.broker.vault import parts
from workbench.schema import IdentifierClass, dictionary

MEMBER = "member"
BULK = "feed"
"""The channel that hands out whole tables."""
NO_RECORD = "no record was shown."
"""Ends what is said of an event that speaks of the member and showed nothing; these come last among the named."""
RUN_OF_A_REPORT = "report"
"""The channel on which a report's run asks; who reads its output reads what those answers held."""
SHOWN_EVENTS = 20
"""Numbers of events that a line carries; the rest are counted."""


class _Event(NamedTuple):
    """What is read of an event: the columns of these names, and who really asked."""

    seq: int
    at: str
    event: str
    query_id: str | None
    user: str | None
    grant: str | None
    purpose: str | None
    channel: str | None
    slice: str | None
    statement: str | None
    tables: str | None
    rows: int | None
    bytes: int | None
    outcome: str | None
    code: str | None
    members: int | None
    subject: str | None
    returned: str | None
    person: str | None


class Grade(IntEnum):
    """How sure it is that the member was seen; a smaller number is surer."""

    NAMED = 1
    RETURNED = 2
    MAY = 3
    POSSIBLE = 4

    @property
    def words(self) -> str:
        """The grade as people say it."""
        return {1: "named", 2: "returned", 3: "may have been returned", 4: "possible"}[self]


@dataclass
class Sighting:
    """All reads of one caller under one grant that say the same of the member. `says` is a sentence for people.

    `user` is who really asked: an operator, where she did in a user's name, whom `says` then names.
    """

    grade: Grade
    says: str
    user: str
    grant: str
    purpose: str
    channel: str
    slice: str
    first: str = ""
    last: str = ""
    times: int = 0
    events: list[int] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The line as an answer gives it."""
        return {**asdict(self), "grade": self.grade.words}


def who_saw(
    engine: sa.Engine, lake: Path, state: Path, marks: Marks, member_id: str, *, before: int | None = None
) -> list[Sighting]:
    """The lines on one member, the surest first, then the newest. It reads the log, the vault and the lake's lists."""
    lines: dict[tuple[object, ...], Sighting] = {}
    for event, grade, says in _sightings(engine, lake, state, marks, member_id, before):
        if event.person != event.user:
            says = f"As {event.user}: {says}"
        key = (grade, says, event.person, event.grant, event.purpose, event.channel, event.slice)
        line = lines.get(key)
        if line is None:
            line = lines[key] = Sighting(
                grade,
                says,
                user=event.person or "",
                grant=event.grant or "",
                purpose=event.purpose or "",
                channel=event.channel or "",
                slice=event.slice or "",
                first=event.at,
            )
        line.last, line.times = event.at, line.times + 1
        line.events = [*line.events, event.seq][-SHOWN_EVENTS:]
    newest = sorted(lines.values(), key=lambda line: line.last, reverse=True)
    return sorted(newest, key=lambda line: (line.grade, line.says.endswith(NO_RECORD)))


def _sightings(
    engine: sa.Engine, lake: Path, state: Path, marks: Marks, member_id: str, before: int | None
) -> Iterator[tuple[_Event, Grade, str]]:
    ids = [member_id, *_tokens(engine, state / "vault", member_id)]
    with duckdb.connect() as con:
        yield from _reads(engine, marks.wanted(ids), _Slices(con, lake, ids), before)


def _reads(
    engine: sa.Engine,
    wanted: Wanted,
    slices: _Slices,
    before: int | None,
) -> Iterator[tuple[_Event, Grade, str]]:
    """Each event that says something of the member, with its grade and words."""
    running: dict[str, _Event] = {}
    reports: dict[str | None, tuple[Grade, str]] = {}
    for event in _events(engine, wanted, before):
        kind, query = event.event, event.query_id or ""
        if kind == "admitted":
            running[query] = event
            continue
        if kind == "report-viewed":
            if (seen := reports.get(event.grant)) is not None:
                grade, _ = seen
                yield (
                    event,
                    max(grade, Grade.MAY),
                    "Read a stored report whose runs took answers from a slice with this member.",
                )
            continue
        admission = running.pop(query, None) if kind == "ended" else None
        if admission and event.code == BROKER_ENDED["code"]:
            found = _cut_short(admission, wanted, slices)
        else:
            found = _ended(event, admission, wanted, slices) if admission else _alone(event, wanted)
        if found is not None:
            if admission and event.channel == RUN_OF_A_REPORT:
                earlier = reports.get(event.grant)
                reports[event.grant] = min(filter(None, (earlier, found)))
            yield event, *found
    for admission in running.values():
        found = _cut_short(admission, wanted, slices)
        if found is not None:
            yield admission, *found


def _alone(event: _Event, wanted: Wanted) -> tuple[Grade, str] | None:
    """What an event says that is no end of a read: a refusal, a break-glass, a look into this very list."""
    named = event.subject in wanted.subjects
    if event.event == "refused":
        if named or wanted.named(event.statement or ""):
            return Grade.NAMED, "Asked for this member by id and was refused: nothing was shown."
        return None
    if not named:
        return None
    return Grade.NAMED, {
        "break-glass": "Opened this member's record by break-glass.",
        "break-glass-read": "Read this member's record by break-glass.",
        "break-glass-ended": "The break-glass on this member ended.",
        "audit-who-saw": f"Asked who saw this member; {NO_RECORD}",
        "consent-given": f"Recorded a consent of this member; {NO_RECORD}",
        "consent-revoked": f"Recorded that this member revoked a consent; {NO_RECORD}",
        "policy-explained": f"An operator asked what somebody may see of this member; {NO_RECORD}",
    }.get(event.event, f"Event {event.event} on this member; the log has its details.")


def _ended(event: _Event, admission: _Event, wanted: Wanted, slices: _Slices) -> tuple[Grade, str] | None:
    """What a finished read says. The surest thing that is known of it counts."""
    rows, said = int(event.rows or 0), admission.statement or ""
    inside = wanted.returned(event.returned) if event.returned else False
    gone = inside is None
    if admission.subject is not None:
        if admission.subject not in wanted.subjects:
            return None
        shown = "and got an answer" if rows else "and got no rows"
        return Grade.NAMED, f"Asked for this member by id {shown}."
    if wanted.named(said):
        shown = "; the answer shows the id" if inside else "" if rows else "; the answer had no rows"
        return Grade.NAMED, f"Wrote this member's id into a statement{shown}."
    if inside:
        return Grade.RETURNED, "Got an answer with this member in it."
    tables = _tables(admission.tables)
    kept = slices.has(event.slice)
    if kept is False or not (tables & member_tables() or said.startswith("tabulate ")):
        return None
    if kept is None:
        return (
            Grade.POSSIBLE,
            "Asked a slice whose list of members is gone: it cannot be ruled out that the member was in it.",
        )
    if said.startswith("tabulate "):
        return (
            Grade.POSSIBLE,
            "Got tables counted over many members, this one among them; small cells are hidden, no member is shown.",
        )
    return _inside_the_slice(event._replace(returned=None) if gone else event, tables, rows)


def _inside_the_slice(event: _Event, tables: frozenset[str], rows: int) -> tuple[Grade, str]:
    """The member was in the slice and is not known to have been in the answer."""
    if event.outcome != "answered" and event.bytes:
        return (
            Grade.MAY,
            "Got the beginning of an answer that broke off: it cannot be told whose rows had left.",
        )
    if event.channel == BULK and rows and MEMBER in tables:
        return Grade.RETURNED, "Took the whole table of members of a slice with this member in it."
    if event.channel == BULK and rows:
        return Grade.MAY, "Took a whole table of a slice with this member in it."
    if not rows:
        return Grade.POSSIBLE, "Asked a slice with this member in it; the answers had no rows."
    reference = event.returned
    if reference and not reference.endswith(CAPPED):
        return (
            Grade.POSSIBLE,
            "Asked a slice with this member in it; the id stood in plain in none of these answers.",
        )
    if event.members and not reference:
        return (
            Grade.MAY,
            "Got an answer whose list of members is not in the log: it cannot be told whether this one was in it.",
        )
    if reference:
        return (
            Grade.MAY,
            "Got an answer with more members than the log keeps; this one is not among those kept.",
        )
    return (
        Grade.MAY,
        "Got figures or rows from records of members without their ids: it cannot be told whose.",
    )


def _cut_short(admission: _Event, wanted: Wanted, slices: _Slices) -> tuple[Grade, str] | None:
    """What a read says whose end is not in the log: it runs still, or the broker died in it."""
    if admission.subject in wanted.subjects or wanted.named(admission.statement or ""):
        return Grade.NAMED, "Asked for this member by id; how that ended is not in the log."
    tables = _tables(admission.tables)
    if admission.subject is not None or not tables & member_tables() or slices.has(admission.slice) is False:
        return None
    return Grade.MAY, "Began to read a slice with this member in it; how that ended is not in the log."


def _events(engine: sa.Engine, wanted: Wanted, before: int | None) -> Iterator[_Event]:
    """The events that may say something of the member, in order.

    A read that asked for another member by id says nothing of this one: its statement is a fixed word.
    """
    there, event = {c.name: c for c in readable(engine)}, audit_event.c.event
    reads = sa.and_(event.in_(("admitted", "ended", "report-viewed")), there["subject"].is_(None))
    about = sa.or_(reads, event == "refused", there["subject"].in_(wanted.subjects))
    query = sa.select(*(there[name] for name in _Event._fields[:-1]), person().label("person")).where(about)
    if before is not None:
        query = query.where(audit_event.c.seq < before)
    with engine.connect() as connection:
        rows = connection.execution_options(yield_per=2_000).execute(query.order_by(audit_event.c.seq))
        yield from map(_Event._make, rows)


@functools.lru_cache(10_000)
def _tables(text: str | None) -> frozenset[str]:
    return frozenset(json.loads(text or "[]"))


@functools.cache
def member_tables() -> frozenset[str]:
    """The tables whose rows belong to members."""
    return frozenset(
        name
        for name, table in dictionary().items()
        if any(c.identifier_class == IdentifierClass.MEMBER_KEY for c in table.columns.values())
    )


def _tokens(engine: sa.Engine, folder: Path, member_id: str) -> list[str]:
    """The member's token in every namespace that has one for her."""
    if not sa.inspect(engine).has_table(parts.name):
        return []
    with engine.connect() as connection:
        files = [
            folder / file
            for file in connection.scalars(sa.select(parts.c.file).where(parts.c.kind == MEMBER))
        ]
    there = [str(file) for file in files if file.is_file()]
    if not there:
        return []
    with duckdb.connect() as con:
        query = (
            "SELECT DISTINCT lower(hex(token)) FROM read_parquet($files) WHERE original = $member ORDER BY 1"
        )
        return [token for (token,) in con.execute(query, {"files": there, "member": member_id}).fetchall()]


class _Slices:
    """Whether the member is in a slice, by the lake's list of its members, or by the slice where it has none yet.

    The first of `ids` is the release's, the others are tokens.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, lake: Path, ids: list[str]):
        self._con, self._lake, self._member, self._ids = con, lake, ids[0], ids
        self._known: dict[str, bool | None] = {}

    def has(self, slice_id: str | None) -> bool | None:
        """None where nobody can tell any more."""
        if not slice_id:
            return None
        if slice_id not in self._known:
            self._known[slice_id] = self._look(slice_id)
        return self._known[slice_id]

    def _look(self, slice_id: str) -> bool | None:
        listed = members_file(self._lake, slice_id)
        if listed.is_file():
            return self._any_in([listed], [self._member])
        try:
            cut = open_slice(self._lake, slice_id)
        except UnknownSlice:
            return None
        return self._in_the_slice(cut)

    def _in_the_slice(self, cut: Slice) -> bool | None:
        if MEMBER not in cut.manifest["tables"]:
            return None
        return self._any_in(cut.parts(MEMBER), self._ids)

    def _any_in(self, files: list[Path], ids: list[str]) -> bool:
        wanted = ", ".join("?" * len(ids))
        query = f"SELECT count(*) FROM read_parquet(?) WHERE member_id IN ({wanted})"
        found = self._con.execute(query, [[str(file) for file in files], *ids]).fetchall()
        return bool(found[0][0])
