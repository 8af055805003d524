"""Which groups an owner belongs to now: the Hub's answer where a Hub started this process, else the users' file."""

from __future__ import annotations

import asyncio

from workbench.broker.hub import directory_from_environment
from workbench.settings import PROJECT

DEMO_USERS = PROJECT / "hub_config" / "demo_users.yaml"


def groups_of(user: str) -> frozenset[str]:
    """The groups of a person; raises UnknownUser, or HubSilent where nobody can say."""
    return asyncio.run(directory_from_environment(DEMO_USERS).groups(user))
