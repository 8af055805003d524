"""What the log keeps of a statement: the words of SQL and of the slice; literals and other names as marks."""

from __future__ import annotations

import string
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import SqlglotError
from sqlglot.tokens import Token, TokenType

from workbench.broker import gate_rules as rules

_LITERALS = {
    TokenType.STRING,
    TokenType.NUMBER,
    TokenType.HEX_STRING,
    TokenType.BIT_STRING,
    TokenType.BYTE_STRING,
    TokenType.RAW_STRING,
    TokenType.HEREDOC_STRING,
    TokenType.UNICODE_STRING,
    TokenType.NATIONAL_STRING,
}


def redact(sql: str, tables: Mapping[str, Collection[str]], mark: Callable[[str], str]) -> str:
    """A statement as the audit keeps it, refused ones too: only words of SQL and of the slice stay readable."""
    if len(sql) > rules.MAX_CHARACTERS:
        return f"{mark(sql)} [{len(sql)} characters]"
    try:
        tokens = DuckDB().tokenize(sql)
    except (SqlglotError, RecursionError, ValueError):
        return f"{mark(sql)} [{len(sql)} characters]"
    return normalise(tokens, tables, mark)


@dataclass(frozen=True)
class _Known:
    """Names that stay readable: in double quotes those of the slice, else single letters and those of SQL too."""

    of_slice: frozenset[str]
    all: frozenset[str]


def _known_names(tables: Mapping[str, Collection[str]]) -> _Known:
    columns = {column.lower() for columns in tables.values() for column in columns}
    of_slice = frozenset(columns | {name.lower() for name in tables})
    return _Known(of_slice, of_slice | rules.FUNCTIONS | rules.TYPES | set(string.ascii_lowercase))


def normalise(
    tokens: Sequence[Token], tables: Mapping[str, Collection[str]], mark: Callable[[str], str]
) -> str:
    """Words of SQL and of the slice as they are; literals and other names marked; long lists as one mark."""
    known = _known_names(tables)
    parts: list[str] = []
    run: list[str] = []

    def flush() -> None:
        if len(run) > 12:
            parts.append(f"{mark(chr(0).join(run))}[{len(run)}]")
        else:
            parts.extend(", ".join(mark(text) for text in run).split(" ") if run else [])
        run.clear()

    for position, token in enumerate(tokens):
        kind = token.token_type
        if kind in _LITERALS:
            run.append(token.text)
            continue
        if (
            kind is TokenType.COMMA
            and run
            and position + 1 < len(tokens)
            and tokens[position + 1].token_type in _LITERALS
        ):
            continue
        flush()
        name = token.text.lower()
        readable = name in (known.of_slice if kind is TokenType.IDENTIFIER else known.all)
        if kind in (TokenType.VAR, TokenType.IDENTIFIER) and not readable:
            parts.append(f"name:{mark(name)}")
        elif readable or _is_word_of_sql(token):
            parts.append(token.text.lower())
        else:
            parts.append(mark(token.text))
    flush()
    return " ".join(parts)


_KEYWORDS = {word.upper() for phrase in DuckDB.Tokenizer.KEYWORDS for word in phrase.split()}


def _is_word_of_sql(token: Token) -> bool:
    text = token.text.upper()
    return not any(character.isalnum() for character in text) or all(
        word in _KEYWORDS for word in text.split()
    )
