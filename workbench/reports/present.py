"""What a report's notebook shows: counts and rates with small cells hidden, tables, key figures, the stamp. HTML text.

The rule for small cells is the one of the tabulations (workbench.deid.disclosure): a report is for holders of its
grant, but it is a page that gets passed on, so that no cell of it stands for 1 to 10 people.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from workbench.deid.disclosure import THRESHOLD, Line, suppress

MARK = "not shown"
SYNTHETIC = "SYNTHETIC DATA"
HIDDEN_NOTE = (
    f"“{MARK}”: a count in the row, of the people in it, with or without follow-up, stands for 1 to {THRESHOLD - 1} people, or "
    "would let one compute such a count (CalHHS De-Identification Guidelines, line rule over all tables of this page)."
)


def rate_tables(events: pd.DataFrame, by: Mapping[str, Sequence[str]]) -> dict[str, pd.DataFrame]:
    """Events and follow-up, in total (key "total") and by each column of `by`, whose codes are given in their order.

    `events` has one row per counted event: member_id, met_7d, met_30d and the columns of `by`. Each table has one row
    per code: code, events, people, met_7d, met_30d (events), rate_7d, rate_30d (0 to 1, none without events), hidden.
    A hidden row has no numbers. The tables share their total and are hidden together.
    """
    met_7d, met_30d = events["met_7d"].astype(bool), events["met_30d"].astype(bool)
    member = events["member_id"]
    sets = [met_7d | True, met_7d, met_30d, ~met_7d, ~met_30d, met_30d & ~met_7d]
    cells, lines = _cells(by)
    chosen = [_rows_of(events, cell) for cell in cells]
    people = np.array([[member[rows & part].nunique() for rows in chosen] for part in sets], dtype=np.int64)
    hidden = suppress(people, lines)
    table = pd.DataFrame(
        [
            {
                "by": cell[0],
                "code": cell[1],
                "events": int(rows.sum()),
                "people": int(people[0, number]),
                "met_7d": int((rows & met_7d).sum()),
                "met_30d": int((rows & met_30d).sum()),
                "hidden": bool(hidden[number]),
            }
            for number, (cell, rows) in enumerate(zip(cells, chosen, strict=True))
        ]
    )
    for window in ("7d", "30d"):
        table[f"rate_{window}"] = table[f"met_{window}"] / table["events"].where(table["events"] > 0)
    return _split(table, ["events", "people", "met_7d", "met_30d", "rate_7d", "rate_30d"])


def people_tables(groups: pd.DataFrame, by: Mapping[str, Sequence[str]]) -> dict[str, pd.DataFrame]:
    """People and member months, in total and by each column of `by`; one row per code, hidden together.

    `groups` has disjoint groups of people: people, member_months and the columns of `by`.
    """
    cells, lines = _cells(by)
    chosen = [_rows_of(groups, cell) for cell in cells]
    people = np.array([[int(groups.loc[rows, "people"].sum()) for rows in chosen]], dtype=np.int64)
    hidden = suppress(people, lines)
    table = pd.DataFrame(
        [
            {
                "by": cell[0],
                "code": cell[1],
                "people": int(people[0, number]),
                "member_months": int(groups.loc[rows, "member_months"].sum()),
                "hidden": bool(hidden[number]),
            }
            for number, (cell, rows) in enumerate(zip(cells, chosen, strict=True))
        ]
    )
    return _split(table, ["people", "member_months"])


def small_hidden(counts: pd.DataFrame, column: str) -> pd.DataFrame:
    """The same rows with counts of 1 to 10 people taken out: for counts that do not add up to a total, as of months."""
    out = counts.copy()
    out["hidden"] = out[column].between(1, THRESHOLD - 1)
    out[column] = out[column].astype("Float64").mask(out["hidden"])
    return out


def _cells(by: Mapping[str, Sequence[str]]) -> tuple[list[tuple[str, str]], list[Line]]:
    cells = [("total", "total")]
    lines = []
    for column, codes in by.items():
        first = len(cells)
        cells += [(column, str(code)) for code in codes]
        lines.append(Line(tuple(range(first, len(cells))), 0))
    return cells, lines


def _rows_of(frame: pd.DataFrame, cell: tuple[str, str]) -> pd.Series[bool]:
    column, code = cell
    if column == "total":
        return pd.Series(True, index=frame.index)
    return frame[column].astype(str) == code


def _split(table: pd.DataFrame, numbers: Sequence[str]) -> dict[str, pd.DataFrame]:
    table[list(numbers)] = table[list(numbers)].astype("Float64").mask(table["hidden"])
    return {
        str(name): part.drop(columns="by").reset_index(drop=True)
        for name, part in table.groupby("by", sort=False)
    }


def masthead(kind: str, title: str, lines: Sequence[str], synthetic: bool) -> str:
    """The head of a report."""
    mark = f'<span class="synthetic">{SYNTHETIC}</span>' if synthetic else ""
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


def figure(svg: str, *, alt: str, note: str = "") -> str:
    """A plot as an embedded picture."""
    import base64

    picture = base64.b64encode(svg.encode()).decode()
    caption = f"<figcaption>{_t(note)}</figcaption>" if note else ""
    return (
        f'<figure class="plot"><img alt="{html.escape(alt, quote=True)}" src="data:image/svg+xml;base64,{picture}">'
        f"{caption}</figure>"
    )


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


def _cells_html(row: Sequence[str]) -> str:
    return "".join(
        f'<td class="hidden">{_t(text)}</td>' if text == MARK else f"<td>{_t(text)}</td>" for text in row
    )


def _t(text: str) -> str:
    return html.escape(text)
