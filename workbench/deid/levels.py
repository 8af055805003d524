"""The four levels, as data: what each does to a column of each identifier class, and where the rule comes from.

A column reaches a slice only if its class has a rule at the slice's level. No rule, no column: `rule` raises.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from workbench.deid import zip3
from workbench.errors import WorkbenchError
from workbench.schema import Column, IdentifierClass, Table, dictionary

TOP_AGE = 90
"""Ages of 90 and over are one category: 45 CFR 164.514(b)(2)(i)(C)."""


class Level(StrEnum):
    """How much of a person a slice holds, from most to least."""

    IDENTIFIED = "identified"
    LIMITED = "limited"
    SAFE_HARBOR = "safe_harbor"
    AGGREGATE = "aggregate"


class Action(StrEnum):
    """What is done to a column's values."""

    KEEP = "keep"
    DROP = "drop"
    TOKEN = "token"
    YEAR = "year"
    BIRTH_YEAR = "birth_year"
    ZIP3 = "zip3"
    TOP_AGE = "top_age"


@dataclass(frozen=True)
class Rule:
    """One cell of the table level × identifier class: what happens, and the text that asks for it."""

    action: Action
    source: str


class NoRule(WorkbenchError):
    """A column's class has no rule at a level, so the column may not be served."""

    code = "no-rule"
    http_status = 500


_C = IdentifierClass
_CARE = "45 CFR 164.506 (treatment, payment, operations), minimum necessary 164.502(b): the grant's tables"
_LDS = "45 CFR 164.514(e)(2): not among the sixteen direct identifiers"
_LDS_DROP = "45 CFR 164.514(e)(2): a direct identifier"
_SH = "45 CFR 164.514(b)(2)(i)"
_CODE = "45 CFR 164.514(c): a code that is not derived from the person; random, kept in the vault"
_NOT_LISTED = "not among the identifiers of 45 CFR 164.514(b)(2)(i)"
_AGGREGATE = (
    "no rows at this level: tables only, after disclosure control (CalHHS Data De-Identification Guidelines)"
)

RULES: Mapping[Level, Mapping[IdentifierClass, Rule]] = MappingProxyType(
    {
        Level.IDENTIFIED: {c: Rule(Action.KEEP, _CARE) for c in _C},
        Level.LIMITED: {
            _C.MEMBER_KEY: Rule(Action.TOKEN, f"{_LDS_DROP} (viii), replaced; {_CODE}"),
            _C.CLAIM_KEY: Rule(Action.TOKEN, f"{_LDS_DROP} (vii), (ix), replaced; {_CODE}"),
            _C.DIRECT: Rule(Action.DROP, _LDS_DROP),
            _C.BIRTH_DATE: Rule(Action.KEEP, _LDS),
            _C.DATE: Rule(Action.KEEP, _LDS),
            _C.ZIP: Rule(Action.KEEP, _LDS),
            _C.GEOGRAPHY: Rule(Action.KEEP, _LDS),
            _C.ORGANISATION: Rule(Action.KEEP, _LDS),
            _C.AGE: Rule(Action.KEEP, _LDS),
            _C.QUASI: Rule(Action.KEEP, _LDS),
            _C.CLINICAL: Rule(Action.KEEP, _LDS),
            _C.AMOUNT: Rule(Action.KEEP, _LDS),
            _C.FREE_TEXT: Rule(
                Action.DROP, "free text may hold any of the sixteen; no recogniser finds them all"
            ),
            _C.REFERENCE: Rule(Action.KEEP, _LDS),
        },
        Level.SAFE_HARBOR: {
            _C.MEMBER_KEY: Rule(Action.TOKEN, f"{_SH}(I), replaced; {_CODE}"),
            _C.CLAIM_KEY: Rule(Action.TOKEN, f"{_SH}(J), (R), replaced; {_CODE}"),
            _C.DIRECT: Rule(Action.DROP, f"{_SH}(A), (B), (D)-(G)"),
            _C.BIRTH_DATE: Rule(Action.BIRTH_YEAR, f"{_SH}(C): year, and none for ages over 89"),
            _C.DATE: Rule(Action.YEAR, f"{_SH}(C): year, and none that tells of an age over 89"),
            _C.ZIP: Rule(Action.ZIP3, f"{_SH}(B): three digits where more than 20,000 people live, else 000"),
            _C.GEOGRAPHY: Rule(Action.DROP, f"{_SH}(B): smaller than a State"),
            _C.ORGANISATION: Rule(
                Action.DROP, f"{_SH}(B), (R): plans, providers and sites give the county away"
            ),
            _C.AGE: Rule(Action.TOP_AGE, f"{_SH}(C): 90 stands for 90 and over"),
            _C.QUASI: Rule(Action.KEEP, _NOT_LISTED),
            _C.CLINICAL: Rule(Action.KEEP, _NOT_LISTED),
            _C.AMOUNT: Rule(Action.KEEP, _NOT_LISTED),
            _C.FREE_TEXT: Rule(Action.DROP, f"{_SH}(R): free text may hold any identifier"),
            _C.REFERENCE: Rule(Action.KEEP, _NOT_LISTED),
        },
        Level.AGGREGATE: {c: Rule(Action.DROP, _AGGREGATE) for c in _C},
    }
)

NOT_SERVED: Mapping[tuple[Level, str], str] = MappingProxyType(
    {
        (Level.SAFE_HARBOR, "attribution"): "its rows speak of organisations, which give the county away",
        (Level.SAFE_HARBOR, "organisation"): "its rows are organisations, which give the county away",
        (Level.SAFE_HARBOR, "provider"): "its rows are providers, which give the county away",
    }
)
"""Tables that a level does not serve although a column or two of theirs would pass."""


@dataclass(frozen=True)
class Served:
    """A column as a slice holds it: name and DuckDB type after the rule, and what it means there."""

    column: Column
    rule: Rule
    name: str
    type: str
    means: str


def rule(level: Level, identifier_class: IdentifierClass) -> Rule:
    """The rule of one class at one level. Raises `NoRule` where there is none."""
    found = RULES.get(level, {}).get(identifier_class)
    if found is None:
        raise NoRule(
            f"There is no rule for columns of class {identifier_class} at level {level}.",
            hint="Add one to workbench/deid/levels.py, with its source; until then such columns are not served.",
        )
    return found


def columns_for(level: Level, table: Table | str) -> tuple[Served, ...]:
    """The columns of a table that a slice of this level holds, in the dictionary's order; none if it has no such table.

    Raises `NoRule` for a column whose class has no rule.
    """
    spec = dictionary()[table] if isinstance(table, str) else table
    served = [
        served_as(level, column)
        for column in spec.columns.values()
        if rule(level, column.identifier_class).action != Action.DROP
    ]
    return () if (level, spec.name) in NOT_SERVED else tuple(served)


def dropped(level: Level, table: Table) -> dict[str, str]:
    """The columns of a table that a slice of this level lacks, each with the source of the rule."""
    reason = NOT_SERVED.get((level, table.name))
    if reason is not None:
        return dict.fromkeys(table.columns, reason)
    rules = {name: rule(level, column.identifier_class) for name, column in table.columns.items()}
    return {name: found.source for name, found in rules.items() if found.action == Action.DROP}


def served_as(level: Level, column: Column) -> Served:
    """A column after its rule. A date becomes an INTEGER year (`from_date` → `from_year`, `month` → `year`)."""
    found = rule(level, column.identifier_class)
    name, kind, means = column.name, column.type, column.means
    if found.action in (Action.YEAR, Action.BIRTH_YEAR):
        name, kind, means = _year_name(column.name), "INTEGER", f"{means} (year only)"
    if found.action == Action.BIRTH_YEAR:
        means += f"; empty for people of {TOP_AGE} and over on the release's as-of date"
    if found.action == Action.ZIP3:
        name, means = (
            "zip3",
            "First three digits of the ZIP code; 000 where 20,000 people or fewer live, or unknown",
        )
    if found.action == Action.TOP_AGE:
        means += f"; {TOP_AGE} in every row of a person who is {TOP_AGE} or over on the release's as-of date"
    if found.action == Action.TOKEN:
        means += " (a random token of the agreement)"
    return Served(column, found, name, kind, means)


def _year_name(name: str) -> str:
    if name == "month":
        return "year"
    return name.removesuffix("_date") + "_year"


def expression(served: Served, *, as_of: str, token: str, top_aged: str) -> str:
    """The SQL (DuckDB) of a column under its rule, over a source table aliased `s`.

    `as_of` is an ISO date; `token` names the joined column that holds the token of this key; `top_aged` is a
    boolean SQL expression: whether the row's member is 90 or over on the as-of date.

    A year of 90 or more years before the as-of year tells of an age over 89 and is left empty. The age of a person
    who is 90 by now is 90 in every row: 88 in a row of two years ago would tell the year of birth.
    """
    source = f's."{served.column.name}"'
    match served.rule.action:
        case Action.KEEP:
            return source
        case Action.TOKEN:
            return token
        case Action.YEAR:
            earliest = int(as_of[:4]) - TOP_AGE
            return f"CASE WHEN year({source}) > {earliest} THEN year({source}) END::INTEGER"
        case Action.BIRTH_YEAR:
            return f"CASE WHEN NOT ({birthday_90(source)} <= DATE '{as_of}') THEN year({source}) END::INTEGER"
        case Action.ZIP3:
            return zip3.expression(source)
        case Action.TOP_AGE:
            return f"CASE WHEN {top_aged} OR {source} >= {TOP_AGE} THEN {TOP_AGE} ELSE {source} END::INTEGER"
        case Action.DROP:
            raise NoRule(f"Column {served.column.name} is not served at this level.")


def birthday_90(birth_date: str) -> str:
    """The SQL of the day on which a person turns 90; born on 29 February: the last of February."""
    return f"({birth_date} + INTERVAL {TOP_AGE} YEAR)::DATE"


def uncovered(tables: Iterable[Table] | None = None) -> list[str]:
    """Every `level: table.column` that has no rule. Empty when the levels cover the dictionary."""
    return [
        f"{level}: {table.name}.{column.name}"
        for level in Level
        for table in (dictionary().values() if tables is None else tables)
        for column in table.columns.values()
        if column.identifier_class not in RULES.get(level, {})
    ]
