"""The highest version of a claim replaces the others; a void one says that it never happened."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import duckdb
import ibis
import pyarrow as pa
import pytest

from workbench.lake.versions import claim_versions, final_versions, line_outcomes

SCHEMA = pa.schema(
    [
        ("claim_id", pa.string()),
        ("version", pa.int32()),
        ("line_number", pa.int32()),
        ("claim_status", pa.string()),
        ("member_id", pa.string()),
        ("n", pa.int32()),
    ]
)
Row = tuple[str, int, int, str]


def run(function: Any, rows: list[Row], **options: Any) -> list[dict[str, Any]]:
    """Runs a function over rows; n is the place in which a row was sent."""
    lines = [dict(zip(SCHEMA.names, (*row, "m", n), strict=True)) for n, row in enumerate(rows)]
    con = duckdb.connect()
    con.register("lines", pa.Table.from_pylist(lines, SCHEMA))
    expression = function(ibis.table(ibis.Schema.from_pyarrow(SCHEMA), name="lines"), **options)
    result: list[dict[str, Any]] = (
        con.sql(ibis.to_sql(expression, dialect="duckdb")).to_arrow_table().to_pylist()
    )
    return result


def outcomes(rows: list[Row]) -> list[str]:
    found = run(line_outcomes, rows, order=("n",))
    return [row["outcome"] for row in sorted(found, key=lambda row: row["n"])]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("a", 1, 1, "paid")], ["final"]),
        ([("a", 1, 1, "paid"), ("a", 2, 1, "paid")], ["superseded", "final"]),
        ([("a", 2, 1, "paid"), ("a", 1, 1, "paid")], ["final", "superseded"]),
        ([("a", 1, 1, "paid"), ("a", 2, 1, "void")], ["superseded", "void"]),
        ([("a", 1, 1, "paid"), ("a", 2, 1, "void"), ("a", 3, 1, "paid")], ["superseded", "superseded", "final"]),
        ([("a", 1, 1, "paid"), ("a", 1, 1, "paid")], ["final", "duplicate"]),
        ([("a", 1, 1, "paid"), ("a", 1, 2, "denied")], ["final", "final"]),
        ([("a", 1, 1, "paid"), ("a", 1, 2, "paid"), ("a", 2, 1, "paid")], ["superseded", "superseded", "final"]),
        ([("a", 1, 1, "paid"), ("a", 1, 1, "void")], ["void", "void"]),
        ([("a", 1, 1, "void"), ("a", 1, 2, "paid")], ["void", "final"]),
        ([("a", 9, 1, "paid"), ("a", 10, 1, "paid")], ["superseded", "final"]),
        ([("a", 1, 1, "denied"), ("b", 2, 1, "paid")], ["final", "final"]),
    ],
)  # fmt: skip
def test_each_line_has_the_outcome_of_its_version(rows: list[Row], expected: list[str]) -> None:
    assert outcomes(rows) == expected


def test_a_version_states_its_status_outcome_and_distinct_lines() -> None:
    rows: list[Row] = [("a", 1, 1, "denied"), ("a", 1, 2, "denied"), ("a", 2, 1, "paid"), ("a", 2, 1, "paid"),
                       ("a", 2, 2, "denied"), ("v", 1, 1, "void")]  # fmt: skip
    found = {
        (r["claim_id"], r["version"]): (r["claim_status"], r["outcome"], r["lines"])
        for r in run(claim_versions, rows)
    }
    assert found == {
        ("a", 1): ("denied", "superseded", 2),
        ("a", 2): ("paid", "final", 2),
        ("v", 1): ("void", "void", 1),
    }


def reference(rows: list[Row]) -> set[Row]:
    """The rule said slowly: versions by claim, the highest, no void lines, each line once."""
    versions: dict[str, set[int]] = defaultdict(set)
    voided = {row[:3] for row in rows if row[3] == "void"}
    for claim, version, _, _ in rows:
        versions[claim].add(version)
    kept = {}
    for row in rows:
        if row[1] == max(versions[row[0]]) and row[:3] not in voided:
            kept.setdefault(row[:3], row)
    return set(kept.values())


def test_random_claims_settle_as_the_slow_reference_does_in_any_order() -> None:
    rng = random.Random(7)
    rows: list[Row] = [
        (
            rng.choice("abcdefgh"),
            rng.randint(1, 3),
            rng.randint(1, 3),
            rng.choice(["paid", "paid", "denied", "void"]),
        )
        for _ in range(120)
    ]
    keep = ("claim_id", "version", "line_number", "claim_status")
    found = {tuple(r[c] for c in keep) for r in run(final_versions, rows, order=("n",))}
    assert found == reference(rows)
    rng.shuffle(rows)
    shuffled = {tuple(r[c] for c in keep[:3]) for r in run(final_versions, rows)}
    assert shuffled == {row[:3] for row in reference(rows)}


def test_sending_every_line_twice_changes_nothing() -> None:
    rows: list[Row] = [("a", 1, 1, "paid"), ("a", 2, 1, "paid"), ("b", 1, 1, "void"), ("c", 1, 2, "denied")]
    once, twice = (
        sorted(run(final_versions, given, order=("n",)), key=lambda row: row["n"])
        for given in (rows, rows + rows)
    )
    assert once == twice != []
