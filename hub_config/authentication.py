"""Who logs in: the demo's invented people, or a site's own people at their OpenID Connect provider."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from hub_config import demo
from hub_config.access import Access
from hub_config.identities import Identities
from hub_config.keyfiles import keys_of
from hub_config.membership import Membership
from hub_config.oidc import SETTINGS, Provider, provider
from workbench.errors import WorkbenchError
from workbench.settings import Settings

WAYS = ("demo", "oidc")
ROUND_SECONDS = 10
"""How long a round may take; a page asks the provider itself only about whom no round has asked by then."""


class UnknownLogin(WorkbenchError):
    """WORKBENCH_AUTH names no way to log in."""

    code = "unknown-login"


def way() -> str:
    """How people log in. Raises UnknownLogin."""
    found = os.environ.get("WORKBENCH_AUTH") or "demo"
    if found not in WAYS:
        raise UnknownLogin(
            "WORKBENCH_AUTH names no known way to log in.", hint=f"It can be: {', '.join(WAYS)}."
        )
    return found


def is_demo() -> bool:
    """Whether the demo's people log in."""
    return way() == "demo"


def settings_for_services(environment: Mapping[str, str]) -> dict[str, str]:
    """The workbench's settings that the Hub's services get: all but those of the login, which are the Hub's alone."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith("WORKBENCH_") and name not in SETTINGS
    }


def configure(c: Any, site: Settings, access: Access, public_url: str) -> None:
    """Sets the authenticator, its users and their groups. Raises UnknownLogin and what `provider` raises."""
    c.Authenticator.admin_users = set()
    hub = site.state / "hub"
    if is_demo():
        c.JupyterHub.authenticator_class = "shared-password"
        c.SharedPasswordAuthenticator.user_password = demo.password()
        c.Authenticator.allowed_users = {person.name for person in demo.people()}
        c.JupyterHub.load_groups = {name: {"users": members} for name, members in demo.groups().items()}
        forget_memberships(hub / "jupyterhub.sqlite")
        return
    _oidc(c, provider(os.environ, public_url), hub, access, site.reports)


def _oidc(c: Any, found: Provider, hub: Path, access: Access, reports: Path) -> None:
    from hub_config.oidc_authenticator import GroupsAuthenticator

    def begin(running: Any, authenticator: Any) -> None:
        rounds = Membership(running, authenticator, found.refresh_seconds, reports)
        running.workbench_membership = asyncio.get_running_loop().create_task(rounds.run())

    c.JupyterHub.authenticator_class = GroupsAuthenticator
    c.CryptKeeper.keys = keys_of(hub / "auth_state.key")
    ours = c.GroupsAuthenticator
    ours.login_service = "your organisation's account"
    ours.issuer = found.issuer
    ours.authorize_url = found.authorize_url
    ours.token_url = found.token_url
    ours.userdata_url = found.userinfo_url
    ours.client_id = found.client_id
    ours.client_secret = found.client_secret
    ours.oauth_callback_url = found.callback_url
    ours.username_claim = found.username_claim
    ours.groups_claim = found.groups_claim
    ours.scope = list(found.scopes)
    ours.basic_auth = found.basic
    ours.silent_seconds = found.silent_seconds
    ours.http_request_kwargs = {"connect_timeout": 5, "request_timeout": 10, "follow_redirects": False}
    ours.access = access
    ours.identities = Identities(hub / "identities.json")
    ours.when_ready = begin
    ours.manage_groups = True
    ours.enable_auth_state = True
    ours.allow_all = False
    ours.allow_existing_users = False
    ours.auth_refresh_age = found.refresh_seconds + ROUND_SECONDS
    ours.auth_refresh_strict = True
    ours.refresh_pre_spawn = True


def forget_memberships(database: Path) -> None:
    """Empties every group of a stopped Hub: `load_groups` only adds, so a group taken away would stay for ever."""
    if not database.exists():
        return
    with closing(sqlite3.connect(database)) as connection, connection:
        known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'user_group_map'").fetchone()
        if known:
            connection.execute("DELETE FROM user_group_map")
