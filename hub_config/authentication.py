"""Who logs in. The demo: invented people and one shared password.

The place for a site's own login: another branch of `configure` for another value of WORKBENCH_AUTH.
"""

from __future__ import annotations

import os
from typing import Any

from hub_config import demo
from workbench.errors import WorkbenchError


class UnknownLogin(WorkbenchError):
    """WORKBENCH_AUTH names no way to log in."""

    code = "unknown-login"


def is_demo() -> bool:
    """Whether the demo's people log in."""
    return os.environ.get("WORKBENCH_AUTH", "demo") == "demo"


def configure(c: Any) -> None:
    """Sets the authenticator, its users and their groups. Raises UnknownLogin."""
    if not is_demo():
        raise UnknownLogin("WORKBENCH_AUTH names no known way to log in.", hint="It can be: demo.")
    c.JupyterHub.authenticator_class = "shared-password"
    c.SharedPasswordAuthenticator.user_password = demo.password()
    c.Authenticator.allowed_users = {person.name for person in demo.people()}
    c.JupyterHub.load_groups = {name: {"users": members} for name, members in demo.groups().items()}
