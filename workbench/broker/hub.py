"""Asks the Hub whose token this is and which groups a user has, over HTTP or its unix socket.

Answers are kept for a few seconds only: a revoked token or group has to stop working while a kernel still runs.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlsplit

from workbench.broker.directory import FileDirectory, UnknownUser
from workbench.errors import WorkbenchError

KEEP_SECONDS = 8.0
"""How long an answer of the Hub counts (the architecture allows 10)."""
ANSWER_SECONDS = 5.0
_FILE_VARIABLE = "WORKBENCH_USERS"
"""The directory where there is no Hub: a YAML file of users and groups."""
_NEEDED_OF_HUB = ("JUPYTERHUB_API_URL", "JUPYTERHUB_API_TOKEN")
_HUB_VARIABLES = (*_NEEDED_OF_HUB, "JUPYTERHUB_SERVICE_NAME")
"""Any of them means that a Hub started this process; then the file is never asked."""


class HubSilent(WorkbenchError):
    """The Hub does not answer, so nobody's token can be confirmed."""

    code = "hub-silent"
    http_status = 503

    def __init__(self) -> None:
        super().__init__("The Hub cannot confirm who you are just now.", hint="Try again in a few seconds.")


class HubHalfKnown(WorkbenchError):
    """A Hub started this process without saying where it is or who this service is."""

    code = "hub-half-known"
    http_status = 503

    def __init__(self, missing: list[str]):
        super().__init__(
            f"There is a Hub, and the environment lacks {' and '.join(missing)}.",
            hint="Start this as a managed service of the Hub, or without any JUPYTERHUB_* variable.",
        )


class Directory(Protocol):
    """Who belongs to which groups, and whose token a token is."""

    async def groups(self, user: str) -> frozenset[str]:
        """The groups of a user now. Raises UnknownUser."""
        ...

    async def owner(self, token: str) -> str | None:
        """The user to whom the Hub gave the token; None where no Hub says so."""
        ...

    @property
    def knows_tokens(self) -> bool:
        """Whether `owner` can be asked."""
        ...


class LocalDirectory:
    """Without a Hub: groups from a file; tokens are known by the bindings' hashes alone."""

    knows_tokens = False

    def __init__(self, file: Path):
        self._file = FileDirectory(file)

    async def groups(self, user: str) -> frozenset[str]:
        """The groups that the file gives now. Raises UnknownUser."""
        return self._file.groups(user)

    async def owner(self, token: str) -> str | None:
        """Nobody knows."""
        return None


class HubDirectory:
    """The Hub's own answers and nobody else's: whom it does not know has no group."""

    knows_tokens = True

    def __init__(self, url: str, token: str):
        self._url = url.rstrip("/")
        self._token = token
        self._kept: dict[tuple[str, str], tuple[float, Any]] = {}

    async def groups(self, user: str) -> frozenset[str]:
        """The groups that the Hub gives the user. Raises UnknownUser; HubSilent also where the Hub refuses us."""
        answer = await self._ask(f"/users/{quote(user, safe='')}", self._token, no=(404,))
        if answer is None or answer.get("name") != user:
            raise UnknownUser(
                "The Hub does not know this user.", hint="Users come with their login at the Hub."
            )
        return frozenset(str(group) for group in answer.get("groups") or ())

    async def owner(self, token: str) -> str | None:
        """The user whose token it is, None for a token that is no user's or not valid. Raises HubSilent."""
        answer = await self._ask("/user", token, no=(401, 403))
        if answer is None or answer.get("kind") != "user":
            return None
        return str(answer["name"])

    async def _ask(self, path: str, token: str, *, no: tuple[int, ...]) -> Mapping[str, Any] | None:
        now = time.monotonic()
        kept = self._kept.get((path, token))
        if kept is not None and now - kept[0] < KEEP_SECONDS:
            found: Mapping[str, Any] | None = kept[1]
            return found
        answer = await asyncio.to_thread(_get, self._url + path, token, no)
        if len(self._kept) > 5000:
            self._kept.clear()
        self._kept[path, token] = (now, answer)
        return answer


def directory_from_environment(demo_users: Path) -> Directory:
    """The Hub's directory where anything says that there is a Hub, else the file's. Raises HubHalfKnown."""
    said = {name: os.environ.get(name, "") for name in _HUB_VARIABLES}
    if not any(said.values()):
        return LocalDirectory(Path(os.environ.get(_FILE_VARIABLE, demo_users)))
    if missing := [name for name in _NEEDED_OF_HUB if not said[name]]:
        raise HubHalfKnown(missing)
    return HubDirectory(said["JUPYTERHUB_API_URL"], said["JUPYTERHUB_API_TOKEN"])


def _get(url: str, token: str, no: tuple[int, ...]) -> dict[str, Any] | None:
    """The JSON object at `url`; None for a status that means no. Raises HubSilent for all else."""
    parts = urlsplit(url)
    connection: http.client.HTTPConnection
    if parts.scheme == "http+unix":
        connection = _UnixConnection(unquote(parts.netloc))
    elif parts.scheme == "https":
        connection = http.client.HTTPSConnection(parts.netloc, timeout=ANSWER_SECONDS)
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", parts.path, headers={"Authorization": f"token {token}"})
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException):
        raise HubSilent() from None
    finally:
        connection.close()
    if response.status in no:
        return None
    if response.status != 200:
        raise HubSilent()
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise HubSilent() from None
    if not isinstance(answer, dict):
        raise HubSilent()
    return answer


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str):
        super().__init__("hub", timeout=ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_SECONDS)
        self.sock.connect(self._path)


__all__ = [
    "Directory",
    "HubDirectory",
    "HubHalfKnown",
    "HubSilent",
    "LocalDirectory",
    "UnknownUser",
    "directory_from_environment",
]
