"""Reads dictionary.yaml into typed values."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from types import MappingProxyType

import pyarrow as pa
import yaml


class IdentifierClass(StrEnum):
    """What a column could give away about a person; the levels have one rule for each class."""

    MEMBER_KEY = "member_key"
    CLAIM_KEY = "claim_key"
    DIRECT = "direct"
    BIRTH_DATE = "birth_date"
    DATE = "date"
    ZIP = "zip"
    GEOGRAPHY = "geography"
    ORGANISATION = "organisation"
    AGE = "age"
    QUASI = "quasi"
    CLINICAL = "clinical"
    AMOUNT = "amount"
    FREE_TEXT = "free_text"
    REFERENCE = "reference"


@dataclass(frozen=True)
class Column:
    """One column: DuckDB type, identifier class, source element and meaning."""

    name: str
    type: str
    identifier_class: IdentifierClass
    source: str
    means: str

    @property
    def arrow_type(self) -> pa.DataType:
        """The Arrow type of the column as it stands in a release."""
        if self.type.startswith("DECIMAL("):
            precision, scale = self.type.removeprefix("DECIMAL(").rstrip(")").split(",")
            return pa.decimal128(int(precision), int(scale))
        return _ARROW[self.type]


@dataclass(frozen=True)
class Table:
    """One table: its grain, key and columns in order."""

    name: str
    grain: str
    key: tuple[str, ...]
    about: str
    derived: bool
    columns: Mapping[str, Column]

    @property
    def arrow_schema(self) -> pa.Schema:
        """The Arrow schema of the table as it stands in a release."""
        return pa.schema([(column.name, column.arrow_type) for column in self.columns.values()])

    @property
    def has_member(self) -> bool:
        """Whether the rows belong to members, so that a slice keeps only its own members' rows."""
        return "member_id" in self.columns


class Goes(StrEnum):
    """What becomes of the linked row when the claim is hidden."""

    ROW = "row"
    RECOMPUTED = "recomputed"


@dataclass(frozen=True)
class Link:
    """How a hidden row of `source` leaves a trace in `target`: through the target's column `by`."""

    source: str
    target: str
    by: str
    goes: Goes
    means: str


_ARROW = {
    "VARCHAR": pa.string(),
    "DATE": pa.date32(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "BOOLEAN": pa.bool_(),
}


def _text() -> str:
    return (resources.files("workbench.schema") / "dictionary.yaml").read_text(encoding="utf-8")


@functools.cache
def dictionary() -> Mapping[str, Table]:
    """All tables by name, in the order of dictionary.yaml."""
    raw = yaml.safe_load(_text())["tables"]
    return {name: _table(name, spec) for name, spec in raw.items()}


@functools.cache
def links() -> tuple[Link, ...]:
    """The ways by which a hidden claim leaves a trace in another table."""
    known = dictionary()
    found = tuple(
        Link(raw["from"], raw["to"], raw["by"], Goes(raw["goes"]), raw["means"])
        for raw in yaml.safe_load(_text())["links"]
    )
    for link in found:
        if link.source not in known or link.target not in known or link.by not in known[link.target].columns:
            raise ValueError(
                f"dictionary.yaml: the link {link.source} -> {link.target} by {link.by} names what is not there"
            )
    return found


@functools.cache
def unlinked() -> Mapping[str, str]:
    """The tables in which a hidden claim leaves no trace: table -> why not."""
    return MappingProxyType(dict(yaml.safe_load(_text())["unlinked"]))


@functools.cache
def dictionary_digest() -> str:
    """SHA-256 of the dictionary: part of a slice's identity."""
    return hashlib.sha256(_text().encode()).hexdigest()


def _table(name: str, spec: Mapping[str, object]) -> Table:
    raw_columns = spec["columns"]
    assert isinstance(raw_columns, dict)
    columns = {
        column: Column(column, c["type"], IdentifierClass(c["class"]), c["source"], c["means"])
        for column, c in raw_columns.items()
    }
    key = spec["key"]
    assert isinstance(key, list)
    unknown = set(key) - set(columns)
    if unknown:
        raise ValueError(f"dictionary.yaml: the key of {name} names unknown columns {sorted(unknown)}")
    return Table(name, str(spec["grain"]), tuple(key), str(spec["about"]), bool(spec.get("derived")), columns)
