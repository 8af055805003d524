"""The broker as a service: a control socket, and one socket for each server that has a binding.

`python -m workbench.broker.service` is the managed Hub service; it runs as well without a Hub, for the command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import resource
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from workbench.broker.bindings import Binding, BindingRefused
from workbench.broker.caller import Caller
from workbench.broker.channels.listener import Channels
from workbench.broker.connection import BoundedProtocol, Connections, OperatorProtocol
from workbench.broker.control import control_app
from workbench.broker.core import Broker
from workbench.broker.hub import Directory, directory_from_environment
from workbench.broker.pool import PoolLimits
from workbench.broker.public import public_app
from workbench.broker.state import StateLocked
from workbench.days import time_zone
from workbench.errors import WorkbenchError
from workbench.settings import PROJECT, Settings, settings

SOCKET = "broker.sock"
LONGEST_PATH = 107
"""Bytes of a unix socket's path (sockaddr_un)."""
SWEEP_SECONDS = 20.0
ENDED = (403, 404)
"""Status of a refusal that ends a binding; a silent Hub or a broken grants' folder (503) ends none."""
LOCK_SECONDS = 15.0
"""How long a new service waits for one that is ending, after the Hub was killed and started again."""
DEMO_USERS = PROJECT / "hub_config" / "demo_users.yaml"

_log = logging.getLogger("workbench.broker")


class PathTooLong(WorkbenchError):
    """A socket's path would not fit."""

    code = "path-too-long"
    http_status = 500


class Service:
    """The listeners of one broker."""

    def __init__(self, broker: Broker):
        self.broker = broker
        self.listening: dict[str, Binding] = {}
        self._servers: dict[str, asyncio.AbstractServer] = {}
        self._connections: dict[str, Connections] = {}
        self._http = ServerState()
        self.channels = Channels(broker)
        self._public = public_app(broker, self.channels.glass)
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def _run(self) -> Path:
        return self.broker.settings.run

    async def start(self) -> None:
        """Opens the control socket, and the sockets of every binding that still holds."""
        _folder(self._run, 0o700)
        _folder(self._run / "b", 0o700)
        kept = {binding.id for binding in self.broker.bindings.all()}
        for stale in (self._run / "b").iterdir():
            if stale.name not in kept:
                shutil.rmtree(stale, ignore_errors=True)
        for binding in self.broker.bindings.all():
            if binding.over:
                await self._end(binding, "its time is up")
            else:
                await self._open(binding)
        control = _folder(self._run / "control", 0o700)
        self._servers["control"] = await self._listen(
            control / "control.sock",
            control_app(self),
            partial(OperatorProtocol, Connections(), operator=os.geteuid()),
            0o600,
        )
        await self.channels.start(self._connecting)
        self._sweeper = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """Closes the sockets; bindings and their folders stay for the next start."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for server in self._servers.values():
            server.close()
        await self.channels.stop()
        for connection in list(self._http.connections):
            connection.shutdown()
        deadline = time.monotonic() + 3
        while self._http.tasks and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        left = list(self._http.tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=3)  # what had left is in the log before the log is closed
        for connections in self._connections.values():
            connections.cut()
        (self._run / "control" / "control.sock").unlink(missing_ok=True)

    async def bind(
        self, *, kind: str, server: str, user: str, **rest: Any
    ) -> tuple[Path, Binding, str | None]:
        """A new binding with its open socket; an older one of the same server ends. Gives folder, record, token."""
        binding, token = await self.broker.bind(kind=kind, server=server, user=user, **rest)
        if kind != "report":
            for old in [
                b for b in self.listening.values() if (b.kind, b.server, b.user) == (kind, server, user)
            ]:
                await self._end(old, "the server was started again")
        return await self._open(binding), binding, token

    async def unbind(self, id: str, reason: str) -> bool:
        """Ends a binding; whether there was one."""
        binding = self.listening.get(id)
        if binding is None:
            return False
        await self._end(binding, reason)
        return True

    async def standing(self, id: str) -> dict[str, Any]:
        """Whether a binding still gives data: `{"stands", "code", "reason"}`. The Hub ends servers whose does not."""
        binding = self.listening.get(id)
        if binding is None or binding.over:
            return {"stands": False, "code": "binding-over", "reason": "The binding is over."}
        try:
            groups = await self.broker.directory.groups(binding.user)
            self.broker.permit(Caller.of(binding, groups))
        except WorkbenchError as error:
            if error.http_status in ENDED:
                return {"stands": False, "code": error.code, "reason": error.reason}
        return {"stands": True, "code": "", "reason": ""}

    async def _open(self, binding: Binding) -> Path:
        folder = _folder(self._run / "b" / binding.id, 0o755)
        app = self._bound(binding)
        connections = self._connections[binding.id] = Connections()
        protocol = partial(BoundedProtocol, connections)
        self._servers[binding.id] = await self._listen(folder / SOCKET, app, protocol, 0o666)
        self.listening[binding.id] = binding
        return folder

    def _bound(self, binding: Binding) -> ASGIApp:
        async def bound(scope: Scope, receive: Receive, send: Send) -> None:
            holds = binding.id in self.listening
            scope["binding"] = binding if holds else replace(binding, expires=binding.created)
            await self._public(scope, receive, send)

        return bound

    async def _end(self, binding: Binding, reason: str) -> None:
        await self.broker.unbind(binding, reason)
        self.listening.pop(binding.id, None)
        server = self._servers.pop(binding.id, None)
        if server is not None:
            server.close()
        if connections := self._connections.pop(binding.id, None):
            connections.cut()
        shutil.rmtree(self._run / "b" / binding.id, ignore_errors=True)

    async def _listen(
        self, path: Path, app: ASGIApp, protocol: Callable[..., BoundedProtocol], mode: int
    ) -> asyncio.AbstractServer:
        if len(os.fsencode(path)) > LONGEST_PATH:
            raise PathTooLong(
                "The folder of sockets has too long a path.", hint="Set WORKBENCH_RUN to a shorter one."
            )
        path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(str(path))
        path.chmod(mode)
        return await asyncio.get_running_loop().create_unix_server(
            self._connecting(app, protocol), sock=sock, backlog=128
        )

    def _connecting(
        self, app: ASGIApp, protocol: Callable[..., BoundedProtocol]
    ) -> Callable[[], BoundedProtocol]:
        """What makes the protocol of a new connection. No request is written down: members' ids stand in paths."""
        config = uvicorn.Config(
            app, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False,
            server_header=False, date_header=False, timeout_keep_alive=60, proxy_headers=False,
        )  # fmt: skip
        config.load()
        return lambda: protocol(config=config, server_state=self._http, app_state={})

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for binding in [binding for binding in self.listening.values() if binding.over]:
                with contextlib.suppress(WorkbenchError):
                    await self._end(binding, "its time is up")


def _folder(path: Path, mode: int) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    return path


async def serve(
    where: Settings,
    directory: Directory,
    stop: asyncio.Event,
    *,
    limits: PoolLimits | None = None,
    ready: Any = None,
) -> None:
    """Runs the service until `stop`. Raises StateLocked, SandboxUnavailable, UnsafeListener, NoSuchZone."""
    time_zone()
    broker = await _take_state(where, directory, limits)
    try:
        service = Service(broker)
        try:
            await service.start()
            if ready is not None:
                ready(service)
            await stop.wait()
        finally:
            await service.stop()
    finally:
        await broker.close()


async def _take_state(where: Settings, directory: Directory, limits: PoolLimits | None) -> Broker:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return Broker(where, directory, limits=limits)
        except StateLocked:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.25)


@contextlib.contextmanager
def running(
    where: Settings, directory: Directory | None = None, *, limits: PoolLimits | None = None
) -> Iterator[Service]:
    """A service in a thread of this process, for the command line and for tests."""
    started: list[Service | BaseException] = []
    up = threading.Event()
    ends: list[Any] = []

    async def go() -> None:
        stop = asyncio.Event()
        ends.append((asyncio.get_running_loop(), stop))

        def ready(service: Service) -> None:
            started.append(service)
            up.set()

        await serve(
            where, directory or directory_from_environment(DEMO_USERS), stop, limits=limits, ready=ready
        )

    def work() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(go())
        except BaseException as error:
            started.append(error)
            up.set()

    thread = threading.Thread(target=work, name="broker", daemon=True)
    thread.start()
    up.wait()
    first = started[0]
    if isinstance(first, BaseException):
        thread.join()
        raise first
    try:
        yield first
    finally:
        loop, stop = ends[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def main() -> None:
    """The process: ends with its parent or on SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    _end_with_parent()
    _as_many_descriptors_as_may_be()

    async def go() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        where = settings()

        def ready(service: Service) -> None:
            _log.info("the broker serves %d bindings", len(service.listening))

        await serve(where, directory_from_environment(DEMO_USERS), stop, ready=ready)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(go())
    except WorkbenchError as error:
        print(f"workbench: {error.reason} {error.hint}", file=sys.stderr)
        sys.exit(1)


def _as_many_descriptors_as_may_be() -> None:
    """Every server's connections and workers count against one limit."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _end_with_parent() -> None:
    """A killed Hub must not leave this writer behind."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        sys.exit(0)


__all__ = ["BindingRefused", "Service", "main", "running", "serve"]

if __name__ == "__main__":
    main()
