"""Judges the audit log by the auditors' first key and the signed checkpoints, without the writer's help."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from workbench.broker.audit_chain import (
    PRUNED,
    audit_event,
    canonical,
    keyed_hash,
    next_key,
    read_checkpoints,
    read_head,
    readable,
    seal_of,
    years_before,
)
from workbench.broker.audit_marks import is_whole

SHORTEST_YEARS = 6
"""What is younger was never rightly pruned: 45 CFR 164.316(b)(2)(i), six years. Needs counsel's review."""
NAMED_BROKEN = 1_000
"""So many events whose seal is wrong are told one by one with the place that they came from."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found: changed, restamped, missing, reordered, truncated, checkpoint or returned."""

    kind: str
    first: int
    last: int
    says: str


def verify(engine: sa.Engine, folder: Path, *, now: datetime | None = None) -> list[Finding]:
    """What is wrong with the log, judged by the first key and the checkpoints in `folder`; empty if nothing is.

    A beginning that was pruned as the rules of retention allow is no finding; any other that is gone is `missing`.
    """
    proof = _Proof.read(folder)
    if isinstance(proof, Finding):
        return [proof]
    columns = readable(engine)
    with engine.connect() as connection:
        prunings = connection.execute(sa.select(*columns).where(audit_event.c.event == PRUNED))
        pruned = proof.pruned([dict(row._mapping) for row in prunings], now or datetime.now(UTC))
    with engine.connect() as connection:
        stream = connection.execution_options(yield_per=2_000)
        found = stream.execute(sa.select(*columns).order_by(audit_event.c.seq))
        walk = _Walk(proof, pruned, folder)
        walk.go(dict(row._mapping) for row in found)
    findings = [*walk.findings, *proof.findings]
    if proof.promised > walk.last:
        findings.append(
            Finding(
                "truncated", walk.last + 1, proof.promised, "The log ends before the end that was signed."
            )
        )
    return findings


def verify_rows(rows: Iterable[dict[str, Any]], folder: Path) -> list[Finding]:
    """What is wrong with an export of the log: of its events, their order, and their links to the checkpoints."""
    proof = _Proof.read(folder)
    if isinstance(proof, Finding):
        return [proof]
    rows = list(rows)
    walk = _Walk(proof, rows[0]["seq"] - 1 if rows else 0, folder)
    walk.go(rows)
    return [*walk.findings, *proof.findings]


class _Proof:
    """What the auditors' folder promises: the keys, and the checkpoints and the head whose signatures are good."""

    def __init__(self, first: bytes, entries: list[dict[str, Any]], head: dict[str, Any] | None):
        self.keys = _Keys(first)
        self.findings: list[Finding] = []
        self.links: dict[int, str] = {}
        self._signed_at: dict[int, str] = {}
        self.promised = 0
        for entry in entries:
            self._take(entry)
        if [entry["epoch"] for entry in entries] != list(range(len(entries))):
            self.findings.append(Finding("checkpoint", 0, 0, "Checkpoints are missing or out of order."))
        if head is not None:
            body = {name: head[name] for name in ("seq", "link", "epoch")}
            seal = keyed_hash(self.keys.key(head["epoch"]), "head", canonical(body))
            if hmac.compare_digest(seal, head["seal"]):
                self.promised = max(self.promised, head["seq"])
            else:
                says = "The signature of the log's head is wrong."
                self.findings.append(Finding("checkpoint", head["seq"], head["seq"], says))

    @classmethod
    def read(cls, folder: Path) -> _Proof | Finding:
        """The proof in a folder; a finding where there is no key."""
        first = folder / "verify.key"
        if not first.exists():
            return Finding("checkpoint", 0, 0, "The verification key is not in the auditors' folder.")
        key = bytes.fromhex(json.loads(first.read_text())["key"])
        return cls(key, read_checkpoints(folder), read_head(folder))

    def pruned(self, prunings: list[dict[str, Any]], now: datetime) -> int:
        """Up to which number events may be gone: a sealed pruning names a checkpoint that is old enough."""
        through = 0
        for row in prunings:
            if not hmac.compare_digest(seal_of(self.keys.key(row["epoch"]), row), row["seal"]):
                continue
            last = int(json.loads(row["detail"])["through"])
            at = min(datetime.fromisoformat(row["at"]), now)
            if last in self.links and self._signed_at[last] < years_before(at, SHORTEST_YEARS):
                through = max(through, last)
        return through

    def _take(self, entry: Mapping[str, Any]) -> None:
        body = {name: entry[name] for name in ("epoch", "seq", "link", "at")}
        seal = keyed_hash(self.keys.key(entry["epoch"]), "checkpoint", canonical(body))
        if not hmac.compare_digest(seal, entry["seal"]):
            says = "A checkpoint's signature is wrong."
            self.findings.append(Finding("checkpoint", entry["seq"], entry["seq"], says))
            return
        self.links[entry["seq"]] = entry["link"]
        self._signed_at[entry["seq"]] = entry["at"]
        self.promised = max(self.promised, entry["seq"])


class _Walk:
    """One pass over the events in the order of their numbers; those up to `pruned` may be gone from the beginning."""

    def __init__(self, proof: _Proof, pruned: int, folder: Path):
        self.findings: list[Finding] = []
        self.last = 0
        self._proof, self._pruned, self._folder = proof, pruned, folder
        self._broken: list[dict[str, Any]] = []
        self._lists: dict[str, bool] = {}

    def go(self, rows: Iterable[dict[str, Any]]) -> None:
        """Judges every event, then where those with a wrong seal came from."""
        link: str | None
        expected, link = 1, ""
        for row in rows:
            seq = row["seq"]
            if expected == 1 < seq:
                expected, link = self._beginning(seq)
            if seq > expected:
                self.findings.append(Finding("missing", expected, seq - 1, "Events are missing."))
            self._judge(row, link if seq == expected else None)
            link, expected, self.last = row["link"], seq + 1, seq
        self.findings.extend(self._homes())

    def _beginning(self, seq: int) -> tuple[int, str | None]:
        """The number and link with which the log may begin, when its first event has the number `seq`."""
        if seq <= self._pruned:
            return seq, None
        return self._pruned + 1, self._proof.links.get(self._pruned, "" if not self._pruned else None)

    def _judge(self, row: dict[str, Any], link: str | None) -> None:
        seq, key = row["seq"], self._proof.keys.key(row["epoch"])
        if not hmac.compare_digest(seal_of(key, row), row["seal"]):
            self._broken.append(row)
        elif not hmac.compare_digest(keyed_hash(key, row["seal"], row["at"]), row["stamp"]):
            self.findings.append(Finding("restamped", seq, seq, "The time of an event was changed."))
        elif link is not None and not hmac.compare_digest(keyed_hash(key, link, row["stamp"]), row["link"]):
            self.findings.append(Finding("changed", seq, seq, "An event does not follow the one before it."))
        if self._proof.links.get(seq, row["link"]) != row["link"]:
            self.findings.append(Finding("changed", seq, seq, "The log differs from its checkpoint."))
        reference = row["returned"]
        if reference is not None:
            if reference not in self._lists:
                self._lists[reference] = is_whole(self._folder, reference)
            if not self._lists[reference]:
                says = "The list of members in this answer is gone or was changed."
                self.findings.append(Finding("returned", seq, seq, says))

    def _homes(self) -> Iterator[Finding]:
        named = self._broken[:NAMED_BROKEN]
        for row in named:
            key = self._proof.keys.key(row["epoch"])
            places = (other["seq"] for other in named if other is not row)
            home = next((seq for seq in places if seal_of(key, row | {"seq": seq}) == row["seal"]), None)
            if home is not None:
                yield Finding("reordered", row["seq"], home, f"This event was written as number {home}.")
            else:
                yield Finding("changed", row["seq"], row["seq"], "What an event says was changed.")
        for row in self._broken[NAMED_BROKEN:]:
            yield Finding("changed", row["seq"], row["seq"], "What an event says was changed.")


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
