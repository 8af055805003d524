"""Which members of the slice an answer names, for the log: found in the worker, while the batches pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

MOST = 100_000
"""Distinct texts that are kept of one column of an answer, and members that are told of one answer."""


class Found:
    """The texts of one answer's columns. Lists of texts count as texts; a value that was worked on is not recognised."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, table: str, column: str):
        self._connection = connection
        self._table, self._column = table, column
        self._texts: dict[int, set[str]] = {}
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
                known = self._texts.setdefault(number, set())
                known.update(text for text in pc.unique(column).to_pylist() if text is not None)
                if len(known) > MOST:
                    self._full.add(number)

    def members(self) -> dict[str, Any]:
        """`{"members": [ids], "capped": bool}`: those of the texts that are members of the slice."""
        found: set[str] = set()
        capped = False
        for number, texts in self._texts.items():
            of_column = self._those_of_the_slice(texts)
            capped = capped or bool(of_column and number in self._full)
            found |= of_column
        kept = sorted(found)[:MOST]
        return {"members": kept, "capped": capped or len(kept) < len(found)}

    def _those_of_the_slice(self, texts: set[str]) -> set[str]:
        if not texts:
            return set()
        query = f'SELECT DISTINCT "{self._column}" FROM "{self._table}" WHERE "{self._column}" IN (SELECT unnest(?))'
        return {row[0] for row in self._connection.execute(query, [list(texts)]).fetchall()}


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
