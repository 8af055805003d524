"""Visits and fills as they are collected: columns of a block, before anything is billed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from workbench.lake.synthetic.calendar import Ints
from workbench.lake.synthetic.codes import DIAGNOSES, DRUGS, TEMPLATES

TEMPLATE = {name: number for number, name in enumerate(TEMPLATES)}
DIAGNOSIS = {code: number for number, code in enumerate(DIAGNOSES)}
PRODUCTS = tuple(dict.fromkeys(drug for drugs in DRUGS.values() for drug in drugs))
PRODUCT = {drug: number for number, drug in enumerate(PRODUCTS)}


def diagnosis_numbers(codes: tuple[str, ...]) -> Ints:
    """Positions of codes in DIAGNOSES."""
    return np.array([DIAGNOSIS[code] for code in codes], dtype=np.int64)


@dataclass
class Visits:
    """Visits of a block; `finish` gives them as one array per column, in order of member and day."""

    parts: list[dict[str, Ints]] = field(default_factory=list)

    def add(
        self,
        row: Ints,
        day: Ints,
        template: str | Ints,
        first: Ints | int,
        second: Ints | int = 0,
        third: Ints | int = 0,
        nights: Ints | int = 0,
        status: Ints | int = 1,
        detox: int = 0,
    ) -> None:
        """Adds visits: member rows, first days, how they are billed, up to three diagnoses, nights in hospital,
        discharge status (two digits on facility stays), `detox` 1 for the detoxification procedure."""
        size = len(row)
        number = TEMPLATE[template] if isinstance(template, str) else template
        columns = (row, day, number, first, second, third, nights, status, detox)
        names = ("row", "day", "template", "dx1", "dx2", "dx3", "nights", "status", "detox")
        self.parts.append(
            {n: np.broadcast_to(c, (size,)).astype(np.int64) for n, c in zip(names, columns, strict=True)}
        )

    def finish(self) -> dict[str, Ints]:
        """All visits, sorted by member, day, template and order of arrival."""
        joined = {name: np.concatenate([part[name] for part in self.parts]) for name in self.parts[0]}
        order = np.lexsort((joined["template"], joined["day"], joined["row"]))
        return {name: column[order] for name, column in joined.items()}


@dataclass
class Fills:
    """Pharmacy fills of a block."""

    parts: list[dict[str, Ints]] = field(default_factory=list)

    def add(self, row: Ints, day: Ints, product: Ints, refill: Ints | int = 0) -> None:
        """Adds fills: member rows, days, positions in PRODUCTS, refill numbers."""
        names = ("row", "day", "product", "refill")
        columns = (row, day, product, refill)
        self.parts.append(
            {n: np.broadcast_to(c, (len(row),)).astype(np.int64) for n, c in zip(names, columns, strict=True)}
        )

    def finish(self) -> dict[str, Ints]:
        """All fills, sorted by member, day and product."""
        joined = {name: np.concatenate([part[name] for part in self.parts]) for name in self.parts[0]}
        order = np.lexsort((joined["product"], joined["day"], joined["row"]))
        return {name: column[order] for name, column in joined.items()}
