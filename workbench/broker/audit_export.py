"""The log as a file, with the chain's proof values: JSON lines or Parquet, which `audit verify --file` judges later."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from workbench.broker.audit_chain import audit_event, readable
from workbench.errors import WorkbenchError

Format = Literal["jsonl", "parquet"]
BATCH = 10_000


class NoExport(WorkbenchError):
    """The file is no export of an audit log."""

    code = "no-export"
    http_status = 400


@dataclass(frozen=True)
class Export:
    """A file that was written: how many events, the first and last number, and the file's SHA-256."""

    path: Path
    events: int
    first: int
    last: int
    sha256: str


def export(
    engine: sa.Engine,
    path: Path,
    form: Format,
    *,
    since: str | None = None,
    until: str | None = None,
    through: int | None = None,
) -> Export:
    """Writes the events that fit, every column with epoch, seal, stamp and link, in the order of their numbers.

    The file appears whole or not at all, for its owner alone.
    """
    seq, at = audit_event.c.seq, audit_event.c.at
    query = sa.select(*readable(engine)).order_by(seq)
    if since:  # by number, so that what is written has no gap: threads may be a moment out of order
        query = query.where(seq >= sa.select(sa.func.min(seq)).where(at >= since).scalar_subquery())
    if until:
        query = query.where(seq <= sa.select(sa.func.max(seq)).where(at < until).scalar_subquery())
    if through is not None:
        query = query.where(seq <= through)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    ends: list[int] = []
    count = 0
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file, engine.connect() as connection:
            rows = connection.execution_options(yield_per=BATCH).execute(query)
            write, end = _writer(form, file)
            for batch in rows.partitions(BATCH):
                found = [dict(row._mapping) for row in batch]
                ends = [*ends[:1], found[0]["seq"], found[-1]["seq"]]
                count += len(found)
                write(found)
            end()
            file.flush()
            os.fsync(file.fileno())
        digest = _sha256(temporary)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    return Export(path, count, ends[0] if ends else 0, ends[-1] if ends else 0, digest)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The events of an export, by number. Raises NoExport."""
    try:
        with path.open("rb") as file:
            parquet = file.read(4) == b"PAR1"
        rows = pq.read_table(path).to_pylist() if parquet else list(_lines(path))
    except (OSError, ValueError, pa.ArrowException):
        raise NoExport("The file cannot be read as an export of the log.") from None
    names = set(audit_event.c.keys())
    if any(set(row) != names for row in rows):
        raise NoExport("The file has not the columns of an export of the log.")
    return sorted(rows, key=lambda row: int(row["seq"]))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield dict(json.loads(line))


def _writer(form: Format, file: Any) -> tuple[Callable[[list[dict[str, Any]]], None], Callable[[], None]]:
    if form == "jsonl":
        return (
            lambda rows: file.writelines(json.dumps(row).encode() + b"\n" for row in rows),
            lambda: None,
        )
    writer = pq.ParquetWriter(file, _SCHEMA, compression="zstd")
    return lambda rows: writer.write_table(pa.Table.from_pylist(rows, _SCHEMA)), writer.close


def _arrow_type(column: sa.Column[Any]) -> pa.DataType:
    if isinstance(column.type, sa.Float):
        return pa.float64()
    return pa.int64() if isinstance(column.type, sa.Integer) else pa.string()


_SCHEMA = pa.schema(
    [pa.field(column.name, _arrow_type(column), nullable=bool(column.nullable)) for column in audit_event.c]
)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
