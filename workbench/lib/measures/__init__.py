"""The quality measures: each a pure function from tables to a table of events, with what it needs declared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError
from workbench.lib.measures import fum
from workbench.lib.measures.rates import event_rows, rates

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from workbench.lib.tables import Tables

__all__ = ["MEASURES", "Measure", "UnknownMeasure", "event_rows", "measure", "rates"]


class UnknownMeasure(WorkbenchError):
    """A measure that the library does not have."""

    code = "unknown-measure"
    http_status = 404


class YearOutOfRange(WorkbenchError):
    """A measurement year for which the rule is not known."""

    code = "year-out-of-range"


@dataclass(frozen=True)
class Measure:
    """One measure: its names, what it reads, how precise the dates must be, and its function."""

    name: str
    title: str
    subject: str
    """What is counted, as a plot's title says it."""
    numerators: tuple[str, ...]
    numerator_titles: Mapping[str, str]
    needs: Mapping[str, tuple[str, ...]]
    """Table -> columns that the function reads."""
    compute: Callable[[Tables, int, Any], ir.Table]
    settings: type
    precision: str = "day"
    event: bool = True
    years: range = range(2022, 2027)

    def events(self, t: Tables, year: int, settings: object | None = None) -> ir.Table:
        """One row per candidate event, counted or not, with the reason and the evidence. Raises YearOutOfRange."""
        self.check_year(year)
        return self.compute(t, year, settings)

    def check_year(self, year: int) -> None:
        """Raises YearOutOfRange for a year for which the rule is not known."""
        if year not in self.years:
            raise YearOutOfRange(
                f"{self.name} is defined for the years {self.years[0]} to {self.years[-1]}.",
                hint="Choose one of these years.",
            )


_LINE = ("place_of_service", "revenue_code", "procedure_code")
MEASURES: Mapping[str, Measure] = {
    "FUM": Measure(
        name="FUM",
        title="Follow-up after an emergency department visit for mental illness",
        subject="Emergency visits for mental illness with follow-up",
        numerators=tuple(fum.NUMERATORS),
        numerator_titles={"7d": "within 7 days", "30d": "within 30 days"},
        needs={
            "member": ("member_id", "birth_date", "death_date", "county_code"),
            "eligibility": (
                "member_id",
                "organisation_id",
                "start_date",
                "end_date",
                "county_code",
                "medical",
            ),
            "medical_claim": (
                "claim_id",
                "member_id",
                "claim_status",
                "from_date",
                "through_date",
                "admission_date",
                "discharge_date",
                "discharge_status",
                "bill_type",
            ),
            "medical_claim_line": ("claim_id", "line_number", "from_date", *_LINE),
            "diagnosis": ("claim_id", "role", "code_system", "code"),
            "value_set": ("value_set", "code_system", "code", "match"),
        },
        compute=fum.events,
        settings=fum.FumSettings,
    )
}
"""Every measure by its name."""


def measure(name: str) -> Measure:
    """The measure of that name, whatever its case. Raises UnknownMeasure, naming those that there are."""
    found = MEASURES.get(name.upper())
    if found is None:
        raise UnknownMeasure(
            f"There is no measure {name!r}.",
            hint=f"There are: {', '.join(MEASURES)}. See `workbench measures list`.",
        )
    return found
