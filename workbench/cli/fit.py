"""Tables that fit the terminal: where it is narrow, the less needed columns go, and a line says which."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import click
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from workbench.cli.plain import plain

NATURAL = 10_000
"""Characters of a line that no table reaches."""


def print_fitting(
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[str],
    *,
    right: Collection[str] = (),
    folded: Collection[str] = (),
    less_needed: Sequence[str] = (),
) -> None:
    """Prints the rows as a table. Of the columns `less_needed` go, the first first, until the rest fits the terminal.

    Only the columns `folded` take several lines for a row, and break no word for it, unless nothing else is left to
    do. What is no terminal gets every column, each as wide as it is.
    """
    console, rows, shown, gone = Console(), list(rows), list(columns), list[str]()
    grid, needs = _grid(console, rows, shown, right, folded)
    while console.is_terminal and needs.minimum > console.width and len(gone) < len(less_needed):
        gone.append(less_needed[len(gone)])
        shown.remove(gone[-1])
        grid, needs = _grid(console, rows, shown, right, folded)
    if needs.minimum > console.width:
        grid, _ = _grid(console, rows, shown, right, shown)
    (console if console.is_terminal else Console(width=needs.maximum)).print(grid)
    if gone:
        left_out = ", ".join(name for name in columns if name in gone)
        click.echo(f"Not shown: {left_out}. A wider terminal or --json has all.", err=True)


def _grid(
    console: Console,
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    right: Collection[str],
    folded: Collection[str],
) -> tuple[Table, Measurement]:
    """The table, and the characters of a line that it needs and would like to have."""
    grid = Table(show_edge=False, header_style="bold")
    for name in columns:
        longest = max((cell_len(str(row[name])) for row in rows), default=0)
        grid.add_column(
            name,
            justify="right" if name in right else "left",
            overflow="fold",
            min_width=None if name in folded else max(longest, cell_len(name)),
        )
    for row in rows:
        grid.add_row(*(plain(row[name]) for name in columns))
    return grid, console.measure(grid, options=console.options.update(width=NATURAL))
