"""The broker's workers: warm sandboxed processes, one slice each, one query at a time in each.

A worker belongs to the user who asked last; another user of the same slice gets a fresh one. A worker that overruns,
dies or does not answer is killed and replaced; no other worker notices. Whose turn it is, `turns` says; among equals,
who came first.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from workbench.broker.lease import Lease
from workbench.broker.process import (
    CONSENT_CHANGED,
    Mount,
    PoolLimits,
    QueryFailed,
    WorkerLost,
    WorkerProcess,
    ample,
    ended,
)
from workbench.broker.turns import Turns
from workbench.errors import WorkbenchError

CANCEL_SECONDS = 0.5
"""How long a worker may take to give up a query before it is killed."""
STALL_SECONDS = 120.0
"""How long a caller may leave an answer unread before its worker is taken away."""
IDLE_SECONDS = 900.0
STAY_SECONDS = 2.0
"""So long a new worker goes on with its user before others have their turn: a start costs more than many queries."""
CUT_SECONDS = 86_400.0
"""So long it is known that a slice was cut: longer than anybody waits between being given it and leasing a worker."""
WAIT_SECONDS = 30.0
"""How long a query waits for a worker before the caller is asked to come again."""

__all__ = ["Busy", "Lease", "Mount", "Pool", "PoolLimits", "QueryFailed", "WorkerLost"]


SOONEST, LATEST = 2, 60
"""Bounds of the Retry-After, in seconds."""


class Busy(WorkbenchError):
    """No worker became free in the time that a caller should wait. `retry_after` is in seconds."""

    code = "busy"
    http_status = 429

    def __init__(self, reason: str, *, retry_after: int):
        super().__init__(reason, hint=f"Try again in {retry_after} seconds.")
        self.retry_after = retry_after


class Pool:
    """All workers of a broker."""

    def __init__(self, limits: PoolLimits | None = None):
        self.limits = limits or ample()
        self._idle: list[WorkerProcess] = []
        self._leases: set[Lease] = set()
        self._starting = 0
        self._warming: list[tuple[Mount, str]] = []
        self._recovering = 0
        self._turns = Turns(self.limits.workers)
        self._cuts: dict[str, float] = {}
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
        asked: float | None = None,
    ) -> Lease:
        """A worker of that slice for that user. Raises Busy after `wait` seconds, WorkerLost if none starts.

        `asked` (monotonic) is when the caller was given the slice; one that was cut since is not served.
        """
        if self._watch is None:
            self._watch = asyncio.create_task(self._watch_over())
        asked = time.monotonic() if asked is None else asked
        try:
            async with asyncio.timeout(wait):
                while True:
                    lease = await self._turn(_Waiter(mount, user, grant, concurrent, seconds, asked))
                    if lease.fresh or await lease.answers():
                        return lease
        except TimeoutError:
            raise self._busy(grant, user, concurrent) from None

    async def _turn(self, waiter: _Waiter) -> Lease:
        self._waiting.append(waiter)
        self._dispatch()
        try:
            return await waiter.future
        except BaseException:
            self._abandon(waiter)
            raise

    def _busy(self, grant: str, user: str, concurrent: int) -> Busy:
        """Which limit kept the caller waiting, and when one of what runs within it is likely to end."""
        limit, most = self._turns.limit(grant, user, concurrent), self._turns.most
        mine = list(self._leases)
        if limit == "share of a user":
            reason = f"You run as many queries as one user may at once: {most} of {most}."
            mine = [lease for lease in mine if lease.process.user == user]
        elif limit:
            allowed = concurrent if limit == "grant" else most
            whose = "the grant allows" if limit == "grant" else "one grant may have"
            reason = f"The holders of grant {grant} run as many queries as {whose} at once: {self._turns.held(grant)} of {allowed}."
            mine = [lease for lease in mine if lease.grant == grant]
        else:
            reason = f"All {self.limits.workers} workers are busy."
        soonest = min((lease.likely_seconds() for lease in mine), default=0.0)
        return Busy(reason, retry_after=round(min(LATEST, max(SOONEST, soonest))))

    def _abandon(self, waiter: _Waiter) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        future = waiter.future
        if future.done() and not future.cancelled() and future.exception() is None:
            future.result().close()
        else:
            future.cancel()

    def _dispatch(self) -> None:
        """Gives workers to those who wait, each time to the one whose turn it is."""
        while not self._closed:
            ready = [waiter for waiter in self._waiting if self._may_start(waiter)]
            if not ready:
                return
            waiter = min(ready, key=self._place)
            self._waiting.remove(waiter)
            if self._is_cut(waiter):
                waiter.future.set_exception(ended(CONSENT_CHANGED))
                continue
            self._turns.begin(waiter.grant, waiter.user)
            process = self._take_idle(waiter)
            if process is not None:
                self._hand_over(waiter, process, fresh=False)
            else:
                if self._total() >= self.limits.processes:
                    self._evict()
                self._starting += 1
                self._spawn(self._start_for(waiter))

    def _may_start(self, waiter: _Waiter) -> bool:
        if not self._turns.may(waiter.grant, waiter.user, waiter.concurrent):
            return False
        if self._total() - len(self._idle) >= self.limits.workers:
            return False
        if self._has_idle(waiter.mount, waiter.user):
            return True
        room = self._total() < self.limits.processes or bool(self._idle)
        return room and not self._is_warming(waiter.mount, waiter.user)

    def _place(self, waiter: _Waiter) -> tuple[int, ...]:
        """The smaller, the sooner. Where a start would end another's worker, who has just been given one goes on first."""
        since = time.monotonic() - STAY_SECONDS
        stays = self._total() >= self.limits.processes and any(
            process.began > since and process.user == waiter.user and process.mount == waiter.mount
            for process in self._idle
        )
        return (not stays, *self._turns.place(waiter.grant, waiter.user))

    def _is_cut(self, waiter: _Waiter) -> bool:
        return self._cuts.get(waiter.mount.slice_id, -1.0) > waiter.asked

    def _has_idle(self, mount: Mount, user: str) -> bool:
        return any(process.mount == mount and process.user == user for process in self._idle)

    def _take_idle(self, waiter: _Waiter) -> WorkerProcess | None:
        for process in list(self._idle):
            if process.mount == waiter.mount and process.user == waiter.user:
                self._idle.remove(process)
                if process.alive:
                    return process
                self._bury(process)
        return None

    def _hand_over(self, waiter: _Waiter, process: WorkerProcess, *, fresh: bool) -> None:
        lease = Lease(process, waiter.grant, waiter.seconds, fresh=fresh, give_back=self._give_back)
        self._leases.add(lease)
        if self._is_cut(waiter):
            process.kill(CONSENT_CHANGED)
        if waiter.future.done():
            lease.close()
        else:
            waiter.future.set_result(lease)

    def warm(self, mount: Mount, user: str) -> None:
        """Starts a worker ahead of the first query, if there is room and none for that user yet."""
        processes = [*self._idle, *(lease.process for lease in self._leases)]
        known = any(p.mount == mount and p.user == user for p in processes) or self._is_warming(mount, user)
        if not known and not self._closed and self._total() < self.limits.processes:
            self._warming.append((mount, user))
            self._spawn(self._warm(mount, user))

    async def _warm(self, mount: Mount, user: str) -> None:
        process = WorkerProcess(mount, user)
        try:
            await process.start(self.limits)
            self._rest(process)
        except WorkbenchError:
            self._bury(process)
        finally:
            self._warming.remove((mount, user))
            self._dispatch()

    def _is_warming(self, mount: Mount, user: str) -> bool:
        return (mount, user) in self._warming

    async def _start_for(self, waiter: _Waiter) -> None:
        process = WorkerProcess(waiter.mount, waiter.user)
        try:
            await process.start(self.limits)
        except Exception as error:
            self._turns.end(waiter.grant, waiter.user)
            if not waiter.future.done():
                waiter.future.set_exception(error)
                waiter.future.exception()
            self._bury(process)
            return
        finally:
            self._starting -= 1
        self._hand_over(waiter, process, fresh=True)
        self._dispatch()

    def _give_back(self, lease: Lease, clean: bool) -> None:
        if lease not in self._leases:
            return
        self._leases.discard(lease)
        self._turns.end(lease.grant, lease.process.user)
        if clean and lease.process.alive:
            self._rest(lease.process)
        elif lease.process.alive and not lease.process.killed_for:
            self._recovering += 1
            self._spawn(self._recover(lease.process))
        else:
            self._bury(lease.process)
        self._dispatch()

    async def _recover(self, process: WorkerProcess) -> None:
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                await process.drain()
            self._rest(process)
        except (TimeoutError, WorkerLost):
            self._bury(process)
        finally:
            self._recovering -= 1
        self._dispatch()

    def _rest(self, process: WorkerProcess) -> None:
        """Keeps a worker for the next query; after the end, none, nor one whose slice was cut meanwhile."""
        if self._closed or self._cuts.get(process.mount.slice_id, -1.0) > process.made:
            self._bury(process)
        else:
            self._idle.append(process)

    def _bury(self, process: WorkerProcess) -> None:
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

    def cut(self, slice_id: str, reason: str = CONSENT_CHANGED) -> None:
        """Ends every worker of a slice, busy ones too: their callers learn the reason (one of `process.ENDS`).

        Who was given the slice before and has no worker yet gets none.
        """
        now = time.monotonic()
        self._cuts = {id: at for id, at in self._cuts.items() if now - at < CUT_SECONDS} | {slice_id: now}
        for lease in self._leases:
            if lease.process.mount.slice_id == slice_id:
                lease.process.kill(reason)
        for process in [process for process in self._idle if process.mount.slice_id == slice_id]:
            self._idle.remove(process)
            self._bury(process)
        self._dispatch()

    def slices(self) -> frozenset[str]:
        """The slices that a worker is busy on or that somebody waits for."""
        busy = {lease.process.mount.slice_id for lease in self._leases}
        return frozenset(busy | {waiter.mount.slice_id for waiter in self._waiting})

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
    asked: float
    future: asyncio.Future[Lease] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
