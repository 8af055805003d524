"""A measure over the session's slice: computed there, served from the release's results, or refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.lib.fitness import Fit, require
from workbench.lib.measures import Measure, measure
from workbench.lib.result import MeasureResult
from workbench.lib.tables import Tables

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from workbench.client.session import Session

PERSON = ("sex", "race")
"""Columns of the member that results are broken down by, where the level holds them."""


def run(session: Session, name: str, *, year: int, visible_only: bool) -> MeasureResult:
    """The measure's events of one year with their rates and verdict. Raises UnknownMeasure, UnfitSlice."""
    chosen = measure(name)
    tables = session.tables
    fit = require(chosen, session.fitness, list(tables), visible_only=visible_only)
    t = Tables.from_backend(tables.__getitem__)
    events = _derived(t, chosen, year) if fit.kind == "derived" else chosen.events(t, year)
    return MeasureResult(
        measure=chosen,
        year=year,
        events=_with_person(events, t).execute(),
        fit=_stamped(fit, session),
        synthetic=session.synthetic,
        source=f"Grant {session.grant}, release {session.release}",
    )


def _derived(t: Tables, chosen: Measure, year: int) -> ir.Table:
    """The release's own events of the slice's members, one row per event with a met_… column for each numerator."""
    rows = t.measure_event
    rows = rows.filter(rows.measure == chosen.name, rows.measure_year == year)
    keys = [c for c in rows.columns if c not in {"measure", "measure_year", "basis", "numerator", "met"}]
    met = {f"met_{n}": rows.met.max(where=rows.numerator == n) for n in chosen.numerators}
    return rows.group_by(keys).agg(**met).mutate(denominator=True)


def _with_person(events: ir.Table, t: Tables) -> ir.Table:
    wanted = [c for c in PERSON if c in t.member.columns and c not in events.columns]
    return events.left_join(t.member.select("member_id", *wanted), "member_id").drop("member_id_right")


def _stamped(fit: Fit, session: Session) -> Fit:
    """The fit with whose events these are: a slice of present members is not the plan's population of that year."""
    if session.fitness.get("attribution") != "current":
        return fit
    words = "Events of the members whom this grant holds today, with whatever plan they had then."
    return Fit(fit.kind, f"{fit.reason} {words}".strip(), fit.hint)
