"""Where the Hub keeps what belongs to a user under one grant: the home and the uid."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sqlite3
from pathlib import Path

from workbench.errors import WorkbenchError

SERVER_UIDS = range(200_000, 300_000)
"""As root every (user, grant) has a uid of its own from here, for good."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,127}")


class UnusableName(WorkbenchError):
    """A user or grant whose name cannot name a folder."""

    code = "unusable-name"


def _safe(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UnusableName(
            "This user name cannot have a home here.",
            hint="Names have lower-case letters, digits and . _ @ - and start with a letter or digit.",
        )
    return name


def home(state: Path, user: str, grant: str, uid: int | None, examples: Path) -> Path:
    """The home of (user, grant), made with the example notebooks on first use. Rows of one grant never meet another's.

    It is filled before anyone inside can reach it, so that root follows no link that a user made.
    """
    folder = state / "homes" / _safe(user) / _safe(grant)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = folder.with_name(f"{grant}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    for example in sorted(examples.glob("*.ipynb")):
        shutil.copyfile(example, new / example.name)
    if uid is not None:
        for path in (new, *new.rglob("*")):
            os.chown(path, uid, uid)
    new.rename(folder)
    return folder


def uid_for(state: Path, user: str, grant: str) -> int | None:
    """The host uid of (user, grant), the same at every start; None where the Hub is no root and cannot give one."""
    if os.geteuid() != 0:
        return None
    file = state / "hub" / "uids.json"
    given: dict[str, int] = json.loads(file.read_text()) if file.is_file() else {}
    key = f"{_safe(user)}/{_safe(grant)}"
    if key not in given:
        given[key] = max(given.values(), default=SERVER_UIDS.start - 1) + 1
        if given[key] not in SERVER_UIDS:
            raise WorkbenchError("There is no free uid left for another server.", code="no-uid-left")
        new = file.with_suffix(".new")
        new.write_text(json.dumps(given, indent=1))
        new.rename(file)
    return given[key]


def known_sandboxes(database: Path) -> frozenset[int]:
    """The sandbox pids that the Hub's database knows of."""
    if not database.is_file():
        return frozenset()
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        try:
            rows = connection.execute(
                "select state from spawners where server_id is not null and state is not null"
            ).fetchall()
        except sqlite3.OperationalError:
            return frozenset()
    states = [json.loads(state) for (state,) in rows]
    return frozenset(int(state["child_pid"]) for state in states if state and state.get("child_pid"))
