"""Windows of days: differences, ages, and the first event of every so many days."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ibis

if TYPE_CHECKING:
    import ibis.expr.types as ir


def days_between(first: ir.DateValue, last: ir.DateValue) -> ir.IntegerValue:
    """Days from `first` to `last`: 0 on the same day, negative if `last` is earlier."""
    return last.delta(first, unit="day")


def age_on(birth: ir.DateValue, day: ir.DateValue) -> ir.IntegerValue:
    """Whole years on `day`. The birthday counts; who was born on 29 February has it on 1 March in other years."""
    had_birthday = (day.month() > birth.month()) | (
        (day.month() == birth.month()) & (day.day() >= birth.day())
    )
    return (day.year() - birth.year() - ibis.ifelse(had_birthday, 0, 1)).cast("int32")


def first_of_every(events: ir.Table, days: int, span: int) -> ir.Table:
    """The events that stay when each kept one silences those of its member on the next `days - 1` days.

    `events` has member_id and event_date, all dates of a member within `span` days; the answer has the same two
    columns, one row per kept event. The first is kept, then the first that lies `days` or more after the last kept.

    Each event points to the first one `days` or more later. Following the pointers from a member's first event gives
    the kept ones; doubling the length of the hops (1, 2, 4, …) needs a few joins where a recursion needs one for
    each kept event, and a bounded number of them is plain SQL.
    """
    events = events.select("member_id", "event_date").distinct()
    later = events.view()
    hops = (
        events.join(later, [events.member_id == later.member_id])
        .filter(days_between(events.event_date, later.event_date) >= days)
        .group_by([events.member_id, events.event_date])
        .agg(to_date=later.event_date.min())
    )
    kept = events.group_by("member_id").agg(event_date=events.event_date.min())
    most = span // days + 1
    reach = 1
    while reach < most:
        onward = kept.join(hops, ["member_id", "event_date"]).select("member_id", event_date="to_date")
        kept = kept.union(onward)
        reach *= 2
        if reach < most:
            second = hops.view()
            hops = hops.join(
                second, [hops.member_id == second.member_id, hops.to_date == second.event_date]
            ).select(hops.member_id, hops.event_date, to_date=second.to_date)
    return kept
