"""The synthetic Medi-Cal: deterministic, impossible ids, whole or not at all, and worth looking at."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter
from datetime import date
from pathlib import Path

import duckdb
import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from workbench.cli.synth import synth
from workbench.lake import release, synthetic
from workbench.lake.synthetic import codes, generate, world
from workbench.lake.synthetic.drop import DropRefused
from workbench.lake.synthetic.people import CIN_RANGE, CIN_STEP, county_tables, member_ids, people
from workbench.schema.counties import counties
from workbench.schema.sensitive import Category
from workbench.schema.value_sets import codes as value_set

PROJECT = Path(__file__).resolve().parent.parent
MEMBERS = 5000


@pytest.fixture(scope="module")
def drop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, synthetic.Summary]:
    out = tmp_path_factory.mktemp("synthetic") / "sources"
    return out, synthetic.write(out, MEMBERS, 7)


@pytest.fixture(scope="module")
def built(
    drop: tuple[Path, synthetic.Summary], tmp_path_factory: pytest.TempPathFactory
) -> tuple[release.Release, synthetic.Summary]:
    lake = tmp_path_factory.mktemp("lake")
    return release.build(drop[0], lake, as_of=world.AS_OF), drop[1]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def ask(built: release.Release, sql: str) -> list[tuple[object, ...]]:
    tables = {name: built.relation(name) for name in built.manifest["tables"]}
    return duckdb.sql(re.sub(r"\{(\w+)\}", lambda match: tables[match.group(1)], sql)).fetchall()


def test_same_members_and_seed_give_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        synthetic.write(tmp_path / name, 300, seed)
    one, again, other = (digests(tmp_path / name) for name in "abc")
    assert one == again
    changed = {name for name in one if one[name] != other.get(name)}
    assert {"SUME.csv", "care_notes.csv", "MC_dhcs_2025.txt", "PC_dhcs_2024.txt"} <= changed


def test_bounded_blocks_do_not_change_who_is_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "BLOCK", 100)
    synthetic.write(tmp_path / "two", 200, 5)
    synthetic.write(tmp_path / "three", 300, 5)
    two, three = ((tmp_path / name / "SUME.csv").read_text() for name in ("two", "three"))
    assert three.startswith(two)
    claims = (tmp_path / "three" / "PC_dhcs_2025.txt").read_text().splitlines()[2:-1]
    ids = {line.split("|")[4] for line in claims}
    assert {int(claim.removeprefix("XP").removeprefix("P")) // 10_000_000 for claim in ids if claim} >= {
        0,
        1,
        2,
    }


def test_no_id_can_belong_to_anybody(drop: tuple[Path, synthetic.Summary]) -> None:
    folder, _ = drop
    with (folder / "SUME.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert all(re.fullmatch(r"0\d{7}[A-Z]", row["member_id"]) for row in rows)
    assert all(re.fullmatch(r"\d{3}-555-01\d\d", row["phone"]) for row in rows)
    assert all(row["email"].endswith("@example.org") for row in rows if row["email"])
    with (folder / "providers.csv").open(newline="") as handle:
        providers = list(csv.DictReader(handle))
    assert all(re.fullmatch(r"9\d{9}", row["npi"]) for row in providers)
    assert len({row["npi"] for row in providers}) == len(providers)
    for path in folder.glob("MC_*.txt"):
        for line in path.read_text().splitlines()[2:-1]:
            fields = line.split("|")
            assert len(fields) < 20 or fields[15].startswith("000")


def test_a_million_members_all_have_different_ids() -> None:
    assert member_ids(0, 1_000_000).n_unique() == 1_000_000
    assert np.gcd(CIN_STEP, CIN_RANGE) == 1


def test_every_county_is_served_by_one_plan_or_two_as_the_footprints_say() -> None:
    plans = county_tables().plans
    listed = Counter(
        code
        for footprint in world.FOOTPRINT.values()
        for codes_ in footprint.values()
        for code in codes_.split()
    )
    assert set(listed) == set(counties())
    assert (plans >= 0).all()
    for row, code in enumerate(counties()):
        assert len(set(plans[row].tolist())) == listed[code]


def test_plans_are_the_plans_of_the_organisation_registry() -> None:
    registry = yaml.safe_load((PROJECT / "grants" / "organisations.yaml").read_text())["organisations"]
    assert {org: entry["name"] for org, entry in registry.items() if entry["kind"] == "mcp"} == world.PLANS


def test_codes_are_those_of_the_value_sets() -> None:
    illness = tuple(value_set("mental_illness", "ICD-10-CM"))
    for code in (*codes.MENTAL_SEVERE, *codes.MENTAL_MILD, *codes.MENTAL_CHILD):
        assert code.startswith(illness)
    harm = tuple(value_set("self_harm", "ICD-10-CM"))
    assert all(code.startswith(harm) for code in codes.SELF_HARM)
    ingredients = set(value_set("ndc_ingredient", "NDC").values())
    assert {drug.ingredient for drugs in codes.DRUGS.values() for drug in drugs} <= ingredients
    assert set(world.RACES) <= set(value_set("race"))


def test_the_release_sets_aside_just_what_was_broken_on_purpose(
    built: tuple[release.Release, synthetic.Summary],
) -> None:
    lake, summary = built
    aside: Counter[tuple[str, str]] = Counter()
    for source in lake.manifest["sources"]:
        for reason, count in source["set_aside"].items():
            aside[source["kind"], reason] += count
    for kind, counts in (("MC", summary.medical), ("PC", summary.pharmacy)):
        assert {
            reason: n for (k, reason), n in aside.items() if k == kind and reason in counts_of(counts)
        } == counts_of(counts)
        assert aside[kind, "superseded version"] > 0
        assert aside[kind, "void"] > 0
        assert aside[kind, "duplicate"] > 0
    assert {reason: n for (k, reason), n in aside.items() if k == "ME"} == summary.eligibility_broken
    others = {kind for kind, _ in aside} - {"ME", "MC", "PC"}
    assert not others
    assert lake.synthetic


def counts_of(counts: dict[str, int]) -> dict[str, int]:
    return {name.removeprefix("broken: "): n for name, n in counts.items() if name.startswith("broken: ")}


def test_final_claims_are_the_claims_less_the_void_ones(
    built: tuple[release.Release, synthetic.Summary],
) -> None:
    lake, summary = built
    for table, counts in (("medical_claim", summary.medical), ("pharmacy_claim", summary.pharmacy)):
        assert ask(lake, f"SELECT count(*) FROM {{{table}}}") == [(counts["claims"] - counts["voided"],)]
        assert ask(lake, f"SELECT count(*) FROM {{{table}}} WHERE claim_status = 'denied'") == [
            (counts["denied"],)
        ]
    superseded = "SELECT count(*) FROM {claim_version} WHERE outcome = 'superseded'"
    expected = sum(c["superseded"] + c["voided"] for c in (summary.medical, summary.pharmacy))
    assert ask(lake, superseded) == [(expected,)]


def test_care_happens_only_to_covered_living_members(
    built: tuple[release.Release, synthetic.Summary],
) -> None:
    lake, _ = built
    for table, day in (("medical_claim", "from_date"), ("pharmacy_claim", "fill_date")):
        outside = f"""SELECT count(*) FROM {{{table}}} c WHERE NOT EXISTS (SELECT 1 FROM {{eligibility}} e
            WHERE e.member_id = c.member_id AND c.{day} BETWEEN e.start_date AND e.end_date)"""
        assert ask(lake, outside) == [(0,)]
        dead = f"SELECT count(*) FROM {{{table}}} c JOIN {{member}} m USING (member_id) WHERE c.{day} > m.death_date"
        assert ask(lake, dead) == [(0,)]


def test_follow_up_rates_are_plausible(
    built: tuple[release.Release, synthetic.Summary],
) -> None:
    lake, _ = built
    rates = {
        (basis, numerator): (events, rate)
        for basis, numerator, events, rate in ask(
            lake,
            """SELECT basis, numerator, count(*), avg(met::INTEGER) FROM {measure_event}
            WHERE measure = 'FUM' AND measure_year = 2025 GROUP BY ALL""",
        )
    }
    events, thirty = rates["all", "30d"]
    assert 0.025 * MEMBERS < events < 0.1 * MEMBERS
    assert 0.30 < thirty < 0.52
    assert 0.15 < rates["all", "7d"][1] < 0.38


def test_every_sensitive_category_has_some_claims_and_none_has_many(
    built: tuple[release.Release, synthetic.Summary],
) -> None:
    lake, _ = built
    members = dict(
        ask(lake, "SELECT category, count(DISTINCT member_id) FROM {sensitive_claim} GROUP BY ALL")  # type: ignore[arg-type]
    )
    assert set(members) == set(Category)
    assert all(4 < count < 0.2 * MEMBERS for count in members.values()), members
    fills = {
        c for (c,) in ask(lake, "SELECT DISTINCT category FROM {sensitive_claim} WHERE kind = 'pharmacy'")
    }
    assert fills >= {Category.PART2, Category.REPRODUCTIVE, Category.HIV}


def test_members_change_plan_and_county_have_gaps_die_and_are_born(
    built: tuple[release.Release, synthetic.Summary],
) -> None:
    lake, _ = built
    distinct = "SELECT count(*) FROM (SELECT member_id FROM {{eligibility}} GROUP BY 1 HAVING count(DISTINCT {}) > 1)"
    for column, share in (("organisation_id", 0.02), ("county_code", 0.04)):
        assert ask(lake, distinct.format(column))[0][0] > share * MEMBERS
    assert ask(lake, "SELECT count(*) FROM {member} WHERE death_date IS NOT NULL")[0][0] > 0
    assert ask(lake, "SELECT count(*) FROM {member} WHERE birth_date >= DATE '2023-01-01'")[0][0] > 0
    gaps = """SELECT count(DISTINCT member_id) FROM (SELECT member_id, start_date - lag(max(end_date))
        OVER (PARTITION BY member_id ORDER BY start_date) AS days FROM {eligibility}
        GROUP BY member_id, start_date) WHERE days > 1"""
    assert ask(lake, gaps)[0][0] > 0.04 * MEMBERS
    span = "SELECT min(from_date), max(from_date) FROM {medical_claim}"
    first, last = ask(lake, span)[0]
    assert world.FIRST_DAY <= first < last <= world.LAST_DAY  # type: ignore[operator]


def test_notes_are_few_some_name_people_and_those_of_a_claim_name_one_that_exists(
    built: tuple[release.Release, synthetic.Summary],
) -> None:
    lake, summary = built
    notes, with_claim, members, phones = ask(
        lake,
        """SELECT count(*), count(claim_id), count(DISTINCT member_id),
        count(*) FILTER (regexp_matches(text, '[0-9][0-9][0-9]-555-01')) FROM {care_note}""",
    )[0]
    assert notes > 0.9 * summary.notes  # type: ignore[operator]
    assert 0 < with_claim <= summary.notes_with_claim  # type: ignore[operator]
    assert 0.03 < members / MEMBERS < 0.08  # type: ignore[operator]
    assert phones > 0  # type: ignore[operator]


def test_all_58_counties_have_members_among_twenty_thousand() -> None:
    rng = np.random.default_rng(0)
    found = set()
    for first in range(0, 20_000, 10_000):
        found |= set(people(rng, first, 10_000).county[:, 0].tolist())
    assert len(found) == 58


def test_a_folder_with_other_files_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("mine")
    with pytest.raises(DropRefused):
        synthetic.write(tmp_path / "theirs", 10, 1)
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["thesis.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_a_place_that_cannot_be_written_is_a_clear_refusal(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DropRefused) as refused:
        synthetic.write(tmp_path / "file" / "out", 10, 1)
    assert refused.value.code == "drop-failed"
    assert str(tmp_path) not in str(refused.value)


def test_an_interrupted_run_leaves_the_earlier_drop_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "sources"
    synthetic.write(out, 50, 1)
    before = digests(out)

    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthetic.write(out, 60, 2, stop)
    assert digests(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["sources"]
    synthetic.write(out, 60, 2)
    assert json.loads((out / "sources.json").read_text())["members"] == 60


@pytest.mark.parametrize(("members", "seed"), [(0, 1), (10_000_001, 1), (10, -1)])
def test_numbers_out_of_range_are_refused(tmp_path: Path, members: int, seed: int) -> None:
    with pytest.raises(synthetic.SynthRefused):
        synthetic.write(tmp_path / "out", members, seed)
    assert not list(tmp_path.iterdir())


def test_the_command_prints_its_summary_as_json(tmp_path: Path) -> None:
    result = CliRunner().invoke(synth, ["--members", "40", "--seed", "9", "--json", str(tmp_path / "out")])
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    assert summary["members"] == 40
    assert summary["files"] == len(list((tmp_path / "out").iterdir()))
    origin = json.loads((tmp_path / "out" / "sources.json").read_text())
    assert origin["synthetic"] is True
    assert date.fromisoformat(origin["as_of"]) == world.AS_OF


def test_the_county_table_adds_up_to_the_state_and_has_a_place_for_each() -> None:
    table = counties()
    assert len(table) == 58
    assert sum(county.population_2022 for county in table.values()) == 39_029_342
    assert [county.name for county in table.values()] == sorted(county.name for county in table.values())
    assert all(int(county.fips) == 6000 + 2 * int(code) - 1 for code, county in table.items())
    assert len({(county.tile_row, county.tile_col) for county in table.values()}) == 58
