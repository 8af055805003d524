"""The gate's refusals: what was refused and what to use instead, for the caller; its kind alone, for the log."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import duckdb

from workbench.broker import gate_rules as rules
from workbench.errors import WorkbenchError


class GateRefusal(WorkbenchError):
    """The gate does not admit the statement. `construct` names what was refused; never a value.

    `reason` may repeat a name to the caller who wrote it. `recorded` is the same for the log, where a name that neither
    the slice nor the engine has may be a value: it stands there as the mark in the statement alone.
    """

    code = "sql-refused"

    def __init__(
        self,
        reason: str,
        *,
        hint: str = "",
        construct: str = "",
        code: str | None = None,
        recorded: str | None = None,
    ):
        super().__init__(reason, hint=hint, code=code)
        self.construct = construct
        self.recorded = reason if recorded is None else recorded


def shown(name: str) -> str:
    """A name that the caller wrote, if it looks like a name and not like a value; else nothing."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", name)
    return name if plain and sum(c.isdigit() for c in name) <= 3 else ""


@functools.cache
def _engine_functions() -> frozenset[str]:
    with duckdb.connect(":memory:") as engine:
        rows = engine.execute("SELECT DISTINCT lower(function_name) FROM duckdb_functions()").fetchall()
    return frozenset(name for (name,) in rows)


def function_refusal(name: str, *, what: str = "function", hint: str = "") -> GateRefusal:
    """The refusal of a function; one that the engine does not have is named to the caller alone."""
    word, plain = shown(name), f"This {what} is not admitted."
    reason = f"The {what} {word} is not admitted." if word else plain
    known = word.lower() in _engine_functions()
    return GateRefusal(
        reason,
        hint=instead(name)
        or hint
        or nearest(name, rules.FUNCTIONS, "Did you mean {}?")
        or "See docs/broker.md for the list.",
        construct=word if known else f"a {what}",
        recorded=reason if known else plain,
    )


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
    word, plain = shown(name), "There is no such table in this slice."
    hint = instead(name) or nearest(name, tables, "Did you mean {}?")
    return GateRefusal(
        f"There is no table {word} in this slice." if word else plain,
        hint=f"{hint} It holds: {listed(tables)}.".strip(),
        construct="a table",
        code="unknown-table",
        recorded=plain,
    )


def unknown_source(name: str, names: Iterable[str]) -> GateRefusal:
    """The refusal of a relation that FROM does not have, with those that it has."""
    word, plain = shown(name), "Nothing in FROM has that name here."
    return GateRefusal(
        f"Nothing in FROM is called {word} here." if word else plain,
        hint=f"There is: {listed(names)}.",
        construct="a name",
        code="unknown-column",
        recorded=plain,
    )


def unknown_column(
    name: str,
    sources: Collection[tuple[str, Iterable[str] | None]],
    tables: Mapping[str, Collection[str]],
    *,
    quoted: bool,
) -> GateRefusal:
    """The refusal of a column that no source (name, columns) has, with the nearest; `quoted` in double quotes."""
    word = shown(name)
    near: list[str] = []
    for _, columns in sources:
        near.extend(columns or ())
    hint = nearest(name, dict.fromkeys(near), "Did you mean {}?")
    if not hint:
        others = sorted(table for table, held in tables.items() if name.lower() in held)
        hint = f"It is a column of {listed(others)}." if others else f"There is: {listed(set(near))}."
    if quoted:
        hint = f"Texts take single quotes; double quotes are for names. {hint}"
    names = list(dict.fromkeys(source for source, _ in sources if source))
    where = f"in {' and '.join(names)}" if names and all(map(shown, names)) else "here"
    plain = "There is no such column"
    return GateRefusal(
        f"There is no column {word} {where}." if word else f"{plain} {where}.",
        hint=hint,
        construct="a column",
        code="unknown-column",
        recorded=f"{plain} {where if all(name in tables for name in names) else 'here'}.",
    )
