"""The tabulation base: what the fixed catalogue of tables is counted from, over every claim of a grant's population.

Events stand there twice where claims are hidden from the grant: on the basis `all`, which is what is published, and
on the basis `visible`, which is what the caller could count himself; the two must not single out a few by difference.

Three small tables with no id of anybody in them. `person_year`: one row per person and year with coverage, as of the
person's last covered month in it. `event`: one row per measure event, numerator and basis; `person` and `event` are
numbers drawn anew at each build, so two builds differ in them. `label`: the codes of each dimension.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from workbench.broker.cut import ALL, Hidden
from workbench.broker.cutter import Cutter
from workbench.broker.grants import Grant
from workbench.broker.published_slice import KEEP_THE_ORDER_OF_ROWS, Progress, origin
from workbench.broker.visible import compute_anew
from workbench.deid.disclosure import THRESHOLD
from workbench.lake.release import Release
from workbench.schema.counties import counties

UNKNOWN = "unknown"
NO_SINGLE_PLAN = "none"

AGE_GROUPS: Mapping[str, tuple[int, str]] = {
    "00-05": (5, "0 to 5"),
    "06-17": (17, "6 to 17"),
    "18-44": (44, "18 to 44"),
    "45-64": (64, "45 to 64"),
    "65-up": (1_000, "65 and over"),
}
"""Code → (last age, label)."""

SEXES = {"F": "Female", "M": "Male", "U": "Unknown"}
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]


def build_base(
    con: duckdb.DuckDBPyConnection,
    folder: Path,
    release: Release,
    grant: Grant,
    hidden: Hidden,
    progress: Progress,
) -> dict[str, Any]:
    """Writes the base below `folder/tables` and returns its manifest. `hidden` are the claims that the caller lacks."""
    progress("members", 0, 3)
    cutter = Cutter(con, release, grant, hidden)
    con.execute("RESET disabled_optimizers")
    compute_anew(con, cutter, release, ["measure_event"])
    con.execute(f"SET disabled_optimizers = '{KEEP_THE_ORDER_OF_ROWS}'")
    months = cutter.select("member_month")
    con.execute(
        "CREATE TEMP TABLE drawn AS SELECT m.member_id, random() AS draw, "
        f"coalesce(m.race, '{UNKNOWN}') AS race, coalesce(m.sex, 'U') AS sex "
        f"FROM {release.relation('member')} m SEMI JOIN permitted p ON p.member_id = m.member_id"
    )
    con.execute(
        "CREATE TEMP TABLE person AS SELECT member_id, race, sex, "
        "row_number() OVER (ORDER BY draw, member_id)::INTEGER AS person FROM drawn"
    )
    progress("people", 1, 3)
    person_year = (
        f"WITH last AS (SELECT s.member_id, year(s.month)::INTEGER AS year, max_by(s.county_code, s.month) AS county_code, "
        f"max_by(s.organisation_id, s.month) AS organisation_id, max_by(s.age, s.month) AS age "
        f"FROM {months.source} WHERE {months.fate} IS NULL GROUP BY ALL) "
        f"SELECT l.year, coalesce(l.county_code, '{UNKNOWN}') AS county, coalesce(l.organisation_id, '{NO_SINGLE_PLAN}') AS plan, "
        f"p.race, p.sex, {_age_group('l.age')} AS age_group FROM last l JOIN person p USING (member_id) ORDER BY ALL"
    )
    sources = [cutter.select("measure_event", over_all=True)]
    if cutter.basis != ALL:
        sources.append(cutter.select("measure_event"))
    events = " UNION ALL ".join(f"SELECT s.* FROM {e.source} WHERE {e.fate} IS NULL" for e in sources)
    event = (
        "SELECT s.measure, s.measure_year AS year, s.numerator, s.basis, p2.person, "
        "dense_rank() OVER (ORDER BY hash(p2.person), s.event_id)::INTEGER AS event, "
        "strftime(s.event_date, '%m') AS month, "
        f"coalesce(s.county_code, '{UNKNOWN}') AS county, coalesce(s.organisation_id, '{NO_SINGLE_PLAN}') AS plan, "
        f"p2.race, p2.sex, {_age_group('s.age')} AS age_group, s.met "
        f"FROM ({events}) s JOIN person p2 ON p2.member_id = s.member_id ORDER BY ALL"
    )
    tables = {
        "person_year": _write(con, folder, "person_year", person_year),
        "event": _write(con, folder, "event", event),
    }
    progress("labels", 2, 3)
    tables["label"] = _write(con, folder, "label", _labels(release))
    progress("done", 3, 3)
    return {
        **origin(release, grant),
        "population": grant.title,
        "caller_lacks": list(hidden.categories),
        "tables": tables,
        "fitness": {
            "dates": "day",
            "categories_removed": [],
            "attribution": cutter.attribution,
            "complete_through": release.complete_through.isoformat(),
        },
    }


def tells_of_all(numerators: Sequence[str]) -> list[str]:
    """SQL aggregates, 1 or 0: whether what is published beside what the caller sees tells of nearly everybody in a cell.

    Hidden claims change what he sees of some people, and leave it for fewer than the threshold: then he knows of each of
    them by name that something is hidden. Rows have `person` and, for each basis, `in_<basis>` and what was met.
    """
    pairs = [("in_wo", "in_all")]
    pairs += [(f"in_wo AND NOT wo_{n}", f"NOT met_{n}") for n in numerators]
    pairs += [(f"in_wo AND wo_{n}", f"met_{n}") for n in numerators]
    return [
        f"(count(DISTINCT person) FILTER ({seen} AND NOT ({stays})) > 0 "
        f"AND count(DISTINCT person) FILTER ({seen} AND {stays}) < {THRESHOLD})::INTEGER"
        for seen, stays in pairs
    ]


def _write(con: duckdb.DuckDBPyConnection, folder: Path, name: str, query: str) -> dict[str, Any]:
    part = Path("tables") / name / "part-000.parquet"
    (folder / part).parent.mkdir()
    target = str(folder / part).replace("'", "''")
    written = con.execute(f"COPY ({query}) TO '{target}' (FORMAT parquet, COMPRESSION zstd)").fetchall()
    described = con.execute(f"DESCRIBE SELECT * FROM read_parquet('{target}')").fetchall()
    return {
        "rows": int(written[0][0]),
        "columns": [{"name": c[0], "type": c[1], "means": ""} for c in described],
        "parts": [part.as_posix()],
        "bytes": (folder / part).stat().st_size,
    }


def _age_group(age: str) -> str:
    cases = " ".join(f"WHEN {age} <= {last} THEN '{code}'" for code, (last, _) in AGE_GROUPS.items())
    return f"CASE WHEN {age} IS NULL OR {age} < 0 THEN '{UNKNOWN}' {cases} ELSE '{UNKNOWN}' END"


def _labels(release: Release) -> str:
    """Every code of every dimension, in the order in which tables show it; counts of zero need their rows, too."""
    fixed = {
        "county": {code: county.name for code, county in counties().items()},
        "sex": SEXES,
        "age_group": {code: label for code, (_, label) in AGE_GROUPS.items()},
        "month": {f"{number:02d}": name for number, name in enumerate(MONTHS, start=1)},
    }
    rows = [
        (d, code, label, n) for d, codes in fixed.items() for n, (code, label) in enumerate(codes.items())
    ]
    values = ", ".join("(" + ", ".join(_quoted(v) for v in row) + ")" for row in rows)
    return (
        f"SELECT * FROM (VALUES {values}) AS v(dimension, code, label, position) UNION ALL "
        f"SELECT 'race', code, label, 0 FROM {release.relation('value_set')} WHERE value_set = 'race' UNION ALL "
        f"SELECT 'plan', organisation_id, name, 0 FROM {release.relation('organisation')} WHERE kind = 'mcp' "
        "ORDER BY dimension, position, code"
    )


def _quoted(value: str | int) -> str:
    return json.dumps(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
