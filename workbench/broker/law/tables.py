"""The truth tables of the laws: one YAML file each, its rows read like the law, and what they say of a grant.

A row names a case by conditions on the facts of a grant at one of its purposes, and answers `allowed` or `refused`
with its citation. A grant stands when, at each of its purposes, no row of any law refuses it and every law has a row
that allows it: what no row speaks of is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

import yaml

from workbench.schema.sensitive import Category

LAWS = ("hipaa", "part2", "cmia", "ipa", "wic_14100_2")
"""The tables, in the order in which a refusal cites them."""

Facts = Mapping[str, str | frozenset[str]]
"""Name → value, or set of values, of what a law asks of a grant."""

ONE_VALUED: Mapping[str, frozenset[str]] = {
    "level": frozenset({"identified", "limited", "safe_harbor", "aggregate"}),
    "relation": frozenset({"state", "mcp", "bhp", "county", "provider", "tribe", "cohort"}),
    "purpose": frozenset(
        {"program_administration", "treatment", "payment", "operations", "public_health", "research"}
    ),
    "part2": frozenset({"exclude", "include", "with_consent"}),
    "basis": frozenset(
        {
            "none",
            "consent_tpo",
            "research_2_52",
            "audit_evaluation_2_53",
            "qualified_service_organisation_2_11",
            "deidentified_164_514",
        }
    ),
    "agreement": frozenset({"named", "missing"}),
    "recipient": frozenset({"named", "unnamed"}),
    "recipient_state": frozenset({"CA", "elsewhere", "unnamed"}),
    "break_glass": frozenset({"allowed", "not"}),
    "treats": frozenset({"yes", "no"}),
}
"""The facts with one value, and the values that there are. `treats`: treatment is among the grant's purposes."""
_CATEGORIES = frozenset(Category)
MANY_VALUED: Mapping[str, frozenset[str]] = {
    "channels": frozenset({"notebook", "lmr_api", "risk_api", "feed", "tabulate", "reports", "apps"}),
    "included": _CATEGORIES,
    "by_consent": _CATEGORIES,
}
"""The facts that are sets: channels; categories that may be in, and those of them that consent decides."""
KNOWN = {**ONE_VALUED, **MANY_VALUED}


@dataclass(frozen=True)
class Row:
    """One row of a truth table.

    `say` words a refusal for whoever wrote the grant; `examples` are the keys of grants that the row is about, over
    the table's `base`.
    """

    law: str
    id: str
    case: str
    when: Mapping[str, frozenset[str]]
    answer: Literal["allowed", "refused"]
    say: str
    citation: str
    status: str
    examples: tuple[Mapping[str, Any], ...]

    def fits(self, facts: Facts) -> bool:
        """Whether the grant is of this row's case: a set meets a condition when it holds one of the values."""
        for name, wanted in self.when.items():
            has = facts[name]
            if not (wanted & has if isinstance(has, frozenset) else has in wanted):
                return False
        return True


@dataclass(frozen=True)
class Law:
    """One law: its title, the status of our reading of it, an ordinary grant, and the rows."""

    name: str
    title: str
    status: str
    base: Mapping[str, Any]
    rows: tuple[Row, ...]


@functools.cache
def laws() -> Mapping[str, Law]:
    """The five tables by name. Raises ValueError for a row that asks for a fact or value that there is not."""
    return {name: _read(name) for name in LAWS}


def refusing(facts: Sequence[Facts]) -> list[Row]:
    """The rows that refuse a grant of these facts (one mapping per purpose), each once, in the laws' order."""
    found: dict[tuple[str, str], Row] = {}
    for one in facts:
        for row in _judged(_key(one))[0]:
            found.setdefault((row.law, row.id), row)
    return list(found.values())


def silent(facts: Sequence[Facts]) -> list[tuple[Law, str]]:
    """The laws, and the purposes, of which no row allows a grant of these facts."""
    return [(law, str(one["purpose"])) for one in facts for law in _judged(_key(one))[2]]


def allowing(facts: Sequence[Facts]) -> list[Row]:
    """The rows on which a grant of these facts rests."""
    found: dict[tuple[str, str], Row] = {}
    for one in facts:
        for row in _judged(_key(one))[1]:
            found.setdefault((row.law, row.id), row)
    return list(found.values())


def _key(facts: Facts) -> frozenset[tuple[str, str | frozenset[str]]]:
    return frozenset(facts.items())


@functools.lru_cache(maxsize=4096)
def _judged(
    key: frozenset[tuple[str, str | frozenset[str]]],
) -> tuple[tuple[Row, ...], tuple[Row, ...], tuple[Law, ...]]:
    """(rows that refuse, rows that allow, laws with neither): equal for all grants of a template."""
    facts = dict(key)
    fitting = {name: [row for row in law.rows if row.fits(facts)] for name, law in laws().items()}
    rows = [row for several in fitting.values() for row in several]
    return (
        tuple(row for row in rows if row.answer == "refused"),
        tuple(row for row in rows if row.answer == "allowed"),
        tuple(laws()[name] for name, several in fitting.items() if not several),
    )


def _read(name: str) -> Law:
    text = (files("workbench.broker.law") / f"{name}.yaml").read_text(encoding="utf-8")
    raw = yaml.safe_load(text)
    rows = tuple(_row(name, str(raw["status"]), row) for row in raw["rows"])
    ids = [row.id for row in rows]
    if len(set(ids)) != len(ids):
        raise ValueError(f"{name}.yaml: a row's id stands twice")
    return Law(name, str(raw["title"]), str(raw["status"]), raw["base"], rows)


def _row(law: str, status: str, raw: Mapping[str, Any]) -> Row:
    when = {str(key): _values(value) for key, value in (raw.get("when") or {}).items()}
    for key, values in when.items():
        if key not in KNOWN:
            raise ValueError(f"{law}.yaml: {raw['id']}: no fact is named {key}")
        if not values <= KNOWN[key]:
            raise ValueError(f"{law}.yaml: {raw['id']}: {key} is never {sorted(values - KNOWN[key])}")
    if raw["answer"] not in ("allowed", "refused"):
        raise ValueError(f"{law}.yaml: {raw['id']}: the answer is allowed or refused")
    if (raw["answer"] == "refused") != ("say" in raw):
        raise ValueError(f"{law}.yaml: {raw['id']}: a refusal, and nothing else, says what to do")
    return Row(
        law=law,
        id=str(raw["id"]),
        case=" ".join(str(raw["case"]).split()),
        when=when,
        answer=raw["answer"],
        say=str(raw.get("say", "")),
        citation=str(raw["citation"]),
        status=str(raw.get("status", status)),
        examples=tuple(raw.get("examples") or ()),
    )


def _values(value: str | Collection[str]) -> frozenset[str]:
    return frozenset({value} if isinstance(value, str) else value)
