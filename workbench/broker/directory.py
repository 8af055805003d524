"""Who belongs to which groups. The demo's people stand in a file; a real site's come with the login."""

from __future__ import annotations

from pathlib import Path

import yaml

from workbench.errors import WorkbenchError

AUDITORS = "auditors"
"""The group that reads the audit log."""
OPERATORS = "operators"
"""The group that sees everybody's servers at the Hub and stops them; the broker opens nothing to it."""


class UnknownUser(WorkbenchError):
    """The directory has no such person."""

    code = "unknown-user"
    http_status = 404


class FileDirectory:
    """The people of a YAML file: `users: {name: {groups: [...]}}`. Read anew whenever the file is another one, so that a change counts."""

    def __init__(self, path: Path):
        self._path = path
        self._known: tuple[tuple[int, int, int], dict[str, frozenset[str]]] | None = None

    def users(self) -> list[str]:
        """The names, sorted."""
        return sorted(self._read())

    def groups(self, user: str) -> frozenset[str]:
        """The groups of a person. Raises `UnknownUser`."""
        groups = self._read().get(user)
        if groups is None:
            raise UnknownUser(
                "There is no such user in the directory.",
                hint="Users come with the login or hub_config/demo_users.yaml.",
            )
        return groups

    def _read(self) -> dict[str, frozenset[str]]:
        if not self._path.is_file():
            return {}
        found = self._path.stat()
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        if self._known is None or self._known[0] != stamp:
            self._known = (stamp, self._parsed())
        return self._known[1]

    def _parsed(self) -> dict[str, frozenset[str]]:
        raw = yaml.safe_load(self._path.read_text(encoding="utf-8"))
        users = raw.get("users") if isinstance(raw, dict) else None
        if not isinstance(users, dict):
            return {}
        return {
            str(name): frozenset(str(g) for g in (about or {}).get("groups", []))
            for name, about in users.items()
        }
