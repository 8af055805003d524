"""The fixed catalogue of tables: counts of people and measure rates that passed disclosure control.

Runs in a worker that holds nothing but a tabulation base. All tables of a family (people of a year; a measure of a
year) are one system: a cell that is hidden in one table is hidden in all, so that no two of them can be subtracted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, pairwise, product
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import duckdb
import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from workbench.broker.tabulation_base import NO_SINGLE_PLAN, UNKNOWN, tells_of_all
from workbench.deid.disclosure import THRESHOLD, Line, Mask, suppress
from workbench.errors import WorkbenchError

TOTAL = "total"
"""The code of a total in any dimension."""
MARK = "not shown"

DIMENSIONS: Mapping[str, str] = MappingProxyType(
    {
        "county": "County",
        "race": "Race and ethnicity",
        "age_group": "Age group",
        "plan": "Plan",
        "sex": "Sex",
        "month": "Month",
    }
)


@dataclass(frozen=True)
class TableSpec:
    """One table of the catalogue: the family that it belongs to, its dimensions, and what it counts."""

    name: str
    family: str
    dimensions: tuple[str, ...]
    title: str
    unit: str
    numerators: tuple[str, ...] = ()
    """Of a measure: the numerators that each cell carries."""


def _people(*dimensions: str) -> TableSpec:
    by = " and ".join(DIMENSIONS[d].lower() for d in dimensions)
    return TableSpec(
        f"members_by_{'_'.join(dimensions)}",
        "members",
        dimensions,
        f"People with coverage, by {by}",
        "people",
    )


def _fum(*dimensions: str) -> TableSpec:
    by = " and ".join(DIMENSIONS[d].lower() for d in dimensions)
    title = "Follow-up after an emergency visit for mental illness (FUM)"
    return TableSpec(
        f"fum_by_{'_'.join(dimensions) or 'state'}",
        "FUM",
        dimensions,
        f"{title}, by {by}" if by else title,
        "events",
        ("7d", "30d"),
    )


CATALOGUE: Mapping[str, TableSpec] = MappingProxyType(
    {
        table.name: table
        for table in (
            _people("county"),
            _people("race"),
            _people("age_group"),
            _people("plan"),
            _people("county", "sex"),
            _people("plan", "race"),
            _fum(),
            _fum("county"),
            _fum("race"),
            _fum("month"),
            _fum("plan"),
            _fum("age_group"),
            _fum("plan", "race"),
        )
    }
)


class SpecRefused(WorkbenchError):
    """The catalogue has no such table, or the table no such parameter."""

    code = "unknown-table"


class Spec(BaseModel):
    """What a caller may ask: a table of the catalogue, a year, and of a measure the numerator (both without)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    table: str
    year: int
    numerator: Literal["7d", "30d"] | None = None


def check_spec(spec: Mapping[str, Any]) -> Spec:
    """The validated specification. Raises `SpecRefused`, which names what there is."""
    name = spec.get("table")
    if not isinstance(name, str) or name not in CATALOGUE:
        raise SpecRefused("The catalogue has no such table.", hint=f"It has: {', '.join(CATALOGUE)}.")
    table = CATALOGUE[name]
    allowed = ["year", *(["numerator"] if table.numerators else [])]
    unknown = sorted(str(key) for key in set(spec) - {"table", *allowed})
    if unknown:
        known = ", ".join(key for key in unknown if key in (*Spec.model_fields, *DIMENSIONS))
        raise SpecRefused(
            f"Table {table.name} takes no parameter {known}."
            if known
            else f"Table {table.name} does not take the parameters that were given.",
            hint=f"Its parameters are: {', '.join(allowed)}. There are no free filters.",
            code="unknown-parameter",
        )
    try:
        return Spec.model_validate(dict(spec))
    except ValidationError as error:
        wrong = sorted({str(item["loc"][0]) for item in error.errors()})
        raise SpecRefused(
            f"The parameter {', '.join(wrong)} of table {table.name} is missing or has no valid value.",
            hint="year is a whole number such as 2025; numerator is 7d or 30d.",
            code="bad-parameter",
        ) from None


Cell = tuple[tuple[str, str], ...]
"""A cell by its codes: ((dimension, code), …) in the order of the names; the grand total is ()."""


@dataclass(frozen=True)
class _Family:
    """The cells of all tables of a family, with what they count and what is hidden."""

    numbers: Mapping[Cell, int]
    published: Mapping[str, np.ndarray[Any, np.dtype[np.int64]]]
    hidden: Mask


def compute(slice_dir: Path, spec: Mapping[str, Any]) -> dict[str, Any]:
    """One table, complete with totals and the verdict, from a tabulation base.

    Returns JSON: `rows` have the code and the label of each dimension (code `total` for totals), `value` (people; of
    a measure its events), `hidden`, and of a measure `numerator`, `denominator`, `met`, `rate`; all of these are null
    where hidden. Raises `SpecRefused`.
    """
    asked = check_spec(spec)
    table = CATALOGUE[asked.table]
    manifest = json.loads((slice_dir / "manifest.json").read_text(encoding="utf-8"))
    with duckdb.connect() as con:
        for name, entry in manifest["tables"].items():
            files = ", ".join("'" + str(slice_dir / part).replace("'", "''") + "'" for part in entry["parts"])
            con.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet([{files}])")
        labels = _labels(con)
        _check_year(con, table, asked.year)
        lacks = bool(manifest["caller_lacks"])
        family = _family(con, table.family, asked.year, labels, lacks)
    codes = [[*labels[d], TOTAL] for d in table.dimensions]
    numerators: list[str | None] = [n for n in table.numerators if asked.numerator in (None, n)]
    rows = [
        _row(table, dict(zip(table.dimensions, cell, strict=True)), labels, family, numerator)
        for cell in product(*codes)
        for numerator in numerators or [None]
    ]
    return {
        "table": table.name,
        "title": f"{table.title}, {asked.year}",
        "unit": table.unit,
        "parameters": {"year": asked.year, **({"numerator": asked.numerator} if asked.numerator else {})},
        "dimensions": [
            {"name": d, "title": DIMENSIONS[d], "codes": codes[i]} for i, d in enumerate(table.dimensions)
        ],
        "rows": rows,
        "hidden_cells": sum(row["hidden"] for row in rows),
        "mark": MARK,
        "verdict": _verdict(table, manifest, asked.year, lacks),
        "population": manifest["population"],
        "release": manifest["release"],
        "complete_through": manifest["fitness"]["complete_through"],
        "synthetic": manifest["synthetic"],
    }


def _row(
    table: TableSpec,
    codes: dict[str, str],
    labels: Mapping[str, Mapping[str, str]],
    family: _Family,
    numerator: str | None,
) -> dict[str, Any]:
    cell = family.numbers[_cell({d: c for d, c in codes.items() if c != TOTAL})]
    hidden = bool(family.hidden[cell])
    row: dict[str, Any] = {}
    for dimension, code in codes.items():
        row[dimension] = code
        row[f"{dimension}_label"] = "Total" if code == TOTAL else labels[dimension][code]
    counts = {name: int(values[cell]) for name, values in family.published.items()}
    row["value"] = None if hidden else counts["all"]
    row["hidden"] = hidden
    if numerator is not None:
        met = counts[numerator]
        row["numerator"] = numerator
        row["denominator"] = row["value"]
        row["met"] = None if hidden else met
        row["rate"] = None if hidden or not counts["all"] else round(met / counts["all"], 4)
    return row


def _cell(codes: Mapping[str, str]) -> Cell:
    return tuple(sorted(codes.items()))


def _labels(con: duckdb.DuckDBPyConnection) -> dict[str, dict[str, str]]:
    """Dimension → code → label, in the order of the base, with the codes that the data have besides."""
    labels: dict[str, dict[str, str]] = {d: {} for d in DIMENSIONS}
    for dimension, code, label in con.execute("SELECT dimension, code, label FROM label").fetchall():
        labels[dimension][code] = label
    extra = {UNKNOWN: "Unknown", NO_SINGLE_PLAN: "No single plan"}
    for source, dimensions in (("person_year", set(DIMENSIONS) - {"month"}), ("event", set(DIMENSIONS))):
        for dimension in sorted(dimensions):
            for (code,) in con.execute(f"SELECT DISTINCT {dimension} FROM {source} ORDER BY ALL").fetchall():
                labels[dimension].setdefault(code, extra.get(code, code))
    return labels


def _check_year(con: duckdb.DuckDBPyConnection, table: TableSpec, year: int) -> None:
    source = "person_year" if table.family == "members" else f"event WHERE measure = '{table.family}'"
    years = [int(y) for (y,) in con.execute(f"SELECT DISTINCT year FROM {source} ORDER BY year").fetchall()]
    if year not in years:
        raise SpecRefused(
            f"Table {table.name} has no data of the year {year}.",
            hint=f"It has: {', '.join(map(str, years)) or 'no year'}.",
            code="unknown-year",
        )


def _family(
    con: duckdb.DuckDBPyConnection, name: str, year: int, labels: Mapping[str, Mapping[str, str]], lacks: bool
) -> _Family:
    """Counts every cell of every table of the family and hides what has to be hidden, together."""
    tables = [table for table in CATALOGUE.values() if table.family == name]
    margins = sorted({m for table in tables for m in _margins(table.dimensions)}, key=lambda m: (len(m), m))
    cells = [
        _cell(dict(zip(m, codes, strict=True))) for m in margins for codes in product(*(labels[d] for d in m))
    ]
    numbers = {cell: number for number, cell in enumerate(cells)}
    lines = list(
        dict.fromkeys(line for table in tables for line in _lines(table.dimensions, labels, numbers))
    )
    if name == "members":
        published, people, told = _count_people(con, year, margins, numbers)
    else:
        published, people, told = _count_events(
            con, name, year, margins, numbers, tables[0].numerators, lacks
        )
    sure = np.asarray(np.array(told, dtype=bool).any(axis=0)) if told else None
    return _Family(numbers, published, suppress(np.array(people), lines, sure))


def _margins(dimensions: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for size in range(len(dimensions) + 1):
        yield from (tuple(sorted(chosen)) for chosen in combinations(dimensions, size))


def _lines(
    dimensions: tuple[str, ...], labels: Mapping[str, Mapping[str, str]], numbers: Mapping[Cell, int]
) -> Iterator[Line]:
    """Along each dimension of a table, for every combination of the others' codes and totals: parts and total."""
    for summed in dimensions:
        others = [d for d in dimensions if d != summed]
        for codes in product(*([*labels[d], TOTAL] for d in others)):
            fixed = {d: c for d, c in zip(others, codes, strict=True) if c != TOTAL}
            parts = tuple(numbers[_cell({**fixed, summed: code})] for code in labels[summed])
            yield Line(parts, numbers[_cell(fixed)])


_Column = np.ndarray[Any, np.dtype[np.int64]]
_Counts = tuple[dict[str, _Column], list[_Column], list[_Column]]
"""What is published, the people behind it, and whether it tells of (nearly) everybody in a cell what is hidden."""


def _count_people(
    con: duckdb.DuckDBPyConnection, year: int, margins: list[tuple[str, ...]], numbers: Mapping[Cell, int]
) -> _Counts:
    counts = _cube(con, f"SELECT * FROM person_year WHERE year = {year}", margins, numbers, ["count(*)"])
    return {"all": counts[0]}, [counts[0]], []


def _count_events(
    con: duckdb.DuckDBPyConnection,
    measure: str,
    year: int,
    margins: list[tuple[str, ...]],
    numbers: Mapping[Cell, int],
    numerators: tuple[str, ...],
    lacks: bool,
) -> _Counts:
    """Events are published; people decide what is hidden: of the denominator, of each numerator, of what is left of
    either, and of the step from one numerator to the next.

    A caller from whom claims are hidden can count the rest himself, so the people by whom the two differ count as well,
    and whether enough of his are left who may not be among these (`tells_of_all`).
    """
    met = ", ".join(
        f"coalesce(bool_or(met) FILTER (numerator = '{n}'), false) AS met_{n}" for n in numerators
    )
    both = ", ".join(
        f"coalesce(bool_or(a.met_{n}), false) AS met_{n}, coalesce(bool_or(w.met_{n}), false) AS wo_{n}"
        for n in numerators
    )
    dimensions = ", ".join(DIMENSIONS)
    one = f"SELECT event, person, {dimensions}, {met} FROM event WHERE measure = '{measure}' AND year = {year} AND basis = "
    rows = (
        f"SELECT event, person, {dimensions}, count(a.event) > 0 AS in_all, count(w.event) > 0 AS in_wo, {both} "
        f"FROM ({one}'all' GROUP BY ALL) a FULL JOIN ({one}'visible' GROUP BY ALL) w "
        f"USING (event, person, {dimensions}) GROUP BY ALL"
    )
    published = ["count(*) FILTER (in_all)", *(f"count(*) FILTER (in_all AND met_{n})" for n in numerators)]
    sets = [
        "in_all",
        *(f"in_all AND met_{n}" for n in numerators),
        *(f"in_all AND NOT met_{n}" for n in numerators),
    ]
    sets += [f"in_all AND met_{b} AND NOT met_{a}" for a, b in pairwise(numerators)]
    people = [f"count(DISTINCT person) FILTER ({s})" for s in sets]
    if lacks:
        others = [
            "in_wo",
            *(f"in_wo AND wo_{n}" for n in numerators),
            *(f"in_wo AND NOT wo_{n}" for n in numerators),
        ]
        pairs = list(zip(sets, others, strict=False))
        people += [f"count(DISTINCT person) FILTER (({a}) <> ({b}))" for a, b in pairs]
        people += [f"abs(count(*) FILTER ({a}) - count(*) FILTER ({b}))" for a, b in pairs]
    told = tells_of_all(numerators) if lacks else []
    counts = _cube(con, rows, margins, numbers, [*published, *people, *told])
    names = ["all", *numerators]
    first, last = len(names), len(names) + len(people)
    return dict(zip(names, counts, strict=False)), counts[first:last], counts[last:]


def _cube(
    con: duckdb.DuckDBPyConnection,
    rows: str,
    margins: list[tuple[str, ...]],
    numbers: Mapping[Cell, int],
    aggregates: list[str],
) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    """One array per aggregate with a value for each cell of the margins; zero where nobody is."""
    counts = np.zeros((len(aggregates), len(numbers)), dtype=np.int64)
    con.execute(f"CREATE OR REPLACE TEMP TABLE counted AS {rows}")
    for margin in margins:
        group = f"GROUP BY {', '.join(margin)}" if margin else ""
        for found in con.execute(
            f"SELECT {', '.join([*margin, *aggregates])} FROM counted {group}"
        ).fetchall():
            cell = numbers[_cell(dict(zip(margin, found, strict=False)))]
            counts[:, cell] = found[len(margin) :]
    return list(counts)


def _verdict(table: TableSpec, manifest: Mapping[str, Any], year: int, lacks: bool) -> str:
    """What a reader has to know to trust the table: the rule, the release, and to whom an event or person belongs."""
    sentences = [
        f"Counts of 1 to {THRESHOLD - 1} people and what would let one compute them are not shown (CalHHS Data "
        "De-Identification Guidelines: line rule over all tables of this family together); zeros are shown.",
        f"Release {manifest['release']}, claims complete through {manifest['fitness']['complete_through']}.",
    ]
    if table.family == "members":
        sentences.append(
            f"Each person with coverage in {year} counts once, where the last covered month of that year was."
        )
    else:
        sentences.append(
            "Computed over every claim of the release. An event belongs to the plan in which the member was continuously "
            "enrolled around it, and to the county on the day of the event."
        )
    if table.family != "members" and lacks:
        sentences.append(
            "Also not shown: cells that together with the caller's own claims would single out 1 to 10 people."
        )
    return " ".join(sentences)
