"""A table of counts or rates that passed disclosure control: small, complete, and safe to show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.client import show

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

HIDDEN = "hidden"
HIDDEN_NOTE = (
    "Hidden: the cell stands for 1 to 10 people, or could be used to work out one that does "
    "(CalHHS Data De-Identification Guidelines)."
)


class Tabulation:
    """One table of the catalogue. `.frame` is pandas with a `hidden` column; hidden numbers are missing."""

    def __init__(self, answer: Mapping[str, Any]):
        self._answer = dict(answer)
        self.table: str = answer["table"]
        self.title: str = answer.get("title") or answer["table"]
        self.unit: str = answer.get("unit") or "people"
        self.dimensions: list[str] = [_name(dimension) for dimension in answer["dimensions"]]
        self.rows: list[dict[str, Any]] = list(answer["rows"])
        self.verdict: str = answer.get("verdict") or ""
        self.synthetic: bool = bool(answer.get("synthetic"))
        self.release: str = answer.get("release") or ""
        self.grant: str = answer.get("grant") or ""

    @property
    def is_rate(self) -> bool:
        """Whether rows carry a rate with numerator and denominator, not only a count."""
        return any("rate" in row for row in self.rows)

    @property
    def values(self) -> list[str]:
        """The numbers of a row, in order."""
        return ["denominator", "met", "rate"] if self.is_rate else ["value"]

    @property
    def hidden(self) -> int:
        """How many cells are hidden."""
        return sum(bool(row.get("hidden")) for row in self.rows)

    @property
    def frame(self) -> pd.DataFrame:
        """One row per cell: dimensions, numbers (missing where hidden), `hidden`."""
        import pandas as pd

        columns = [*self.dimensions, *self.values, "hidden"]
        return pd.DataFrame([[row.get(name) for name in columns] for row in self.rows], columns=columns)

    def plot(self, **options: Any) -> Figure:
        """Horizontal bars, or a line over months, in the house style; hidden cells are marked, not drawn."""
        from workbench.client.draw import draw

        return draw(self, **options)

    def text_rows(self) -> list[list[str]]:
        """The rows as a reader sees them: counts with separators, rates in per cent, hidden cells as such."""
        return [
            [*(str(row.get(d)) for d in self.dimensions), *(self._number(row, v) for v in self.values)]
            for row in self.rows
        ]

    @property
    def note(self) -> str:
        """What stands under the table: how many cells are hidden and why, and the verdict."""
        parts = [
            f"{self.hidden} of {len(self.rows)} rows hidden. {HIDDEN_NOTE}"
            if self.hidden
            else "No cell is hidden."
        ]
        if self.verdict:
            parts.append(self.verdict)
        return " ".join(parts)

    def _number(self, row: Mapping[str, Any], name: str) -> str:
        if row.get("hidden"):
            return HIDDEN
        value = row.get(name)
        if value is None:
            return "–"
        return f"{value:.1%}" if name == "rate" else f"{value:,}"

    def __repr__(self) -> str:
        table = show.text_table([*self.dimensions, *self.values], self.text_rows())
        return "\n".join([self.title, *table, self.note, self._caption])

    def _repr_html_(self) -> str:
        rows = [
            [*row[: len(self.dimensions)], *(_right(text) for text in row[len(self.dimensions) :])]
            for row in self.text_rows()
        ]
        return show.panel(
            show.html_table([*self.dimensions, *self.values], rows),
            f"{self.title} · {self._caption}",
            note=self.note,
            synthetic=self.synthetic,
        )

    @property
    def _caption(self) -> str:
        parts = [
            self.unit,
            f"grant {self.grant}" if self.grant else "",
            f"release {self.release}" if self.release else "",
        ]
        return " · ".join(part for part in parts if part)


def _name(dimension: Any) -> str:
    return str(dimension["name"]) if isinstance(dimension, Mapping) else str(dimension)


def _right(text: str) -> show.Raw:
    colour = ";color:#94a3b8" if text == HIDDEN else ""
    return show.Raw(f'<span style="display:block;text-align:right{colour}">{text}</span>')
