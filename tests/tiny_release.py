"""A small release made by hand: real Parquet files in the layout of the lake, rows as dictionaries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workbench.lake.release import Release, open_release
from workbench.lib.risk import read_cuts
from workbench.schema import dictionary

RELEASE_ID = "20260131-0123456789ab"
Rows = Sequence[Mapping[str, Any]]


def write(
    lake: Path,
    tables: Mapping[str, Rows | pa.Table],
    *,
    release_id: str = RELEASE_ID,
    as_of: str = "2026-01-31",
    complete_through: str = "2025-12-31",
    cut_at: Sequence[str] = (),
) -> Release:
    """Writes the tables (the others empty) as a release of the lake. Columns that a row lacks are empty.

    `cut_at`: tables of members get a new part at each of these members.
    """
    folder = lake / "releases" / release_id
    entries = {}
    for name, spec in dictionary().items():
        rows = tables.get(name, [])
        if isinstance(rows, pa.Table):
            table = rows.select(spec.arrow_schema.names).cast(spec.arrow_schema)
        else:
            unknown = {key for row in rows for key in row} - set(spec.columns)
            assert not unknown, f"{name}: {unknown}"
            table = pa.Table.from_pylist(
                [dict.fromkeys(spec.columns) | dict(row) for row in rows], spec.arrow_schema
            )
        (folder / "tables" / name).mkdir(parents=True)
        parts = []
        for number, part in enumerate(_parts(table, cut_at if spec.has_member else ())):
            path = Path("tables") / name / f"part-{number:03d}.parquet"
            pq.write_table(part, folder / path, compression="zstd")
            parts.append({"file": path.as_posix(), "rows": part.num_rows})
        entries[name] = {"rows": table.num_rows, "parts": parts}
    manifest = {
        "id": release_id,
        "as_of": as_of,
        "complete_through": complete_through,
        "synthetic": True,
        "risk_cuts": read_cuts([]),
        "tables": entries,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return open_release(lake, release_id)


def _parts(table: pa.Table, cut_at: Sequence[str]) -> list[pa.Table]:
    edges = ["", *cut_at, "\uffff"]
    if len(edges) == 2:
        return [table]
    ids = table["member_id"]
    return [
        table.filter(pc.and_(pc.greater_equal(ids, low), pc.less(ids, high))) for low, high in pairwise(edges)
    ]


def day(text: str) -> date:
    """A date from ISO text."""
    return date.fromisoformat(text)
