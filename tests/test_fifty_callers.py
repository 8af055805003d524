"""Fifty callers with mixed grants at once, on real sockets of a real service: nobody ever gets a row of another grant.

Runs WORKBENCH_TEST_CALLERS_SECONDS seconds, 120 where that is not set.
"""

from __future__ import annotations

import http.client
import os
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
import pytest
import slice_world
import yaml
from broker_world import Bound, Reply, World, new_world

from workbench.broker.published_slice import SLICES

pytestmark = pytest.mark.sandbox
SECONDS = float(os.environ.get("WORKBENCH_TEST_CALLERS_SECONDS", "120"))
CALLERS = 50
PLANS = {
    slice_world.SIERRA: {slice_world.A, slice_world.C, slice_world.F},
    slice_world.GOLDEN: {slice_world.B, slice_world.F},
    slice_world.MISSION: {slice_world.D},
}
"""Each plan's members of today, read off the table at the head of slice_world."""


PEOPLE = (
    ("rui", "demo-research-sh", "research", "server"),
    ("cora", "county-19-health", "public_health", "server"),
    ("pat", "demo-public", "program_administration", "app"),
)
"""The demo's own people beside the plans': (user, grant, purpose, kind)."""


@dataclass
class Server:
    """A binding, with the member ids or tokens of its grant, and what must never stand in its answers."""

    grant: str
    bound: Bound
    members: frozenset[str]
    foreign: tuple[bytes, ...]


@dataclass
class Seen:
    """What fifty callers met."""

    wrong: list[str]
    statuses: Counter[int]

    def check(
        self, server: Server, asked: str, reply: Reply, found: set[str], *, exact: bool = False
    ) -> None:
        """Nothing of another grant in the bytes or the rows, no 5xx, a 429 that says when to return."""
        self.statuses[reply.status] += 1
        where = f"{server.grant}: {asked}"
        if reply.status >= 500:
            self.wrong.append(f"{where}: {reply.status} {reply.body[:200]!r}")
        if reply.status == 429 and not reply.headers["Retry-After"]:
            self.wrong.append(f"{where}: a 429 that does not say when")
        if any(word in reply.body for word in server.foreign):
            self.wrong.append(f"{where}: a word of another grant")
        if not found <= server.members or (exact and reply.status == 200 and found != server.members):
            self.wrong.append(f"{where}: rows of other members")


def _prepare(world: World) -> list[tuple[str, str, str, str]]:
    """Writes a grant and two people for each plan; gives everybody who asks."""
    own = yaml.safe_load((world.where.grants / "demo-analyst.yaml").read_text())
    users = yaml.safe_load(world.users.read_text())
    people = list(PEOPLE)
    for plan in PLANS:
        grant = own | {
            "name": f"own-{plan}",
            "groups": [f"own-{plan}"],
            "organisation": {"relation": "mcp", "ids": [plan], "as_of": "current"},
            "recipient": {"id": plan, "state": "CA"},
            "channels": ["notebook", "tabulate", "lmr_api", "risk_api"],
        }
        (world.where.grants / f"own-{plan}.yaml").write_text(yaml.safe_dump(grant))
        for number in range(2):
            users["users"][f"{plan}-{number}"] = {"groups": [f"own-{plan}"], "about": "asks"}
            people.append((f"{plan}-{number}", f"own-{plan}", "operations", "server"))
    world.users.write_text(yaml.safe_dump(users))
    return people


def _server(world: World, number: int, user: str, grant: str, purpose: str, kind: str) -> Server:
    bound = world.bind(user, grant, purpose, kind, token=f"token {number}", server=f"{user}/{number}")
    plan = grant.removeprefix("own-")
    if plan in PLANS:
        members = frozenset(PLANS[plan])
    elif grant == "demo-public":
        members = frozenset()
    else:
        members = frozenset(_tokens(world, bound))
    names = {id: f"Canary{place}" for place, id in enumerate(slice_world.MEMBERS)}
    foreign = [word.encode() for id in names if id not in members for word in (id, names[id])]
    return Server(grant, bound, members, tuple(foreign))


def _tokens(world: World, bound: Bound) -> set[str]:
    """The members of a de-identified slice, read from its files beside the broker."""
    assert bound.query("SELECT 1").status == 200
    folder = world.where.lake / SLICES / bound.ask("GET", "/whoami").json["slice"] / "tables" / "member"
    return {id for part in folder.glob("*.parquet") for id in pq.read_table(part)["member_id"].to_pylist()}


def _rows(server: Server, seen: Seen, sql: str, *, exact: bool = False) -> None:
    reply = server.bound.query(sql)
    found = set(reply.table.column(0).to_pylist()) if reply.status == 200 else set()
    seen.check(server, sql, reply, found, exact=exact)


def _ask(server: Server, seen: Seen, dice: random.Random) -> None:
    """One request of any kind that a caller can make."""
    bound = server.bound
    kind = dice.randrange(10)
    if server.grant == "demo-public" or kind == 0:
        reply = bound.ask("POST", "/tabulate", {"table": "members_by_county", "year": 2025})
        seen.check(server, "tabulate", reply, set())
    elif kind == 1:
        _rows(server, seen, "SELECT a.member_id, b.code FROM diagnosis a, diagnosis b, diagnosis c")
    elif kind == 2:
        _rows(server, seen, "SELECT member_id, * FROM medical_claim ORDER BY random() LIMIT 5")
    elif kind == 3:
        near = bound.posting("SELECT a.* FROM diagnosis a, diagnosis b, diagnosis c, diagnosis d")
        near.close()
    elif kind == 4:
        member = dice.choice(list(slice_world.MEMBERS))
        reply = bound.ask("GET", f"/members/{member}/record")
        seen.check(server, "record", reply, {member} if reply.status == 200 else set())
    elif kind == 5:
        reply = bound.query(dice.choice(["SELECT ssn2 FROM member", "SELECT * FROM read_csv('/etc/passwd')"]))
        seen.check(server, "a refused statement", reply, set())
    elif kind == 6:
        seen.check(server, "tables", bound.ask("GET", "/tables"), set())
    else:
        _rows(server, seen, "SELECT DISTINCT member_id FROM member", exact=True)


def test_fifty_callers_with_mixed_grants_never_see_a_row_of_another_grant_and_no_5xx() -> None:
    with new_world() as world:
        people = _prepare(world)
        with world.process():
            servers = [_server(world, n, *people[n % len(people)]) for n in range(CALLERS)]
            tokens = [s.members for s in servers[: len(people)] if not s.grant.startswith("own-")]
            assert not tokens[0] & tokens[1], "two researchers' tokens have nothing in common"
            seen = Seen([], Counter())
            end = time.monotonic() + SECONDS

            def work(number: int) -> None:
                dice = random.Random(number)
                while time.monotonic() < end:
                    try:
                        _ask(servers[number], seen, dice)
                    except (OSError, http.client.HTTPException) as error:
                        seen.wrong.append(f"{servers[number].grant}: {type(error).__name__}")

            threads = [threading.Thread(target=work, args=(number,)) for number in range(CALLERS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            answered: set[Any] = {
                (event["grant"], event["user"]) for event in world.log() if event["outcome"] == "answered"
            }
        assert seen.wrong == []
        assert seen.statuses[200] >= SECONDS and {grant for _, grant, *_ in people} <= {
            g for g, _ in answered
        }
        assert world.tampering() == []
