"""Memory and process limits for a whole sandbox, where this process may make control groups (root; v1 or v2).

Elsewhere the rlimits of init.py hold for each process alone; `group_for` then returns None.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
_PARENT = "workbench"
_STALE_SECONDS = 60
_counter = itertools.count()


class Group:
    """One sandbox's control groups: one folder per hierarchy."""

    def __init__(self, folders: list[Path]):
        self._folders = folders

    def add(self, pid: int) -> None:
        """Puts a process, and all that it starts from now on, under the limits."""
        for folder in self._folders:
            (folder / "cgroup.procs").write_text(str(pid))

    def remove(self) -> None:
        """Gives the folders back; they are empty once the sandbox has ended."""
        for folder in self._folders:
            with contextlib.suppress(OSError):
                folder.rmdir()


def group_for(memory_bytes: int, processes: int) -> Group | None:
    """A new group with these limits (0: none), or None where control groups cannot be made."""
    if os.geteuid() != 0 or not (memory_bytes or processes):
        return None
    name = f"{os.getpid()}-{next(_counter)}"
    try:
        if (ROOT / "cgroup.controllers").exists():
            return _unified(name, memory_bytes, processes)
        return _per_controller(name, memory_bytes, processes)
    except OSError:
        return None


def _unified(name: str, memory_bytes: int, processes: int) -> Group:
    parent = ROOT / _PARENT
    parent.mkdir(exist_ok=True)
    for folder in (ROOT, parent):
        (folder / "cgroup.subtree_control").write_text("+memory +pids")
    return Group([_make(parent, name, {"memory.max": memory_bytes, "pids.max": processes})])


def _per_controller(name: str, memory_bytes: int, processes: int) -> Group:
    folders = []
    for controller, limits in (
        ("memory", {"memory.limit_in_bytes": memory_bytes}),
        ("pids", {"pids.max": processes}),
    ):
        if (ROOT / controller).is_dir():
            parent = ROOT / controller / _PARENT
            parent.mkdir(exist_ok=True)
            folders.append(_make(parent, name, limits))
    if not folders:
        raise FileNotFoundError(str(ROOT))
    return Group(folders)


def _make(parent: Path, name: str, limits: dict[str, int]) -> Path:
    _sweep(parent)
    folder = parent / name
    folder.mkdir()
    for file, value in limits.items():
        if value:
            (folder / file).write_text(str(value))
    return folder


def _sweep(parent: Path) -> None:
    """Removes groups whose launcher is gone: a restarted Hub does not know the groups of its old servers."""
    for folder in parent.iterdir():
        with contextlib.suppress(OSError):
            if folder.is_dir() and time.time() - folder.stat().st_mtime > _STALE_SECONDS:
                folder.rmdir()
