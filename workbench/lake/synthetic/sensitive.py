"""Care of the sensitive categories of a block, rare as it is: sexual health, HIV, gender, violence, genetics.

Specialty mental health and substance use are in behavioral.py. Shares and rates are invented, and small.
"""

from __future__ import annotations

import numpy as np

from workbench.lake.synthetic import codes
from workbench.lake.synthetic.calendar import FIRST, LAST, age_on
from workbench.lake.synthetic.care import chronic_fills, draw, pick
from workbench.lake.synthetic.events import DIAGNOSIS, Fills, Visits
from workbench.lake.synthetic.people import People

FERTILE = (15, 45)
ON_CONTRACEPTION, DEVICES, TERMINATIONS = 0.12, 0.012, 0.008
"""Share of women of that age, and events a year of each."""
INFECTION_TESTS, INFECTIONS, HIV_TESTS = 0.06, 0.012, 0.03
"""A year, for each member of 15 to 49."""
WITH_HIV, ON_PROPHYLAXIS, GENDER_CARE = 0.003, 0.0015, 0.003
"""Shares of members of 15 to 64."""
VIOLENCE = (0.004, 0.001)
"""Emergency visits a year for abuse by a partner: women, others, 16 and older."""
GENETIC_TESTS = 0.004
"""A year, for every member."""


def sensitive(rng: np.random.Generator, people: People, visits: Visits, fills: Fills) -> None:
    """All such care of the block."""
    age = age_on((FIRST + LAST) // 2, people.birth)
    _sexual_health(rng, people, visits, fills, age)
    _hiv(rng, people, visits, fills, age)
    _others(rng, people, visits, age)


def _sexual_health(
    rng: np.random.Generator, people: People, visits: Visits, fills: Fills, age: np.ndarray
) -> None:
    woman = (people.sex == 0) & (age >= FERTILE[0]) & (age < FERTILE[1])
    users = np.flatnonzero(woman & (rng.random(len(people)) < ON_CONTRACEPTION))
    chronic_fills(rng, people, fills, users, "contraception", 0.6)
    row, day = draw(rng, people, np.isin(np.arange(len(people)), users) * 1.0)
    visits.add(row, day, "family_planning", pick(rng, codes.CONTRACEPTION, len(row)))
    for template, diagnosis, yearly in (
        ("contraceptive_device", codes.DEVICE, DEVICES),
        ("termination", codes.TERMINATION, TERMINATIONS),
    ):
        row, day = draw(rng, people, np.where(woman, yearly, 0.0))
        visits.add(row, day, template, DIAGNOSIS[diagnosis])
    active = (age >= 15) & (age < 50)
    row, day = draw(rng, people, np.where(active, INFECTION_TESTS, 0.0))
    visits.add(row, day, "infection_test", DIAGNOSIS[codes.SEXUAL_SCREENING])
    row, day = draw(rng, people, np.where(active, INFECTIONS, 0.0))
    visits.add(row, day, "office", pick(rng, codes.SEXUAL_INFECTION, len(row)))


def _hiv(rng: np.random.Generator, people: People, visits: Visits, fills: Fills, age: np.ndarray) -> None:
    grown = (age >= 15) & (age < 65)
    chance = rng.random(len(people))
    has = grown & (chance < WITH_HIV)
    takes = grown & ~has & (chance < WITH_HIV + ON_PROPHYLAXIS)
    row, day = draw(rng, people, np.where(grown, HIV_TESTS, 0.0))
    visits.add(row, day, "infection_test", DIAGNOSIS[codes.HIV_SCREENING])
    usual = pick(rng, codes.HIV, len(people))
    row, day = draw(rng, people, np.where(has, 3.0, 0.0))
    visits.add(row, day, "office_labs", usual[row])
    row, day = draw(rng, people, np.where(takes, 3.0, 0.0))
    visits.add(row, day, "office", DIAGNOSIS[codes.HIV_PROPHYLAXIS])
    chronic_fills(rng, people, fills, np.flatnonzero(has), "hiv", 0.85)
    chronic_fills(rng, people, fills, np.flatnonzero(takes), "prophylaxis", 0.8)


def _others(rng: np.random.Generator, people: People, visits: Visits, age: np.ndarray) -> None:
    gender = (age >= 14) & (age < 65) & (rng.random(len(people)) < GENDER_CARE)
    row, day = draw(rng, people, np.where(gender, 2.0, 0.0))
    history = np.where(rng.random(len(row)) < 0.2, DIAGNOSIS[codes.GENDER_HISTORY], 0)
    visits.add(row, day, "office", pick(rng, codes.GENDER, len(row)), history)
    row, day = draw(rng, people, np.where(age >= 16, np.where(people.sex == 0, *VIOLENCE), 0.0))
    visits.add(
        row, day, "emergency", pick(rng, codes.INJURY, len(row)), pick(rng, codes.PARTNER_VIOLENCE, len(row))
    )
    after = day + rng.integers(3, 30, len(row))
    come = (rng.random(len(row)) < 0.4) & people.covered(row, after)
    visits.add(row[come], after[come], "therapy", DIAGNOSIS[codes.PARTNER_COUNSELLING])
    row, day = draw(rng, people, GENETIC_TESTS)
    visits.add(row, day, "genetic_test", pick(rng, codes.GENETIC, len(row)))
