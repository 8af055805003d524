"""Which source family may leave on which channel: two tables of data, read and asked.

`matrix.csv` has one row per family and channel, with how sure it is; `families.csv` one per table of the data
dictionary, and one per column that is of another family than its table. A correction is a change of one line.
"""

from __future__ import annotations

import csv
import functools
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from workbench.errors import WorkbenchError
from workbench.schema import dictionary

MatrixChannel = Literal["feed", "risk_api", "lmr_api", "portal"]
MATRIX, FAMILIES = "matrix.csv", "families.csv"


class NoFamily(WorkbenchError):
    """A table has no family, so no channel may serve it."""

    code = "no-family"
    http_status = 500


@dataclass(frozen=True)
class Entry:
    """One cell: whether a family may leave on a channel, how we know, and how sure that is (0 to 1; None: our own)."""

    family: str
    channel: str
    open: bool
    status: str
    confidence: float | None
    source: str


@functools.cache
def matrix() -> tuple[Entry, ...]:
    """Every cell, in the order of the file."""
    return tuple(
        Entry(
            row["family"],
            row["channel"],
            row["open"] == "yes",
            row["status"],
            float(row["confidence"]) if row["confidence"] else None,
            row["source"],
        )
        for row in csv.DictReader(_text(MATRIX).splitlines())
    )


def family(table: str, column: str | None = None) -> str:
    """The family of a table, or of one of its columns. Raises NoFamily."""
    found = _families().get((table, column or "")) or _families().get((table, ""))
    if found is None:
        raise NoFamily(
            f"The table {table} has no source family.", hint=f"Add a line to {FAMILIES} of the channels."
        )
    return found


def opens(channel: MatrixChannel, family: str) -> bool:
    """Whether the matrix lets a family leave on a channel. A pair that it does not have is closed."""
    return (family, channel) in _open()


def permitted(channel: MatrixChannel, table: str, columns: Iterable[str]) -> tuple[str, ...]:
    """Those of the columns that may leave on the channel; none where the table may not. `columns` as in the dictionary."""
    if not opens(channel, family(table)):
        return ()
    return tuple(column for column in columns if opens(channel, family(table, column)))


def families(tables: Iterable[str]) -> tuple[str, ...]:
    """The families of these tables, without their exceptional columns, sorted."""
    return tuple(sorted({family(table) for table in tables}))


@functools.cache
def digest() -> str:
    """SHA-256 of both files: what a channel holds depends on them."""
    return hashlib.sha256((_text(MATRIX) + _text(FAMILIES)).encode()).hexdigest()


def gaps() -> list[str]:
    """Tables without a family and families without all of their channels; empty where nothing is missing."""
    known = {(entry.family, entry.channel) for entry in matrix()}
    named = sorted(set(_families().values()))
    channels = sorted({entry.channel for entry in matrix()})
    missing = [f"{table}: no family" for table in dictionary() if (table, "") not in _families()]
    return missing + [f"{f} × {c}: no line" for f in named for c in channels if (f, c) not in known]


@functools.cache
def _open() -> frozenset[tuple[str, str]]:
    return frozenset((entry.family, entry.channel) for entry in matrix() if entry.open)


@functools.cache
def _families() -> Mapping[tuple[str, str], str]:
    rows = csv.DictReader(_text(FAMILIES).splitlines())
    return {(row["table"], row["column"]): row["family"] for row in rows}


def _text(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")
