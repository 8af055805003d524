"""The plot of the review page: how many rows each caller took on each of the last days."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

DAYS = 28
CALLERS = 3
"""Drawn each by herself: those who took most; all others together."""
OTHERS = "all others"
_LABELLED = {"wide": (6, 13, 20, 27), "phone": (2, 14, 26)}
"""Days with a date below; a phone's axis has a tick for every other day."""


def volume(days: Sequence[Mapping[str, Any]], today: date, *, synthetic: bool) -> dict[str, str]:
    """The plot as SVG, `wide` and for a `phone`; empty where nobody took a row in the last four weeks."""
    import pandas as pd

    from workbench.lib.plots import Width, month_line, to_svg

    rows: dict[str, Counter[str]] = defaultdict(Counter)
    shown = [today - timedelta(days=back) for back in reversed(range(DAYS))]
    for day in days:
        if shown[0].isoformat() <= day["day"] <= today.isoformat() and day["rows"]:
            rows[day["user"] or "unknown"][day["day"]] += int(day["rows"])
    if not rows:
        return {}
    most = sorted(rows, key=lambda user: (-rows[user].total(), user))
    series = {user: rows[user] for user in most[:CALLERS]}
    if most[CALLERS:]:
        series[OTHERS] = sum((rows[user] for user in most[CALLERS:]), Counter())
    widths: tuple[Width, ...] = ("wide", "phone")
    drawn: dict[str, str] = {}
    for width in widths:
        labels = [f"{d.day} {d:%b}" if n in _LABELLED[width] else "" for n, d in enumerate(shown)]
        values = {user: [series[user][d.isoformat()] for d in shown] for user in series}
        drawn[width] = to_svg(
            month_line(
                pd.DataFrame({"day": labels, **values}),
                month="day",
                series=list(series),
                title="Rows taken a day",
                subtitle=f"Rows of answers on each of the last {DAYS} days (UTC), by the callers who took most",
                source="Source: the audit log, events “ended”.",
                synthetic=synthetic,
                rate=False,
                width=width,
            )
        )
    return drawn
