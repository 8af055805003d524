"""Which functions and types a statement may name, and how large some of their arguments may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.broker import gate_rules as rules
from workbench.broker.gate_refusals import GateRefusal, function_refusal, shown

Tree = Mapping[str, Any]


def check_type(node: Tree) -> None:
    """Raises GateRefusal for a type that is not admitted."""
    name = str(node.get("type_name") or "").lower()
    path = (node.get("qualified_name") or {}).get("path") or [name]
    if name not in rules.TYPES or len(path) != 1:
        plain = "This type is not admitted."
        raise GateRefusal(
            f"The type {shown(name)} is not admitted." if shown(name) else plain,
            hint="Use VARCHAR, BIGINT, DOUBLE, DECIMAL, DATE, TIMESTAMP or BOOLEAN.",
            construct="a type",
            recorded=plain,
        )


def check_function(node: Tree) -> None:
    """Raises GateRefusal for a function that is not admitted, or an argument of it that is too large."""
    name = str(node.get("function_name") or "").lower()
    path = (node.get("qualified_name") or {}).get("path") or [name]
    if node.get("schema") or node.get("catalog") or len(path) != 1:
        raise GateRefusal(
            "Functions are named without a schema.",
            hint="Write the name alone.",
            construct="a qualified function",
        )
    if name != "count_star" and name not in rules.FUNCTIONS:
        raise function_refusal(name)
    if name in rules.BOUNDED_ARGUMENTS:
        _check_bounded(name, node)


def _check_bounded(name: str, node: Tree) -> None:
    arguments = [argument.get("expression") or {} for argument in node.get("arguments") or []]
    for index, what in rules.BOUNDED_ARGUMENTS[name].items():
        if len(arguments) <= index:
            continue
        if what == "pad":
            if not _short_pad(arguments[index]):
                raise GateRefusal(
                    f"{name} takes a literal number of at most {rules.MAX_PAD:,}.",
                    hint="Write the number into the statement.",
                    construct=name,
                )
        elif not _short_text(arguments[index]):
            raise GateRefusal(
                f"{name} takes a literal text of at most {rules.MAX_PATTERN:,} characters here.",
                hint=rules.BOUNDED_HINTS.get(name, rules.BOUNDED_HINTS[""]),
                construct=name,
            )


def _short_text(node: Tree) -> bool:
    if node.get("function_name") == "list_value":
        return all(_short_text(entry.get("expression") or {}) for entry in node.get("arguments") or [])
    text = (node.get("literal") or {}).get("text", "")
    return node.get("class") == "CONSTANT" and len(str(text)) <= rules.MAX_PATTERN


def _short_pad(node: Tree) -> bool:
    """Whether a number is at most MAX_PAD whatever the data are."""
    kind, name = node.get("class"), node.get("function_name")
    arguments = [argument.get("expression") or {} for argument in node.get("arguments") or []]
    if kind == "CONSTANT":
        text = str((node.get("literal") or {}).get("text", ""))
        return text.isdigit() and int(text) <= rules.MAX_PAD
    if kind == "CAST":
        return _short_pad(node.get("child") or {})
    if kind == "FUNCTION" and name in ("greatest", "least"):
        return all(_short_pad(argument) for argument in arguments)
    if kind == "FUNCTION" and name == "-" and len(arguments) == 2:
        return _short_pad(arguments[0]) and _is_length(arguments[1])
    return _is_length(node)


def _is_length(node: Tree) -> bool:
    """length(column): never negative, and a column's text is short."""
    arguments = [argument.get("expression") or {} for argument in node.get("arguments") or []]
    if node.get("class") != "FUNCTION" or node.get("function_name") not in ("length", "len", "strlen"):
        return False
    return len(arguments) == 1 and arguments[0].get("class") == "COLUMN_REF"
