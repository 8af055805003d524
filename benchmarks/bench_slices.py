"""Slice builds, state-wide, at each level, against a plain COPY of the same rows."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path

import duckdb

from benchmarks import world
from benchmarks.harness import Figure
from workbench.broker.grants import GrantBook
from workbench.broker.slices import ensure
from workbench.broker.state import State
from workbench.broker.vault import Vault
from workbench.lake.release import Release

RUNS = 3


def run() -> list[Figure]:
    """Rows per second of each level: the first build of an agreement draws its tokens, later ones find them."""
    release = world.lake_release()
    work = Path(tempfile.mkdtemp(prefix="wbs", dir=world.FOLDER))
    figures = []
    try:
        world.grants(work / "grants")
        book = GrantBook.load(work / "grants")
        state = State(f"sqlite:///{work / 'broker.sqlite'}", work / "state")
        vault = Vault(state)
        for level in world.LEVELS:
            grant = book.get(f"bench-{level.replace('_', '-')}")
            ours: list[float] = []
            copies: list[float] = []
            rows = 0
            for turn in range(RUNS + 1):
                lake = work / f"lake-{level}-{turn}"
                start = time.perf_counter()
                built = ensure(release, grant, vault, lake)
                ours.append(time.perf_counter() - start)
                tables = sorted(built.tables())
                start = time.perf_counter()
                rows = _copy(release, tables, work / "copy")
                copies.append(time.perf_counter() - start)
                shutil.rmtree(lake)
                shutil.rmtree(work / "copy")
            first = ours.pop(0)
            copies.pop(0)
            mine, plain = rows / statistics.median(ours), rows / statistics.median(copies)
            note = f"{rows:,} rows; the first build of an agreement, tokens drawn: {rows / first / 1e6:.2f} M rows/s"
            figures.append(
                Figure(
                    f"slice build, {level}",
                    mine,
                    plain,
                    "COPY of the same rows, zstd",
                    "≤ 2×",
                    plain / mine,
                    plain / mine <= 2,
                    "rows/s",
                    RUNS,
                    note,
                    {"ours": ours, "alternative": copies},
                )
            )
        state.close()
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return figures


def _copy(release: Release, tables: list[str], folder: Path) -> int:
    folder.mkdir()
    con = duckdb.connect()
    rows = 0
    for table in tables:
        source = release.relation(table)
        con.execute(
            f"COPY (SELECT * FROM {source}) TO '{folder / table}.parquet' (FORMAT parquet, COMPRESSION zstd)"
        )
        found = con.execute(f"SELECT count(*) FROM {source}").fetchone()
        rows += found[0] if found else 0
    con.close()
    return rows
