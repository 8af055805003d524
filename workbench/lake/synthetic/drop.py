"""The drop folder: APCD-CDL files that grow block by block, small CSV files, whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import polars as pl

from workbench.errors import WorkbenchError
from workbench.lake import apcd_layout
from workbench.lake.synthetic import world
from workbench.lake.synthetic.calendar import Ints

MARK = "sources.json"


class DropRefused(WorkbenchError):
    """The folder named for the synthetic files is in use for something else."""

    code = "drop-refused"


@contextmanager
def drop_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, moved to `out` when all went well; an earlier synthetic drop there is replaced.

    Raises DropRefused where `out` holds anything that we did not write, or cannot be written.
    """
    out = out.absolute()
    try:
        with _partial(out) as partial:
            yield partial
    except OSError:
        raise DropRefused(
            "The files could not be written; what was there is as it was.",
            hint="Check the free space and the rights of the output folder.",
            code="drop-failed",
        ) from None


@contextmanager
def _partial(out: Path) -> Iterator[Path]:
    if out.exists() and not out.is_dir():
        raise DropRefused("The output is a file.", hint="Name a folder.")
    if out.is_dir() and any(out.iterdir()) and not _ours(out):
        raise DropRefused(
            "The output folder holds files that `workbench synth` did not write.",
            hint="Name a new or empty folder.",
        )
    partial = out.parent / f".{out.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _ours(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / MARK).read_text(encoding="utf-8")).get("synthetic"))
    except (OSError, ValueError, AttributeError):
        return False


class ApcdFiles:
    """The open files of one type, one per submitter and year; a file with its records is counted in its trailer."""

    def __init__(self, folder: Path, file_type: str):
        self._folder = folder
        self._type = file_type
        self._open: dict[tuple[str, int], IO[bytes]] = {}
        self._records: dict[tuple[str, int], int] = {}

    def __enter__(self) -> ApcdFiles:
        return self

    def add(self, records: pl.Series, submitters: tuple[str, ...], submitter: Ints, year: Ints) -> None:
        """Appends records to the files of their submitter (position in `submitters`) and year (0-2)."""
        for who in np.unique(submitter).tolist():
            for when in np.unique(year).tolist():
                mine = records.filter(pl.Series((submitter == who) & (year == when)))
                if len(mine):
                    self._append(submitters[who], world.YEARS[when], mine)

    def _append(self, submitter: str, year: int, records: pl.Series) -> None:
        key = (submitter, year)
        if key not in self._open:
            path = self._folder / f"{self._type}_{submitter}_{year}.txt"
            self._open[key] = path.open("wb")
            self._records[key] = 0
            name = world.PLANS.get(submitter, world.STATE_NAME)
            head = apcd_layout.header(
                self._type, submitter, name, date(year, 1, 1), date(year, 12, 31), "SYNTHETIC DATA"
            )
            self._open[key].write(f"{head}\n{apcd_layout.column_row(self._type)}\n".encode())
        self._open[key].write(records.str.join("\n").item().encode() + b"\n")
        self._records[key] += len(records)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for (submitter, year), handle in self._open.items():
            name = world.PLANS.get(submitter, world.STATE_NAME)
            count = self._records[submitter, year]
            tail = apcd_layout.trailer(self._type, submitter, name, world.AS_OF, count)
            with handle:
                handle.write(f"{tail}\n".encode())


class CsvFile:
    """A small CSV file that grows block by block."""

    def __init__(self, path: Path):
        self._path = path

    def add(self, frame: pl.DataFrame) -> None:
        """Appends rows; the first call writes the column names."""
        first = not self._path.exists()
        with self._path.open("ab") as handle:
            frame.write_csv(handle, include_header=first)
