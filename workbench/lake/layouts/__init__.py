"""Readers: one module per layout of source files. A layout turns a folder into the stage tables (`stage.py`).

What a layout promises: every data row of every file it owns ends either in a stage table or in `set_aside` with a
reason, by (file, row); a file that cannot be understood as a whole raises `SourceRefused` before anything is kept.
Versions, unknown members, spans, sensitivity and everything else that is no matter of layout happens afterwards,
in one way for all layouts.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    import pyarrow as pa

    from workbench.lake.layouts.stage import Stage

Progress = Callable[[str, int, int], None]
"""Called as (what is being done, steps done, steps in all)."""


def silent(what: str, done: int, total: int) -> None:
    """Reports nothing."""


class SourceRefused(WorkbenchError):
    """A source folder or file cannot be read as its layout says; no row of it was kept."""

    code = "source-refused"


class UnknownLayout(WorkbenchError):
    """No reader has this name."""

    code = "unknown-layout"


@dataclass(frozen=True)
class SourceFile:
    """One file of a drop folder. `kind` is the layout's own word for it, e.g. ME; `name` is relative to the folder."""

    path: Path
    name: str
    kind: str
    sha256: str
    bytes: int


class Layout(Protocol):
    """A reader. `about` is one line for --help."""

    name: str
    about: str

    def sources(self, folder: Path) -> Sequence[SourceFile]:
        """The files it will read, in a fixed order (the position is the file's number in the stage tables).

        Raises SourceRefused where a needed file is missing.
        """

    def origin(self, folder: Path) -> dict[str, Any]:
        """What goes into the manifest as `origin`; `synthetic` (bool) is needed, anything else is free."""

    def read(self, file: SourceFile, number: int, stage: Stage) -> None:
        """Reads one file: `stage.insert`, `stage.set_aside`, and once `stage.count(number, rows)`.

        Raises SourceRefused where the file as a whole cannot be understood.
        """

    def records(self, file: SourceFile) -> pa.RecordBatchReader:
        """The file's data rows again, as (source_row BIGINT from 1, record VARCHAR), for the set-aside folder."""


LAYOUTS = {
    "native": (
        "workbench.lake.layouts.native",
        "Native",
        "APCD-CDL ME, MC, PC, PV files and our small CSV files",
    ),
    "tuva": ("workbench.lake.layouts.tuva", "Tuva", "Tuva input layer CSV files"),
    "desynpuf": ("workbench.lake.layouts.desynpuf", "DeSynPuf", "CMS DE-SynPUF CSV files"),
}
"""name -> (module, class, about). Imported when used."""


def layout(name: str) -> Layout:
    """The reader of this name. Raises UnknownLayout."""
    if name not in LAYOUTS:
        raise UnknownLayout("No reader has this layout's name.", hint=f"Use one of {', '.join(LAYOUTS)}.")
    module, attribute, _ = LAYOUTS[name]
    reader: Layout = getattr(importlib.import_module(module), attribute)()
    return reader
