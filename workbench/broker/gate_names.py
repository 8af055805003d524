"""Reads DuckDB's own parse tree: every node, function, type and name must be one that the rules and the slice know.

Names are resolved scope by scope, as the engine does: a name of a WITH clause hides the slice's table of that name
where it can be seen, and nowhere else. Column names are checked so that a refusal can say what was meant.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from workbench.broker import gate_rules as rules
from workbench.broker.gate_functions import Tree, check_function, check_type
from workbench.broker.gate_refusals import (
    GateRefusal,
    function_refusal,
    listed,
    refusal,
    shown,
    unknown_column,
    unknown_source,
    unknown_table,
)

Columns = tuple[str, ...] | None
"""Output columns of a relation in lower case; None where they cannot be told."""

_SYSTEM = re.compile(r"^(duckdb_|pg_|sqlite_|pragma_|information_schema|temp$|system$|main$)")


@dataclass
class Use:
    """What a statement reads."""

    tables: set[str] = field(default_factory=set)
    columns: set[tuple[str, str]] = field(default_factory=set)


@dataclass(frozen=True)
class _Source:
    """One relation in a FROM clause: its name there, the slice's table it is (if it is one), its columns."""

    name: str
    table: str | None
    columns: Columns


@dataclass
class _Scope:
    """What a column name may mean at one place."""

    sources: list[_Source]
    aliases: set[str]
    outer: _Scope | None

    def find(self, column: str, source: str | None) -> list[_Source] | None:
        """The sources that may hold the column, nearest scope first; None if there is none."""
        scope: _Scope | None = self
        while scope is not None:
            named = [s for s in scope.sources if source is None or s.name == source]
            hits = [s for s in named if s.columns is None or column in s.columns]
            if hits:
                return hits
            if source is None and column in scope.aliases:
                return []
            scope = scope.outer
        return None

    def source(self, name: str) -> _Source | None:
        scope: _Scope | None = self
        while scope is not None:
            for source in scope.sources:
                if source.name == name:
                    return source
            scope = scope.outer
        return None

    def names(self) -> set[str]:
        return {source.name for source in self.everything() if source.name}

    def everything(self) -> Iterable[_Source]:
        scope: _Scope | None = self
        while scope is not None:
            yield from scope.sources
            scope = scope.outer


def check_tree(statement: Tree, tables: Mapping[str, Collection[str]], quoted: Collection[str] = ()) -> Use:
    """Checks one statement of the engine's tree; returns what it reads. Raises GateRefusal.

    `quoted` are the names in double quotes: one that is no column may be meant as a text.
    """
    known = {name.lower(): tuple(c.lower() for c in columns) for name, columns in tables.items()}
    walk = _Walk(known, quoted)
    if set(statement) - {"node", "named_param_map"} or statement.get("named_param_map"):
        raise refusal("PARAMETER")
    try:
        walk.query(statement["node"], {}, None)
    except RecursionError:
        raise GateRefusal(
            "The statement nests too deep.",
            hint="Name the inner parts in a WITH clause.",
            construct="nesting",
        ) from None
    return walk.use


class _Walk:
    def __init__(self, tables: Mapping[str, tuple[str, ...]], quoted: Collection[str]):
        self.tables = tables
        self.quoted = quoted
        self.use = Use()

    def query(self, node: Tree, ctes: Mapping[str, Columns], outer: _Scope | None) -> Columns:
        kind = node.get("type")
        if kind not in rules.QUERIES:
            raise refusal(str(kind))
        ctes = self._with(node, ctes, outer)
        if kind == "SET_OPERATION_NODE":
            return self._set_operation(node, ctes, outer)
        sources = self._relation(node.get("from_table") or {"type": "EMPTY"}, ctes, outer)
        select = node.get("select_list") or []
        aliases = {str(e["alias"]).lower() for e in select if isinstance(e, Mapping) and e.get("alias")}
        scope = _Scope(sources, aliases, outer)
        output: list[str] | None = []
        for expression in select:
            self._expression(expression, scope, ctes, top=True)
            output = _extended(output, self._output(expression, scope))
        for part in ("where_clause", "having", "qualify"):
            if node.get(part):
                self._expression(node[part], scope, ctes)
        for expression in node.get("group_expressions") or []:
            self._expression(expression, scope, ctes)
        self._modifiers(node, scope, ctes)
        known = {
            "type", "cte_map", "select_list", "from_table", "where_clause", "group_expressions", "group_sets",
            "aggregate_handling", "having", "sample", "qualify", "modifiers",
        }  # fmt: skip
        _only(node, known)
        return tuple(output) if output is not None else None

    def _with(self, node: Tree, ctes: Mapping[str, Columns], outer: _Scope | None) -> Mapping[str, Columns]:
        seen = dict(ctes)
        for entry in (node.get("cte_map") or {}).get("map") or []:
            name, value = str(entry["key"]).lower(), entry["value"]
            if _SYSTEM.match(name):
                raise unknown_table(name, self.tables)
            if value.get("key_targets") or value.get("payload_aggregates"):
                raise refusal("RECURSIVE_CTE_NODE")
            columns = self.query(value["query_node"], seen, outer)
            seen[name] = _renamed(columns, value.get("aliases"))
        return seen

    def _set_operation(self, node: Tree, ctes: Mapping[str, Columns], outer: _Scope | None) -> Columns:
        children = node.get("children") or [node.get("left"), node.get("right")]
        outputs = [self.query(child, ctes, outer) for child in children if child]
        _only(node, {"type", "cte_map", "setop_type", "setop_all", "children", "left", "right", "modifiers"})
        columns = outputs[0] if outputs else None
        if node.get("setop_type") == "UNION_BY_NAME":
            columns = None if None in outputs else tuple(dict.fromkeys(c for o in outputs for c in o or ()))
        self._modifiers(node, _Scope([_Source("", None, columns)], set(), outer), ctes)
        return columns

    def _modifiers(self, node: Tree, scope: _Scope, ctes: Mapping[str, Columns]) -> None:
        for modifier in node.get("modifiers") or []:
            if modifier.get("type") not in rules.MODIFIERS:
                raise refusal(str(modifier.get("type")))
            _only(modifier, {"type", "orders", "limit", "offset", "limit_type", "distinct_on_targets"})
            for order in modifier.get("orders") or []:
                expression = order["expression"]
                if not (expression.get("class") == "STAR" and not expression.get("expr")):  # ORDER BY ALL
                    self._expression(expression, scope, ctes)
            for part in ("limit", "offset"):
                if modifier.get(part):
                    self._expression(modifier[part], scope, ctes)
            for expression in modifier.get("distinct_on_targets") or []:
                self._expression(expression, scope, ctes)

    def _relation(self, node: Tree, ctes: Mapping[str, Columns], outer: _Scope | None) -> list[_Source]:
        kind = node.get("type")
        if kind not in rules.RELATIONS:
            raise self._relation_refusal(node)
        if kind == "EMPTY":
            return []
        if kind == "JOIN":
            return self._join(node, ctes, outer)
        alias = str(node.get("alias") or "").lower()
        if kind == "BASE_TABLE":
            return [self._base_table(node, alias, ctes)]
        if kind == "EXPRESSION_LIST":
            scope = _Scope([], set(), outer)
            for row in node.get("values") or []:
                for expression in row:
                    self._expression(expression, scope, ctes)
            return [
                _Source(
                    alias, None, _renamed(None, node.get("expected_names") or node.get("column_name_alias"))
                )
            ]
        _only(node, {"type", "alias", "sample", "subquery", "column_name_alias", *_POSITIONS})
        columns = self.query(node["subquery"]["node"], ctes, outer)
        return [_Source(alias, None, _renamed(columns, node.get("column_name_alias")))]

    def _base_table(self, node: Tree, alias: str, ctes: Mapping[str, Columns]) -> _Source:
        if node.get("at_clause"):
            raise refusal("AT")
        raw = str(node.get("table_name") or "")
        path = (node.get("qualified_name") or {}).get("path") or [raw]
        if node.get("schema_name") or node.get("catalog_name") or len(path) != 1 or path[0] != raw:
            raise GateRefusal(
                "Names of schemas and catalogs are not admitted.",
                hint=f"Write the table's name alone: {listed(self.tables)}.",
                construct="a qualified name",
            )
        name = raw.lower()
        if name in ctes:
            return _Source(alias or name, None, _renamed(ctes[name], node.get("column_name_alias")))
        if name not in self.tables:
            raise unknown_table(raw, self.tables)
        self.use.tables.add(name)
        columns = self.tables[name]
        renamed = node.get("column_name_alias")
        if renamed:
            self.use.columns.update((name, column) for column in columns)
        return _Source(alias or name, name if not renamed else None, _renamed(columns, renamed))

    def _join(self, node: Tree, ctes: Mapping[str, Columns], outer: _Scope | None) -> list[_Source]:
        reference = node.get("ref_type") or "REGULAR"
        if reference not in rules.JOINS:
            raise refusal(str(reference))
        if node.get("ranking_expression"):
            raise refusal("NEAREST")
        left = self._relation(node["left"], ctes, outer)
        right = self._relation(node["right"], ctes, _Scope(left, set(), outer))
        scope = _Scope(left + right, set(), outer)
        if node.get("condition"):
            self._expression(node["condition"], scope, ctes)
        for column in node.get("using_columns") or []:
            self._column([str(column)], scope)
        if node.get("join_type") in ("SEMI", "ANTI"):
            return left
        return left + right

    def _relation_refusal(self, node: Tree) -> GateRefusal:
        function = node.get("function") or {}
        name = str(function.get("function_name") or "").lower()
        if node.get("type") == "TABLE_FUNCTION" and shown(name):
            return function_refusal(name, what="table function", hint=rules.CONSTRUCTS["TABLE_FUNCTION"][1])
        return refusal(str(node.get("type")))

    def _expression(
        self, node: Tree, scope: _Scope, ctes: Mapping[str, Columns], *, top: bool = False
    ) -> None:
        kind = node.get("class")
        if kind not in rules.EXPRESSIONS:
            raise refusal(str(kind))
        if kind == "COLUMN_REF":
            self._column([str(part) for part in node["column_names"]], scope)
            return
        if kind == "CONSTANT":
            return
        if kind == "TYPE":
            check_type(node)
        elif kind in ("FUNCTION", "WINDOW"):
            check_function(node)
        elif kind == "COLLATE":
            if str(node.get("collation")).lower() not in rules.COLLATIONS:
                raise GateRefusal(
                    "This collation is not admitted.", hint="Use NOCASE or lower(…).", construct="COLLATE"
                )
        elif kind == "OPERATOR" and node.get("type") in ("OPERATOR_TRY", "OPERATOR_UNPACK"):
            raise refusal(str(node["type"]).removeprefix("OPERATOR_"))
        elif kind == "STAR":
            self._star(node, scope, ctes, top=top)
            return
        elif kind == "SUBQUERY":
            self.query(node["subquery"]["node"], ctes, scope)
            if node.get("child"):
                self._expression(node["child"], scope, ctes)
            return
        for key, value in node.items():
            if key not in rules.PLAIN_KEYS:
                self._inside(value, scope, ctes)

    def _inside(self, value: Any, scope: _Scope, ctes: Mapping[str, Columns]) -> None:
        """Whatever an expression holds: expressions, in lists and in named parts; nothing else may have a node."""
        if isinstance(value, Mapping):
            if "class" in value:
                self._expression(value, scope, ctes)
                return
            if "node" in value or "select_list" in value or "table_name" in value:
                raise refusal("an unknown part")
            for key, inner in value.items():
                if key not in rules.PLAIN_KEYS:
                    self._inside(inner, scope, ctes)
        elif isinstance(value, list):
            for inner in value:
                self._inside(inner, scope, ctes)

    def _star(self, node: Tree, scope: _Scope, ctes: Mapping[str, Columns], *, top: bool) -> None:
        if node.get("columns") or node.get("expr"):
            raise refusal("COLUMNS")
        relation = str(node.get("relation_name") or "").lower()
        if relation and scope.source(relation) is None:
            raise unknown_source(relation, scope.names())
        for entry in node.get("replace_list") or []:
            self._inside(entry.get("value"), scope, ctes)
        left_out = _left_out(node)
        if top:
            for source in scope.sources:
                if source.table and (not relation or source.name == relation):
                    columns = (c for c in source.columns or () if c not in left_out)
                    self.use.columns.update((source.table, column) for column in columns)

    def _column(self, parts: list[str], scope: _Scope) -> None:
        names = [part.lower() for part in parts]
        if len(names) > 1 and (source := scope.source(names[0])) is not None:
            if source.columns is not None and names[1] not in source.columns:
                raise self._unknown_column(parts[1], [source])
            if source.table:
                self.use.columns.add((source.table, names[1]))
            return
        found = scope.find(names[0], None)
        if found is None:
            if len(names) == 1 and (names[0] in rules.ENGINE_NAMES or self._whole_row(names[0], scope)):
                return
            if len(names) > 1:
                raise unknown_source(parts[0], scope.names())
            raise self._unknown_column(parts[0], scope.everything())
        self.use.columns.update((source.table, names[0]) for source in found if source.table)

    def _unknown_column(self, name: str, sources: Iterable[_Source]) -> GateRefusal:
        seen = [(source.name, source.columns) for source in sources]
        return unknown_column(name, seen, self.tables, quoted=name in self.quoted)

    def _whole_row(self, name: str, scope: _Scope) -> bool:
        """A relation's name used as a value stands for the whole row."""
        source = scope.source(name)
        if source is None:
            return False
        if source.table:
            self.use.columns.update((source.table, column) for column in source.columns or ())
        return True

    def _output(self, node: Tree, scope: _Scope) -> list[str] | None:
        """The names that one entry of the SELECT list gives to its relation."""
        if node.get("class") == "STAR":
            relation = str(node.get("relation_name") or "").lower()
            renames = {
                str(r["key"]["column"]).lower(): str(r["value"]).lower()
                for r in node.get("rename_list") or []
            }
            names: list[str] | None = []
            for source in scope.sources:
                if not relation or source.name == relation:
                    names = _extended(names, list(source.columns) if source.columns is not None else None)
            if names is None:
                return None
            return [renames.get(name, name) for name in names if name not in _left_out(node)]
        if node.get("alias"):
            return [str(node["alias"]).lower()]
        if node.get("class") == "COLUMN_REF":
            return [str(node["column_names"][-1]).lower()]
        if node.get("class") in ("FUNCTION", "OPERATOR", "CAST", "WINDOW", "CASE", "CONSTANT"):
            return None if node.get("class") in ("FUNCTION", "CAST") else [""]
        return None


_POSITIONS = ("query_location", "query_location_length")


def _only(node: Tree, known: Collection[str]) -> None:
    unknown = set(node) - set(known) - set(_POSITIONS)
    if unknown:
        raise refusal("an unknown part")


def _extended(names: list[str] | None, more: list[str] | None) -> list[str] | None:
    return None if names is None or more is None else names + more


def _renamed(columns: Columns, aliases: Any) -> Columns:
    if not aliases:
        return columns
    names = tuple(str(alias).lower() for alias in aliases)
    return names if columns is None else names + tuple(columns[len(names) :])


def _left_out(node: Tree) -> set[str]:
    names = {str(name).lower() for name in node.get("exclude_list") or []}
    return names | {str(entry["column"]).lower() for entry in node.get("qualified_exclude_list") or []}
