"""Breakdowns of results: the names people use for them, and the words for their codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from workbench.errors import WorkbenchError
from workbench.schema import value_sets
from workbench.schema.counties import counties

AGE_GROUPS = {"0 to 5": 5, "6 to 17": 17, "18 to 44": 44, "45 to 64": 64, "65 and over": 1_000}
"""Label -> last age in whole years."""
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
SEXES = {"F": "Female", "M": "Male", "U": "Unknown"}
UNKNOWN = "Unknown"
SEVERAL_PLANS = "No single plan"
"""An event whose 31 days two plans share belongs to neither."""


class UnknownBreakdown(WorkbenchError):
    """A breakdown that there is not, or that the slice's level took away."""

    code = "unknown-breakdown"


@dataclass(frozen=True)
class Breakdown:
    """One way to break results down: the column it needs, its title, and the labels in their order."""

    name: str
    title: str
    column: str
    labels: Callable[[pd.Series], pd.Series]
    order: Callable[[], list[str]]


def _mapped(names: Callable[[], Mapping[str, str]], none: str = UNKNOWN) -> Callable[[pd.Series], pd.Series]:
    def labels(codes: pd.Series) -> pd.Series:
        words = names()
        named = [none if pd.isna(code) else words.get(code, str(code)) for code in codes]
        return pd.Series(named, index=codes.index, dtype=object)

    return labels


def _races() -> list[str]:
    labels = list(value_sets.codes("race").values())
    last = [label for label in ("Other", UNKNOWN) if label in labels]
    return [label for label in labels if label not in last] + last


def _age_group(ages: pd.Series) -> pd.Series:
    edges = [-1, *AGE_GROUPS.values()]
    cut = pd.cut(ages.astype("float64"), bins=edges, labels=list(AGE_GROUPS)).astype(object)
    return cut.where(cut.notna(), UNKNOWN).astype(str)


def _month(dates: pd.Series) -> pd.Series:
    return pd.to_datetime(dates).dt.month.map(lambda month: MONTHS[int(month) - 1])


def _names_of_counties() -> dict[str, str]:
    return {code: county.name for code, county in counties().items()}


BREAKDOWNS: Mapping[str, Breakdown] = {
    b.name: b
    for b in (
        Breakdown("county", "county", "county_code", _mapped(_names_of_counties), list),
        Breakdown(
            "race",
            "race and ethnicity",
            "race",
            _mapped(lambda: value_sets.codes("race")),
            _races,
        ),
        Breakdown("sex", "sex", "sex", _mapped(lambda: SEXES), lambda: list(SEXES.values())),
        Breakdown("age_group", "age", "age", _age_group, lambda: list(AGE_GROUPS)),
        Breakdown("month", "month of the visit", "event_date", _month, lambda: list(MONTHS)),
        Breakdown("plan", "plan", "organisation_id", _mapped(dict, none=SEVERAL_PLANS), list),
    )
}


def breakdown(name: str, columns: pd.Index) -> Breakdown:
    """The breakdown of that name, if its column is there. Raises UnknownBreakdown, naming those that work."""
    found = BREAKDOWNS.get(name)
    if found is not None and found.column in columns:
        return found
    works = [b.name for b in BREAKDOWNS.values() if b.column in columns]
    why = "there is no such breakdown" if found is None else "this slice's level does not hold it"
    raise UnknownBreakdown(
        f"Results cannot be broken down by {name!r}: {why}.", hint=f"Possible: {', '.join(works)}."
    )
