"""Which members of the slice an answer names, for the log: found in the worker, while the batches pass."""

from __future__ import annotations

from collections.abc import Iterator
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
        query = f'SELECT DISTINCT length("{column}") FROM "{table}"'
        self._lengths = [row[0] for row in connection.execute(query).fetchall() if row[0] is not None]

    def could_be(self, texts: pa.Array) -> bool:
        """Whether one of the texts is as long as a member's id; quick, so that it can be asked of every batch."""
        import pyarrow as pa
        import pyarrow.compute as pc

        lengths = pc.utf8_length(texts)
        return bool(pc.any(pc.is_in(lengths, value_set=pa.array(self._lengths, lengths.type))).as_py())

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
    """The texts of one answer's columns, those in lists, arrays and structs too; a value that was worked on is not recognised."""

    def __init__(self, members: Members):
        self._members = members
        self._texts: dict[tuple[int, int], list[pa.Array]] = {}
        self._full: set[tuple[int, int]] = set()
        self._unread: set[tuple[int, int]] = set()
        """Full places at which texts came later that could be members: who fills a column first hides nobody."""

    def look(self, batch: pa.RecordBatch) -> None:
        """Takes the texts of one batch."""
        import pyarrow.compute as pc

        for number, column in enumerate(batch.columns):
            for leaf, texts in enumerate(_texts_of(column)):
                place = number, leaf
                if place in self._full:
                    if place not in self._unread and self._members.could_be(texts):
                        self._unread.add(place)
                    continue
                known = self._texts.setdefault(place, [])
                known.append(pc.unique(texts))
                if len(known[-1]) > MOST or sum(map(len, known)) > COMPACT_ABOVE:
                    self._compact(place)

    def _compact(self, place: tuple[int, int]) -> None:
        import pyarrow as pa

        known = pa.chunked_array(self._texts[place]).unique()
        self._texts[place] = [known]
        if len(known) > MOST:
            self._full.add(place)

    def members(self) -> dict[str, Any]:
        """`{"members": [ids], "capped": bool}`: those of the texts that are members of the slice."""
        found: set[str] = set()
        capped = False
        for place in self._texts:
            self._compact(place)
            texts = self._texts[place][0]
            found |= self._members.among(texts.slice(0, MOST))
            capped = capped or place in self._unread or self._members.could_be(texts.slice(MOST))
        kept = sorted(found)[:MOST]
        return {"members": kept, "capped": capped or len(kept) < len(found)}


def _texts_of(column: pa.Array) -> Iterator[pa.Array]:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        yield column
    elif pa.types.is_struct(kind):
        for field in column.flatten():
            yield from _texts_of(field)
    elif pa.types.is_map(kind):
        yield from _texts_of(column.keys)
        yield from _texts_of(column.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _texts_of(pc.list_flatten(column))
