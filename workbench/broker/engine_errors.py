"""The engine's errors as codes and fixed words: its own messages may hold values, literals and paths.

Only a type's or a function's name is taken over from a message, and only where it is one that the rules know.
"""

from __future__ import annotations

import re

import duckdb
import pyarrow as pa

from workbench.broker import gate_rules as rules

_TYPE = r'"?([A-Z][A-Z0-9_ ]{1,30})(?:\([0-9, ]*\))?(?:\[\])*"?'
_PATTERNS = (
    (
        re.compile(rf"Cannot compare values of type {_TYPE} and (?:type )?{_TYPE}"),
        "type-mismatch",
        "Values of type {0} and {1} cannot be compared.",
        "CAST one of them to the type of the other.",
    ),
    (
        re.compile(r"must appear in the GROUP BY clause|must be part of an aggregate"),
        "not-grouped",
        "A column is neither in GROUP BY nor inside an aggregate.",
        "Add it to GROUP BY, use any_value(…), or write GROUP BY ALL.",
    ),
    (
        re.compile(
            r"aggregate.{0,40}(?:WHERE|not allowed|cannot contain)|(?:WHERE|GROUP BY) clause cannot contain",
            re.S,
        ),
        "misplaced-aggregate",
        "An aggregate or window function stands where the engine does not admit it.",
        "Use HAVING for aggregates, QUALIFY for window functions, or a WITH clause.",
    ),
    (
        re.compile(r"Ambiguous reference"),
        "ambiguous-column",
        "A column name stands in more than one table of the FROM clause.",
        "Write the table's name before the column's.",
    ),
    (
        re.compile(r"No function matches the given name and argument types '?([a-z_0-9]+)\("),
        "wrong-arguments",
        "The function {0} does not take arguments of these types.",
        "CAST the arguments; GET /tables gives the columns' types.",
    ),
    (
        re.compile(rf"(?:Could not convert|Unimplemented type for cast).{{0,400}}? to {_TYPE}", re.S),
        "conversion",
        "A value could not be converted to {0}.",
        "Use TRY_CAST, which gives NULL for such values.",
    ),
    (
        re.compile(r"Set operations can only apply to expressions with the same number"),
        "set-operation",
        "The two sides of a set operation have different numbers of columns.",
        "Give both the same columns, or use UNION ALL BY NAME.",
    ),
    (
        re.compile(r"More than one row returned by a subquery|subquery.{0,40}more than one row", re.S),
        "several-rows",
        "A subquery used as a value gave several rows.",
        "Use IN (…), an aggregate, or a join.",
    ),
)
_BY_CLASS: tuple[tuple[type[Exception], str, str, str], ...] = (
    (duckdb.OutOfMemoryException, "out-of-memory", "The query needs more memory than a worker may use.",
     "Ask for fewer rows or columns, filter earlier, or aggregate in steps."),
    (duckdb.InterruptException, "cancelled", "The query was cancelled.", ""),
    (duckdb.ConversionException, "conversion", "A value could not be converted to the type asked for.",
     "Use TRY_CAST, which gives NULL for such values."),
    (duckdb.OutOfRangeException, "out-of-range", "A number or date left the range of its type.",
     "CAST to a wider type first, e.g. DOUBLE or HUGEINT."),
    (duckdb.ParserException, "syntax", "The engine cannot read the statement.", "It must be one SELECT in DuckDB's SQL."),
    (duckdb.BinderException, "cannot-bind", "The engine cannot make sense of the statement: a name, a type or a place is wrong.",
     "Check names and types against s.tables."),
    (duckdb.CatalogException, "cannot-bind", "The engine does not know a name of the statement.",
     "Check names against s.tables."),
    (duckdb.InvalidInputException, "invalid-input", "A function was given a value that it does not take.",
     "Check patterns, formats and ranges."),
    (duckdb.NotImplementedException, "not-implemented", "The engine cannot do this.", "Write it in another way."),
    (duckdb.PermissionException, "not-permitted", "The engine is locked against this.", "Read the slice's tables by their names."),
    (duckdb.IOException, "slice-unreadable", "The slice cannot be read.", "Tell your operator."),
    (MemoryError, "out-of-memory", "The query needs more memory than a worker may use.",
     "Ask for fewer rows or columns, filter earlier, or aggregate in steps."),
)  # fmt: skip

_SPOKEN = (
    duckdb.BinderException,
    duckdb.ConversionException,
    duckdb.InvalidInputException,
    OSError,
    pa.ArrowException,
)
_NAMES: dict[type[Exception], str] = {
    duckdb.OutOfMemoryException: "Out of Memory",
    duckdb.InterruptException: "INTERRUPT",
    duckdb.ConversionException: "Conversion",
    duckdb.OutOfRangeException: "Out of Range",
    duckdb.InvalidInputException: "Invalid Input",
    duckdb.IOException: "IO",
}
"""How the engine names its errors where they come through an Arrow stream, as text in an OSError."""

_FATAL = re.compile(r"\s*(?:INTERNAL|FATAL) Error:")
"""How such an error begins where it comes through an Arrow stream; the engine refuses everything after it."""

_SPENT = frozenset({"query-failed", "slice-unreadable"})

STATUS = {
    "out-of-memory": 422,
    "text-too-long": 422,
    "time-limit": 422,
    "slice-unreadable": 500,
    "query-failed": 500,
    "cancelled": 499,
}
"""HTTP status of a code where it is not 400."""


_TOO_LONG = {
    "code": "text-too-long",
    "reason": "A text grew beyond the 4 GB that the engine can hold.",
    "hint": "Shorten it with left(…), or join fewer texts.",
}
_UNKNOWN = {
    "code": "query-failed",
    "reason": "The engine failed on this query.",
    "hint": "Write it in another way.",
}


def explain(error: BaseException) -> dict[str, str]:
    """`{"code", "reason", "hint"}` of an engine error, without its message."""
    text = str(error)
    if _FATAL.match(text):
        return dict(_TOO_LONG if "maximum supported string size" in text else _UNKNOWN)
    if isinstance(error, _SPOKEN):
        for pattern, code, reason, hint in _PATTERNS:
            found = pattern.search(text)
            if found:
                names = [_known(group) for group in found.groups()]
                if all(names):
                    return {"code": code, "reason": reason.format(*names), "hint": hint}
    for kind, code, reason, hint in _BY_CLASS:
        if isinstance(error, kind) or f"{_NAMES.get(kind, '-')} Error:" in text[:200]:
            return {"code": code, "reason": reason, "hint": hint}
    if any(words in text for words in ("Failed to allocate", "could not allocate", "bad_alloc")):
        return explain(MemoryError())
    return dict(_UNKNOWN)


def spends(error: BaseException) -> bool:
    """Whether the engine's process cannot be trusted after this error: a fatal or unknown one, or no memory to be had.

    The engine's own limit of memory (OutOfMemoryException) is an ordinary end of a query.
    """
    if _FATAL.match(str(error)):
        return True
    said = explain(error)
    if said["code"] == "out-of-memory":
        return not (
            isinstance(error, duckdb.OutOfMemoryException) or "Out of Memory Error:" in str(error)[:200]
        )
    return said["code"] in _SPENT


def _known(name: str) -> str:
    words = name.strip().lower().removesuffix("[]")
    if words in rules.TYPES or words in ("integer_literal", "string_literal", "null"):
        return words.upper()
    return words if words in rules.FUNCTIONS else ""
