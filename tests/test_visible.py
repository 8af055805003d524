"""Promises of members' results over visible claims: no trace of what is hidden, and nothing else is changed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import fum_random
import fum_reference
import ibis
import pytest
import slice_world
import tiny_release
from slice_world import column, grant, query

from workbench.broker.slices import Slice, ensure
from workbench.broker.state import State
from workbench.broker.vault import Vault
from workbench.lake.release import Release
from workbench.lib import risk
from workbench.lib.measures.fum import FumSettings
from workbench.lib.tables import Tables
from workbench.schema import dictionary, value_sets
from workbench.schema.sensitive import Category

YEAR, AS_OF = 2025, date(2026, 1, 31)
STATE_WIDE: dict[str, Any] = {"organisation": {"relation": "state"}}
Rows = dict[str, list[dict[str, Any]]]


def sql_of(expression: Any) -> str:
    return str(ibis.to_sql(expression, dialect="duckdb"))


def results(rows: Rows) -> risk.Cuts:
    """Adds the release's own results to the rows: events by the slow reference, tiers over everybody; gives the cuts."""
    rows["measure_event"] = [
        event | {"basis": "all"} for event in events_of({name: rows.get(name, []) for name in dictionary()})
    ]
    with duckdb.connect() as con:
        for name, table in fum_random.arrow(rows).items():
            con.register(name, table)
        scored = risk.scores(Tables.unbound(), AS_OF)
        cuts = risk.read_cuts(con.execute(sql_of(risk.cut_points(scored))).fetchall())
        tiers = con.sql(sql_of(risk.tiers(Tables.unbound(), AS_OF, cuts))).to_arrow_table()
    rows["risk_tier"] = tiers.to_pylist()
    return cuts


def events_of(tables: Rows) -> list[dict[str, Any]]:
    """Counted events by the slow reference, one row per numerator, without the id of the claim."""
    return [
        {
            "measure": "FUM",
            "measure_year": YEAR,
            "member_id": member,
            "event_date": day,
            "event_id": next(c["claim_id"] for c in tables["medical_claim"] if c["member_id"] == member),
            "numerator": numerator,
            "met": event[f"met_{numerator}"],
        }
        for (member, day), event in fum_reference.answer(tables, YEAR, FumSettings()).items()
        for numerator in ("7d", "30d")
    ]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Release, Vault, Path, Rows]]:
    """Eighty random members; every tenth claim is of one sensitive category or two."""
    random = Random(11)
    rows = fum_random.tables(random, 80, YEAR)
    rows = {
        name: [dict.fromkeys(dictionary()[name].columns) | row for row in found]
        for name, found in rows.items()
    }
    rows["sensitive_claim"] = [
        {"kind": "medical", "claim_id": c["claim_id"], "member_id": c["member_id"], "category": str(category), "reason": "line"}
        for c in rows["medical_claim"]
        if random.random() < 0.1
        for category in random.sample(list(Category), random.choice([1, 2]))
    ]  # fmt: skip
    cuts = results(rows)
    rows["value_set"] = value_sets.rows().to_pylist()
    folder = tmp_path_factory.mktemp("visible")
    release = tiny_release.write(folder / "lake", rows, as_of=AS_OF.isoformat())
    release.manifest["risk_cuts"] = cuts
    state = State(f"sqlite:///{folder / 'state.sqlite'}", folder / "state")
    yield release, Vault(state), folder / "lake", rows
    state.close()


def sliced(world: tuple[Release, Vault, Path, Rows], **changes: Any) -> Slice:
    release, vault, lake, _ = world
    return ensure(release, grant(**STATE_WIDE, **changes), vault, lake)


def tables_of(slice_: Slice) -> Rows:
    with duckdb.connect() as con:
        return {
            name: con.sql(f"FROM read_parquet({[str(p) for p in slice_.parts(name)]})")
            .to_arrow_table()
            .to_pylist()
            for name in slice_.tables()
        }


def summary(events: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    kept = [e for e in events if e["measure_year"] == YEAR]
    return sorted((e["member_id"], e["event_date"], e["numerator"], e["met"]) for e in kept)


CUTS: dict[str, dict[str, Any]] = {
    "everything excluded": {},
    "part 2 alone excluded": {"sensitive": {str(c): "include" for c in Category if c not in (Category.PART2, Category.REPRODUCTIVE, Category.GENDER_AFFIRMING)}},
}  # fmt: skip


@pytest.mark.parametrize("case", CUTS)
def test_measure_events_are_those_of_the_slices_own_claims_by_the_slow_reference(
    world: tuple[Release, Vault, Path, Rows], case: str
) -> None:
    slice_ = sliced(world, **CUTS[case])
    found = tables_of(slice_)
    expected = summary(events_of(found))
    assert summary(found["measure_event"]) == expected
    assert expected != summary(world[3]["measure_event"])
    assert len(expected) > 20
    assert column(
        slice_, "SELECT count(*) FROM measure_event e ANTI JOIN medical_claim c ON c.claim_id = e.event_id"
    ) == [0]


@pytest.mark.parametrize("case", CUTS)
def test_risk_tiers_are_those_of_the_slices_own_claims_with_the_cuts_of_the_whole_release(
    world: tuple[Release, Vault, Path, Rows], case: str
) -> None:
    slice_ = sliced(world, **CUTS[case])
    cuts = world[0].manifest["risk_cuts"]
    expected = query(
        slice_, f"SELECT * FROM ({sql_of(risk.tiers(Tables.unbound(), AS_OF, cuts))}) ORDER BY member_id"
    )
    assert query(slice_, "SELECT * FROM risk_tier ORDER BY member_id") == expected
    before = {
        row["member_id"]: (row["tier"], row["reasons"], row["adverse_events"])
        for row in world[3]["risk_tier"]
    }
    now = {row[0]: (row[6], row[7], row[3]) for row in expected}
    assert before.keys() == now.keys() and before != now


def test_no_row_tells_by_its_basis_whose_claims_are_hidden(world: tuple[Release, Vault, Path, Rows]) -> None:
    assert column(sliced(world), "SELECT DISTINCT basis FROM measure_event") == ["visible"]


def test_the_results_of_who_lost_nothing_are_the_releases(world: tuple[Release, Vault, Path, Rows]) -> None:
    lost = {tag["member_id"] for tag in world[3]["sensitive_claim"]}
    found = tables_of(sliced(world))
    for name, fields in (("measure_event", ("member_id", "event_date", "numerator", "met")), ("risk_tier", ("member_id", "tier", "reasons"))):  # fmt: skip
        theirs = [[row[f] for f in fields] for row in found[name] if row["member_id"] not in lost]
        releases = [[row[f] for f in fields] for row in world[3][name] if row["member_id"] not in lost]
        assert sorted(map(repr, theirs)) == sorted(map(repr, releases)) != []


def test_who_left_a_plan_has_no_tier_of_today_there(tmp_path: Path) -> None:
    tables = slice_world.tables()
    tables["risk_tier"] = [
        {"member_id": m, "as_of_date": AS_OF, "age_band": "adult", "tier": "high", "reasons": "ed_visits"}
        for m in slice_world.MEMBERS
    ]
    state = State(f"sqlite:///{tmp_path / 's.sqlite'}", tmp_path / "state")
    plan = grant(organisation={"relation": "mcp", "ids": [slice_world.SIERRA], "as_of": "ever_own_period"})
    release = tiny_release.write(tmp_path / "lake", tables)
    members = column(
        ensure(release, plan, Vault(state), tmp_path / "lake"), "SELECT member_id FROM risk_tier"
    )
    state.close()
    assert set(members) <= {slice_world.A, slice_world.C, slice_world.F}
    assert slice_world.F in members


def test_being_on_the_panel_of_a_part_2_program_is_hidden_with_its_claims(tmp_path: Path) -> None:
    tables = slice_world.tables()
    panel = {"organisation_id": "1000000001", "relation": "provider", "start_date": date(2024, 1, 1)}
    tables["attribution"] += [
        {**panel, "member_id": slice_world.A},
        {**panel, "member_id": slice_world.C, "organisation_id": "1999999999"},
    ]
    state = State(f"sqlite:///{tmp_path / 's.sqlite'}", tmp_path / "state")
    vault, release = Vault(state), tiny_release.write(tmp_path / "lake", tables)
    panels = "SELECT organisation_id FROM attribution WHERE relation = 'provider'"
    assert column(ensure(release, grant(), vault, tmp_path / "lake"), panels) == ["1999999999"]
    included = ensure(release, grant(**slice_world.INCLUDED), vault, tmp_path / "lake")
    assert sorted(column(included, panels)) == ["1000000001", "1999999999"]
    state.close()
