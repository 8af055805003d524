"""Results: fitness decides how a measure may be had; rates, words and plots follow the events."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pandas as pd
import pytest

from workbench.lib.breakdowns import UnknownBreakdown
from workbench.lib.fitness import Fit, UnfitSlice, check, require
from workbench.lib.measures import MEASURES
from workbench.lib.result import MeasureResult, UnknownNumerator

FUM = MEASURES["FUM"]
NEEDED = list(FUM.needs)
EXACT = {"dates": "day", "categories_removed": [], "attribution": "current", "complete_through": "2025-12-31"}

# dates | removed | attribution | measure_event there | visible_only | kind
TRUTH = [
    ("day", [], "current", False, False, "exact"),
    ("day", [], "state", True, False, "exact"),
    ("day", [], "current", False, True, "exact"),
    ("day", ["part2"], "current", False, False, "unfit"),
    ("day", ["part2"], "current", True, False, "unfit"),
    ("day", ["part2"], "current", True, True, "visible"),
    ("year", [], "state", True, False, "derived"),
    ("year", [], "state", False, False, "unfit"),
    ("year", [], "state", False, True, "unfit"),
    ("year", ["part2"], "state", True, True, "unfit"),
    ("day", [], "ever_own_period", True, False, "derived"),
    ("day", [], "ever_own_period", False, False, "unfit"),
]


@pytest.mark.parametrize(("dates", "removed", "attribution", "results", "visible", "kind"), TRUTH)
def test_a_slice_gives_a_measure_exactly_from_results_or_not_at_all(
    dates: str, removed: list[str], attribution: str, results: bool, visible: bool, kind: str
) -> None:
    fitness = {"dates": dates, "categories_removed": removed, "attribution": attribution}
    tables = [*NEEDED, *(["measure_event"] if results else [])]
    assert check(FUM, fitness, tables, visible_only=visible).kind == kind


def test_an_unfit_slice_is_refused_with_the_reason_and_the_tabulation_that_answers() -> None:
    with pytest.raises(UnfitSlice) as refused:
        require(FUM, {**EXACT, "categories_removed": ["part2"]}, NEEDED)
    assert "42 CFR Part 2" in refused.value.reason
    assert 's.tabulate("fum_by_county"' in refused.value.hint


def test_a_missing_table_is_named() -> None:
    fit = check(FUM, EXACT, [t for t in NEEDED if t != "diagnosis"], visible_only=True)
    assert fit.kind == "unfit"
    assert "diagnosis" in fit.reason


def test_a_result_on_visible_claims_says_so_in_capitals() -> None:
    fit = require(FUM, {**EXACT, "categories_removed": ["part2"]}, NEEDED, visible_only=True)
    assert "VISIBLE CLAIMS ONLY" in fit.verdict


def result(synthetic: bool = True, **columns: list[object]) -> MeasureResult:
    events: dict[str, list[object]] = {
        "event_id": ["e1", "e2", "e3", "e4"],
        "member_id": ["a", "a", "b", "c"],
        "event_date": [dt.date(2025, 1, 5), dt.date(2025, 3, 1), dt.date(2025, 3, 2), dt.date(2025, 3, 3)],
        "county_code": ["19", "19", "01", "01"],
        "organisation_id": ["p", None, "p", "p"],
        "race": ["white", "white", "aian", "unknown"],
        "sex": ["F", "F", "M", "F"],
        "age": [6, 17, 90, 45],
        "denominator": [True, True, True, False],
        "met_7d": [True, False, False, None],
        "met_30d": [True, True, False, None],
    }
    frame = pd.DataFrame({**events, **columns})
    return MeasureResult(FUM, 2025, frame, Fit("exact", "Data complete."), synthetic, "Grant g")


def rows(frame: pd.DataFrame) -> list[tuple[object, ...]]:
    return list(frame.itertuples(index=False, name=None))


def test_rates_count_events_of_the_denominator_and_distinct_people() -> None:
    assert rows(result().rates()) == [
        ("7d", 3, 1, 2, pytest.approx(1 / 3)),
        ("30d", 3, 2, 2, pytest.approx(2 / 3)),
    ]


def test_rates_by_group_carry_words_in_their_own_order() -> None:
    race = result().rates("race")
    assert list(race["race"].unique()) == ["American Indian or Alaska Native", "White"]
    assert list(result().rates("age_group")["age_group"].unique()) == ["6 to 17", "65 and over"]
    assert list(result().rates("month")["month"].unique()) == ["Jan", "Mar"]
    assert list(result().rates("county")["county"].unique()) == ["Alameda", "Los Angeles"]
    assert "No single plan" in set(result().rates("plan")["plan"])


def test_rates_of_a_breakdown_add_up_to_the_whole() -> None:
    whole = result().rates().set_index("numerator")
    for by in ("county", "race", "sex", "age_group", "month", "plan"):
        parts = result().rates(by).groupby("numerator")[["denominator", "met"]].sum()
        assert parts.loc["30d"].tolist() == whole.loc["30d", ["denominator", "met"]].tolist()
    assert len(result().rates(["county", "sex"])) == 4


def test_no_event_gives_no_rate_and_still_shows() -> None:
    none = result(denominator=[False] * 4)
    assert rows(none.rates())[0][:4] == ("7d", 0, 0, 0)
    assert "–" in repr(none)
    assert none.plot() is not None
    assert none.rates("county").empty
    assert none.plot("county") is not None


def test_a_breakdown_that_the_level_took_away_is_refused_with_those_that_work() -> None:
    full = result()
    coarse = dataclasses.replace(full, events=full.events.drop(columns=["county_code", "event_date"]))
    for by in ("county", "month", "shoe_size"):
        with pytest.raises(UnknownBreakdown) as refused:
            coarse.rates(by)
        assert "race" in refused.value.hint
        assert "county" not in refused.value.hint


def test_an_unknown_numerator_is_refused() -> None:
    with pytest.raises(UnknownNumerator, match=r"7d, 30d"):
        result().plot("county", numerator="9d")


@pytest.mark.parametrize("synthetic", [True, False])
def test_words_carry_mark_verdict_and_source(synthetic: bool) -> None:
    shown = result(synthetic)
    for text in (repr(shown), shown._repr_html_()):
        assert ("SYNTHETIC DATA" in text) == synthetic
        assert shown.verdict in text
        assert "Grant g" in text
        assert "66.7%" in text


@pytest.mark.parametrize("by", [None, "race", "month", "county", "plan"])
def test_every_breakdown_draws_with_the_rate_of_all(by: str | None) -> None:
    figure = result().plot(by)
    said = " ".join(text.get_text() for text in figure.texts)
    assert "Emergency visits for mental illness" in said
    if by in ("race", "county", "plan"):
        assert "all: 66.7%" in [text.get_text() for text in figure.axes[0].texts]


def test_a_plan_without_a_known_name_keeps_its_id() -> None:
    plain = result()
    ids = set(plain.rates("plan")["plan"])
    known = sorted(ids)[0]
    named = dataclasses.replace(plain, plans={known: "A Plan With a Name"})
    assert set(named.rates("plan")["plan"]) == (ids - {known}) | {"A Plan With a Name"}
