"""What the grants say about who may come in: the groups that open anything, and who can give a grant."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from workbench.broker.directory import AUDITORS, OPERATORS
from workbench.broker.grants import GrantBook
from workbench.errors import WorkbenchError

OPERATOR_SCOPES = (
    "admin-ui",
    "list:users",
    "read:users:name",
    "read:users:activity",
    "read:servers",
    "delete:servers",
)
"""All an operator may do beyond what every user may. No `access:servers`, `start:servers`, `tokens` or `admin:` of
anything: she can neither open a server, nor start one in somebody's name, nor get a token that reads as somebody."""

_log = logging.getLogger("workbench.hub")


class Access:
    """The folder of grants as the login asks it. A folder with faults leaves what was known before it got them."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._stamp: object = None
        self._groups: frozenset[str] = frozenset()
        self._givers: tuple[str, ...] = ()

    @property
    def groups(self) -> frozenset[str]:
        """The groups that open anything: those of the grants, auditors and operators."""
        self._look()
        return self._groups | {AUDITORS, OPERATORS}

    @property
    def givers(self) -> tuple[str, ...]:
        """Who gives grants, as the grants name their approvers, sorted."""
        self._look()
        return self._givers

    def _look(self) -> None:
        stamp = tuple(_stamps(self._folder))
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            book = GrantBook.load(self._folder)
        except WorkbenchError as error:
            _log.error("the login goes on with the groups known before: %s", error.reason)
            return
        self._groups = frozenset(group for grant in book for group in grant.groups)
        self._givers = tuple(sorted({grant.approver for grant in book}))


def _stamps(folder: Path) -> Iterable[tuple[str, int, int]]:
    for file in sorted(folder.glob("*.y*ml")):
        about = file.stat()
        yield file.name, about.st_mtime_ns, about.st_size
