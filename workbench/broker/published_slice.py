"""Where slices lie, what they are called, and how one appears: whole or not at all.

A slice is built in a temporary folder and renamed into place, so that a kill or a full disk leaves the lake as it was.
Its id is the hash of what it was made from, so that it is built once.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import duckdb

from workbench.broker.grants import Grant
from workbench.deid.levels import Level
from workbench.errors import WorkbenchError
from workbench.lake.release import Release
from workbench.schema import dictionary_digest

SLICES = "slices"
CONSENT_EPOCH = 0
"""Raised by every change of consent; there is no consent-dependent table yet."""
BUILD_MEMORY = "4GB"
"""What DuckDB may hold in memory at a build; above it, it spills into the build's own folder."""
KEEP_THE_ORDER_OF_ROWS = "join_order,build_side_probe_side"
"""Without these optimizers a join streams its left side, so rows leave in the order in which they came: what is sorted
already need not be sorted again. The right side of a join is held in memory, so builds write the small one there."""
_ID = re.compile(r"[0-9a-f]{24}")
_BUILDING = re.compile(r"\.building-(\d+)-[0-9a-f]+")

Progress = Callable[[str, int, int], None]
"""Called as (what is being done, steps done, steps in all)."""


class UnknownSlice(WorkbenchError):
    """The lake has no slice of this id."""

    code = "unknown-slice"
    http_status = 404


class DiskFull(WorkbenchError):
    """The build ran out of space; nothing was published."""

    code = "disk-full"
    http_status = 507


class BuildFailed(WorkbenchError):
    """The build failed; nothing was published."""

    code = "slice-build-failed"
    http_status = 500


@dataclass(frozen=True)
class Slice:
    """One slice in a lake: its folder and its manifest. Nothing below `path` ever changes."""

    id: str
    path: Path
    manifest: dict[str, Any] = field(repr=False, compare=False)

    def parts(self, table: str) -> list[Path]:
        """The Parquet parts of a table. Raises `UnknownSlice` when the slice has no such table."""
        entry = self.manifest["tables"].get(table)
        if entry is None:
            raise UnknownSlice(
                "The slice has no such table.", hint=f"It has: {', '.join(self.manifest['tables'])}."
            )
        return [self.path / part for part in entry["parts"]]

    def tables(self) -> dict[str, list[tuple[str, str, str]]]:
        """The columns of each table as (name, DuckDB type, meaning)."""
        return {
            name: [(column["name"], column["type"], column["means"]) for column in entry["columns"]]
            for name, entry in self.manifest["tables"].items()
        }

    @property
    def fitness(self) -> dict[str, Any]:
        """What the cut did to answers: `dates`, `categories_removed`, `attribution`, `complete_through`."""
        fitness: dict[str, Any] = self.manifest["fitness"]
        return fitness

    @property
    def synthetic(self) -> bool:
        """Whether the people in it are invented: then every output says so."""
        return bool(self.manifest["synthetic"])


def silent(what: str, done: int, total: int) -> None:
    """Reports nothing."""


def slice_id(release: Release, grant: Grant, kind: Literal["slice", "tabulation"]) -> str:
    """The hash of what a slice is made from.

    Grants of equal policy share an identified slice; a slice with tokens belongs to its grant and namespace alone.
    """
    identity = {
        "kind": kind,
        "release": release.id,
        "policy": grant.policy_digest,
        "consent_epoch": CONSENT_EPOCH,
        "code": code_version(),
        "dictionary": dictionary_digest(),
        "namespace": grant.namespace if grant.level != Level.IDENTIFIED else None,
        "grant": grant.name if grant.level != Level.IDENTIFIED else None,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


@functools.cache
def code_version() -> str:
    """SHA-256 of the modules that decide what a slice holds."""
    package = Path(__file__).parent.parent
    modules = [
        "deid/levels.py",
        "deid/zip3.py",
        "broker/cut.py",
        "broker/tokens.py",
        "broker/slices.py",
        "broker/tabulation_base.py",
    ]
    return hashlib.sha256(b"".join((package / module).read_bytes() for module in modules)).hexdigest()


def open_slice(lake: Path, slice_id: str) -> Slice:
    """The slice of this id. Raises `UnknownSlice`."""
    path = lake / SLICES / slice_id
    if not _ID.fullmatch(slice_id) or not (path / "manifest.json").is_file():
        raise UnknownSlice(
            "The lake has no slice of this id.", hint="`workbench slice list` shows those that it has."
        )
    return Slice(slice_id, path, json.loads((path / "manifest.json").read_text(encoding="utf-8")))


def list_slices(lake: Path) -> list[Slice]:
    """All slices and tabulation bases of the lake, the oldest first."""
    folder = lake / SLICES
    found = [p for p in (folder.iterdir() if folder.is_dir() else ()) if _ID.fullmatch(p.name)]
    whole = [p for p in found if (p / "manifest.json").is_file()]
    return [
        open_slice(lake, p.name)
        for p in sorted(whole, key=lambda p: ((p / "manifest.json").stat().st_mtime_ns, p.name))
    ]


_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


def publish(lake: Path, id: str, build: Callable[[duckdb.DuckDBPyConnection, Path], dict[str, Any]]) -> Slice:
    """Builds a slice in a temporary folder and renames it into place; returns the one that is there, if any.

    `build` writes below `folder/tables` and returns the manifest.
    """
    with _locks[id]:
        with contextlib.suppress(UnknownSlice):
            return open_slice(lake, id)
        slices = lake / SLICES
        folder = slices / f".building-{os.getpid()}-{id}"
        try:
            slices.mkdir(parents=True, exist_ok=True)
            _sweep(slices)
            with _engine(folder) as con:
                manifest = build(con, folder)
            (folder / "manifest.json").write_text(
                json.dumps({"id": id, **manifest}, indent=1) + "\n", encoding="utf-8"
            )
            _settle(folder)
            folder.rename(slices / id)
        except (OSError, duckdb.Error) as error:
            raise _as_refusal(error) from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return open_slice(lake, id)


@contextlib.contextmanager
def _engine(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB of its own that spills into the build's folder and loads no extension."""
    (folder / "tables").mkdir(parents=True)
    spill = folder / "spill"
    config = {
        "memory_limit": BUILD_MEMORY,
        "temp_directory": str(spill),
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
    }
    try:
        with duckdb.connect(config=config) as con:
            con.execute(f"SET disabled_optimizers = '{KEEP_THE_ORDER_OF_ROWS}'")
            yield con
    finally:
        shutil.rmtree(spill, ignore_errors=True)


def _settle(folder: Path) -> None:
    """Readable by a worker of another uid, whatever the umask, and on the disk before the folder gets its name."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sweep(slices: Path) -> None:
    """Removes what builds of dead processes left behind."""
    for path in slices.glob(".building-*"):
        match = _BUILDING.fullmatch(path.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            shutil.rmtree(path, ignore_errors=True)


_FULL = ("No space left on device", "File too large", "Disk quota exceeded", "failed to offload")


def _as_refusal(error: OSError | duckdb.Error) -> WorkbenchError:
    """The engine's messages hold paths and may hold values: none of their text goes on."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
    if full or any(sign in str(error) for sign in _FULL):
        return DiskFull(
            "The disk is full: the slice was not built, and nothing of it was left behind.",
            hint="Make room in the lake (`workbench slice list` shows what is there) and ask again.",
        )
    return BuildFailed(
        f"The slice could not be built ({type(error).__name__}).",
        hint="Check the release with `workbench release show`; nothing was published.",
    )
