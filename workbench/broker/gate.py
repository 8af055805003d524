"""The SQL gate: one statement that only reads the slice's tables, or a refusal that says what to use instead.

Two parsers have to agree that a statement is harmless. sqlglot reads it first and refuses every node class that is
not in `gate_rules.SYNTAX`; DuckDB's own parser then reads both the statement and sqlglot's regenerated text, and
every node, function and name of its tree is checked (`gate_names`). What the worker runs is the regenerated text
where the engine reads both alike, else the caller's own text, so that no rewriting changes an answer.

The gate is access control for names and functions. It is not the wall: the worker holds nothing but the slice.
"""

from __future__ import annotations

import atexit
import functools
import json
import logging
import re
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import sqlglot
from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import SqlglotError
from sqlglot.tokens import Token, TokenType

from workbench.broker import gate_rules as rules
from workbench.broker.gate_kept import normalise, redact
from workbench.broker.gate_names import check_tree
from workbench.broker.gate_refusals import GateRefusal, function_refusal, instead, shown

logging.getLogger("sqlglot").addFilter(lambda _: False)
# It would print the statement, literals and all. A filter, because any later logging.config of the process takes
# `disabled` back.

__all__ = ["Admitted", "GateRefusal", "admit", "redact"]

_DIALECT = DuckDB()
_BRACKETS = re.compile(r"""'[^']*'|"[^"]*"|[\[\](){}]""")
_OPENERS = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE, TokenType.CASE}
_CLOSERS = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE, TokenType.END}
_CHAIN_BREAKERS = {TokenType.COMMA, TokenType.SELECT, TokenType.FROM, TokenType.WHERE, TokenType.SEMICOLON}
_OPERATIONS = {
    TokenType.AND, TokenType.OR, TokenType.PLUS, TokenType.DASH, TokenType.STAR, TokenType.SLASH, TokenType.DPIPE,
    TokenType.NOT, TokenType.TILDE, TokenType.MOD, TokenType.DCOLON, TokenType.UNION, TokenType.EXCEPT,
    TokenType.INTERSECT, TokenType.JOIN, TokenType.EQ, TokenType.PIPE, TokenType.AMP, TokenType.CARET,
    TokenType.ARROW, TokenType.DARROW, TokenType.IS, TokenType.COLLATE, TokenType.DOT, TokenType.DIV,
}  # fmt: skip
_PLACEHOLDERS = {
    TokenType.PLACEHOLDER,
    TokenType.PARAMETER,
    TokenType.SESSION_PARAMETER,
    TokenType.BLOCK_START,
}


@dataclass(frozen=True)
class Admitted:
    """A statement that may run.

    `sql` is what the worker runs; `tables` and `columns` ("table.column") are what it reads; `normalised` is the
    statement for the audit, literals and unknown names replaced.
    """

    sql: str
    tables: tuple[str, ...]
    columns: tuple[str, ...]
    normalised: str


def admit(
    sql: str, tables: Mapping[str, Collection[str]], *, mark: Callable[[str], str] | None = None
) -> Admitted:
    """Admits one SELECT over `tables` (name -> columns), or raises GateRefusal.

    `mark` turns a literal into what the audit keeps of it (a keyed hash); without it each is a question mark.
    """
    tokens = _tokens(sql)
    tree = _parse(sql)
    _check_syntax(tree, sql)
    try:
        regenerated: str = tree.sql(
            dialect="duckdb", comments=False, unsupported_level=sqlglot.ErrorLevel.RAISE
        )
    except (SqlglotError, RecursionError, ValueError):
        regenerated = ""
    original_tree = _engine_tree(sql)
    quoted = {token.text for token in tokens if token.token_type is TokenType.IDENTIFIER}
    use = check_tree(original_tree, tables, quoted)
    text = sql
    if regenerated:
        try:
            if _shape(_engine_tree(regenerated)) == _shape(original_tree):
                text = regenerated
        except GateRefusal:
            pass
    return Admitted(
        sql=text,
        tables=tuple(sorted(use.tables)),
        columns=tuple(sorted(f"{table}.{column}" for table, column in use.columns)),
        normalised=normalise(tokens, tables, mark or _question_mark),
    )


def _tokens(sql: str) -> list[Token]:
    """The statement's tokens, after the caps that keep both parsers safe."""
    if not sql.strip():
        raise GateRefusal("The statement is empty.", hint="Write one SELECT.", construct="empty")
    if len(sql) > rules.MAX_CHARACTERS:
        raise GateRefusal(
            f"The statement has more than {rules.MAX_CHARACTERS:,} characters.",
            hint="Join with the table value_set, or ask in several statements.",
            construct="length",
        )
    _check_raw_depth(sql)
    if "\x00" in sql:
        raise GateRefusal("The statement holds a NUL character.", hint="Write plain text.", construct="NUL")
    try:
        tokens: list[Token] = _DIALECT.tokenize(sql)
    except (SqlglotError, RecursionError, ValueError):
        raise GateRefusal(
            "The statement cannot be read: a quote or a comment is not closed.",
            hint="Check quotes: '…' for text, \"…\" for names.",
            construct="syntax",
        ) from None
    if len(tokens) > rules.MAX_TOKENS:
        raise GateRefusal(
            f"The statement has more than {rules.MAX_TOKENS:,} words and signs.",
            hint="Join with the table value_set, or ask in several statements.",
            construct="length",
        )
    _check_depth(tokens)
    return tokens


def _check_raw_depth(sql: str) -> None:
    """A first look, cheap and rough, that spares the tokeniser a wall of brackets."""
    depth = 0
    for found in _BRACKETS.finditer(sql):
        depth += 1 if found[0] in "([{" else -1 if found[0] in ")]}" else 0
        if depth > 4 * rules.MAX_DEPTH:
            raise _too_deep()


def _too_deep() -> GateRefusal:
    return GateRefusal(
        f"The statement nests more than {rules.MAX_DEPTH} deep.",
        hint="Name the inner parts in a WITH clause.",
        construct="nesting",
    )


def _check_depth(tokens: list[Token]) -> None:
    depth = 0
    chains = [0]
    for token in tokens:
        kind = token.token_type
        if kind in _OPENERS:
            depth += 1
            chains.append(0)
            if depth > rules.MAX_DEPTH:
                raise _too_deep()
        elif kind in _CLOSERS and depth:
            depth -= 1
            chains.pop()
        elif kind in _CHAIN_BREAKERS:
            if kind is TokenType.COMMA:
                chains[-1] = 0
        elif kind in _OPERATIONS:
            chains[-1] += 1
            if chains[-1] > rules.MAX_CHAIN:
                raise GateRefusal(
                    f"The statement has more than {rules.MAX_CHAIN} operators in a row.",
                    hint="Use IN (…) in place of many OR, and a WITH clause in place of many UNION.",
                    construct="nesting",
                )
        elif kind in _PLACEHOLDERS:
            name, hint = rules.CONSTRUCTS["PARAMETER"]
            raise GateRefusal(f"{name[0].upper()}{name[1:]} is not admitted.", hint=hint, construct=name)


def _parse(sql: str) -> exp.Expression:
    try:
        statements = [tree for tree in sqlglot.parse(sql, read=_DIALECT) if tree is not None]
    except SqlglotError as error:
        raise _syntax_refusal(error) from None
    except (RecursionError, ValueError, AttributeError, TypeError, IndexError, KeyError):
        raise GateRefusal(
            "The statement cannot be read.",
            hint="Simplify it, or name parts in a WITH clause.",
            construct="syntax",
        ) from None
    statements = [tree for tree in statements if not isinstance(tree, exp.Semicolon)]
    if len(statements) != 1:
        raise GateRefusal(
            "One statement at a time." if statements else "The statement is empty.",
            hint="Send each SELECT on its own.",
            construct="several statements" if statements else "empty",
        )
    return statements[0]


def _syntax_refusal(error: SqlglotError) -> GateRefusal:
    where = ""
    details = getattr(error, "errors", None)
    if details and details[0].get("line"):
        where = f" near line {details[0]['line']}, column {details[0]['col']}"
    return GateRefusal(
        f"The statement cannot be read{where}.",
        hint="It must be one SELECT in DuckDB's SQL.",
        construct="syntax",
    )


def _check_syntax(tree: exp.Expression, sql: str) -> None:
    kind = type(tree).__name__
    if not isinstance(tree, exp.Query | exp.Values):
        name, hint = rules.STATEMENTS.get(kind, "this statement"), ""
        if isinstance(tree, exp.Command):
            name = shown(str(tree.this)).upper() or name
        if kind == "Pivot":
            hint = rules.CONSTRUCTS["PIVOT"][1]
        raise GateRefusal(
            f"Only SELECT is admitted; {name} is not.",
            hint=hint or _statement_hint(name),
            construct=name,
        )
    for node in tree.walk():
        kind = type(node).__name__
        if kind in rules.SYNTAX:
            continue
        if kind in _CONSTRUCTS:
            name, hint = rules.CONSTRUCTS[_CONSTRUCTS[kind]]
        elif kind in rules.STATEMENTS:
            name, hint = rules.STATEMENTS[kind], _statement_hint(rules.STATEMENTS[kind])
        elif isinstance(node, exp.Func):
            raise function_refusal(_written(sql) or _snake(kind))
        else:
            name, hint = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind).upper(), ""
        raise GateRefusal(f"{name[0].upper()}{name[1:]} is not admitted.", hint=hint, construct=name)


_CONSTRUCTS = {
    "Columns": "COLUMNS",
    "Pivot": "PIVOT",
    "UnpivotColumns": "PIVOT",
    "Placeholder": "PARAMETER",
    "Parameter": "PARAMETER",
    "SessionParameter": "PARAMETER",
    "Lambda": "LAMBDA",
    "Comprehension": "COMPREHENSION",
    "Try": "TRY",
    "Version": "AT",
    "HistoricalData": "AT",
}
"""sqlglot's class of a refused part -> its entry in `gate_rules.CONSTRUCTS`."""


def _statement_hint(name: str) -> str:
    known = rules.STATEMENT_HINTS.get(name) or instead(name)
    return known or "Queries only read. Keep intermediate results as a WITH clause."


def _snake(kind: str) -> str:
    """JSONObject -> json_object."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", kind).lower()


def _written(sql: str) -> str:
    """The first function that is not admitted, as the caller spelled it: sqlglot has one name for many spellings."""
    try:
        waiting = [_engine_tree(sql)]
    except GateRefusal:
        return ""
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            name = str(part.get("function_name") or "").lower()
            if name and name not in rules.FUNCTIONS:
                return name
            waiting.extend(reversed(part.values()))
        elif isinstance(part, list):
            waiting.extend(reversed(part))
    return ""


class _Parser:
    """DuckDB's own parser: an empty, locked instance that is never asked to run anything but json_serialize_sql."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection = duckdb.connect(
            ":memory:",
            config={
                "enable_external_access": "false",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "python_enable_replacements": "false",
                "threads": "1",
                "memory_limit": "256MB",
                "max_expression_depth": "700",
            },
        )
        self._connection.execute("SET lock_configuration = true")

    def tree(self, sql: str) -> Any:
        """The parse tree of `sql` as Python values; an "error" entry where it cannot be read."""
        query = "SELECT json_serialize_sql(?::VARCHAR, skip_null := true, skip_empty := true, skip_default := true)"
        with self._lock:
            row = self._connection.execute(query, [sql]).fetchone()
        return json.loads(row[0]) if row else {"error": True}


_parser = functools.cache(_Parser)
atexit.register(_parser.cache_clear)  # else DuckDB prints, at the end of the process, what it takes for leaks


def _engine_tree(sql: str) -> Any:
    try:
        answer = _parser().tree(sql)
    except (duckdb.Error, RecursionError, ValueError):
        answer = {"error": True}
    if answer.get("error") or len(answer.get("statements", ())) != 1:
        if answer.get("error_type") == "not implemented":
            raise GateRefusal(
                "Only SELECT is admitted; this statement is not.",
                hint="PIVOT is written as one aggregate with FILTER (WHERE …) a column.",
                construct="this statement",
            )
        raise GateRefusal(
            "The engine cannot read the statement.",
            hint="It must be one SELECT in DuckDB's SQL.",
            construct="syntax",
        )
    return answer["statements"][0]


def _shape(tree: Any) -> Any:
    """The tree without positions in the text."""
    if isinstance(tree, dict):
        if tree.get("class") == "TYPE":
            tree = {**tree, "type_name": str(tree.get("type_name")).lower(), "qualified_name": None}
        return {key: _shape(value) for key, value in tree.items() if not key.startswith("query_location")}
    if isinstance(tree, list):
        return [_shape(value) for value in tree]
    return tree


def _question_mark(_: str) -> str:
    return "?"
