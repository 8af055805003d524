"""Many rows: to pyarrow against bare DuckDB in process, and through the broker in bounded memory."""

from __future__ import annotations

import time

from benchmarks.harness import Figure, against, in_turns, memory, plain_duckdb
from benchmarks.world import WHOLE, World
from workbench.broker.slices import open_slice

TURNS = 3
ROWS, STREAMED = 10_000_000, 100_000_000
"""At full scale; a smaller world has its share of them."""
BROKER_BYTES = 500 << 20
"""What the broker may hold while 100 million rows go through it."""
TEN_COLUMNS = (
    "claim_id, line_number, member_id, from_date, place_of_service, revenue_code, procedure_code, units, "
    "paid_amount, allowed_amount"
)
STREAMED_COLUMNS = "claim_id, line_number, from_date, paid_amount"


def run(where: World) -> list[Figure]:
    """Both, with the broker's own peak beside each."""
    where.prepare(WHOLE)
    rows, streamed = int(ROWS * where.scale), int(STREAMED * where.scale)
    figures = []
    with where.broker() as site:
        session = site.session(WHOLE)
        cut = open_slice(where.lake, session.sql("SELECT 1 AS one").provenance.slice)
        bare = plain_duckdb()
        parts = [str(part) for part in cut.parts("medical_claim_line")]
        bare.execute(f"CREATE VIEW medical_claim_line AS FROM read_parquet({parts})")
        long = f"SELECT {TEN_COLUMNS} FROM medical_claim_line LIMIT {rows}"
        assert session.sql(long).num_rows == bare.sql(long).to_arrow_table().num_rows == rows
        site.forget_peak()
        samples = in_turns(
            TURNS,
            ours=lambda: session.sql(long).arrow(),
            alternative=lambda: bare.sql(long).to_arrow_table(),
        )
        name = f"{rows:,} rows × 10 columns to pyarrow"
        figures.append(against(name, samples, "bare DuckDB in process, same Parquet", 2.0))
        figures.append(memory(f"broker's peak memory, {rows:,} rows", site.peak_bytes(), BROKER_BYTES))
        bare.close()
        site.forget_peak()
        # the whole table more often than it has rows: UNION ALL streams, a sort or a join would not
        times = -(-streamed // where.release().manifest["tables"]["medical_claim_line"]["rows"])
        again = " UNION ALL ".join([f"SELECT {STREAMED_COLUMNS} FROM medical_claim_line"] * times)
        start = time.perf_counter()
        found = sum(batch.num_rows for batch in session.sql(f"SELECT * FROM ({again}) LIMIT {streamed}"))
        seconds = time.perf_counter() - start
        assert found == streamed
        note = f"4 columns, {found / seconds / 1e6:.1f} M rows/s, the rows are counted and dropped"
        figures.append(
            memory(f"broker's peak memory, {streamed:,} rows streamed", site.peak_bytes(), BROKER_BYTES, note)
        )
    return figures
