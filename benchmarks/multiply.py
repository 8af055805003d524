"""A release as large as a state's, multiplied from a real synthetic one: for measuring speed, not for figures.

Every copy is a member of its own: fresh member, claim and note ids, no two alike. A member's claims are repeated in
layers, each some weeks earlier than the one before, until there are as many lines as were asked for. Rows of the
derived tables are copied with the rest and not derived anew, so what the release says of quality or risk means nothing.
Plans are halved, so that the smallest holds about 5 % of the members.

The files are as `workbench.lake.write` makes them: parts of 50,000 members, sorted by member, date and key. The work is
done part by part, each in bounded memory, and goes on where it was stopped.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from workbench.lake.release import RELEASES, Release, open_release
from workbench.lake.write import MEMBERS_PER_PART, ROWS_PER_GROUP, seal, sort_order
from workbench.schema import Column, IdentifierClass, Table, dictionary

LAYER_DAYS, COPY_DAYS = 91, 7
"""Days by which a layer of claims, and a copy of a member, lie earlier than the one before: whole weeks."""
COPY_SHIFTS = 13
LAYERS_PER_COPY = 8
"""Layers that a claim id can tell apart; its first three digits are copy and layer."""
STRIDE = 7_368_787
"""Sends neighbours in the order of ids to members that are far apart; a prime, so that none is met twice."""
ID_STEP = 9
"""Between the numbers of two members. Ids keep their length: eight digits and a letter."""
HALVES = ("east", "west")
"""A plan of the release is one half of a plan of its base."""

Say = Callable[[str], None]


def multiply(
    base: Release, lake: Path, members: int, lines: int, say: Say, *, threads: int, memory: str = "4GB"
) -> Release:
    """The release of `members` members and about `lines` claim lines in `lake`; the one that is there, if any."""
    inputs = {
        "base": base.id,
        "members": members,
        "lines": lines,
        "code": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
        "parts": MEMBERS_PER_PART,
    }
    release_id = f"{base.as_of:%Y%m%d}-{_digest(inputs)}"
    target = lake / RELEASES / release_id
    if (target / "manifest.json").is_file():
        return open_release(lake, release_id)
    work = lake / "multiplying" / release_id
    for stale in (lake / "multiplying").glob("*"):
        if stale != work:
            shutil.rmtree(stale)
    work.mkdir(parents=True, exist_ok=True)
    config = {
        "memory_limit": memory,
        "threads": str(threads),
        "temp_directory": str(lake / "multiplying" / "spill"),
    }
    with duckdb.connect(config=config) as con:
        _members(con, base, members, lines)
        tables = {name: _table(con, base, dictionary()[name], work, members, say) for name in base.tables()}
    manifest = {**base.manifest, "id": release_id, "tables": tables, "sources": [], "set_aside": []}
    manifest["origin"] = {**base.manifest["origin"], "generator": "benchmarks.multiply", "members": members}
    manifest["inputs"] = inputs
    (work / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    target.parent.mkdir(parents=True, exist_ok=True)
    work.rename(target)
    shutil.rmtree(lake / "multiplying")
    return open_release(lake, release_id)


def _digest(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]


def _members(con: duckdb.DuckDBPyConnection, base: Release, members: int, lines: int) -> None:
    """Makes `made`: one row per new member with its source, copy, number of layers, part and plan half; and `layer`."""
    plans = con.execute(f"SELECT organisation_id FROM {base.relation('organisation')} WHERE kind = 'mcp'")
    listed = ", ".join(f"'{plan}'" for (plan,) in plans.fetchall()) or "NULL"
    con.execute(
        f"CREATE MACRO halved(id, half) AS CASE WHEN id IN ({listed}) THEN id || "
        f"CASE half WHEN 0 THEN '-{HALVES[0]}' ELSE '-{HALVES[1]}' END ELSE id END"
    )
    con.execute(
        "CREATE TABLE source AS SELECT member_id, row_number() OVER (ORDER BY member_id) - 1 AS number, "
        f"coalesce(n, 0) AS lines FROM {base.relation('member')} LEFT JOIN (SELECT member_id, count(*) AS n "
        f"FROM {base.relation('medical_claim_line')} GROUP BY ALL) USING (member_id)"
    )
    sources = _one(con, "SELECT count(*) FROM source")
    assert math.gcd(STRIDE, members) == 1, "choose a number of members that the stride does not divide"
    con.execute(
        f"CREATE TABLE made AS SELECT n, n // {MEMBERS_PER_PART} AS part, s.member_id AS source, s.lines, "
        f"printf('%08d', (n + 1) * {ID_STEP}) || right(s.member_id, 1) AS member_id, "
        f"(q // {sources})::INTEGER AS copy, (n % 2)::INTEGER AS half "
        f"FROM (SELECT n, (n * {STRIDE}) % {members} AS q FROM range({members}) r(n)) "
        f"JOIN source s ON s.number = q % {sources}"
    )
    once = _one(con, "SELECT sum(lines) FROM made")
    layers = max(1.0, lines / max(once, 1))
    whole, rest = int(layers), min(1000, math.ceil((layers - int(layers)) * 1000) + 2)
    con.execute(f"ALTER TABLE made ADD COLUMN layers INTEGER DEFAULT {whole}")
    con.execute(f"UPDATE made SET layers = {whole + 1} WHERE n % 1000 < {rest}")
    assert whole < LAYERS_PER_COPY, "too many lines for so few members"
    assert -(-members // sources) * LAYERS_PER_COPY < 1000, (
        "too many copies of one member: take a larger base"
    )
    con.execute(f"CREATE TABLE layer AS SELECT i::INTEGER AS layer FROM range({whole + 1}) r(i)")


def _table(
    con: duckdb.DuckDBPyConnection, base: Release, table: Table, work: Path, members: int, say: Say
) -> dict[str, Any]:
    """Writes the parts that are not there yet; gives the table's manifest entry."""
    place = work / "tables" / table.name
    place.mkdir(parents=True, exist_ok=True)
    count = -(-members // MEMBERS_PER_PART) if table.has_member else 1
    parts = []
    for number in range(count):
        path = place / f"part-{number:03d}.parquet"
        known = work / "done" / f"{table.name}-{number:03d}.json"
        if not known.exists():
            say(f"{table.name} {number + 1}/{count}")
            query = _copies(base, table, number) if table.has_member else _whole(base, table)
            half = path.with_suffix(".half")
            half.unlink(missing_ok=True)
            con.execute(
                f"COPY ({query}) TO '{half}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROWS_PER_GROUP})"
            )
            sha256 = seal(half)
            half.rename(path)
            entry = {
                "file": path.relative_to(work).as_posix(),
                "rows": pq.read_metadata(path).num_rows,
                "bytes": path.stat().st_size,
                "sha256": sha256,
            }
            known.parent.mkdir(exist_ok=True)
            known.write_text(json.dumps(entry), encoding="utf-8")
        parts.append(json.loads(known.read_text(encoding="utf-8")))
    return {"rows": sum(p["rows"] for p in parts), "sorted_by": sort_order(table), "parts": parts}


def _copies(base: Release, table: Table, part: int) -> str:
    """The rows of one part of a table of members, in their order."""
    layered = any(c.identifier_class == IdentifierClass.CLAIM_KEY for c in table.columns.values())
    values = {c.name: _value(c, layered) for c in table.columns.values()}
    if layered and "measure_year" in values:
        values["measure_year"] = f"year({values['event_date']})"
    listed = ", ".join(
        f'CAST({value} AS {table.columns[name].type}) AS "{name}"' for name, value in values.items()
    )
    order = ", ".join(f'"{name}" NULLS LAST' for name in sort_order(table))
    return (
        f"SELECT {listed} FROM {base.relation(table.name)} s JOIN made m ON m.source = s.member_id "
        f"JOIN layer l ON l.layer < {'m.layers' if layered else '1'} WHERE m.part = {part} ORDER BY {order}"
    )


def _value(column: Column, layered: bool) -> str:
    """What a copy has in a column. Claims move in time, with their dates; what is said of members does not."""
    name = f's."{column.name}"'
    match column.identifier_class:
        case IdentifierClass.MEMBER_KEY:
            return "m.member_id"
        case IdentifierClass.CLAIM_KEY:
            code = f"printf('%03d', m.copy * {LAYERS_PER_COPY} + l.layer)"
            return f"CASE WHEN {name} IS NOT NULL THEN left({name}, 1) || {code} || substr({name}, 2) END"
        case IdentifierClass.DATE if layered:
            return f"{name} - ({LAYER_DAYS} * l.layer + {COPY_DAYS} * (m.copy % {COPY_SHIFTS}))::INTEGER"
        case IdentifierClass.ORGANISATION:
            return f"halved({name}, m.half)"
        case IdentifierClass.DIRECT if column.name == "ssn":
            return "printf('%09d', m.n)"
    return name


def _whole(base: Release, table: Table) -> str:
    """A table of no members: as it is, but for the registry, where the plans are halved."""
    rows = base.relation(table.name)
    order = ", ".join(f'"{name}"' for name in sort_order(table))
    if table.name != "organisation":
        return f"SELECT * FROM {rows} ORDER BY {order}"
    halves = f"unnest(CASE WHEN kind = 'mcp' THEN ['-{HALVES[0]}', '-{HALVES[1]}'] ELSE [''] END)"
    return (
        "SELECT * EXCLUDE (half) REPLACE (organisation_id || half AS organisation_id, "
        "name || replace(half, '-', ' ') AS name) "
        f"FROM (SELECT *, {halves} AS half FROM {rows}) ORDER BY {order}"
    )


def _one(con: duckdb.DuckDBPyConnection, query: str) -> int:
    row = con.execute(query).fetchone()
    return int(row[0] or 0) if row else 0
