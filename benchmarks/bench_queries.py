"""Queries of an analyst over one plan (5 % of the release), through gate, sandboxed worker and broker.

Against bare DuckDB on the slice's own Parquet, and against what the slice stands for: views over the whole lake that
keep the plan's members by a semi-join.
"""

from __future__ import annotations

import statistics
import time
from functools import partial

import duckdb
import pyarrow as pa

from benchmarks.harness import Figure, absolute, against, in_turns, plain_duckdb
from benchmarks.world import PLAN, World
from workbench.broker import gate
from workbench.broker.slices import Slice, open_slice
from workbench.client.session import Session
from workbench.lake.release import Release

TURNS, WHOLE_LAKE_TURNS, GATE_RUNS = 7, 3, 15
WORTH_A_RATIO = 0.1
"""Seconds of the bare query below which the fixed costs of a request decide, and a ratio says nothing."""
QUERIES = {
    "cost quantiles by procedure": "select procedure_code, count(*) n, count(distinct member_id) people, "
    "quantile_cont(paid_amount, 0.5) median, quantile_cont(paid_amount, 0.95) p95 "
    "from medical_claim_line group by procedure_code order by n desc, procedure_code limit 10000",
    "diagnoses of members by county and year": "select m.county_code, year(d.from_date) y, d.code, "
    "count(distinct d.member_id) people from diagnosis d join member m using (member_id) "
    "group by all order by people desc, 1, 2, 3 limit 10000",
    "days between visits": "select days, count(*) n from (select date_diff('day', lag(from_date) over "
    "(partition by member_id order by from_date, claim_id), from_date) as days from medical_claim) group by days "
    "order by days limit 10000",
    "10,000 members with the highest costs": "select l.member_id, m.sex, sum(l.paid_amount) paid, "
    "count(distinct l.claim_id) claims from medical_claim_line l join member m using (member_id) "
    "group by all order by paid desc, 1 limit 10000",
}


def run(where: World) -> list[Figure]:
    """Each query against both alternatives, and the gate alone on all of them."""
    where.prepare(PLAN)
    figures = []
    with where.broker() as site:
        session = site.session(PLAN)
        cut = open_slice(where.lake, session.sql("SELECT 1 AS one").provenance.slice)
        bare, whole = _bare(cut), _semi_joined(where.release(), where.plan, list(cut.tables()))
        for name, sql in QUERIES.items():
            ours, plain = partial(_ask, session, sql), partial(_ask, bare, sql)
            lake = partial(_ask, whole, sql)
            answer = ours().to_pylist()
            assert answer == plain().to_pylist() == lake().to_pylist(), f"{name}: the answers differ"
            samples = in_turns(TURNS, ours=ours, alternative=plain)
            quick = statistics.median(samples["alternative"]) < WORTH_A_RATIO
            note = f"{len(answer):,} rows" + (
                f"; bare takes under {WORTH_A_RATIO * 1000:.0f} ms here" if quick else ""
            )
            figures.append(
                against(
                    f"one plan: {name}", samples, "bare DuckDB, same Parquet", None if quick else 1.3, note
                )
            )
            samples = in_turns(WHOLE_LAKE_TURNS, ours=ours, alternative=lake)
            figures.append(
                against(f"policy overhead: {name}", samples, "semi-join view on the whole lake", None)
            )
        bare.close()
        whole.close()
    tables = {name: tuple(column[0] for column in columns) for name, columns in cut.tables().items()}
    gates = [_timed_gate(sql, tables) for _ in range(GATE_RUNS) for sql in QUERIES.values()]
    figures.append(absolute("gate alone, p50", gates, 0.005, "of the statements above, none remembered"))
    return figures


def _ask(engine: Session | duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    if isinstance(engine, duckdb.DuckDBPyConnection):
        return engine.sql(sql).to_arrow_table()
    return engine.sql(sql).arrow()


def _bare(cut: Slice) -> duckdb.DuckDBPyConnection:
    """An engine with the slice's tables."""
    con = plain_duckdb()
    for table in cut.tables():
        con.execute(f"CREATE VIEW {table} AS FROM read_parquet({[str(part) for part in cut.parts(table)]})")
    return con


def _semi_joined(release: Release, plan: str, tables: list[str]) -> duckdb.DuckDBPyConnection:
    """An engine with the whole lake behind views that show one plan's members."""
    con = plain_duckdb()
    members = (
        f"SELECT member_id FROM {release.relation('attribution')} WHERE relation = 'mcp' AND organisation_id = "
        f"'{plan}' AND DATE '{release.as_of}' BETWEEN start_date AND coalesce(end_date, DATE '9999-12-31')"
    )
    for table in tables:
        columns = con.sql(f"FROM {release.relation(table)} LIMIT 0").columns
        where = f"WHERE member_id IN ({members})" if "member_id" in columns else ""
        con.execute(f"CREATE VIEW {table} AS FROM {release.relation(table)} {where}")
    return con


def _timed_gate(sql: str, tables: dict[str, tuple[str, ...]]) -> float:
    start = time.perf_counter()
    gate.admit(sql, tables)
    return time.perf_counter() - start
