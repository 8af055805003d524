"""Which house plot fits a tabulation: lines over months, else horizontal bars."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from workbench.client.tabulation import Tabulation

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from workbench.lib.plots import Width

MOST_HIDDEN_BARS = 8
"""More hidden rows than this are named in a line instead of being drawn."""
RANKED = {"county", "plan", "race"}
"""Dimensions without an order of their own: the largest bar comes first."""


def warm() -> None:
    """Begins to import what draws, beside the caller: that takes longer than the broker's first answers."""
    threading.Thread(target=_import_plots, daemon=True).start()


def _import_plots() -> None:
    """Takes the list of fonts that was made with the environment: each new sandbox would search them anew."""
    folder = os.environ.get("MPLCONFIGDIR")
    if folder:
        with contextlib.suppress(OSError):
            Path(folder).mkdir(parents=True, exist_ok=True)
            for known in (Path(sys.prefix) / "share" / "matplotlib").glob("fontlist-*.json"):
                shutil.copyfile(known, Path(folder) / known.name)
    import workbench.lib.plots  # noqa: F401


def draw(tabulation: Tabulation, *, width: str = "wide", bare: bool = False) -> Figure:
    """The figure of a tabulation; of a measure with two numerators the first, or one line each over months."""
    from workbench.lib.plots import bar_rates, month_line

    size = cast("Width", width)
    names = [dimension.name for dimension in tabulation.dimensions]
    words: dict[str, Any] = {
        "title": "" if bare else tabulation.title,
        "verdict": "" if bare else tabulation.verdict,
        "synthetic": tabulation.synthetic,
        "width": size,
    }
    if names == ["month"]:
        numerators = tabulation.numerators or ["value"]
        titles = {"7d": "within 7 days", "30d": "within 30 days"}
        return month_line(
            _months(tabulation, numerators), series=numerators, names=titles, rate=tabulation.is_rate, **words
        )
    value = "rate" if tabulation.is_rate else "value"
    frame = _bars(tabulation, value, ranked=bool(names) and names[0] in RANKED)
    hidden = int(frame["hidden"].sum())
    if hidden > MOST_HIDDEN_BARS:
        empty = ~frame["hidden"] & (frame[value].isna() | (frame[value] == 0))
        frame = frame[~frame["hidden"] & ~empty]
        if frame.empty:
            frame = _bars_of_none(hidden, value)
        left_out = f"{hidden} rows are {tabulation.mark}" + (
            f", {int(empty.sum())} are empty" if empty.any() else ""
        )
        words["verdict"] = f"{left_out}: see the table. {words['verdict']}".strip()
    everybody = tabulation.total(_numerator(tabulation))
    overall = everybody["rate"] if everybody is not None and tabulation.is_rate and names else None
    return bar_rates(frame, label="label", value=value, overall=overall, **words)


def _numerator(tabulation: Tabulation) -> str | None:
    return tabulation.numerators[0] if tabulation.numerators else None


def _bars(tabulation: Tabulation, value: str, *, ranked: bool) -> pd.DataFrame:
    import pandas as pd

    first = _numerator(tabulation)
    rows = tabulation.parts if tabulation.dimensions else tabulation.rows
    records: list[dict[str, Any]] = [
        {
            "label": ", ".join(str(row[f"{d.name}_label"]) for d in tabulation.dimensions)
            or tabulation.population,
            "hidden": bool(row["hidden"]),
            **{name: row.get(name) for name in tabulation.values},
        }
        for row in rows
        if row.get("numerator") in (None, first)
    ]
    if ranked:
        records.sort(key=lambda r: (r["hidden"], r[value] is None, -(r[value] or 0), r["label"]))
    return pd.DataFrame(records, columns=["label", "hidden", *tabulation.values])


def _bars_of_none(hidden: int, value: str) -> pd.DataFrame:
    """One hidden bar in place of a plot without bars."""
    import pandas as pd

    return pd.DataFrame([{"label": f"All {hidden} with anybody", "hidden": True, value: None}]).reindex(
        columns=["label", "hidden", "denominator", "met", "rate", "value"]
    )


def _months(tabulation: Tabulation, series: list[str]) -> pd.DataFrame:
    import pandas as pd

    months: dict[str, dict[str, Any]] = {}
    for row in tabulation.parts:
        month = months.setdefault(row["month"], {"month": str(row["month_label"])[:3], "hidden": False})
        month["hidden"] = month["hidden"] or bool(row["hidden"])
        month[row.get("numerator", "value")] = row.get("rate") if tabulation.is_rate else row.get("value")
    return pd.DataFrame(list(months.values()), columns=["month", "hidden", *series])
