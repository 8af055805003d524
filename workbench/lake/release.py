"""A release: an immutable, content-addressed snapshot of the whole lake."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError
from workbench.lake.layouts import Progress, silent
from workbench.schema import dictionary

RELEASES = "releases"
_ID = re.compile(r"\d{8}-[0-9a-f]{12}")


class UnknownRelease(WorkbenchError):
    """The lake has no release of this id, or none at all."""

    code = "unknown-release"
    http_status = 404


@dataclass(frozen=True)
class Release:
    """One release in a lake: its folder and its manifest. Nothing below `path` ever changes."""

    id: str
    path: Path
    manifest: dict[str, Any] = field(repr=False, compare=False)

    @property
    def as_of(self) -> date:
        """The day on which the data stand: current membership and ages refer to it."""
        return date.fromisoformat(self.manifest["as_of"])

    @property
    def complete_through(self) -> date:
        """The last day of service up to which claims are taken as complete."""
        return date.fromisoformat(self.manifest["complete_through"])

    @property
    def synthetic(self) -> bool:
        """Whether the sources said that they are invented: then every output says so."""
        return bool(self.manifest["synthetic"])

    @property
    def unknown_drugs(self) -> tuple[int, int] | None:
        """Fills, and medical lines with an NDC, of a drug whose ingredient nobody knows; None where nobody counted."""
        counted = self.manifest.get("unknown_drugs")
        return (int(counted["fills"]), int(counted["lines"])) if counted else None

    def parts(self, table: str) -> list[Path]:
        """The Parquet parts of a table, in order. An empty table has one part without rows.

        Raises UnknownRelease where the release does not have the table.
        """
        entry = self.manifest["tables"].get(table)
        if entry is None:
            raise UnknownRelease(f"The release has no table {table}.", hint="Build a new release.")
        return [self.path / part["file"] for part in entry["parts"]]

    def relation(self, table: str) -> str:
        """The table as DuckDB SQL for a FROM clause."""
        files = ", ".join("'" + str(path).replace("'", "''") + "'" for path in self.parts(table))
        return f"read_parquet([{files}], hive_partitioning => false)"

    def tables(self) -> list[str]:
        """The tables it has, in the dictionary's order."""
        return [name for name in dictionary() if name in self.manifest["tables"]]


def build(
    sources: Path,
    lake: Path,
    *,
    layout: str = "native",
    as_of: date | None = None,
    progress: Progress = silent,
) -> Release:
    """Reads a folder of source files into a new release; equal inputs give the release that is there already.

    Without `as_of` the data stand at the last day of the month of the latest service, fill or paid date. Raises
    SourceRefused, UnknownLayout, BuildBusy or BuildFailed; the lake is then as it was.
    """
    from workbench.lake.build import build_release

    return build_release(sources, lake, layout_name=layout, as_of=as_of, progress=progress)


def open_release(lake: Path, release_id: str | None = None) -> Release:
    """The release of this id; without one the latest: by as-of date, then by time of build. Raises UnknownRelease."""
    if release_id is None:
        releases = list_releases(lake)
        if not releases:
            raise UnknownRelease(
                "The lake has no release.", hint="Run `workbench release build --sources DIR`."
            )
        return releases[-1]
    path = lake / RELEASES / release_id
    if not _ID.fullmatch(release_id) or not (path / "manifest.json").is_file():
        raise UnknownRelease(
            "The lake has no release of this id.", hint="`workbench release list` shows those that it has."
        )
    return _read(path)


def list_releases(lake: Path) -> list[Release]:
    """All releases, the latest last."""
    folder = lake / RELEASES
    found = folder.iterdir() if folder.is_dir() else iter(())
    releases = [
        _read(path) for path in found if _ID.fullmatch(path.name) and (path / "manifest.json").is_file()
    ]
    return sorted(releases, key=lambda r: (r.as_of, (r.path / "manifest.json").stat().st_mtime_ns, r.id))


def _read(path: Path) -> Release:
    return Release(path.name, path, json.loads((path / "manifest.json").read_text(encoding="utf-8")))
