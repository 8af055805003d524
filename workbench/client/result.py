"""The answer to one query: an Arrow stream that is read when it is needed, with where it comes from."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from workbench.client import show
from workbench.client.errors import ResultCutOff
from workbench.client.progress import Progress

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""Arrow's end mark (IPC streaming format). pyarrow takes a missing one for a normal end, so it is checked here."""
FIRST_ROWS = 10
WAITING = "Waiting for the first rows"
PREVIEW_BYTES = 32 << 20
"""A notebook shows how many rows there are only where finding out keeps less than this in memory."""


@dataclass(frozen=True)
class Provenance:
    """Where an answer comes from, as the broker stamped it."""

    query: str
    grant: str
    level: str
    release: str
    slice: str
    synthetic: bool

    @classmethod
    def from_headers(cls, headers: http.client.HTTPMessage) -> Provenance:
        """Reads X-Query-Id and the X-Workbench-… headers of an answer."""

        def value(name: str) -> str:
            return headers.get(f"X-Workbench-{name}") or ""

        return cls(
            query=headers.get("X-Query-Id") or "",
            grant=value("Grant"),
            level=value("Level"),
            release=value("Release"),
            slice=value("Slice"),
            synthetic=value("Synthetic").lower() == "true",
        )


class ArrowStream:
    """One answer while it arrives. Iterating gives record batches; the end mark is checked at the end."""

    def __init__(self, response: http.client.HTTPResponse):
        self.provenance = Provenance.from_headers(response.headers)
        self._body = _Body(response)
        try:
            with Progress(WAITING):
                self._reader = pa.ipc.open_stream(self._body)
        except (pa.ArrowInvalid, OSError, http.client.HTTPException) as failure:
            self.close()
            raise _cut_off(0) from failure
        self.schema: pa.Schema = self._reader.schema

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        rows = 0
        try:
            with Progress(WAITING) as progress:
                while True:
                    try:
                        batch = self._reader.read_next_batch()
                    except StopIteration:
                        break
                    rows += batch.num_rows
                    progress.show(f"{rows:,} rows so far")
                    yield batch
            if not self._body.ended:
                raise _cut_off(rows)
        except (pa.ArrowInvalid, OSError, http.client.HTTPException) as failure:
            raise _cut_off(rows) from failure
        finally:
            self.close()

    def close(self) -> None:
        """Gives the connection up; a query that still runs ends."""
        self._body.close()


class _Body:
    """The response as the file that pyarrow reads, remembering the last eight bytes."""

    def __init__(self, response: http.client.HTTPResponse):
        self._response = response
        self._tail = b""

    def read(self, size: int | None = None) -> bytes:
        data = self._response.read(size)
        if len(data) >= 8:
            self._tail = data[-8:]
        elif data:
            self._tail = (self._tail + data)[-8:]
        return data

    def readable(self) -> bool:
        return True

    @property
    def closed(self) -> bool:
        return False

    @property
    def ended(self) -> bool:
        """Whether the end mark came and nothing after it."""
        return self._tail == END_OF_STREAM and not self._response.read(1)

    def close(self) -> None:
        self._response.close()


def _cut_off(rows: int) -> ResultCutOff:
    return ResultCutOff(
        f"The answer broke off after {rows:,} rows; it is not complete and is not used.",
        hint="The query may have met a limit of time or memory, or the broker restarted: try again, or ask for less.",
    )


class Result:
    """Rows of one query. `.arrow()`, `.pandas()`, `.polars()`, or iterate over record batches as they arrive.

    The query was admitted when the result exists; rows are read on demand. What `.arrow()` and its sisters read is
    kept; what iteration reads is not, and a second reading asks the broker again.
    """

    def __init__(
        self,
        sql: str,
        ask: Callable[[], ArrowStream],
        verdict: Callable[[], str],
        why: Callable[[str], str] = lambda query: "",
    ):
        self.sql = sql
        self._ask = ask
        self._why = why
        self._verdict = verdict
        self._stream: ArrowStream | None = ask()
        self._table: pa.Table | None = None
        self._first: list[pa.RecordBatch] = []
        self._rest: Iterator[pa.RecordBatch] | None = None
        self.schema: pa.Schema = self._stream.schema
        self.provenance: Provenance = self._stream.provenance

    @property
    def columns(self) -> list[str]:
        """The column names in order."""
        return list(self.schema.names)

    @property
    def verdict(self) -> str:
        """What the slice of this grant can and cannot say."""
        return self._verdict()

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Record batches as they arrive; memory stays small. Raises ResultCutOff where the answer is incomplete."""
        if self._table is not None:
            yield from self._table.to_batches()
            return
        yield from self._take_first()
        rest, self._rest = self._rest, None
        if rest is None:
            rest = iter(self._open())
        try:
            yield from rest
        except ResultCutOff as cut:
            raise self._told(cut) from cut.__cause__

    def reader(self) -> pa.RecordBatchReader:
        """The rows as a RecordBatchReader, e.g. for polars or a local DuckDB."""
        return pa.RecordBatchReader.from_batches(self.schema, iter(self))

    def arrow(self) -> pa.Table:
        """All rows as a pyarrow table."""
        if self._table is None:
            self._table = pa.Table.from_batches(list(self), schema=self.schema)
        return self._table

    def pandas(self) -> pd.DataFrame:
        """All rows as a pandas frame: dates as datetime64, money as exact Decimal."""
        return cast("pd.DataFrame", self.arrow().to_pandas(date_as_object=False))

    def polars(self) -> pl.DataFrame:
        """All rows as a polars frame."""
        import polars

        return cast("pl.DataFrame", polars.from_arrow(self.arrow()))

    def close(self) -> None:
        """Ends a result that will not be read to its end."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self._rest = None

    def __enter__(self) -> Result:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def num_rows(self) -> int:
        """The number of rows; reads them all."""
        return int(self.arrow().num_rows)

    def _open(self) -> ArrowStream:
        stream, self._stream = self._stream, None
        return stream if stream is not None else self._ask()

    def _told(self, cut: ResultCutOff) -> ResultCutOff:
        """The error with the broker's own reason, where it has one."""
        reason = self._why(self.provenance.query)
        return ResultCutOff(f"{cut.reason} {reason}", hint="Ask for less, or try again.") if reason else cut

    def _take_first(self) -> list[pa.RecordBatch]:
        first, self._first = self._first, []
        return first

    def _preview(self) -> tuple[pa.Table, bool]:
        """What has been read so far, up to PREVIEW_BYTES, and whether that is everything."""
        if self._table is not None:
            return self._table, True
        if self._rest is None:
            self._first, self._rest = [], iter(self._open())
        size = sum(batch.nbytes for batch in self._first)
        while size < PREVIEW_BYTES:
            try:
                batch = next(self._rest, None)
            except ResultCutOff as cut:
                raise self._told(cut) from cut.__cause__
            if batch is None:
                self._table = pa.Table.from_batches(self._take_first(), schema=self.schema)
                self._rest = None
                return self._table, True
            self._first.append(batch)
            size += batch.nbytes
        return pa.Table.from_batches(self._first, schema=self.schema), False

    def __repr__(self) -> str:
        table, complete = self._preview()
        head = table.slice(0, FIRST_ROWS).to_pylist()
        rows = [[show.cell(row[name]) for name in self.columns] for row in head]
        return "\n".join([*show.text_table(self.columns, rows), self._caption(table.num_rows, complete)])

    def _repr_html_(self) -> str:
        table, complete = self._preview()
        head = table.slice(0, FIRST_ROWS).to_pylist()
        return show.panel(
            body=show.html_table(self.columns, [[row[name] for name in self.columns] for row in head]),
            caption=self._caption(table.num_rows, complete),
            note=self.verdict,
            synthetic=self.provenance.synthetic,
        )

    def _caption(self, rows: int, complete: bool) -> str:
        count = f"{rows:,} row{'' if rows == 1 else 's'}" if complete else f"more than {rows:,} rows"
        shown = f", first {FIRST_ROWS} shown" if rows > FIRST_ROWS or not complete else ""
        return f"{count}{shown} · {provenance_line(self.provenance)}"

    def _ipython_key_completions_(self) -> list[str]:
        return self.columns

    def __getitem__(self, column: str) -> Any:
        """One column as a pyarrow chunked array; reads all rows."""
        return self.arrow()[column]


def provenance_line(provenance: Provenance) -> str:
    """Grant, level and release in one line; SYNTHETIC DATA first where the data are invented."""
    parts = [
        "SYNTHETIC DATA" if provenance.synthetic else "",
        f"grant {provenance.grant}" if provenance.grant else "",
        provenance.level.replace("_", " "),
        f"release {provenance.release}" if provenance.release else "",
    ]
    return " · ".join(part for part in parts if part)
