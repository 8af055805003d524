"""Columns to text: one string per record, built column-wise, empty elements as runs of delimiters."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta

import numpy as np
import polars as pl

from workbench.lake.apcd_layout import DELIMITER, ELEMENTS
from workbench.lake.synthetic.calendar import Ints, number

_EARLIEST, _LATEST = date(1910, 1, 1), date(2031, 1, 1)


def _day_texts(form: str) -> pl.Series:
    count = (_LATEST - _EARLIEST).days
    return pl.Series([(_EARLIEST + timedelta(days=day)).strftime(form) for day in range(count)])


_COMPACT, _ISO = _day_texts("%Y%m%d"), _day_texts("%Y-%m-%d")


def texts(table: tuple[str, ...] | list[str] | pl.Series, index: Ints) -> pl.Series:
    """The strings of a table at these positions."""
    series = table if isinstance(table, pl.Series) else pl.Series(table, dtype=pl.String)
    return series.gather(pl.Series(index))


def days(day: Ints, iso: bool = False) -> pl.Series:
    """Days as YYYYMMDD, or YYYY-MM-DD."""
    return texts(_ISO if iso else _COMPACT, day - number(_EARLIEST))


def days_where(day: Ints, present: np.ndarray, iso: bool = False) -> pl.Series:
    """Days as text where present, empty elsewhere."""
    text = days(np.where(present, day, 0), iso)
    return pl.select(pl.when(pl.Series(present)).then(text).otherwise(pl.lit(""))).to_series()


def money(cents: Ints) -> pl.Series:
    """Cents as dollars with two decimals."""
    series = pl.Series(cents)
    return (series // 100).cast(pl.String) + "." + (series % 100).cast(pl.String).str.zfill(2)


def whole(numbers: Ints) -> pl.Series:
    """Whole numbers as text."""
    return pl.Series(numbers).cast(pl.String)


def records(file_type: str, columns: Mapping[str, pl.Series | str]) -> pl.Series:
    """One record per row, without line end. `columns` maps element ids to a column, or to one text for all rows."""
    unknown = set(columns) - set(ELEMENTS[file_type])
    if unknown:
        raise KeyError(*sorted(unknown))
    parts: list[pl.Expr] = []
    frame: dict[str, pl.Series] = {}
    literal = ""
    for place, element in enumerate(ELEMENTS[file_type]):
        if place:
            literal += DELIMITER
        given = columns.get(element, "")
        if isinstance(given, str):
            literal += given
            continue
        if literal:
            parts.append(pl.lit(literal))
            literal = ""
        frame[element] = given
        parts.append(pl.col(element))
    if literal:
        parts.append(pl.lit(literal))
    return pl.DataFrame(frame).select(pl.concat_str(parts).alias("record"))["record"]
