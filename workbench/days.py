"""Which day it is, where a day decides: when a grant or a consent begins and ends.

The law's days end at midnight in California, wherever the machine stands. The log, the limits of a day and all
moments (a client's or a binding's end, break-glass) are in UTC.
"""

from __future__ import annotations

import os
import zoneinfo
from datetime import date, datetime

from workbench.errors import WorkbenchError

SETTING = "WORKBENCH_TIME_ZONE"
DEFAULT = "America/Los_Angeles"


class NoSuchZone(WorkbenchError):
    """It cannot be told which day it is."""

    code = "no-such-time-zone"
    http_status = 503


def time_zone() -> zoneinfo.ZoneInfo:
    """The zone whose days decide (WORKBENCH_TIME_ZONE). Raises NoSuchZone."""
    try:
        return zoneinfo.ZoneInfo(os.environ.get(SETTING) or DEFAULT)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        pass
    if not zoneinfo.available_timezones():
        raise NoSuchZone(
            "This machine has no database of time zones.",
            hint="Install the package tzdata of the requirements.",
        )
    raise NoSuchZone(
        f"{SETTING} names no zone of the tz database.",
        hint=f"Write it as {DEFAULT}, or leave it unset for that.",
    )


def today() -> date:
    """The day on which grants and consents are judged now. Raises NoSuchZone."""
    return datetime.now(time_zone()).date()
