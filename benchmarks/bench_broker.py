"""Rows through gate, sandboxed worker, broker and client, against bare DuckDB on the same Parquet in process."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from functools import partial

import duckdb

from benchmarks import world
from benchmarks.harness import Figure, absolute, against, in_turns
from workbench.broker import gate
from workbench.broker.slices import open_slice

COLUMNS = (
    "claim_id, line_number, member_id, from_date, place_of_service, revenue_code, procedure_code, units, "
    "paid_amount, allowed_amount"
)
ROWS = 1_000_000
LONG = f"select {COLUMNS} from medical_claim_line limit {ROWS}"
AGGREGATES = {
    "cost quantiles by procedure": "select procedure_code, count(*) n, count(distinct member_id) people, "
    "quantile_cont(paid_amount, 0.5) median, quantile_cont(paid_amount, 0.95) p95 "
    "from medical_claim_line group by procedure_code order by n desc, procedure_code limit 10000",
    "diagnoses of members by county and year": "select m.county_code, year(d.from_date) y, d.code, "
    "count(distinct d.member_id) people from diagnosis d join member m using (member_id) "
    "group by all order by people desc, 1, 2, 3 limit 10000",
    "days between visits": "select days, count(*) n from (select date_diff('day', lag(from_date) over "
    "(partition by member_id order by from_date, claim_id), from_date) as days from medical_claim) group by days "
    "order by days limit 10000",
}
SMALL = "select sex, count(*) n from member group by sex order by sex"


def run() -> list[Figure]:
    """1 M rows × 10 columns, three aggregates, the small query, and the gate alone."""
    import workbench as wb

    with world.broker() as control:
        os.environ.update(world.seat(control, "bench-identified", "operations"))
        session = wb.connect()
        answer = session.sql(SMALL)
        answer.arrow()
        cut = open_slice(world.FOLDER / "lake", answer.provenance.slice)
        bare = duckdb.connect()
        for table in ("member", "medical_claim", "medical_claim_line", "diagnosis"):
            parts = [str(part) for part in cut.parts(table)]
            bare.execute(f"create view {table} as select * from read_parquet({parts})")
        figures = []
        ours, theirs = session.sql(LONG).arrow(), bare.sql(LONG).to_arrow_table()
        assert ours.num_rows == theirs.num_rows == ROWS and ours.num_columns == 10
        samples = in_turns(
            5,
            ours=lambda: session.sql(LONG).arrow(),
            alternative=lambda: bare.sql(LONG).to_arrow_table(),
        )
        figures.append(
            against(
                f"{ROWS:,} rows × 10 columns to pyarrow", samples, "bare DuckDB in process, same Parquet", 3.0
            )
        )
        for name, sql in AGGREGATES.items():
            same = session.sql(sql).arrow().to_pylist() == bare.sql(sql).to_arrow_table().to_pylist()
            assert same, f"{name}: the broker answers otherwise than DuckDB"
            samples = in_turns(
                7,
                ours=lambda sql=sql: session.sql(sql).arrow(),
                alternative=lambda sql=sql: bare.sql(sql).to_arrow_table(),
            )
            note = "" if statistics.median(samples["alternative"]) > 0.1 else "bare takes under 100 ms here"
            figures.append(
                against(f"aggregate: {name}", samples, "bare DuckDB in process, same Parquet", 1.3, note)
            )
        small = []
        for _ in range(200):
            start = time.perf_counter()
            session.sql(SMALL).arrow()
            small.append(time.perf_counter() - start)
        p99 = sorted(small)[int(len(small) * 0.99)]
        figures.append(absolute("small query, one caller, p50", small, 0.015, f"p99 {p99 * 1000:.1f} ms"))
        tables = {name: list(columns) for name, columns in _columns(bare).items()}
        figures.append(
            absolute(
                "gate alone, p50",
                [_timed(partial(gate.admit, sql, tables)) for _ in range(30) for sql in AGGREGATES.values()],
                0.005,
            )
        )
    return figures


def _columns(bare: duckdb.DuckDBPyConnection) -> dict[str, list[str]]:
    rows = bare.execute("select table_name, column_name from duckdb_columns() where not internal").fetchall()
    tables: dict[str, list[str]] = {}
    for table, column in rows:
        tables.setdefault(table, []).append(column)
    return tables


def _timed(task: Callable[[], object]) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start
