"""A measure's events with who they are about, from claims or from the release's own results."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ibis

from workbench.lib.marks import joined_to

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from workbench.lib.measures import Measure
    from workbench.lib.tables import Tables

ABOUT_MEMBER = ("race", "sex")


def from_claims(t: Tables, measure: Measure, year: int, settings: object | None = None) -> ir.Table:
    """The measure's events, computed from the tables, each with the member's race and sex."""
    return _with_member(t, measure.events(t, year, settings))


def from_results(t: Tables, measure: Measure, year: int) -> ir.Table:
    """The counted events as the release computed them (`measure_event`), in the shape of `from_claims`.

    Columns that the slice's level took away (dates, county, plan) are absent; no evidence of the follow-up is kept. Raises YearOutOfRange.
    """
    measure.check_year(year)
    e = t.measure_event.filter(t.measure_event.measure == measure.name, t.measure_event.measure_year == year)
    keys = [
        c
        for c in ("event_id", "member_id", "event_date", "organisation_id", "county_code", "age")
        if c in e.columns
    ]
    met = {f"met_{name}": e.met.max(where=e.numerator == name) for name in measure.numerators}
    events = e.group_by(keys).agg(**met).mutate(denominator=ibis.literal(True), excluded=ibis.literal(False))
    return _with_member(t, events)


def _with_member(t: Tables, events: ir.Table) -> ir.Table:
    known = [column for column in ABOUT_MEMBER if column in t.member.columns]
    return joined_to(events, t.member.select("member_id", *known), "member_id")
