"""A block of members: who they are, and month by month which plan and county cover them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import polars as pl

from workbench.lake.synthetic import names, world
from workbench.lake.synthetic.calendar import FIRST, LAST, MONTH_START, NEVER, Bools, Ints, month_of
from workbench.schema.counties import counties

CIN_RANGE = 10_000_000
CIN_STEP = 6_700_417
"""Has no factor in common with CIN_RANGE, so that every member gets another number."""
CIN_LETTERS = "ACDEFGHJKMNPRSTUVWXYZ"

SEXES = ("F", "M", "U")
AID_CODES = {
    "child": ("T1", "T2", "T3", "T4", "M5", "42", "4C"),
    "adult": ("M1", "M1", "M3", "M1", "60", "L1", "64"),
    "older": ("10", "1H", "16", "10", "6H", "14", "17"),
}
"""Aid codes by age group, from the groups that the state's dashboard glossary names (ACA, OTLIC, SPD, foster care)."""
COUNTY_COUNT = 58
SMALLEST_SHARE = 0.00025
"""Every county has some members among 20,000, the smallest ones more than their due."""
GOLDEN = 0.6180339887498949
"""Fractional parts of its multiples are spread evenly, so that counties are filled as evenly as can be."""


@dataclass(frozen=True)
class World:
    """Tables by county index 0-57: share of population, the two plans, race mix, population."""

    share: np.ndarray
    plans: Ints
    race_cumulative: np.ndarray
    populations: Ints


@dataclass(frozen=True)
class People:
    """Members of one block, one array element each. Days count from 1970-01-01."""

    first: int
    birth: Ints
    death: Ints
    sex: Ints
    race: Ints
    plan: Ints
    """[member, month]: index of the plan, -1 where not covered."""
    county: Ints
    """[member, month]: index of the county."""
    table: pl.DataFrame
    """Text columns: member_id, ssn, names, address, aid_code, language, phone, email."""

    def __len__(self) -> int:
        return len(self.birth)

    def covered(self, row: Ints, day: Ints) -> Bools:
        """Whether each member is covered and alive on each day."""
        inside = (day >= FIRST) & (day <= LAST) & (day >= self.birth[row]) & (day <= self.death[row])
        return np.asarray(inside & (self.plan[row, month_of(day)] >= 0), dtype=np.bool_)


@cache
def county_tables() -> World:
    """The counties' tables, from the population figures and the plans' footprints."""
    by_code = counties()
    codes = list(by_code)
    plans: Ints = np.full((COUNTY_COUNT, 2), -1, dtype=np.int64)
    for index, footprint in enumerate(world.FOOTPRINT.values()):
        for code in footprint["alone"].split():
            plans[codes.index(code)] = index
        for code in footprint["shared"].split():
            place = codes.index(code)
            plans[place, 0 if plans[place, 0] < 0 else 1] = index
    populations: Ints = np.array([county.population_2022 for county in by_code.values()], dtype=np.int64)
    mix = np.array([world.RACE_MIX[county.region] for county in by_code.values()])
    cumulative = np.cumsum(mix / mix.sum(axis=1, keepdims=True), axis=1)
    share = np.maximum(populations / populations.sum(), SMALLEST_SHARE)
    return World(share / share.sum(), plans, cumulative, populations)


def people(rng: np.random.Generator, first: int, size: int) -> People:
    """The members numbered `first` to `first + size - 1`."""
    tables = county_tables()
    birth = _births(rng, size)
    death = _deaths(rng, birth)
    spread = (np.arange(first, first + size) * GOLDEN + rng.random()) % 1.0
    home = np.searchsorted(np.cumsum(tables.share)[:-1], spread, side="right")
    race = (rng.random(size)[:, None] > tables.race_cumulative[home]).sum(axis=1)
    race = np.minimum(race, len(world.RACES) - 1)
    sex = np.searchsorted((0.53, 0.995), rng.random(size), side="right")
    county = _counties(rng, home)
    plan = _plans(rng, county, birth, death)
    table = _texts(rng, first, birth, sex, race, county[:, -1])
    return People(first, birth, death, sex, race, plan, county, table)


def _births(rng: np.random.Generator, size: int) -> Ints:
    lows, highs, shares = (np.array(column) for column in zip(*world.AGE_BANDS, strict=True))
    band = rng.choice(len(lows), size=size, p=shares / shares.sum())
    middle = (FIRST + LAST) // 2
    age_days = (lows[band] + rng.random(size) * (highs - lows)[band]) * 365.25
    birth = (middle - age_days).astype(np.int64)
    newborn = rng.random(size) < world.NEWBORN_SHARE
    birth[newborn] = rng.integers(FIRST, LAST - 20, size=int(newborn.sum()))
    return np.asarray(np.minimum(birth, LAST - 20), dtype=np.int64)


def _deaths(rng: np.random.Generator, birth: Ints) -> Ints:
    age = np.maximum((FIRST - birth) / 365.25, 0)
    hazard = 0.0008 + 0.00006 * np.exp(age / 13.5)
    years = rng.exponential(1 / hazard)
    death = np.minimum(np.maximum(FIRST, birth) + (years * 365.25).astype(np.int64), NEVER)
    return np.where(death <= LAST, death, NEVER)


def _counties(rng: np.random.Generator, home: Ints) -> Ints:
    size = len(home)
    months = np.arange(world.MONTHS)
    move = np.where(rng.random(size) < world.COUNTY_MOVE, rng.integers(3, world.MONTHS, size), world.MONTHS)
    to = rng.choice(COUNTY_COUNT, size=size, p=county_tables().share)
    moved = months[None, :] >= move[:, None]
    return np.where(moved, to[:, None], home[:, None]).astype(np.int64)


def _plans(rng: np.random.Generator, county: Ints, birth: Ints, death: Ints) -> Ints:
    size, count = len(county), world.MONTHS
    months = np.arange(count)[None, :]
    second = (rng.random(size) < world.SECOND_PLAN_SHARE).astype(np.int64)
    change = np.where(rng.random(size) < world.PLAN_CHANGE, rng.integers(2, count, size), count)
    choice = second[:, None] ^ (months >= change[:, None]).astype(np.int64)
    plan = county_tables().plans[county, choice]

    start = np.where(rng.random(size) < world.LATE_ENTRY, rng.integers(1, count - 5, size), 0)
    start = np.maximum(start, np.where(birth >= FIRST, month_of(birth), 0))
    end = np.where(rng.random(size) < world.EARLY_EXIT, rng.integers(5, count, size), count)
    end = np.minimum(np.maximum(end, start + 1), np.where(death <= LAST, month_of(death) + 1, count))
    covered = (months >= start[:, None]) & (months < end[:, None])
    for share in (world.ONE_GAP + world.TWO_GAPS, world.TWO_GAPS):
        has = rng.random(size) < share
        first = np.where(has, rng.integers(1, count - 1, size), count)
        last = first + rng.integers(1, 5, size)
        covered &= ~((months >= first[:, None]) & (months < last[:, None]))
    covered |= months == start[:, None]
    alive = MONTH_START[None, :-1] <= death[:, None]
    return np.where(covered & alive, plan, -1).astype(np.int64)


def member_ids(first: int, size: int) -> pl.Series:
    """CINs of members by number: nine characters, in a range that begins with 0 and is never issued."""
    numbers = np.arange(first, first + size, dtype=np.int64)
    digits = (numbers * CIN_STEP + 4_321_987) % CIN_RANGE
    letters = pl.Series(list(CIN_LETTERS)).gather(pl.Series(digits * 7 % len(CIN_LETTERS)))
    return "0" + pl.Series(digits).cast(pl.String).str.zfill(7) + letters


def _texts(
    rng: np.random.Generator, first: int, birth: Ints, sex: Ints, race: Ints, county: Ints
) -> pl.DataFrame:
    size = len(birth)
    age = (LAST - birth) // 365.25
    group = np.where(age < 19, 0, np.where(age < 65, 1, 2))
    aid = pl.Series([code for codes in AID_CODES.values() for code in codes])
    zips = [(seat, zip3.split()) for seat, zip3 in world.SEATS_AND_ZIPS.values()]
    zip_flat = pl.Series([zip3 for _, several in zips for zip3 in several])
    zip_count = np.array([len(several) for _, several in zips])
    zip_start = np.cumsum(zip_count) - zip_count
    zip3 = zip_flat.gather(pl.Series(zip_start[county] + rng.integers(0, 1 << 30, size) % zip_count[county]))
    given, family = _names(rng, sex, race)
    streets = pl.Series(names.STREETS.split()).gather(pl.Series(rng.integers(0, 20, size)))
    kinds = pl.Series(names.STREET_KINDS.split()).gather(pl.Series(rng.integers(0, 6, size)))
    frame = pl.DataFrame(
        {
            "member_id": member_ids(first, size),
            "ssn": "000" + pl.Series(rng.integers(1, 1_000_000, size)).cast(pl.String).str.zfill(6),
            "last_name": family,
            "first_name": given,
            "number": pl.Series(rng.integers(10, 9900, size)).cast(pl.String),
            "streets": streets,
            "kinds": kinds,
            "city": pl.Series([seat for seat, _ in zips]).gather(pl.Series(county)),
            "zip": zip3 + pl.Series(rng.integers(1, 40, size)).cast(pl.String).str.zfill(2),
            "aid_code": aid.gather(pl.Series(group * 7 + rng.integers(0, 7, size))),
            "sex": pl.Series(list(SEXES)).gather(pl.Series(sex)),
            "language": _languages(rng, race),
            "phone": pl.Series(rng.integers(200, 990, size)).cast(pl.String)
            + "-555-01"
            + pl.Series(rng.integers(0, 100, size)).cast(pl.String).str.zfill(2),
            "has_email": rng.random(size) < 0.55,
        }
    )
    return frame.with_columns(
        street=pl.concat_str(["number", "streets", "kinds"], separator=" "),
        email=pl.when("has_email").then(
            pl.concat_str([pl.col("first_name").str.to_lowercase(), pl.lit("."), pl.col("number")])
            + "@example.org"
        ),
    ).drop("number", "streets", "kinds", "has_email")


def _names(rng: np.random.Generator, sex: Ints, race: Ints) -> tuple[pl.Series, pl.Series]:
    groups = [names.BORROWED.get(group, group) for group in world.RACES]
    female = np.where(sex == 2, rng.integers(0, 2, len(sex)), sex) == 0
    given = pl.Series(
        [n for group in groups for n in names.GIVEN_F[group].split() + names.GIVEN_M[group].split()]
    )
    family = pl.Series([n for group in groups for n in names.FAMILY[group].split()])
    pick = race * 32 + np.where(female, 0, 16) + rng.integers(0, 16, len(sex))
    return given.gather(pl.Series(pick)), family.gather(pl.Series(race * 20 + rng.integers(0, 20, len(sex))))


def _languages(rng: np.random.Generator, race: Ints) -> pl.Series:
    known = sorted({language for mix in world.LANGUAGES.values() for language, _ in mix})
    cumulative = np.ones((len(world.RACES), len(known)))
    for row, group in enumerate(world.RACES):
        shares = dict(world.LANGUAGES[group])
        cumulative[row] = np.cumsum([shares.get(language, 0.0) for language in known])
    pick = (rng.random(len(race))[:, None] > cumulative[race]).sum(axis=1)
    return pl.Series(known).gather(pl.Series(np.minimum(pick, len(known) - 1)))
