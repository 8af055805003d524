"""Enrolment: spans joined where they touch or overlap, both ends included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import ibis

from workbench.lib.windows import days_between

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from workbench.lib.tables import Tables

OPEN_END = "2999-12-31"
"""Stands for the last day of a span that has none."""


def medical_spans(t: Tables) -> ir.Table:
    """One row per eligibility span with medical coverage: member_id, organisation_id, county_code, start, end."""
    e = t.eligibility
    spans = e.filter(e.medical.fill_null(True), e.start_date.notnull()).select(
        "member_id",
        "organisation_id",
        "county_code",
        start=e.start_date,
        end=e.end_date.fill_null(ibis.literal(OPEN_END).cast("date")),
    )
    return spans.filter(spans.end >= spans.start)


def unbroken(spans: ir.Table, keys: Sequence[str]) -> ir.Table:
    """One row per unbroken period of each key: keys, start, end. Spans that touch or overlap are one period."""
    spans = spans.select([*keys, "start", "end"]).distinct()
    before = ibis.rows_window(group_by=list(keys), order_by=["start", "end"], preceding=(None, 1))
    reached = spans.mutate(reached=spans.end.max().over(before))
    fresh = reached.mutate(
        fresh=ibis.cases(
            (reached.reached.isnull(), 1), (days_between(reached.reached, reached.start) > 1, 1), else_=0
        )
    )
    running = ibis.rows_window(group_by=list(keys), order_by=["start", "end"], preceding=(None, 0))
    numbered = fresh.mutate(period=fresh.fresh.sum().over(running))
    return (
        numbered.group_by([*keys, "period"])
        .agg(start=numbered.start.min(), end=numbered.end.max())
        .drop("period")
    )
