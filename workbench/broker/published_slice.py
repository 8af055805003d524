"""Where slices lie, what they are called, and how one appears: whole or not at all.

A slice is built in a temporary folder and renamed into place, so that a kill or a full disk leaves the lake as it was.
Its id is the hash of what it was made from, so that it is built once.

    <lake>/slices/<id>/manifest.json, tables/<table>/part-000.parquet …    all that a worker gets
    <lake>/slices/members/<id>.parquet    whose rows are in it; never mounted, and kept when the slice is gone
    <lake>/slices/usage/<id>.json         what its build cost; its time stamp says when it was last used
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
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import duckdb
import pyarrow as pa

from workbench.broker.grants import Grant
from workbench.deid.levels import Level
from workbench.errors import WorkbenchError
from workbench.lake.release import Release
from workbench.schema import dictionary_digest

SLICES = "slices"
SliceKind = Literal["slice", "tabulation", "record", "feed"]
BUILD_MEMORY = "4GB"
"""What DuckDB may hold in memory at a build; above it, it spills into the build's own folder."""
KEEP_THE_ORDER_OF_ROWS = "join_order,build_side_probe_side"
"""Without these optimizers a join streams its left side, so rows leave in the order in which they came: what is sorted
already need not be sorted again. The right side of a join is held in memory, so builds write the small one there."""
_ID = re.compile(r"[0-9a-f]{24}")
_UNFINISHED = re.compile(r"\.(?:building|evicted)-(\d+)-[0-9a-f]+")

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


def slice_id(release: Release, grant: Grant, kind: SliceKind, epoch: str = "") -> str:
    """The hash of what a slice is made from.

    `epoch` stands for the consents that it depends on (`ConsentView.epoch`), empty where it depends on none. Grants of
    equal policy share an identified slice; a slice with tokens belongs to its grant and namespace alone.
    """
    return _hash({**_lineage(release, grant, kind), "consent_epoch": epoch})


def lineage(release: Release, grant: Grant, kind: SliceKind) -> str:
    """The hash of what a slice is made from but for consents: slices of one lineage differ in theirs alone."""
    return _hash(_lineage(release, grant, kind))


def _lineage(release: Release, grant: Grant, kind: SliceKind) -> dict[str, Any]:
    own = grant.level != Level.IDENTIFIED
    return {
        "kind": kind,
        "release": release.id,
        "policy": grant.policy_digest,
        "code": code_version(kind),
        "dictionary": dictionary_digest(),
        "namespace": grant.namespace if own else None,
        "grant": grant.name if own else None,
    }


def _hash(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


def origin(release: Release, grant: Grant) -> dict[str, Any]:
    """What every slice says of its origin."""
    return {
        "release": release.id,
        "grant": grant.name,
        "level": grant.level,
        "policy": grant.policy_digest,
        "code": code_version(),
        "dictionary": dictionary_digest(),
        "as_of": release.as_of.isoformat(),
        "synthetic": release.synthetic,
    }


CODE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "slice": (
            "deid/levels.py",
            "deid/zip3.py",
            "broker/buckets.py",
            "broker/cut.py",
            "broker/cutter.py",
            "broker/visible.py",
            "broker/tokens.py",
            "broker/slice_rows.py",
            "broker/slice_parts.py",
            "broker/slices.py",
            "broker/reidentification.py",
            "broker/tabulation_base.py",
            "lake/derive.py",
            "lib/codes.py",
            "lib/encounters.py",
            "lib/enrolment.py",
            "lib/marks.py",
            "lib/risk.py",
            "lib/windows.py",
            "lib/measures/*.py",
        ),
        "record": ("lib/lmr.py", "broker/channels/record*.py", "broker/channels/*.csv"),
        "feed": ("broker/channels/feed*.py", "broker/channels/*.csv"),
    }
)
"""The modules that decide what a slice holds, as patterns below the package; those of a record come on top."""


@functools.cache
def code_version(kind: SliceKind = "slice") -> str:
    """SHA-256 of the modules that decide what a slice of that kind holds."""
    package = Path(__file__).parent.parent
    patterns = [*CODE["slice"], *(CODE[kind] if kind in ("record", "feed") else ())]
    modules = sorted({path for pattern in patterns for path in package.glob(pattern)})
    return hashlib.sha256(b"".join(module.read_bytes() for module in modules)).hexdigest()


def members_file(lake: Path, id: str) -> Path:
    """Whose rows are in a slice: column `member_id` (the release's), sorted. It outlives the slice."""
    return lake / SLICES / "members" / f"{id}.parquet"


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
Build = Callable[[duckdb.DuckDBPyConnection, Path], dict[str, Any]]
"""Writes below `folder/tables`, and returns the manifest. The engine's table `permitted`, if made, lists the members.

The manifest has `slice` where this is made from one, and so has its members; and `linked_from`, which is not written
down, where parts were taken over from the slice before."""


def publish(lake: Path, id: str, build: Build) -> Slice:
    """Builds a slice in a temporary folder and renames it into place; returns the one that is there, if any.

    Raises DiskFull, BuildFailed and what `build` raises; the lake is then as it was.
    """
    with _locks[id]:
        with contextlib.suppress(UnknownSlice):
            return open_slice(lake, id)
        slices, started = lake / SLICES, time.perf_counter()
        work = slices / f".building-{os.getpid()}-{id}"
        try:
            for folder in (slices, slices / "members", slices / "usage"):
                folder.mkdir(parents=True, exist_ok=True)
            _sweep(slices)
            manifest = _make(work, id, build)
            if "slice" in manifest and (source := members_file(lake, manifest["slice"])).is_file():
                take_over(source, work / "members.parquet")
            _name(work, slices, id)
            _note_cost(lake, id, manifest.get("linked_from"), time.perf_counter() - started)
        except (OSError, duckdb.Error, pa.ArrowException) as error:
            raise _as_refusal(error) from None
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return open_slice(lake, id)


def publish_apart(folder: Path, id: str, build: Build) -> Slice:
    """A slice at `folder`/<id>, which is of no lake: not listed, not shared, its maker's to remove.

    Raises DiskFull, BuildFailed and what `build` raises; the folder is then as it was.
    """
    work = folder / f".building-{os.getpid()}-{id}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        manifest = _make(work, id, build)
        (work / "slice").rename(folder / id)
        _sync(folder)
    except (OSError, duckdb.Error, pa.ArrowException) as error:
        raise _as_refusal(error) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Slice(id, folder / id, {"id": id, **manifest})


def _make(work: Path, id: str, build: Build) -> dict[str, Any]:
    """Builds below `work`: the slice, and its list of members beside it."""
    folder = work / "slice"
    with _engine(work) as con:
        manifest = build(con, folder)
        listed = "SELECT 1 FROM duckdb_tables() WHERE table_name = 'permitted'"
        if con.execute(listed).fetchall():
            target = str(work / "members.parquet").replace("'", "''")
            columns = "member_id" + (", consented" if manifest.get("with_consent") else "")
            con.execute(
                f"COPY (SELECT {columns} FROM permitted ORDER BY member_id) TO '{target}' "
                "(FORMAT parquet, COMPRESSION zstd)"
            )
    written = {"id": id, **{name: value for name, value in manifest.items() if name != "linked_from"}}
    (folder / "manifest.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    _settle(folder)
    return manifest


def _name(work: Path, slices: Path, id: str) -> None:
    """The one step that makes a slice exist; who is in it is known before."""
    if (work / "members.parquet").exists():
        (work / "members.parquet").chmod(0o600)
        _sync(work / "members.parquet")
        (work / "members.parquet").rename(slices / "members" / f"{id}.parquet")
        _sync(slices / "members")
    (work / "slice").rename(slices / id)
    _sync(slices)


def take_over(source: Path, target: Path) -> None:
    """A file that never changes under a second name, as the same file where the file system can."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _note_cost(lake: Path, id: str, linked_from: str | None, seconds: float) -> None:
    """Beside the slice, because a manifest of equal inputs has equal bytes. Losing it loses an estimate only."""
    whole = max(seconds, cost(lake, linked_from).rebuild_seconds) if linked_from else seconds
    text = json.dumps({"build_seconds": round(seconds, 3), "rebuild_seconds": round(whole, 3)})
    with contextlib.suppress(OSError):
        (lake / SLICES / "usage" / f"{id}.json").write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Cost:
    """What a slice's build took, what building it anew from the release would, and when it was last used (seconds)."""

    build_seconds: float = 0.0
    rebuild_seconds: float = 0.0
    last_used: float = 0.0


def cost(lake: Path, id: str) -> Cost:
    """The cost and the last use of a slice; zeros where nothing is known."""
    note = lake / SLICES / "usage" / f"{id}.json"
    try:
        said = json.loads(note.read_text(encoding="utf-8"))
        return Cost(float(said["build_seconds"]), float(said["rebuild_seconds"]), note.stat().st_mtime)
    except (OSError, ValueError, KeyError, TypeError):
        return Cost()


def used(lake: Path, id: str) -> None:
    """Notes that a slice is used now."""
    with contextlib.suppress(OSError):
        os.utime(lake / SLICES / "usage" / f"{id}.json")


def remove(lake: Path, id: str) -> None:
    """Takes a slice out of the lake, at once or not at all. The list of its members stays, for the audit."""
    slices = lake / SLICES
    gone = slices / f".evicted-{os.getpid()}-{id}"
    try:
        (slices / id).rename(gone)
        _sync(slices)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _as_refusal(error) from None
    shutil.rmtree(gone, ignore_errors=True)
    (slices / "usage" / f"{id}.json").unlink(missing_ok=True)


@contextlib.contextmanager
def _engine(work: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB of its own that spills into the build's folder and loads no extension."""
    (work / "slice" / "tables").mkdir(parents=True)
    spill = work / "spill"
    config = {
        "memory_limit": BUILD_MEMORY,
        "temp_directory": str(spill),
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
    }
    with duckdb.connect(config=config) as con:
        con.execute(f"SET disabled_optimizers = '{KEEP_THE_ORDER_OF_ROWS}'")
        yield con


def _settle(folder: Path) -> None:
    """Readable by a worker of another uid, whatever the umask, and on the disk before the folder gets its name."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(slices: Path) -> None:
    """Removes what builds and evictions of dead processes left behind."""
    for path in slices.glob(".*-*-*"):
        match = _UNFINISHED.fullmatch(path.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            shutil.rmtree(path, ignore_errors=True)


_FULL = ("No space left on device", "File too large", "Disk quota exceeded", "failed to offload")


def _as_refusal(error: Exception) -> WorkbenchError:
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
