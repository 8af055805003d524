"""The audit log's table, and the keyed hashes that chain its rows."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from workbench.broker.state import metadata

audit_event = sa.Table(
    "audit_event",
    metadata,
    sa.Column(
        "seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False
    ),
    sa.Column("at", sa.String(32), nullable=False),
    sa.Column("event", sa.String(32), nullable=False),
    sa.Column("query_id", sa.String(32)),
    sa.Column("user", sa.String(128)),
    sa.Column("grant", sa.String(128)),
    sa.Column("purpose", sa.String(64)),
    sa.Column("channel", sa.String(32)),
    sa.Column("server", sa.String(256)),
    sa.Column("release", sa.String(128)),
    sa.Column("slice", sa.String(128)),
    sa.Column("statement", sa.Text),
    sa.Column("tables", sa.Text),
    sa.Column("columns", sa.Text),
    sa.Column("rows", sa.BigInteger),
    sa.Column("bytes", sa.BigInteger),
    sa.Column("ms", sa.Float),
    sa.Column("outcome", sa.String(32)),
    sa.Column("code", sa.String(64)),
    sa.Column("reason", sa.Text),
    sa.Column("detail", sa.Text),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("seal", sa.String(64), nullable=False),
    sa.Column("stamp", sa.String(64), nullable=False),
    sa.Column("link", sa.String(64), nullable=False),
    sa.Column("members", sa.BigInteger),
    sa.Column("subject", sa.String(32)),
    sa.Column("returned", sa.String(80)),
    sa.Index("audit_event_user", "user", "at"),
    sa.Index("audit_event_query", "query_id"),
    sa.Index("audit_event_kind", "event", "at"),
    sa.Index("audit_event_subject", "subject"),
)

SAID_AT_FIRST = (
    "event", "query_id", "user", "grant", "purpose", "channel", "server", "release", "slice", "statement", "tables",
    "columns", "rows", "bytes", "ms", "outcome", "code", "reason", "detail",
)  # fmt: skip
SAID_SINCE = ("members", "subject", "returned")
"""`members`: how many were in the answer; `subject`: mark of the member asked for; `returned`: the answer's list."""
SAID = (*SAID_AT_FIRST, *SAID_SINCE)
"""The columns that the seal covers, with seq and epoch."""


PRUNED = "audit-pruned"
"""The event that says through which number the log was pruned; `detail` is JSON with `through`."""


DAMAGED = "audit-damaged"
"""The event that says what a broker found wrong with the log when it opened it: code, reason, and `detail` as JSON with
`first` and `last`."""


def seal_of(key: bytes, row: Mapping[str, Any]) -> str:
    """The keyed hash of what a row says. A later column counts only where it says something: old seals stay good."""
    said = {name: row[name] for name in (*SAID_AT_FIRST, "seq", "epoch")}
    said |= {name: row[name] for name in SAID_SINCE if row[name] is not None}
    return keyed_hash(key, "event", canonical(said))


def migrate(engine: sa.Engine) -> None:
    """Gives a log of an earlier version the columns and indexes that came since."""
    missing = _missing(engine)
    with engine.begin() as connection:
        quote = engine.dialect.identifier_preparer.quote
        for name in missing:
            kind = audit_event.c[name].type.compile(engine.dialect)
            connection.execute(sa.text(f"ALTER TABLE audit_event ADD COLUMN {quote(name)} {kind}"))
        for index in audit_event.indexes:
            index.create(connection, checkfirst=True)


def readable(engine: sa.Engine) -> list[sa.ColumnElement[Any]]:
    """Every column for a SELECT; empty where the log is still that of an earlier version."""
    missing = _missing(engine)
    return [sa.null().label(c.name) if c.name in missing else c for c in audit_event.c]


def _missing(engine: sa.Engine) -> list[str]:
    there = {column["name"] for column in sa.inspect(engine).get_columns(audit_event.name)}
    return [name for name in SAID_SINCE if name not in there]


def keyed_hash(key: bytes, *parts: str) -> str:
    """HMAC-SHA-256 over the parts, each with its length, as hexadecimal digits."""
    digest = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        raw = part.encode()
        digest.update(len(raw).to_bytes(8, "big"))
        digest.update(raw)
    return digest.hexdigest()


def canonical(value: Mapping[str, Any]) -> str:
    """One text for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def next_key(key: bytes) -> bytes:
    """The key of the next epoch: one way, so that the former key cannot be worked out."""
    return hmac.new(key, b"workbench audit: next epoch", hashlib.sha256).digest()


def years_before(moment: datetime, years: int) -> str:
    """The time so many years before, as the log writes times."""
    moment = moment.astimezone(UTC)
    try:
        earlier = moment.replace(year=moment.year - years)
    except ValueError:  # 29 February
        earlier = moment.replace(year=moment.year - years, day=28)
    return earlier.isoformat(timespec="microseconds")


def read_checkpoints(folder: Path) -> list[dict[str, Any]]:
    """The checkpoints in order, without the lines that are none."""
    return [entry for entry in _checkpoint_lines(folder) if entry is not None]


def has_strange_checkpoints(folder: Path) -> bool:
    """Whether there is a line that is whole and no checkpoint: no crash leaves one."""
    return None in _checkpoint_lines(folder)


def _checkpoint_lines(folder: Path) -> list[dict[str, Any] | None]:
    path = folder / "checkpoints.jsonl"
    if not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue  # a line cut by a crash: its epoch's key was not replaced either
        entries.append(_fields(entry, ("epoch", "seq"), ("link", "at", "seal")))
    return entries


def _fields(entry: Any, numbers: tuple[str, ...], texts: tuple[str, ...]) -> dict[str, Any] | None:
    """These fields of a signed entry; None where one is not there or cannot have been written by a broker."""
    if not isinstance(entry, dict):
        return None
    for name in numbers:
        value = entry.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
            return None
    for name in texts:
        if not isinstance(entry.get(name), str) or not entry[name].isascii():
            return None
    return {name: entry[name] for name in (*numbers, *texts)}


def read_head(folder: Path) -> dict[str, Any] | None:
    """The last signed end of the log; None where there is none that can be read."""
    try:
        head = json.loads((folder / "head").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return _fields(head, ("seq", "epoch"), ("link", "seal"))
