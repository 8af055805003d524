"""A site's own login: the settings of its OpenID Connect provider, from the environment."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hub_config.keyfiles import read_secret
from workbench.errors import WorkbenchError

NEEDED = ("WORKBENCH_OIDC_ISSUER", "WORKBENCH_OIDC_CLIENT_ID", "WORKBENCH_OIDC_CLIENT_SECRET_FILE")
ENDPOINTS = {
    "WORKBENCH_OIDC_AUTHORIZE_URL": "authorization_endpoint",
    "WORKBENCH_OIDC_TOKEN_URL": "token_endpoint",
    "WORKBENCH_OIDC_USERINFO_URL": "userinfo_endpoint",
}
"""Setting -> its name in the provider's own description (OpenID Connect Discovery 1.0, section 3)."""
BASIC = "client_secret_basic"
SETTINGS = frozenset(
    {
        *NEEDED,
        *ENDPOINTS,
        "WORKBENCH_OIDC_CALLBACK_URL",
        "WORKBENCH_OIDC_USERNAME_CLAIM",
        "WORKBENCH_OIDC_GROUPS_CLAIM",
        "WORKBENCH_OIDC_SCOPES",
        "WORKBENCH_OIDC_REFRESH_SECONDS",
        "WORKBENCH_OIDC_SILENT_SECONDS",
    }
)
"""All that is read here; no other process gets any of it."""
WELL_KNOWN = "/.well-known/openid-configuration"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
DISCOVERY_SECONDS = 10
DISCOVERY_BYTES = 1_000_000
REFRESH_SECONDS = 20
"""How often the provider is asked again about a person whose server runs. With the broker's 8 seconds and the
spawner's 15 between two looks a lost group ends everything within a minute."""
LONGEST_REFRESH_SECONDS = 30
SILENT_SECONDS = 300
"""How long the last answer counts while the provider gives none."""


class LoginHalfConfigured(WorkbenchError):
    """WORKBENCH_AUTH is oidc, and what that needs is missing or not usable; the reason names the settings."""

    code = "login-half-configured"
    http_status = 503


class ProviderUnknown(WorkbenchError):
    """The provider's description cannot be had, or is not that of the issuer."""

    code = "provider-unknown"
    http_status = 503

    def __init__(self, reason: str):
        super().__init__(reason, hint=f"Mend WORKBENCH_OIDC_ISSUER, or set {', '.join(ENDPOINTS)}.")


@dataclass(frozen=True)
class Provider:
    """One OpenID Connect provider, and what its claims mean here."""

    issuer: str
    authorize_url: str
    token_url: str
    userinfo_url: str
    client_id: str
    client_secret: str
    callback_url: str
    username_claim: str
    groups_claim: str
    scopes: tuple[str, ...]
    basic: bool
    """Whether the Hub names itself in a header (the standard's default) or in the form."""
    refresh_seconds: int
    silent_seconds: int


def provider(environment: Mapping[str, str], public_url: str) -> Provider:
    """The provider that the settings describe.

    Raises LoginHalfConfigured, ProviderUnknown, UnsafeSecret; each names the settings that it is about.
    """
    missing = [name for name in NEEDED if not environment.get(name)]
    if missing:
        raise LoginHalfConfigured(
            f"WORKBENCH_AUTH is oidc, and these settings are missing: {', '.join(missing)}.",
            hint="docs/login.md says what each is.",
        )
    issuer = safe_url(environment["WORKBENCH_OIDC_ISSUER"], "WORKBENCH_OIDC_ISSUER")
    urls = {name: environment.get(name, "") for name in ENDPOINTS}
    described: dict[str, Any] = {}
    if not all(urls.values()):
        described = discover(issuer)
        urls = {name: urls[name] or str(described.get(key, "")) for name, key in ENDPOINTS.items()}
    for name, url in urls.items():
        safe_url(url, name)
    callback = (
        environment.get("WORKBENCH_OIDC_CALLBACK_URL") or f"{public_url.rstrip('/')}/hub/oauth_callback"
    )
    scopes = environment.get("WORKBENCH_OIDC_SCOPES", "openid profile email").split()
    if "openid" not in scopes:
        raise LoginHalfConfigured(
            "WORKBENCH_OIDC_SCOPES lacks openid.", hint="Without it no identity is told."
        )
    return Provider(
        issuer=issuer,
        authorize_url=urls["WORKBENCH_OIDC_AUTHORIZE_URL"],
        token_url=urls["WORKBENCH_OIDC_TOKEN_URL"],
        userinfo_url=urls["WORKBENCH_OIDC_USERINFO_URL"],
        client_id=environment["WORKBENCH_OIDC_CLIENT_ID"],
        client_secret=read_secret(
            Path(environment["WORKBENCH_OIDC_CLIENT_SECRET_FILE"]), "WORKBENCH_OIDC_CLIENT_SECRET_FILE"
        ),
        callback_url=safe_url(callback, "WORKBENCH_OIDC_CALLBACK_URL"),
        username_claim=environment.get("WORKBENCH_OIDC_USERNAME_CLAIM") or "preferred_username",
        groups_claim=environment.get("WORKBENCH_OIDC_GROUPS_CLAIM") or "groups",
        scopes=tuple(scopes),
        basic=BASIC in (described.get("token_endpoint_auth_methods_supported") or [BASIC]),
        refresh_seconds=_seconds(
            environment, "WORKBENCH_OIDC_REFRESH_SECONDS", REFRESH_SECONDS, LONGEST_REFRESH_SECONDS
        ),
        silent_seconds=_seconds(environment, "WORKBENCH_OIDC_SILENT_SECONDS", SILENT_SECONDS, 3600),
    )


def safe_url(url: str, name: str) -> str:
    """The URL, if tokens may travel to it: https, or http on this machine. Raises LoginHalfConfigured."""
    parts = urlsplit(url)
    safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
    if not safe or not parts.hostname or parts.username or parts.fragment:
        raise LoginHalfConfigured(
            f"{name} is no https address.", hint="http is taken on this machine's loopback only."
        )
    return url


def discover(issuer: str) -> dict[str, Any]:
    """The provider's own description of itself, from the issuer's host and no other. Raises ProviderUnknown."""
    try:
        with _opener().open(issuer.rstrip("/") + WELL_KNOWN, timeout=DISCOVERY_SECONDS) as answer:
            described = json.loads(answer.read(DISCOVERY_BYTES))
    except (OSError, ValueError):
        raise ProviderUnknown("The provider does not describe itself at its issuer's address.") from None
    if not isinstance(described, dict) or described.get("issuer") != issuer:
        raise ProviderUnknown("The provider describes another issuer than WORKBENCH_OIDC_ISSUER.")
    return described


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_NoRedirect)


def _seconds(environment: Mapping[str, str], name: str, usual: int, longest: int) -> int:
    said = environment.get(name, "") or str(usual)
    if not said.isascii() or not said.isdecimal() or not 1 <= int(said) <= longest:
        raise LoginHalfConfigured(f"{name} is a whole number of seconds from 1 to {longest}.")
    return int(said)


def claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name; where none has that name, by the path that the name's dots make. None where there is none."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
