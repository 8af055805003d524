"""Promises of the tables: people are counted, small cells and their complements are hidden in all tables together."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slice_world
import tiny_release
from attacker import attacker

from workbench.broker.slices import Slice, ensure, ensure_tabulation
from workbench.broker.state import State
from workbench.broker.tabulate import CATALOGUE, SpecRefused, check_spec, compute
from workbench.broker.vault import Vault
from workbench.deid.disclosure import Line
from workbench.lake.release import Release
from workbench.schema import value_sets
from workbench.schema.sensitive import Category

PUBLIC: dict[str, Any] = {
    "level": "aggregate",
    "organisation": {"relation": "state"},
    "channels": ["tabulate"],
    "sensitive": {"part2": "include", "basis": "deidentified_164_514"},
}
WITHOUT_PART2: dict[str, Any] = {**PUBLIC, "sensitive": {"part2": "exclude"}}
PLANS, RACES = ("golden-poppy", "sierra-vista"), ("asian", "black", "white")
COUNTIES = ("01", "19", "37")


def people() -> list[dict[str, Any]]:
    """900 people of fixed chance: 19 is the big county, 01 has seven people; black is the small race."""
    chance = random.Random(7)
    made = []
    for number in range(900):
        county = "01" if number < 7 else chance.choice(COUNTIES[1:])
        person = {"id": f"{number:08d}A", "county": county, "race": chance.choices(RACES, (10, 1, 10))[0]}
        made.append(
            {
                **person,
                "plan": chance.choice(PLANS),
                "age": chance.randrange(95),
                "events": chance.choice((0, 0, 0, 1, 2)),
            }
        )
    return made


def release(lake: Path, *, part2: int = 40) -> Release:
    """A release of these people, each covered in 2025, with events whose follow-up is a Part 2 claim for some."""
    rows: dict[str, list[dict[str, Any]]] = {"member": [], "member_month": [], "measure_event": []}
    rows["organisation"] = [{"organisation_id": p, "name": p.title(), "kind": "mcp"} for p in PLANS]
    rows["value_set"] = [{"value_set": "race", "code": r, "label": r.title()} for r in RACES]
    chance = random.Random(8)
    hidden = 0
    rows |= {name: [] for name in ("eligibility", "medical_claim_line", "diagnosis", "sensitive_claim")}
    follow_ups: list[dict[str, Any]] = []
    for person in people():
        id, county = person["id"], person["county"]
        rows["member"].append(
            {
                "member_id": id,
                "race": person["race"],
                "sex": "F",
                "birth_date": date(2025 - person["age"], 1, 1),
            }
        )
        month = {
            "member_id": id,
            "organisation_id": person["plan"],
            "county_code": county,
            "age": person["age"],
        }
        rows["member_month"] += [{**month, "month": date(2025, m, 1)} for m in (1, 12)]
        rows["member_month"].append(
            {**month, "month": date(2025, 6, 1), "county_code": "37", "organisation_id": PLANS[0]}
        )
        for n in range(person["events"]):
            seven = chance.random() < 0.4
            thirty = seven or chance.random() < 0.4
            by_part2 = thirty and hidden < part2 and person["events"] == 1 and person["age"] > 5
            hidden += by_part2
            event = {
                "measure": "FUM",
                "measure_year": 2025,
                "member_id": id,
                "event_id": f"E{id}{n}",
                "age": person["age"],
            }
            event |= {
                "event_date": date(2025, chance.randrange(1, 12), 9),
                "county_code": county,
                "organisation_id": person["plan"],
            }
            for numerator in ("7d", "30d"):
                met = seven if numerator == "7d" else thirty
                rows["measure_event"].append({**event, "basis": "all", "numerator": numerator, "met": met})
            if by_part2:
                follow_ups.append(_care(rows, event, 3 if seven else 20))
    events = {e["event_id"]: e for e in rows["measure_event"]}.values()
    rows["medical_claim"] = [
        {
            "claim_id": e["event_id"],
            "member_id": e["member_id"],
            "from_date": e["event_date"],
            "through_date": e["event_date"],
            "bill_type": "0131",
            "claim_status": "paid",
        }
        for e in events
    ]
    rows["medical_claim"] += follow_ups
    rows["value_set"] += value_sets.rows().to_pylist()
    return tiny_release.write(lake, rows)


def _care(rows: dict[str, list[dict[str, Any]]], event: dict[str, Any], days: int) -> dict[str, Any]:
    """What a measure sees of an emergency visit and of its follow-up, a Part 2 claim; gives the follow-up's header."""
    member, day = event["member_id"], event["event_date"]
    follow_up, then = f"F{event['event_id']}", day + timedelta(days=days)
    rows["eligibility"].append(
        {
            "member_id": member,
            "organisation_id": event["organisation_id"],
            "start_date": date(2024, 1, 1),
            "end_date": date(2026, 1, 31),
            "county_code": event["county_code"],
            "medical": True,
        }
    )
    for claim, when, place in ((event["event_id"], day, None), (follow_up, then, "11")):
        line = {
            "claim_id": claim,
            "member_id": member,
            "line_number": 1,
            "from_date": when,
            "through_date": when,
        }
        emergency = {"revenue_code": "0450", "procedure_code": "99284"}
        rows["medical_claim_line"].append(
            {
                **line,
                **(emergency if place is None else {"place_of_service": place, "procedure_code": "99213"}),
            }
        )
        code = {"role": "principal", "position": 1, "code_system": "ICD-10-CM", "code": "F329"}
        rows["diagnosis"].append({"claim_id": claim, "member_id": member, **code, "from_date": when})
    tag = {"kind": "medical", "category": "part2", "reason": "provider"}
    rows["sensitive_claim"].append({"claim_id": follow_up, "member_id": member, **tag})
    return {
        "claim_id": follow_up,
        "member_id": member,
        "from_date": then,
        "through_date": then,
        "claim_status": "paid",
    }


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Release, Vault, Path]]:
    folder = tmp_path_factory.mktemp("tabulate")
    state = State(f"sqlite:///{folder / 'state.sqlite'}", folder / "state")
    yield release(folder / "lake"), Vault(state), folder / "lake"
    state.close()


@pytest.fixture(scope="module")
def base(lake: tuple[Release, Vault, Path]) -> Slice:
    return tabulation(lake, PUBLIC)


def tabulation(lake: tuple[Release, Vault, Path], changes: dict[str, Any]) -> Slice:
    source, vault, folder = lake
    return ensure_tabulation(source, slice_world.grant(**changes), vault, folder)


def table(base: Slice, name: str, **parameters: Any) -> dict[str, Any]:
    return compute(base.path, {"table": name, "year": 2025, **parameters})


def values(answer: dict[str, Any]) -> dict[tuple[str, ...], int | None]:
    """(codes of the dimensions, numerator) → value, or the numerator's count."""
    names = [d["name"] for d in answer["dimensions"]]
    found = {}
    for row in answer["rows"]:
        key = (*(row[n] for n in names), *([row["numerator"]] if "numerator" in row else []))
        found[key] = row["met"] if "numerator" in row else row["value"]
    return found


def test_a_person_counts_once_where_the_last_covered_month_was(base: Slice) -> None:
    by_plan = values(table(base, "members_by_plan"))
    counted = {plan: sum(p["plan"] == plan for p in people()) for plan in PLANS}
    assert by_plan == {(plan,): n for plan, n in counted.items()} | {("total",): 900}


def test_every_county_has_its_row_and_zeros_are_shown(base: Slice) -> None:
    by_county = values(table(base, "members_by_county"))
    assert len(by_county) == 59
    assert by_county[("58",)] == 0
    assert by_county[("total",)] == 900


def test_seven_people_are_not_shown_and_neither_is_what_would_tell_them(base: Slice) -> None:
    answer = table(base, "members_by_county")
    hidden = [row["county"] for row in answer["rows"] if row["hidden"]]
    assert hidden[0] == "01" and len(hidden) == 2
    assert all(row["value"] is None for row in answer["rows"] if row["hidden"])
    assert answer["hidden_cells"] == 2


def test_primary_and_complementary_cells_carry_one_mark(base: Slice) -> None:
    rows = [row for row in table(base, "members_by_county")["rows"] if row["hidden"]]
    assert (
        len({json.dumps({k: v for k, v in row.items() if not k.startswith("county")}) for row in rows}) == 1
    )


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_table_of_the_catalogue_answers_with_its_verdict(base: Slice, name: str) -> None:
    answer = table(base, name)
    assert [d["name"] for d in answer["dimensions"]] == list(CATALOGUE[name].dimensions)
    assert json.loads(json.dumps(answer)) == answer
    for word in ("1 to 10 people", answer["release"], "2025-12-31"):
        assert word in answer["verdict"]
    assert answer["synthetic"] is True
    if name.startswith("fum"):
        assert "continuously enrolled" in answer["verdict"]
        assert {row["numerator"] for row in answer["rows"]} == {"7d", "30d"}


def test_a_rate_is_hidden_with_its_cell_and_else_right(base: Slice) -> None:
    rows = table(base, "fum_by_plan", numerator="30d")["rows"]
    total = next(row for row in rows if row["plan"] == "total")
    assert total["denominator"] == sum(p["events"] for p in people())
    assert total["rate"] == round(total["met"] / total["denominator"], 4)
    for row in (
        r for name in ("fum_by_county", "fum_by_race") for r in table(base, name)["rows"] if r["hidden"]
    ):
        assert (row["denominator"], row["met"], row["rate"], row["value"]) == (None, None, None, None)


def test_a_measure_cell_is_hidden_where_few_people_stand_behind_numerator_or_rest(base: Slice) -> None:
    chance = {(p["county"], p["id"]) for p in people() if p["events"]}
    small = {county for county in COUNTIES if 0 < sum(c == county for c, _ in chance) < 11}
    rows = table(base, "fum_by_county")["rows"]
    assert small == {"01"}
    assert all(row["hidden"] for row in rows if row["county"] in small)


FAMILIES = {
    "members": ["value"],
    "FUM": ["denominator", "met 7d", "met 30d"],
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("grant", [PUBLIC, WITHOUT_PART2], ids=["with part 2", "without"])
def test_nobody_solves_a_small_cell_from_all_tables_of_a_family(
    lake: tuple[Release, Vault, Path], family: str, grant: dict[str, Any]
) -> None:
    """All published tables side by side, an attacker who adds and subtracts, and the truth to compare with."""
    answers = [
        table(tabulation(lake, grant), name) for name, spec in CATALOGUE.items() if spec.family == family
    ]
    for what in FAMILIES[family]:
        shown: dict[frozenset[tuple[str, str]], int | None] = {}
        lines = []
        for answer in answers:
            names = [d["name"] for d in answer["dimensions"]]
            for row in answer["rows"]:
                if row.get("numerator") in (None, what.partition(" ")[2] or "7d"):
                    cell = frozenset((n, row[n]) for n in names if row[n] != "total")
                    value = row[what.split()[0]]
                    assert shown.setdefault(cell, value) == value, "one cell, two answers"
            lines += _lines(answer)
        cells = list(shown)
        number = {cell: n for n, cell in enumerate(cells)}
        hidden = np.array([shown[c] is None for c in cells])
        known = np.array([shown[c] or 0 for c in cells])
        numbered = [Line(tuple(number[c] for c in parts), number[total]) for parts, total in lines]
        assert hidden.any()
        solved = attacker(known, hidden, numbered)
        assert not [cells[c] for c, value in solved.items() if 0 < value < 11]


def _lines(
    answer: dict[str, Any],
) -> list[tuple[list[frozenset[tuple[str, str]]], frozenset[tuple[str, str]]]]:
    codes = {d["name"]: d["codes"] for d in answer["dimensions"]}
    lines = []
    for name in codes:
        for other in product(*([(n, c) for c in codes[n]] for n in codes if n != name)):
            fixed = {(n, c) for n, c in other if c != "total"}
            parts = [frozenset({*fixed, (name, code)}) for code in codes[name] if code != "total"]
            lines.append((parts, frozenset(fixed)))
    return lines


def test_whole_minus_visible_does_not_single_out_part_2_people(tmp_path: Path) -> None:
    """Five people's follow-up is a Part 2 claim: who can count the rest himself must not get the whole."""
    state = State(f"sqlite:///{tmp_path / 's.sqlite'}", tmp_path / "state")
    few = release(tmp_path / "lake", part2=5), Vault(state), tmp_path / "lake"
    without, with_ = (
        table(tabulation(few, g), "fum_by_state", numerator="30d")["rows"][0] for g in (WITHOUT_PART2, PUBLIC)
    )
    assert without["hidden"] and without["met"] is None
    assert with_["met"] is not None
    state.close()


def test_the_visible_basis_is_what_the_slice_of_the_same_grant_shows(
    lake: tuple[Release, Vault, Path],
) -> None:
    """Forty people's follow-up is a Part 2 claim: on the basis `visible` they have none, on the basis `all` they do."""
    source, vault, folder = lake
    excluding = slice_world.grant(organisation={"relation": "state"})
    base = ensure_tabulation(source, excluding, vault, folder)
    slice_ = ensure(source, excluding, vault, folder)
    counted = "SELECT numerator, count(*), count(*) FILTER (met) FROM {} GROUP BY 1 ORDER BY 1"
    visible = slice_world.query(base, counted.format("event WHERE basis = 'visible'"))
    everything = slice_world.query(base, counted.format("event WHERE basis = 'all'"))
    assert visible == slice_world.query(slice_, counted.format("measure_event"))
    assert [a[1] - v[1] for a, v in zip(everything, visible, strict=True)] == [0, 0]
    assert everything[0][0] == "30d" and everything[0][2] - visible[0][2] == 40
    assert slice_world.column(slice_, "SELECT DISTINCT basis FROM measure_event") == ["visible"]


def test_the_base_rests_on_every_claim_but_the_slice_of_the_same_grant_does_not(
    lake: tuple[Release, Vault, Path],
) -> None:
    source, vault, folder = lake
    excluding = slice_world.grant(organisation={"relation": "state"})
    assert ensure_tabulation(source, excluding, vault, folder).fitness["categories_removed"] == []
    assert ensure(source, excluding, vault, folder).fitness["categories_removed"] == list(Category)


def test_the_base_names_nobody(base: Slice) -> None:
    names = {name for columns in base.tables().values() for name, _, _ in columns}
    assert not names & {"member_id", "claim_id", "event_id", "birth_date", "zip", "event_date"}
    people_numbers = slice_world.column(base, "SELECT DISTINCT person FROM event")
    assert all(isinstance(number, int) for number in people_numbers)


@pytest.mark.parametrize(
    ("spec", "code", "says"),
    [
        ({"table": "members_by_shoe_size", "year": 2025}, "unknown-table", "members_by_county"),
        ({"year": 2025}, "unknown-table", "members_by_county"),
        (
            {"table": "members_by_county", "year": 2025, "county": "19"},
            "unknown-parameter",
            "no free filters",
        ),
        ({"table": "members_by_county", "year": 2025, "numerator": "7d"}, "unknown-parameter", "year"),
        ({"table": "fum_by_state", "year": 2025, "numerator": "8d"}, "bad-parameter", "7d or 30d"),
        ({"table": "fum_by_state", "year": "2025; drop table"}, "bad-parameter", "whole number"),
        ({"table": "fum_by_state"}, "bad-parameter", "whole number"),
        ({"table": "fum_by_state", "year": 1999}, "unknown-year", "2025"),
        ({"table": ["fum_by_state"], "year": 2025}, "unknown-table", "fum_by_state"),
    ],
)
def test_a_specification_outside_the_catalogue_is_refused_with_what_there_is(
    base: Slice, spec: dict[str, Any], code: str, says: str
) -> None:
    with pytest.raises(SpecRefused) as caught:
        compute(base.path, spec)
    assert caught.value.code == code
    assert says in caught.value.hint
    assert "drop" not in str(caught.value)


def test_a_valid_specification_is_typed() -> None:
    spec = check_spec({"table": "fum_by_county", "year": 2025, "numerator": "7d"})
    assert (spec.table, spec.year, spec.numerator) == ("fum_by_county", 2025, "7d")
