"""Buckets: ranges of members that a slice's parts follow, so that a changed consent rewrites a few parts and no more.

A release keeps its tables of members in parts, one range of members each. A bucket is one such range or several
neighbours, until a slice has enough members in it; so each part of the release is read for one bucket only.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from workbench.lake.release import Release
from workbench.schema import dictionary

MEMBERS_PER_BUCKET = 20_000
"""Members of the slice in a bucket, at least, but for the last: enough rows for row groups of the usual size."""


@dataclass(frozen=True)
class Bucket:
    """One range of members: its number, and the release's parts that it is read from (None: all of them)."""

    number: int
    parts: tuple[int, ...] | None


def fill_buckets(con: duckdb.DuckDBPyConnection, release: Release) -> tuple[Bucket, ...]:
    """Gives every row of `permitted` its bucket; the buckets follow from the release and the permitted members alone."""
    firsts = _firsts(release)
    if len(firsts) < 2:
        return (Bucket(0, None),)
    edges = pa.table({"part": list(range(len(firsts))), "first": list(firsts)})
    con.register("given_edges", edges)
    con.execute(
        "CREATE TABLE member_part AS SELECT p.member_id, coalesce(e.part, 0) AS part "
        "FROM permitted p ASOF LEFT JOIN given_edges e ON p.member_id >= e.first"
    )
    con.unregister("given_edges")
    counted = dict(con.execute("SELECT part, count(*) FROM member_part GROUP BY part").fetchall())
    groups: list[list[int]] = [[]]
    members = 0
    for part in range(len(firsts)):
        if members >= MEMBERS_PER_BUCKET:
            groups.append([])
            members = 0
        groups[-1].append(part)
        members += counted.get(part, 0)
    buckets = tuple(Bucket(number, tuple(parts)) for number, parts in enumerate(groups))
    cases = " ".join(
        f"WHEN part <= {bucket.parts[-1]} THEN {bucket.number}" for bucket in buckets if bucket.parts
    )
    con.execute(
        f"CREATE OR REPLACE TABLE permitted AS SELECT p.* REPLACE (CASE {cases} END::INTEGER AS bucket) "
        "FROM permitted p JOIN member_part m ON m.member_id = p.member_id"
    )
    con.execute("DROP TABLE member_part")
    return buckets


def bucket_of_member(con: duckdb.DuckDBPyConnection, release: Release) -> Bucket:
    """The only bucket of a slice of one member: just the parts that this member's rows are in."""
    firsts = _firsts(release)
    if len(firsts) < 2:
        return Bucket(0, None)
    row = con.execute("SELECT member_id FROM permitted").fetchone()
    part = sum(row is not None and first <= row[0] for first in firsts) - 1
    return Bucket(0, (max(part, 0),))


@functools.lru_cache(maxsize=16)
def _firsts(release: Release) -> tuple[str, ...]:
    """The first member of each part, where all tables of members are cut at the same members; else nothing."""
    names = [name for name in release.tables() if dictionary()[name].has_member]
    counts = {len(release.parts(name)) for name in names}
    if len(counts) != 1 or counts == {1}:
        return ()
    ranges = [("", "")] * counts.pop()
    for name in names:
        found = [_range(part) for part in release.parts(name)]
        ranges = [_both(known, new) for known, new in zip(ranges, found, strict=True)]
    if any(low == "" for low, _ in ranges):
        return ()
    apart = all(ranges[i][1] < ranges[i + 1][0] for i in range(len(ranges) - 1))
    return tuple(low for low, _ in ranges) if apart else ()


def _range(part: Path) -> tuple[str, str]:
    """The first and the last member of a part, from its row groups' statistics; empty without rows."""
    metadata = pq.read_metadata(part)
    column = metadata.schema.names.index("member_id")
    found = [metadata.row_group(group).column(column).statistics for group in range(metadata.num_row_groups)]
    known = [s for s in found if s is not None and s.has_min_max]
    return (min(str(s.min) for s in known), max(str(s.max) for s in known)) if known else ("", "")


def _both(one: tuple[str, str], other: tuple[str, str]) -> tuple[str, str]:
    if one[0] == "" or other[0] == "":
        return max(one, other)
    return min(one[0], other[0]), max(one[1], other[1])
