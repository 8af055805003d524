"""A slice's fitness for use in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ATTRIBUTION = {
    "current": "members who belong to the organisation today",
    "ever_own_period": "members while they belonged to the organisation",
}
_DATES = {"day": "dates to the day", "year": "dates to the year only: windows of days cannot be counted"}


def describe(fitness: Mapping[str, Any]) -> str:
    """One sentence: precision of dates, what was taken out, whose rows, and until when the data are complete."""
    if not fitness:
        return ""
    parts = []
    dates = fitness.get("dates")
    if dates:
        parts.append(_DATES.get(str(dates), f"dates: {dates}"))
    removed = fitness.get("categories_removed") or []
    if removed:
        parts.append(
            "claims taken out: " + ", ".join(str(category).replace("_", " ") for category in removed)
        )
    else:
        parts.append("no category taken out")
    attribution = fitness.get("attribution")
    if attribution:
        parts.append(_ATTRIBUTION.get(str(attribution), str(attribution).replace("_", " ")))
    through = fitness.get("complete_through")
    if through:
        parts.append(f"complete through {through}")
    return "Fitness: " + "; ".join(parts) + "."
