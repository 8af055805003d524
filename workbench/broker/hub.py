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


class HubSilent(WorkbenchError):
    """The Hub does not answer, so nobody's token can be confirmed."""

    code = "hub-silent"
    http_status = 503

    def __init__(self) -> None:
        super().__init__("The Hub cannot confirm who you are just now.", hint="Try again in a few seconds.")


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
    """The Hub's own answers; users whom it has never seen (the demo's, before their first login) from the file."""

    knows_tokens = True

    def __init__(self, url: str, token: str, fallback: LocalDirectory):
        self._url = url.rstrip("/")
        self._token = token
        self._fallback = fallback
        self._kept: dict[tuple[str, str], tuple[float, Any]] = {}

    async def groups(self, user: str) -> frozenset[str]:
        """The groups that the Hub gives the user. Raises UnknownUser, HubSilent."""
        answer = await self._ask(f"/users/{quote(user, safe='')}", self._token)
        if answer is None:
            return await self._fallback.groups(user)
        return frozenset(str(group) for group in answer.get("groups") or ())

    async def owner(self, token: str) -> str | None:
        """The user whose token it is, None for a token that is no user's or not valid. Raises HubSilent."""
        answer = await self._ask("/user", token)
        if answer is None or answer.get("kind") != "user":
            return None
        return str(answer["name"])

    async def _ask(self, path: str, token: str) -> Mapping[str, Any] | None:
        now = time.monotonic()
        kept = self._kept.get((path, token))
        if kept is not None and now - kept[0] < KEEP_SECONDS:
            found: Mapping[str, Any] | None = kept[1]
            return found
        answer = await asyncio.to_thread(_get, self._url + path, token)
        if len(self._kept) > 5000:
            self._kept.clear()
        self._kept[path, token] = (now, answer)
        return answer


def directory_from_environment(demo_users: Path) -> Directory:
    """The Hub's directory where a Hub started this process, else the file's."""
    local = LocalDirectory(Path(os.environ.get(_FILE_VARIABLE, demo_users)))
    url = os.environ.get("JUPYTERHUB_API_URL")
    if not url:
        return local
    return HubDirectory(url, os.environ.get("JUPYTERHUB_API_TOKEN", ""), local)


def _get(url: str, token: str) -> dict[str, Any] | None:
    """The JSON at `url`; None where the Hub says no (401, 403, 404). Raises HubSilent."""
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
    if response.status in (401, 403, 404):
        return None
    if response.status != 200:
        raise HubSilent()
    try:
        answer: dict[str, Any] = json.loads(body)
    except ValueError:
        raise HubSilent() from None
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
    "HubSilent",
    "LocalDirectory",
    "UnknownUser",
    "directory_from_environment",
]
