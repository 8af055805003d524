"""An attacker with pencil and paper: what follows exactly from the shown cells of tables that add up."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from workbench.deid.disclosure import Line


def attacker(counts: np.ndarray, hidden: np.ndarray, lines: Sequence[Line]) -> dict[int, Fraction]:
    """What somebody solves who sees the shown cells and knows that lines add up: exact elimination, by hand."""
    unknown = [int(c) for c in np.flatnonzero(hidden)]
    system = []
    for line in lines:
        row = [Fraction(0)] * (len(unknown) + 1)
        for cell, sign in [*((part, 1) for part in line.parts), (line.total, -1)]:
            if hidden[cell]:
                row[unknown.index(cell)] += sign
            else:
                row[-1] -= sign * int(counts[cell])
        system.append(row)
    pivot = 0
    for column in range(len(unknown)):
        at = next((r for r in range(pivot, len(system)) if system[r][column] != 0), None)
        if at is None:
            continue
        system[pivot], system[at] = system[at], system[pivot]
        system[pivot] = [value / system[pivot][column] for value in system[pivot]]
        for r in range(len(system)):
            if r != pivot and system[r][column] != 0:
                factor = system[r][column]
                system[r] = [a - factor * b for a, b in zip(system[r], system[pivot], strict=True)]
        pivot += 1
    solved = {}
    for row in system:
        left = [k for k, value in enumerate(row[:-1]) if value != 0]
        if len(left) == 1:
            solved[unknown[left[0]]] = row[-1] / row[left[0]]
    return solved
