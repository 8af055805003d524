"""SIGKILL of workers, of the broker and of slice builds at random moments, under load, with real processes.

What must hold whenever it strikes: an answer is whole and right or is known to be broken off; whatever came was in the
log before; no slice is half there; the log verifies; and the next start serves everybody again.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from broker_world import SLOW, Bound, World, new_world, until

from workbench.broker.frames import END_OF_STREAM
from workbench.broker.published_slice import SLICES

pytestmark = pytest.mark.sandbox
KILLS = 8
ROUNDS = 4
LONGEST = 150.0
PLAN_A = {"00000001A", "00000003C", "00000006F"}
"""Sierra Vista's members of today in the world's release."""
QUERIES = {
    "members": "SELECT member_id FROM member",
    "count": "SELECT count(*) AS n FROM diagnosis",
    "long": "SELECT a.member_id, b.code FROM diagnosis a, diagnosis b, diagnosis c, diagnosis d",
    "slow": "SELECT count(*) AS n FROM diagnosis a, diagnosis b, diagnosis c, diagnosis d "
    "WHERE a.code || b.code <> c.code || d.code",
}


@dataclass
class Load:
    """Callers who ask until they are told to stop; what each got whole, and what was wrong with it."""

    servers: list[Bound]
    wrong: list[str] = field(default_factory=list)
    whole: dict[str, list[str]] = field(default_factory=dict)
    broken: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Load:
        self._threads = [
            threading.Thread(target=self._ask, args=(server, seed))
            for seed, server in enumerate(self.servers * 3)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, server: Bound, seed: int) -> None:
        dice = random.Random(seed)
        while not self._stop.is_set():
            name = dice.choice(list(QUERIES))
            try:
                reply = server.query(QUERIES[name])
            except (OSError, http.client.HTTPException):
                self.broken += 1
                time.sleep(0.05)
                continue
            if reply.status == 200:
                self._check(server, name, reply.headers["X-Query-Id"], reply.body)
            elif reply.json["code"] in ("worker-lost", "busy"):
                self.broken += 1
            else:
                self.wrong.append(f"{name}: {reply.status} {reply.json['code']}")

    def _check(self, server: Bound, name: str, query: str, body: bytes) -> None:
        if not body.endswith(END_OF_STREAM):
            self.wrong.append(f"{name}: HTTP's end without the stream's")
            return
        table = pa.ipc.open_stream(body).read_all()
        found = sorted(set(map(str, table.column(0).to_pylist())))
        self.whole.setdefault(query, [name, *found])
        if name in ("members", "long") and server.token == "ana's" and set(found) != PLAN_A:
            self.wrong.append(f"{name}: other members than the plan's")
        if name == "long" and table.num_rows != (17**4 if server.token == "ana's" else 36**4):
            self.wrong.append(f"long: {table.num_rows} rows")


def _servers(world: World) -> list[Bound]:
    return [
        world.bind("ana", "demo-analyst", "operations", token="ana's"),
        world.bind("rui", "demo-research-sh", "research", token="rui's"),
    ]


@pytest.fixture
def world() -> Iterator[World]:
    with new_world() as world:
        yield world


def test_workers_that_are_killed_under_load_spoil_their_own_answer_only(world: World) -> None:
    dice = random.Random(7)
    with world.process():
        servers = _servers(world)
        killed = 0
        with Load(servers) as load:
            deadline = time.monotonic() + LONGEST
            while (killed < KILLS or len(load.whole) < KILLS) and time.monotonic() < deadline:
                time.sleep(dice.uniform(0.05, 0.5))
                workers = world.control("GET", "/health").json["workers"]
                pids = workers["busy"] if dice.random() < 0.8 else workers["idle"]
                if pids and killed < KILLS:
                    _kill(dice.choice(pids))
                    killed += 1
        assert load.wrong == []
        assert killed >= KILLS and len(load.whole) >= KILLS and load.broken > 0
        assert all(server.query("SELECT count(*) FROM member").status == 200 for server in servers)
        _every_whole_answer_is_in_the_log(world, load)
    assert world.tampering() == []


def test_a_broker_that_is_killed_under_load_loses_nothing_and_serves_again() -> None:
    dice = random.Random(11)
    with new_world() as world:
        servers: list[Bound] = []
        loads: list[Load] = []
        for number in range(ROUNDS):
            with world.process() as broker:
                servers = servers or _servers(world)
                workers: set[int] = set()
                with Load(servers) as load:
                    loads.append(load)
                    _wait_for_an_answer(load, unless=number == 0)
                    deadline = time.monotonic() + dice.uniform(0.1, 2.0)
                    while time.monotonic() < deadline:
                        workers |= set(world.control("GET", "/health").json["workers"]["busy"])
                        time.sleep(0.02)
                    broker.kill()
                    broker.wait()
                _all_end(workers)
                assert _half_slices(world) == [], f"round {number}"
            assert world.tampering() == [], f"round {number}"
        with world.process():
            assert all(server.query("SELECT count(*) FROM member").status == 200 for server in servers)
        for load in loads:
            assert load.wrong == []
            _every_whole_answer_is_in_the_log(world, load)
        assert sum(len(load.whole) for load in loads) > 0 and sum(load.broken for load in loads) > 0
        assert world.tampering() == []


def test_every_admitted_query_has_an_end_in_the_log_even_if_the_broker_was_killed(world: World) -> None:
    with world.process() as broker:
        ana, _ = _servers(world)
        ana.query("SELECT 1")
        near = ana.posting(SLOW)
        until(lambda: [e["event"] for e in world.log(user="ana")].count("admitted") == 2, LONGEST)
        broker.kill()
        broker.wait()
        near.close()
    with world.process():
        admitted = {e["query_id"] for e in world.log() if e["event"] == "admitted"}
        ended = [e for e in world.log() if e["event"] == "ended"]
        assert sorted(e["query_id"] for e in ended) == sorted(admitted), "each exactly once"
        assert (ended[-1]["outcome"], ended[-1]["code"]) == ("failed", "broker-ended")
    with world.process():
        assert len([e for e in world.log() if e["event"] == "ended"]) == len(ended)
    assert world.tampering() == []


def _every_whole_answer_is_in_the_log(world: World, load: Load) -> None:
    admitted = {event["query_id"] for event in world.log() if event["event"] == "admitted"}
    assert set(load.whole) <= admitted


def _half_slices(world: World) -> list[str]:
    """Slices that have a name and are not what their manifest says."""
    wrong = []
    folder = world.where.lake / SLICES
    for path in folder.iterdir() if folder.is_dir() else ():
        manifest = path / "manifest.json"
        if not re.fullmatch("[0-9a-f]{24}", path.name):
            continue
        if not manifest.is_file():
            wrong.append(f"{path.name}: no manifest")
            continue
        said: dict[str, Any] = json.loads(manifest.read_text())
        for table, entry in said["tables"].items():
            rows = sum(pq.read_metadata(path / part).num_rows for part in entry["parts"])
            if entry.get("rows") not in (None, rows):
                wrong.append(f"{path.name}: {table} has {rows} rows")
    return wrong


def _wait_for_an_answer(load: Load, *, unless: bool) -> None:
    """The first round strikes while the slices are built, the others while answers are served."""
    until(lambda: unless or load.whole, LONGEST)


def _all_end(pids: set[int]) -> None:
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
