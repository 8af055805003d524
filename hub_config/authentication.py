"""Who logs in. The demo: invented people and one shared password.

The place for a site's own login: another branch of `configure` for another value of WORKBENCH_AUTH.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from hub_config import demo
from workbench.errors import WorkbenchError


class UnknownLogin(WorkbenchError):
    """WORKBENCH_AUTH names no way to log in."""

    code = "unknown-login"


def is_demo() -> bool:
    """Whether the demo's people log in."""
    return os.environ.get("WORKBENCH_AUTH", "demo") == "demo"


def configure(c: Any, database: Path) -> None:
    """Sets the authenticator, its users and their groups. Raises UnknownLogin.

    `database` is the Hub's own SQLite file, which need not exist yet.
    """
    if not is_demo():
        raise UnknownLogin("WORKBENCH_AUTH names no known way to log in.", hint="It can be: demo.")
    c.JupyterHub.authenticator_class = "shared-password"
    c.SharedPasswordAuthenticator.user_password = demo.password()
    c.Authenticator.allowed_users = {person.name for person in demo.people()}
    c.JupyterHub.load_groups = {name: {"users": members} for name, members in demo.groups().items()}
    forget_memberships(database)


def forget_memberships(database: Path) -> None:
    """Empties every group of a stopped Hub: `load_groups` only adds, so a group taken away would stay for ever."""
    if not database.exists():
        return
    with closing(sqlite3.connect(database)) as connection, connection:
        known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'user_group_map'").fetchone()
        if known:
            connection.execute("DELETE FROM user_group_map")
