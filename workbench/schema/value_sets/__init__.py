"""The library's code lists: small, our own, from public sources; each row names its origin.

A code set that somebody may have to defend is corrected here, in one line of a CSV file, and nowhere else.
Where `match` is `prefix`, the code stands for every code that begins with it.
"""

from __future__ import annotations

import csv
import functools
import hashlib
from collections.abc import Mapping
from importlib import resources

import pyarrow as pa

from workbench.errors import WorkbenchError
from workbench.schema.dictionary import dictionary

COLUMNS = ("value_set", "code_system", "code", "match", "label", "origin")


class UnknownValueSet(WorkbenchError):
    """A name that no value set has."""

    code = "unknown-value-set"
    http_status = 404


@functools.cache
def _text() -> str:
    folder = resources.files(__package__)
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".csv")), key=lambda f: f.name)
    head = ",".join(COLUMNS) + "\n"
    parts = [file.read_text(encoding="utf-8") for file in files]
    if any(not part.startswith(head) for part in parts):
        raise ValueError(f"every value set file begins with the line {head.strip()}")
    return head + "".join(part.removeprefix(head) for part in parts)


@functools.cache
def rows() -> pa.Table:
    """The table `value_set` of a release: one row per value set, code system and code, in that order."""
    read = sorted(
        csv.DictReader(_text().splitlines()), key=lambda r: (r["value_set"], r["code_system"], r["code"])
    )
    return pa.Table.from_pylist(read, schema=dictionary()["value_set"].arrow_schema)


@functools.cache
def codes(value_set: str, code_system: str | None = None) -> Mapping[str, str]:
    """Code -> label of one value set, in the order of the codes. Raises UnknownValueSet."""
    found = {
        row["code"]: row["label"]
        for row in rows().to_pylist()
        if row["value_set"] == value_set and code_system in (None, row["code_system"])
    }
    if not found:
        raise UnknownValueSet(
            f"There is no value set {value_set!r}.", hint=f"There are: {', '.join(names())}."
        )
    return found


@functools.cache
def names() -> tuple[str, ...]:
    """The names of all value sets, sorted."""
    return tuple(sorted(set(rows().column("value_set").to_pylist())))


@functools.cache
def digest() -> str:
    """SHA-256 of all code lists: the version that a release records."""
    return hashlib.sha256(_text().encode()).hexdigest()
