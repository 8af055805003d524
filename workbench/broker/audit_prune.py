"""Retention: what is older than the log must be kept may be taken away, and only that, and never unseen.

A pruning ends at a signed checkpoint, so that the rest still hangs on a signature of the auditors' folder. It is an
event of the chain before anything is deleted. The verifier takes a beginning that is gone for a pruning only if such
an event names its checkpoint, and the checkpoint's own signed time is older than the shortest retention: who holds
today's key can write the event, but cannot sign a checkpoint of years ago.

With the events go the lists of who was in a slice that is gone, where no event left in the log names the slice.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from workbench.broker.audit import Audit
from workbench.broker.audit_chain import PRUNED, audit_event, read_checkpoints, readable, years_before
from workbench.broker.audit_export import export
from workbench.broker.audit_marks import list_path
from workbench.broker.audit_verify import SHORTEST_YEARS, verify
from workbench.broker.published_slice import SLICES, members_file
from workbench.errors import WorkbenchError

SETTING = "WORKBENCH_AUDIT_RETENTION_YEARS"
ARCHIVE = "archive"
ROWS_AT_ONCE = 5_000
"""Deleted in one transaction, so that the writer of the log never waits long."""
LIST_SECONDS = 86_400
"""A list of members younger than this may belong to an event that is being written."""


class RetentionTooShort(WorkbenchError):
    """The setting is below what the law asks for."""

    code = "retention-too-short"
    http_status = 400


class NotPruned(WorkbenchError):
    """Nothing was taken away."""

    code = "not-pruned"
    http_status = 409


@dataclass(frozen=True)
class Pruning:
    """What was, or would be, taken away: events 1 to `through`, all older than `before`; `archive` holds them.

    `slice_lists` counts the lists of who was in a slice that go with them.
    """

    through: int
    events: int
    before: str
    slice_lists: int
    archive: Path | None = None


def retention_years() -> int:
    """For how many years an event is kept. Raises RetentionTooShort."""
    value = os.environ.get(SETTING, str(SHORTEST_YEARS))
    if not value.isdecimal() or int(value) < SHORTEST_YEARS:
        raise RetentionTooShort(
            f"{SETTING} must be a number of years, {SHORTEST_YEARS} or more.",
            hint="45 CFR 164.316(b)(2)(i) asks for six years; leave it unset for that.",
        )
    return int(value)


def plan(engine: sa.Engine, folder: Path, lake: Path, now: datetime | None = None) -> Pruning | None:
    """What may go now: up to the newest checkpoint before which every event is old enough.

    Raises RetentionTooShort, and NotPruned where the log does not verify.
    """
    before = years_before(now or datetime.now(UTC), retention_years())
    if verify(engine, folder):
        raise NotPruned(
            "The log does not verify, so nothing of it is taken away.", hint="See `workbench audit verify`."
        )
    at, seq = audit_event.c.at, audit_event.c.seq
    with engine.connect() as connection:
        first_young = connection.scalar(sa.select(sa.func.min(seq)).where(at >= before))
        for entry in reversed(read_checkpoints(folder)):
            if entry["at"] < before and (first_young is None or entry["seq"] < first_young):
                count = connection.scalar(sa.select(sa.func.count()).where(seq <= entry["seq"]))
                if not count:
                    return None
                lists = len(_unnamed(engine, lake, after=entry["seq"]))
                return Pruning(int(entry["seq"]), int(count), before, lists)
    return None


def prune(
    audit: Audit,
    engine: sa.Engine,
    lake: Path,
    *,
    user: str,
    archive: bool = True,
    now: datetime | None = None,
) -> Pruning:
    """Takes away what is old enough, after it was verified, exported and recorded. Raises NotPruned, AuditUnavailable.

    A process that dies in it leaves the event, and rows that a later pruning takes away.
    """
    found = plan(engine, audit.folder, lake, now)
    if found is None:
        raise NotPruned(
            f"Nothing is older than {retention_years()} years up to a checkpoint.",
            hint="Nothing was changed.",
        )
    names = ("through", "events", "before", "slice_lists")
    said: dict[str, object] = {name: getattr(found, name) for name in names}
    path = None
    if archive:
        place = audit.folder / ARCHIVE
        place.mkdir(mode=0o700, exist_ok=True)
        written = export(engine, place / f"through-{found.through}.jsonl", "jsonl", through=found.through)
        said |= {"sha256": written.sha256}
        path = written.path
    lists = _lists(engine, found.through)
    audit.record(PRUNED, user=user, rows=found.events, detail=json.dumps(said))
    low = 0
    while low < found.through:
        low = min(low + ROWS_AT_ONCE, found.through)
        with engine.begin() as connection:
            connection.execute(sa.delete(audit_event).where(audit_event.c.seq <= low))
    if not archive:
        _forget(audit.folder, lists - _lists(engine))
    gone = _unnamed(engine, lake)
    for listed in gone:
        listed.unlink(missing_ok=True)
    return replace(found, archive=path, slice_lists=len(gone))


def _lists(engine: sa.Engine, through: int | None = None) -> set[str]:
    column = next(c for c in readable(engine) if c.name == "returned")
    query = sa.select(column).where(column.is_not(None)).distinct()
    if through is not None:
        query = query.where(audit_event.c.seq <= through)
    with engine.connect() as connection:
        return {str(reference).rstrip("+") for reference in connection.scalars(query)}


def _forget(folder: Path, references: set[str]) -> None:
    """Removes lists that no event speaks of any more; those of an archive stay, because its events do."""
    for reference in references:
        path = list_path(folder, reference)
        if path is not None and path.exists() and _old(path):
            path.unlink(missing_ok=True)


def _unnamed(engine: sa.Engine, lake: Path, *, after: int = 0) -> list[Path]:
    """The lists of who was in a slice, where the slice is gone and no event after that number names it."""
    query = sa.select(audit_event.c.slice).where(audit_event.c.seq > after).distinct()
    with engine.connect() as connection:
        named = set(connection.scalars(query))
    return [
        path
        for path in sorted(members_file(lake, "*").parent.glob("*.parquet"))
        if path.stem not in named and not (lake / SLICES / path.stem).exists() and _old(path)
    ]


def _old(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > LIST_SECONDS
