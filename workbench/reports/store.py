"""Where report outputs stand: `<lake>/reports/<grant>/<report>/<key>/`, replaced whole or not at all.

An output is a folder of `report.html`, `report.ipynb` and `manifest.json` (stamp and hashes), mode 0700/0600. It holds
figures of a grant's members and is read only through the report pages, by holders of that grant.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError

HTML, NOTEBOOK, MANIFEST = "report.html", "report.ipynb", "manifest.json"
SYNTHETIC = "SYNTHETIC DATA"
READS = 20
"""How often a page is read again when it and its manifest are of two runs."""
_STAGING = ".staging-"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class OutputDamaged(WorkbenchError):
    """The stored files are not what the manifest says."""

    code = "output-damaged"
    http_status = 500


class OutputNotWritten(WorkbenchError):
    """The output could not be put in place; what stood there before still does."""

    code = "output-not-written"
    http_status = 507


@dataclass(frozen=True)
class Output:
    """One stored report."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def grant(self) -> str:
        return str(self.manifest["stamp"]["grant"])

    @property
    def report(self) -> str:
        return str(self.manifest["stamp"]["report"])

    @property
    def organisation(self) -> str:
        return str(self.manifest["stamp"]["organisation"])

    @property
    def key(self) -> str:
        return self.folder.name

    def html(self) -> str:
        """The page, after its hash was compared with the manifest's; raises OutputDamaged.

        A rerun may exchange the folder between two reads: then the new page is given.
        """
        manifest: Mapping[str, Any] = self.manifest
        for _ in range(READS):
            try:
                content = (self.folder / HTML).read_bytes()
            except FileNotFoundError:
                content = b""
            if hashlib.sha256(content).hexdigest() == manifest["files"][HTML]["sha256"]:
                return content.decode("utf-8")
            found = _open(self.folder)
            manifest = found.manifest if found else manifest
        raise OutputDamaged("The stored report is not the one that was written.", hint="Run it again.")


@dataclass(frozen=True)
class Store:
    """The outputs of one lake."""

    root: Path

    def folder(self, grant: str, report: str, key: str) -> Path:
        """Where this output stands or would stand."""
        return self.root / grant / report / key

    def read(self, grant: str, report: str, key: str) -> Output | None:
        """The output, or None if there is none."""
        return _open(self.folder(grant, report, key))

    def outputs(self) -> Iterator[Output]:
        """Every whole output, by grant, report and key."""
        for manifest in sorted(self.root.glob(f"*/*/*/{MANIFEST}")):
            if not manifest.parent.name.startswith("."):
                output = _open(manifest.parent)
                if output:
                    yield output

    def write(self, stamp: Mapping[str, Any], key: str, files: Mapping[str, bytes]) -> Output:
        """Puts a new output in the place of the old one, in one step; raises OutputNotWritten."""
        target = self.folder(str(stamp["grant"]), str(stamp["report"]), key)
        try:
            _private(self.root, target.parent)
            _sweep(target)
            staging = target.parent / f"{_STAGING}{key}.{uuid.uuid4().hex[:8]}"
            try:
                staging.mkdir(mode=0o700)
                facts = {
                    n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in files.items()
                }
                manifest = {"format": 1, "stamp": dict(stamp), "files": facts}
                text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
                for name, content in [*files.items(), (MANIFEST, text.encode())]:
                    _write(staging / name, content)
                _sync(staging)
                _replace(staging, target)
                _sync(target.parent)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        except OSError as error:
            raise OutputNotWritten(
                f"The report was computed but not stored ({errno.errorcode.get(error.errno or 0, 'I/O')}).",
                hint="The output from before, if any, is untouched. Make room or mend the lake's folder; run it again.",
            ) from None
        return Output(target, manifest)


def _open(folder: Path) -> Output | None:
    try:
        return Output(folder, json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _private(root: Path, folder: Path) -> None:
    """Makes the folder and those between it and the lake, readable to the operator only."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    for part in reversed([folder, *folder.parents][: len(folder.relative_to(root).parts)]):
        part.mkdir(mode=0o700, exist_ok=True)


def _write(path: Path, content: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace(staging: Path, target: Path) -> None:
    """Renames, or exchanges the two folders where the target exists: no moment without a whole output."""
    if not target.exists():
        staging.rename(target)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, bytes(staging), _AT_FDCWD, bytes(target), _RENAME_EXCHANGE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _sweep(target: Path) -> None:
    """Removes what a killed run left behind."""
    for left in target.parent.glob(f"{_STAGING}{target.name}.*"):
        shutil.rmtree(left, ignore_errors=True)
