"""What a person may open here, as the landing page lists it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub_config.access import Access
from hub_config.control import Control, Option, SpawnRefused
from hub_config.options import LEVELS, PURPOSES
from workbench.broker.directory import AUDITORS, OPERATORS


@dataclass(frozen=True)
class Mine:
    """The doors of one person."""

    apps: tuple[Option, ...]
    labs: tuple[Option, ...]
    reports: bool
    auditor: bool
    operator: bool
    trouble: str

    @property
    def nothing(self) -> bool:
        """Whether no door is open, and not for want of an answer."""
        return not (self.apps or self.labs or self.reports or self.auditor or self.operator or self.trouble)


class Portal:
    """The landing page's view of the broker's answers."""

    levels = LEVELS
    purposes = PURPOSES

    def __init__(self, run: Path, access: Access):
        self._control = Control(run / "control" / "control.sock")
        self._access = access

    @property
    def givers(self) -> tuple[str, ...]:
        """Who can give a grant."""
        return self._access.givers

    async def of(self, user: Any) -> Mine:
        """What is open to the user now."""
        groups = {str(group.name) for group in user.groups}
        found: list[Option] = []
        trouble = ""
        try:
            found = [
                option for option in await self._control.options(user.name, sorted(groups)) if option.allowed
            ]
        except SpawnRefused as refusal:
            trouble = refusal.jupyterhub_message
        return Mine(
            apps=tuple(option for option in found if option.kind == "app"),
            labs=tuple(option for option in found if option.kind == "server"),
            reports=any("reports" in option.channels for option in found),
            auditor=AUDITORS in groups,
            operator=OPERATORS in groups,
            trouble=trouble,
        )
