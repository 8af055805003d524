"""Reads text files row by row with exact row numbers, in bounded memory."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pa_csv

from workbench.lake.layouts import SourceFile, SourceRefused

if TYPE_CHECKING:
    from workbench.lake.layouts.stage import Stage

BLOCK = 16 << 20
LINES_BLOCK = 2 << 20
"""Small enough that the engine's threads share one file."""
LINES = pa.schema([("source_row", pa.int64()), ("line", pa.string()), ("damaged", pa.bool_())])
RECORDS = pa.schema([("source_row", pa.int64()), ("record", pa.string())])


def source_file(folder: Path, path: Path, kind: str) -> SourceFile:
    """Hashes one file. Raises SourceRefused where it cannot be opened."""
    digest = hashlib.sha256()
    name = path.relative_to(folder).as_posix()
    try:
        with path.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
        size = path.stat().st_size
    except OSError:
        raise SourceRefused(
            f"{name} cannot be opened.",
            hint="Check that the file is complete and readable, then build again.",
        ) from None
    return SourceFile(path, name, kind, digest.hexdigest(), size)


def lines(path: Path, skip: int = 0, stop: int | None = None) -> pa.RecordBatchReader:
    """Lines `skip`+1 .. `stop` of a file as (source_row from 1 after the skipped, line, damaged).

    A line that is not UTF-8 is damaged: its bad bytes are replaced. Carriage returns at the end are dropped.
    """
    return pa.RecordBatchReader.from_batches(LINES, _lines(path, skip, stop))


def _lines(path: Path, skip: int, stop: int | None) -> Iterator[pa.RecordBatch]:
    for first, count, block in row_blocks(path, skip, stop):
        split: pa.Array = pc.split_pattern(_as_array(block), b"\n").values
        numbers = pa.array(np.arange(first, first + count), pa.int64())
        text, damaged = _decode(split)
        if b"\r" in block:
            text = pc.utf8_rtrim(text, "\r")
        yield pa.record_batch([numbers, text, damaged], schema=LINES)


def row_blocks(path: Path, skip: int, stop: int | None) -> Iterator[tuple[int, int, bytes]]:
    """Lines `skip`+1 .. `stop` of a file in blocks: number of the first (1 after the skipped), how many, the bytes."""
    line = 0
    for block in _blocks(path):
        count = block.count(b"\n") + 1
        first, last = max(skip, line), line + count if stop is None else min(line + count, stop)
        if first < last:
            if first > line or last < line + count:
                block = b"\n".join(block.split(b"\n")[first - line : last - line])
            yield first - skip + 1, last - first, block
        line += count


def _as_array(block: bytes) -> pa.Array:
    """One binary value without a copy (pa.scalar takes twenty times as long)."""
    offsets = np.array([0, len(block)], dtype=np.int32)
    return pa.Array.from_buffers(pa.binary(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(block)])


def _blocks(path: Path) -> Iterator[bytes]:
    rest = b""
    with path.open("rb") as handle:
        while block := handle.read(LINES_BLOCK):
            block = rest + block
            cut = block.rfind(b"\n")
            if cut < 0:
                rest = block
                continue
            rest = block[cut + 1 :]
            yield block[:cut]
    if rest:
        yield rest


def _decode(part: pa.Array) -> tuple[pa.Array, pa.Array]:
    try:
        return part.cast(pa.string()), pa.array(np.zeros(len(part), bool))
    except pa.ArrowInvalid:
        raw = part.to_pylist()
        text = [value.decode("utf-8", "replace") for value in raw]
        good = [value.encode() == given for value, given in zip(text, raw, strict=True)]
        return pa.array(text, pa.string()), pa.array([not ok for ok in good], pa.bool_())


def line_records(path: Path, skip: int, stop: int | None = None) -> pa.RecordBatchReader:
    """Lines `skip`+1 .. `stop` of a file as (source_row, record)."""
    batches = (
        batch.select(["source_row", "line"]).rename_columns(RECORDS.names)
        for batch in lines(path, skip, stop)
    )
    return pa.RecordBatchReader.from_batches(RECORDS, batches)


def csv_header(file: SourceFile) -> list[str]:
    """The column names of a CSV file. Raises SourceRefused where there are none or one is there twice."""
    try:
        with file.path.open(encoding="utf-8-sig", errors="replace", newline="") as handle:
            names = [name.strip() for name in next(csv.reader(handle), [])]
    except csv.Error:
        names = []
    if not names or len(set(names)) != len(names):
        raise SourceRefused(
            f"{file.name} has no readable row of column names, or one name twice.",
            hint="The file must be CSV in UTF-8 with a header row.",
        )
    return names


def load_csv(
    file: SourceFile, number: int, stage: Stage, table: str, needed: tuple[str, ...] = ()
) -> list[str]:
    """Loads a CSV file into the temporary table `table`, all columns VARCHAR, with source_file and source_row.

    Rows with too few or too many fields are set aside; all rows are counted on the stage. Returns the columns.
    Raises SourceRefused where a needed column is missing or the file is no CSV in UTF-8.
    """
    names = csv_header(file)
    missing = [name for name in needed if name not in names]
    if missing:
        raise SourceRefused(
            f"{file.name} has no column {', '.join(missing)}.",
            hint="Compare its header row with the layout, then send the file again.",
        )
    bad: list[tuple[int, str]] = []
    con = stage.con
    try:
        con.register("csv_rows", _csv_batches(file, names, bad))
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT {number}::SMALLINT AS source_file, * FROM csv_rows"
        )
    except (pa.ArrowInvalid, duckdb.Error):
        raise SourceRefused(
            f"{file.name} is not CSV in UTF-8 throughout.",
            hint="Check its quoting and encoding, then send it again.",
        ) from None
    finally:
        con.unregister("csv_rows")
    kept = con.sql(f"SELECT count(*) FROM {table}").fetchall()[0][0]
    if bad:
        con.register(
            "csv_bad", pa.table({"source_row": [n for n, _ in bad], "record": [text for _, text in bad]})
        )
        stage.set_aside(
            f"SELECT {number} AS source_file, source_row, 'wrong number of fields' AS reason, record FROM csv_bad"
        )
        con.unregister("csv_bad")
    stage.count(number, kept + len(bad))
    return names


def csv_records(file: SourceFile) -> pa.RecordBatchReader:
    """The rows of a CSV file as (source_row, record), the record as a JSON object."""
    names = csv_header(file)

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in _csv_batches(file, names, []):
            numbers = batch.column("source_row")
            rows = batch.select(names).to_pylist()
            yield pa.record_batch([numbers, pa.array([json.dumps(row) for row in rows])], schema=RECORDS)

    return pa.RecordBatchReader.from_batches(RECORDS, batches())


def _csv_batches(file: SourceFile, names: list[str], bad: list[tuple[int, str]]) -> pa.RecordBatchReader:
    def refuse(row: pa_csv.InvalidRow) -> str:
        bad.append((row.number - 1, row.text))
        return "skip"

    reader = pa_csv.open_csv(
        file.path,
        read_options=pa_csv.ReadOptions(column_names=names, skip_rows=1, use_threads=False, block_size=BLOCK),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=refuse),
        convert_options=pa_csv.ConvertOptions(
            column_types={name: pa.string() for name in names}, strings_can_be_null=False
        ),
    )
    schema = pa.schema([("source_row", pa.int64()), *((name, pa.string()) for name in names)])

    def batches() -> Iterator[pa.RecordBatch]:
        row, passed = 0, 0
        for batch in reader:
            numbers = []
            for _ in range(batch.num_rows):
                row += 1
                while passed < len(bad) and bad[passed][0] == row:
                    row, passed = row + 1, passed + 1
                numbers.append(row)
            yield pa.record_batch([pa.array(numbers, pa.int64()), *batch.columns], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())
