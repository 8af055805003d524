"""Plots in the house style: drawn by matplotlib as SVG, with no script and nothing loaded from anywhere.

Every plot names its subject, says where its numbers come from and what they are worth, and carries SYNTHETIC DATA
where the people are invented. A hidden cell is hatched, never drawn at a height.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
import matplotlib.ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

if TYPE_CHECKING:
    import pandas as pd

Width = Literal["wide", "phone"]

INK, SOFT, FAINT, GRID, TRACK = "#0f172a", "#475569", "#64748b", "#e2e8f0", "#f1f5f9"
AMBER = "#b45309"
SERIES = ("#0f766e", "#b45309", "#4338ca", "#0369a1", "#9d174d")
"""Told apart with red-green and blue-yellow colour blindness, and by lightness in print."""
MARKERS = ("o", "s", "D", "^", "v")
HIDDEN_FACE, HIDDEN_EDGE = "#f8fafc", "#94a3b8"
HIDDEN = "hidden"
HIDDEN_NOTE = "Hidden: stands for 1 to 10 people, or would let such a cell be worked out (CalHHS Data De-Identification Guidelines)."
SYNTHETIC = "SYNTHETIC DATA"
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
INCHES = {"wide": 8.6, "phone": 4.3}
_MARGIN = 0.22


@contextmanager
def house_style() -> Iterator[None]:
    """Fonts, colours and lines of the house, for figures drawn inside the `with`."""
    style: dict[str, Any] = {
        "font.family": ["DejaVu Sans"],
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": SOFT,
        "axes.edgecolor": GRID,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "xtick.color": SOFT,
        "ytick.color": SOFT,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "hatch.color": HIDDEN_EDGE,
        "hatch.linewidth": 0.8,
        "lines.linewidth": 2.2,
        "svg.fonttype": "none",
        "svg.hashsalt": "workbench",
        "figure.facecolor": "white",
    }
    with mpl.rc_context(style):
        yield


@dataclass(frozen=True)
class _Frame:
    """The words around a plot, laid out in inches from the top and from the bottom."""

    title: str
    subtitle: str
    notes: Sequence[str]
    synthetic: bool
    width: float

    def _lines(self, text: str, size: float) -> list[str]:
        per_line = int((self.width - 2 * _MARGIN) / (size * 0.0083))
        return textwrap.wrap(text, per_line) or []

    def head(self) -> list[tuple[str, float, str, str]]:
        rows: list[tuple[str, float, str, str]] = []
        if self.synthetic:
            rows.append((SYNTHETIC, 8, AMBER, "bold"))
        rows += [(line, 13, INK, "bold") for line in self._lines(self.title, 14)]
        rows += [(line, 10, SOFT, "normal") for line in self._lines(self.subtitle, 10)]
        return rows

    def foot(self) -> list[str]:
        return [line for note in self.notes if note for line in self._lines(note, 8)]

    @property
    def head_height(self) -> float:
        return _MARGIN + sum(size * 0.0205 for _, size, _, _ in self.head()) + 0.14

    @property
    def foot_height(self) -> float:
        return _MARGIN * 0.7 + len(self.foot()) * 0.155

    def write(self, figure: Figure, height: float) -> None:
        """Writes head and foot on a figure of that height."""
        y = height - _MARGIN
        for text, size, colour, weight in self.head():
            badge = text == SYNTHETIC and size == 8
            figure.text(
                (_MARGIN + (0.045 if badge else 0)) / self.width,
                (y - (0.03 if badge else 0)) / height,
                text,
                va="top",
                fontsize=size,
                color="white" if badge else colour,
                fontweight=weight,
                bbox={"boxstyle": "square,pad=0.35", "facecolor": AMBER, "edgecolor": "none"}
                if badge
                else None,
            )
            y -= size * 0.0205 + (0.1 if badge else 0)
        y = self.foot_height - 0.02
        for line in self.foot():
            figure.text(_MARGIN / self.width, y / height, line, va="top", fontsize=8, color=FAINT)
            y -= 0.155


def bar_rates(
    frame: pd.DataFrame,
    *,
    label: str,
    value: str = "rate",
    title: str,
    subtitle: str = "",
    verdict: str = "",
    source: str = "",
    synthetic: bool,
    overall: float | None = None,
    width: Width = "wide",
) -> Figure:
    """Horizontal bars, one row of `frame` each in its order: a rate (0 to 1) or, for any other `value`, a count.

    `frame` has `label` and `value`, and may have `hidden` (hatched instead of drawn), `met` and `denominator` (shown
    behind the rate). `overall` draws a line across at the rate of all.
    """
    is_rate = value == "rate"
    hidden = _hidden(frame)
    notes = [HIDDEN_NOTE if any(hidden) else "", verdict, source]
    inches = INCHES[width]
    words = _Frame(title, subtitle, notes, synthetic, inches)
    labels = [_wrapped(str(text), 18 if width == "phone" else 30) for text in frame[label]]
    tall = [0.30 + 0.15 * text.count("\n") for text in labels]
    body = sum(tall) + 0.1
    head = words.head_height + (0.16 if synthetic else 0.06) + (0.2 if overall is not None else 0)
    height = head + body + 0.32 + words.foot_height
    known = [
        float(v) for v, h in zip(frame[value], hidden, strict=True) if not h and v == v and v is not None
    ]
    top = _ceiling(max([*known, overall or 0.0], default=0.0), is_rate)
    texts = [_value_text(row, value, is_rate, width) for row in frame.to_dict("records")]
    left = (
        _MARGIN + 0.14 + 0.083 * max((len(line) for text in labels for line in text.split("\n")), default=4)
    )
    right = (
        _MARGIN + 0.12 + 0.078 * max((len(t) for t, h in zip(texts, hidden, strict=True) if not h), default=4)
    )
    with house_style():
        figure = Figure(figsize=(inches, height))
        axes = figure.add_axes(
            (
                left / inches,
                (words.foot_height + 0.32) / height,
                (inches - left - right) / inches,
                body / height,
            )
        )
        axes.set_xlim(0, top)
        axes.set_ylim(body, 0)
        gap = 0.07 * top / (inches - left - right)
        at = 0.05
        for text, written, size, h, amount in zip(labels, texts, tall, hidden, frame[value], strict=True):
            middle = at + size / 2
            _bar(axes, middle, top, None if h or amount is None or amount != amount else float(amount), h)
            axes.text(-gap, middle, text, ha="right", va="center", fontsize=9.5, color=INK, linespacing=1.05)
            if not h:
                axes.text(top + gap, middle, written, ha="left", va="center", fontsize=9, color=SOFT)
            at += size
        if overall is not None:
            axes.axvline(overall, color=INK, linewidth=1.1, linestyle=(0, (3, 2)))
            axes.text(
                overall, -0.05, f"all: {overall:.1%}", ha="center", va="bottom", fontsize=8.5, color=INK
            )
        _value_axis(axes, top, is_rate)
        words.write(figure, height)
    return figure


def month_line(
    frame: pd.DataFrame,
    *,
    month: str = "month",
    series: Sequence[str],
    names: Mapping[str, str] | None = None,
    title: str,
    subtitle: str = "",
    verdict: str = "",
    source: str = "",
    synthetic: bool,
    rate: bool = True,
    width: Width = "wide",
) -> Figure:
    """A line over months for each column of `series`; months that are hidden are hatched bands without a point.

    `frame` has one row a month in order, `month` as text, the series as rates (0 to 1) or counts, and may have `hidden`.
    """
    hidden = _hidden(frame)
    notes = [HIDDEN_NOTE if any(hidden) else "", verdict, source]
    inches = INCHES[width]
    words = _Frame(title, subtitle, notes, synthetic, inches)
    body = 2.9 if width == "wide" else 2.3
    head = words.head_height + (0.16 if synthetic else 0.06) + 0.28
    height = head + body + 0.42 + words.foot_height
    months = [str(text) for text in frame[month]]
    places = list(range(len(months)))
    with house_style():
        figure = Figure(figsize=(inches, height))
        left = 0.62
        axes = figure.add_axes(
            (
                left / inches,
                (words.foot_height + 0.42) / height,
                (inches - left - 0.3) / inches,
                body / height,
            )
        )
        largest = 0.0
        for place, h in zip(places, hidden, strict=True):
            if h:
                axes.axvspan(
                    place - 0.42,
                    place + 0.42,
                    facecolor=HIDDEN_FACE,
                    hatch="////",
                    edgecolor=HIDDEN_EDGE,
                    lw=0,
                )
                axes.text(
                    place, 0.5, HIDDEN, transform=axes.get_xaxis_transform(), rotation=90, ha="center", va="center",
                    fontsize=8.5, color=SOFT, bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none"},
                )  # fmt: skip
        for column, colour, marker in zip(series, SERIES, MARKERS, strict=False):
            points = [
                float("nan") if h or v is None else float(v)
                for v, h in zip(frame[column], hidden, strict=True)
            ]
            largest = max([largest, *(p for p in points if p == p)])
            axes.plot(
                places,
                points,
                color=colour,
                marker=marker,
                markersize=5.5,
                label=(names or {}).get(column, column),
            )
        top = _ceiling(largest, rate)
        axes.set_ylim(0, top)
        axes.set_xlim(-0.5, len(months) - 0.5)
        step = 1 if width == "wide" or len(months) <= 6 else 2
        axes.set_xticks(places[::step], months[::step], fontsize=9)
        axes.grid(axis="y")
        axes.yaxis.set_major_formatter(_formatter(rate))
        axes.spines["left"].set_visible(False)
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.02, 1.0),
            ncols=len(series),
            frameon=False,
            fontsize=9.5,
            handlelength=1.6,
            columnspacing=1.6,
            borderaxespad=0.2,
        )
        words.write(figure, height)
    return figure


def to_svg(figure: Figure) -> str:
    """The figure as an SVG element: text stays text, and equal figures give equal bytes."""
    text = io.StringIO()
    with house_style():
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace("DejaVu Sans", "§").replace("'§'", FONTS).replace("§", FONTS)
    return re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)


def _hidden(frame: pd.DataFrame) -> list[bool]:
    return [bool(h) for h in frame["hidden"]] if "hidden" in frame.columns else [False] * len(frame)


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width)) or " "


def _value_text(row: Mapping[Any, Any], value: str, is_rate: bool, width: Width) -> str:
    amount = row.get(value)
    if amount is None or amount != amount:
        return "–"
    if not is_rate:
        return f"{int(amount):,}"
    met, denominator = row.get("met"), row.get("denominator")
    if width == "phone" or met is None or denominator is None or met != met or denominator != denominator:
        return f"{amount:.1%}"
    return f"{amount:.1%}  ({int(met):,} of {int(denominator):,})"


def _bar(axes: Axes, middle: float, top: float, amount: float | None, hidden: bool) -> None:
    low, size = middle - 0.09, 0.18
    if hidden:
        axes.add_patch(
            Rectangle(
                (0, low), top, size, facecolor=HIDDEN_FACE, edgecolor=HIDDEN_EDGE, hatch="//////", linewidth=0
            )
        )
        axes.text(
            top / 2,
            middle,
            HIDDEN,
            ha="center",
            va="center",
            fontsize=8.5,
            color=SOFT,
            bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none"},
        )
        return
    axes.add_patch(Rectangle((0, low), top, size, facecolor=TRACK, linewidth=0))
    if amount:
        axes.add_patch(Rectangle((0, low), max(amount, 0.004 * top), size, facecolor=SERIES[0], linewidth=0))


def _value_axis(axes: Axes, top: float, is_rate: bool) -> None:
    axes.xaxis.set_major_formatter(_formatter(is_rate))
    axes.xaxis.set_major_locator(
        mpl.ticker.MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10], integer=not is_rate)
    )
    axes.tick_params(axis="x", labelsize=8.5, pad=2)
    axes.set_yticks([])
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def _formatter(is_rate: bool) -> mpl.ticker.FuncFormatter:
    return mpl.ticker.FuncFormatter(lambda v, _: f"{v:.0%}" if is_rate else f"{v:,.0f}")


def _ceiling(largest: float, is_rate: bool) -> float:
    """A round end of the axis a little above the largest value; rates end at 100 % at most."""
    if is_rate:
        return next((step for step in (0.1, 0.2, 0.4, 0.6, 0.8) if largest <= step * 0.97), 1.0)
    if largest <= 0:
        return 1.0
    unit = 10.0 ** (len(str(int(largest))) - 1)
    return next(unit * m for m in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if largest <= unit * m)
