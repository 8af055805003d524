"""The slices that the broker has at hand: from the lake, or from a build in the background that reports progress.

A slice that depends on consents is asked for by the consents of this moment: when one changes, its id does, the old
one is cut from everybody who reads it and is removed as soon as the new one is there.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from workbench.broker.budget import cost_table, to_evict
from workbench.broker.channels.feed_build import ensure_feed
from workbench.broker.channels.record_build import ensure_record
from workbench.broker.consent import NONE_NEEDED, Consents, ConsentView
from workbench.broker.grants import Grant
from workbench.broker.process import Mount
from workbench.broker.published_slice import SliceKind, lineage, list_slices, remove, used
from workbench.broker.slices import Slice, UnknownSlice, ensure, ensure_tabulation, open_slice, slice_id
from workbench.broker.vault import Vault
from workbench.errors import WorkbenchError
from workbench.lake.release import Release

__all__ = ["Ready", "Shelf", "SliceBuilding", "SliceInUse", "SliceKind"]

QUICK_BUILD_SECONDS = 1.0
"""A request waits so long for its slice before it is told to come again."""
STILL_WANTED_SECONDS = 60.0
"""Who was given a slice may take so long to lease a worker on it: it is not evicted before. Also how often a use is
noted in the lake."""
BUILDS_AT_ONCE = 2
"""Each build may take `BUILD_MEMORY` and every core; the others wait."""
FORGOTTEN_SECONDS = 86_400.0
"""What nobody asked for in so long is not built again when a consent changes."""

MAKERS: Mapping[SliceKind, Callable[..., Slice]] = {
    "slice": ensure,
    "tabulation": ensure_tabulation,
    "record": ensure_record,
    "feed": ensure_feed,
}
MODES = {"slice": "query", "tabulation": "tabulate", "record": "record", "feed": "feed"}
"""What a worker on it does; nothing runs on a feed, its files are what is given."""
Record = Callable[..., Awaitable[None]]


class Workers(Protocol):
    """Who reads slices: the pool."""

    def cut(self, slice_id: str) -> None:
        """Ends every worker of a slice, busy ones too."""

    def slices(self) -> Collection[str]:
        """The slices that a worker is busy on or about to be."""


class SliceBuilding(WorkbenchError):
    """The slice is being built; ask again. `done` is between 0 and 1."""

    code = "slice-building"
    http_status = 202

    def __init__(self, step: str, done: float):
        super().__init__(
            "The slice of this grant is being built; this happens once for each release.",
            hint="Ask again in a second.",
        )
        self.step = step
        self.done = done


class SliceInUse(WorkbenchError):
    """A slice that somebody reads or that is being built cannot be evicted."""

    code = "slice-in-use"
    http_status = 409


@dataclass
class _Build:
    task: asyncio.Task[Slice]
    step: str = "waiting"
    done: float = 0.0


@dataclass(frozen=True)
class _Given:
    """What was last given of a lineage that depends on consents."""

    release: Release
    grant: Grant
    kind: SliceKind
    id: str
    asked: float


@dataclass(frozen=True)
class Ready:
    """A slice with what the gate and a worker need of it: its tables' columns, and its mount."""

    slice: Slice
    tables: Mapping[str, tuple[str, ...]]
    mount: Mount


class Shelf:
    """Slices by release, grant and kind. A slice is built once, however many ask for it."""

    def __init__(
        self,
        lake: Path,
        vault: Vault,
        record: Record,
        *,
        consents: Consents | None = None,
        workers: Workers | None = None,
        budget: int = 0,
    ):
        self._lake = lake
        self._vault = vault
        self._record = record
        self._consents = consents
        self._workers = workers
        self._budget = budget
        self._builds: dict[str, _Build] = {}
        self._ready: dict[str, Ready] = {}
        self._given: dict[str, _Given] = {}
        self._taken: dict[str, float] = {}
        self._noted: dict[str, float] = {}
        self._building = asyncio.Semaphore(BUILDS_AT_ONCE)
        self._lines: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def take(
        self,
        release: Release,
        grant: Grant,
        kind: SliceKind,
        *,
        wait: bool = False,
        patience: float | None = None,
    ) -> Ready:
        """The slice; one that is not there is built. Raises SliceBuilding, DiskFull, BuildFailed, AuditUnavailable."""
        now = time.monotonic()
        id = self._current(release, grant, kind, now)
        self._taken[id] = now
        ready = self._ready.get(id)
        if ready is None or not self._is_there(id):
            try:
                found = open_slice(self._lake, id)
            except UnknownSlice:
                found = await self._built(release, grant, kind, id, wait, patience)
                if id != self._current(release, grant, kind, now):  # a consent changed during the build
                    return await self.take(release, grant, kind, wait=wait, patience=patience)
            self._ready[id] = ready = _ready(found, kind)
        self._note_use(id)
        return ready

    def id_of(self, release: Release, grant: Grant, kind: SliceKind) -> str:
        """The id that `take` would give now."""
        return slice_id(release, grant, kind, self._view(grant).epoch)

    def is_current(self, ready: Ready) -> bool:
        """Whether a slice that was given is still given; False as soon as a consent that it rests on has changed."""
        return ready.slice.id in self._ready

    def consents_changed(self) -> None:
        """After decisions: cuts every slice that rested on what was, and starts to build what takes its place."""
        wanted_since = time.monotonic() - FORGOTTEN_SECONDS
        for line, given in list(self._given.items()):
            id = self._current(given.release, given.grant, given.kind, given.asked)
            if given.asked < wanted_since:
                del self._given[line]
            elif id != given.id and id not in self._builds and not self._is_there(id):
                self._builds[id] = self._start(given.release, given.grant, given.kind, id)

    async def evict(self, id: str) -> None:
        """Takes a slice out of the lake; it is built again when somebody asks for it. Raises UnknownSlice, SliceInUse."""
        open_slice(self._lake, id)
        if id in self._kept():
            raise SliceInUse(
                "Somebody reads this slice, or it is being built.", hint="Try again in a minute."
            )
        await self._evict([id], "asked for")

    async def close(self) -> None:
        """Waits for the builds that run."""
        builds = [build.task for build in self._builds.values()]
        if builds:
            await asyncio.wait(builds)

    def _view(self, grant: Grant) -> ConsentView:
        if self._consents is None or not grant.sensitive.with_consent:
            return NONE_NEEDED
        return self._consents.view(str(grant.recipient_id), grant.sensitive.with_consent)

    def _current(self, release: Release, grant: Grant, kind: SliceKind, asked: float) -> str:
        """The id by the consents of this moment; what was given by other ones is cut."""
        id = self.id_of(release, grant, kind)
        if grant.sensitive.with_consent:
            line = lineage(release, grant, kind)
            before = self._given.get(line)
            self._given[line] = _Given(release, grant, kind, id, asked)
            if before is not None and before.id != id:
                self._ready.pop(before.id, None)
                if self._workers is not None:
                    self._workers.cut(before.id)
        return id

    async def _built(
        self, release: Release, grant: Grant, kind: SliceKind, id: str, wait: bool, patience: float | None
    ) -> Slice:
        build = self._builds.get(id)
        if build is None:
            build = self._builds[id] = self._start(release, grant, kind, id)
        patience = QUICK_BUILD_SECONDS if patience is None else patience
        await asyncio.wait([build.task], timeout=None if wait else patience)
        if not build.task.done():
            raise SliceBuilding(build.step, build.done)
        if self._builds.get(id) is build:
            del self._builds[id]
        return build.task.result()

    def _start(self, release: Release, grant: Grant, kind: SliceKind, id: str) -> _Build:
        make, view = MAKERS[kind], self._view(grant)

        async def work() -> Slice:
            said = {"grant": grant.name, "release": release.id, "slice": id, "user": "broker"}
            async with self._lines[lineage(release, grant, "slice")]:
                try:
                    async with self._building:
                        await self._record("slice-building", **said, detail=kind)
                        found = await asyncio.to_thread(
                            make, release, grant, self._vault, self._lake, report, consents=view
                        )
                except WorkbenchError as error:
                    await self._record("slice-failed", **said, code=error.code, reason=error.reason)
                    raise
                rows = sum(int(entry.get("rows") or 0) for entry in found.manifest["tables"].values())
                await self._record("slice-built", **said, rows=rows)
                if grant.sensitive.with_consent:
                    await self._evict(await asyncio.to_thread(self._superseded, found), "consent changed")
            await self._keep_to_budget(id)
            return found

        def report(step: str, done: int, total: int) -> None:
            build.step, build.done = step, round(done / total, 3) if total else 0.0

        build = _Build(asyncio.create_task(work()))
        build.task.add_done_callback(lambda task: self._done(id, task))
        return build

    def _done(self, id: str, task: asyncio.Task[Slice]) -> None:
        """Forgets a build that went well; of one that did not, who asks next is told why."""
        if not task.cancelled() and task.exception() is None:
            self._builds.pop(id, None)

    def _superseded(self, found: Slice) -> list[str]:
        """The slices of other consents of the same lineage, and what was made from them, that are not given any more."""
        given = list(self._given.values())
        wanted = {each.id for each in given} | {self.id_of(g.release, g.grant, "slice") for g in given}
        manifests = {s.id: s.manifest for s in list_slices(self._lake)}
        source = found.manifest.get("slice", found.id)
        line = manifests.get(source, {}).get("lineage")
        old = {id for id, m in manifests.items() if line and m.get("lineage") == line} - {source}
        made = {id for id, m in manifests.items() if m.get("slice") in old}
        return sorted((old | made) - wanted - set(self._builds))

    async def _keep_to_budget(self, built: str) -> None:
        if self._budget:
            entries = await asyncio.to_thread(cost_table, self._lake)
            for id in to_evict(entries, self._budget, {*self._kept(), built}):
                if id not in self._kept():  # nobody has asked for it since the table was made
                    await self._evict([id], "over the disk budget")

    def _kept(self) -> set[str]:
        """The slices that nobody may evict now."""
        since = time.monotonic() - STILL_WANTED_SECONDS
        lately = {id for id, moment in self._taken.items() if moment > since}
        busy = set(self._workers.slices()) if self._workers is not None else set()
        return {*lately, *busy, *(id for id, build in self._builds.items() if not build.task.done())}

    async def _evict(self, ids: Collection[str], why: str) -> None:
        for id in ids:
            await self._record("slice-evicted", slice=id, user="broker", detail=why)
            for known in (self._ready, self._taken, self._noted):
                known.pop(id, None)
            if self._workers is not None:
                self._workers.cut(id)
            await asyncio.to_thread(remove, self._lake, id)

    def _note_use(self, id: str) -> None:
        now = time.monotonic()
        if now - self._noted.get(id, -STILL_WANTED_SECONDS) >= STILL_WANTED_SECONDS:
            self._noted[id] = now
            used(self._lake, id)

    def _is_there(self, id: str) -> bool:
        return (self._lake / "slices" / id / "manifest.json").exists()


def _ready(found: Slice, kind: SliceKind) -> Ready:
    columns = found.tables() if kind == "slice" else {}
    tables = {name: tuple(column[0] for column in of_table) for name, of_table in columns.items()}
    parts = {name: tuple(entry["parts"]) for name, entry in found.manifest["tables"].items()}
    return Ready(found, tables, Mount(found.id, found.path, MODES[kind], parts))
