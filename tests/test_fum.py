"""FUM: the library's expression against a slow reference on random members, and what it promises its callers."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import re
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import fum_random
import fum_reference
import ibis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.lake import deck
from workbench.lib.encounters import NOT_AMBULATORY, RESIDENTIAL, STAYS
from workbench.lib.measures import (
    MEASURES,
    UnknownMeasure,
    YearOutOfRange,
    event_rows,
    evidence,
    measure,
    rates,
)
from workbench.lib.measures.fum import FOLLOW_UP_CODES, ILLNESS, REASONS, SELF_HARM, WIDER, FumSettings
from workbench.lib.tables import Tables, UnknownTable
from workbench.schema import value_sets
from workbench.schema.dictionary import dictionary

FUM = MEASURES["FUM"]
DEFAULT = FumSettings()
EVERY_OTHER_WAY = FumSettings(
    self_harm_any_position_before_my2025=True,
    follow_up_any_position_before_my2025=True,
    denied_claims_count=False,
    residential_is_admission_my2025=False,
)


@functools.cache
def compiled(year: int, chosen: FumSettings) -> str:
    return str(ibis.to_sql(FUM.events(Tables.unbound(), year, chosen), dialect="duckdb"))


def library(rows: dict[str, list[dict[str, Any]]], year: int, chosen: FumSettings) -> list[dict[str, Any]]:
    with deck.connect(fum_random.arrow(rows)) as connection:
        answer: list[dict[str, Any]] = connection.sql(compiled(year, chosen)).to_arrow_table().to_pylist()
    return answer


def agree(random: Random, members: int, year: int, chosen: FumSettings) -> Counter[str]:
    rows = fum_random.tables(random, members, year)
    answer = library(rows, year, chosen)
    full = {name: table.to_pylist() for name, table in fum_random.arrow(rows).items() if name != "value_set"}
    counted = {(e["member_id"], e["event_date"]): e for e in answer if e["denominator"]}
    wanted = fum_reference.answer(full, year, chosen)
    columns = ("organisation_id", "met_7d", "met_30d", "followup_days")
    assert {key: [e[c] for c in columns] for key, e in counted.items()} == {
        key: [e[c] for c in columns] for key, e in wanted.items()
    }
    for event in answer:
        assert event["denominator"] == (event["reason"] is None)
        assert event["denominator"] == (event["met_7d"] is not None) == (event["met_30d"] is not None)
        assert not (event["denominator"] and event["excluded"])
    return Counter(e["reason"] or "counted" for e in answer)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(
    st.randoms(use_true_random=False),
    st.sampled_from([2024, 2025]),
    st.sampled_from([DEFAULT, EVERY_OTHER_WAY]),
)
def test_library_and_reference_agree_on_any_members(random: Random, year: int, chosen: FumSettings) -> None:
    agree(random, 4, year, chosen)


@pytest.mark.parametrize("chosen", [DEFAULT, EVERY_OTHER_WAY], ids=["default", "other"])
@pytest.mark.parametrize("year", [2024, 2025])
def test_library_and_reference_agree_on_many_members_and_every_reason_occurs(
    year: int, chosen: FumSettings
) -> None:
    reasons = agree(Random(f"{year}"), 1_000, year, chosen)
    assert reasons["counted"] > 100
    assert set(REASONS) <= set(reasons)


def chain(days: list[int]) -> list[int]:
    kept: list[int] = []
    for day in sorted(set(days)):
        if not kept or day - kept[-1] >= 31:
            kept.append(day)
    return kept


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.integers(0, 334), min_size=1, max_size=60), min_size=1, max_size=30))
def test_the_31_day_rule_counts_from_the_last_kept_visit(members: list[list[int]]) -> None:
    from workbench.lib.windows import first_of_every

    start = dt.date(2025, 1, 1)
    visits = [(f"m{n}", start + dt.timedelta(day)) for n, days in enumerate(members) for day in days]
    unbound = ibis.table({"member_id": "string", "event_date": "date"}, name="visit")
    query = ibis.to_sql(first_of_every(unbound, 31, span=366), dialect="duckdb")
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE visit (member_id VARCHAR, event_date DATE)")
        connection.executemany("INSERT INTO visit VALUES (?, ?)", visits)
        got = sorted(connection.execute(query).fetchall())
    wanted = [(f"m{n}", start + dt.timedelta(day)) for n, days in enumerate(members) for day in chain(days)]
    assert got == sorted(wanted)


def test_a_visit_a_day_keeps_all_eleven_of_a_year() -> None:
    assert len(chain(list(range(335)))) == 11
    test_the_31_day_rule_counts_from_the_last_kept_visit.hypothesis.inner_test([list(range(335))])  # type: ignore[attr-defined]


def test_fum_reads_only_what_it_declares() -> None:
    """Over tables cut down to the declared columns the same SQL still binds."""
    narrow = {name: Tables.unbound()[name].select(*columns).schema() for name, columns in FUM.needs.items()}
    tables = {name: ibis.table(schema, name=name) for name, schema in narrow.items()}
    expression = FUM.events(Tables.from_backend(tables.__getitem__), 2025)
    assert "SELECT" in ibis.to_sql(expression, dialect="duckdb")


def test_fum_is_one_plain_statement() -> None:
    text = compiled(2025, DEFAULT).upper()
    assert "RECURSIVE" not in text
    for word in ("UNNEST", "GENERATE_SERIES", "LIST_", "READ_", "STRUCT_PACK", "->"):
        assert word not in text


def test_the_broker_s_gate_admits_fum() -> None:
    from workbench.broker import gate

    tables = {name: list(table.columns) for name, table in dictionary().items()}
    expression = evidence.from_claims(Tables.unbound(), FUM, 2025)
    admitted = gate.admit(ibis.to_sql(expression, dialect="duckdb"), tables)
    assert set(FUM.needs) <= set(admitted.tables)


def one_case() -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    rows["member"] = [
        {
            "member_id": "m",
            "birth_date": dt.date(1990, 1, 1),
            "county_code": "01",
            "race": "white",
            "sex": "F",
        }
    ]
    rows["eligibility"] = [
        {
            "member_id": "m",
            "organisation_id": plan,
            "start_date": dt.date(2025, *start),
            "end_date": dt.date(2025, *end),
            "county_code": county,
            "medical": True,
        }
        for plan, county, start, end in (("a", "19", (1, 1), (6, 30)), ("b", "37", (7, 1), (12, 31)))
    ]
    days = {"e1": dt.date(2025, 3, 1), "e2": dt.date(2025, 6, 15), "f1": dt.date(2025, 3, 5)}
    rows["medical_claim"] = [
        {"claim_id": c, "member_id": "m", "claim_status": "paid", "from_date": d, "through_date": d}
        for c, d in days.items()
    ]
    rows["medical_claim_line"] = [
        {
            "claim_id": c,
            "line_number": 1,
            "member_id": "m",
            "from_date": d,
            "procedure_code": "99284" if c.startswith("e") else "90834",
            "place_of_service": "23" if c.startswith("e") else "11",
        }
        for c, d in days.items()
    ]
    rows["diagnosis"] = [
        {
            "claim_id": c,
            "member_id": "m",
            "role": "principal",
            "position": 1,
            "code_system": "ICD-10-CM",
            "code": "F329",
        }
        for c in days
    ]
    return rows


def test_an_event_carries_its_plan_county_and_evidence() -> None:
    first, second = sorted(library(one_case(), 2025, DEFAULT), key=lambda e: e["event_date"])
    assert first == {
        "event_id": "e1",
        "member_id": "m",
        "event_date": dt.date(2025, 3, 1),
        "organisation_id": "a",
        "county_code": "19",
        "age": 35,
        "denominator": True,
        "excluded": False,
        "reason": None,
        "met_7d": True,
        "met_30d": True,
        "followup_claim_id": "f1",
        "followup_date": dt.date(2025, 3, 5),
        "followup_days": 4,
    }
    assert second["denominator"]
    assert second["organisation_id"] is None, "two plans share the 31 days: neither has the event"
    assert second["met_30d"] is False


def run_over(rows: dict[str, list[dict[str, Any]]], expression: Any) -> list[dict[str, Any]]:
    with deck.connect(fum_random.arrow(rows)) as connection:
        answer: list[dict[str, Any]] = (
            connection.sql(ibis.to_sql(expression, dialect="duckdb")).to_arrow_table().to_pylist()
        )
    return answer


def test_rates_count_events_met_and_people() -> None:
    events = evidence.from_claims(Tables.unbound(), FUM, 2025)
    assert run_over(one_case(), rates(events).order_by("numerator")) == [
        {"numerator": "30d", "denominator": 2, "met": 1, "people": 1, "rate": 0.5},
        {"numerator": "7d", "denominator": 2, "met": 1, "people": 1, "rate": 0.5},
    ]
    by_plan = rates(events, by=["organisation_id"])
    got = {(r["organisation_id"], r["numerator"]): r["rate"] for r in run_over(one_case(), by_plan)}
    assert got == {("a", "7d"): 1.0, ("a", "30d"): 1.0, (None, "7d"): 0.0, (None, "30d"): 0.0}


def test_rates_of_no_event_are_zero_counts_without_a_rate() -> None:
    events = FUM.events(Tables.unbound(), 2024)
    for row in run_over(one_case(), rates(events)):
        assert (row["denominator"], row["met"], row["people"], row["rate"]) == (0, 0, 0, None)


def test_event_rows_have_the_shape_of_measure_event_and_give_the_same_events_back() -> None:
    t = Tables.unbound()
    rows = run_over(one_case(), event_rows(FUM.events(t, 2025), "FUM", 2025, "all"))
    assert list(rows[0]) == list(dictionary()["measure_event"].columns)
    assert len({(r["event_id"], r["numerator"]) for r in rows}) == 4
    served = run_over(
        {"member": one_case()["member"], "measure_event": rows}, evidence.from_results(t, FUM, 2025)
    )
    columns = ("event_id", "event_date", "organisation_id", "met_7d", "met_30d", "race", "denominator")
    computed = run_over(one_case(), evidence.from_claims(t, FUM, 2025))
    assert sorted([[str(r[c]) for c in columns] for r in served]) == sorted(
        [[str(r[c]) for c in columns] for r in computed]
    )


def test_unknown_measure_year_and_table_are_refused_by_name() -> None:
    with pytest.raises(UnknownMeasure, match=r"FUX.*FUM"):
        measure("FUX")
    assert measure("fum") is FUM
    with pytest.raises(YearOutOfRange, match="2022 to 2026"):
        FUM.events(Tables.unbound(), 1999)
    with pytest.raises(UnknownTable, match="no_table"):
        Tables.unbound()["no_table"]


def test_the_page_of_the_measure_names_every_setting_reason_column_and_code_list() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "measures" / "FUM.md").read_text(encoding="utf-8")
    names = [setting.name for setting in dataclasses.fields(FumSettings)]
    columns = list(FUM.events(Tables.unbound(), 2025).columns)
    for word in (*names, *columns, *FOLLOW_UP_CODES, ILLNESS, SELF_HARM, WIDER, *STAYS, RESIDENTIAL):
        assert f"`{word}`" in page, word
    numbered = re.findall(r"^\d+\. (.*)$", page, flags=re.MULTILINE)
    assert numbered == list(REASONS)


def test_every_code_list_that_the_measure_names_exists() -> None:
    wanted = (*FOLLOW_UP_CODES, ILLNESS, SELF_HARM, WIDER, *STAYS, RESIDENTIAL, *NOT_AMBULATORY)
    assert set(wanted) | {"expired", "hospice_or_home_health", "home_health_bill"} <= set(value_sets.names())
