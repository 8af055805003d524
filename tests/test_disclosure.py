"""Promises of disclosure control: no count of 1 to 10 people is shown, nor solved from what is shown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from attacker import attacker
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.deid.disclosure import THRESHOLD, Line, primary, recoverable, suppress


def one_dimension(counts: Sequence[int]) -> tuple[np.ndarray, list[Line]]:
    """Cells and their total as the last."""
    return np.array([[*counts, sum(counts)]]), [Line(tuple(range(len(counts))), len(counts))]


def two_dimensions(table: Sequence[Sequence[int]]) -> tuple[np.ndarray, list[Line]]:
    """A table with row, column and grand totals, row by row."""
    full = [[*row, sum(row)] for row in table]
    full.append([sum(column) for column in zip(*full, strict=True)])
    width = len(full[0])
    rows = [
        Line(tuple(r * width + c for c in range(width - 1)), r * width + width - 1) for r in range(len(full))
    ]
    columns = [
        Line(tuple(r * width + c for r in range(len(full) - 1)), (len(full) - 1) * width + c)
        for c in range(width)
    ]
    return np.array([[cell for row in full for cell in row]]), rows + columns


# counts → hidden parts, and whether the total is hidden. "·" shown, "x" hidden; the last sign is the total's.
SPEC = [
    ([25, 40, 11], "····"),  # nothing is small
    ([0, 0, 30], "····"),  # zeros are shown
    ([5, 20, 30], "xx··"),  # the smallest other cell is the complement
    ([5, 6, 30], "xx··"),  # two small cells whose sum is 11
    ([3, 3, 3, 3, 50], "xxxxx·"),  # four of 3 or less: one more
    ([4, 5, 30, 60], "xxx··"),  # sum below 11: one more
    ([7, 0, 0], "x··x"),  # nothing is left but the total
    ([1, 12, 60], "xx··"),
    ([10, 14, 10, 10], "x·xx·"),
    ([2, 2], "xxx"),  # everything
]


@pytest.mark.parametrize(("counts", "marks"), SPEC)
def test_the_line_rule_hides_small_cells_and_as_many_complements_as_it_asks(
    counts: list[int], marks: str
) -> None:
    quantities, lines = one_dimension(counts)
    assert "".join("x" if h else "·" for h in suppress(quantities, lines)) == marks


def test_a_zero_is_never_hidden_and_never_a_complement() -> None:
    quantities, lines = two_dimensions([[0, 5, 30], [40, 0, 50], [60, 70, 0]])
    assert not suppress(quantities, lines)[quantities[0] == 0].any()


def test_every_row_and_column_of_a_table_has_no_hidden_cell_or_two() -> None:
    quantities, lines = two_dimensions([[5, 20, 30, 40], [25, 35, 45, 55], [65, 75, 85, 95]])
    hidden = suppress(quantities, lines)
    assert hidden[0]
    assert all(sum(hidden[list(line.cells)]) != 1 for line in lines)


def test_two_hidden_cells_a_line_are_not_enough_where_a_bridge_can_be_solved() -> None:
    """Two rectangles of hidden cells and one cell that joins them: every line has two, yet the one is solved."""
    table = np.full((4, 4), 50)
    counts, lines = two_dimensions(table.tolist())
    hidden = np.zeros(counts.shape[1], dtype=bool)
    for row, column in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (2, 3), (3, 2), (3, 3), (1, 2)]:
        hidden[row * 5 + column] = True
    assert (
        set(attacker(counts[0], hidden, lines))
        == set(np.flatnonzero(recoverable(hidden, lines)))
        == {1 * 5 + 2}
    )


def test_a_numerator_its_complement_and_the_denominator_all_count() -> None:
    met, rest = np.array([0, 30, 5, 40]), np.array([30, 4, 30, 40])
    parts = np.array([met + rest, met, rest])
    quantities = np.hstack([parts, parts.sum(axis=1, keepdims=True)])
    assert primary(quantities).tolist() == [False, True, True, False, False]


def test_a_cell_of_two_tables_is_hidden_in_both() -> None:
    """Totals by plan stand in a table of their own and in plan × race: one system, one mask."""
    quantities, lines = two_dimensions([[4, 50], [60, 70]])
    quantities[0, 2] = 54
    hidden = suppress(quantities, [*lines, Line((2, 5), 8)])
    assert (
        attacker(quantities[0], hidden, [*lines, Line((2, 5), 8)]).keys()
        & set(np.flatnonzero(primary(quantities)))
        == set()
    )


counts = st.one_of(st.integers(0, 14), st.integers(0, 60), st.just(0))


@settings(max_examples=150, deadline=None)
@given(st.lists(counts, min_size=2, max_size=9))
def test_no_small_cell_of_a_random_list_is_shown_or_solved(cells: list[int]) -> None:
    _check(*one_dimension(cells))


@settings(max_examples=150, deadline=None)
@given(
    st.integers(2, 5).flatmap(
        lambda width: st.lists(st.lists(counts, min_size=width, max_size=width), min_size=2, max_size=5)
    )
)
def test_no_small_cell_of_a_random_table_is_shown_or_solved(table: list[list[int]]) -> None:
    _check(*two_dimensions(table))


def _check(quantities: np.ndarray, lines: Sequence[Line]) -> None:
    hidden = suppress(quantities, lines)
    values = quantities[0]
    small = (values > 0) & (values < THRESHOLD)
    assert hidden[small].all()
    assert not hidden[values == 0].any()
    solved = attacker(values, hidden, lines)
    assert not [cell for cell in solved if small[cell]]
    for line in lines:
        behind = [int(values[c]) for c in line.cells if hidden[c]]
        shown = [c for c in line.cells if not hidden[c] and values[c]]
        assert not behind or not shown or (len(behind) >= 2 and sum(behind) >= THRESHOLD and max(behind) > 3)
