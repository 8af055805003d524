"""One worker process: its sandbox, the socket to it, and what ends it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.broker import frames
from workbench.broker.engine_errors import STATUS
from workbench.broker.worker import CHANNEL, SLICE, SPILL
from workbench.errors import WorkbenchError
from workbench.sandbox import Limits, Running, Sandbox, insecure, launch, launch_bare

START_SECONDS = 60.0
PING_SECONDS = 5.0
"""How long an idle worker may take to say that it is there; one that does not is replaced."""
_BUFFER_BYTES = 4 << 20
_CHUNK_BYTES = 1 << 20
_log = logging.getLogger("workbench.broker")
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33


class QueryFailed(WorkbenchError):
    """A worker could not answer; code and words come from `engine_errors`."""

    code = "query-failed"


class WorkerLost(WorkbenchError):
    """A worker ended in the middle of a query: it overran, or died."""

    code = "worker-lost"
    http_status = 500


RETIRED = "retired"
"""Why a worker was killed that nobody asked anything."""
CONSENT_CHANGED = "consent-changed"
ENDS = {
    "time": (
        "The query took longer than the {seconds:g} seconds that its grant allows.",
        "Filter earlier, ask for fewer columns, or aggregate in steps.",
        "time-limit",
        422,
    ),
    "stall": ("The answer was not read, so the query was ended.", "", "not-read", 408),
    CONSENT_CHANGED: (
        "A member's consent changed while the query ran, so its answer was cut off.",
        "Ask again: the answer comes from what may be seen now.",
        CONSENT_CHANGED,
        409,
    ),
    "break-glass-ended": (
        "The break-glass access ended while it was read.",
        "Ask for a new one.",
        "break-glass-ended",
        409,
    ),
    "": (
        "The worker that ran the query ended, most likely because it needed more memory than it may use.",
        "Ask for fewer rows or columns, filter earlier, or aggregate in steps.",
        "worker-lost",
        422,
    ),
}
"""Why a worker was killed -> what its caller learns: reason, hint, code, HTTP status."""


@dataclass(frozen=True)
class Mount:
    """What one kind of worker has: a slice's folder, its tables and the mode."""

    slice_id: str
    folder: Path
    mode: str
    tables: Mapping[str, tuple[str, ...]]
    """Table -> its Parquet parts, relative to the folder."""

    @property
    def shown(self) -> dict[Path, str]:
        """What the sandbox binds. The manifest counts removed rows, so that no engine that runs SQL has it."""
        if self.mode == "tabulate":
            return {self.folder: SLICE}
        return {self.folder / "tables": f"{SLICE}/tables"}


@dataclass(frozen=True)
class PoolLimits:
    """What the workers of one broker may use together and each."""

    workers: int = field(default_factory=lambda: max(4, 2 * (os.cpu_count() or 1)))
    threads: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))
    memory_bytes: int = field(default_factory=lambda: _share_of_memory())
    kept: int = 0
    """Workers that may exist, idle ones included; by default no more than may work at once (`workers`)."""

    @property
    def processes(self) -> int:
        """The cap on workers, busy and idle: above it the one that has been idle longest ends."""
        return max(self.workers, self.kept)

    @property
    def spill_bytes(self) -> int:
        """What a big sort or join may put beside its memory, in the sandbox's own /tmp: memory too, gone with it."""
        return self.memory_bytes // 2

    @property
    def sandbox(self) -> Limits:
        """Of the whole process, above the engine's own limit: a single scalar call can ignore the engine's."""
        return Limits(
            memory_bytes=self.memory_bytes + self.spill_bytes + (1 << 30),
            processes=64,
            tmp_bytes=self.spill_bytes + (32 << 20),
            open_files=1024,
        )


def ample() -> PoolLimits:
    """The limits of a machine that is the broker's own: as many idle workers as a sixth of its memory holds, up to 64.

    An idle worker holds about 60 MB; a start costs a third of a second, which a user who comes back is spared.
    """
    return PoolLimits(kept=min(64, _memory() // 6 // (60 << 20)))


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _share_of_memory() -> int:
    return max(1 << 30, min(16 << 30, _memory() // 8))


class WorkerProcess:
    """One running worker."""

    def __init__(self, mount: Mount, user: str):
        self.mount = mount
        self.user = user
        self.used = self.began = self.made = time.monotonic()
        self.waited = 0.0
        self.waiting_since: float | None = None
        self.allowed = 0.0
        """Seconds that the current query may make the broker wait."""
        self.killed_for = ""
        self.rows = 0
        """Rows of the current answer that the worker has begun to send."""
        self._left = 0
        self._bare = insecure()
        self._spill = tempfile.mkdtemp(prefix="wb-spill-") if self._bare else SPILL
        self._running: Running | None = None
        self._socket: socket.socket | None = None

    async def start(self, limits: PoolLimits) -> None:
        """Launches the sandbox and waits until the engine is ready. Raises WorkerLost."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        _widen(ours, theirs)
        ours.setblocking(False)
        self._socket = ours
        try:
            self._running = await asyncio.to_thread(_launch, self.mount, limits, theirs, self._bare)
        finally:
            theirs.close()
        order = {
            "mode": self.mount.mode,
            "folder": str(self.mount.folder) if self._bare else SLICE,
            "spill": self._spill,
            "tables": {name: list(parts) for name, parts in self.mount.tables.items()},
            "memory_bytes": limits.memory_bytes,
            "spill_bytes": limits.spill_bytes,
            "threads": limits.threads,
        }
        try:
            async with asyncio.timeout(START_SECONDS):
                await self.send(frames.OPEN, order)
                kind, payload = await self.frame()
        except (TimeoutError, WorkerLost, OSError):
            kind, payload = frames.ERROR, b'{"detail": "no answer"}'
        self.began = time.monotonic()
        if kind != frames.READY:
            self.kill("start")
            _log.error("a worker did not start: %s", json.loads(payload).get("detail"))
            raise WorkerLost(
                "A worker could not be started.", hint="Tell your operator: the broker's log has the cause."
            )

    async def answers(self) -> bool:
        """Whether the idle worker is still there: it may have died, or hang, since it was used last."""
        try:
            async with asyncio.timeout(PING_SECONDS):
                await self.send(frames.PING, {})
                kind, _ = await self.frame()
        except (TimeoutError, WorkerLost):
            return False
        return kind == frames.HERE

    async def send(self, kind: bytes, value: object) -> None:
        assert self._socket is not None
        payload = json.dumps(value).encode()
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_sendall(
                self._socket, frames.HEADER.pack(kind, 0, len(payload)) + payload
            )

    async def header(self) -> tuple[bytes, int]:
        kind, rows, length = frames.HEADER.unpack(await self.payload(frames.HEADER.size))
        self.rows += rows
        return kind, length

    async def frame(self) -> tuple[bytes, bytes]:
        kind, length = await self.header()
        return kind, await self.payload(length)

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

    async def payload(self, count: int) -> bytes:
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
            raise ended(self.killed_for, self.allowed)
        return data

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
        self.killed_for = self.killed_for or why or RETIRED
        if self._running is not None:
            self._running.kill()

    def close(self) -> None:
        """Takes the remains away. Blocks for a moment."""
        if self._running is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._running.wait(5)
        if self._socket is not None:
            self._socket.close()
        if self._bare:
            shutil.rmtree(self._spill, ignore_errors=True)


def _launch(mount: Mount, limits: PoolLimits, channel: socket.socket, bare: bool) -> Running:
    sandbox = Sandbox(
        command=[sys.executable, "-m", "workbench.broker.worker"],
        env={CHANNEL: str(channel.fileno()), "OMP_NUM_THREADS": "1"},
        read_only=mount.shown,
        limits=limits.sandbox,
    )
    if bare:
        return launch_bare(sandbox, pass_fds=[channel.fileno()])
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


def failure(said: Mapping[str, Any]) -> QueryFailed:
    code = str(said.get("code") or "query-failed")
    return QueryFailed(
        str(said.get("reason") or "The worker failed."),
        hint=str(said.get("hint") or ""),
        code=code,
        http_status=int(said.get("status") or STATUS.get(code, 400)),
    )


def ended(why: str, seconds: float = 0.0) -> WorkerLost:
    """What the caller of a worker that was killed for this learns; `seconds` is what the query was allowed."""
    reason, hint, code, status = ENDS.get(why, ENDS[""])
    return WorkerLost(reason.format(seconds=seconds), hint=hint, code=code, http_status=status)
