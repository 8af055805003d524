"""Behavioral care of a block: mental-health emergency visits and their follow-up, therapy, substance use treatment.

Whether a visit is followed up depends on race, county, plan, month and year, so that the reports have something to
show; some follow-up happens in Part 2 programs, so that a grant without Part 2 sees another rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workbench.lake.synthetic import codes, world
from workbench.lake.synthetic.calendar import FIRST, LAST, Bools, Ints, age_on, month_of
from workbench.lake.synthetic.care import chronic_fills, draw, pick
from workbench.lake.synthetic.events import TEMPLATE, Fills, Visits
from workbench.lake.synthetic.people import People

NONE, MILD, SEVERE = 0, 1, 2
OPIOID, ALCOHOL, STIMULANT = 1, 2, 3
YOUNGEST = 6
EMERGENCY_YEARLY = (0.02, 0.2, 0.75)
"""Mental-health emergency visits a year: without a mental-health condition, with a mild, with a severe one."""
ADMITTED, ALSO_SUBSTANCE, SELF_HARM, SELF_HARM_ONLY = 0.11, 0.13, 0.09, 0.05
IN_PART2_PROGRAM = 0.06
EARLY_DAYS = np.array([0.06, 0.17, 0.16, 0.15, 0.13, 0.12, 0.11, 0.10])
"""Shares of day 0 to day 7 among the follow-ups of the first eight days."""


@dataclass(frozen=True)
class Mind:
    """Mental health (NONE, MILD, SEVERE), substance use (0, OPIOID, ALCOHOL, STIMULANT), the usual diagnoses."""

    mental: Ints
    substance: Ints
    diagnosis: Ints
    substance_diagnosis: Ints


def behavioral(
    rng: np.random.Generator, people: People, visits: Visits, fills: Fills, county_effect: np.ndarray
) -> Mind:
    """All behavioral care of the block."""
    mind = _conditions(rng, people)
    _emergency(rng, people, visits, mind, county_effect)
    _therapy(rng, people, visits, fills, mind)
    _substance_use(rng, people, visits, fills, mind)
    return mind


def _conditions(rng: np.random.Generator, people: People) -> Mind:
    size = len(people)
    age = age_on((FIRST + LAST) // 2, people.birth)
    chance = rng.random(size)
    severe = chance < np.interp(age, (0, 6, 14, 30, 70), (0.0, 0.012, 0.035, 0.055, 0.03))
    mild = ~severe & (chance < np.interp(age, (0, 6, 14, 30, 70), (0.0, 0.06, 0.12, 0.15, 0.12)))
    mental = np.where(severe, SEVERE, np.where(mild, MILD, NONE))
    diagnosis = np.where(
        age < 18,
        pick(rng, codes.MENTAL_CHILD, size),
        np.where(mental == SEVERE, pick(rng, codes.MENTAL_SEVERE, size), pick(rng, codes.MENTAL_MILD, size)),
    )
    adult = (age >= 16) & (age < 80)
    use = rng.random(size) * np.where(mental == SEVERE, 0.35, 1.0)
    substance = np.where(
        adult,
        np.select((use < 0.009, use < 0.021, use < 0.030), (OPIOID, ALCOHOL, STIMULANT), 0),
        0,
    )
    substance_diagnosis = np.select(
        (substance == OPIOID, substance == STIMULANT),
        (pick(rng, codes.OPIOID, size), pick(rng, codes.STIMULANT, size)),
        pick(rng, codes.ALCOHOL, size),
    )
    return Mind(mental, substance, diagnosis, substance_diagnosis)


def _emergency(
    rng: np.random.Generator, people: People, visits: Visits, mind: Mind, county_effect: np.ndarray
) -> None:
    row, day = draw(rng, people, np.array(EMERGENCY_YEARLY)[mind.mental])
    old_enough = age_on(day, people.birth[row]) >= YOUNGEST
    row, day = row[old_enough], day[old_enough]
    size = len(row)
    harm = rng.random(size) < SELF_HARM
    first = np.where(harm, pick(rng, codes.SELF_HARM, size), mind.diagnosis[row])
    substance = (rng.random(size) < ALSO_SUBSTANCE) | ((mind.substance[row] > 0) & (rng.random(size) < 0.5))
    second = np.where(harm, mind.diagnosis[row], np.where(substance, mind.substance_diagnosis[row], 0))
    third = np.where(harm & substance, mind.substance_diagnosis[row], 0)
    visits.add(row, day, "emergency", first, second, third)
    also = rng.random(size) < 0.3
    visits.add(row[also], day[also], "emergency_physician", first[also], second[also])
    admitted = rng.random(size) < ADMITTED
    start = day + rng.integers(0, 2, size)
    stay = admitted & people.covered(row, start)
    visits.add(
        row[stay],
        start[stay],
        "inpatient_psychiatric",
        first[stay],
        second[stay],
        nights=2 + rng.poisson(5, int(stay.sum())),
    )
    _follow_up(rng, people, visits, mind, row[~admitted], day[~admitted], county_effect)

    row, day = draw(rng, people, np.where(mind.mental > 0, SELF_HARM_ONLY / 2, 0.002))
    injury = pick(rng, codes.SELF_HARM_INJURY, len(row))
    visits.add(row, day, "emergency", injury, pick(rng, ("X789XXA", "X838XXA"), len(row)))


def _follow_up(
    rng: np.random.Generator,
    people: People,
    visits: Visits,
    mind: Mind,
    row: Ints,
    day: Ints,
    county_effect: np.ndarray,
) -> None:
    month = month_of(day)
    odds = (
        np.log(world.FOLLOW_UP_30 / (1 - world.FOLLOW_UP_30))
        + np.array(world.FOLLOW_UP_BY_RACE)[people.race[row]]
        + np.array(world.FOLLOW_UP_BY_PLAN)[people.plan[row, month]]
        + county_effect[people.county[row, month]]
        + np.array(world.FOLLOW_UP_BY_MONTH)[month % 12]
        + world.FOLLOW_UP_TREND * (month // 12)
    )
    seen = rng.random(len(row)) < 1 / (1 + np.exp(-odds))
    early = rng.random(len(row)) < world.FOLLOW_UP_EARLY
    after = np.where(
        early, rng.choice(8, len(row), p=EARLY_DAYS / EARLY_DAYS.sum()), rng.integers(8, 31, len(row))
    )
    after = np.where(seen, after, rng.integers(31, 120, len(row)))
    come = (seen | (rng.random(len(row)) < 0.4)) & people.covered(row, day + after)
    row, when = row[come], (day + after)[come]
    chance = rng.random(len(row))
    kind = np.select(
        (
            chance < 0.38,
            chance < 0.52,
            chance < 0.64,
            chance < 0.76,
            chance < 0.88,
            chance < 1 - IN_PART2_PROGRAM,
        ),
        tuple(
            TEMPLATE[name]
            for name in (
                "county_therapy",
                "county_psychiatrist",
                "county_telehealth",
                "therapy",
                "primary_mental",
                "therapy_telehealth",
            )
        ),
        TEMPLATE["dual_program"],
    )
    visits.add(row, when, kind, mind.diagnosis[row])


def _therapy(rng: np.random.Generator, people: People, visits: Visits, fills: Fills, mind: Mind) -> None:
    row, day = draw(rng, people, np.array([0.0, 1.6, 0.7])[mind.mental])
    kind = np.where(rng.random(len(row)) < 0.3, TEMPLATE["therapy_telehealth"], TEMPLATE["therapy"])
    kind = np.where(rng.random(len(row)) < 0.35, TEMPLATE["primary_mental"], kind)
    visits.add(row, day, kind, mind.diagnosis[row])
    row, day = draw(rng, people, np.array([0.0, 0.0, 2.4])[mind.mental])
    kind = np.where(rng.random(len(row)) < 0.4, TEMPLATE["county_psychiatrist"], TEMPLATE["county_therapy"])
    visits.add(row, day, kind, mind.diagnosis[row])
    row, day = draw(rng, people, np.array([0.0, 0.004, 0.09])[mind.mental])
    visits.add(row, day, "inpatient_psychiatric", mind.diagnosis[row], nights=3 + rng.poisson(5, len(row)))
    some = rng.random(len(people))
    chronic_fills(
        rng, people, fills, np.flatnonzero((mind.mental == MILD) & (some < 0.5)), "antidepressant", 0.65
    )
    chronic_fills(
        rng, people, fills, np.flatnonzero((mind.mental == SEVERE) & (some < 0.7)), "antipsychotic", 0.68
    )


def _substance_use(
    rng: np.random.Generator, people: People, visits: Visits, fills: Fills, mind: Mind
) -> None:
    has = mind.substance > 0
    diagnosis = mind.substance_diagnosis
    for kind, yearly in (("recovery_counselling", 4.0), ("recovery_intensive", 1.2), ("emergency", 0.35)):
        row, day = draw(rng, people, np.where(has, yearly, 0.0))
        also = _sometimes(rng, mind.mental[row] > 0, 0.4)
        visits.add(row, day, kind, diagnosis[row], np.where(also, mind.diagnosis[row], 0))
    row, day = draw(rng, people, np.where(mind.substance == OPIOID, 0.1, 0.0))
    visits.add(row, day, "emergency", pick(rng, codes.OVERDOSE, len(row)), diagnosis[row])
    row, day = draw(rng, people, np.where(has, 0.12, 0.0))
    visits.add(row, day, "recovery_residential", diagnosis[row], nights=14 + rng.poisson(14, len(row)))
    row, day = draw(rng, people, np.where(mind.substance == ALCOHOL, 0.12, 0.02 * has))
    visits.add(row, day, "inpatient_detox", diagnosis[row], nights=3, detox=1)
    row, day = draw(rng, people, np.where(mind.substance == OPIOID, 1.5, 0.0))
    visits.add(row, day, "office_moud", diagnosis[row])
    choice = rng.random(len(people))
    methadone = np.flatnonzero((mind.substance == OPIOID) & (choice < 0.3))
    row, day = draw(rng, people, np.where(np.isin(np.arange(len(people)), methadone), 26.0, 0.0))
    visits.add(row, day, "opioid_methadone", diagnosis[row])
    treated = np.flatnonzero((mind.substance == OPIOID) & (choice >= 0.3) & (choice < 0.75))
    chronic_fills(rng, people, fills, treated, "opioid_use", 0.75)
    chronic_fills(
        rng, people, fills, np.flatnonzero((mind.substance == ALCOHOL) & (choice < 0.3)), "alcohol_use", 0.6
    )


def _sometimes(rng: np.random.Generator, flag: Bools, share: float) -> Bools:
    return np.asarray(flag & (rng.random(len(flag)) < share), dtype=np.bool_)
