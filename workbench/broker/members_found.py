"""Which members of the slice an answer names, for the log: found in the worker, while the batches pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

MOST = 100_000
"""Distinct texts of one column of an answer that are looked at, and members that are told of one answer."""
COMPACT_ABOVE = 4 * MOST
"""Texts of one column, equal ones of several batches counted apart, above which they are made distinct."""
_TEXTS = "workbench texts of an answer"


class Members:
    """The members of a worker's slice: kept as a set where they are few, else asked for in the engine."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, table: str, column: str):
        self._connection = connection
        self._table, self._column = table, column
        query = f'SELECT DISTINCT "{column}" FROM "{table}" WHERE "{column}" IS NOT NULL LIMIT {MOST + 1}'
        few = {row[0] for row in connection.execute(query).fetchall()}
        self._few = few if len(few) <= MOST else None

    def among(self, texts: pa.Array) -> set[str]:
        """Those of the texts that are members."""
        import pyarrow as pa

        if self._few is not None:
            return self._few.intersection(texts.to_pylist())
        self._connection.register(_TEXTS, pa.table({"text": texts}))
        query = f'SELECT DISTINCT "{self._column}" FROM "{self._table}" SEMI JOIN "{_TEXTS}" ON "{self._column}" = text'
        try:
            return {row[0] for row in self._connection.execute(query).fetchall()}
        finally:
            self._connection.unregister(_TEXTS)


class Found:
    """The texts of one answer's columns. Lists of texts count as texts; a value that was worked on is not recognised."""

    def __init__(self, members: Members):
        self._members = members
        self._texts: dict[int, list[pa.Array]] = {}
        self._full: set[int] = set()

    def look(self, batch: pa.RecordBatch) -> None:
        """Takes the texts of one batch."""
        import pyarrow.compute as pc

        for number, column in enumerate(batch.columns):
            if number in self._full:
                continue
            while _is_list(column.type):
                column = pc.list_flatten(column)
            if _is_text(column.type):
                known = self._texts.setdefault(number, [])
                known.append(pc.unique(column))
                if len(known[-1]) > MOST or sum(map(len, known)) > COMPACT_ABOVE:
                    self._compact(number)

    def _compact(self, number: int) -> None:
        import pyarrow as pa

        known = pa.chunked_array(self._texts[number]).unique()
        self._texts[number] = [known]
        if len(known) > MOST:
            self._full.add(number)

    def members(self) -> dict[str, Any]:
        """`{"members": [ids], "capped": bool}`: those of the texts that are members of the slice."""
        found: set[str] = set()
        capped = False
        for number in self._texts:
            self._compact(number)
            of_column = self._members.among(self._texts[number][0].slice(0, MOST))
            capped = capped or bool(of_column and number in self._full)
            found |= of_column
        kept = sorted(found)[:MOST]
        return {"members": kept, "capped": capped or len(kept) < len(found)}


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
