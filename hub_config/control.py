"""The Hub's side of the broker's control socket: what may this user open, and bind a server to its choice."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from tornado.web import HTTPError

ANSWER_SECONDS = 15


class SpawnRefused(HTTPError):  # type: ignore[misc]
    """A start that cannot be, with the words that the spawn page shows."""

    def __init__(self, status: int, message: str):
        super().__init__(status, "%s", message)
        self.jupyterhub_message = message


class BrokerSilent(SpawnRefused):
    """The broker does not answer."""

    def __init__(self) -> None:
        super().__init__(
            503,
            "The data broker does not answer, so nothing can be started now. Your files are safe. "
            "Try again in a minute; if this stays, tell the people who run this site.",
        )


@dataclass(frozen=True)
class Option:
    """One grant as the spawn page offers it, with the reason where it cannot be taken."""

    grant: str
    title: str
    level: str
    purposes: tuple[str, ...]
    channels: tuple[str, ...]
    allowed: bool
    reason: str
    valid_until: str = ""
    code: str = ""
    """The broker's word for the reason; `wrong-group` is a grant of somebody else."""

    @property
    def kind(self) -> str:
        """`server` for Lab, `app` for the dashboard, `none` when the grant serves neither."""
        if "notebook" in self.channels:
            return "server"
        if "apps" in self.channels:
            return "app"
        return "none"


@dataclass(frozen=True)
class Binding:
    """A server's record at the broker."""

    id: str
    folder: Path
    token: str | None


class Control:
    """The control socket, asked from the Hub's event loop."""

    def __init__(self, path: Path):
        self._path = path

    async def options(self, user: str, groups: Sequence[str]) -> list[Option]:
        """What the user may open and what not. Raises BrokerSilent or SpawnRefused."""
        query = {"user": user, "groups": ",".join(sorted(groups))}
        answer = await self._ask("GET", "/options", params=query)
        found = answer["grants"] if isinstance(answer, dict) else answer
        return [
            Option(
                grant=one["grant"],
                title=one.get("title", one["grant"]),
                level=one.get("level", ""),
                purposes=tuple(one.get("purposes", ())),
                channels=tuple(one.get("channels", ())),
                allowed=bool(one["allowed"]),
                reason=" ".join(filter(None, [one.get("reason"), one.get("hint")])),
                valid_until=one.get("valid_until") or "",
                code=one.get("code") or "",
            )
            for one in found
        ]

    async def bind(self, server: str, user: str, grant: str, purpose: str, kind: str, token: str) -> Binding:
        """Records server -> (grant, purpose, token). Raises BrokerSilent or SpawnRefused."""
        body = {
            "server": server,
            "user": user,
            "grant": grant,
            "purpose": purpose,
            "kind": kind,
            "token_sha256": hashlib.sha256(token.encode()).hexdigest() if kind == "server" else None,
            "expires_in": None,
        }
        answer = await self._ask("POST", "/bindings", json=body)
        return Binding(str(answer["binding"]), Path(answer["socket_dir"]), answer.get("token"))

    async def release(self, binding: str) -> None:
        """Ends a binding; a broker that is down has none any more."""
        try:
            await self._ask("DELETE", f"/bindings/{binding}")
        except SpawnRefused:
            return

    async def ended(self, binding: str) -> str:
        """Why a binding gives no data any more; empty while it does, or while nobody can say."""
        try:
            answer = await self._ask("GET", f"/bindings/{binding}")
        except SpawnRefused:
            return ""
        return "" if answer.get("stands", True) else str(answer.get("reason") or "The binding is over.")

    async def _ask(self, method: str, path: str, **options: Any) -> Any:
        connector = aiohttp.UnixConnector(path=str(self._path))
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.request(method, f"http://broker{path}", **options) as response,
            ):
                text = await response.read()
                answer = await response.json(content_type=None) if text else {}
                status = response.status
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            raise BrokerSilent() from None
        if status >= 400:
            said = answer if isinstance(answer, dict) else {}
            words = " ".join(filter(None, [said.get("reason"), said.get("hint")]))
            raise SpawnRefused(403 if status < 500 else 503, words or "The broker refused this start.")
        return answer
