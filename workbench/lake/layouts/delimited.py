"""Reads the wanted columns of a delimited file that has no quoting, with exact row numbers, in bounded memory.

Rows that do not fit are told apart by a reason: not UTF-8, too few fields, too many.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv as pa_csv

from workbench.lake.layouts.files import row_blocks

DAMAGED, SHORT, LONG = "not UTF-8", "short row", "long row"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
Refused = list[tuple[int, str]]
"""(source row, reason) of the rows that do not fit."""


class Delimited:
    """The columns `wanted` of files whose rows have the fields `names`, as text."""

    def __init__(self, names: Sequence[str], wanted: Collection[str], delimiter: str):
        self._names, self._delimiter = list(names), delimiter
        self._wanted = [name for name in names if name in wanted]
        self._places = [self._names.index(name) for name in self._wanted]
        self.schema = pa.schema([("source_row", pa.int64()), *((name, pa.string()) for name in self._wanted)])

    def rows(self, path: Path, skip: int, stop: int, refused: Refused) -> pa.RecordBatchReader:
        """Lines `skip`+1 .. `stop` as (source_row from 1 after the skipped, wanted columns).

        Rows that do not fit go to `refused`, which is complete when the reader is at its end. Carriage returns at
        the end of a line are dropped.
        """

        def batches() -> Iterator[pa.RecordBatch]:
            for first, count, block in row_blocks(path, skip, stop):
                yield from self._block(first, count, block, refused)

        return pa.RecordBatchReader.from_batches(self.schema, batches())

    def _block(self, first: int, count: int, block: bytes, refused: Refused) -> Iterator[pa.RecordBatch]:
        plain = b"\r" not in block and not block.startswith(BYTE_ORDER_MARK) and _is_utf8(block)
        parsed = self._parse(block) if plain else None
        if parsed and parsed[0].num_rows + len(parsed[1]) == count:
            yield self._numbered(np.arange(first, first + count), *parsed, refused)
        else:
            yield from self._line_by_line(first, block, refused)

    def _line_by_line(self, first: int, block: bytes, refused: Refused) -> Iterator[pa.RecordBatch]:
        """The same for a block that the parser could misread: carriage returns, bytes that are not UTF-8."""
        width, found = len(self._names), []
        for number, line in enumerate(block.split(b"\n"), first):
            try:
                fields = line.rstrip(b"\r").decode().split(self._delimiter)
            except UnicodeDecodeError:
                refused.append((number, DAMAGED))
                continue
            if len(fields) == width:
                found.append((number, *(fields[place] for place in self._places)))
            else:
                refused.append((number, SHORT if len(fields) < width else LONG))
        if found:
            columns = zip(*found, strict=True)
            yield pa.record_batch([pa.array(values) for values in columns], schema=self.schema)

    def _numbered(
        self, numbers: np.ndarray, table: pa.Table, odd: list[tuple[int, int]], refused: Refused
    ) -> pa.RecordBatch:
        for place, fields in odd:
            refused.append((int(numbers[place]), SHORT if fields < len(self._names) else LONG))
        kept = np.delete(numbers, [place for place, _ in odd]) if odd else numbers
        columns = [column.combine_chunks() for column in table.columns]
        return pa.record_batch([pa.array(kept, pa.int64()), *columns], schema=self.schema)

    def _parse(self, block: bytes) -> tuple[pa.Table, list[tuple[int, int]]] | None:
        """The rows of the right width, and (place in the block, number of fields) of the others."""
        odd: list[tuple[int, int]] = []

        def other_width(row: pa_csv.InvalidRow) -> str:
            odd.append((row.number - 1, row.actual_columns))
            return "skip"

        block += b"\n"
        try:
            table = pa_csv.read_csv(
                pa.py_buffer(block),
                read_options=pa_csv.ReadOptions(
                    column_names=self._names, use_threads=False, block_size=len(block) + 1
                ),
                parse_options=pa_csv.ParseOptions(
                    delimiter=self._delimiter,
                    quote_char=False,
                    escape_char=False,
                    ignore_empty_lines=False,
                    invalid_row_handler=other_width,
                ),
                convert_options=pa_csv.ConvertOptions(
                    include_columns=self._wanted,
                    column_types=dict.fromkeys(self._wanted, pa.string()),
                    strings_can_be_null=False,
                    check_utf8=False,
                ),
            )
        except pa.ArrowInvalid:
            return None
        return table, odd


def _is_utf8(block: bytes) -> bool:
    if block.isascii():
        return True
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True
