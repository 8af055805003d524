"""Whose word counts for people and groups: where there is a Hub, its own and nobody else's."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workbench.broker.hub import (
    HubDirectory,
    HubHalfKnown,
    HubSilent,
    LocalDirectory,
    UnknownUser,
    directory_from_environment,
)
from workbench.settings import PROJECT

DEMO_USERS = PROJECT / "hub_config" / "demo_users.yaml"


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers every request with what the test says."""

    status = 200
    body = b"{}"

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Answers]]:
    """A listener in the Hub's place, and the environment that a Hub gives its services."""
    answers = type("Answers", (Answers,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("JUPYTERHUB_API_URL", f"http://127.0.0.1:{server.server_port}/hub/api")
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "the broker's")
    yield answers
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (404, b"{}", UnknownUser),
        (401, b"{}", HubSilent),
        (403, b"{}", HubSilent),
        (500, b"{}", HubSilent),
        (302, b"{}", HubSilent),
        (200, b"[]", HubSilent),
        (200, b"<html>", HubSilent),
        (200, b"[" * 100_000, HubSilent),
        (200, b'{"name": "somebody-else", "groups": ["mcp-sierra-vista"]}', UnknownUser),
    ],
)
def test_whatever_a_hub_answers_the_demos_file_is_never_asked(
    hub: type[Answers], status: int, body: bytes, error: type[Exception]
) -> None:
    hub.status, hub.body = status, body
    with pytest.raises(error):
        asyncio.run(directory_from_environment(DEMO_USERS).groups("ana"))


def test_a_hub_that_is_gone_gives_nobody_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTERHUB_API_URL", "http+unix://%2Fnowhere%2Fhub.sock/hub/api")
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "the broker's")
    with pytest.raises(HubSilent):
        asyncio.run(directory_from_environment(DEMO_USERS).groups("ana"))


@pytest.mark.parametrize("name", ["JUPYTERHUB_API_URL", "JUPYTERHUB_API_TOKEN", "JUPYTERHUB_SERVICE_NAME"])
def test_half_a_hub_is_no_reason_to_ask_the_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for known in ("JUPYTERHUB_API_URL", "JUPYTERHUB_API_TOKEN", "JUPYTERHUB_SERVICE_NAME"):
        monkeypatch.delenv(known, raising=False)
    assert isinstance(directory_from_environment(DEMO_USERS), LocalDirectory)
    monkeypatch.setenv(name, "something")
    with pytest.raises(HubHalfKnown):
        directory_from_environment(DEMO_USERS)


def test_a_token_that_the_hub_refuses_is_nobodys_and_a_silent_hub_confirms_none(hub: type[Answers]) -> None:
    directory = directory_from_environment(DEMO_USERS)
    assert isinstance(directory, HubDirectory)
    hub.status = 403
    assert asyncio.run(directory.owner("stolen")) is None
    hub.status, hub.body = 200, b'{"kind": "service", "name": "ana"}'
    assert asyncio.run(directory.owner("a service's")) is None
    hub.status = 404
    with pytest.raises(HubSilent):
        asyncio.run(directory.owner("another"))


def test_the_hubs_groups_count(hub: type[Answers], tmp_path: Path) -> None:
    hub.body = b'{"name": "ana", "groups": ["auditors"]}'
    assert asyncio.run(directory_from_environment(tmp_path / "none").groups("ana")) == {"auditors"}
