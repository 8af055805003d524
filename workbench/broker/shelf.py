"""The slices that the broker has at hand: from the lake, or from a build in the background that reports progress."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workbench.broker.channels.feed_build import ensure_feed
from workbench.broker.channels.record_build import ensure_record
from workbench.broker.grants import Grant
from workbench.broker.process import Mount
from workbench.broker.slices import Slice, UnknownSlice, ensure, ensure_tabulation, open_slice, slice_id
from workbench.broker.vault import Vault
from workbench.errors import WorkbenchError
from workbench.lake.release import Release

QUICK_BUILD_SECONDS = 1.0
"""A request waits so long for its slice before it is told to come again."""

SliceKind = Literal["slice", "tabulation", "record", "feed"]
MAKERS = {"slice": ensure, "tabulation": ensure_tabulation, "record": ensure_record, "feed": ensure_feed}
MODES = {"slice": "query", "tabulation": "tabulate", "record": "record", "feed": "feed"}
"""What a worker on it does; nothing runs on a feed, its files are what is given."""
Record = Callable[..., Awaitable[None]]


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


@dataclass
class _Build:
    task: asyncio.Task[Slice]
    step: str = "waiting"
    done: float = 0.0


@dataclass(frozen=True)
class Ready:
    """A slice with what the gate and a worker need of it: its tables' columns, and its mount."""

    slice: Slice
    tables: Mapping[str, tuple[str, ...]]
    mount: Mount


class Shelf:
    """Slices by release, grant and kind. A slice is built once, however many ask for it."""

    def __init__(self, lake: Path, vault: Vault, record: Record):
        self._lake = lake
        self._vault = vault
        self._record = record
        self._builds: dict[str, _Build] = {}
        self._ready: dict[str, Ready] = {}

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
        id = slice_id(release, grant, kind)
        ready = self._ready.get(id)
        if ready is not None and (ready.slice.path / "manifest.json").exists():
            return ready
        try:
            found = open_slice(self._lake, id)
        except UnknownSlice:
            found = await self._built(release, grant, kind, id, wait, patience)
        self._ready[id] = ready = _ready(found, kind)
        return ready

    async def close(self) -> None:
        """Waits for the builds that run."""
        builds = [build.task for build in self._builds.values()]
        if builds:
            await asyncio.wait(builds)

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
        self._builds.pop(id, None)
        return build.task.result()

    def _start(self, release: Release, grant: Grant, kind: SliceKind, id: str) -> _Build:
        make = MAKERS[kind]

        async def work() -> Slice:
            said = {"grant": grant.name, "release": release.id, "slice": id, "user": "broker"}
            try:
                await self._record("slice-building", **said, detail=kind)
                found = await asyncio.to_thread(make, release, grant, self._vault, self._lake, report)
            except WorkbenchError as error:
                await self._record("slice-failed", **said, code=error.code, reason=error.reason)
                raise
            rows = sum(int(entry.get("rows") or 0) for entry in found.manifest["tables"].values())
            await self._record("slice-built", **said, rows=rows)
            return found

        def report(step: str, done: int, total: int) -> None:
            build.step, build.done = step, round(done / total, 3) if total else 0.0

        build = _Build(asyncio.create_task(work()))
        build.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return build


def _ready(found: Slice, kind: SliceKind) -> Ready:
    columns = found.tables() if kind == "slice" else {}
    tables = {name: tuple(column[0] for column in of_table) for name, of_table in columns.items()}
    parts = {name: tuple(entry["parts"]) for name, entry in found.manifest["tables"].items()}
    return Ready(found, tables, Mount(found.id, found.path, MODES[kind], parts))
