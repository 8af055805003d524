"""A broker service over a small made-up release, with the demo's grants, people and plans, for tests.

As a plugin of the tests it gives a module one world and service, and three servers in it: ana of a plan (identified), rui a researcher (safe harbor), pat of the public (an app, aggregate).
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import slice_world
import sqlalchemy as sa
import yaml

from workbench.broker.audit import audit_folder, events, verify
from workbench.broker.hub import LocalDirectory
from workbench.broker.pool import PoolLimits
from workbench.broker.service import Service, running
from workbench.settings import PROJECT, Settings

PATIENCE = 90.0
"""Seconds after which something that has to happen counts as not happening, on whatever machine."""
LIMITS = PoolLimits(workers=4, threads=1, memory_bytes=400 << 20)
BIG = "SELECT a.*, b.*, c.* FROM diagnosis a, diagnosis b, diagnosis c, diagnosis d"
"""Some 80,000 rows of the world's analyst, 1.7 million of its researcher."""
SLOW = f"SELECT count(*) FROM {', '.join(f'diagnosis d{n}' for n in range(12))} WHERE d0.claim_id || d11.claim_id <> d5.claim_id"
"""Longer than any limit, of however small a slice."""

Connection = socket.socket


@dataclass
class World:
    """Folders, people and grants of one broker; `serve` runs it."""

    base: Path
    users: Path = field(init=False)
    where: Settings = field(init=False)

    def __post_init__(self) -> None:
        self.where = Settings(
            lake=self.base / "lake",
            state=self.base / "state",
            run=self.base / "run",
            grants=self.base / "grants",
            reports=self.base / "reports",
            database_url=f"sqlite:///{self.base / 'state' / 'broker.sqlite'}",
        )
        self.users = self.base / "users.yaml"
        shutil.copytree(PROJECT / "grants", self.where.grants)
        shutil.copy(PROJECT / "hub_config" / "demo_users.yaml", self.users)
        slice_world.release(self.where.lake)

    def environment(self) -> dict[str, str]:
        """The settings, for a process of its own."""
        names = {"LAKE": "lake", "STATE": "state", "RUN": "run", "GRANTS": "grants", "REPORTS": "reports"}
        found = {
            f"WORKBENCH_{name}": str(getattr(self.where, attribute)) for name, attribute in names.items()
        }
        return found | {"WORKBENCH_DATABASE_URL": self.where.database_url, "WORKBENCH_USERS": str(self.users)}

    @contextmanager
    def serve(self) -> Iterator[Service]:
        """The service, in a thread."""
        with running(self.where, LocalDirectory(self.users), limits=LIMITS) as service:
            yield service

    @contextmanager
    def process(self, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """The service as a process of its own, ready; killed at the end of the block if it still runs."""
        process = subprocess.Popen(
            [sys.executable, "-m", "workbench.broker.service"],
            env={**os.environ, **self.environment(), **environment},
            stderr=subprocess.DEVNULL,
        )
        try:
            until(lambda: process.poll() is not None or self.answers())
            assert process.poll() is None, "the service did not start"
            yield process
        finally:
            process.kill()
            process.wait()

    def answers(self) -> bool:
        """Whether a broker answers on the control socket."""
        try:
            return self.control("GET", "/health").status == 200
        except (OSError, http.client.HTTPException):
            return False

    def log(self, **filters: Any) -> list[dict[str, Any]]:
        """The audit's events, the oldest first."""
        engine = sa.create_engine(self.where.database_url)
        try:
            return events(engine, limit=100_000, **filters)
        finally:
            engine.dispose()

    def tampering(self) -> list[Any]:
        """What the auditors' verifier finds wrong with the log."""
        engine = sa.create_engine(self.where.database_url)
        try:
            return list(verify(engine, audit_folder(self.where.state)))
        finally:
            engine.dispose()

    def change_grant(self, name: str, **changes: Any) -> None:
        """Edits a grant's file as people do."""
        file = self.where.grants / f"{name}.yaml"
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))

    def control(self, method: str, path: str, body: Any = None) -> Reply:
        """A request on the control socket."""
        return ask(self.where.run / "control" / "control.sock", method, path, body)

    def bind(
        self, user: str, grant: str, purpose: str, kind: str = "server", token: str = "token", **more: Any
    ) -> Bound:
        """A binding; `token` is that of the Hub for servers."""
        hashed = hashlib.sha256(token.encode()).hexdigest() if kind == "server" else None
        body = {"server": f"{user}/{grant}", "user": user, "grant": grant, "purpose": purpose, "kind": kind}
        reply = self.control("POST", "/bindings", {**body, "token_sha256": hashed, **more})
        assert reply.status == 201, reply.json
        return Bound(
            reply.json["binding"],
            Path(reply.json["socket_dir"]) / "broker.sock",
            reply.json["token"] or token,
        )


@dataclass
class Reply:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def table(self) -> pa.Table:
        return pa.ipc.open_stream(self.body).read_all()


@dataclass
class Bound:
    """A server's way to the broker."""

    id: str
    socket: Path
    token: str

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """A request with the server's token; waits for a slice that is being built."""
        while True:
            reply = ask(self.socket, method, path, body, Authorization=f"Bearer {self.token}", **headers)
            if reply.status != 202:
                return reply

    def query(self, sql: str) -> Reply:
        """POST /query."""
        return self.ask("POST", "/query", {"sql": sql})

    def raw(self, data: bytes, seconds: float = PATIENCE) -> bytes:
        """What comes back for these bytes until the broker closes; nothing where it cut the connection."""
        with socket.socket(socket.AF_UNIX) as near:
            near.settimeout(seconds)
            near.connect(str(self.socket))
            said = b""
            try:
                near.sendall(data)
                while more := near.recv(65536):
                    said += more
            except OSError:
                return said
            return said

    def posting(self, sql: str) -> Connection:
        """An open connection on which a query has been sent and nothing read."""
        body = json.dumps({"sql": sql}).encode()
        head = f"POST /query HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {self.token}\r\n"
        near = socket.socket(socket.AF_UNIX)
        near.connect(str(self.socket))
        near.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return near


def until(what: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Waits for something to come to pass; how long it may take is no promise, only the end of the test's patience."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def quickest(attempt: Callable[[], float], promised: float, tries: int = 8) -> float:
    """The least seconds of several attempts, of which the first that keeps to `promised` is the last.

    A busy machine delays some attempts; what is slow by itself delays all of them.
    """
    least = attempt()
    for _ in range(tries - 1):
        if least < promised:
            break
        least = min(least, attempt())
    return least


def ask(path: Path, method: str, target: str, body: Any = None, **headers: str) -> Reply:
    """One HTTP request over a unix socket."""
    connection = http.client.HTTPConnection("broker", timeout=2 * PATIENCE)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.sock.connect(str(path))
        connection.request(method, target, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        return Reply(response.status, response.headers, response.read())
    finally:
        connection.close()


@contextmanager
def new_world() -> Iterator[World]:
    """A world in a short path (sockets) that other uids can enter (sandboxes)."""
    with tempfile.TemporaryDirectory(prefix="wb") as folder:
        Path(folder).chmod(0o755)
        yield World(Path(folder))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with new_world() as world:
        yield world


@pytest.fixture(scope="module")
def service(world: World) -> Iterator[Service]:
    with world.serve() as service:
        yield service


@pytest.fixture(scope="module")
def ana(world: World, service: Service) -> Bound:
    return world.bind("ana", "demo-analyst", "operations", token="ana's token")


@pytest.fixture(scope="module")
def rui(world: World, service: Service) -> Bound:
    return world.bind("rui", "demo-research-sh", "research", token="rui's token")


@pytest.fixture(scope="module")
def pat(world: World, service: Service) -> Bound:
    return world.bind("pat", "demo-public", "program_administration", "app")
