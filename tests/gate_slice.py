"""A small slice-like folder with every table of the dictionary, for tests of gate and worker."""

from __future__ import annotations

import datetime
import random
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from workbench.broker.pool import Mount
from workbench.schema import dictionary

TABLES: Mapping[str, tuple[str, ...]] = {name: tuple(table.columns) for name, table in dictionary().items()}
_WORDS = {
    "sex": ["F", "M", "U"],
    "code": ["F10", "F1120", "Z00", "I10", "G40"],
    "zip": ["90001", "95814"],
    "match": ["exact", "prefix"],
    "claim_status": ["paid", "denied"],
}


def write_slice(folder: Path, rows: int = 40, seed: int = 1) -> Mount:
    """Writes `rows` random rows of every table and returns the mount for a worker."""
    dice = random.Random(seed)
    parts = {}
    for name, table in dictionary().items():
        columns = {
            c.name: [_value(c.name, c.arrow_type, dice) for _ in range(rows)] for c in table.columns.values()
        }
        part = f"tables/{name}/part-000.parquet"
        (folder / part).parent.mkdir(parents=True)
        pq.write_table(pa.table(columns, schema=table.arrow_schema), folder / part)
        parts[name] = (part,)
    return Mount("test-slice", folder, "query", parts)


def statements(name: str) -> dict[str, list[str]]:
    """The statements of tests/sql/NAME.yaml, by group."""
    found: dict[str, list[str]] = yaml.safe_load((Path(__file__).parent / "sql" / f"{name}.yaml").read_text())
    return found


def _value(column: str, type_: Any, dice: random.Random) -> Any:
    if dice.random() < 0.05 and column not in ("member_id", "claim_id"):
        return None
    if pa.types.is_string(type_):
        return dice.choice(_WORDS.get(column, [f"{column[:3].upper()}{i:03d}" for i in range(12)]))
    if pa.types.is_date(type_):
        return datetime.date(2024, 1, 1) + datetime.timedelta(days=dice.randrange(700))
    if pa.types.is_decimal(type_):
        return Decimal(dice.randrange(100_000)) / 100
    if pa.types.is_boolean(type_):
        return dice.random() < 0.5
    return dice.randrange(1, 100)
