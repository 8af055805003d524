"""Rates of a measure from its events, and the events as the release keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import ibis

if TYPE_CHECKING:
    import ibis.expr.types as ir


def rates(events: ir.Table, by: Sequence[str] = ()) -> ir.Table:
    """Counts and rate of each numerator over the counted events, one row per group of `by` and numerator.

    Columns: `by`, numerator, denominator (events), met (events), people (distinct members of the denominator), rate
    (met / denominator, 0 to 1). `events` is a measure's answer, with the columns of `by` joined to it by the caller.
    """
    counted = events.filter(events.denominator)
    names = [column.removeprefix("met_") for column in events.columns if column.startswith("met_")]
    parts = []
    for name in names:
        met = counted[f"met_{name}"].cast("int64")
        group = counted.group_by(list(by)) if by else counted
        part = group.agg(denominator=counted.count(), met=met.sum(), people=counted.member_id.nunique())
        parts.append(
            part.select(
                *by,
                numerator=ibis.literal(name),
                denominator=part.denominator,
                met=part.met.fill_null(0),
                people=part.people,
                rate=ibis.ifelse(part.denominator > 0, part.met / part.denominator, ibis.null("float64")),
            )
        )
    return ibis.union(*parts) if len(parts) > 1 else parts[0]


def event_rows(events: ir.Table, measure: str, year: int, basis: str) -> ir.Table:
    """The counted events in the shape of the table `measure_event`: one row per event and numerator.

    `basis` is `all` or `visible`: over which claims the events were computed.
    """
    counted = events.filter(events.denominator)
    names = [column.removeprefix("met_") for column in events.columns if column.startswith("met_")]
    parts = [
        counted.select(
            measure=ibis.literal(measure),
            measure_year=ibis.literal(year).cast("int32"),
            basis=ibis.literal(basis),
            event_id=counted.event_id,
            member_id=counted.member_id,
            event_date=counted.event_date,
            organisation_id=counted.organisation_id,
            county_code=counted.county_code,
            age=counted.age,
            numerator=ibis.literal(name),
            met=counted[f"met_{name}"],
        )
        for name in names
    ]
    return ibis.union(*parts) if len(parts) > 1 else parts[0]
