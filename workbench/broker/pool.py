"""The broker's workers: warm sandboxed processes, one slice each, one query at a time in each.

A worker belongs to the user who asked last; another user of the same slice gets a fresh one. A worker that overruns,
dies or does not answer is killed and replaced; no other worker notices. Callers wait in the order in which they came,
except that a grant at its limit of concurrent queries lets others pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.broker import frames
from workbench.broker.engine_errors import STATUS
from workbench.broker.worker import CHANNEL, SLICE
from workbench.errors import WorkbenchError
from workbench.sandbox import Limits, Running, Sandbox, launch

START_SECONDS = 30.0
CANCEL_SECONDS = 0.5
"""How long a worker may take to give up a query before it is killed."""
STALL_SECONDS = 120.0
"""How long a caller may leave an answer unread before its worker is taken away."""
IDLE_SECONDS = 900.0
WAIT_SECONDS = 30.0
"""How long a query waits for a worker before the caller is asked to come again."""
_BUFFER_BYTES = 4 << 20
_CHUNK_BYTES = 1 << 20
_log = logging.getLogger("workbench.broker")
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33


class Busy(WorkbenchError):
    """Every worker has been busy for longer than a caller should wait."""

    code = "busy"
    http_status = 429
    retry_after = 2


class QueryFailed(WorkbenchError):
    """A worker could not answer; code and words come from `engine_errors`."""

    code = "query-failed"


class WorkerLost(WorkbenchError):
    """A worker ended in the middle of a query: it overran, or died."""

    code = "worker-lost"
    http_status = 500


@dataclass(frozen=True)
class Mount:
    """What one kind of worker has: a slice's folder, its tables and the mode."""

    slice_id: str
    folder: Path
    mode: str
    tables: Mapping[str, tuple[str, ...]]
    """Table -> its Parquet parts, relative to the folder."""


@dataclass(frozen=True)
class PoolLimits:
    """What the workers of one broker may use together and each."""

    workers: int = field(default_factory=lambda: max(4, 2 * (os.cpu_count() or 1)))
    threads: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))
    memory_bytes: int = field(default_factory=lambda: _share_of_memory())

    @property
    def sandbox(self) -> Limits:
        """Of the whole process, above the engine's own limit: a single scalar call can ignore the engine's."""
        return Limits(
            memory_bytes=self.memory_bytes + (1 << 30), processes=64, tmp_bytes=64 << 20, open_files=1024
        )


def _share_of_memory() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1 << 30, min(16 << 30, total // 8))


class _Process:
    """One running worker."""

    def __init__(self, mount: Mount, user: str):
        self.mount = mount
        self.user = user
        self.used = time.monotonic()
        self.waited = 0.0
        self.waiting_since: float | None = None
        self.killed_for = ""
        self._left = 0
        self._running: Running | None = None
        self._socket: socket.socket | None = None

    async def start(self, limits: PoolLimits) -> None:
        """Launches the sandbox and waits until the engine is ready. Raises WorkerLost."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        _widen(ours, theirs)
        ours.setblocking(False)
        self._socket = ours
        try:
            self._running = await asyncio.to_thread(_launch, self.mount, limits, theirs)
        finally:
            theirs.close()
        order = {
            "mode": self.mount.mode,
            "folder": SLICE,
            "tables": {name: list(parts) for name, parts in self.mount.tables.items()},
            "memory_bytes": limits.memory_bytes,
            "threads": limits.threads,
        }
        try:
            async with asyncio.timeout(START_SECONDS):
                await self.send(frames.OPEN, order)
                kind, payload = await self.frame()
        except (TimeoutError, WorkerLost, OSError):
            kind, payload = frames.ERROR, b'{"detail": "no answer"}'
        if kind != frames.READY:
            self.kill("start")
            _log.error("a worker did not start: %s", json.loads(payload).get("detail"))
            raise WorkerLost(
                "A worker could not be started.", hint="Tell your operator: the broker's log has the cause."
            )

    async def send(self, kind: bytes, value: object) -> None:
        assert self._socket is not None
        payload = json.dumps(value).encode()
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_sendall(
                self._socket, frames.HEADER.pack(kind, len(payload)) + payload
            )

    async def header(self) -> tuple[bytes, int]:
        kind, length = frames.HEADER.unpack(await self._exactly(frames.HEADER.size))
        return kind, length

    async def frame(self) -> tuple[bytes, bytes]:
        kind, length = await self.header()
        return kind, await self._exactly(length)

    async def pieces(self, length: int) -> AsyncIterator[bytes]:
        self._left = length
        while self._left:
            piece = await self._receive(min(self._left, _CHUNK_BYTES))
            self._left -= len(piece)
            yield piece

    async def drain(self) -> None:
        """Has the worker give up its query and throws away what it still sends."""
        await self.send(frames.CANCEL, {})
        kind, length = frames.ARROW, self._left
        while True:
            async for _ in self.pieces(length):
                pass
            if kind in (frames.DONE, frames.ERROR):
                return
            kind, length = await self.header()

    async def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            data += await self._receive(count - len(data))
        return data

    async def _receive(self, count: int) -> bytes:
        assert self._socket is not None
        self.waiting_since = time.monotonic()
        try:
            data = await asyncio.get_running_loop().sock_recv(self._socket, count)
        except OSError:
            data = b""
        finally:
            self.waited += time.monotonic() - self.waiting_since
            self.waiting_since = None
            self.used = time.monotonic()
        if not data:
            raise self._lost()
        return data

    def _lost(self) -> WorkerLost:
        if self.killed_for == "time":
            return WorkerLost(
                "The query took longer than its grant allows.",
                hint="Filter earlier, ask for fewer columns, or aggregate in steps.",
                code="time-limit",
                http_status=422,
            )
        if self.killed_for == "stall":
            return WorkerLost(
                "The answer was not read, so the query was ended.", code="not-read", http_status=408
            )
        return WorkerLost(
            "The worker that ran the query ended, most likely because it needed more memory than it may use.",
            hint="Ask for fewer rows or columns, filter earlier, or aggregate in steps.",
            http_status=422,
        )

    def busy_seconds(self) -> float:
        """Time that the current query has made the broker wait."""
        since = self.waiting_since
        return self.waited + (time.monotonic() - since if since is not None else 0.0)

    @property
    def alive(self) -> bool:
        return self._running is not None and self._running.alive()

    @property
    def pid(self) -> int:
        return self._running.child_pid if self._running else 0

    def kill(self, why: str = "") -> None:
        """Ends the process; whoever waits for it gets WorkerLost."""
        self.killed_for = self.killed_for or why or "retired"
        if self._running is not None:
            self._running.kill()

    def close(self) -> None:
        """Takes the remains away. Blocks for a moment."""
        if self._running is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._running.wait(5)
        if self._socket is not None:
            self._socket.close()


class Lease:
    """One worker for one query. Give it back with `close`, whatever happened."""

    def __init__(self, pool: Pool, process: _Process, grant: str, seconds: float):
        self._pool = pool
        self.process = process
        self.grant = grant
        self.seconds = seconds
        self.summary: dict[str, Any] = {}
        self._clean = True
        process.waited = 0.0

    async def query(self, sql: str) -> AsyncIterator[bytes]:
        """The bytes of the Arrow stream. Raises QueryFailed or WorkerLost, before or between pieces."""
        self._clean = False
        await self.process.send(frames.QUERY, {"sql": sql})
        while True:
            kind, length = await self.process.header()
            if kind == frames.ARROW:
                async for piece in self.process.pieces(length):
                    yield piece
                continue
            payload = json.loads(await self.process._exactly(length))
            self._clean = True
            if kind == frames.DONE:
                self.summary = payload
                return
            raise _refusal(payload)

    async def tabulate(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """The worker's answer to a tabulation."""
        self._clean = False
        await self.process.send(frames.TABULATE, dict(spec))
        kind, payload = await self.process.frame()
        self._clean = True
        answer = json.loads(payload)
        if kind != frames.DONE:
            raise _refusal(answer)
        self.summary = {"ms": answer["ms"]}
        found: dict[str, Any] = answer["answer"]
        return found

    def close(self) -> None:
        """Gives the worker back; one that still works is told to stop, or killed."""
        self._pool._give_back(self, clean=self._clean)


class Pool:
    """All workers of a broker."""

    def __init__(self, limits: PoolLimits | None = None):
        self.limits = limits or PoolLimits()
        self._idle: list[_Process] = []
        self._leases: set[Lease] = set()
        self._starting = 0
        self._warming: list[tuple[Mount, str]] = []
        self._recovering = 0
        self._running: Counter[str] = Counter()
        self._waiting: list[_Waiter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch: asyncio.Task[None] | None = None
        self._closed = False

    async def lease(
        self,
        mount: Mount,
        user: str,
        grant: str,
        *,
        concurrent: int = 4,
        seconds: float = 120,
        wait: float = WAIT_SECONDS,
    ) -> Lease:
        """A worker of that slice for that user. Raises Busy after `wait` seconds, WorkerLost if none starts."""
        if self._watch is None:
            self._watch = asyncio.create_task(self._watch_over())
        waiter = _Waiter(mount, user, grant, concurrent, seconds, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        self._dispatch()
        try:
            async with asyncio.timeout(wait):
                return await waiter.future
        except TimeoutError:
            self._abandon(waiter)
            raise Busy("All workers are busy.", hint=f"Try again in {Busy.retry_after} seconds.") from None
        except BaseException:
            self._abandon(waiter)
            raise

    def _abandon(self, waiter: _Waiter) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        future = waiter.future
        if future.done() and not future.cancelled() and future.exception() is None:
            future.result().close()
        else:
            future.cancel()

    def _dispatch(self) -> None:
        """Gives workers to those who wait, in order."""
        if self._closed:
            return
        for waiter in list(self._waiting):
            if self._running[waiter.grant] >= waiter.concurrent:
                continue
            process = self._take_idle(waiter)
            if process is not None:
                self._hand_over(waiter, process)
            elif self._is_warming(waiter.mount, waiter.user):
                continue
            elif self._total() < self.limits.workers or self._evict():
                self._waiting.remove(waiter)
                self._running[waiter.grant] += 1
                self._starting += 1
                self._spawn(self._start_for(waiter))

    def _take_idle(self, waiter: _Waiter) -> _Process | None:
        for process in list(self._idle):
            if process.mount == waiter.mount and process.user == waiter.user:
                self._idle.remove(process)
                if process.alive:
                    return process
                self._bury(process)
        return None

    def _hand_over(self, waiter: _Waiter, process: _Process) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)
            self._running[waiter.grant] += 1
        lease = Lease(self, process, waiter.grant, waiter.seconds)
        self._leases.add(lease)
        if waiter.future.done():
            lease.close()
        else:
            waiter.future.set_result(lease)

    def warm(self, mount: Mount, user: str) -> None:
        """Starts a worker ahead of the first query, if there is room and none for that user yet."""
        processes = [*self._idle, *(lease.process for lease in self._leases)]
        known = any(p.mount == mount and p.user == user for p in processes) or self._is_warming(mount, user)
        if not known and not self._closed and self._total() < self.limits.workers:
            self._warming.append((mount, user))
            self._spawn(self._warm(mount, user))

    async def _warm(self, mount: Mount, user: str) -> None:
        process = _Process(mount, user)
        try:
            await process.start(self.limits)
            self._idle.append(process)
        except WorkbenchError:
            self._bury(process)
        finally:
            self._warming.remove((mount, user))
            self._dispatch()

    def _is_warming(self, mount: Mount, user: str) -> bool:
        return (mount, user) in self._warming

    async def _start_for(self, waiter: _Waiter) -> None:
        process = _Process(waiter.mount, waiter.user)
        try:
            await process.start(self.limits)
        except Exception as error:
            self._running[waiter.grant] -= 1
            if not waiter.future.done():
                waiter.future.set_exception(error)
                waiter.future.exception()
            self._bury(process)
            return
        finally:
            self._starting -= 1
        self._hand_over(waiter, process)
        self._dispatch()

    def _give_back(self, lease: Lease, *, clean: bool) -> None:
        if lease not in self._leases:
            return
        self._leases.discard(lease)
        self._running[lease.grant] -= 1
        if clean and lease.process.alive:
            self._idle.append(lease.process)
        elif lease.process.alive and not lease.process.killed_for:
            self._recovering += 1
            self._spawn(self._recover(lease.process))
        else:
            self._bury(lease.process)
        self._dispatch()

    async def _recover(self, process: _Process) -> None:
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                await process.drain()
            self._idle.append(process)
        except (TimeoutError, WorkerLost):
            self._bury(process)
        finally:
            self._recovering -= 1
        self._dispatch()

    def _bury(self, process: _Process) -> None:
        process.kill()
        self._spawn(asyncio.to_thread(process.close))

    def _evict(self) -> bool:
        """Ends the worker that has been idle longest; whether there was one."""
        if not self._idle:
            return False
        oldest = min(self._idle, key=lambda process: process.used)
        self._idle.remove(oldest)
        self._bury(oldest)
        return True

    def retire(self, slice_id: str) -> None:
        """Ends the idle workers of a slice."""
        for process in [process for process in self._idle if process.mount.slice_id == slice_id]:
            self._idle.remove(process)
            self._bury(process)

    def _total(self) -> int:
        return len(self._idle) + len(self._leases) + self._starting + self._recovering + len(self._warming)

    async def _watch_over(self) -> None:
        while True:
            await asyncio.sleep(0.2)
            now = time.monotonic()
            for lease in list(self._leases):
                if lease.process.busy_seconds() > lease.seconds:
                    lease.process.kill("time")
                elif lease.process.waiting_since is None and now - lease.process.used > STALL_SECONDS:
                    lease.process.kill("stall")
            for process in [p for p in self._idle if not p.alive or now - p.used > IDLE_SECONDS]:
                self._idle.remove(process)
                self._bury(process)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def pids(self) -> dict[str, list[int]]:
        """The workers' sandboxes: idle and busy."""
        return {"idle": [p.pid for p in self._idle], "busy": [lease.process.pid for lease in self._leases]}

    async def close(self) -> None:
        """Ends every worker."""
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
        for lease in list(self._leases):
            lease.process.kill("closed")
        for process in self._idle:
            self._bury(process)
        self._idle.clear()
        while self._tasks:
            await asyncio.wait(list(self._tasks), timeout=10)


@dataclass(eq=False)
class _Waiter:
    mount: Mount
    user: str
    grant: str
    concurrent: int
    seconds: float
    future: asyncio.Future[Lease]


def _launch(mount: Mount, limits: PoolLimits, channel: socket.socket) -> Running:
    sandbox = Sandbox(
        command=[sys.executable, "-m", "workbench.broker.worker"],
        env={CHANNEL: str(channel.fileno()), "OMP_NUM_THREADS": "1"},
        read_only={mount.folder: SLICE},
        limits=limits.sandbox,
    )
    return launch(
        sandbox,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[channel.fileno()],
    )


def _widen(*sockets: socket.socket) -> None:
    for sock in sockets:
        for forced, plain in ((_SO_SNDBUFFORCE, socket.SO_SNDBUF), (_SO_RCVBUFFORCE, socket.SO_RCVBUF)):
            try:
                sock.setsockopt(socket.SOL_SOCKET, forced, _BUFFER_BYTES)
            except OSError:
                sock.setsockopt(socket.SOL_SOCKET, plain, _BUFFER_BYTES)


def _refusal(said: Mapping[str, Any]) -> QueryFailed:
    code = str(said.get("code") or "query-failed")
    return QueryFailed(
        str(said.get("reason") or "The worker failed."),
        hint=str(said.get("hint") or ""),
        code=code,
        http_status=int(said.get("status") or STATUS.get(code, 400)),
    )
