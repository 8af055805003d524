"""One read, from the permission to the record of its end. Every channel reads through it, and through nothing else.

    async with broker.reading(caller, statement="record", subject=member, channel=Channel.LMR_API) as reading:
        lease = await reading.lease(await reading.ready("record"))
        record = await lease.lookup(member)
        reading.count(rows=1, bytes=len(record))
        await reading.admitted()
        return record

What is refused before it is admitted is recorded as `refused`; what was admitted ends with `ended`. A slice that is
being built is neither: the caller asks again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any

from workbench.broker.caller import Caller
from workbench.broker.cut import refuse_future
from workbench.broker.grants import Channel, Grant
from workbench.broker.law import refuse_unsourced
from workbench.broker.pool import Lease
from workbench.broker.said import milliseconds, outcome, who, why
from workbench.broker.shelf import Ready, SliceBuilding, SliceKind
from workbench.broker.slices import Slice, refuse_rowless
from workbench.errors import WorkbenchError
from workbench.lake.release import Release

if TYPE_CHECKING:
    from workbench.broker.core import Broker

LONGEST_REFUSED = 4_000
"""Characters of a refused statement that the log keeps: what nobody answered must not fill the disk."""

Statement = str | Callable[[Mapping[str, tuple[str, ...]]], str]
"""What the log says was asked; a function of the slice's tables where that is only known, or dear, at a refusal."""


class Reading:
    """One caller's read of one grant's data, as `async with`. `grant` and `release` are there from its start."""

    grant: Grant
    release: Release
    slice: Slice
    """The slice that was taken last."""

    def __init__(
        self,
        broker: Broker,
        caller: Caller,
        *,
        statement: Statement,
        tables: Collection[str] = (),
        columns: Collection[str] = (),
        subject: str | None = None,
        channel: Channel | None = None,
    ):
        self.id = uuid.uuid4().hex
        self.caller = caller
        self.rows = 0
        self.bytes = 0
        self._broker = broker
        self._channel = channel
        self._members: frozenset[str] | None = None
        self._capped = False
        self._asked = time.monotonic()
        self._started = time.perf_counter()
        self._said: dict[str, Any] = {**who(caller), "query_id": self.id}
        if channel is not None and caller.channel != "operator":
            self._said["channel"] = str(channel)
        if subject is not None:
            self._said["subject"] = broker.audit.subject(subject)
        self._known: Mapping[str, tuple[str, ...]] = {}
        self._admission: Future[None] | None = None
        self._leases: list[Lease] = []
        self.says(statement, tables, columns)

    def says(self, statement: Statement, tables: Collection[str] = (), columns: Collection[str] = ()) -> None:
        """What the log is to say of the statement, before the read is admitted."""
        self._statement, self._tables, self._columns = statement, tables, columns

    async def __aenter__(self) -> Reading:
        """Raises GrantRefused, DayLimitReached, UnknownRelease, AsOfAfterRelease, UnsourcedCategory, UnknownDrugs,
        AuditUnavailable."""
        try:
            self.grant = self._broker.permit(self.caller, channel=self._channel)
            self._broker.meter.check(self.grant)
            self.release = self._broker.release(self.caller)
            refuse_future(self.grant, self.release)
            refuse_unsourced(self.grant, self.release)
        except WorkbenchError as refusal:
            await self._refuse(refusal)
            raise
        return self

    async def ready(self, kind: SliceKind = "slice", *, wait: bool = False) -> Ready:
        """The grant's slice of that kind, built if need be. Raises NoRows, SliceBuilding and what a build raises."""
        if kind != "tabulation":
            refuse_rowless(self.grant)
        ready = await self._broker.shelf.take(self.release, self.grant, kind, wait=wait)
        self.slice, self._known = ready.slice, ready.tables
        self._said |= {"release": ready.slice.manifest["release"], "slice": ready.slice.id}
        return ready

    async def lease(self, ready: Ready) -> Lease:
        """A worker on that slice, given back when the read ends. The admission is on its way to the log by then."""
        self._admit()
        limits = self.grant.limits
        lease = await self._broker.pool.lease(
            ready.mount,
            self.caller.user,
            self.grant.name,
            concurrent=limits.concurrent_queries,
            seconds=limits.seconds_per_query,
            asked=self._asked,
        )
        self._leases.append(lease)
        return lease

    async def admitted(self) -> None:
        """Returns when the admission is durable: from here on data may leave. Raises AuditUnavailable."""
        await asyncio.wrap_future(self._admit())
        self._remember("running")

    def count(
        self,
        *,
        rows: int = 0,
        bytes: int = 0,
        members: Collection[str] | None = None,
        capped: bool = False,
    ) -> None:
        """Counts what is about to leave. Raises DayLimitReached, and then it must not leave.

        `members` are the ids (of the slice: tokens where it has tokens) that the answer holds; `capped`: not all of them.
        """
        self._broker.meter.take(self.grant, rows=rows, bytes=bytes)
        self.rows += rows
        self.bytes += bytes
        if members is not None:
            self._members = (self._members or frozenset()).union(members)
            self._capped = self._capped or capped

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for lease in self._leases:
            lease.close()
        if self._admission is not None:
            self._end(error)
        elif isinstance(error, WorkbenchError) and not isinstance(error, SliceBuilding):
            await self._refuse(error)

    def _admit(self) -> Future[None]:
        if self._admission is None:
            self._admission = self._broker.audit.submit(
                "admitted",
                **self._said,
                statement=self._words(),
                tables=self._tables,
                columns=self._columns,
            )
        return self._admission

    async def _refuse(self, refusal: WorkbenchError) -> None:
        statement = self._words()
        if len(statement) > LONGEST_REFUSED:
            statement = f"{statement[:LONGEST_REFUSED]}… [{len(statement)} characters]"
        await self._broker.record("refused", **self._said, statement=statement, **why(refusal))

    def _words(self) -> str:
        return self._statement if isinstance(self._statement, str) else self._statement(self._known)

    def _end(self, error: BaseException | None) -> None:
        """Records how the read ended; it does not wait, because the caller may be gone."""
        ended, reason = outcome(error)
        said = {
            **self._said,
            "rows": self.rows,
            "bytes": self.bytes,
            "ms": milliseconds(self._started),
            "outcome": ended,
            **reason,
        }
        self._remember(ended, **reason)
        if self._members:
            self._broker.later(self._end_with_members(said, self._members))
        else:
            self._broker.audit.submit("ended", **said, members=None if self._members is None else 0)

    async def _end_with_members(self, said: Mapping[str, Any], members: frozenset[str]) -> None:
        audit = self._broker.audit
        reference = None
        with contextlib.suppress(OSError):  # the answer has left: its end is recorded, without the list
            reference = await asyncio.to_thread(audit.returned, members, self._capped)
        audit.submit("ended", **said, members=len(members), returned=reference)

    def _remember(self, state: str, **reason: str) -> None:
        self._broker.remember(
            self.id,
            {"user": self.caller.user, "state": state, "rows": self.rows, "bytes": self.bytes, **reason},
        )
