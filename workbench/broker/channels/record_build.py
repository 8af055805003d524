"""The record store: one row per member with the sections of the record as JSON, made from a slice's own tables.

What the slice does not hold cannot be in it. Which sections may leave is the channel matrix's to say.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ibis
import pyarrow as pa
import pyarrow.parquet as pq

from workbench.broker.channels import matrix
from workbench.broker.channels.record_store import MEMBER, RECORD, RISK, ROWS_PER_GROUP
from workbench.broker.published_slice import Progress, Slice
from workbench.broker.slices import FromSlice
from workbench.lib import lmr
from workbench.lib.tables import Tables
from workbench.schema import dictionary

if TYPE_CHECKING:
    import duckdb

MEMBERS_PER_PART = 50_000
WITHHELD = "its source family does not leave on this channel"
NOT_GRANTED = "the grant or its level does not hold what this section is made from"
_BATCH_ROWS = 8_192
_SAME = (
    "release",
    "grant",
    "level",
    "policy",
    "dictionary",
    "as_of",
    "synthetic",
    "fitness",
    "with_consent",
)


def head(source: Slice, kind: str) -> dict[str, Any]:
    """What the manifest of something made from a slice says first."""
    same = {name: source.manifest[name] for name in _SAME if name in source.manifest}
    return {"kind": kind, "slice": source.id, "matrix": matrix.digest(), **same}


def build_record(
    con: duckdb.DuckDBPyConnection, folder: Path, source: Slice, progress: Progress
) -> dict[str, Any]:
    """Writes the record store of a slice below `folder` and returns its manifest. Members are done part by part."""
    con.execute("RESET disabled_optimizers")
    con.execute("SET preserve_insertion_order = true")
    sections, accounts = _sections(source)
    risk_query = _risk_query(source)
    tables = sorted({name for s in lmr.SECTIONS for name in s.needs} & set(source.tables()))
    ranges = _member_ranges(con, source)
    place = folder / "tables" / RECORD
    place.mkdir()
    parts, rows = [], 0
    for number, (first, last) in enumerate(ranges):
        progress("record", number, len(ranges))
        for table in tables:
            where = "WHERE member_id BETWEEN ? AND ?" if dictionary()[table].has_member else ""
            con.execute(f"DROP TABLE IF EXISTS {table}")
            con.execute(
                f"CREATE TEMP TABLE {table} AS FROM {relation(source, table)} {where}",
                [first, last] if where else [],
            )
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE in_part AS {_members(source)} WHERE member_id BETWEEN ? AND ?",
            [first, last],
        )
        path = place / f"part-{number:03d}.parquet"
        rows += _write_part(con, path, _record_query(sections, risk_query))
        parts.append(path.relative_to(folder).as_posix())
    columns = ((MEMBER, "Member"), (RECORD, "The sections, as JSON"), (RISK, "The risk tier, as JSON"))
    return {
        **head(source, "record"),
        "sections": accounts,
        "tables": {
            RECORD: {
                "grain": "one row per member",
                "about": "The longitudinal member record and the risk tier, ready to be looked up.",
                "rows": rows,
                "columns": [{"name": n, "type": "VARCHAR", "means": means} for n, means in columns],
                "parts": parts,
            }
        },
    }


def _sections(source: Slice) -> tuple[dict[str, str], dict[str, Any]]:
    """The SQL of each section that can be told, and an account of all: title, families, and why one is missing."""
    held = {name: {column for column, _, _ in columns} for name, columns in source.tables().items()}
    open_ = {name: set(matrix.permitted("lmr_api", name, columns)) for name, columns in held.items()}
    queries: dict[str, str] = {}
    accounts: dict[str, Any] = {}
    for section in lmr.SECTIONS:
        accounts[section.name] = {
            "title": section.title,
            "families": list(matrix.families(set(section.needs) - {"value_set", "organisation"})),
        }
        if any(set(columns) - held.get(name, set()) for name, columns in section.needs.items()):
            accounts[section.name]["missing"] = NOT_GRANTED
        elif any(set(columns) - open_.get(name, set()) for name, columns in section.needs.items()):
            accounts[section.name]["missing"] = WITHHELD
        else:
            queries[section.name] = _section_query(section.name, _sorted(open_, section))
    accounts |= {name: {"title": name, "missing": why} for name, why in lmr.NOT_HELD.items()}
    return queries, accounts


def _risk_query(source: Slice) -> str | None:
    """The SQL of what the Risk API tells; None where the slice has no tier, or the matrix keeps it in."""
    held = [column for column, _, _ in source.tables().get("risk_tier", [])]
    section = next(s for s in lmr.SECTIONS if s.name == "risk")
    open_ = set(matrix.permitted("risk_api", "risk_tier", held))
    if not set(section.needs["risk_tier"]) <= open_:
        return None
    return _section_query(section.name, _sorted({"risk_tier": open_}, section))


_Columns = tuple[tuple[str, tuple[str, ...]], ...]


def _sorted(columns: Mapping[str, set[str]], section: lmr.Section) -> _Columns:
    """The columns of the tables that a section reads, in the dictionary's order."""
    return tuple(
        (name, tuple(column for column in dictionary()[name].columns if column in columns[name]))
        for name in section.needs
    )


def _tables(columns: _Columns) -> Tables:
    """Unbound tables with these columns alone."""

    def table(name: str) -> Any:
        schema = dictionary()[name].arrow_schema
        kept = pa.schema([schema.field(column) for column in dict(columns)[name]])
        return ibis.table(ibis.Schema.from_pyarrow(kept), name=name)

    return Tables.from_backend(table)


@functools.cache
def _section_query(name: str, columns: _Columns) -> str:
    """A SELECT of member_id and `said`, the member's rows of a section as JSON. Kept: the compiler takes its time."""
    section = next(s for s in lmr.SECTIONS if s.name == name)
    rows = section.rows(_tables(columns))
    fields = ", ".join(f'"{name}": "{name}"' for name in rows.columns if name != MEMBER)
    order = ", ".join(
        f'"{name[1:]}" DESC NULLS LAST' if name.startswith("-") else f'"{name}"' for name in section.order
    )
    said = f"any_value({{{fields}}})" if section.one else f"list({{{fields}}} ORDER BY {order})"
    source = ibis.to_sql(rows, dialect="duckdb")
    return f"SELECT {MEMBER}, to_json({said})::VARCHAR AS said FROM ({source}) GROUP BY {MEMBER}"


def _record_query(sections: Mapping[str, str], risk_query: str | None) -> str:
    one = {section.name for section in lmr.SECTIONS if section.one}
    joins = [f"LEFT JOIN ({query}) s_{name} USING ({MEMBER})" for name, query in sections.items()]
    told = ", ',', ".join(
        f"'\"{name}\":', coalesce(s_{name}.said, '{'null' if name in one else '[]'}')" for name in sections
    )
    if risk_query is not None:
        joins.append(f"LEFT JOIN ({risk_query}) s_tier USING ({MEMBER})")
    tier = "s_tier.said" if risk_query is not None else "NULL::VARCHAR"
    return (
        f"SELECT m.{MEMBER}, concat('{{', {told or repr('')}, '}}') AS {RECORD}, {tier} AS {RISK} "
        f"FROM in_part m {' '.join(joins)} ORDER BY m.{MEMBER}"
    )


def _write_part(con: duckdb.DuckDBPyConnection, path: Path, query: str) -> int:
    """Writes one part in small row groups, which the engine's own writer cannot make."""
    schema = pa.schema([(name, pa.string()) for name in (MEMBER, RECORD, RISK)])
    reader = con.sql(query).to_arrow_reader(_BATCH_ROWS)
    rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        for batch in reader:
            writer.write_table(pa.Table.from_batches([batch]).cast(schema), row_group_size=ROWS_PER_GROUP)
            rows += batch.num_rows
    return rows


def _members(source: Slice) -> str:
    """A SELECT of the slice's members; every table of theirs is asked where it has no member table."""
    names = ["member"] if "member" in source.tables() else list(source.tables())
    asked = [f"SELECT {MEMBER} FROM {relation(source, n)}" for n in names if dictionary()[n].has_member]
    return f"SELECT {MEMBER} FROM ({' UNION '.join(asked)})"


def _member_ranges(con: duckdb.DuckDBPyConnection, source: Slice) -> list[tuple[str, str]]:
    """First and last member of each part, in the order of their ids; one empty range where there is nobody."""
    rows = con.execute(
        f"""SELECT min({MEMBER}), max({MEMBER}) FROM (
        SELECT {MEMBER}, (row_number() OVER (ORDER BY {MEMBER}) - 1) // {MEMBERS_PER_PART} AS part
        FROM ({_members(source)})) GROUP BY part ORDER BY part"""
    ).fetchall()
    return [(first, last) for first, last in rows] or [("", "")]


def relation(source: Slice, table: str) -> str:
    files = ", ".join(quoted(path) for path in source.parts(table))
    return f"read_parquet([{files}], hive_partitioning => false)"


def quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


ensure_record = FromSlice("record", build_record)
"""The record store of a grant over a release, built when it is not there."""
