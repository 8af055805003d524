"""Slice builds at each level, against a plain COPY of the same members' rows out of the same release."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Figure, plain_duckdb, throughput
from benchmarks.world import HARBOUR, TENTH, TENTH_LIMITED, TENTH_ORDINARY, World, say
from workbench.broker.grants import Grant, GrantBook
from workbench.broker.slices import Slice, ensure
from workbench.broker.state import State
from workbench.broker.vault import Vault
from workbench.lake.release import Release
from workbench.schema import dictionary

TURNS = 3
MOST = 2.0


def run(where: World) -> list[Figure]:
    """Rows a second of each level. Safe Harbor must be state-wide, so it is measured on a release of a tenth."""
    tenth, plans = where.tenth(), "two plans, 10 % of the members"
    return [
        _level(where, TENTH, plans),
        _level(where, TENTH_ORDINARY, plans, "identified, no sensitive categories", told=True),
        _level(where, TENTH_LIMITED, plans),
        _level(tenth, HARBOUR, f"the whole of a release of {tenth.members:,} members"),
    ]


def _level(where: World, name: str, about: str, title: str = "", told: bool = False) -> Figure:
    """In turns; the first build of an agreement draws its tokens, and stands in the note alone."""
    release = where.release()
    work = Path(tempfile.mkdtemp(prefix="building-", dir=where.folder))
    samples: dict[str, list[float]] = {"ours": [], "alternative": []}
    rows = 0
    try:
        where.grants(work / "grants")
        grant = GrantBook.load(work / "grants").get(name)
        state = State(f"sqlite:///{work / 'broker.sqlite'}", work / "state")
        vault = Vault(state)
        for turn in range((1 if told else TURNS) + 1):
            say(f"{title or grant.level}, turn {turn}")
            start = time.perf_counter()
            built = ensure(release, grant, vault, work / "lake")
            samples["ours"].append(time.perf_counter() - start)
            seconds, rows = _copy(release, grant, built, work / "copy")
            samples["alternative"].append(seconds)
            shutil.rmtree(work / "lake")
            shutil.rmtree(work / "copy")
        state.close()
    finally:
        shutil.rmtree(work, ignore_errors=True)
    first = samples["ours"].pop(0)
    samples["alternative"].pop(0)
    note = f"{about}: {rows:,} rows; the first build of an agreement, tokens drawn: {rows / first / 1e6:.2f} M rows/s"
    return throughput(
        f"slice build, {title or grant.level}",
        rows,
        samples,
        "COPY of the same members' rows, zstd",
        None if told else MOST,
        note,
    )


def _copy(release: Release, grant: Grant, built: Slice, folder: Path) -> tuple[float, int]:
    """Seconds and rows of copying the slice's tables, and of each the rows of the slice's members."""
    folder.mkdir()
    rows = 0
    start = time.perf_counter()
    with plain_duckdb() as con:
        con.execute(f"CREATE TABLE mine AS {_members(release, grant)}")
        for table in built.tables():
            mine = (
                "SEMI JOIN mine USING (member_id)"
                if grant.organisation.ids and dictionary()[table].has_member
                else ""
            )
            copied = con.execute(
                f"COPY (SELECT * FROM {release.relation(table)} {mine}) TO '{folder / table}.parquet' "
                "(FORMAT parquet, COMPRESSION zstd)"
            ).fetchall()
            rows += int(copied[0][0])
    return time.perf_counter() - start, rows


def _members(release: Release, grant: Grant) -> str:
    listed = ", ".join(f"'{plan}'" for plan in grant.organisation.ids) or "NULL"
    return (
        f"SELECT DISTINCT member_id FROM {release.relation('attribution')} WHERE relation = 'mcp' AND "
        f"organisation_id IN ({listed}) AND DATE '{release.as_of}' BETWEEN start_date AND coalesce(end_date, DATE '9999-12-31')"
    )
