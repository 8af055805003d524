"""The broker: decides, cuts the slice, admits the statement, runs it in a worker, and records all of it.

Every way to data (notebook, app, report, command line) goes through `Broker.query` or `Broker.tabulate`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future
from typing import Any

from workbench.broker import gate
from workbench.broker.audit import Audit, events
from workbench.broker.bindings import CHANNELS, KINDS, Binding, BindingRefused, Bindings
from workbench.broker.caller import Answer, Caller
from workbench.broker.grants import Channel, Decision, Grant, GrantBook, Level
from workbench.broker.hub import Directory
from workbench.broker.pool import Lease, Pool, PoolLimits
from workbench.broker.said import milliseconds, outcome, report_event, who, why
from workbench.broker.shelf import Ready, Shelf, SliceBuilding, SliceKind
from workbench.broker.slices import NoRows, Slice, slice_id
from workbench.broker.state import State
from workbench.broker.tabulate import check_spec
from workbench.broker.vault import Vault
from workbench.errors import WorkbenchError
from workbench.lake.release import Release, UnknownRelease, open_release
from workbench.sandbox import available
from workbench.settings import Settings

AUDITORS = "auditors"
"""The Hub group that may read the audit log."""
LONG_STATEMENT = 4_000
"""Characters above which a statement is parsed beside the event loop, not in it."""
REMEMBERED_QUERIES = 2_000
REMEMBERED_STATEMENTS = 500

__all__ = ["Answer", "Broker", "Caller", "NotAnAuditor", "SliceBuilding"]


class NotAnAuditor(WorkbenchError):
    """Only auditors read the audit log."""

    code = "not-an-auditor"
    http_status = 403


class Broker:
    """One broker on one state. Raises SandboxUnavailable or StateLocked where it cannot be."""

    def __init__(self, settings: Settings, directory: Directory, *, limits: PoolLimits | None = None):
        available()
        self.settings = settings
        self.directory = directory
        self.state = State(settings.database_url, settings.state)
        self.audit = Audit(self.state)
        self.vault = Vault(self.state)
        self.bindings = Bindings(self.state)
        self.pool = Pool(limits)
        self._book: tuple[object, GrantBook] | None = None
        self._shelf = Shelf(settings.lake, self.vault, self._record)
        self._releases: dict[str, Release] = {}
        self._admitted: OrderedDict[tuple[str, str], gate.Admitted] = OrderedDict()
        self._queries: OrderedDict[str, dict[str, Any]] = OrderedDict()

    async def close(self) -> None:
        """Ends the workers, writes the last checkpoint, gives up the lock."""
        await self.pool.close()
        await self._shelf.close()
        await asyncio.to_thread(self.audit.close)
        self.state.close()

    def grants(self) -> GrantBook:
        """The grants as the folder has them now. Raises InvalidGrants."""
        folder = self.settings.grants
        stamp = (
            sorted((f.name, f.stat().st_mtime_ns, f.stat().st_size) for f in folder.glob("*.y*ml"))
            if folder.is_dir()
            else []
        )
        if self._book is None or self._book[0] != stamp:
            self._book = (stamp, GrantBook.load(folder))
        return self._book[1]

    def permit(self, caller: Caller, *, tabulate: bool = False) -> Grant:
        """The caller's grant, if it is open to this caller now. Raises GrantRefused."""
        book = self.grants()
        groups = caller.groups if caller.groups is not None else book.get(caller.grant).groups
        channel = None if caller.operator else caller.opens
        if tabulate and channel == "notebook":
            channel = Channel.TABULATE
        return book.require(caller.grant, groups, purpose=caller.purpose, channel=channel)

    def decisions(self, groups: frozenset[str]) -> list[Decision]:
        """One decision for each grant there is."""
        return self.grants().for_user(groups)

    def release(self, caller: Caller) -> Release:
        """The release that the caller's answers come from: the one fixed at the server's start, else the latest."""
        if caller.release is None:
            return open_release(self.settings.lake)
        if caller.release not in self._releases:
            self._releases[caller.release] = open_release(self.settings.lake, caller.release)
        return self._releases[caller.release]

    async def query(self, caller: Caller, sql: str, *, wait: bool = False) -> Answer:
        """Admits and starts one query. Raises GrantRefused, NoRows, SliceBuilding, GateRefusal, Busy, QueryFailed …

        With `wait` it waits for a slice that is being built. The answer's first bytes are there when this returns,
        and the `admitted` event is durable.
        """
        query, started = uuid.uuid4().hex, time.perf_counter()
        said: dict[str, Any] = {**who(caller), "query_id": query}
        tables: Mapping[str, tuple[str, ...]] = {}
        try:
            grant = self.permit(caller)
            if grant.level == Level.AGGREGATE:
                raise NoRows(
                    f"Grant {grant.name} is of level aggregate: it has tables, no rows.",
                    hint='Ask for one of the tables: `s.tabulate("members_by_county", year=2025)`.',
                )
            ready = await self._slice(caller, grant, "slice", wait=wait)
            tables = ready.tables
            said |= {"release": ready.slice.manifest["release"], "slice": ready.slice.id}
            admitted = await self._admit(sql, ready)
        except SliceBuilding:
            raise
        except WorkbenchError as refusal:
            statement = gate.redact(sql, tables, self.audit.mark)
            await self._record("refused", **said, statement=statement, **why(refusal))
            raise
        admission = self.audit.submit(
            "admitted",
            **said,
            statement=admitted.normalised,
            tables=admitted.tables,
            columns=admitted.columns,
        )
        lease: Lease | None = None
        try:
            lease = await self.pool.lease(
                ready.mount,
                caller.user,
                grant.name,
                concurrent=grant.limits.concurrent_queries,
                seconds=grant.limits.seconds_per_query,
            )
            stream = lease.query(admitted.sql)
            first = await anext(stream)
            await asyncio.wrap_future(admission)
        except BaseException as error:
            if lease is not None:
                lease.close()
            self._end(said, started, error=error)
            raise
        self._remember(query, {"user": caller.user, "state": "running", "rows": None, "bytes": 0})
        chunks = self._chunks(said, started, lease, first, stream)
        return Answer(query, grant, ready.slice, chunks)

    async def _chunks(
        self,
        said: Mapping[str, Any],
        started: float,
        lease: Lease,
        first: bytes,
        stream: AsyncIterator[bytes],
    ) -> AsyncIterator[bytes]:
        sent = 0
        problem: BaseException | None = None
        try:
            sent = len(first)
            yield first
            async for chunk in stream:
                sent += len(chunk)
                yield chunk
        except BaseException as error:
            problem = error
            raise
        finally:
            lease.close()
            self._end(said, started, error=problem, rows=lease.summary.get("rows"), sent=sent)

    def _end(
        self,
        said: Mapping[str, Any],
        started: float,
        *,
        error: BaseException | None = None,
        rows: int | None = None,
        sent: int = 0,
    ) -> None:
        """Records how a query ended; it does not wait, because the caller may be gone."""
        ended, reason = outcome(error)
        self.audit.submit(
            "ended", **said, rows=rows, bytes=sent, ms=milliseconds(started), outcome=ended, **reason
        )
        self._remember(
            str(said["query_id"]),
            {"user": said["user"], "state": ended, "rows": rows, "bytes": sent, **reason},
        )

    async def tabulate(
        self, caller: Caller, spec: Mapping[str, Any], *, wait: bool = False
    ) -> dict[str, Any]:
        """One table of the catalogue with small cells hidden, from the grant's private base. Never SQL."""
        query, started = uuid.uuid4().hex, time.perf_counter()
        said: dict[str, Any] = {**who(caller), "query_id": query}
        try:
            grant = self.permit(caller, tabulate=True)
            check_spec(spec)
            ready = await self._slice(caller, grant, "tabulation", wait=wait)
        except SliceBuilding:
            raise
        except WorkbenchError as refusal:
            await self._record("refused", **said, statement="tabulate", **why(refusal))
            raise
        said |= {"release": ready.slice.manifest["release"], "slice": ready.slice.id}
        statement = "tabulate " + " ".join(f"{name}={value}" for name, value in sorted(spec.items()))
        await self._record("admitted", **said, statement=statement, tables=[str(spec["table"])])
        lease: Lease | None = None
        try:
            lease = await self.pool.lease(
                ready.mount,
                caller.user,
                grant.name,
                concurrent=grant.limits.concurrent_queries,
                seconds=grant.limits.seconds_per_query,
            )
            answer = await lease.tabulate(spec)
        except BaseException as error:
            self._end(said, started, error=error)
            raise
        finally:
            if lease is not None:
                lease.close()
        self._end(said, started, rows=len(answer["rows"]))
        return {**answer, "grant": grant.name, "query": query}

    async def whoami(self, caller: Caller) -> dict[str, Any]:
        """The caller, the grant and what they permit, in plain words and values."""
        grant = self.permit(caller)
        about: dict[str, Any] = {
            "user": caller.user,
            "grant": grant.name,
            "title": grant.title,
            "level": str(grant.level),
            "purpose": caller.purpose,
            "purposes": [str(purpose) for purpose in grant.purposes],
            "channel": caller.channel,
            "channels": [str(channel) for channel in grant.channels],
            "organisation": self._organisation(grant),
            "organisations": list(grant.organisation.ids),
            "relation": str(grant.organisation.relation),
            "agreement": grant.agreement,
            "until": grant.valid_until.isoformat(),
            "part2": grant.sensitive.part2 == "include",
        }
        with contextlib.suppress(UnknownRelease):
            release = self.release(caller)
            about |= {
                "release": release.id,
                "as_of": release.as_of.isoformat(),
                "complete_through": release.complete_through.isoformat(),
                "synthetic": release.synthetic,
            }
            kind: SliceKind = "tabulation" if grant.level == Level.AGGREGATE else "slice"
            about["slice"] = slice_id(release, grant, kind)
            with contextlib.suppress(SliceBuilding, WorkbenchError):
                ready = await self._slice(caller, grant, kind, patience=0.0)
                about["fitness"] = ready.slice.fitness
                if kind == "slice":
                    self.pool.warm(ready.mount, caller.user)
        return about

    async def tables(self, caller: Caller, *, wait: bool = False) -> dict[str, Any]:
        """The slice's dictionary: tables with grain, meaning, rows and columns, and what the slice is fit for."""
        grant = self.permit(caller)
        ready = await self._slice(caller, grant, "slice", wait=wait)
        names = ("grain", "about", "rows")
        tables = {
            name: {key: entry.get(key) for key in names}
            | {
                "columns": [
                    {key: column[key] for key in ("name", "type", "means")} for column in entry["columns"]
                ]
            }
            for name, entry in ready.slice.manifest["tables"].items()
        }
        return {"slice": ready.slice.id, "fitness": ready.slice.fitness, "tables": tables}

    def query_state(self, user: str | None, query: str) -> dict[str, Any]:
        """How one of the user's own queries ended (None, the operator: anyone's): running, answered, failed, cancelled."""
        state = self._queries.get(query)
        if state is None or user not in (None, state["user"]):
            raise WorkbenchError("There is no such query of yours.", code="unknown-query", http_status=404)
        return {"query": query, **{name: value for name, value in state.items() if name != "user"}}

    def audit_events(self, groups: frozenset[str] | None, **filters: Any) -> list[dict[str, Any]]:
        """The audit log, for auditors (groups None: the operator). Raises NotAnAuditor."""
        if groups is not None and AUDITORS not in groups:
            raise NotAnAuditor("The audit log is for auditors.", hint=f"The group {AUDITORS} gives access.")
        return events(self.state.engine, **filters)

    async def bind(
        self,
        *,
        server: str,
        user: str,
        grant: str,
        purpose: str,
        kind: str,
        token_sha256: str | None = None,
        expires_in: float | None = None,
    ) -> tuple[Binding, str | None]:
        """Records a server's grant, purpose and token, if the user may have them. Raises GrantRefused, BindingRefused."""
        if kind not in KINDS:
            raise BindingRefused("There is no such kind of server.", hint=f"Kinds are: {', '.join(KINDS)}.")
        said = {"user": user, "grant": grant, "purpose": purpose, "channel": CHANNELS[kind], "server": server}
        try:
            groups = await self.directory.groups(user)
            self.grants().require(grant, groups, purpose=purpose, channel=CHANNELS[kind])
            release = None
            with contextlib.suppress(UnknownRelease):
                release = open_release(self.settings.lake).id
        except WorkbenchError as refusal:
            await self._record("binding-refused", **said, **why(refusal))
            raise
        await self._record("bound", **said, release=release)
        return await asyncio.to_thread(
            lambda: self.bindings.add(
                kind=kind, server=server, user=user, grant=grant, purpose=purpose, release=release,
                token_sha256=token_sha256, expires_in=expires_in,
            )
        )  # fmt: skip

    async def unbind(self, binding: Binding, reason: str) -> None:
        """Forgets a binding."""
        said = {
            "user": binding.user,
            "grant": binding.grant,
            "purpose": binding.purpose,
            "server": binding.server,
        }
        await self._record("unbound", **said, reason=reason)
        await asyncio.to_thread(self.bindings.remove, binding.id)

    async def told(self, body: Mapping[str, Any]) -> None:
        """Writes down what the report service tells, and returns when it is durable. Raises UntellableEvent."""
        event, said = report_event(body)
        await self._record(event, **said)

    async def start_build(self, caller: Caller, *, wait: bool = False) -> Slice:
        """The slice (of an aggregate grant: its tabulation base), built now if it is not there. Raises SliceBuilding."""
        grant = self.permit(caller)
        kind: SliceKind = "tabulation" if grant.level == Level.AGGREGATE else "slice"
        return (await self._slice(caller, grant, kind, wait=wait)).slice

    async def _admit(self, sql: str, ready: Ready) -> gate.Admitted:
        """The gate's verdict. It rests on the statement and the slice alone, so that one said before still holds."""
        tables, key = ready.tables, (ready.slice.id, sql)
        if len(sql) >= LONG_STATEMENT:
            return await asyncio.to_thread(gate.admit, sql, tables, mark=self.audit.mark)
        admitted = self._admitted.get(key)
        if admitted is None:
            admitted = self._admitted[key] = gate.admit(sql, tables, mark=self.audit.mark)
            if len(self._admitted) > REMEMBERED_STATEMENTS:
                self._admitted.popitem(last=False)
        return admitted

    async def _slice(
        self,
        caller: Caller,
        grant: Grant,
        kind: SliceKind,
        *,
        wait: bool = False,
        patience: float | None = None,
    ) -> Ready:
        return await self._shelf.take(self.release(caller), grant, kind, wait=wait, patience=patience)

    def _organisation(self, grant: Grant) -> str:
        registry = self.grants().registry
        names = [registry.name(organisation) for organisation in grant.organisation.ids]
        return ", ".join(names) or "State of California"

    async def _record(self, event: str, **said: Any) -> None:
        future: Future[None] = self.audit.submit(event, **said)
        await asyncio.wrap_future(future)

    def _remember(self, query: str, state: dict[str, Any]) -> None:
        self._queries[query] = state
        while len(self._queries) > REMEMBERED_QUERIES:
            self._queries.popitem(last=False)
