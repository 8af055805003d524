"""A small release made by hand: real Parquet files in the layout of the lake, rows as dictionaries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
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
) -> Release:
    """Writes the tables (the others empty) as a release of the lake. Columns that a row lacks are empty."""
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
        path = Path("tables") / name / "part-000.parquet"
        (folder / path).parent.mkdir(parents=True)
        pq.write_table(table, folder / path, compression="zstd")
        entries[name] = {"rows": table.num_rows, "parts": [{"file": path.as_posix(), "rows": table.num_rows}]}
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


def day(text: str) -> date:
    """A date from ISO text."""
    return date.fromisoformat(text)
