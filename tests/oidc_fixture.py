"""A Hub whose people log in at a real OpenID Connect provider (oidc-provider-mock), headless."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from hub_fixture import HubData, RunningHub, free_port
from visitor import Visitor

SECRET = "the-hub's-own-secret"
REFRESH_SECONDS = 3
SILENT_SECONDS = 20
TOKEN_SECONDS = 6
"""So short that tests which take longer rest on refresh tokens."""


@dataclass
class Provider:
    """The provider, whose people's claims can be changed while it runs."""

    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = Path(sys.prefix) / "bin" / "oidc-provider-mock"
        self.process = subprocess.Popen(
            [str(command), "--port", str(self.port), "--token-max-age", str(TOKEN_SECONDS)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{self.issuer}/.well-known/openid-configuration", timeout=30).close()
                return
            except OSError:
                assert time.monotonic() < deadline, "the provider did not start"
                time.sleep(0.1)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(60)
            self.process = None

    def person(self, sub: str, groups: Any, **claims: Any) -> None:
        """What the provider says of a person from now on."""
        body = {"preferred_username": sub, "groups": groups, **claims}
        requests.put(f"{self.issuer}/users/{sub}", json=body, timeout=60).raise_for_status()

    def end_sessions(self, sub: str) -> None:
        """As when an account is closed: none of the person's tokens is good any more."""
        requests.post(f"{self.issuer}/users/{sub}/revoke-tokens", timeout=60).raise_for_status()


@dataclass
class Site:
    """The Hub and its provider."""

    hub: RunningHub
    provider: Provider

    def come(self, name: str, sub: str = "") -> tuple[Visitor, requests.Response]:
        """Logs in at the provider as `sub`; the visitor, and the answer after all redirects."""
        visitor = Visitor(self.hub.url, name)
        self.hub.visitors.append(visitor)
        form = visitor.get("/hub/oauth_login?next=%2Fhub%2Fhome")
        assert form.url.startswith(self.provider.issuer), form.url
        return visitor, visitor.session.post(form.url, data={"sub": sub or name}, timeout=60)

    def groups_of(self, visitor: Visitor) -> list[str]:
        return sorted(visitor.model()["groups"])


def copied(data: HubData, folder: Path) -> HubData:
    """The lake and the grants of another, with a state and sockets of its own."""
    ours = HubData(folder, Path(tempfile.mkdtemp(prefix="wb-", dir="/tmp")))
    shutil.copytree(data.lake, ours.lake)
    shutil.copytree(data.grants, ours.grants)
    return ours


@contextmanager
def site_on(data: HubData, tmp: Path) -> Iterator[Site]:
    """A Hub of its own on the data of another, its own state."""
    ours = copied(data, tmp)
    secret = tmp / "secret"
    secret.touch(0o600)
    secret.write_text(SECRET + "\n")
    provider = Provider(free_port())
    more = {
        "WORKBENCH_AUTH": "oidc",
        "WORKBENCH_OIDC_ISSUER": provider.issuer,
        "WORKBENCH_OIDC_CLIENT_ID": "workbench",
        "WORKBENCH_OIDC_CLIENT_SECRET_FILE": str(secret),
        "WORKBENCH_OIDC_REFRESH_SECONDS": str(REFRESH_SECONDS),
        "WORKBENCH_OIDC_SILENT_SECONDS": str(SILENT_SECONDS),
    }
    hub = RunningHub(ours, free_port(), more=more)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, ours.run, ignore_errors=True)
        stack.callback(provider.stop)
        provider.start()
        stack.callback(hub.stop)
        hub.start()
        yield Site(hub, provider)
        for visitor in hub.visitors:
            visitor.close()


def words(page: str) -> str:
    """The visible text of a page."""
    text = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


def bound(hub: RunningHub) -> list[dict[str, Any]]:
    """The records of the sandboxes that run."""
    return [json.loads(path.read_text()) for path in (hub.data.run / "u").glob("*.json")]


def below(pid: int) -> list[int]:
    """The processes that a process started, and theirs."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [one for child in children for one in (child, *below(child))]
