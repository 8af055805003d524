"""`workbench measures run`: through gate, sandboxed worker and audit, with the verdict of the grant's slice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from random import Random
from typing import Any

import fum_random
import fum_reference
import pytest
import tiny_release
from broker_world import World, new_world
from click.testing import CliRunner, Result

from workbench.cli import program
from workbench.lib.breakdowns import UnknownBreakdown
from workbench.lib.fitness import UnfitSlice
from workbench.lib.measures import UnknownMeasure, YearOutOfRange
from workbench.lib.measures.fum import FumSettings
from workbench.schema import value_sets

pytestmark = pytest.mark.sandbox
RANDOM_RELEASE = "20260131-ffffffffffff"


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict[str, Any]]]:
    made = fum_random.tables(Random(1), 200, 2025)
    for member in made["member"]:
        member["race"] = Random(member["member_id"]).choice(["white", "black"])
    made["attribution"] = [
        {
            "member_id": member["member_id"],
            "organisation_id": "county-34",
            "relation": "county",
            "start_date": date(2024, 1, 1),
            "end_date": None,
        }
        for member in made["member"]
    ]
    return made


@pytest.fixture(scope="module")
def world(rows: dict[str, list[dict[str, Any]]]) -> Iterator[World]:
    with new_world() as world:
        tiny_release.write(
            world.where.lake, {**rows, "value_set": value_sets.rows()}, release_id=RANDOM_RELEASE
        )
        yield world


@pytest.fixture
def run(world: World, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in world.environment().items():
        monkeypatch.setenv(name, value)

    def invoke(grant: str, *more: str, measure: str = "FUM", year: str = "2025") -> Result:
        arguments = ["measures", "run", measure, "--grant", grant, "--year", year, *more]
        return CliRunner().invoke(program, arguments, prog_name="workbench")

    return invoke


def test_a_limited_slice_gives_the_rates_of_the_rule(run: Any, rows: dict[str, list[dict[str, Any]]]) -> None:
    full = {name: table.to_pylist() for name, table in fum_random.arrow(rows).items() if name != "value_set"}
    wanted = fum_reference.answer(full, 2025, FumSettings())
    races = {member["member_id"]: member["race"] for member in full["member"]}
    answer = json.loads(
        run("demo-research-lds", "--release", RANDOM_RELEASE, "--by", "race", "--json").output
    )
    got = {(r["group"], r["numerator"]): (r["denominator"], r["met"]) for r in answer["rows"]}
    for label, race in (("White", "white"), ("Black or African American", "black")):
        events = [event for (member, _), event in wanted.items() if races[member] == race]
        for numerator in ("7d", "30d"):
            assert got[label, numerator] == (len(events), sum(e[f"met_{numerator}"] for e in events))
    assert answer["synthetic"] is True
    assert answer["release"] == RANDOM_RELEASE
    assert answer["verdict"].startswith("Exact for this slice.")


def test_a_safe_harbor_slice_serves_the_release_s_own_results(run: Any) -> None:
    done = run("demo-research-sh", "--release", tiny_release.RELEASE_ID)
    assert done.exit_code == 0
    assert "Computed over the whole release" in done.output
    assert "SYNTHETIC DATA" in done.output


def test_an_aggregate_grant_gets_the_table_with_small_cells_hidden(run: Any) -> None:
    done = run("demo-public", "--release", tiny_release.RELEASE_ID, "--by", "race")
    assert done.exit_code == 0
    assert "hidden" in done.output
    assert "(6 of 6)" not in done.output


def test_a_slice_without_part_2_is_refused_unless_asked_for_what_is_visible(run: Any) -> None:
    refused = run("demo-analyst", "--release", tiny_release.RELEASE_ID)
    assert refused.exit_code != 0
    assert isinstance(refused.exception, UnfitSlice)
    shown = run("demo-analyst", "--release", tiny_release.RELEASE_ID, "--visible-only")
    assert shown.exit_code == 0
    assert "VISIBLE CLAIMS ONLY" in shown.output


def test_what_does_not_exist_is_refused_by_name(run: Any) -> None:
    release = ("--release", RANDOM_RELEASE)
    assert isinstance(run("demo-research-lds", *release, measure="FUX").exception, UnknownMeasure)
    assert isinstance(run("demo-research-lds", *release, year="1999").exception, YearOutOfRange)
    assert isinstance(run("demo-research-lds", *release, "--by", "shoe_size").exception, UnknownBreakdown)
    no_grant = run("no-such-grant", *release)
    assert no_grant.exit_code != 0
    assert "no-such-grant" in str(no_grant.exception)
