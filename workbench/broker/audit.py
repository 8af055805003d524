"""The audit log: every decision and every read, in a keyed hash chain.

Each event carries three keyed hashes (HMAC-SHA-256): `seal` over what it says, `stamp` over the seal and the time,
`link` over the previous link and the stamp. So a verifier can tell a changed record from a restamped, a missing, a
reordered and a cut-off one. The key evolves at every checkpoint and the old one is destroyed: who breaks in today
cannot rewrite yesterday. The first key and the signed checkpoints stand in a second place, which belongs to the
auditors; it is the first key that verifies.

If an event cannot be written, nothing is served: `record` raises AuditUnavailable.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from workbench.broker.audit_alerts import Alerts
from workbench.broker.audit_chain import (
    DAMAGED,
    SAID,
    audit_event,
    canonical,
    keyed_hash,
    migrate,
    next_key,
    read_checkpoints,
    read_head,
    seal_of,
)
from workbench.broker.audit_end import Damage, SecondPlaceLost, end_of, judge, lost, unusable
from workbench.broker.audit_marks import Marks
from workbench.broker.audit_read import events
from workbench.broker.audit_verify import Finding, verify
from workbench.broker.state import State
from workbench.errors import WorkbenchError

__all__ = [
    "SAID",
    "Audit",
    "AuditUnavailable",
    "Finding",
    "SecondPlaceLost",
    "audit_event",
    "audit_folder",
    "events",
    "verify",
]

EVENTS_PER_CHECKPOINT = 1_000
LONGEST_TEXT = 300_000
"""Characters of one column: the longest statement that the gate admits fits."""
_ENVIRONMENT = "WORKBENCH_AUDIT"
"""Folder of the checkpoints and of the verification key; by default audit/ beside the broker's state."""


class AuditUnavailable(WorkbenchError):
    """The audit log cannot be written, so nothing may be served."""

    code = "audit-unavailable"
    http_status = 503

    def __init__(self) -> None:
        super().__init__(
            "The audit log cannot be written, so nothing is served.",
            hint="Tell your operator: the broker's state may be out of space.",
        )


def audit_folder(state: Path) -> Path:
    """The second place."""
    value = os.environ.get(_ENVIRONMENT)
    return Path(value).absolute() if value else state.parent / f"{state.name}-audit"


class Audit:
    """The one writer of the log. Events that come together are made durable together.

    Raises SecondPlaceLost where the auditors' folder cannot be used. What is wrong with the log's end becomes an event
    before the proof of it is overwritten, and no number is used twice: what is missing stays visible.
    """

    def __init__(
        self,
        state: State,
        *,
        folder: Path | None = None,
        events_per_checkpoint: int = EVENTS_PER_CHECKPOINT,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ):
        self._engine = state.engine
        migrate(self._engine)
        self._clock = clock
        self._state_folder = state.folder
        self._second = folder or audit_folder(state.folder)
        self._every = events_per_checkpoint
        self._alerts = Alerts(self._second)
        self._seq, self._link = end_of(self._engine)
        try:
            self._epoch, self._key = self._open_key()
            _end_line(self._second / "checkpoints.jsonl")
            self.marks = Marks(_key_file(state.folder / "literals.key"), self._second)
            self._seq, damages = judge(self._engine, self._second, self._epoch, self._key)
            checkpoints = read_checkpoints(self._second)
            self._head = (self._second / "head").open("r+b" if (self._second / "head").exists() else "w+b")
        except (OSError, ValueError, KeyError, TypeError):
            raise unusable() from None
        self._checkpointed = checkpoints[-1]["seq"] if checkpoints else 0
        self._queue: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._closed = False
        self._tell(damages)
        self._writer = threading.Thread(target=self._work, name="audit", daemon=True)
        self._writer.start()

    @property
    def folder(self) -> Path:
        """The auditors' folder."""
        return self._second

    def record(self, event: str, **said: Any) -> int:
        """Writes one event and returns its number when it is durable; raises AuditUnavailable."""
        return int(self.submit(event, **said).result())

    def submit(self, event: str, **said: Any) -> Future[Any]:
        """Hands one event to the writer; the future gives its number when it is durable, or AuditUnavailable."""
        unknown = set(said) - set(SAID)
        if unknown:
            raise TypeError(f"not a column of the audit log: {sorted(unknown)}")
        future: Future[int] = Future()
        if self._closed:
            future.set_exception(AuditUnavailable())
            return future
        self._queue.put(self._order(event, said, future))
        return future

    def mark(self, literal: str) -> str:
        """A keyed hash of a literal: equal literals have equal marks, and nobody without the key can guess one."""
        try:
            return self.marks.literal(literal)
        except OSError:
            raise AuditUnavailable from None

    def subject(self, member_id: str) -> str:
        """The mark of a member who is asked for by id (at levels with tokens: of the token)."""
        return self.marks.subject(member_id)

    def returned(self, ids: Iterable[str], capped: bool) -> str:
        """Keeps the marks of the members (or tokens) in an answer; gives the reference for the column `returned`.

        `capped`: the answer had more than these. It hashes and syncs a file: call it beside an event loop.
        Raises OSError: by then the answer has left, so its end is to be recorded without the list.
        """
        return self.marks.returned(ids, capped)

    def close(self) -> None:
        """Writes what waits, sets a checkpoint and ends."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            self._writer.join()
            self._alerts.close()
            self._head.close()

    def _order(self, event: str, said: Mapping[str, Any], future: Future[int]) -> _Order:
        values = {name: _plain(said.get(name)) for name in SAID} | {"event": event}
        return _Order(values, self._now(), future)

    def _tell(self, damages: list[Damage]) -> None:
        """Writes all of them or none, before there is a writer that could overwrite their proof."""
        orders = [self._order(DAMAGED, damage.said(), Future()) for damage in damages]
        if orders:
            self._write(orders)
            if orders[0].future.exception() is not None:
                self._head.close()
                raise AuditUnavailable

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
        try:
            self._check_place()
            for order in batch:
                seq += 1
                row: dict[str, Any] = order.values | {"seq": seq, "at": order.at, "epoch": self._epoch}
                row["seal"] = seal_of(self._key, row)
                row["stamp"] = keyed_hash(self._key, row["seal"], row["at"])
                link = row["link"] = keyed_hash(self._key, link, row["stamp"])
                rows.append(row)
            with self._engine.begin() as connection:
                connection.execute(sa.insert(audit_event), rows)
            self._write_head(seq, link)
        except Exception:  # whatever it is, the writer lives on and nothing is served unwritten
            for order in batch:
                order.future.set_exception(AuditUnavailable())
            self._find_end()
            return
        self._seq, self._link = seq, link
        for order, row in zip(batch, rows, strict=True):
            self._alerts.tell(row)
            order.future.set_result(row["seq"])

    def _find_end(self) -> None:
        """After a failure: what the log holds now, so that the next event follows it."""
        try:
            seq, link = end_of(self._engine)
        except sa.exc.SQLAlchemyError:
            return
        if seq > self._seq:
            self._seq, self._link = seq, link

    def _check_place(self) -> None:
        """Raises OSError where the auditors' folder, or its head, was removed, moved or replaced."""
        if not os.path.samestat(os.fstat(self._head.fileno()), (self._second / "head").stat()):
            raise FileNotFoundError

    def _write_head(self, seq: int, link: str) -> None:
        self._head.seek(0)
        self._head.write(_signed_head(self._key, self._epoch, seq, link))
        self._head.flush()

    def _checkpoint(self) -> None:
        """Signs the log's end in the second place, then replaces the key by its successor.

        The head is durable first, so no crash leaves one that is older than a checkpoint.
        """
        self._check_place()
        self._write_head(self._seq, self._link)
        os.fsync(self._head.fileno())
        entry = {"epoch": self._epoch, "seq": self._seq, "link": self._link, "at": self._now()}
        entry["seal"] = keyed_hash(self._key, "checkpoint", canonical(entry))
        with (self._second / "checkpoints.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._checkpointed = self._seq
        self._epoch, self._key = self._epoch + 1, next_key(self._key)
        _write_key(self._state_folder / "audit.key", {"epoch": self._epoch, "key": self._key.hex()})

    def _now(self) -> str:
        return self._clock().astimezone(UTC).isoformat(timespec="microseconds")

    def _open_key(self) -> tuple[int, bytes]:
        """Epoch and key. On the very first opening both places are made; a place that is gone later is not."""
        path = self._state_folder / "audit.key"
        if path.exists():
            if not (self._second / "verify.key").is_file():
                raise unusable() if self._second.is_file() else lost()
        else:
            head = read_head(self._second)
            if self._seq or read_checkpoints(self._second) or (head and head["seq"]):
                raise lost()
            self._second.mkdir(mode=0o700, parents=True, exist_ok=True)
            first = secrets.token_bytes(32)
            _write_key(self._second / "verify.key", {"epoch": 0, "key": first.hex()})
            with (self._second / "head").open("wb") as file:
                file.write(_signed_head(first, 0, 0, ""))
                file.flush()
                os.fsync(file.fileno())
            _write_key(path, {"epoch": 0, "key": first.hex()})
        stored = json.loads(path.read_text())
        epoch, key = int(stored["epoch"]), bytes.fromhex(stored["key"])
        for entry in read_checkpoints(self._second):
            if entry["epoch"] == epoch:  # the checkpoint was written, the key not yet replaced
                epoch, key = epoch + 1, next_key(key)
                _write_key(path, {"epoch": epoch, "key": key.hex()})
        return epoch, key


@dataclass(frozen=True)
class _Order:
    values: dict[str, Any]
    at: str
    future: Future[int]


def _plain(value: Any) -> Any:
    """A value as the log keeps it: lists as JSON, texts of a bounded length that every database can store."""
    if isinstance(value, list | tuple | set):
        return json.dumps(list(value))
    if isinstance(value, str):
        text = value.encode("utf-8", "replace").decode().replace("\0", "?")
        return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}… [{len(text)} characters]"
    return value


def _signed_head(key: bytes, epoch: int, seq: int, link: str) -> bytes:
    """The head's file: within one sector of a disk, so that it is written as a whole or not at all."""
    body: dict[str, Any] = {"seq": seq, "link": link, "epoch": epoch}
    body["seal"] = keyed_hash(key, "head", canonical(body))
    return json.dumps(body).encode().ljust(511) + b"\n"


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
