"""Members' results over the claims that a grant sees: measure events and risk tiers, computed anew where claims are hidden.

What a measure or a tier says of a member rests on that member's rows alone, so it is computed for the members who lost
claims, by the same pure functions as at release build (tiers with the release's cut points), over the very rows that
the slice has of them; everybody else's results are the release's.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import date
from functools import cache

import duckdb
import ibis

from workbench.broker.cut import CUTS
from workbench.broker.cutter import Cutter
from workbench.lake.derive import insert_events, measure_years_among
from workbench.lake.release import Release
from workbench.lib import risk
from workbench.lib.measures import MEASURES
from workbench.lib.tables import Tables
from workbench.schema import dictionary

RESULTS = tuple(name for name, cut in CUTS.items() if cut.recomputed)


def compute_anew(
    con: duckdb.DuckDBPyConnection, cutter: Cutter, release: Release, names: Collection[str]
) -> None:
    """Makes `lost_<table>` (members) and `recomputed_<table>` for those of `names` that are members' results.

    Under `ever_own_period` results are computed anew where anything of the member lies outside the attributed days: a
    tier counts changes of plan, and a visit does not count in a measure when its member died or was in hospice later.
    """
    wanted = [name for name in RESULTS if name in names]
    if not wanted or not cutter.drops_claims:
        return
    cutter.claims()
    for name in wanted:
        con.execute(f"CREATE TABLE lost_{name} AS SELECT DISTINCT member_id FROM ({cutter.who_lost()})")
        columns = ", ".join(f"{c.name} {c.type}" for c in dictionary()[name].columns.values())
        con.execute(f"CREATE TABLE recomputed_{name} ({columns})")
    lost = " UNION ".join(f"SELECT member_id FROM lost_{name}" for name in wanted)
    con.execute(f"CREATE TABLE lost AS {lost}")
    if not con.execute("SELECT 1 FROM lost LIMIT 1").fetchall():
        return
    needs = _needs(wanted)
    _visible_tables(con, cutter, release, needs)
    database = con.execute("SELECT current_database()").fetchall()[0][0]
    con.execute(f"SET search_path = '{database}.visible,{database}.main'")
    try:
        if "measure_event" in wanted:
            _measure_events(con, cutter, release)
        if "risk_tier" in wanted:
            _risk_tiers(con, release)
    finally:
        con.execute(f"SET search_path = '{database}.main'")
        con.execute("DROP SCHEMA visible CASCADE")


def _needs(wanted: Collection[str]) -> dict[str, set[str]]:
    """Table → columns that the functions read."""
    sources: list[Mapping[str, tuple[str, ...]]] = []
    if "measure_event" in wanted:
        sources += [measure.needs for measure in MEASURES.values() if measure.event]
    if "risk_tier" in wanted:
        sources.append(risk.NEEDS)
    needs: dict[str, set[str]] = {}
    for source in sources:
        for table, columns in source.items():
            needs.setdefault(table, set()).update(columns)
    return needs


def _visible_tables(
    con: duckdb.DuckDBPyConnection, cutter: Cutter, release: Release, needs: Mapping[str, set[str]]
) -> None:
    """In a schema of their own, under their own names: the rows that the slice has of the members who lost claims."""
    con.execute("CREATE SCHEMA visible")
    for name, columns in needs.items():
        table = dictionary()[name]
        listed = ", ".join(
            f"s.{c.name}" if c.name in columns else f"NULL::{c.type} AS {c.name}"
            for c in table.columns.values()
        )
        if table.has_member:
            selection = cutter.select(name)
            source = f"{selection.source} SEMI JOIN lost ON lost.member_id = s.member_id WHERE {selection.fate} IS NULL"
        else:
            source = f"{release.relation(name)} s"
        con.execute(f"CREATE TABLE visible.{name} AS SELECT {listed} FROM {source}")


def _measure_events(con: duckdb.DuckDBPyConnection, cutter: Cutter, release: Release) -> None:
    found = con.execute(
        f"SELECT DISTINCT year(from_date) FROM {release.relation('medical_claim')}"
    ).fetchall()
    years = measure_years_among([year for (year,) in found], release.complete_through)
    lost = "member_id IN (SELECT member_id FROM lost_measure_event)"
    insert_events(con, "recomputed_measure_event", cutter.basis, years, lost)


def _risk_tiers(con: duckdb.DuckDBPyConnection, release: Release) -> None:
    cuts = json.dumps(release.manifest["risk_cuts"], sort_keys=True)
    con.execute(f"INSERT INTO recomputed_risk_tier BY NAME FROM ({_tiers_sql(release.as_of, cuts)})")


@cache
def _tiers_sql(as_of: date, cuts: str) -> str:
    """Kept, because it takes the compiler a second."""
    return str(ibis.to_sql(risk.tiers(Tables.unbound(), as_of, json.loads(cuts)), dialect="duckdb"))
