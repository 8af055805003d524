"""Long answers: bounded memory in the broker, whoever reads slowly or goes away; and what a reader knows of an end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from broker_world import SLOW, Bound, World, new_world, quickest, until

from workbench.broker.frames import END_OF_STREAM
from workbench.client.errors import ResultCutOff
from workbench.client.session import Session
from workbench.client.transport import Transport

pytestmark = pytest.mark.sandbox
ROWS = 10_000_000
TEN_MILLION = (
    "SELECT a.member_id, a.claim_id, b.code, c.position FROM diagnosis a, diagnosis b, diagnosis c, diagnosis d, diagnosis e "
    f"LIMIT {ROWS}"
)
MOST_GROWTH = 100 << 20
"""Bytes by which the broker may grow for an answer of half a gigabyte: a tenth of what 100 million rows may cost it."""


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[World, int]]:
    with new_world() as world, world.process() as broker:
        yield world, broker.pid


@pytest.fixture
def rui(served: tuple[World, int]) -> Bound:
    return served[0].bind("rui", "demo-research-sh", "research")


def _memory(pid: int, what: str) -> int:
    """VmRSS (now) or VmHWM (the most so far) of a process, in bytes."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def test_ten_million_rows_go_through_a_broker_that_hardly_grows(
    served: tuple[World, int], rui: Bound
) -> None:
    assert rui.query("SELECT 1").status == 200
    _, pid = served
    before = _memory(pid, "VmRSS")
    session = Session(Transport(rui.socket, rui.token))
    rows = size = 0
    for number, batch in enumerate(session.sql(TEN_MILLION)):
        rows += batch.num_rows
        size += batch.nbytes
        if number == 3:
            time.sleep(2)
            assert _memory(pid, "VmRSS") - before < MOST_GROWTH, "a slow reader fills no buffer"
    assert rows == ROWS and size > 400 << 20
    assert _memory(pid, "VmHWM") - before < MOST_GROWTH


def test_a_caller_who_goes_away_frees_the_worker_within_a_second_before_the_first_batch_and_after(
    served: tuple[World, int], rui: Bound
) -> None:
    world, _ = served

    def busy() -> list[int]:
        found: list[int] = world.control("GET", "/health").json["workers"]["busy"]
        return found

    def goes_away(sql: str, after: int) -> float:
        """Seconds from the end of the connection, after so many bytes were read, until its worker is free."""
        near = rui.posting(sql)
        until(busy)
        taken = 0
        while taken < after:
            taken += len(near.recv(65536))
        near.close()
        gone = time.monotonic()
        until(lambda: not busy(), 20)
        freed = time.monotonic() - gone
        until(lambda: world.log(user="rui")[-1]["outcome"] == "cancelled")
        return freed

    assert rui.query("SELECT 1").status == 200
    until(lambda: not busy())
    for sql, after in ((SLOW, 0), (TEN_MILLION, 1), (TEN_MILLION, 5 << 20)):
        assert quickest(partial(goes_away, sql, after), 1.0) < 1.0, (sql[:40], after)
    assert rui.query("SELECT 1").status == 200


def test_a_worker_that_dies_in_the_middle_leaves_an_answer_that_is_known_to_be_broken_off(
    served: tuple[World, int], rui: Bound
) -> None:
    world, _ = served
    session = Session(Transport(rui.socket, rui.token))
    with pytest.raises(ResultCutOff, match="worker that ran the query ended"):
        for _ in session.sql(TEN_MILLION):
            for pid in world.control("GET", "/health").json["workers"]["busy"]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    near = rui.posting(TEN_MILLION)
    said = near.recv(4096)
    for pid in world.control("GET", "/health").json["workers"]["busy"]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with near:
        while more := near.recv(1 << 20):
            said = (said + more)[-64:] if len(said) > 1 << 20 else said + more
    assert END_OF_STREAM not in said[-64:] and not said.endswith(b"0\r\n\r\n"), (
        "neither HTTP's end nor the stream's"
    )


def test_an_error_in_the_first_batch_comes_with_its_status_and_no_row(rui: Bound) -> None:
    reply = rui.query("SELECT CAST(code AS INTEGER) FROM diagnosis")
    assert (reply.status, json.loads(reply.body)["code"]) == (400, "conversion")
