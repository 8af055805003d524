"""What the slices of a lake cost, and which go when they take more of the disk than they may.

Evicted is first what has been idle longest for what it costs to build again: idle seconds for each second of building.
A slice of which a worker is busy, one that is being built and one that was asked for a moment ago are never evicted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.broker.published_slice import Slice, cost, list_slices
from workbench.errors import WorkbenchError

VARIABLE = "WORKBENCH_SLICE_BUDGET"
LEAST_SECONDS = 0.1
"""A build counts as taking so long at least: below, idle time alone decides."""


class BadBudget(WorkbenchError):
    """The setting is no number of bytes."""

    code = "bad-budget"
    http_status = 503


@dataclass(frozen=True)
class Entry:
    """One slice in the cost table. `bytes` are those of its files; `own_bytes` what an eviction would give back."""

    slice: Slice
    rows: int
    bytes: int
    own_bytes: int
    last_used: float
    build_seconds: float
    rebuild_seconds: float

    def shown(self) -> dict[str, Any]:
        """As JSON, with the manifest."""
        names = ("rows", "bytes", "own_bytes", "last_used", "build_seconds", "rebuild_seconds")
        costs = {name: getattr(self, name) for name in names}
        return {"id": self.slice.id, "cost": costs, "manifest": self.slice.manifest}


def budget() -> int:
    """Bytes that slices may take together (WORKBENCH_SLICE_BUDGET); 0 for as many as there are. Raises `BadBudget`."""
    text = os.environ.get(VARIABLE, "0").strip() or "0"
    if not text.isascii() or not text.isdigit():
        raise BadBudget(f"{VARIABLE} is not a number of bytes.", hint="Such as 200000000000; 0 for no limit.")
    return int(text)


def cost_table(lake: Path) -> list[Entry]:
    """Every slice of the lake with what it costs, the oldest first. A file that two slices share counts for both."""
    return [_entry(lake, slice_) for slice_ in list_slices(lake)]


def to_evict(
    entries: Sequence[Entry], limit: int, keep: Collection[str], now: float | None = None
) -> list[str]:
    """The ids to evict, in order, until what is left takes at most `limit` bytes; none of `keep`."""
    moment = time.time() if now is None else now
    total = sum(entry.own_bytes for entry in entries) + _shared(entries)
    going = []
    for entry in sorted(entries, key=lambda e: -_idle_for_its_cost(e, moment)):
        if total <= limit:
            break
        if entry.slice.id not in keep:
            going.append(entry.slice.id)
            total -= entry.own_bytes
    return going


def _idle_for_its_cost(entry: Entry, now: float) -> float:
    return max(now - entry.last_used, 0.0) / max(entry.rebuild_seconds, LEAST_SECONDS)


def _entry(lake: Path, slice_: Slice) -> Entry:
    known = cost(lake, slice_.id)
    files = [path.stat() for path in slice_.path.rglob("*") if path.is_file()]
    entries = slice_.manifest["tables"].values()
    return Entry(
        slice=slice_,
        rows=sum(int(entry.get("rows") or 0) for entry in entries),
        bytes=sum(found.st_size for found in files),
        own_bytes=sum(found.st_size for found in files if found.st_nlink == 1),
        last_used=known.last_used or (slice_.path / "manifest.json").stat().st_mtime,
        build_seconds=known.build_seconds,
        rebuild_seconds=known.rebuild_seconds,
    )


def _shared(entries: Sequence[Entry]) -> int:
    """Bytes of the files that are in more than one slice, each once."""
    found = {
        (stat.st_dev, stat.st_ino): stat.st_size
        for entry in entries
        for path in entry.slice.path.rglob("*")
        if path.is_file() and (stat := path.stat()).st_nlink > 1
    }
    return sum(found.values())
