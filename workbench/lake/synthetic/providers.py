"""The invented providers: who they are, and how a visit finds one in its county."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from workbench.lake.apcd_layout import PROVIDER_NAME, PROVIDER_NPI, PROVIDER_TAXONOMY
from workbench.lake.synthetic import world
from workbench.lake.synthetic.calendar import Ints
from workbench.lake.synthetic.codes import PROVIDER_KINDS
from workbench.lake.synthetic.people import COUNTY_COUNT, county_tables
from workbench.lake.synthetic.render import records
from workbench.schema.counties import counties

FIRST_NAMES = [
    "Amber",
    "Bluebird",
    "Canyon",
    "Delta",
    "Eastgate",
    "Fern",
    "Granite",
    "Harbor",
    "Indigo",
    "Juniper",
    "Kestrel",
    "Lakeview",
    "Meadow",
    "Northgate",
    "Orchard",
    "Pinecrest",
    "Quartz",
    "Riverbend",
    "Sunrise",
    "Terrace",
    "Upland",
    "Valley",
    "Westwind",
    "Yarrow",
]
MOST_OF_A_KIND = 400
NPI_BASE = 9_000_000_000
"""NPIs begin with 1 or 2: these cannot exist."""


@dataclass(frozen=True)
class Providers:
    """`table` has one row per provider, sorted by kind and county; `start` and `count` find them: [kind, county]."""

    table: pl.DataFrame
    start: Ints
    count: Ints

    def choose(self, rng: np.random.Generator, kind: Ints, county: Ints) -> Ints:
        """For each visit a provider of its kind, of its county or of the nearest one that has any."""
        turn = rng.integers(0, 1 << 40, len(kind)) % self.count[kind, county]
        return np.asarray(self.start[kind, county] + turn, dtype=np.int64)


def providers(rng: np.random.Generator) -> Providers:
    """All providers of the state."""
    populations = county_tables().populations
    names = [county.name for county in counties().values()]
    order: list[tuple[int, int, int]] = []
    count = np.zeros((len(PROVIDER_KINDS), COUNTY_COUNT), dtype=np.int64)
    start = np.zeros_like(count)
    for index, kind in enumerate(PROVIDER_KINDS.values()):
        wanted = np.maximum(np.ceil(populations / 1e6 * kind.per_million), 1).astype(np.int64)
        wanted = np.minimum(np.where(populations >= kind.from_population, wanted, 0), MOST_OF_A_KIND)
        for county in range(COUNTY_COUNT):
            start[index, county], count[index, county] = len(order), wanted[county]
            order.extend((index, county, turn) for turn in range(wanted[county]))
        for county in range(COUNTY_COUNT):
            if wanted[county]:
                continue
            near = _nearest(county, wanted)
            start[index, county], count[index, county] = start[index, near], wanted[near]
    kinds = list(PROVIDER_KINDS.values())
    words = rng.integers(0, len(FIRST_NAMES), len(order))
    table = pl.DataFrame(
        {
            "npi": [str(NPI_BASE + 7_919 * number + 13) for number in range(len(order))],
            "name": [
                f"{FIRST_NAMES[word]} {names[county]} {kinds[kind].title} {turn + 1}"
                for word, (kind, county, turn) in zip(words, order, strict=True)
            ],
            "taxonomy": [kinds[kind].taxonomy for kind, _, _ in order],
            "county_code": [f"{county + 1:02d}" for _, county, _ in order],
            "part2_program": [kinds[kind].part2 for kind, _, _ in order],
        }
    )
    return Providers(table, start, count)


def _nearest(county: int, wanted: Ints) -> int:
    places = list(counties().values())
    here = places[county]
    return min(
        np.flatnonzero(wanted).tolist(),
        key=lambda other: (
            abs(places[other].tile_row - here.tile_row) + abs(places[other].tile_col - here.tile_col),
            other,
        ),
    )


def provider_records(known: Providers) -> pl.Series:
    """The provider (PV) records, sent by the state."""
    return records(
        "PV",
        {
            "CDLPV001": world.STATE,
            "CDLPV002": world.STATE,
            PROVIDER_NPI: known.table["npi"],
            PROVIDER_NAME: known.table["name"],
            PROVIDER_TAXONOMY: known.table["taxonomy"],
            "CDLPV899": "PV",
        },
    )
