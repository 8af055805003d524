"""Writes an audit log as the broker's first version did: its table, its seals, two checkpoints, head and keys.

A frozen copy of that version's rules on purpose: it must not follow the code that it tests.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sqlite3
from pathlib import Path
from typing import Any

SAID = (
    "event", "query_id", "user", "grant", "purpose", "channel", "server", "release", "slice", "statement", "tables",
    "columns", "rows", "bytes", "ms", "outcome", "code", "reason", "detail",
)  # fmt: skip
TABLE = """CREATE TABLE audit_event (
    seq INTEGER NOT NULL, at VARCHAR(32) NOT NULL, event VARCHAR(32) NOT NULL, query_id VARCHAR(32),
    user VARCHAR(128), "grant" VARCHAR(128), purpose VARCHAR(64), channel VARCHAR(32), server VARCHAR(256),
    release VARCHAR(128), slice VARCHAR(128), statement TEXT, tables TEXT, columns TEXT, rows BIGINT, bytes BIGINT,
    ms FLOAT, outcome VARCHAR(32), code VARCHAR(64), reason TEXT, detail TEXT, epoch INTEGER NOT NULL,
    seal VARCHAR(64) NOT NULL, stamp VARCHAR(64) NOT NULL, link VARCHAR(64) NOT NULL, PRIMARY KEY (seq));
CREATE INDEX audit_event_user ON audit_event (user, at);
CREATE INDEX audit_event_query ON audit_event (query_id);"""


def write(database: Path, state: Path, folder: Path, count: int = 25, every: int = 10) -> None:
    """A log of `count` events with a checkpoint after each `every`, as its broker left it when it ended."""
    for place in (state, folder, database.parent):
        place.mkdir(parents=True, exist_ok=True)
    key, epoch, link, checkpoints = bytes(range(32)), 0, "", []
    (folder / "verify.key").write_text(json.dumps({"epoch": 0, "key": key.hex()}))
    with sqlite3.connect(database) as connection:
        connection.executescript(TABLE)
        for seq in range(1, count + 1):
            row: dict[str, Any] = dict.fromkeys(SAID) | {
                "event": "admitted" if seq % 2 else "ended",
                "user": "ana",
                "grant": "demo-analyst",
                "statement": f"select {seq}",
                "tables": json.dumps(["member"]),
                "rows": seq,
                "ms": 1.5,
                "seq": seq,
                "epoch": epoch,
            }
            at = f"2026-11-20T08:00:{seq:02}.000000+00:00"
            seal = _hash(key, "event", _canonical(row))
            stamp = _hash(key, seal, at)
            link = _hash(key, link, stamp)
            names = ", ".join(f'"{name}"' for name in (*row, "at", "seal", "stamp", "link"))
            marks = ", ".join("?" * (len(row) + 4))
            connection.execute(
                f"INSERT INTO audit_event ({names}) VALUES ({marks})", (*row.values(), at, seal, stamp, link)
            )
            body = {"seq": seq, "link": link, "epoch": epoch}
            head = {**body, "seal": _hash(key, "head", _canonical(body))}
            if seq % every == 0 or seq == count:
                entry = {"epoch": epoch, "seq": seq, "link": link, "at": at}
                entry["seal"] = _hash(key, "checkpoint", _canonical(entry))
                checkpoints.append(json.dumps(entry) + "\n")
                epoch, key = epoch + 1, hmac.new(key, b"workbench audit: next epoch", hashlib.sha256).digest()
    connection.close()
    (folder / "head").write_bytes(json.dumps(head).encode().ljust(512) + b"\n")
    (folder / "checkpoints.jsonl").write_text("".join(checkpoints))
    (state / "audit.key").write_text(json.dumps({"epoch": epoch, "key": key.hex()}))


def _hash(key: bytes, *parts: str) -> str:
    digest = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        digest.update(len(part.encode()).to_bytes(8, "big"))
        digest.update(part.encode())
    return digest.hexdigest()


def _canonical(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
