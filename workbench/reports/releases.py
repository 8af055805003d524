"""What a run notes about code and releases: which code, whether the release is the newest, whether anything is new."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from workbench.lake.release import list_releases
from workbench.settings import PROJECT


def code_version() -> str:
    """The package's version, with the commit where it runs from a checkout."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(PROJECT), "rev-parse", "--short=12", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return version("workbench")
    commit = answer.stdout.strip()
    return f"{version('workbench')}+{commit}" if answer.returncode == 0 and commit else version("workbench")


def newest_release(lake: Path) -> str | None:
    """The id of the lake's latest release."""
    releases = list_releases(lake)
    return releases[-1].id if releases else None


def old_release(lake: Path, used: str, before: Mapping[str, Any] | None) -> str | None:
    """What to say of a run on this release, given the stamp of the output before; None when all is new."""
    newest = newest_release(lake)
    if newest is not None and newest != used:
        return f"Ran on release {used}; the newest is {newest}."
    if before is not None and before.get("release") == used:
        return "No new release since the output before: the same data."
    return None
