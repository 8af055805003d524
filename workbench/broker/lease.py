"""A worker lent for one query: what is asked of it, and the way back to the pool."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeAlias

from workbench.broker import frames
from workbench.broker.process import RETIRED, WorkerProcess, ended, failure

GiveBack: TypeAlias = "Callable[[Lease, bool], None]"
"""Takes a lease back, and whether its worker has nothing more to say."""


class Lease:
    """One worker for one query. Give it back with `close`, whatever happened."""

    def __init__(
        self, process: WorkerProcess, grant: str, seconds: float, *, fresh: bool, give_back: GiveBack
    ):
        self._give_back = give_back
        self.fresh = fresh
        """Whether the worker was started for this query, and so is known to be there."""
        self.process = process
        self.grant = grant
        self.seconds = seconds
        self.summary: dict[str, Any] = {}
        self._clean = True
        self._began = time.monotonic()
        process.waited = 0.0
        process.allowed = seconds
        process.rows = 0

    async def answers(self) -> bool:
        """Whether the worker is there; one that is not is given back. Raises WorkerLost if it was ended for a reason."""
        self._clean = False
        try:
            self._clean = await self.process.answers()
        finally:
            if not self._clean:
                self.close()
        if not self._clean and self.process.killed_for not in ("", RETIRED):
            raise ended(self.process.killed_for, self.seconds)
        return self._clean

    def likely_seconds(self) -> float:
        """How long its query is likely to go on: as long as it has run, but no longer than it may."""
        return min(time.monotonic() - self._began, self.seconds - self.process.busy_seconds())

    @property
    def rows(self) -> int:
        """Rows of the answer so far, with those of the batch that the last piece begins or belongs to."""
        return self.process.rows

    async def query(self, sql: str, *, members: tuple[str, str] | None = None) -> AsyncIterator[bytes]:
        """The bytes of the Arrow stream. Raises QueryFailed or WorkerLost, before or between pieces.

        `members` is the table and column of the slice's members, where `summary` is to tell which of them were named.
        """
        self._clean = False
        await self.process.send(frames.QUERY, {"sql": sql, "members": members})
        while True:
            kind, length = await self.process.header()
            if kind == frames.ARROW:
                async for piece in self.process.pieces(length):
                    yield piece
                continue
            payload = self._last(kind, await self.process.payload(length))
            self.summary = payload
            return

    async def tabulate(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """The worker's answer to a tabulation."""
        self._clean = False
        await self.process.send(frames.TABULATE, dict(spec))
        kind, payload = await self.process.frame()
        answer = self._last(kind, payload)
        self.summary = {"ms": answer["ms"], "bytes": len(payload)}
        found: dict[str, Any] = answer["answer"]
        return found

    async def lookup(self, member: str, column: str = "record") -> str | None:
        """A member's row of a record store: `record` or `risk`, as JSON; None where the slice has no such member."""
        self._clean = False
        await self.process.send(frames.LOOKUP, {"member": member, "column": column})
        kind, payload = await self.process.frame()
        answer = self._last(kind, payload)
        found: str | None = answer["found"]
        return found

    def _last(self, kind: bytes, payload: bytes) -> dict[str, Any]:
        """The answer's last frame, after which the worker has nothing more to say. Raises QueryFailed.

        A worker that is spent by its error is not used again.
        """
        said: dict[str, Any] = json.loads(payload)
        if kind == frames.DONE:
            self._clean = True
            return said
        if said.get("spent"):
            self.process.kill()
        self._clean = not said.get("spent")
        raise failure(said)

    def close(self) -> None:
        """Gives the worker back; one that still works is told to stop, or killed."""
        self._give_back(self, self._clean)
