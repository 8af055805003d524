"""The audit log: every decision and every read, in a keyed hash chain.

Each event carries three keyed hashes (HMAC-SHA-256): `seal` over what it says, `stamp` over the seal and the time,
`link` over the previous link and the stamp. So a verifier can tell a changed record from a restamped, a missing, a
reordered and a cut-off one. The key evolves at every checkpoint and the old one is destroyed: who breaks in today
cannot rewrite yesterday. The first key and the signed checkpoints stand in a second place, which belongs to the
auditors; it is the first key that verifies.

If an event cannot be written, nothing is served: `record` raises AuditUnavailable.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import queue
import secrets
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from workbench.broker.state import State, metadata
from workbench.errors import WorkbenchError

EVENTS_PER_CHECKPOINT = 1_000
_ENVIRONMENT = "WORKBENCH_AUDIT"
"""Folder of the checkpoints and of the verification key; by default audit/ beside the broker's state."""

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
    sa.Index("audit_event_user", "user", "at"),
    sa.Index("audit_event_query", "query_id"),
)

SAID = (
    "event", "query_id", "user", "grant", "purpose", "channel", "server", "release", "slice", "statement", "tables",
    "columns", "rows", "bytes", "ms", "outcome", "code", "reason", "detail",
)  # fmt: skip
"""The columns that the seal covers, with seq and epoch."""


class AuditUnavailable(WorkbenchError):
    """The audit log cannot be written, so nothing may be served."""

    code = "audit-unavailable"
    http_status = 503

    def __init__(self) -> None:
        super().__init__(
            "The audit log cannot be written, so nothing is served.",
            hint="Tell your operator: the broker's state may be out of space.",
        )


@dataclass(frozen=True)
class Finding:
    """One thing that the verifier found: changed, restamped, missing, reordered, truncated or checkpoint."""

    kind: str
    first: int
    last: int
    says: str


def audit_folder(state: Path) -> Path:
    """The second place."""
    value = os.environ.get(_ENVIRONMENT)
    return Path(value).absolute() if value else state.parent / f"{state.name}-audit"


class Audit:
    """The one writer of the log. Events that come together are made durable together."""

    def __init__(
        self, state: State, *, folder: Path | None = None, events_per_checkpoint: int = EVENTS_PER_CHECKPOINT
    ):
        self._engine = state.engine
        self._state_folder = state.folder
        self._second = folder or audit_folder(state.folder)
        self._second.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._every = events_per_checkpoint
        self._literal_key = _key_file(state.folder / "literals.key")
        _end_line(self._second / "checkpoints.jsonl")
        self._epoch, self._key = self._open_key()
        with self._engine.connect() as connection:
            last = connection.execute(
                sa.select(audit_event.c.seq, audit_event.c.link).order_by(audit_event.c.seq.desc()).limit(1)
            ).first()
        self._seq, self._link = (int(last.seq), str(last.link)) if last else (0, "")
        checkpoints = _read_checkpoints(self._second)
        self._checkpointed = checkpoints[-1]["seq"] if checkpoints else 0
        if self._checkpointed > self._seq:
            self._seq = (
                self._checkpointed
            )  # the missing events stay visible as a gap; numbers are not used twice
        self._head = (self._second / "head").open("r+b" if (self._second / "head").exists() else "w+b")
        self._queue: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._closed = False
        self._writer = threading.Thread(target=self._work, name="audit", daemon=True)
        self._writer.start()

    def record(self, event: str, **said: Any) -> None:
        """Writes one event and returns when it is durable; raises AuditUnavailable."""
        self.submit(event, **said).result()

    def submit(self, event: str, **said: Any) -> Future[None]:
        """Hands one event to the writer; the future ends when it is durable, or with AuditUnavailable."""
        unknown = set(said) - set(SAID)
        if unknown:
            raise TypeError(f"not a column of the audit log: {sorted(unknown)}")
        future: Future[None] = Future()
        if self._closed:
            future.set_exception(AuditUnavailable())
            return future
        values = {name: _plain(said.get(name)) for name in SAID} | {"event": event}
        self._queue.put(_Order(values, _now(), future))
        return future

    def mark(self, literal: str) -> str:
        """A keyed hash of a literal: equal literals have equal marks, and nobody without the key can guess one."""
        return "#" + hmac.new(self._literal_key, literal.encode(), hashlib.sha256).hexdigest()[:12]

    def close(self) -> None:
        """Writes what waits, sets a checkpoint and ends."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            self._writer.join()
            self._head.close()

    def _work(self) -> None:
        going = True
        while going:
            orders = [self._queue.get()]
            while len(orders) < 256:
                try:
                    orders.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            going = None not in orders
            batch = [order for order in orders if order is not None]
            if batch:
                self._write(batch)
            if self._seq - self._checkpointed >= self._every or (
                not going and self._seq > self._checkpointed
            ):
                try:
                    self._checkpoint()
                except OSError:
                    continue

    def _write(self, batch: list[_Order]) -> None:
        seq, link = self._seq, self._link
        rows = []
        for order in batch:
            seq += 1
            row: dict[str, Any] = order.values | {"seq": seq, "at": order.at, "epoch": self._epoch}
            row["seal"] = _seal(self._key, row)
            row["stamp"] = _hash(self._key, row["seal"], row["at"])
            link = row["link"] = _hash(self._key, link, row["stamp"])
            rows.append(row)
        try:
            with self._engine.begin() as connection:
                connection.execute(sa.insert(audit_event), rows)
            self._write_head(seq, link)
        except (sa.exc.SQLAlchemyError, OSError):
            for order in batch:
                order.future.set_exception(AuditUnavailable())
            self._find_end()
            return
        self._seq, self._link = seq, link
        for order in batch:
            order.future.set_result(None)

    def _find_end(self) -> None:
        """After a failure: what the log holds now, so that the next event follows it."""
        try:
            with self._engine.connect() as connection:
                last = connection.execute(
                    sa.select(audit_event.c.seq, audit_event.c.link)
                    .order_by(audit_event.c.seq.desc())
                    .limit(1)
                ).first()
        except sa.exc.SQLAlchemyError:
            return
        if last is not None and int(last.seq) > self._seq:
            self._seq, self._link = int(last.seq), str(last.link)

    def _write_head(self, seq: int, link: str) -> None:
        body = {"seq": seq, "link": link, "epoch": self._epoch}
        body["seal"] = _hash(self._key, "head", _canonical(body))
        self._head.seek(0)
        self._head.write(json.dumps(body).encode().ljust(512) + b"\n")
        self._head.flush()

    def _checkpoint(self) -> None:
        """Signs the log's end in the second place, then replaces the key by its successor."""
        entry = {"epoch": self._epoch, "seq": self._seq, "link": self._link, "at": _now()}
        entry["seal"] = _hash(self._key, "checkpoint", _canonical(entry))
        with (self._second / "checkpoints.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._checkpointed = self._seq
        self._epoch, self._key = self._epoch + 1, _next_key(self._key)
        _write_key(self._state_folder / "audit.key", {"epoch": self._epoch, "key": self._key.hex()})

    def _open_key(self) -> tuple[int, bytes]:
        path = self._state_folder / "audit.key"
        if not path.exists():
            first = secrets.token_bytes(32)
            _write_key(self._second / "verify.key", {"epoch": 0, "key": first.hex()})
            _write_key(path, {"epoch": 0, "key": first.hex()})
        stored = json.loads(path.read_text())
        epoch, key = int(stored["epoch"]), bytes.fromhex(stored["key"])
        for entry in _read_checkpoints(self._second):
            if entry["epoch"] == epoch:  # the checkpoint was written, the key not yet replaced
                epoch, key = epoch + 1, _next_key(key)
                _write_key(path, {"epoch": epoch, "key": key.hex()})
        return epoch, key


@dataclass(frozen=True)
class _Order:
    values: dict[str, Any]
    at: str
    future: Future[None]


def events(engine: sa.Engine, *, user: str | None = None, grant: str | None = None, since: str | None = None,
           limit: int = 1000) -> list[dict[str, Any]]:  # fmt: skip
    """The newest events, oldest first, without the chain's hashes."""
    query = sa.select(*(audit_event.c[name] for name in ("seq", "at", *SAID)))
    if user:
        query = query.where(audit_event.c.user == user)
    if grant:
        query = query.where(audit_event.c.grant == grant)
    if since:
        query = query.where(audit_event.c.at >= since)
    query = query.order_by(audit_event.c.seq.desc()).limit(limit)
    with engine.connect() as connection:
        rows = [dict(row._mapping) for row in connection.execute(query)]
    for row in rows:
        for name in ("tables", "columns"):
            row[name] = json.loads(row[name]) if row[name] else []
    return rows[::-1]


def verify(engine: sa.Engine, folder: Path) -> list[Finding]:
    """What is wrong with the log, judged by the first key and the checkpoints in `folder`; empty if nothing is."""
    first = folder / "verify.key"
    if not first.exists():
        return [Finding("checkpoint", 0, 0, "The verification key is not in the auditors' folder.")]
    checkpoints, head = _read_checkpoints(folder), _read_head(folder)
    chain = _Keys(bytes.fromhex(json.loads(first.read_text())["key"]))
    with engine.connect() as connection:
        rows = [
            dict(row._mapping)
            for row in connection.execute(sa.select(audit_event).order_by(audit_event.c.seq))
        ]
    findings = list(_judge_rows(rows, chain))
    last = rows[-1]["seq"] if rows else 0
    by_seq = {row["seq"]: row for row in rows}
    promised = last
    for entry in checkpoints:
        body = {name: entry[name] for name in ("epoch", "seq", "link", "at")}
        if not hmac.compare_digest(
            _hash(chain.key(entry["epoch"]), "checkpoint", _canonical(body)), entry["seal"]
        ):
            findings.append(
                Finding("checkpoint", entry["seq"], entry["seq"], "A checkpoint's signature is wrong.")
            )
            continue
        promised = max(promised, entry["seq"])
        row = by_seq.get(entry["seq"])
        if row is not None and row["link"] != entry["link"]:
            findings.append(
                Finding("changed", entry["seq"], entry["seq"], "The log differs from its checkpoint.")
            )
    if [entry["epoch"] for entry in checkpoints] != list(range(len(checkpoints))):
        findings.append(Finding("checkpoint", 0, 0, "Checkpoints are missing or out of order."))
    if head is not None:
        body = {name: head[name] for name in ("seq", "link", "epoch")}
        if hmac.compare_digest(_hash(chain.key(head["epoch"]), "head", _canonical(body)), head["seal"]):
            promised = max(promised, head["seq"])
        else:
            findings.append(
                Finding("checkpoint", head["seq"], head["seq"], "The signature of the log's head is wrong.")
            )
    if promised > last:
        findings.append(
            Finding("truncated", last + 1, promised, "The log ends before the end that was signed.")
        )
    return findings


def _judge_rows(rows: list[dict[str, Any]], chain: _Keys) -> list[Finding]:
    findings: list[Finding] = []
    broken: list[dict[str, Any]] = []
    expected, link = 1, ""
    for row in rows:
        seq, key = row["seq"], chain.key(row["epoch"])
        if seq > expected:
            findings.append(Finding("missing", expected, seq - 1, "Events are missing."))
        whole = hmac.compare_digest(_seal(key, row), row["seal"])
        stamped = hmac.compare_digest(_hash(key, row["seal"], row["at"]), row["stamp"])
        linked = seq > expected or hmac.compare_digest(_hash(key, link, row["stamp"]), row["link"])
        if not whole:
            broken.append(row)
        elif not stamped:
            findings.append(Finding("restamped", seq, seq, "The time of an event was changed."))
        elif not linked:
            findings.append(Finding("changed", seq, seq, "An event does not follow the one before it."))
        link, expected = row["link"], seq + 1
    for row in broken[:1000]:
        places = (other["seq"] for other in broken[:1000] if other is not row)
        home = next(
            (seq for seq in places if _seal(chain.key(row["epoch"]), row | {"seq": seq}) == row["seal"]), None
        )
        if home is not None:
            findings.append(
                Finding("reordered", row["seq"], home, f"This event was written as number {home}.")
            )
        else:
            findings.append(Finding("changed", row["seq"], row["seq"], "What an event says was changed."))
    findings.extend(Finding("changed", row["seq"], row["seq"], "Changed.") for row in broken[1000:])
    return findings


class _Keys:
    """The keys of all epochs, worked out from the first."""

    def __init__(self, first: bytes):
        self._keys = [first]

    def key(self, epoch: int) -> bytes:
        if not 0 <= epoch < 10_000_000:
            return b""
        while len(self._keys) <= epoch:
            self._keys.append(_next_key(self._keys[-1]))
        return self._keys[epoch]


def _seal(key: bytes, row: Mapping[str, Any]) -> str:
    return _hash(key, "event", _canonical({name: row[name] for name in (*SAID, "seq", "epoch")}))


def _hash(key: bytes, *parts: str) -> str:
    digest = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        raw = part.encode()
        digest.update(len(raw).to_bytes(8, "big"))
        digest.update(raw)
    return digest.hexdigest()


def _canonical(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _plain(value: Any) -> Any:
    return json.dumps(list(value)) if isinstance(value, list | tuple | set) else value


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _next_key(key: bytes) -> bytes:
    return hmac.new(key, b"workbench audit: next epoch", hashlib.sha256).digest()


def _key_file(path: Path) -> bytes:
    if not path.exists():
        _write_key(path, {"key": secrets.token_hex(32)})
    return bytes.fromhex(json.loads(path.read_text())["key"])


def _write_key(path: Path, content: Mapping[str, Any]) -> None:
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def _end_line(path: Path) -> None:
    """Ends a line that a crash cut, so that the next checkpoint stands on its own."""
    if path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size:
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")


def _read_checkpoints(folder: Path) -> list[dict[str, Any]]:
    path = folder / "checkpoints.jsonl"
    if not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue  # a line cut by a crash: its epoch's key was not replaced either
    return entries


def _read_head(folder: Path) -> dict[str, Any] | None:
    try:
        head: dict[str, Any] = json.loads((folder / "head").read_bytes())
    except (OSError, ValueError):
        return None
    return head
