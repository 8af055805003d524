"""What a report's notebook shows: counts and rates with small cells hidden, tables, key figures, the stamp. HTML text.

The rule for small cells is the one of the tabulations (workbench.deid.disclosure): a report is for holders of its
grant, but it is a page that gets passed on, so that no cell of it stands for 1 to 10 people.
"""

from __future__ import annotations

import html
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from workbench.client import show
from workbench.deid.disclosure import THRESHOLD, Line, suppress

MARK = "not shown"
OTHERS = "others"
"""The code of the row that puts together what cannot be shown apart."""
SYNTHETIC = "SYNTHETIC DATA"
SMALL_NOTE = (
    f"Rows in which a count would stand for 1 to {THRESHOLD - 1} people, or would let one compute such a count, are put together "
    f"or “{MARK}” (CalHHS De-Identification Guidelines, line rule over all tables of this page)."
)
Codes = Mapping[str, Sequence[str]]
Quantities = Callable[[pd.DataFrame], list[int]]


def rate_tables(events: pd.DataFrame, by: Codes) -> dict[str, pd.DataFrame]:
    """Events and follow-up, in total (key "total") and by each column of `by`, whose codes are given in their order.

    `events` has one row per counted event: member_id, met_7d, met_30d and the columns of `by`. Each table has one row
    per code that has events: code, events, people, met_30d, rate_30d, met_7d, rate_7d (events, rates 0 to 1), hidden,
    hidden_7d, `codes` (what the row stands for: several in the row OTHERS). Hidden numbers are empty. The tables
    share their total and are hidden together.
    """
    events = events.assign(met_7d=events["met_7d"].astype(bool), met_30d=events["met_30d"].astype(bool))
    cells = _merged(events, _cells(by), _people_30d)
    hidden = _hidden(events, cells, _people_30d)
    hidden_7d = hidden | _hidden(events, cells, _people_7d)
    rows = []
    for cell, out, out_7d in zip(cells, hidden, hidden_7d, strict=True):
        part = cell.rows(events)
        rows.append(
            {
                "by": cell.column,
                "code": cell.code,
                "codes": cell.codes,
                "events": len(part),
                "people": part["member_id"].nunique(),
                "met_30d": int(part["met_30d"].sum()),
                "met_7d": int(part["met_7d"].sum()),
                "hidden": bool(out),
                "hidden_7d": bool(out_7d),
            }
        )
    table = pd.DataFrame(rows)
    table = table[(table["events"] > 0) | (table["by"] == "total")]
    for window, mask in (("30d", "hidden"), ("7d", "hidden_7d")):
        rate = table[f"met_{window}"] / table["events"].where(table["events"] > 0)
        table[f"rate_{window}"] = rate.astype("Float64").mask(table[mask])
        table[f"met_{window}"] = table[f"met_{window}"].astype("Float64").mask(table[mask])
    for column in ("events", "people"):
        table[column] = table[column].astype("Float64").mask(table["hidden"])
    return _split(table, by)


def people_tables(groups: pd.DataFrame, by: Codes) -> dict[str, pd.DataFrame]:
    """People and member months, in total and by each column of `by`; hidden together, as in `rate_tables`.

    `groups` has disjoint groups of people: people, member_months and the columns of `by`.
    """
    cells = _merged(groups, _cells(by), _people)
    hidden = _hidden(groups, cells, _people)
    rows = []
    for cell, out in zip(cells, hidden, strict=True):
        part = cell.rows(groups)
        rows.append(
            {
                "by": cell.column,
                "code": cell.code,
                "codes": cell.codes,
                "people": int(part["people"].sum()),
                "member_months": int(part["member_months"].sum()),
                "hidden": bool(out),
            }
        )
    table = pd.DataFrame(rows)
    table = table[(table["people"] > 0) | (table["by"] == "total")]
    for column in ("people", "member_months"):
        table[column] = table[column].astype("Float64").mask(table["hidden"])
    return _split(table, by)


def mostly_small(events: pd.DataFrame, column: str, codes: Sequence[str]) -> bool:
    """Whether more than half of the codes that have events could not be shown: then a coarser column serves better."""
    events = events.assign(met_30d=events["met_30d"].astype(bool))
    cells = _cells({column: codes})
    hidden = _hidden(events, cells, _people_30d)[1:]
    filled = np.array([len(cell.rows(events)) > 0 for cell in cells[1:]], dtype=bool)
    return bool((hidden & filled).sum() * 2 > filled.sum())


def small_hidden(counts: pd.DataFrame, column: str) -> pd.DataFrame:
    """The same rows with counts of 1 to 10 people taken out: for counts that do not add up to a total, as of months."""
    out = counts.copy()
    out["hidden"] = out[column].between(1, THRESHOLD - 1)
    out[column] = out[column].astype("Float64").mask(out["hidden"])
    return out


@dataclass(frozen=True)
class _Cell:
    """A row of a table: the codes of a column that it stands for; the column `total` stands for all."""

    column: str
    code: str
    codes: tuple[str, ...]

    def rows(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame if self.column == "total" else frame[frame[self.column].isin(self.codes)]


def _cells(by: Codes) -> list[_Cell]:
    parts = [_Cell(column, str(code), (str(code),)) for column, codes in by.items() for code in codes]
    return [_Cell("total", "total", ()), *parts]


def _people(part: pd.DataFrame) -> list[int]:
    return [int(part["people"].sum())]


def _people_30d(part: pd.DataFrame) -> list[int]:
    """The people whom the 30-day numbers of a row show or let one compute."""
    member, met = part["member_id"], part["met_30d"]
    return [member.nunique(), member[met].nunique(), member[~met].nunique()]


def _people_7d(part: pd.DataFrame) -> list[int]:
    """The same for both windows together: the step from one to the other is people too."""
    member, first, second = part["member_id"], part["met_7d"], part["met_30d"]
    sets = (first, ~first, second & ~first)
    return [*_people_30d(part), *(member[one].nunique() for one in sets)]


def _hidden(frame: pd.DataFrame, cells: Sequence[_Cell], quantities: Quantities) -> npt.NDArray[np.bool_]:
    counts = np.array([quantities(cell.rows(frame)) for cell in cells], dtype=np.int64).T
    numbers: dict[str, list[int]] = {}
    for number, cell in enumerate(cells):
        if cell.column != "total":
            numbers.setdefault(cell.column, []).append(number)
    return suppress(counts, [Line(tuple(parts), 0) for parts in numbers.values()])


def _merged(frame: pd.DataFrame, cells: Sequence[_Cell], quantities: Quantities) -> list[_Cell]:
    """The cells with those that cannot be shown put together, one row OTHERS a column, last in its column."""
    hidden = _hidden(frame, cells, quantities)
    out = [cells[0]]
    for column in dict.fromkeys(cell.column for cell in cells[1:]):
        mine = [(cell, bool(gone)) for cell, gone in zip(cells, hidden, strict=True) if cell.column == column]
        together = tuple(cell.code for cell, gone in mine if gone)
        out += [cell for cell, gone in mine if not gone]
        if together:
            out.append(_Cell(column, OTHERS, together))
    return out


def _split(table: pd.DataFrame, by: Codes) -> dict[str, pd.DataFrame]:
    return {
        name: table[table["by"] == name].drop(columns="by").reset_index(drop=True) for name in ("total", *by)
    }


def masthead(kind: str, title: str, lines: Sequence[str], synthetic: bool) -> str:
    """The head of a report."""
    marks = [SYNTHETIC] * synthetic + [show.INSECURE] * show.insecure()
    mark = "".join(f'<span class="synthetic">{text}</span>' for text in marks)
    more = "".join(f'<div class="sub">{_t(line)}</div>' for line in lines)
    return f'<header class="masthead"><div class="kind">{_t(kind)}</div><h1>{_t(title)}</h1>{more}{mark}</header>'


def tiles(figures: Sequence[tuple[str, str, str]]) -> str:
    """Key figures: name, figure, what it means."""
    inner = "".join(
        f'<div class="tile"><div class="name">{_t(name)}</div><div class="figure">{_t(figure)}</div>'
        f'<div class="more">{_t(more)}</div></div>'
        for name, figure, more in figures
    )
    return f'<div class="tiles">{inner}</div>'


def sheet(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str, total: Sequence[str] | None = None
) -> str:
    """A table; a hidden cell stands as the mark."""
    heads = "".join(f"<th>{_t(name)}</th>" for name in columns)
    lines = "".join(f"<tr>{_cells_html(row)}</tr>" for row in rows)
    last = f'<tr class="total">{_cells_html(total)}</tr>' if total else ""
    return (
        f'<div class="sheet"><table><caption>{_t(caption)}</caption><thead><tr>{heads}</tr></thead>'
        f"<tbody>{lines}{last}</tbody></table></div>"
    )


def figure(wide_svg: str, phone_svg: str, *, alt: str) -> str:
    """A plot as embedded pictures, one for a desk and one for a phone: the style sheet shows the one that fits."""
    words = html.escape(alt, quote=True)
    pictures = "".join(
        f'<img class="{kind}" alt="{words}" src="data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}">'
        for kind, svg in (("wide", wide_svg), ("phone", phone_svg))
    )
    return f'<figure class="plot">{pictures}</figure>'


def note(text: str) -> str:
    """A small line under a table or plot."""
    return f'<p class="note">{_t(text)}</p>'


def verdict(text: str, *, warn: bool = False) -> str:
    """Whether the data are fit for the figures."""
    return f'<div class="verdict{" warn" if warn else ""}">{_t(text)}</div>'


def stamp(facts: Sequence[tuple[str, Any]]) -> str:
    """How the report was made: names and facts."""
    lines = "".join(
        f"<dt>{_t(name)}</dt><dd>{_t(str(fact))}</dd>" for name, fact in facts if fact not in (None, "")
    )
    return f'<div class="stamp"><dl>{lines}</dl></div>'


def count(value: Any) -> str:
    """A whole number with thousands apart, or the mark."""
    return MARK if pd.isna(value) else f"{int(value):,}"


def percent(value: Any) -> str:
    """A rate as per cent with one place, or the mark."""
    return MARK if pd.isna(value) else f"{float(value):.1%}"


def share(part: Any, whole: Any) -> str:
    """A part of a whole as per cent; a dash where the whole is nothing."""
    return "–" if _nothing(whole) else percent(part / whole)


def rate(row: Any, window: str) -> str:
    """The rate of a row of `rate_tables`; a dash where there was no event to follow up."""
    return "–" if _nothing(row["events"]) else percent(row[f"rate_{window}"])


def _nothing(value: Any) -> bool:
    return not pd.isna(value) and value == 0


def _cells_html(row: Sequence[str]) -> str:
    return "".join(
        f'<td class="hidden">{_t(text)}</td>' if text == MARK else f"<td>{_t(text)}</td>" for text in row
    )


def _t(text: str) -> str:
    return html.escape(text)
