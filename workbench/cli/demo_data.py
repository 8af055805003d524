"""The demo's data: sources, release and slices, each made only when it is not there yet."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.broker import slices
from workbench.broker.grants import GrantBook
from workbench.broker.state import State
from workbench.broker.vault import Vault
from workbench.deid.levels import Level
from workbench.lake import release, synthetic
from workbench.settings import Settings

DEMO_GRANTS = (
    "demo-analyst",
    "demo-research-sh",
    "demo-research-lds",
    "demo-public",
    "plan-quality-sierra-vista",
)
"""The grants that somebody opens within the first minutes; all others get their slices on first use."""

Say = Callable[[str], object]


@contextmanager
def _step(say: Say, what: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    seconds = time.monotonic() - begun
    say(f"· {what}: {'ready' if seconds < 1 else f'made in {seconds:.0f} s'}")


def prepare(here: Settings, members: int, seed: int, say: Say) -> None:
    """Makes what is missing of the demo's data. Raises WorkbenchError."""
    sources = here.lake.parent / "sources"
    if not _is_there(sources, members, seed):
        say(f"· synthetic Medi-Cal of {members:,} members: writing")
        with _step(say, "sources"):
            synthetic.write(sources, members, seed)
    with _step(say, "release"):
        built = release.build(sources, here.lake)
    book = GrantBook.load(here.grants)
    state = State(here.database_url, here.state)
    try:
        vault = Vault(state)
        for name in DEMO_GRANTS:
            grant = book.get(name)
            with _step(say, f"slice of {name}"):
                if grant.level == Level.AGGREGATE:
                    slices.ensure_tabulation(built, grant, vault, here.lake)
                else:
                    slices.ensure(built, grant, vault, here.lake)
    finally:
        state.close()


def _is_there(sources: Path, members: int, seed: int) -> bool:
    """Whether the folder holds a synthetic drop of this size and seed."""
    try:
        mark = json.loads((sources / "sources.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(mark.get("synthetic")) and (mark.get("members"), mark.get("seed")) == (members, seed)
