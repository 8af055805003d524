"""The parts of a slice's tables: written, or taken over from the slice before; and the account of every row.

An identified slice has one part per table and bucket. A slice with tokens has one part per table: its rows are in the
order of the tokens, and no consent can change it. Parts never change, so that a part of a bucket in which no member's
consent has changed is the same file in the next slice, by a hard link.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb

from workbench.broker.buckets import Bucket
from workbench.broker.cut import ALL, CUTS, KEPT, OTHER_BASIS, OTHER_MEMBERS, OUTSIDE, PROGRAM, RECOMPUTED
from workbench.broker.cutter import MEETS, Cutter, relation_of
from workbench.broker.published_slice import Slice, take_over
from workbench.lake.release import Release
from workbench.schema import dictionary

PARQUET = "COMPRESSION zstd, COMPRESSION_LEVEL 1, PARQUET_VERSION v2"
"""Tokens do not compress; the lowest level made smaller files than the default (3), in less time. Version 2 keeps the
lengths of strings apart from their bytes, which took 8 % less time where half of the bytes are tokens."""

WRITERS = 2
"""Parts of buckets written at the same time, by one thread each: several split the row groups differently each time. A
table under tokens is written alone, by all threads: two sorts at once do not fit into a build's memory, and what is
spilled takes longer than what is gained."""


@dataclass(frozen=True)
class Account:
    """One part and what became of the release's rows: rows = rows_in - all removed + split + recomputed.

    `split`: rows more than spans, where a span was clipped into several. `recomputed`: rows computed anew in place of
    those that were removed for it.
    """

    part: str
    rows_in: int
    rows: int
    removed: dict[str, int]
    split: int
    recomputed: int
    bytes: int


@dataclass(frozen=True)
class Before:
    """The slice before, of the same lineage, and the buckets in which a member's consent has changed since."""

    slice: Slice
    changed: frozenset[int]


@contextlib.contextmanager
def writing(
    con: duckdb.DuckDBPyConnection,
    folder: Path,
    cutter: Cutter,
    tables: Mapping[str, Sequence[tuple[Bucket | None, str]]],
    before: Before | None,
) -> Iterator[dict[str, list[Future[Account]]]]:
    """Writes the tables' parts, the largest tables first; stops what still runs when this is left.

    `tables` has the buckets of each table with the SQL of their rows.
    """
    release = cutter.release
    cursors: list[duckdb.DuckDBPyConnection] = []
    own = threading.local()

    def start() -> None:
        own.con = con.cursor()
        cursors.append(own.con)

    def work(name: str, number: int, bucket: Bucket | None, query: str) -> Account:
        if before is not None and (bucket is None or number not in before.changed):
            return _part_before(before.slice, folder, name, number)
        return _write(own.con, folder, cutter, name, number, bucket, query)

    for name in tables:
        (folder / "tables" / name).mkdir()
    order = sorted(tables, key=lambda n: (-_rows(release, n, None), n))
    bucketed = any(bucket is not None for parts in tables.values() for bucket, _ in parts)
    pool = ThreadPoolExecutor(WRITERS if bucketed else 1, thread_name_prefix="slice", initializer=start)
    try:
        yield {
            name: [
                pool.submit(work, name, number, bucket, query)
                for number, (bucket, query) in enumerate(tables[name])
            ]
            for name in order
        }
    except BaseException:
        for cursor in cursors:
            cursor.interrupt()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        for cursor in cursors:
            cursor.close()


def entry_of(accounts: Sequence[Account]) -> dict[str, Any]:
    """The account of a table in the manifest: the sums over its parts, and each part's own."""
    reasons = sorted({reason for account in accounts for reason in account.removed})
    return {
        "rows_in": sum(a.rows_in for a in accounts),
        "rows": sum(a.rows for a in accounts),
        "removed": {reason: sum(a.removed.get(reason, 0) for a in accounts) for reason in reasons},
        "split": sum(a.split for a in accounts),
        "recomputed": sum(a.recomputed for a in accounts),
        "parts": [a.part for a in accounts],
        "bytes": sum(a.bytes for a in accounts),
        "accounts": [asdict(a) for a in accounts],
    }


def _part_before(slice_: Slice, folder: Path, name: str, number: int) -> Account:
    """The part of the slice before."""
    account = Account(**slice_.manifest["tables"][name]["accounts"][number])
    take_over(slice_.path / account.part, folder / account.part)
    return account


def _write(
    con: duckdb.DuckDBPyConnection,
    folder: Path,
    cutter: Cutter,
    name: str,
    number: int,
    bucket: Bucket | None,
    query: str,
) -> Account:
    part = Path("tables") / name / f"part-{number:03d}.parquet"
    target = str(folder / part).replace("'", "''")
    written = con.execute(f"COPY ({query}) TO '{target}' (FORMAT parquet, {PARQUET})").fetchall()
    rows, rows_in = int(written[0][0]), _rows(cutter.release, name, bucket)
    removed, recomputed = {}, 0
    if dictionary()[name].has_member:
        recomputed = _recomputed(con, cutter, name, bucket)
        removed = _removed(con, cutter, name, bucket, rows_in, rows)
    split = rows - (rows_in - sum(removed.values()) + recomputed)
    return Account(part.as_posix(), rows_in, rows, removed, split, recomputed, (folder / part).stat().st_size)


def _removed(
    con: duckdb.DuckDBPyConnection,
    cutter: Cutter,
    name: str,
    bucket: Bucket | None,
    rows_in: int,
    rows: int,
) -> dict[str, int]:
    """How many of the release's rows a table loses, by reason. A span that is clipped is not lost."""
    selection, cut = cutter.select(name, bucket), CUTS[name]
    release_rows = relation_of(cutter.release, name, bucket)
    if cut.clipped and cutter.own_period:
        counts = _spans_removed(con, cutter, name, bucket, release_rows, rows_in)
    elif cut.recomputed:
        counts = _results_removed(con, cutter, name, bucket, release_rows, rows_in)
        counts |= _fates(con, selection.source, selection.fate)
    elif selection.fate == KEPT:
        counts = {OTHER_MEMBERS: rows_in - rows}
    else:
        fates = _fates(con, selection.source, selection.fate)
        counts = {OTHER_MEMBERS: rows_in - rows - sum(fates.values()), **fates}
    return {reason: counts[reason] for reason in sorted(counts) if counts[reason]}


def _fates(con: duckdb.DuckDBPyConnection, source: str, fate: str) -> dict[str, int]:
    query = f"SELECT fate, count(*) FROM (SELECT {fate} AS fate FROM {source}) WHERE fate IS NOT NULL GROUP BY ALL"
    return dict(con.execute(query).fetchall())


def _spans_removed(
    con: duckdb.DuckDBPyConnection,
    cutter: Cutter,
    name: str,
    bucket: Bucket | None,
    release_rows: str,
    rows_in: int,
) -> dict[str, int]:
    theirs = _theirs(release_rows, bucket)
    met = "EXISTS (SELECT 1 FROM span x WHERE " + MEETS + ")"
    all_theirs, all_met = con.execute(f"SELECT count(*), count(*) FILTER ({met}) {theirs}").fetchall()[0]
    counts = {OUTSIDE: all_theirs - all_met, OTHER_MEMBERS: rows_in - all_theirs}
    program = cutter.hides_program(CUTS[name])
    if program is not None:
        found = con.execute(f"SELECT count(*) FILTER ({met} AND {program}) {theirs}").fetchall()
        counts[PROGRAM] = int(found[0][0])
    return counts


def _results_removed(
    con: duckdb.DuckDBPyConnection,
    cutter: Cutter,
    name: str,
    bucket: Bucket | None,
    release_rows: str,
    rows_in: int,
) -> dict[str, int]:
    """Rows of the release that are not looked at: of other members, on another basis, or of members who lost claims."""
    other_basis = f"s.basis <> '{ALL}'" if name == "measure_event" else "false"
    lost = "false"
    if cutter.drops_claims:
        lost = f"s.member_id IN (SELECT member_id FROM lost_{name})"
    query = (
        f"SELECT count(*), count(*) FILTER ({other_basis}), count(*) FILTER (NOT {other_basis} AND {lost}) "
        + _theirs(release_rows, bucket)
    )
    theirs, on_another, anew = con.execute(query).fetchall()[0]
    return {OTHER_MEMBERS: rows_in - theirs, OTHER_BASIS: on_another, RECOMPUTED: anew}


def _recomputed(con: duckdb.DuckDBPyConnection, cutter: Cutter, name: str, bucket: Bucket | None) -> int:
    if not CUTS[name].recomputed or not cutter.drops_claims:
        return 0
    query = f"SELECT count(*) {_theirs(f'recomputed_{name}', bucket)}"
    return int(con.execute(query).fetchall()[0][0])


def _theirs(relation: str, bucket: Bucket | None) -> str:
    """FROM the rows `s` of a relation that belong to the permitted members of a bucket."""
    members = "FROM permitted" if bucket is None else f"FROM permitted WHERE bucket = {bucket.number}"
    return f"FROM {relation} s SEMI JOIN ({members}) p ON p.member_id = s.member_id"


def _rows(release: Release, name: str, bucket: Bucket | None) -> int:
    """The rows that a table has in the release, in the parts of a bucket."""
    parts = release.manifest["tables"][name]["parts"]
    chosen = parts if bucket is None or bucket.parts is None else [parts[number] for number in bucket.parts]
    return sum(int(part["rows"]) for part in chosen)
