"""Writes the tables of a release: sorted zstd Parquet in member-bucketed parts, so that equal inputs give equal bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workbench.errors import WorkbenchError
from workbench.lake.layouts import Layout, SourceFile
from workbench.schema import Table

if TYPE_CHECKING:
    import duckdb

MEMBERS_PER_PART = 50_000
ROWS_PER_GROUP = 122_880


class KeyNotUnique(WorkbenchError):
    """A table has two rows with one key: a defect of the build."""

    code = "key-not-unique"


def sort_order(table: Table) -> list[str]:
    """Member, date, then the key: a total order, because the key is unique."""
    dates = [
        c.name
        for c in table.columns.values()
        if c.type == "DATE" and c.name not in ("birth_date", "death_date")
    ]
    first = (["member_id"] if table.has_member else []) + dates[:1]
    return first + [name for name in table.key if name not in first]


def member_ranges(con: duckdb.DuckDBPyConnection) -> list[tuple[str, str]]:
    """First and last member of each part: MEMBERS_PER_PART members in the order of their ids."""
    rows = con.execute(
        f"""SELECT min(member_id), max(member_id) FROM (
        SELECT member_id, (row_number() OVER (ORDER BY member_id) - 1) // {MEMBERS_PER_PART} AS part FROM member)
        GROUP BY part ORDER BY part"""
    ).fetchall()
    return [(first, last) for first, last in rows]


def write_table(
    con: duckdb.DuckDBPyConnection, table: Table, folder: Path, ranges: list[tuple[str, str]]
) -> dict[str, Any]:
    """Writes one table below `folder`/tables; gives its manifest entry. Raises KeyNotUnique."""
    _check_key(con, table)
    place = folder / "tables" / table.name
    place.mkdir(parents=True)
    select = ", ".join(f'CAST("{c.name}" AS {c.type}) AS "{c.name}"' for c in table.columns.values())
    order = ", ".join(f'"{name}" NULLS LAST' for name in sort_order(table))
    parts = []
    wheres = [_between(*ends) for ends in ranges] if table.has_member and len(ranges) > 1 else ["true"]
    for number, where in enumerate(wheres):
        path = place / f"part-{number:03d}.parquet"
        con.execute(
            f"""COPY (SELECT {select} FROM {table.name} WHERE {where} ORDER BY {order})
            TO {_quoted(path)} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROWS_PER_GROUP})"""
        )
        parts.append(
            {
                "file": path.relative_to(folder).as_posix(),
                "rows": pq.read_metadata(path).num_rows,
                "bytes": path.stat().st_size,
                "sha256": seal(path),
            }
        )
    return {"rows": sum(part["rows"] for part in parts), "sorted_by": sort_order(table), "parts": parts}


def write_set_aside(
    con: duckdb.DuckDBPyConnection, layout: Layout, file: SourceFile, number: int, folder: Path
) -> dict[str, Any] | None:
    """Writes the rows of one file that were set aside, each as it was sent; None where there are none."""
    if not con.execute("SELECT 1 FROM stage.set_aside WHERE source_file = ? LIMIT 1", [number]).fetchall():
        return None
    place = folder / "set_aside"
    place.mkdir(exist_ok=True)
    path = place / f"{number:03d}-{file.kind}.parquet"
    con.register("sent", _sent(con, layout, file, number))
    try:
        con.execute(
            f"""COPY (SELECT '{file.name.replace("'", "''")}' AS source, a.source_row, a.reason,
              coalesce(a.record, s.record) AS record
            FROM (SELECT source_row, reason, record FROM stage.set_aside WHERE source_file = {number}) a
            LEFT JOIN sent s ON s.source_row = a.source_row ORDER BY a.source_row)
            TO {_quoted(path)} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROWS_PER_GROUP})"""
        )
    finally:
        con.unregister("sent")
    rows = pq.read_metadata(path).num_rows
    return {"file": path.relative_to(folder).as_posix(), "rows": rows, "sha256": seal(path)}


def _sent(con: duckdb.DuckDBPyConnection, layout: Layout, file: SourceFile, number: int) -> pa.Table:
    """The records of the rows of one file that were set aside."""
    wanted = con.execute(
        "SELECT DISTINCT source_row FROM stage.set_aside WHERE source_file = ?", [number]
    ).fetchnumpy()["source_row"]
    rows = layout.records(file)
    found = [batch.filter(pc.is_in(batch["source_row"], pa.array(wanted, pa.int64()))) for batch in rows]
    return pa.Table.from_batches(found, rows.schema)


def seal(path: Path) -> str:
    """Makes a finished file durable and read-only; gives its SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
        os.fsync(handle.fileno())
    path.chmod(0o440)
    return digest.hexdigest()


def column_types(table: Table) -> Mapping[str, str]:
    """Column -> DuckDB type."""
    return {column.name: column.type for column in table.columns.values()}


def _between(first: str, last: str) -> str:
    literal = (value.replace("'", "''") for value in (first, last))
    return f"member_id BETWEEN '{next(literal)}' AND '{next(literal)}'"


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _check_key(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    key = ", ".join(f'"{name}"' for name in table.key)
    twice = con.execute(f"SELECT 1 FROM {table.name} GROUP BY {key} HAVING count(*) > 1 LIMIT 1").fetchall()
    if twice:
        raise KeyNotUnique(
            f"The table {table.name} would have two rows with one key ({', '.join(table.key)}).",
            hint="This is a defect of the build: report it with the layout.",
        )
