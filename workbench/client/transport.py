"""HTTP over the broker's unix socket: one connection a request, streams handed on as they arrive."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from workbench.client import errors
from workbench.client.progress import Progress

DEFAULT_SOCKET = "/run/wb/broker/broker.sock"
CONNECT_SECONDS = 10.0
"""A unix socket connects at once or not at all; the limit is for a listener whose backlog is full."""
SLICE_BUILD_SECONDS = 1800.0
"""How long the client waits for the slice of a grant to be built before it gives the refusal to the caller."""
BUSY_RETRIES = 3
"""How often a 429 is tried again, after the time that the broker names."""
LONGEST_BUSY_WAIT = 10.0


class Transport:
    """The way to one broker: a socket and a token."""

    def __init__(self, socket_path: Path, token: str):
        self._path = socket_path
        self._token = token

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Transport:
        """Reads WORKBENCH_BROKER, and WORKBENCH_TOKEN or JUPYTERHUB_API_TOKEN; raises NoToken."""
        token = environment.get("WORKBENCH_TOKEN") or environment.get("JUPYTERHUB_API_TOKEN")
        if not token:
            raise errors.NoToken(
                "This kernel has no token for the broker.",
                hint="Start the notebook from the Hub; outside of it use `workbench query`.",
            )
        return cls(Path(environment.get("WORKBENCH_BROKER", DEFAULT_SOCKET)), token)

    def get(self, path: str) -> dict[str, Any]:
        """The JSON answer to GET; waits for a slice that is being built."""
        return self._json("GET", path, None)

    def post(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        """The JSON answer to POST; waits for a slice that is being built."""
        return self._json("POST", path, body)

    def stream(self, path: str, body: Mapping[str, object]) -> http.client.HTTPResponse:
        """The open response to POST. The caller closes it."""
        return self._request("POST", path, body)

    def _json(self, method: str, path: str, body: Mapping[str, object] | None) -> dict[str, Any]:
        response = self._request(method, path, body)
        with response:
            answer: dict[str, Any] = json.loads(response.read())
        return answer

    def _request(self, method: str, path: str, body: Mapping[str, object] | None) -> http.client.HTTPResponse:
        """Sends until the broker answers: a slice that is being built and a short 429 are waited for."""
        return _patiently(lambda: self._send(method, path, body))

    def _send(self, method: str, path: str, body: Mapping[str, object] | None) -> http.client.HTTPResponse:
        connection = _UnixConnection(self._path)
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "*/*", "Connection": "close"}
        payload = None
        if body is not None:
            payload = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, path, body=payload, headers=headers)
            return connection.only_response()
        except (OSError, http.client.HTTPException) as failure:
            raise errors.BrokerUnreachable(
                "The broker does not answer.",
                hint="It may be restarting: try again in a few seconds. If it stays away, tell your operator.",
            ) from failure
        finally:
            connection.let_go()


def _patiently(send: Callable[[], http.client.HTTPResponse]) -> http.client.HTTPResponse:
    """Repeats `send` while the broker builds the slice or asks to wait; raises the typed error for the rest."""
    deadline = time.monotonic() + SLICE_BUILD_SECONDS
    busy = 0
    with Progress("The broker is working on it") as progress:
        while True:
            response = send()
            if response.status in (200, 201):
                return response
            with response:
                body = _error_body(response.read())
            retry_after = response.headers.get("Retry-After")
            if body.get("code") == "slice-building" and time.monotonic() < deadline:
                progress.show(_building(body))
                time.sleep(min(errors.seconds_of(retry_after, default=1.0), 5.0))
                continue
            error = errors.from_response(response.status, body, retry_after)
            if (
                isinstance(error, errors.BrokerBusy)
                and busy < BUSY_RETRIES
                and error.retry_after <= LONGEST_BUSY_WAIT
            ):
                busy += 1
                progress.show(f"The broker is busy; trying again in {error.retry_after:.0f} s")
                time.sleep(error.retry_after)
                continue
            raise error


def _building(body: Mapping[str, Any]) -> str:
    """Words for a build's progress: its step and, where known, how far it is (0 to 1)."""
    told = body.get("progress")
    progress = told if isinstance(told, Mapping) else body
    text = "The slice of this grant is being built (once for each release)"
    step, done = progress.get("step"), progress.get("done")
    if isinstance(step, str) and step:
        text += f": {step}"
    if isinstance(done, int | float):
        text += f", {min(max(float(done), 0.0), 1.0):.0%}"
    return text


def _error_body(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path):
        super().__init__("broker")
        self._path = path

    def only_response(self) -> http.client.HTTPResponse:
        """The answer to the one request of this connection. From then on the socket is the response's to close."""
        return self.getresponse()

    def let_go(self) -> None:
        """Closes the connection's own hold on the socket; a response that is being read keeps it open."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CONNECT_SECONDS)
        self.sock.connect(str(self._path))
        self.sock.settimeout(None)
