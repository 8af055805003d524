"""The gate's refusals: what was refused, in words that repeat no value, and what to use instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from workbench.broker import gate_rules as rules
from workbench.errors import WorkbenchError


class GateRefusal(WorkbenchError):
    """The gate does not admit the statement. `construct` names what was refused; never a value."""

    code = "sql-refused"

    def __init__(self, reason: str, *, hint: str = "", construct: str = "", code: str | None = None):
        super().__init__(reason, hint=hint, code=code)
        self.construct = construct


def shown(name: str) -> str:
    """A name that the caller wrote, if it looks like a name and not like a value; else nothing."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", name)
    return name if plain and sum(c.isdigit() for c in name) <= 3 else ""


def instead(name: str) -> str:
    """What to use in place of a refused function or statement."""
    fits = [lead for lead in rules.INSTEAD if name.lower().startswith(lead)]
    if not fits and re.match(
        r"(read_|scan|sniff_|glob|st_read|delta_|iceberg_|sqlite_|postgres_|mysql_)", name.lower()
    ):
        return rules.INSTEAD["read_csv"]
    return rules.INSTEAD[max(fits, key=len)] if fits else ""


def refusal(kind: str) -> GateRefusal:
    """The refusal of one kind of the engine's tree."""
    name, hint = rules.CONSTRUCTS.get(kind, (shown(kind.removesuffix("_NODE")).replace("_", " ").lower(), ""))
    name = name or "this construct"
    return GateRefusal(f"{name[0].upper()}{name[1:]} is not admitted.", hint=hint, construct=name)


def nearest(name: str, candidates: Iterable[str], text: str) -> str:
    """`text` with the names that are spelled most alike; empty where none is."""
    close = difflib.get_close_matches(name.lower(), list(candidates), n=3, cutoff=0.6)
    return text.format(", ".join(close)) if close else ""


def listed(names: Iterable[str]) -> str:
    """Names for a sentence."""
    return ", ".join(sorted(names)) or "none"


def unknown_table(name: str, tables: Mapping[str, Any]) -> GateRefusal:
    """The refusal of a table that the slice does not hold, with those that it does."""
    word = shown(name)
    hint = instead(name) or nearest(name, tables, "Did you mean {}?")
    return GateRefusal(
        f"There is no table {word} in this slice." if word else "There is no such table in this slice.",
        hint=f"{hint} It holds: {listed(tables)}.".strip(),
        construct=f"table {word}" if word else "a table",
        code="unknown-table",
    )
