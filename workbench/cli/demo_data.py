"""The demo's data: sources, release and slices, each made only when it is not there yet."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from workbench.broker import slices
from workbench.broker.directory import FileDirectory
from workbench.broker.grants import GrantBook
from workbench.broker.state import State
from workbench.broker.vault import Vault
from workbench.cli import demo_consents
from workbench.deid.levels import Level
from workbench.lake import release, synthetic
from workbench.settings import PROJECT, Settings

DEMO_GRANTS = (
    "demo-analyst",
    "demo-research-sh",
    "demo-research-lds",
    "demo-public",
    "plan-quality-sierra-vista",
)
"""The grants that somebody opens within the first minutes; all others get their slices on first use."""

Say = Callable[[str], object]


def prepare(here: Settings, members: int, seed: int, say: Say) -> None:
    """Makes what is missing of the demo's data. Raises WorkbenchError."""
    sources = here.lake.parent / "sources"
    if not _is_there(sources, members, seed):
        say(f"· synthetic Medi-Cal of {members:,} members: writing")
        synthetic.write(sources, members, seed)
    known = {one.id for one in release.list_releases(here.lake)}
    begun = time.monotonic()
    built = release.build(sources, here.lake)
    say(f"· release {built.id}: {_since(begun) if built.id not in known else 'there'}")
    book = GrantBook.load(here.grants)
    known = {one.id for one in slices.list_slices(here.lake)}
    state = State(here.database_url, here.state)
    try:
        vault = Vault(state)
        for name in DEMO_GRANTS:
            begun = time.monotonic()
            grant = book.get(name)
            ensure = slices.ensure_tabulation if grant.level == Level.AGGREGATE else slices.ensure
            made = ensure(built, grant, vault, here.lake)
            say(f"· slice of {name}: {_since(begun) if made.id not in known else 'there'}")
        if signed := demo_consents.sign(built, book, state, _groups()):
            say(f"· consents: {signed} invented decisions")
    finally:
        state.close()


def _groups() -> set[str]:
    """The groups of the demo's people."""
    people = FileDirectory(PROJECT / "hub_config" / "demo_users.yaml")
    return {group for name in people.users() for group in people.groups(name)}


def _since(begun: float) -> str:
    return f"made in {time.monotonic() - begun:.1f} s"


def _is_there(sources: Path, members: int, seed: int) -> bool:
    """Whether the folder holds a synthetic drop of this size and seed."""
    try:
        mark = json.loads((sources / "sources.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(mark.get("synthetic")) and (mark.get("members"), mark.get("seed")) == (members, seed)
