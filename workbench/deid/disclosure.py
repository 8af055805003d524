"""Small cells and their complements, by the line rule of California's De-Identification Guidelines (DDG).

Source: CalHHS Data De-Identification Guidelines, edition 2.0, 4.4.1-4.4.4. Counts of 1 to 10 people are not shown;
zeros are ("a non-event cannot be identified"); a row or column in which something is hidden has at least two hidden
cells, its total among them; one more goes where all hidden values are 3 or less, or their sum is below 11. The same
mark stands on primary and complementary cells: to tell them apart would tell more.

Beyond the guideline: cells of linked tables are one system, and no primary cell may be solved exactly from what is
published (two hidden cells in every line are not enough for that).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

THRESHOLD = 11
"""Counts below it, zero excepted, are not shown. DDG 4.2, 4.4.1."""
SMALL_EACH = 3
"""One more cell goes where all hidden values of a line are this small. DDG 4.4.1, rule 6 (a)."""

Counts = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Line:
    """Cells that add up to a total, by their numbers: what an onlooker can subtract along."""

    parts: tuple[int, ...]
    total: int

    @property
    def cells(self) -> tuple[int, ...]:
        """The parts and the total."""
        return (*self.parts, self.total)


def primary(quantities: Counts) -> Mask:
    """The cells in which any quantity stands for 1 to 10 people. One row of `quantities` per quantity, a column per cell."""
    small = (quantities > 0) & (quantities < THRESHOLD)
    return np.asarray(small.any(axis=0), dtype=np.bool_)


def suppress(quantities: Counts, lines: Sequence[Line], also: Mask | None = None) -> Mask:
    """Which cells are hidden: the primary ones and their complements, over all lines together.

    `quantities` has a row for each count of people that a cell shows or lets one compute (people; or denominator,
    numerator, their difference) and a column for each cell. The first row is the one that decides whether a cell is
    zero, and by which the smallest complement is chosen. `also` are cells that must not be told for another reason.
    """
    first = primary(quantities) if also is None else primary(quantities) | also
    hidden = first.copy()
    touching = _touching(quantities.shape[1], lines)
    while True:
        _line_rule(quantities, lines, hidden)
        exposed = recoverable(hidden, lines) & first
        more = {_complement(quantities[0], hidden, touching[cell]) for cell in np.flatnonzero(exposed)} - {
            None
        }
        if exposed.any() and not more:
            more = {_complement(quantities[0], hidden, lines)} - {None}
        if not more:
            return hidden
        hidden[sorted(c for c in more if c is not None)] = True


def recoverable(hidden: Mask, lines: Sequence[Line]) -> Mask:
    """The hidden cells whose value follows exactly from the shown ones: the attack by linear algebra.

    A hidden cell is solved when every solution of the homogeneous system of the lines is zero there.
    """
    numbers = np.flatnonzero(hidden)
    column = {int(cell): k for k, cell in enumerate(numbers)}
    rows = []
    for line in lines:
        row = np.zeros(len(numbers))
        for cell in line.parts:
            if cell in column:
                row[column[cell]] += 1
        if line.total in column:
            row[column[line.total]] -= 1
        if row.any():
            rows.append(row)
    solved = np.zeros(hidden.shape, dtype=bool)
    if rows:
        _, singular, v = np.linalg.svd(np.array(rows), full_matrices=True)
        rank = int((singular > 1e-9).sum())
        solved[numbers] = np.linalg.norm(v[rank:], axis=0) < 1e-9
    return solved


def _line_rule(quantities: Counts, lines: Sequence[Line], hidden: Mask) -> None:
    changed = True
    while changed:
        changed = False
        for line in lines:
            cells = np.array(line.cells)
            behind = cells[hidden[cells]]
            if len(behind) == 0 or not _too_little(quantities[:, behind]):
                continue
            complement = _complement(quantities[0], hidden, [line])
            if complement is not None:
                hidden[complement] = True
                changed = True


def _too_little(behind: Counts) -> bool:
    """Whether what is hidden in a line asks for one cell more."""
    if behind.shape[1] < 2:
        return True
    sums, largest = behind.sum(axis=1), behind.max(axis=1)
    return bool((((largest <= SMALL_EACH) | (sums < THRESHOLD)) & (sums > 0)).any())


def _complement(counts: Counts, hidden: Mask, lines: Sequence[Line]) -> int | None:
    """The smallest shown cell of the lines that is not zero; a total only where there is no part left."""
    for candidates in ({c for line in lines for c in line.parts}, {line.total for line in lines}):
        shown = [(int(counts[c]), c) for c in candidates if not hidden[c] and counts[c] > 0]
        if shown:
            return min(shown)[1]
    return None


def _touching(cells: int, lines: Sequence[Line]) -> list[list[Line]]:
    found: list[list[Line]] = [[] for _ in range(cells)]
    for line in lines:
        for cell in line.cells:
            found[cell].append(line)
    return found
