"""What one small query takes when few and when many ask at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from benchmarks.harness import Figure, absolute, percentile
from benchmarks.world import PLAN, USERS, World, ask, people

ALONE, WARM, CALLERS = 200, 2, USERS
SECONDS = 20.0
SMALL = "SELECT sex, count(*) AS n FROM member GROUP BY sex ORDER BY sex"


def run(where: World) -> list[Figure]:
    """One caller, 50 callers of one user, 50 callers who are users of their own."""
    where.prepare(PLAN)
    seconds = SECONDS * min(1.0, where.scale * 10)
    with where.broker() as site:
        seat = site.seat(PLAN)
        alone = [_ask(seat) for _ in range(ALONE + WARM)][WARM:]
        figures = [absolute("small query, one caller, p50", alone, 0.015, _said(alone))]
        one_user = [site.seat(PLAN) for _ in range(CALLERS)]
        many = _crowd(one_user, seconds)
        name = f"small query, {CALLERS} callers at once of one user, p50"
        figures.append(absolute(name, many, None, _said(many, seconds)))
        own = [site.seat(PLAN, user) for user in people()[:CALLERS]]
        strangers = _crowd(own, seconds)
        name = f"small query, {CALLERS} callers at once, each a user of their own, p50"
        figures.append(absolute(name, strangers, None, _said(strangers, seconds)))
    return figures


def _said(samples: list[float], seconds: float | None = None) -> str:
    rate = f", {len(samples) / seconds:,.0f} answers/s" if seconds else ""
    return f"p99 {percentile(samples, 0.99) * 1000:,.1f} ms{rate}"


def _crowd(seats: list[Mapping[str, str]], seconds: float) -> list[float]:
    """Latencies of callers who ask again as soon as they have their answer, from their first question on."""
    begin = threading.Barrier(len(seats))

    def caller(seat: Mapping[str, str]) -> list[float]:
        begin.wait()
        deadline = time.perf_counter() + seconds
        samples = [_ask(seat)]
        while time.perf_counter() < deadline:
            samples.append(_ask(seat))
        return samples

    with ThreadPoolExecutor(len(seats)) as pool:
        return [sample for samples in pool.map(caller, seats) for sample in samples]


def _ask(seat: Mapping[str, str]) -> float:
    """Seconds from the question to the last byte of the answer; being asked to come again is part of them."""
    start = time.perf_counter()
    ask(seat, "POST", "/query", {"sql": SMALL})
    return time.perf_counter() - start
