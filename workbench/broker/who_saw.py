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
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

import duckdb
import sqlalchemy as sa

from workbench.broker.audit_chain import audit_event, readable
from workbench.broker.audit_marks import CAPPED, Marks, Wanted
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
_READ = ("seq", "at", "event", "query_id", "user", "grant", "purpose", "channel", "slice", "statement", "tables",
         "rows", "bytes", "outcome", "code", "members", "subject", "returned")  # fmt: skip


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
    """All reads of one caller under one grant that say the same of the member. `says` is a sentence for people."""

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
    ids = [member_id, *_tokens(engine, state / "vault", member_id)]
    wanted, slices = marks.wanted(ids), _Slices(lake, member_id, ids)
    lines: dict[tuple[object, ...], Sighting] = {}
    reports: dict[str, tuple[Grade, str]] = {}
    for event, grade, says in _reads(engine, wanted, slices, reports, before):
        key = (grade, says, *(event[name] for name in ("user", "grant", "purpose", "channel", "slice")))
        line = lines.get(key)
        if line is None:
            line = lines[key] = Sighting(
                grade,
                says,
                user=event["user"] or "",
                grant=event["grant"] or "",
                purpose=event["purpose"] or "",
                channel=event["channel"] or "",
                slice=event["slice"] or "",
                first=event["at"],
            )
        line.last, line.times = event["at"], line.times + 1
        line.events = [*line.events, event["seq"]][-SHOWN_EVENTS:]
    newest = sorted(lines.values(), key=lambda line: line.last, reverse=True)
    return sorted(newest, key=lambda line: (line.grade, line.says.endswith(NO_RECORD)))


def _reads(
    engine: sa.Engine,
    wanted: Wanted,
    slices: _Slices,
    reports: dict[str, tuple[Grade, str]],
    before: int | None,
) -> Iterator[tuple[Mapping[str, Any], Grade, str]]:
    """Each event that says something of the member, with its grade and words."""
    running: dict[str, Mapping[str, Any]] = {}
    for event in _events(engine, before):
        kind, query = event["event"], event["query_id"] or ""
        if kind == "admitted":
            running[query] = event
            continue
        if kind == "report-viewed":
            if event["grant"] in reports:
                grade, _ = reports[event["grant"]]
                yield (
                    event,
                    max(grade, Grade.MAY),
                    "Read a stored report whose runs took answers from a slice with this member.",
                )
            continue
        admission = running.pop(query, None) if kind == "ended" else None
        if admission and event["code"] == BROKER_ENDED["code"]:
            found = _cut_short(admission, wanted, slices)
        else:
            found = _ended(event, admission, wanted, slices) if admission else _alone(event, wanted)
        if found is not None:
            if admission and event["channel"] == RUN_OF_A_REPORT:
                earlier = reports.get(event["grant"])
                reports[event["grant"]] = min(filter(None, (earlier, found)))
            yield event, *found
    for admission in running.values():
        found = _cut_short(admission, wanted, slices)
        if found is not None:
            yield admission, *found


def _alone(event: Mapping[str, Any], wanted: Wanted) -> tuple[Grade, str] | None:
    """What an event says that is no end of a read: a refusal, a break-glass, a look into this very list."""
    named = event["subject"] in wanted.subjects
    if event["event"] == "refused":
        if named or wanted.named(event["statement"] or ""):
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
    }.get(event["event"], f"Event {event['event']} on this member; the log has its details.")


def _ended(
    event: Mapping[str, Any], admission: Mapping[str, Any], wanted: Wanted, slices: _Slices
) -> tuple[Grade, str] | None:
    """What a finished read says. The surest thing that is known of it counts."""
    rows, said = int(event["rows"] or 0), admission["statement"] or ""
    inside = wanted.returned(event["returned"]) if event["returned"] else False
    gone = inside is None
    if admission["subject"] is not None:
        if admission["subject"] not in wanted.subjects:
            return None
        shown = "and got an answer" if rows else "and got no rows"
        return Grade.NAMED, f"Asked for this member by id {shown}."
    if wanted.named(said):
        shown = "; the answer shows the id" if inside else "" if rows else "; the answer had no rows"
        return Grade.NAMED, f"Wrote this member's id into a statement{shown}."
    if inside:
        return Grade.RETURNED, "Got an answer with this member in it."
    tables = _tables(admission["tables"])
    kept = slices.has(event["slice"])
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
    return _inside_the_slice(dict(event) | {"returned": None} if gone else event, tables, rows)


def _inside_the_slice(event: Mapping[str, Any], tables: frozenset[str], rows: int) -> tuple[Grade, str]:
    """The member was in the slice and is not known to have been in the answer."""
    if event["outcome"] != "answered" and event["bytes"]:
        return (
            Grade.MAY,
            "Got the beginning of an answer that broke off: it cannot be told whose rows had left.",
        )
    if event["channel"] == BULK and rows and MEMBER in tables:
        return Grade.RETURNED, "Took the whole table of members of a slice with this member in it."
    if event["channel"] == BULK and rows:
        return Grade.MAY, "Took a whole table of a slice with this member in it."
    if not rows:
        return Grade.POSSIBLE, "Asked a slice with this member in it; the answers had no rows."
    reference = event["returned"]
    if reference and not reference.endswith(CAPPED):
        return (
            Grade.POSSIBLE,
            "Asked a slice with this member in it; the id stood in plain in none of these answers.",
        )
    if event["members"] and not reference:
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


def _cut_short(admission: Mapping[str, Any], wanted: Wanted, slices: _Slices) -> tuple[Grade, str] | None:
    """What a read says whose end is not in the log: it runs still, or the broker died in it."""
    if admission["subject"] in wanted.subjects or wanted.named(admission["statement"] or ""):
        return Grade.NAMED, "Asked for this member by id; how that ended is not in the log."
    tables = _tables(admission["tables"])
    if (
        admission["subject"] is not None
        or not tables & member_tables()
        or slices.has(admission["slice"]) is False
    ):
        return None
    return Grade.MAY, "Began to read a slice with this member in it; how that ended is not in the log."


def _events(engine: sa.Engine, before: int | None) -> Iterator[Mapping[str, Any]]:
    kinds = ("admitted", "ended", "refused", "report-viewed")
    columns = {c.name: c for c in readable(engine) if c.name in _READ}
    query = sa.select(*columns.values()).where(
        sa.or_(audit_event.c.event.in_(kinds), columns["subject"].is_not(None))
    )
    if before is not None:
        query = query.where(audit_event.c.seq < before)
    with engine.connect() as connection:
        rows = connection.execution_options(yield_per=2_000).execute(query.order_by(audit_event.c.seq))
        for row in rows:
            yield dict(row._mapping)


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
    """Whether the member is in a slice, by the lake's list of its members, or by the slice where it has none yet."""

    def __init__(self, lake: Path, member_id: str, ids: list[str]):
        self._lake, self._member, self._ids = lake, member_id, ids
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
            return _any_in([listed], "member_id", [self._member])
        try:
            cut = open_slice(self._lake, slice_id)
        except UnknownSlice:
            return None
        return self._in_the_slice(cut)

    def _in_the_slice(self, cut: Slice) -> bool | None:
        if MEMBER not in cut.manifest["tables"]:
            return None
        return _any_in(cut.parts(MEMBER), "member_id", self._ids)


def _any_in(files: list[Path], column: str, ids: list[str]) -> bool:
    with duckdb.connect() as con:
        query = f"SELECT count(*) FROM read_parquet($files) WHERE {column} IN (SELECT unnest($ids))"
        return bool(con.execute(query, {"files": [str(f) for f in files], "ids": ids}).fetchone()[0])
