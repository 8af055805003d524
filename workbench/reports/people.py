"""Which groups an owner belongs to now: the Hub's answer where a Hub started this process, else the users' file."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from workbench.broker.hub import directory_from_environment
from workbench.settings import PROJECT

DEMO_USERS = PROJECT / "hub_config" / "demo_users.yaml"


def groups_of(user: str) -> frozenset[str]:
    """The groups of a person; raises UnknownUser, or HubSilent where nobody can say."""
    directory = directory_from_environment(DEMO_USERS)
    with ThreadPoolExecutor(1) as beside:  # callers in the service have a running loop of their own
        return beside.submit(lambda: asyncio.run(directory.groups(user))).result()
