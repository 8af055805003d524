"""The world of slices with risk tiers, grants that open the channels, and clients of the second listener."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import shutil
import time
import urllib.parse
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, TypeVar

import pytest
import slice_world
import tiny_release
import yaml
from broker_world import PATIENCE, Reply, World, new_world

from workbench.broker.service import Service
from workbench.schema import value_sets

T = TypeVar("T")
CARE, LIMITED, PUBLIC = "api-care", "api-limited", "api-public"
GRANTS: dict[str, dict[str, Any]] = {
    CARE: {
        "title": "Care management of Sierra Vista",
        "organisation": {"relation": "mcp", "ids": ["sierra-vista"], "as_of": "current"},
        "recipient": {"id": "sierra-vista", "state": "CA"},
        "level": "identified",
        "sensitive": {"part2": "with_consent", "basis": "consent_tpo", "mental_health_specialty": "include"},
        "purposes": ["treatment", "operations"],
        "channels": ["notebook", "tabulate", "lmr_api", "risk_api", "feed"],
        "agreement": "A-0",
        "break_glass": True,
    },
    LIMITED: {
        "title": "A limited feed",
        "organisation": {"relation": "mcp", "ids": ["sierra-vista"], "as_of": "current"},
        "recipient": {"id": "sierra-vista", "state": "CA"},
        "level": "limited",
        "agreement": "A-1",
        "purposes": ["operations"],
        "channels": ["feed"],
    },
    PUBLIC: {
        "title": "Tables alone",
        "organisation": {"relation": "state"},
        "level": "aggregate",
        "purposes": ["program_administration"],
        "channels": ["tabulate", "apps"],
    },
}
TIERS = {slice_world.A: "high", slice_world.C: "low", slice_world.D: "medium_rising"}
NOBODY = "99999999Z"
"""An id that no member has."""


def tables(part2: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The rows of the world, with the library's code lists, the risk tiers of three members, more claims of Part 2."""
    rows: dict[str, Any] = slice_world.tables()
    for row in rows["diagnosis"]:
        if row["claim_id"] in part2:
            row["code"] = "F1020"
            hit = {"kind": "medical", "claim_id": row["claim_id"], "member_id": row["member_id"]}
            rows["sensitive_claim"].append({**hit, "category": "part2", "reason": "diagnosis"})
    rows["value_set"] = value_sets.rows()
    rows["risk_tier"] = [
        {
            "member_id": member,
            "as_of_date": date(2026, 1, 31),
            "age_band": "adult",
            "adverse_events": 6,
            "underutilisation": 0,
            "social_risk": 0,
            "tier": tier,
            "reasons": "ed_visits",
        }
        for member, tier in TIERS.items()
    ]
    return rows


@dataclass
class Api:
    """The second listener of a running broker."""

    world: World
    service: Service

    def client(self, name: str, grant: str = CARE, purpose: str = "treatment") -> Holder:
        """A new client that has logged in."""
        made = self.world.control("POST", "/clients", {"name": name, "grant": grant, "purpose": purpose})
        assert made.status == 201, made.json
        holder = Holder(self, name, made.json["client_secret"])
        holder.login()
        return holder

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        """One request on TCP."""
        assert self.service.channels.address is not None
        connection = http.client.HTTPConnection(*self.service.channels.address, timeout=2 * PATIENCE)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def in_the_service(self, work: Coroutine[Any, Any, T]) -> T:
        """What a coroutine gives back that ran in the service's own loop."""
        assert self.service.channels._server is not None
        return asyncio.run_coroutine_threadsafe(work, self.service.channels._server.get_loop()).result(
            PATIENCE
        )

    def login(self, name: str, secret: str) -> Reply:
        """POST /oauth/token with HTTP Basic."""
        basic = base64.b64encode(f"{name}:{secret}".encode()).decode()
        form = urllib.parse.urlencode({"grant_type": "client_credentials"}).encode()
        return self.ask("POST", "/oauth/token", form, Authorization=f"Basic {basic}")


@dataclass
class Holder:
    """A client with its secret and its token."""

    api: Api
    name: str
    secret: str
    token: str = ""

    def login(self) -> None:
        """Takes a token."""
        reply = self.api.login(self.name, self.secret)
        assert reply.status == 200, reply.json
        self.token = reply.json["access_token"]

    def ask(self, method: str, path: str, body: Any = None) -> Reply:
        """A request with the token; waits for a slice that is being built."""
        payload = None if body is None else json.dumps(body).encode()
        while True:
            reply = self.api.ask(method, path, payload, Authorization=f"Bearer {self.token}")
            if reply.status != 202:
                return reply
            time.sleep(0.05)


def write_grant(world: World, name: str, **changes: Any) -> None:
    """A grant of GRANTS, with changes, into the world's folder."""
    raw = {
        "name": name,
        "groups": ["mcp-sierra-vista"],
        "approver": "The release office",
        "valid_from": "2026-01-01",
        "valid_until": "2035-12-31",
        **GRANTS[name],
        **changes,
    }
    (world.where.grants / f"{name}.yaml").write_text(yaml.safe_dump(raw))


@contextmanager
def channel_world(part2: frozenset[str] = frozenset()) -> Iterator[World]:
    """A world whose broker has a second listener on a free port of the loopback."""
    with new_world() as world:
        shutil.rmtree(world.where.lake)
        tiny_release.write(world.where.lake, tables(part2))
        for name in GRANTS:
            write_grant(world, name)
        world.where = replace(world.where, api_bind="127.0.0.1:0")
        yield world


@contextmanager
def api(part2: frozenset[str] = frozenset()) -> Iterator[Api]:
    """The world, served."""
    with channel_world(part2) as world, world.serve() as service:
        yield Api(world, service)


@pytest.fixture(scope="module")
def served() -> Iterator[Api]:
    """The world with its service and second listener; a module with a world of its own has a fixture of this name."""
    with api() as found:
        yield found


@pytest.fixture(scope="module")
def care(served: Api) -> Holder:
    """The client of a care platform."""
    return served.client("care-platform")
