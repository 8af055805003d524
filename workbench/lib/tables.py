"""The tables that library functions work on: Ibis tables by their dictionary names, wherever they are executed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError
from workbench.schema.dictionary import dictionary

if TYPE_CHECKING:
    import ibis.expr.types as ir


class UnknownTable(WorkbenchError):
    """A table that the data dictionary does not have."""

    code = "unknown-table"
    http_status = 404


class Tables:
    """`t.medical_claim` is the Ibis table of that name; the caller decides what stands behind it."""

    def __init__(self, get: Callable[[str], ir.Table]):
        self._get = get
        self._seen: dict[str, ir.Table] = {}

    @classmethod
    def unbound(cls) -> Tables:
        """Tables without data, with the columns of the dictionary: expressions over them only compile to SQL."""
        import ibis

        return cls(
            lambda name: ibis.table(ibis.Schema.from_pyarrow(dictionary()[name].arrow_schema), name=name)
        )

    @classmethod
    def from_backend(cls, get: Callable[[str], ir.Table]) -> Tables:
        """Tables that `get` looks up by name, e.g. `connection.table` or a session's tables."""
        return cls(get)

    def replace(self, **tables: ir.Table) -> Tables:
        """The same tables but for those given: how a measure is run over a part of the claims."""
        return Tables(lambda name: tables[name] if name in tables else self[name])

    def __getitem__(self, name: str) -> ir.Table:
        if name not in dictionary():
            raise UnknownTable(
                f"The data dictionary has no table {name!r}.", hint=f"It has: {', '.join(dictionary())}."
            )
        if name not in self._seen:
            self._seen[name] = self._get(name)
        return self._seen[name]

    def __getattr__(self, name: str) -> ir.Table:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]
