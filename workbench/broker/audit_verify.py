"""Judges the audit log by the auditors' first key and the signed checkpoints, without the writer's help."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from workbench.broker.audit_chain import (
    audit_event,
    canonical,
    keyed_hash,
    next_key,
    read_checkpoints,
    read_head,
    readable,
    seal_of,
)
from workbench.broker.audit_marks import is_whole


@dataclass(frozen=True)
class Finding:
    """One thing that the verifier found: changed, restamped, missing, reordered, truncated, checkpoint or returned."""

    kind: str
    first: int
    last: int
    says: str


def verify(engine: sa.Engine, folder: Path) -> list[Finding]:
    """What is wrong with the log, judged by the first key and the checkpoints in `folder`; empty if nothing is."""
    first = folder / "verify.key"
    if not first.exists():
        return [Finding("checkpoint", 0, 0, "The verification key is not in the auditors' folder.")]
    checkpoints, head = read_checkpoints(folder), read_head(folder)
    chain = _Keys(bytes.fromhex(json.loads(first.read_text())["key"]))
    with engine.connect() as connection:
        rows = [
            dict(row._mapping)
            for row in connection.execute(sa.select(*readable(engine)).order_by(audit_event.c.seq))
        ]
    findings = list(_judge_rows(rows, chain))
    last = rows[-1]["seq"] if rows else 0
    by_seq = {row["seq"]: row for row in rows}
    promised = last
    for entry in checkpoints:
        body = {name: entry[name] for name in ("epoch", "seq", "link", "at")}
        if not hmac.compare_digest(
            keyed_hash(chain.key(entry["epoch"]), "checkpoint", canonical(body)), entry["seal"]
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
        if hmac.compare_digest(keyed_hash(chain.key(head["epoch"]), "head", canonical(body)), head["seal"]):
            promised = max(promised, head["seq"])
        else:
            findings.append(
                Finding("checkpoint", head["seq"], head["seq"], "The signature of the log's head is wrong.")
            )
    findings.extend(_judge_lists(rows, folder))
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
        whole = hmac.compare_digest(seal_of(key, row), row["seal"])
        stamped = hmac.compare_digest(keyed_hash(key, row["seal"], row["at"]), row["stamp"])
        linked = seq > expected or hmac.compare_digest(keyed_hash(key, link, row["stamp"]), row["link"])
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
            (seq for seq in places if seal_of(chain.key(row["epoch"]), row | {"seq": seq}) == row["seal"]),
            None,
        )
        if home is not None:
            findings.append(
                Finding("reordered", row["seq"], home, f"This event was written as number {home}.")
            )
        else:
            findings.append(Finding("changed", row["seq"], row["seq"], "What an event says was changed."))
    findings.extend(Finding("changed", row["seq"], row["seq"], "Changed.") for row in broken[1000:])
    return findings


def _judge_lists(rows: list[dict[str, Any]], folder: Path) -> Iterator[Finding]:
    """The lists of members in answers, each against the name that its events carry."""
    judged: dict[str, bool] = {}
    for row in rows:
        reference = row["returned"]
        if reference is None:
            continue
        if reference not in judged:
            judged[reference] = is_whole(folder, reference)
        if not judged[reference]:
            yield Finding(
                "returned",
                row["seq"],
                row["seq"],
                "The list of members in this answer is gone or was changed.",
            )


class _Keys:
    """The keys of all epochs, worked out from the first."""

    def __init__(self, first: bytes):
        self._keys = [first]

    def key(self, epoch: int) -> bytes:
        if not 0 <= epoch < 10_000_000:
            return b""
        while len(self._keys) <= epoch:
            self._keys.append(next_key(self._keys[-1]))
        return self._keys[epoch]
