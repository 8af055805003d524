"""Which groups an owner belongs to: asked of the Hub where the reports run as its service, else of the demo's file."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from workbench.broker.directory import FileDirectory, UnknownUser
from workbench.errors import WorkbenchError
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
        request = urllib.request.Request(
            f"{self.api_url}/users/{urllib.parse.quote(user, safe='')}",
            headers={"Authorization": f"token {self.token}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=HUB_SECONDS) as response:
                return frozenset(str(group) for group in json.load(response).get("groups", []))
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                raise UnknownUser(
                    "The report's owner is not a user of the Hub.", hint="Name another owner."
                ) from None
            raise HubUnreachable(
                f"The Hub refused to name the owner's groups (status {error.code})."
            ) from None
        except OSError:
            raise HubUnreachable("The Hub does not answer.", hint="Is it running? Try again.") from None


def people(settings: Settings, environment: Mapping[str, str] = os.environ) -> People:
    """The Hub's directory for a service of the Hub, else the file of the demo's users."""
    api_url, token = environment.get("JUPYTERHUB_API_URL"), environment.get("JUPYTERHUB_API_TOKEN")
    if api_url and token:
        return HubDirectory(api_url, token)
    return FileDirectory(PROJECT / "hub_config" / "demo_users.yaml")
