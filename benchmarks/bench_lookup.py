"""One member's record out of a slice of all members, by the member's own id, as the LMR API gives it."""

from __future__ import annotations

import random
import statistics
import time

import duckdb

from benchmarks.harness import Figure, absolute, percentile, plain_duckdb
from benchmarks.world import WHOLE, World, ask
from workbench.broker.slices import list_slices

LOOKUPS, WARM, SEED = 300, 5, 11
MOST_SECONDS = 0.05


def run(where: World) -> list[Figure]:
    """Look-ups of members drawn at random, in turns with bare DuckDB on the record store's Parquet."""
    release = where.release()
    members = duckdb.sql(f"SELECT member_id FROM {release.relation('member')} ORDER BY 1").fetchall()
    drawn = [member for (member,) in random.Random(SEED).sample(members, min(LOOKUPS + WARM, len(members)))]
    where.prepare_records()
    ours, plain = [], []
    with where.broker() as site, plain_duckdb() as bare:
        seat = site.seat(WHOLE)
        stores = [s for s in list_slices(where.lake) if s.manifest["kind"] == "record"]
        parts = [str(part) for part in stores[-1].parts("record")]
        bare.execute(f"CREATE VIEW store AS FROM read_parquet({parts})")
        for member in drawn:
            start = time.perf_counter()
            found = ask(seat, "GET", f"/members/{member}/record")
            ours.append(time.perf_counter() - start)
            assert found
            start = time.perf_counter()
            bare.execute("SELECT record FROM store WHERE member_id = ?", [member]).fetchall()
            plain.append(time.perf_counter() - start)
    ours, plain = ours[WARM:], plain[WARM:]
    name = f"a member's record by id, {len(members):,} members, p50"
    figure = absolute(name, ours, MOST_SECONDS, f"p99 {percentile(ours, 0.99) * 1000:.1f} ms")
    figure.alternative, figure.alternative_is = statistics.median(plain), "bare DuckDB, same Parquet"
    figure.ratio = figure.ours / figure.alternative
    figure.samples["alternative"] = plain
    return [figure]
