"""A table of counts or rates that passed disclosure control: small, complete, and safe to show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.client import show

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

TOTAL = "total"
"""The broker's code of a total, in any dimension."""
NONE = "–"


@dataclass(frozen=True)
class Dimension:
    """One dimension of a table: its name, as in `frame`, and its title for readers."""

    name: str
    title: str


class Tabulation:
    """One table of the catalogue. `.frame` is pandas with a `hidden` column; hidden numbers are missing."""

    def __init__(self, answer: Mapping[str, Any]):
        self.table: str = answer["table"]
        self.title: str = answer.get("title") or answer["table"]
        self.unit: str = answer.get("unit") or "people"
        self.dimensions = [Dimension(d["name"], d["title"]) for d in answer["dimensions"]]
        self.rows: list[dict[str, Any]] = [_exact(row) for row in answer["rows"]]
        self.mark: str = answer.get("mark") or "hidden"
        """What stands in place of a hidden number."""
        self.verdict: str = answer.get("verdict") or ""
        self.synthetic: bool = bool(answer.get("synthetic"))
        self.release: str = answer.get("release") or ""
        self.population: str = answer.get("population") or ""

    @property
    def is_rate(self) -> bool:
        """Whether rows carry a rate with its numbers, not only a count."""
        return any("rate" in row for row in self.rows)

    @property
    def numerators(self) -> list[str]:
        """The numerators of a measure that the table has, in order."""
        return list(dict.fromkeys(row["numerator"] for row in self.rows if "numerator" in row))

    @property
    def values(self) -> list[str]:
        """The numbers of a row, in order."""
        return ["denominator", "met", "rate"] if self.is_rate else ["value"]

    @property
    def hidden(self) -> int:
        """How many rows are hidden."""
        return sum(bool(row["hidden"]) for row in self.rows)

    @property
    def parts(self) -> list[dict[str, Any]]:
        """The rows without totals."""
        return [row for row in self.rows if not self._is_total(row)]

    def total(self, numerator: str | None = None) -> dict[str, Any] | None:
        """The row of everybody, of one numerator where there are two."""
        for row in self.rows:
            everybody = all(row[d.name] == TOTAL for d in self.dimensions)
            if everybody and numerator in (None, row.get("numerator")):
                return row
        return None

    @property
    def frame(self) -> pd.DataFrame:
        """One row per cell: code and label of each dimension, numbers (missing where hidden), `hidden`."""
        import pandas as pd

        columns = [name for d in self.dimensions for name in (d.name, f"{d.name}_label")]
        columns += [*(["numerator"] if self.is_rate else []), *self.values, "hidden"]
        return pd.DataFrame([[row.get(name) for name in columns] for row in self.rows], columns=columns)

    def plot(self, *, width: str = "wide", bare: bool = False) -> Figure:
        """Horizontal bars, or lines over months, in the house style; hidden cells are marked, never drawn.

        `width` is wide (a desk) or phone; a `bare` plot leaves title and verdict to the page around it.
        """
        from workbench.client.draw import draw

        return draw(self, width=width, bare=bare)

    def svg(self, *, width: str = "wide", bare: bool = False) -> str:
        """The plot as SVG text."""
        from workbench.lib.plots import to_svg

        return to_svg(self.plot(width=width, bare=bare))

    @property
    def headings(self) -> list[str]:
        """Column headings for readers."""
        words = {
            "denominator": self.unit.capitalize(),
            "met": "Met",
            "rate": "Rate",
            "value": self.unit.capitalize(),
        }
        both = ["Within"] if len(self.numerators) > 1 else []
        return [*(d.title for d in self.dimensions), *both, *(words[name] for name in self.values)]

    def text_rows(self) -> list[list[str]]:
        """The rows as a reader sees them: labels, counts with separators, rates in per cent, hidden cells as such."""
        both = len(self.numerators) > 1
        return [
            [
                *(str(row[f"{d.name}_label"]) for d in self.dimensions),
                *([str(row["numerator"])] if both else []),
                *(self._number(row, name) for name in self.values),
            ]
            for row in self.rows
        ]

    @property
    def note(self) -> str:
        """What stands under the table: how much is hidden, and the verdict."""
        hidden = (
            f"{self.hidden} of {len(self.rows)} rows are {self.mark}."
            if self.hidden
            else "Nothing is hidden."
        )
        return f"{hidden} {self.verdict}".strip()

    def _is_total(self, row: Mapping[str, Any]) -> bool:
        return any(row[d.name] == TOTAL for d in self.dimensions)

    def _number(self, row: Mapping[str, Any], name: str) -> str:
        if row["hidden"]:
            return self.mark
        value = row.get(name)
        if value is None:
            return NONE
        return f"{value:.1%}" if name == "rate" else f"{value:,}"

    def __repr__(self) -> str:
        return "\n".join(
            [self.title, *show.text_table(self.headings, self.text_rows()), self.note, self._caption]
        )

    def _repr_html_(self) -> str:
        words = len(self.headings) - len(self.values)
        rows = [
            [*row[:words], *(_right(text, self.mark) for text in row[words:])] for row in self.text_rows()
        ]
        return show.panel(
            show.html_table(self.headings, rows),
            f"{self.title} · {self._caption}",
            note=self.note,
            synthetic=self.synthetic,
        )

    @property
    def _caption(self) -> str:
        parts = ["SYNTHETIC DATA" if self.synthetic else "", self.unit, self.population]
        return " · ".join(part for part in parts if part)


def _exact(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its rate as met over denominator, not as rounded for transport."""
    if row.get("met") is None or not row.get("denominator"):
        return dict(row)
    return {**row, "rate": row["met"] / row["denominator"]}


def _right(text: str, mark: str) -> show.Raw:
    colour = ";color:#94a3b8" if text == mark else ""
    return show.Raw(f'<span style="display:block;text-align:right{colour}">{text}</span>')
