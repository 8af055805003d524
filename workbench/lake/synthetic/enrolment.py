"""What is sent about members: monthly eligibility records (ME), SUME rows, panels of clinics and Tribes."""

from __future__ import annotations

import numpy as np
import polars as pl

from workbench.lake.apcd_layout import ELEMENTS
from workbench.lake.synthetic import world
from workbench.lake.synthetic.calendar import LAST, MONTH_START, YEAR_MONTHS, Bools, Ints
from workbench.lake.synthetic.people import People
from workbench.lake.synthetic.render import days, days_where, records, texts
from workbench.schema.counties import counties

PANEL_SHARE, TRIBE_SHARE = 0.15, 0.35
CLINICS_FROM, CLINIC_STEP = 300_000, 2_500_000
"""Counties of so many people have a clinic with a panel, and one more for each step."""
TRIBES = {
    "tribe-three-rivers": ("Three Rivers Tribal Health", "North"),
    "tribe-oak-meadow": ("Oak Meadow Indian Health Council", "South"),
    "tribe-high-sierra": ("High Sierra Tribal Clinic", "Sierra"),
}
"""Invented: id -> name and region."""
BROKEN_MONTH, SHORT_FIELDS = "13", 20


def clinics() -> dict[str, str]:
    """Clinics with panels: id -> county code."""
    return {
        f"clinic-{county.code}-{turn + 1}": county.code
        for county in counties().values()
        if county.population_2022 >= CLINICS_FROM
        for turn in range(1 + county.population_2022 // CLINIC_STEP)
    }


def organisations() -> pl.DataFrame:
    """The registry's rows: plans, state, counties, behavioral health plans, clinics, Tribes."""
    rows = [(plan, name, "mcp", "") for plan, name in world.PLANS.items()]
    rows.append((world.STATE, world.STATE_NAME, "state", ""))
    for county in counties().values():
        rows.append((f"county-{county.code}", f"{county.name} County", "county", county.code))
        rows.append((f"bhp-{county.code}", f"{county.name} Behavioral Health Plan", "bhp", county.code))
    names = {code: county.name for code, county in counties().items()}
    rows.extend(
        (clinic, f"{names[code]} Community Clinic {clinic.rpartition('-')[2]}", "provider", code)
        for clinic, code in clinics().items()
    )
    rows.extend((tribe, name, "tribe", "") for tribe, (name, _) in TRIBES.items())
    return pl.DataFrame(
        rows, schema=["organisation_id", "name", "kind", "county_code"], orient="row"
    ).with_columns(pl.all().cast(pl.String))


def eligibility(rng: np.random.Generator, people: People) -> tuple[pl.Series, Ints, Ints, int, int]:
    """(ME records, plan of each, year 0-2 of each, members with any, broken records of each of two sorts)."""
    row, month = np.nonzero(people.plan >= 0)
    each = max(1, round(len(row) * world.BROKEN_PER_100_000 / 100_000 / 4))
    extra = np.sort(rng.integers(0, len(row), 2 * each))
    sort = np.concatenate((np.full(len(row), -1), np.arange(2 * each) % 2))
    row, month = np.concatenate((row, row[extra])), np.concatenate((month, month[extra]))
    plan, county = people.plan[row, month], people.county[row, month]
    member = people.table
    about = records(
        "ME",
        {
            "CDLME009": member["aid_code"],
            "CDLME011": member["member_id"],
            "CDLME018": member["sex"],
            "CDLME019": days(people.birth),
            "CDLME020": member["last_name"],
            "CDLME021": member["first_name"],
            "CDLME023": member["street"],
            "CDLME024": member["city"],
            "CDLME025": "CA",
            "CDLME026": member["zip"],
            "CDLME028": texts([world.RACE_CODE[race] for race in world.RACES], people.race),
            "CDLME029": texts(["2106-3" if race == "multiple" else "" for race in world.RACES], people.race),
            "CDLME031": texts(
                [{"hispanic": "Y", "unknown": "U"}.get(race, "N") for race in world.RACES], people.race
            ),
            "CDLME036": "Y",
            "CDLME037": "Y",
            "CDLME039": "Y",
            "CDLME061": member["member_id"],
        },
    )
    places = ELEMENTS["ME"]
    first, last = places.index("CDLME006") + 1, places.index("CALME001")
    middle = about.str.split("|").list.slice(first, last - first).list.join("|").gather(pl.Series(row))
    head_table = [
        f"{plan_id}|{plan_id}|{plan_id}||{year}|{month + 1:02d}|"
        for plan_id in world.PLANS
        for year, month in YEAR_MONTHS[: world.MONTHS]
    ]
    head = texts(head_table, plan * world.MONTHS + month)
    broken = [
        f"{plan_id}|{plan_id}|{plan_id}||{year}|{BROKEN_MONTH}|"
        for plan_id in world.PLANS
        for year in world.YEARS
    ]
    bad = texts(broken, plan * len(world.YEARS) + month // 12)
    head = pl.select(pl.when(pl.Series(sort == 0)).then(bad).otherwise(head)).to_series()
    tail = texts([f"|{code}|ME" for code in counties()], county)
    record = head + middle + tail
    short = pl.Series(sort == 1)
    record = record.scatter(
        short.arg_true(), record.filter(short).str.split("|").list.head(SHORT_FIELDS).list.join("|")
    )
    return record, plan, month // 12, int(_enrolled(people).sum()), each


def sume(people: People) -> pl.DataFrame:
    """One row per enrolled member: contact, language, death, last county (our own shape; the real layout is not public)."""
    return pl.DataFrame(
        {
            "member_id": people.table["member_id"],
            "language": people.table["language"],
            "phone": people.table["phone"],
            "email": people.table["email"],
            "death_date": days_where(people.death, people.death <= LAST, iso=True),
            "county_code": texts(list(counties()), people.county[:, -1]),
        }
    ).filter(pl.Series(_enrolled(people)))


def _enrolled(people: People) -> Bools:
    return np.asarray((people.plan >= 0).any(axis=1), dtype=np.bool_)


def panel(rng: np.random.Generator, people: People) -> pl.DataFrame:
    """One row per member, organisation and span: clinics of the county, Tribes for American Indian members."""
    size, codes = len(people), list(counties())
    enrolled = _enrolled(people)
    first = (people.plan >= 0).argmax(axis=1)
    by_county: dict[int, list[str]] = {}
    for clinic, code in clinics().items():
        by_county.setdefault(codes.index(code), []).append(clinic)
    flat = [clinic for several in by_county.values() for clinic in several]
    count = np.zeros(len(codes), dtype=np.int64)
    start = np.zeros(len(codes), dtype=np.int64)
    place = 0
    for county, several in by_county.items():
        count[county], start[county] = len(several), place
        place += len(several)
    home = people.county[np.arange(size), first]
    chosen = np.flatnonzero((rng.random(size) < PANEL_SHARE) & (count[home] > 0) & enrolled)
    clinic = start[home[chosen]] + rng.integers(0, 1 << 30, len(chosen)) % count[home[chosen]]
    native = np.flatnonzero(
        (people.race == world.RACES.index("aian")) & (rng.random(size) < TRIBE_SHARE) & enrolled
    )
    tribes = list(TRIBES)
    regions = [region for _, region in TRIBES.values()]
    by_region = np.array([regions.index(c.region) if c.region in regions else 0 for c in counties().values()])
    row = np.concatenate((chosen, native))
    organisation = pl.concat((texts(flat, clinic), texts(tribes, by_region[home[native]])))
    begin = np.array([_month_text(month) for month in range(world.MONTHS)])[first[row]]
    ends = rng.random(len(row)) < 0.1
    last = np.minimum(first[row] + rng.integers(4, world.MONTHS, len(row)), world.MONTHS - 1)
    end = np.where(ends, np.array([_month_text(m, True) for m in range(world.MONTHS)])[last], "")
    return pl.DataFrame(
        {
            "member_id": people.table["member_id"].gather(pl.Series(row)),
            "organisation_id": organisation,
            "relation": ["provider"] * len(chosen) + ["tribe"] * len(native),
            "start_date": begin,
            "end_date": end,
        }
    )


def _month_text(month: int, end: bool = False) -> str:
    day = MONTH_START[month + 1] - 1 if end else MONTH_START[month]
    return str(days(np.array([day]), iso=True)[0])
