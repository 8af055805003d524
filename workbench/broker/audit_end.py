"""Judges the log's end when a broker opens it, before the broker overwrites any proof of that end.

An event is committed first and the signed `head` is written after it, so a process that dies leaves a head that is
behind the log, never one beyond it. A head or a checkpoint beyond the log therefore says that events were cut off.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from workbench.broker.audit_chain import (
    DAMAGED,
    audit_event,
    canonical,
    keyed_hash,
    next_key,
    read_checkpoints,
    read_head,
)
from workbench.errors import WorkbenchError


class SecondPlaceLost(WorkbenchError):
    """The auditors' folder cannot be used, or lacks what the log hangs on; nothing is served without it."""

    code = "audit-folder-lost"
    http_status = 503


@dataclass(frozen=True)
class Damage:
    """What a broker found wrong with the log's end when it opened it: a kind of Finding, and the events it is about."""

    kind: str
    first: int
    last: int
    says: str

    def said(self) -> dict[str, Any]:
        """The columns of the event that keeps it."""
        detail = json.dumps({"first": self.first, "last": self.last})
        return {"code": self.kind, "reason": self.says, "detail": detail}


def unusable() -> SecondPlaceLost:
    """The second place is there, but not as it must be."""
    return SecondPlaceLost(
        "The auditors' folder (WORKBENCH_AUDIT) cannot be used, so nothing is served.",
        hint="It must be a folder that the broker can write, with the files verify.key, head and checkpoints.jsonl "
        "whole: put them back from its copy.",
    )


def lost() -> SecondPlaceLost:
    """The log is there and its key or its proof is not."""
    return SecondPlaceLost(
        "The audit log and the auditors' folder (WORKBENCH_AUDIT) do not belong together: one of them lacks its key.",
        hint="Put back from its copy what is gone: verify.key of the auditors' folder, or audit.key of the broker's "
        "state. Where no copy is left, keep both for the auditors and start with a new state and a new folder.",
    )


def end_of(engine: sa.Engine) -> tuple[int, str]:
    """Number and link of the last event; 0 and nothing for an empty log."""
    query = sa.select(audit_event.c.seq, audit_event.c.link).order_by(audit_event.c.seq.desc()).limit(1)
    with engine.connect() as connection:
        last = connection.execute(query).first()
    return (int(last.seq), str(last.link)) if last else (0, "")


def judge(engine: sa.Engine, folder: Path, epoch: int, key: bytes) -> tuple[int, list[Damage]]:
    """The number beyond which the next event must stand, and what is wrong that no event tells yet."""
    seq, _ = end_of(engine)
    checkpoints, head = read_checkpoints(folder), read_head(folder)
    promised, found = seq, []
    last: dict[str, Any] = checkpoints[-1] if checkpoints else {"seq": 0, "link": "", "epoch": -1}
    head_good = head is not None and _is_good(head, last, epoch, key, folder)
    if len(checkpoints) < epoch:
        found.append(Damage("checkpoint", 0, 0, "Checkpoints were gone when a broker opened the log."))
    if head is None:
        found.append(
            Damage("checkpoint", 0, 0, "The log's head was gone or unreadable when a broker opened it.")
        )
    elif not head_good:
        found.append(
            Damage("checkpoint", 0, 0, "The log's head was not the last one signed when a broker opened it.")
        )
    ends = [last, head] if head is not None and head_good else [last]
    for end in ends:
        if end["seq"] <= seq and _link_at(engine, end["seq"]) not in (None, end["link"]):
            says = "The event at a signed end was another one when a broker opened the log."
            found.append(Damage("changed", end["seq"], end["seq"], says))
        promised = max(promised, end["seq"])
    if promised > seq:
        says = "The log had been cut off before its signed end when a broker opened it."
        found.append(Damage("truncated", seq + 1, promised, says))
    return promised, [damage for damage in found if not _told(engine, damage)]


def is_signed(head: Mapping[str, Any], key: bytes) -> bool:
    """Whether a head carries the hash of its epoch's key."""
    body = {name: head[name] for name in ("seq", "link", "epoch")}
    return hmac.compare_digest(keyed_hash(key, "head", canonical(body)), head["seal"])


def _is_good(head: Mapping[str, Any], last: Mapping[str, Any], epoch: int, key: bytes, folder: Path) -> bool:
    """Whether this is the last head that was signed, whatever else is damaged.

    One of the epoch before is the very end of its checkpoint; where that is gone, the auditors' first key judges it.
    """
    if head["epoch"] == epoch:
        return is_signed(head, key)
    if head["epoch"] != epoch - 1:
        return False
    if last["epoch"] == head["epoch"]:
        return all(head[name] == last[name] for name in ("seq", "link"))
    former = bytes.fromhex(json.loads((folder / "verify.key").read_text())["key"])
    for _ in range(epoch - 1):
        former = next_key(former)
    return is_signed(head, former)


def _link_at(engine: sa.Engine, seq: int) -> str | None:
    with engine.connect() as connection:
        return connection.scalar(sa.select(audit_event.c.link).where(audit_event.c.seq == seq))


def _told(engine: sa.Engine, damage: Damage) -> bool:
    """Whether the log has an event of it: missing checkpoints stay so, and one event is enough."""
    said = damage.said()
    query = sa.select(sa.func.count()).where(
        audit_event.c.event == DAMAGED, *(audit_event.c[name] == value for name, value in said.items())
    )
    with engine.connect() as connection:
        return bool(connection.scalar(query))
