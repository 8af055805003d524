"""Asks the provider again about everybody in whose name data are read without a click: by a server or by a schedule.

A browser's requests make the Hub ask by itself; a running kernel and a scheduled report make none.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jupyterhub import orm

from workbench.errors import WorkbenchError
from workbench.reports.catalogue import Catalogue

AT_ONCE = 8
"""Questions to the provider under way at a time."""


class Membership:
    """The round, for as long as the Hub runs."""

    def __init__(self, hub: Any, authenticator: Any, seconds: float, reports: Path):
        self._hub = hub
        self._authenticator = authenticator
        self._seconds = seconds
        self._reports = reports
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._owners: frozenset[str] = frozenset()

    async def run(self) -> None:
        """One round every `seconds`, from start to start."""
        while True:
            begun = time.monotonic()
            try:
                await self.round()
            except Exception:
                self._hub.log.exception("The round of groups failed; the next one tries again")
            await asyncio.sleep(max(0.1, self._seconds - (time.monotonic() - begun)))

    async def round(self) -> None:
        """Everybody once; what goes wrong for one is no other's matter."""
        people = list(self._people())
        for user, failed in zip(
            people, await asyncio.gather(*map(self.confirm, people), return_exceptions=True), strict=True
        ):
            if isinstance(failed, BaseException):
                self._hub.log.error("The groups of %s could not be asked for", user.name, exc_info=failed)

    async def confirm(self, user: Any) -> None:
        """Gives the user the groups that the provider names now, and has the servers looked at if they changed."""
        before = _groups(user)
        async with self._turns:
            told = await self._authenticator.refresh_user(user)
        if isinstance(told, dict):
            user.sync_groups(told["groups"])
        user._auth_refreshed = (
            time.monotonic() if told else None
        )  # the Hub's own mark: whether pages ask once more
        if _groups(user) != before:
            for spawner in list(user.spawners.values()):
                if spawner.ready:
                    await spawner.poll_and_notify()

    def _people(self) -> Iterator[Any]:
        running = {user.name: user for user in list(self._hub.users.values()) if user.active}
        yield from running.values()
        for name in self._scheduled() - set(running):
            if found := orm.User.find(self._hub.db, name):
                yield self._hub.users[found]

    def _scheduled(self) -> frozenset[str]:
        """The owners of scheduled reports; of those before while the catalogue is broken, as the schedules go on."""
        with contextlib.suppress(WorkbenchError):
            runs = Catalogue.load(self._reports).scheduled()
            self._owners = frozenset(report.owner_for(run.organisation) for report, _, run in runs)
        return self._owners


def _groups(user: Any) -> frozenset[str]:
    return frozenset(group.name for group in user.groups)
