"""Which groups an owner belongs to: asked of the Hub where the reports run as its service, else of the demo's file."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote, unquote, urlsplit

from workbench.broker.directory import FileDirectory, UnknownUser
from workbench.errors import WorkbenchError
from workbench.reports.unix import UnixConnection
from workbench.settings import PROJECT, Settings

HUB_SECONDS = 10.0


class HubUnreachable(WorkbenchError):
    """The Hub does not say who belongs to which groups: then nobody's report runs."""

    code = "hub-unreachable"
    http_status = 503


class People(Protocol):
    """A directory."""

    def groups(self, user: str) -> frozenset[str]:
        """The groups of a person now; raises UnknownUser or HubUnreachable."""
        ...


@dataclass(frozen=True)
class HubDirectory:
    """The Hub's users, by a service token with the scope `read:users:groups`."""

    api_url: str
    token: str

    def groups(self, user: str) -> frozenset[str]:
        """The groups of a person now; raises UnknownUser or HubUnreachable."""
        url = urlsplit(self.api_url)
        if url.scheme == "http+unix":
            connection: http.client.HTTPConnection = UnixConnection(unquote(url.netloc), HUB_SECONDS)
        else:
            connection = http.client.HTTPConnection(url.netloc, timeout=HUB_SECONDS)
        try:
            headers = {"Authorization": f"token {self.token}"}
            connection.request("GET", f"{url.path}/users/{quote(user, safe='')}", headers=headers)
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException):
            raise HubUnreachable("The Hub does not answer.", hint="Is it running? Try again.") from None
        finally:
            connection.close()
        if response.status == 404:
            raise UnknownUser("The report's owner is not a user of the Hub.", hint="Name another owner.")
        if response.status != 200:
            raise HubUnreachable(f"The Hub did not name the owner's groups (status {response.status}).")
        return frozenset(str(group) for group in json.loads(text).get("groups", []))


def people(settings: Settings, environment: Mapping[str, str] = os.environ) -> People:
    """The Hub's directory for a service of the Hub, else the file of the demo's users."""
    api_url, token = environment.get("JUPYTERHUB_API_URL"), environment.get("JUPYTERHUB_API_TOKEN")
    if api_url and token:
        return HubDirectory(api_url, token)
    return FileDirectory(PROJECT / "hub_config" / "demo_users.yaml")
