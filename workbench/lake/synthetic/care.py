"""The care of a block of members: everyday visits, stays and drugs. Behavioral care is in behavioral.py.

Frequencies are invented. Everything is drawn evenly over the three years and then kept only where the member was
covered and alive.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workbench.lake.synthetic import codes
from workbench.lake.synthetic.calendar import FIRST, LAST, Bools, Ints, age_on
from workbench.lake.synthetic.events import (
    DIAGNOSIS,
    PRODUCT,
    TEMPLATE,
    Fills,
    Visits,
    diagnosis_numbers,
)
from workbench.lake.synthetic.people import People

YEARS = 3
CYCLE, CYCLES = 30, 37
PEDIATRIC, OLDER = 18, 65


@dataclass(frozen=True)
class Health:
    """Who has what, one flag a member."""

    diabetes: Bools
    hypertension: Bools
    asthma: Bools


def draw(rng: np.random.Generator, people: People, yearly: np.ndarray | float) -> tuple[Ints, Ints]:
    """Random events of a block: (member rows, days), a Poisson number a year each, only where covered."""
    rate = np.broadcast_to(np.asarray(yearly, dtype=float), (len(people),))
    row = np.repeat(np.arange(len(people), dtype=np.int64), rng.poisson(rate * YEARS))
    day = rng.integers(FIRST, LAST + 1, len(row))
    keep = people.covered(row, day)
    return row[keep], day[keep]


def pick(rng: np.random.Generator, diagnoses: tuple[str, ...], size: int) -> Ints:
    """One of the diagnoses for each event."""
    numbers = diagnosis_numbers(diagnoses)
    return numbers[rng.integers(0, len(numbers), size)]


def everyday(rng: np.random.Generator, people: People, visits: Visits, fills: Fills) -> Health:
    """Primary care, screening, laboratory, emergency visits, stays, births, the end of life, chronic drugs."""
    age = age_on((FIRST + LAST) // 2, people.birth)
    adult = age >= PEDIATRIC
    health = Health(
        diabetes=rng.random(len(people)) < np.interp(age, (0, 18, 40, 65), (0.002, 0.01, 0.08, 0.24)),
        hypertension=rng.random(len(people)) < np.interp(age, (0, 18, 40, 65), (0.0, 0.01, 0.12, 0.42)),
        asthma=rng.random(len(people)) < np.interp(age, (0, 6, 18, 65), (0.03, 0.10, 0.06, 0.06)),
    )
    _primary_care(rng, people, visits, age, health)
    _hospital(rng, people, visits, age)
    _births(rng, people, visits, age)
    _end_of_life(rng, people, visits)
    for flag, drugs in (("diabetes", "diabetes"), ("hypertension", "hypertension"), ("asthma", "asthma")):
        chronic_fills(rng, people, fills, np.flatnonzero(getattr(health, flag)), drugs, 0.72)
    row, day = draw(rng, people, 0.35)
    fills.add(row, day, products(rng, "infection", len(row)))
    row, day = draw(rng, people, np.where((people.sex == 0) & (age >= 52) & (age < 75), 0.4, 0.0))
    visits.add(row, day, "mammogram", DIAGNOSIS[codes.SCREENING])
    row, day = draw(rng, people, np.where((people.sex == 0) & (age >= 24) & (age < 65), 0.22, 0.0))
    visits.add(row, day, "cytology", DIAGNOSIS["Z0000"])
    row, day = draw(rng, people, np.where(adult, 0.8, 0.2))
    visits.add(row, day, "laboratory", pick(rng, codes.ACUTE, len(row)))
    return health


def _primary_care(
    rng: np.random.Generator, people: People, visits: Visits, age: Ints, health: Health
) -> None:
    row, day = draw(
        rng, people, np.interp(age, (0, 2, 6, 18, 30, 65, 90), (5.2, 3.6, 1.9, 1.6, 2.1, 4.6, 5.6))
    )
    child = age_on(day, people.birth[row]) < PEDIATRIC
    chance = rng.random(len(row))
    adult_kind = np.select(
        (chance < 0.16, chance < 0.30, chance < 0.44),
        (TEMPLATE["telehealth"], TEMPLATE["preventive_adult"], TEMPLATE["office_labs"]),
        TEMPLATE["office"],
    )
    child_kind = np.where(chance < 0.45, TEMPLATE["preventive_child"], TEMPLATE["office_child"])
    kind = np.where(child, child_kind, adult_kind)
    preventive = (kind == TEMPLATE["preventive_adult"]) | (kind == TEMPLATE["preventive_child"])
    wellness = np.where(child, DIAGNOSIS["Z00129"], DIAGNOSIS["Z0000"])
    chronic = np.where(
        health.diabetes[row],
        DIAGNOSIS[codes.DIABETES],
        np.where(
            health.hypertension[row],
            DIAGNOSIS[codes.HYPERTENSION],
            np.where(health.asthma[row], DIAGNOSIS[codes.ASTHMA], 0),
        ),
    )
    acute = pick(rng, codes.ACUTE, len(row))
    regular = (chronic > 0) & (rng.random(len(row)) < 0.6)
    first = np.where(preventive, wellness, np.where(regular, chronic, acute))
    visits.add(row, day, kind, first, np.where(first == chronic, 0, chronic))


def _hospital(rng: np.random.Generator, people: People, visits: Visits, age: Ints) -> None:
    row, day = draw(rng, people, np.interp(age, (0, 3, 18, 30, 65, 90), (0.5, 0.3, 0.26, 0.36, 0.4, 0.6)))
    injury = pick(rng, codes.INJURY, len(row))
    visits.add(row, day, "emergency", injury)
    also = rng.random(len(row)) < 0.35
    visits.add(row[also], day[also], "emergency_physician", injury[also])
    row, day = draw(rng, people, np.interp(age, (0, 18, 45, 65, 90), (0.015, 0.012, 0.05, 0.13, 0.25)))
    nights = 1 + rng.poisson(3, len(row))
    skilled = (age[row] >= OLDER) & (rng.random(len(row)) < 0.22)
    visits.add(
        row,
        day,
        "inpatient",
        pick(rng, codes.ADMISSION, len(row)),
        nights=nights,
        status=np.where(skilled, 3, 1),
    )
    skilled &= people.covered(row, day + nights)
    visits.add(
        row[skilled],
        (day + nights)[skilled],
        "nursing",
        pick(rng, codes.SUPPORT, int(skilled.sum())),
        nights=10 + rng.poisson(12, int(skilled.sum())),
    )


def _births(rng: np.random.Generator, people: People, visits: Visits, age: Ints) -> None:
    row, day = draw(rng, people, np.where((people.sex == 0) & (age >= 16) & (age < 44), 0.06, 0.0))
    _, once = np.unique(row, return_index=True)
    row, day = row[once], day[once]
    birth, pregnancy = DIAGNOSIS[codes.LIVE_BIRTH], DIAGNOSIS[codes.PREGNANCY]
    visits.add(row, day, "delivery", DIAGNOSIS[codes.DELIVERY], birth, nights=2)
    visits.add(row, day, "delivery_physician", DIAGNOSIS[codes.DELIVERY], birth)
    for before in (260, 225, 195, 165, 135, 105, 75, 50, 30, 14):
        when = day - before + rng.integers(-5, 6, len(row))
        come = (rng.random(len(row)) < 0.7) & people.covered(row, when)
        visits.add(row[come], when[come], "prenatal", pregnancy)
    everyone = np.arange(len(people), dtype=np.int64)
    born = everyone[people.covered(everyone, people.birth)]
    visits.add(born, people.birth[born], "newborn", DIAGNOSIS[codes.NEWBORN], nights=2)


def _end_of_life(rng: np.random.Generator, people: People, visits: Visits) -> None:
    dying = np.flatnonzero((people.death <= LAST) & (rng.random(len(people)) < 0.3))
    others = np.flatnonzero(rng.random(len(people)) < 0.0006)
    end = np.concatenate((people.death[dying], rng.integers(FIRST + 90, LAST, len(others))))
    row = np.concatenate((dying, others))
    support = pick(rng, codes.SUPPORT, len(row))
    for weeks in range(rng.integers(5, 8)):
        day = end - 7 * weeks - 3
        keep = people.covered(row, day)
        visits.add(row[keep], day[keep], "hospice", support[keep], DIAGNOSIS[codes.END_OF_LIFE])


def products(rng: np.random.Generator, group: str, size: int) -> Ints:
    """One of a group's drugs for each fill."""
    numbers = np.array([PRODUCT[drug] for drug in codes.DRUGS[group]], dtype=np.int64)
    return numbers[rng.integers(0, len(numbers), size)]


def chronic_fills(
    rng: np.random.Generator, people: People, fills: Fills, rows: Ints, group: str, adherence: float
) -> None:
    """A drug of the group every thirty days, each fill missed with probability 1 - `adherence`."""
    product = products(rng, group, len(rows))
    start = FIRST + rng.integers(-200, 400, len(rows))
    day = start[:, None] + CYCLE * np.arange(CYCLES)[None, :] + rng.integers(0, 5, (len(rows), CYCLES))
    row = np.repeat(rows, CYCLES)
    flat = day.ravel()
    keep = (rng.random(len(row)) < adherence) & people.covered(row, flat)
    refill = np.tile(np.arange(CYCLES) % 6, len(rows))
    fills.add(row[keep], flat[keep], np.repeat(product, CYCLES)[keep], refill[keep])
