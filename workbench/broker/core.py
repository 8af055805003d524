"""The broker: decides, cuts the slice, admits the statement, runs it in a worker, and records all of it.

Every way to data (notebook, app, report, command line, the channels) goes through `Broker.reading`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, Collection, Coroutine, Mapping
from concurrent.futures import Future
from typing import Any

from workbench.broker import gate
from workbench.broker.audit import Audit
from workbench.broker.auditing import Auditing
from workbench.broker.bindings import CHANNELS, KINDS, Binding, BindingRefused, Bindings
from workbench.broker.budget import budget
from workbench.broker.caller import Answer, Caller, notice_of
from workbench.broker.consent import Consents
from workbench.broker.directory import AUDITORS
from workbench.broker.grants import Channel, Decision, Grant, GrantBook, Level
from workbench.broker.hub import Directory
from workbench.broker.meter import Meter, without_end
from workbench.broker.pool import Pool, PoolLimits
from workbench.broker.reading import Reading, Statement
from workbench.broker.said import BROKER_ENDED, report_event, why
from workbench.broker.shelf import Ready, Shelf, SliceBuilding, SliceKind
from workbench.broker.slices import Slice
from workbench.broker.state import State
from workbench.broker.tabulate import check_spec
from workbench.broker.vault import Vault
from workbench.errors import WorkbenchError
from workbench.lake.release import RELEASES, Release, UnknownRelease, open_release
from workbench.sandbox import available, insecure
from workbench.schema import dictionary
from workbench.schema.dictionary import IdentifierClass
from workbench.settings import Settings

LONG_STATEMENT = 4_000
"""Characters above which a statement is parsed beside the event loop, not in it."""
REMEMBERED_QUERIES = 2_000
REMEMBERED_STATEMENTS = 500
MEMBER_KEYS = frozenset(
    (table.name, column.name)
    for table in dictionary().values()
    for column in table.columns.values()
    if column.identifier_class is IdentifierClass.MEMBER_KEY
)
"""The columns that name a member, or his token."""

__all__ = ["Answer", "Broker", "Caller", "NotAnAuditor", "SliceBuilding"]


class NotAnAuditor(WorkbenchError):
    """Only auditors read the audit log."""

    code = "not-an-auditor"
    http_status = 403


class Broker:
    """One broker on one state. Raises SandboxUnavailable or StateLocked where it cannot be."""

    def __init__(self, settings: Settings, directory: Directory, *, limits: PoolLimits | None = None):
        if not insecure():
            available()
        may_take = budget()
        self.settings = settings
        self.directory = directory
        self.state = State(settings.database_url, settings.state)
        self.audit = Audit(self.state)
        self.auditing = Auditing(self.audit, self.state.engine, settings.lake, settings.state)
        for said in without_end(self.state.engine):
            self.audit.submit("ended", **said, **BROKER_ENDED)
        self.vault = Vault(self.state)
        self.bindings = Bindings(self.state)
        self.pool = Pool(limits)
        self.meter = Meter(self.state.engine)
        self._book: tuple[object, GrantBook] | None = None
        self.consents = Consents(self.state)
        self.shelf = Shelf(
            settings.lake,
            self.vault,
            self.record,
            consents=self.consents,
            workers=self.pool,
            budget=may_take,
        )
        self._releases: dict[str, Release] = {}
        self._latest: tuple[int, Release] | None = None
        self._admitted: OrderedDict[tuple[str, str], gate.Admitted] = OrderedDict()
        self._queries: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._later: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Ends the workers, writes the last checkpoint, gives up the lock."""
        await self.pool.close()
        await asyncio.gather(*self._later, return_exceptions=True)
        await self.shelf.close()
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

    def permit(self, caller: Caller, *, channel: Channel | None = None) -> Grant:
        """The caller's grant, if it is open to this caller now on that channel (or her own). Raises GrantRefused."""
        book = self.grants()
        groups = caller.groups if caller.groups is not None else book.get(caller.grant).groups
        opened = None if caller.in_no_users_name else channel or caller.opens
        return book.require(caller.grant, groups, purpose=caller.purpose, channel=opened)

    def decisions(self, groups: frozenset[str]) -> tuple[list[Decision], int]:
        """One decision for each grant of these groups, closed ones too, and how many grants there are for others."""
        every = self.grants().for_user(groups)
        own = [decision for decision in every if not groups.isdisjoint(decision.grant.groups)]
        return own, len(every) - len(own)

    def release(self, caller: Caller) -> Release:
        """The release that the caller's answers come from: the one fixed at the server's start, else the latest."""
        if caller.release is None:
            return self._latest_release()
        if caller.release not in self._releases:
            self._releases[caller.release] = open_release(self.settings.lake, caller.release)
        return self._releases[caller.release]

    def _latest_release(self) -> Release:
        """The latest release; its manifest, and those of all others, are read again only when a release came or went."""
        folder = self.settings.lake / RELEASES
        moment = folder.stat().st_mtime_ns if folder.is_dir() else 0
        if self._latest is None or self._latest[0] != moment:
            self._latest = (moment, open_release(self.settings.lake))
        return self._latest[1]

    def reading(
        self,
        caller: Caller,
        *,
        statement: Statement,
        tables: Collection[str] = (),
        columns: Collection[str] = (),
        subject: str | None = None,
        channel: Channel | None = None,
    ) -> Reading:
        """One read of the caller's grant, as `async with`: permitted, counted and recorded. See `reading`.

        `subject` is the member who is asked for by id; `channel` the one that the grant must open, where it is not
        the caller's own.
        """
        return Reading(
            self,
            caller,
            statement=statement,
            tables=tables,
            columns=columns,
            subject=subject,
            channel=channel,
        )

    async def query(self, caller: Caller, sql: str, *, wait: bool = False) -> Answer:
        """Admits and starts one query. Raises GrantRefused, NoRows, SliceBuilding, GateRefusal, Busy, QueryFailed …

        With `wait` it waits for a slice that is being built. The answer's first bytes are there when this returns,
        and the `admitted` event is durable.
        """
        reading = self.reading(caller, statement=lambda known: gate.redact(sql, known, self.audit.mark))
        chunks = self._rows(reading, sql, wait)
        await anext(chunks)
        return Answer(reading.id, reading.grant, reading.slice, chunks)

    async def _rows(self, reading: Reading, sql: str, wait: bool) -> AsyncGenerator[bytes, None]:
        """Nothing as soon as the first bytes may leave, then the bytes. Closing it ends the query."""
        async with reading:
            ready = await reading.ready(wait=wait)
            admitted = await self._admit(sql, ready)
            reading.says(admitted.normalised, admitted.tables, admitted.columns)
            lease = await reading.lease(ready)
            pieces = lease.query(admitted.sql, members=_member_key(ready, admitted.columns))
            piece = await anext(pieces)
            reading.count(rows=lease.rows, bytes=len(piece))
            await reading.admitted()
            yield b""
            yield piece
            async for piece in pieces:
                reading.count(rows=lease.rows - reading.rows, bytes=len(piece))
                yield piece
            reading.count(members=lease.summary.get("members"), capped=bool(lease.summary.get("capped")))

    async def tabulate(
        self, caller: Caller, spec: Mapping[str, Any], *, wait: bool = False
    ) -> dict[str, Any]:
        """One table of the catalogue with small cells hidden, from the grant's private base. Never SQL."""
        statement = "tabulate " + " ".join(f"{name}={value}" for name, value in sorted(spec.items()))
        channel = Channel.TABULATE if caller.channel in ("notebook", "operator") else None
        async with self.reading(caller, statement="tabulate", channel=channel) as reading:
            check_spec(spec)
            reading.says(statement, [str(spec["table"])])
            lease = await reading.lease(await reading.ready("tabulation", wait=wait))
            answer = await lease.tabulate(spec)
            reading.count(rows=len(answer["rows"]), bytes=lease.summary["bytes"])
            await reading.admitted()
        return {**answer, "grant": reading.grant.name, "query": reading.id, **notice_of(reading.grant)}

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
            "part2": grant.sensitive.part2 != "exclude",
            "with_consent": list(grant.sensitive.with_consent),
            **notice_of(grant),
        }
        if insecure():
            about["insecure"] = True
        with contextlib.suppress(UnknownRelease):
            release = self.release(caller)
            about |= {
                "release": release.id,
                "as_of": release.as_of.isoformat(),
                "complete_through": release.complete_through.isoformat(),
                "synthetic": release.synthetic,
            }
            kind: SliceKind = "tabulation" if grant.level == Level.AGGREGATE else "slice"
            about["slice"] = self.shelf.id_of(release, grant, kind)
            with contextlib.suppress(SliceBuilding, WorkbenchError):
                ready = await self.shelf.take(release, grant, kind, patience=0.0)
                about["fitness"] = ready.slice.fitness
                if kind == "slice":
                    self.pool.warm(ready.mount, caller.user)
        return about

    async def tables(self, caller: Caller, *, wait: bool = False) -> dict[str, Any]:
        """The slice's dictionary: tables with grain, meaning, rows and columns, and what the slice is fit for."""
        grant = self.permit(caller)
        ready = await self.shelf.take(self.release(caller), grant, "slice", wait=wait)
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
        return {
            "slice": ready.slice.id,
            "fitness": ready.slice.fitness,
            "tables": tables,
            **notice_of(grant),
        }

    def query_state(self, user: str | None, query: str) -> dict[str, Any]:
        """How one of the user's own queries ended (None, the operator: anyone's): running, answered, failed, cancelled."""
        state = self._queries.get(query)
        if state is None or user not in (None, state["user"]):
            raise WorkbenchError("There is no such query of yours.", code="unknown-query", http_status=404)
        return {"query": query, **{name: value for name, value in state.items() if name != "user"}}

    async def require_auditor(self, user: str, groups: Collection[str], channel: str) -> None:
        """Raises NotAnAuditor where the caller is none, and writes that down."""
        if AUDITORS not in groups:
            refusal = NotAnAuditor(
                "The audit log is for auditors.", hint=f"The group {AUDITORS} gives access."
            )
            await self.record("audit-refused", user=user, channel=channel, **why(refusal))
            raise refusal

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
                release = self._latest_release().id
        except WorkbenchError as refusal:
            await self.record("binding-refused", **said, **why(refusal))
            raise
        await self.record("bound", **said, release=release)
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
        await self.record("unbound", **said, reason=reason)
        await asyncio.to_thread(self.bindings.remove, binding.id)

    async def told(self, body: Mapping[str, Any]) -> None:
        """Writes down what the report service tells, and returns when it is durable. Raises UntellableEvent."""
        event, said = report_event(body)
        await self.record(event, **said)

    async def start_build(self, caller: Caller, *, wait: bool = False) -> Slice:
        """The slice (of an aggregate grant: its tabulation base), built now if it is not there. Raises SliceBuilding."""
        grant = self.permit(caller)
        kind: SliceKind = "tabulation" if grant.level == Level.AGGREGATE else "slice"
        return (await self.shelf.take(self.release(caller), grant, kind, wait=wait)).slice

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

    def _organisation(self, grant: Grant) -> str:
        registry = self.grants().registry
        names = [registry.name(organisation) for organisation in grant.organisation.ids]
        return ", ".join(names) or "State of California"

    async def record(self, event: str, **said: Any) -> None:
        """Writes one event and returns when it is durable. Raises AuditUnavailable."""
        future: Future[None] = self.audit.submit(event, **said)
        await asyncio.wrap_future(future)

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Has something done that nobody waits for, but the broker's end."""
        task = asyncio.create_task(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    def remember(self, query: str, state: dict[str, Any]) -> None:
        """Keeps how a read stands, for `query_state`."""
        self._queries[query] = state
        while len(self._queries) > REMEMBERED_QUERIES:
            self._queries.popitem(last=False)


def _member_key(ready: Ready, columns: Collection[str]) -> tuple[str, str] | None:
    """Where a worker finds the slice's members, if a statement that reads these columns can name one."""
    if not any(f"{table}.{column}" in columns for table, column in MEMBER_KEYS):
        return None
    return next((t, c) for t in ready.tables for c in ready.tables[t] if (t, c) in MEMBER_KEYS)
