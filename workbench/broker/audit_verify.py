"""Judges the audit log by the auditors' first key and the signed checkpoints, without the writer's help."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from workbench.broker.audit_chain import (
    DAMAGED,
    PRUNED,
    audit_event,
    canonical,
    has_strange_checkpoints,
    keyed_hash,
    next_key,
    read_checkpoints,
    read_head,
    readable,
    seal_of,
    years_before,
)
from workbench.broker.audit_end import is_signed
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
    findings = [*walk.findings, *proof.findings, *proof.lacking(walk.epoch, folder)]
    if proof.promised > walk.last:
        findings.append(
            Finding(
                "truncated", walk.last + 1, proof.promised, "The log ends before the end that was signed."
            )
        )
    return folded(findings)


def verify_rows(rows: Iterable[dict[str, Any]], folder: Path) -> list[Finding]:
    """What is wrong with an export of the log: of its events, their order, and their links to the checkpoints."""
    proof = _Proof.read(folder)
    if isinstance(proof, Finding):
        return [proof]
    rows = list(rows)
    walk = _Walk(proof, rows[0]["seq"] - 1 if rows else 0, folder)
    walk.go(rows)
    return folded([*walk.findings, *proof.findings, *proof.lacking(walk.epoch, folder)])


def folded(findings: list[Finding]) -> list[Finding]:
    """The same, with a run of equal findings of neighbouring events as one."""
    found: list[Finding] = []
    for one in findings:
        last = found[-1] if found else one
        if (
            found
            and (last.kind, last.says) == (one.kind, one.says)
            and last.last + 1 == one.first <= one.last
        ):
            found[-1] = replace(last, last=one.last)
        else:
            found.append(one)
    return found


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
        self.ends = dict(self.links)
        self._epoch = 0
        if head is None:
            self.findings.append(Finding("checkpoint", 0, 0, "The log's head is gone or unreadable."))
        elif not is_signed(head, self.keys.key(head["epoch"])):
            says = "The signature of the log's head is wrong."
            self.findings.append(Finding("checkpoint", head["seq"], head["seq"], says))
        else:
            if head["seq"] < self.promised:
                says = "The log's head is older than the last checkpoint."
                self.findings.append(Finding("checkpoint", head["seq"], head["seq"], says))
            self._epoch = head["epoch"]
            self.ends.setdefault(head["seq"], head["link"])
            self.promised = max(self.promised, head["seq"])

    @classmethod
    def read(cls, folder: Path) -> _Proof | Finding:
        """The proof in a folder; a finding where there is no key."""
        first = folder / "verify.key"
        try:
            key = bytes.fromhex(json.loads(first.read_text())["key"])
        except (OSError, ValueError, KeyError, TypeError):
            return Finding("checkpoint", 0, 0, "The verification key is not in the auditors' folder.")
        proof = cls(key, read_checkpoints(folder), read_head(folder))
        if has_strange_checkpoints(folder):
            proof.findings.append(Finding("checkpoint", 0, 0, "A line among the checkpoints is none."))
        return proof

    def lacking(self, epoch: int, folder: Path) -> list[Finding]:
        """A finding where the key went on to an epoch, of an event or of the head, without a checkpoint for each.

        The checkpoints are read again: a broker that runs may have written some since.
        """
        if len(read_checkpoints(folder)) >= max(epoch, self._epoch):
            return []
        return [Finding("checkpoint", 0, 0, "Checkpoints are gone: the log's key has changed more often.")]

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
        self.epoch = 0
        """The highest epoch of an event whose seal is good."""
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
            return
        self.epoch = max(self.epoch, row["epoch"])
        if not hmac.compare_digest(keyed_hash(key, row["seal"], row["at"]), row["stamp"]):
            self.findings.append(Finding("restamped", seq, seq, "The time of an event was changed."))
        elif link is not None and not hmac.compare_digest(keyed_hash(key, link, row["stamp"]), row["link"]):
            self.findings.append(Finding("changed", seq, seq, "An event does not follow the one before it."))
        if self._proof.ends.get(seq, row["link"]) != row["link"]:
            self.findings.append(Finding("changed", seq, seq, "The log differs from its checkpoint."))
        if row["event"] == DAMAGED:
            where = json.loads(row["detail"])
            says = f"{row['reason']} Event {seq} says so."
            self.findings.append(Finding(row["code"], where["first"], where["last"], says))
        reference = row["returned"]
        if reference is not None:
            if reference not in self._lists:
                self._lists[reference] = is_whole(self._folder, reference)
            if not self._lists[reference]:
                says = "The list of members in this answer is gone or was changed."
                self.findings.append(Finding("returned", seq, seq, says))

    def _homes(self) -> Iterator[Finding]:
        """Where the events with a wrong seal were written, and which numbers nothing stands for any more."""
        named = self._broken[:NAMED_BROKEN]
        shift, homes = 0, {}
        for place, row in enumerate(self._broken):
            seq, key = row["seq"], self._proof.keys.key(row["epoch"])
            others = (other["seq"] for other in named if other is not row) if place < NAMED_BROKEN else ()
            for home in (seq + shift, *others):
                if home != seq and seal_of(key, row | {"seq": home}) == row["seal"]:
                    homes[seq], shift = home, home - seq
                    break
        taken = set(homes.values())
        self.last = max([self.last, *taken])
        for first, last in _runs(row["seq"] for row in self._broken if row["seq"] not in homes):
            yield Finding("changed", first, last, "What an event says was changed.")
        for first, last in _runs(homes, by=lambda seq: homes[seq] - seq):
            home = homes[first]
            if first == last:
                yield Finding("reordered", first, home, f"This event was written as number {home}.")
            else:
                says = f"These events were written as numbers {home} to {homes[last]}."
                yield Finding("reordered", first, last, says)
        for first, last in _runs(seq for seq in homes if seq not in taken):
            yield Finding("missing", first, last, "The event of this number is gone; another stands there.")


def _runs(numbers: Iterable[int], by: Callable[[int], int] = lambda seq: 0) -> Iterator[tuple[int, int]]:
    """First and last of each run of neighbouring numbers for which `by` gives the same. `numbers` ascend."""
    first = last = None
    for number in numbers:
        if first is not None and last is not None and (number != last + 1 or by(number) != by(last)):
            yield first, last
            first = number
        first, last = number if first is None else first, number
    if first is not None and last is not None:
        yield first, last


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
