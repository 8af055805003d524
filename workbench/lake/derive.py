"""Derived tables of a release: member months, sensitive claims, measure events."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from functools import cache
from typing import TYPE_CHECKING

import ibis

from workbench.lake.sensitive import sensitive_claims
from workbench.lib import risk
from workbench.lib.measures import MEASURES
from workbench.lib.tables import Tables
from workbench.schema import dictionary

if TYPE_CHECKING:
    import duckdb

RUN_OUT_DAYS = 31
"""Claims of a month are taken as complete this many days after its end: the demo's assumption, not a public rule.
Medi-Cal allows providers six months to bill (W&I 14115) and measures are run with a run-out of about three months."""

ALL = "all"
"""The basis of a release's measure events: every claim. Slices and tabulation bases compute `visible` for themselves."""


def make_derived(con: duckdb.DuckDBPyConnection, complete_through: date) -> None:
    """Makes the derived tables but for claim_version, which the checks make."""
    member_months(con)
    sensitive_claims(con)
    measure_events(con, complete_through)


def default_as_of(con: duckdb.DuckDBPyConnection) -> date | None:
    """The last day of the month of the latest service, fill or paid date in the stage; None without any claim."""
    rows = con.execute(
        """SELECT last_day(max(day)) FROM (
        SELECT greatest(max(from_date), max(claim_from_date), max(paid_date)) AS day FROM stage.medical_line
        UNION ALL SELECT greatest(max(fill_date), max(paid_date)) FROM stage.pharmacy_line)"""
    ).fetchall()
    return rows[0][0] if rows else None


def complete_through(as_of: date) -> date:
    """The last end of a month that lies at least RUN_OUT_DAYS before the as-of date."""
    day = as_of - timedelta(days=RUN_OUT_DAYS) + timedelta(days=1)
    return day.replace(day=1) - timedelta(days=1)


def member_months(con: duckdb.DuckDBPyConnection) -> None:
    """Makes `member_month`: one row per member and month with medical coverage on the month's last day.

    Where two spans cover that day the one that began last counts.
    """
    con.execute(
        """CREATE TABLE member_month AS
        SELECT e.member_id, e.month, e.organisation_id, e.county_code, e.aid_code,
          date_sub('year', m.birth_date, last_day(e.month))::INTEGER AS age
        FROM (SELECT *, unnest(generate_series(date_trunc('month', start_date), end_date, INTERVAL 1 MONTH))::DATE
                AS month FROM eligibility WHERE medical) e
        LEFT JOIN member m USING (member_id)
        WHERE last_day(e.month) BETWEEN e.start_date AND e.end_date
        QUALIFY row_number() OVER (PARTITION BY e.member_id, e.month
          ORDER BY e.start_date DESC, e.organisation_id, e.aid_code, e.county_code) = 1"""
    )


def measure_years(con: duckdb.DuckDBPyConnection, through: date) -> list[int]:
    """The calendar years that have claims and lie wholly before the day through which claims are complete."""
    rows = con.execute("SELECT DISTINCT year(from_date) FROM medical_claim ORDER BY 1").fetchall()
    return measure_years_among([year for (year,) in rows], through)


def measure_years_among(years: Sequence[int], through: date) -> list[int]:
    """Those of the years that lie wholly before the day through which claims are complete."""
    return [year for year in years if date(year, 12, 31) <= through]


def measure_events(con: duckdb.DuckDBPyConnection, through: date) -> None:
    """Makes `measure_event`: every event measure of the library, by year, over all claims."""
    columns = dictionary()["measure_event"].columns
    con.execute(f"CREATE TABLE measure_event ({', '.join(f'{c.name} {c.type}' for c in columns.values())})")
    insert_events(con, "measure_event", ALL, measure_years(con, through))


def insert_events(
    con: duckdb.DuckDBPyConnection, table: str, basis: str, years: Sequence[int], where: str = "true"
) -> None:
    """Writes the events of every event measure into `table`, computed from the tables of the dictionary that `con` sees."""
    for measure in MEASURES.values():
        known = tuple(sorted(set(years) & set(measure.years))) if measure.event else ()
        if not known:
            continue
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE counted AS FROM ({events_sql(measure.name, known)}) WHERE denominator"
        )
        for numerator in measure.numerators:
            con.execute(
                f"""INSERT INTO {table} BY NAME
                SELECT '{measure.name}' AS measure, measure_year, '{basis}' AS basis, event_id, member_id,
                  event_date, organisation_id, county_code, age, '{numerator}' AS numerator, met_{numerator} AS met
                FROM counted WHERE {where}"""
            )
        con.execute("DROP TABLE counted")


@cache
def events_sql(measure: str, years: tuple[int, ...]) -> str:
    """SQL of the events of all years, with `measure_year`. Kept, because it takes the compiler a second."""
    tables = Tables.unbound()
    found = [MEASURES[measure].events(tables, year).mutate(measure_year=ibis.literal(year)) for year in years]
    return str(ibis.to_sql(ibis.union(*found) if len(found) > 1 else found[0], dialect="duckdb"))


def risk_tiers(con: duckdb.DuckDBPyConnection, as_of: date) -> risk.Cuts:
    """Makes `risk_tier` and gives the cut points over the whole release, which its manifest keeps as `risk_cuts`."""
    con.execute(f"CREATE TEMP TABLE risk_score AS {_risk_scores(as_of)}")
    scored = ibis.table(dict(risk.SCORES), name="risk_score")
    found = con.execute(str(ibis.to_sql(risk.cut_points(scored), dialect="duckdb"))).fetchall()
    cuts = risk.read_cuts(found)
    con.execute(
        f"CREATE TABLE risk_tier AS {ibis.to_sql(risk.tiers_of(scored, as_of, cuts), dialect='duckdb')}"
    )
    con.execute("DROP TABLE risk_score")
    return cuts


@cache
def _risk_scores(as_of: date) -> str:
    return str(ibis.to_sql(risk.scores(Tables.unbound(), as_of), dialect="duckdb"))
