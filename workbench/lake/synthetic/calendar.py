"""Days as numbers since 1970-01-01 and months as 0 to 35, so that everything is array arithmetic."""

from __future__ import annotations

from datetime import date

import numpy as np
import numpy.typing as npt

from workbench.lake.synthetic.world import FIRST_DAY, FIRST_MONTH, LAST_DAY, MONTHS

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

EPOCH = date(1970, 1, 1)
NEVER = 1 << 30
"""A day that does not come: the death of the living."""


def number(day: date) -> int:
    """Days since 1970-01-01."""
    return (day - EPOCH).days


FIRST, LAST = number(FIRST_DAY), number(LAST_DAY)
YEAR_MONTHS = tuple(divmod(FIRST_MONTH[0] * 12 + FIRST_MONTH[1] - 1 + m, 12) for m in range(MONTHS + 1))
"""(year, month from 0) of each month of the period, and of the one after."""
MONTH_START: Ints = np.array(
    [number(date(year, month + 1, 1)) for year, month in YEAR_MONTHS], dtype=np.int64
)


def month_of(day: Ints) -> Ints:
    """The month of the period in which each day lies; days outside fall to the first or last month."""
    return np.clip(np.searchsorted(MONTH_START, day, side="right") - 1, 0, MONTHS - 1).astype(np.int64)


def age_on(day: Ints | int, birth: Ints) -> Ints:
    """Age in years, good enough for choosing care (365.25 days a year)."""
    return np.asarray((day - birth) // 365.25, dtype=np.int64)
