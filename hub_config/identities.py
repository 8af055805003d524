"""Which person of the provider a user name of the Hub belongs to: the first that came in under it, for good.

A provider's names change hands and differ in case only; its `sub` does not (OpenID Connect Core 1.0, section 5.7).
Homes, uids, audit events and schedules hang on the Hub's name, so nobody else may come in under it.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from workbench.errors import WorkbenchError


class NameTaken(WorkbenchError):
    """The name belongs to another person of the provider."""

    code = "name-taken"
    http_status = 403


def fingerprint(issuer: str, subject: str) -> str:
    """SHA-256 of a person's identity at the provider."""
    return hashlib.sha256(f"{issuer}\0{subject}".encode()).hexdigest()


class Identities:
    """The record, a JSON file of name -> fingerprint."""

    def __init__(self, file: Path):
        self._file = file

    def claim(self, name: str, person: str) -> None:
        """Gives a free name to the person. Raises NameTaken where it is another's."""
        known = self._read()
        if known.get(name) == person:
            return
        if name in known:
            raise NameTaken(
                "This user name belongs to another person here.",
                hint="Ask the people who run this site: a name that has changed hands keeps its files, schedules and "
                "records for the first holder until they clear it.",
            )
        known[name] = person
        new = self._file.with_suffix(".new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as handle:
            json.dump(known, handle, indent=1)
            handle.flush()
            os.fsync(handle.fileno())
        new.rename(self._file)

    def holds(self, name: str, person: str) -> bool:
        """Whether the name is this person's."""
        return self._read().get(name) == person

    def _read(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self._file.read_text()) if self._file.is_file() else {}
        return found
