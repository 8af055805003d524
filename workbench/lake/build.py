"""Builds a release: read, check, settle versions, derive, write, and only then name it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import duckdb

from workbench.errors import WorkbenchError
from workbench.lake import checks, derive, provenance
from workbench.lake.canonical import make_canonical
from workbench.lake.layouts import Layout, Progress, SourceFile, SourceRefused, layout
from workbench.lake.layouts.stage import Stage
from workbench.lake.release import RELEASES, Release, list_releases, open_release
from workbench.lake.sensitive import unknown_drugs
from workbench.lake.write import member_ranges, seal, write_set_aside, write_table
from workbench.schema import dictionary

MEMORY_SHARE = 0.4
"""Share of the machine's memory that the engine may use; beyond it spills into the building folder."""
SOURCES_IN_MEMORY = 0.2
"""Share of the engine's memory up to which the sources' size lets the work tables stay in memory: they take about
four times the size of the sources, and still spill where that is wrong. Larger sources work in a file."""
BUILDING = ".building-"


class BuildFailed(WorkbenchError):
    """The release could not be written; the lake is as it was."""

    code = "build-failed"
    http_status = 500


class BuildBusy(WorkbenchError):
    """Another build works in this lake."""

    code = "build-busy"
    http_status = 409


@dataclass(frozen=True)
class FileAccount:
    """What became of the data rows of one source file: rows = kept + all that was set aside."""

    name: str
    kind: str
    sha256: str
    bytes: int
    rows: int
    kept: int
    set_aside: dict[str, int]


def build_release(
    sources: Path, lake: Path, *, layout_name: str, as_of: date | None, progress: Progress
) -> Release:
    """See workbench.lake.release.build."""
    reader = layout(layout_name)
    if not sources.is_dir():
        raise SourceRefused("The source folder is not there.", hint="Name a folder of source files.")
    progress("hash the source files", 0, 1)
    files = list(reader.sources(sources))
    origin = reader.origin(sources)
    inputs = _inputs(reader, files, origin, as_of)
    with _lake(lake) as releases:
        found = _same_inputs(lake, inputs)
        if found:
            return found
        building = Path(tempfile.mkdtemp(prefix=BUILDING, dir=releases))
        try:
            return _build(files, reader, building, inputs, as_of, progress)
        except (duckdb.Error, OSError) as error:
            raise _failed(error) from None
        finally:
            shutil.rmtree(building, ignore_errors=True)


def check_sources(
    sources: Path, *, layout_name: str, progress: Progress
) -> tuple[list[FileAccount], list[SourceRefused]]:
    """Reads and checks like a build, keeps nothing: the account of each file, and the files that are refused.

    Where `sources` is one file, the folder around it is read, and the account is of that file alone.
    """
    reader = layout(layout_name)
    only = sources if sources.is_file() else None
    folder = sources.parent if only else sources
    if not folder.is_dir():
        raise SourceRefused("The source folder is not there.", hint="Name a folder of source files.")
    files = list(reader.sources(folder))
    if only and only not in [file.path for file in files]:
        raise SourceRefused(
            "The layout has no file of this name.",
            hint="Rename it as the layout asks, or choose another --layout.",
        )
    with tempfile.TemporaryDirectory(prefix="wb-check-") as work, _engine(Path(work), files) as con:
        stage = Stage(con)
        refused = []
        for number, file in enumerate(files):
            progress(f"read {file.name}", number, len(files))
            try:
                reader.read(file, number, stage)
            except SourceRefused as error:
                if only in (None, file.path):
                    refused.append(error)
        checks.settle(stage, derive.default_as_of(con) or date.max)
        accounts = [
            _account(stage, file, number)
            for number, file in enumerate(files)
            if number in stage.rows and only in (None, file.path)
        ]
    return accounts, refused


def _build(
    files: Sequence[SourceFile],
    reader: Layout,
    building: Path,
    inputs: dict[str, Any],
    as_of: date | None,
    progress: Progress,
) -> Release:
    steps = len(files) + 3 + len(dictionary())
    folder = building / "release"
    folder.mkdir()
    with _engine(building, files) as con:
        stage = Stage(con)
        for number, file in enumerate(files):
            progress(f"read {file.name}", number, steps)
            reader.read(file, number, stage)
        stands = as_of or derive.default_as_of(con)
        if stands is None:
            raise SourceRefused(
                "The sources have no claim with a date, so nobody can say on which day they stand.",
                hint="Give --as-of DATE, or check the folder with `workbench ingest check`.",
            )
        release_id = _release_id(inputs, stands)
        done = len(files)
        progress("settle claim versions", done, steps)
        checks.settle(stage, stands)
        accounts = [_account(stage, file, number) for number, file in enumerate(files)]
        progress("make the canonical tables", done + 1, steps)
        make_canonical(con)
        through = derive.complete_through(stands)
        progress("derive member months, sensitive claims, measures", done + 2, steps)
        derive.make_derived(con, through)
        risk_cuts = derive.risk_tiers(con, stands)
        drugs = unknown_drugs(con)
        con.execute("SET preserve_insertion_order = true")
        ranges = member_ranges(con)
        tables = {}
        for number, (name, table) in enumerate(dictionary().items()):
            progress(f"write {name}", done + 3 + number, steps)
            tables[name] = write_table(con, table, folder, ranges)
        aside = [write_set_aside(con, reader, file, number, folder) for number, file in enumerate(files)]
    manifest = {
        "id": release_id,
        "as_of": stands.isoformat(),
        "complete_through": through.isoformat(),
        "synthetic": bool(inputs["origin"].get("synthetic")),
        "layout": reader.name,
        "origin": inputs["origin"],
        "inputs": inputs,
        "code_version": provenance.code_version(),
        "dictionary": provenance.dictionary_version(),
        "code_lists": provenance.code_list_digests(),
        "risk_cuts": risk_cuts,
        "unknown_drugs": drugs,
        "sources": [asdict(account) for account in accounts],
        "set_aside": [entry for entry in aside if entry],
        "tables": tables,
    }
    _write_manifest(folder, manifest)
    _name(folder, building.parent / release_id)
    progress("done", steps, steps)
    return open_release(building.parent.parent, release_id)


def _account(stage: Stage, file: SourceFile, number: int) -> FileAccount:
    rows, kept, aside = checks.accounting(stage, number)
    return FileAccount(file.name, file.kind, file.sha256, file.bytes, rows, kept, dict(aside))


def _inputs(
    reader: Layout, files: Sequence[SourceFile], origin: dict[str, Any], as_of: date | None
) -> dict[str, Any]:
    """All that a release is made from, but for the as-of date where the data decide it."""
    return {
        "sources": [[file.name, file.sha256] for file in files],
        "origin": origin,
        "layout": reader.name,
        "code_version": provenance.code_version(),
        "dictionary": provenance.dictionary_version(),
        "code_lists": provenance.code_list_digests(),
        "as_of": as_of.isoformat() if as_of else "latest date of the data",
    }


def _same_inputs(lake: Path, inputs: dict[str, Any]) -> Release | None:
    return next((r for r in reversed(list_releases(lake)) if r.manifest.get("inputs") == inputs), None)


def _release_id(inputs: dict[str, Any], as_of: date) -> str:
    text = json.dumps({**inputs, "as_of": as_of.isoformat()}, sort_keys=True)
    return f"{as_of:%Y%m%d}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    seal(path)


def _name(folder: Path, target: Path) -> None:
    """The one step that makes a release exist. One that is there under this id has the same content and stays."""
    for inner in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        _sync(inner)
    if not (target / "manifest.json").is_file():
        folder.rename(target)
    _sync(target.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _lake(lake: Path) -> Iterator[Path]:
    """The releases folder under the lake's lock; what a killed build left behind is removed."""
    releases = lake / RELEASES
    try:
        releases.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(releases / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _failed(error) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BuildBusy(
                "Another build works in this lake.", hint="Wait until it has ended, then build again."
            ) from None
        for left in releases.glob(f"{BUILDING}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield releases
    finally:
        os.close(lock)


@contextmanager
def _engine(folder: Path, files: Sequence[SourceFile]) -> Iterator[duckdb.DuckDBPyConnection]:
    memory = int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * MEMORY_SHARE)
    spill = folder / "spill"
    spill.mkdir(exist_ok=True)
    con = duckdb.connect(
        config={
            "memory_limit": f"{memory >> 20}MiB",
            "temp_directory": str(spill),
            "threads": str(len(os.sched_getaffinity(0))),
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        },
    )
    try:
        if sum(file.bytes for file in files) <= memory * SOURCES_IN_MEMORY:
            con.execute("ATTACH ':memory:' AS work")
            con.execute("SET checkpoint_threshold = '1TiB'")
        else:
            work = str(folder / "work.duckdb").replace("'", "''")
            con.execute(f"ATTACH '{work}' AS work (RECOVERY_MODE no_wal_writes)")
        con.execute("USE work")
        con.execute("SET preserve_insertion_order = false")
        yield con
    finally:
        con.close()


def _failed(error: duckdb.Error | OSError) -> BuildFailed:
    """Names the kind of failure, never the engine's words: those may hold a value or a path."""
    words = str(error).lower()
    if (isinstance(error, OSError) and error.errno in {28, 27, 122}) or any(
        mark in words for mark in ("no space left", "file too large", "disk quota", "failed to offload")
    ):
        return BuildFailed(
            "The disk is full; the lake is as it was.", hint="Free space where the lake is, then build again."
        )
    if isinstance(error, OSError):
        return BuildFailed(
            "The lake or a source file could not be read or written; the lake is as it was.",
            hint="Check the rights of the lake's folder and of the source files.",
        )
    return BuildFailed(
        f"The engine stopped ({type(error).__name__}); the lake is as it was.",
        hint="Run `workbench ingest check` on the sources and report this with its output.",
    )
