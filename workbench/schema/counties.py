"""California's 58 counties: Medi-Cal code, name, FIPS, population, and a place on our square-tile map."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class County:
    """One county. `code` is Medi-Cal's (01 Alameda to 58 Yuba), `population_2022` the Census Bureau's estimate."""

    code: str
    name: str
    fips: str
    population_2022: int
    region: str
    tile_row: int
    """Row on the tile map, 1 is the north."""
    tile_col: int
    """Column on the tile map, 1 is the coast."""


@cache
def counties() -> Mapping[str, County]:
    """The counties by code, in the order of their codes. Source: named at the head of counties.csv."""
    text = (files("workbench.schema") / "counties.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return {
        row["code"]: County(
            code=row["code"],
            name=row["name"],
            fips=row["fips"],
            population_2022=int(row["population_2022"]),
            region=row["region"],
            tile_row=int(row["tile_row"]),
            tile_col=int(row["tile_col"]),
        )
        for row in rows
    }
