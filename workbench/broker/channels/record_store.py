"""Reads the record store: one member's row out of a million, in a few milliseconds.

It runs inside a worker of the mode `record`, which has the store's folder and nothing else. Rows are sorted by member
in small row groups; which group a member would be in is known from the files' own statistics.
"""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

MEMBER, RECORD, RISK = "member_id", "record", "risk"
COLUMNS = (RECORD, RISK)
ROWS_PER_GROUP = 256
"""A look-up decodes one row group: smaller ones are quicker to read, and make the files' footers larger."""


class RecordStore:
    """The open parts of one record store."""

    def __init__(self, parts: list[Path]):
        self._files = [pq.ParquetFile(part) for part in parts]
        self._groups: list[tuple[str, str, int, int]] = []
        for number, file in enumerate(self._files):
            for group in range(file.metadata.num_row_groups):
                statistics = file.metadata.row_group(group).column(0).statistics
                self._groups.append((statistics.min, statistics.max, number, group))
        self._groups.sort()
        self._firsts = [first for first, _, _, _ in self._groups]

    def lookup(self, member: str, column: str) -> str | None:
        """One column of a member's row; None where the store has no such member."""
        place = bisect_right(self._firsts, member) - 1
        if place < 0 or member > self._groups[place][1]:
            return None
        _, _, number, group = self._groups[place]
        rows = self._files[number].read_row_group(group, columns=[MEMBER, column], use_threads=False)
        at = pc.index(rows.column(MEMBER), member).as_py()
        if at < 0:
            return None
        value: str | None = rows.column(column)[at].as_py()
        return "null" if value is None else value
