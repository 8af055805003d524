"""Whether a slice can answer a measure exactly, from the release's own results, or not at all."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from workbench.errors import WorkbenchError
from workbench.lib.measures import Measure

Kind = Literal["exact", "derived", "visible", "unfit"]


class UnfitSlice(WorkbenchError):
    """A slice that would give a wrong number for the measure."""

    code = "unfit-slice"
    http_status = 409


@dataclass(frozen=True)
class Fit:
    """How a measure can be had from a slice.

    exact: computed from the slice's own rows. derived: the release's results, which the slice holds. visible: on
    what is visible only, asked for in so many words. unfit: not at all; `reason` and `hint` say why and what instead.
    """

    kind: Kind
    reason: str
    hint: str = ""

    @property
    def verdict(self) -> str:
        """What stands on every table and plot."""
        words = {
            "exact": "Exact for this slice",
            "derived": "Computed over the whole release, served from its results",
            "visible": "VISIBLE CLAIMS ONLY: not the measure's true rate",
            "unfit": "Not available from this slice",
        }
        return f"{words[self.kind]}. {self.reason}".strip()


def check(
    measure: Measure, fitness: Mapping[str, Any], tables: Collection[str], *, visible_only: bool = False
) -> Fit:
    """How `measure` can be had from a slice with this fitness and these tables.

    `fitness` is the slice manifest's: dates (day or year), categories_removed, attribution, complete_through.
    """
    faults = _faults(measure, fitness, tables)
    through = fitness.get("complete_through")
    complete = f"Data complete through {through}." if through else ""
    if not faults:
        return Fit("exact", complete)
    if "measure_event" in tables and not fitness.get("categories_removed"):
        return Fit("derived", f"{_sentence(faults)} {complete}".strip())
    reason = _sentence(faults)
    if visible_only and not _missing(measure, tables) and fitness.get("dates", "day") == "day":
        return Fit("visible", f"{reason} {complete}".strip())
    return Fit(
        "unfit",
        reason,
        hint=f'Ask for the tabulation: s.tabulate("{measure.name.lower()}_by_county", year=…).',
    )


def require(
    measure: Measure, fitness: Mapping[str, Any], tables: Collection[str], *, visible_only: bool = False
) -> Fit:
    """`check`, but a slice that is unfit raises UnfitSlice."""
    fit = check(measure, fitness, tables, visible_only=visible_only)
    if fit.kind == "unfit":
        raise UnfitSlice(f"{measure.name} cannot be computed from this slice: {fit.reason}", hint=fit.hint)
    return fit


def _missing(measure: Measure, tables: Collection[str]) -> list[str]:
    return [table for table in measure.needs if table not in tables]


def _faults(measure: Measure, fitness: Mapping[str, Any], tables: Collection[str]) -> list[str]:
    faults = []
    dates = fitness.get("dates", "day")
    if measure.precision == "day" and dates != "day":
        faults.append(f"its dates are known to the {dates} only, and the measure counts days")
    removed = fitness.get("categories_removed") or []
    if removed:
        names = ", ".join({"part2": "42 CFR Part 2"}.get(str(c), str(c)) for c in removed)
        faults.append(
            f"claims of {names} were taken out, and some of them are visits that the measure counts"
        )
    if fitness.get("attribution") == "ever_own_period":
        faults.append(
            "members are seen only while they belonged to the organisation, and care around it counts too"
        )
    missing = _missing(measure, tables)
    if missing:
        faults.append(f"it lacks {', '.join(missing)}")
    return faults


def _sentence(faults: list[str]) -> str:
    text = "; ".join(faults)
    return f"{text[0].upper()}{text[1:]}."
