"""Marks: what the log keeps of a literal, of a member who was asked for, and of the members in an answer.

A mark is a keyed hash (HMAC-SHA-256; in lists keyed BLAKE2b, which is quicker): equal values have equal marks, and nobody without the key can guess one. The
members of an answer stand as a sorted list of marks in the auditors' folder, named by its SHA-256; the event that the
chain seals carries the name, so a list that was changed or taken away is told.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

RETURNED = "returned"
CAPPED = "+"
"""Ends the reference of a list that holds only the first of the members."""
MARK_BYTES = 8
"""Of a member in a list: among a million lists of 100,000 members a false hit has a chance of 1 in 180 million."""
_REFERENCE = re.compile(r"([0-9a-f]{64})\+?")
_LIST_MARK = re.compile(r"#([0-9a-f]{32})\[\d+\]")


class Marks:
    """The marks of one state's key, and the lists in one auditors' folder."""

    def __init__(self, key: bytes, folder: Path):
        self._key = key
        self._folder = folder / RETURNED
        self._known: set[str] = set()

    def literal(self, text: str) -> str:
        """The mark of a literal; of a list of them (joined by NUL) the name under which their marks are kept."""
        if "\0" in text:
            return "#" + self._keep(text.split("\0"))[:32]
        return "#" + self._digest(text).hex()[:12]

    def subject(self, member_id: str) -> str:
        """The mark of a member who was asked for by id."""
        return "@" + hmac.digest(self._key, b"member\0" + _raw(member_id), "sha256").hex()[:24]

    def returned(self, ids: Iterable[str], capped: bool) -> str:
        """Keeps the marks of an answer's members and returns the reference; durable when it returns. Raises OSError."""
        return self._keep(ids) + (CAPPED if capped else "")

    def wanted(self, ids: Iterable[str]) -> Wanted:
        """What the log would hold of any of these ids: of one member, under her own id and her tokens."""
        ids = list(ids)
        return Wanted(
            frozenset(self.subject(id) for id in ids),
            tuple("#" + self._digest(id).hex()[:12] for id in ids),
            tuple(self._entry(id) for id in ids),
            self._folder,
        )

    def _keep(self, ids: Iterable[str]) -> str:
        content = b"".join(sorted({self._entry(id) for id in ids}))
        name = hashlib.sha256(content).hexdigest()
        path = self._folder / name[:2] / name
        if name in self._known and path.exists():
            return name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            os.utime(path)
        else:
            _write(path, content)
        if len(self._known) < 100_000:
            self._known.add(name)
        return name

    def _entry(self, text: str) -> bytes:
        return hashlib.blake2b(_raw(text), digest_size=MARK_BYTES, key=self._key).digest()

    def _digest(self, text: str) -> bytes:
        return hmac.digest(self._key, _raw(text), "sha256")


@dataclass(frozen=True)
class Wanted:
    """One member, as the log would have marked her."""

    subjects: frozenset[str]
    _literals: tuple[str, ...]
    _entries: tuple[bytes, ...]
    _folder: Path
    _known: dict[str, bool | None] = field(default_factory=dict, compare=False, repr=False)

    def named(self, statement: str) -> bool:
        """Whether a statement as the log keeps it names her as a literal, alone or in a long list."""
        if any(literal in statement for literal in self._literals):
            return True
        lists = (
            path
            for name in _LIST_MARK.findall(statement)
            for path in (self._folder / name[:2]).glob(f"{name}*")
        )
        return any(self._within(path) for path in lists)

    def returned(self, reference: str) -> bool | None:
        """Whether the list of an answer's members holds her; None where it is gone."""
        if reference not in self._known:
            path = list_path(self._folder.parent, reference)
            self._known[reference] = self._within(path) if path is not None else None
        return self._known[reference]

    def _within(self, path: Path) -> bool | None:
        try:
            raw = path.read_bytes()
        except OSError:
            return None
        return any(_sorted_holds(raw, entry) for entry in self._entries)


def list_path(folder: Path, reference: str) -> Path | None:
    """The file of a reference in the auditors' folder; None where it is no reference."""
    found = _REFERENCE.fullmatch(reference)
    return folder / RETURNED / found[1][:2] / found[1] if found else None


def is_whole(folder: Path, reference: str) -> bool:
    """Whether the auditors' folder still has the list of a reference, unchanged; needs no key."""
    path = list_path(folder, reference)
    try:
        raw = path.read_bytes() if path is not None else b""
    except OSError:
        return False
    return path is not None and hashlib.sha256(raw).hexdigest() == path.name


def _sorted_holds(raw: bytes, mark: bytes) -> bool:
    low, high = 0, len(raw) // MARK_BYTES
    while low < high:
        middle = (low + high) // 2
        at = raw[middle * MARK_BYTES : (middle + 1) * MARK_BYTES]
        if at == mark:
            return True
        low, high = (middle + 1, high) if at < mark else (low, middle)
    return False


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
