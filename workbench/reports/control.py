"""The way to the broker's control socket: a short-lived binding for one report run.

Only the operator's uid reaches that socket. Where no broker service runs, one is started for the run and ended after
it, so that a command and the scheduler go the same way.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from workbench.errors import WorkbenchError
from workbench.reports.unix import UnixConnection
from workbench.settings import PROJECT, Settings

START_SECONDS = 30.0
"""How long a broker may take until it answers."""
ANSWER_SECONDS = 60.0
SOCKET = Path("control") / "control.sock"


class BrokerDown(WorkbenchError):
    """No broker answers on the control socket."""

    code = "broker-down"
    http_status = 503


class BindingRefused(WorkbenchError):
    """The broker does not let this owner run under this grant now."""

    code = "binding-refused"
    http_status = 403


@dataclass(frozen=True)
class Binding:
    """A token and a socket that are good for one grant and one purpose, until they are given back or time out."""

    id: str
    folder: Path
    """Holds `broker.sock`."""
    token: str


class Control:
    """The control socket of one workbench."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self.path = settings.run / SOCKET

    def answers(self) -> bool:
        """Whether a broker listens."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(self.path))
            except OSError:
                return False
        return True

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Uses the broker that runs, or one of its own for as long as the block lasts. Raises BrokerDown."""
        if self.answers():
            yield
            return
        environment = {
            **os.environ,
            "WORKBENCH_LAKE": str(self._settings.lake),
            "WORKBENCH_STATE": str(self._settings.state),
            "WORKBENCH_RUN": str(self._settings.run),
            "WORKBENCH_GRANTS": str(self._settings.grants),
            "WORKBENCH_DATABASE_URL": self._settings.database_url,
        }
        with tempfile.TemporaryFile() as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "workbench.broker.service"],
                env=environment,
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            try:
                self._await(child, log)
                yield
            finally:
                _end(child)

    def _await(self, child: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if child.poll() is not None:
                raise BrokerDown("The broker did not start.", hint=_last_words(log))
            if self.answers():
                return
            time.sleep(0.02)
        raise BrokerDown("The broker did not start in time.", hint="Run `workbench up` and look at its log.")

    @contextlib.contextmanager
    def binding(self, *, server: str, user: str, grant: str, purpose: str, seconds: int) -> Iterator[Binding]:
        """A binding for the block; raises BindingRefused with the broker's reason, or BrokerDown."""
        body = {
            "server": server,
            "user": user,
            "grant": grant,
            "purpose": purpose,
            "kind": "report",
            "token_sha256": None,
            "expires_in": seconds,
        }
        answer = self._ask("POST", "/bindings", body)
        bound = Binding(str(answer["binding"]), Path(answer["socket_dir"]), str(answer["token"]))
        try:
            yield bound
        finally:
            with contextlib.suppress(BrokerDown, BindingRefused):
                self._ask("DELETE", f"/bindings/{bound.id}", None)

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        connection = UnixConnection(str(self.path), ANSWER_SECONDS)
        try:
            payload = None if body is None else json.dumps(body)
            headers = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, path, body=payload, headers=headers)
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException):
            raise BrokerDown(
                "The broker does not answer.", hint="Is `workbench up` running? Look at its log; try again."
            ) from None
        finally:
            connection.close()
        try:
            answer = json.loads(text) if text else {}
        except ValueError:
            answer = {}
        if response.status >= 400:
            raise BindingRefused(
                str(answer.get("reason") or f"The broker answered with status {response.status}."),
                hint=str(answer.get("hint") or ""),
                code=str(answer.get("code") or "binding-refused"),
                http_status=response.status,
            )
        return dict(answer)


def _last_words(log: IO[bytes]) -> str:
    """The child's own refusal, if it ended in one (`workbench: …`), for the person at the command line."""
    log.seek(0)
    lines = log.read().decode(errors="replace").splitlines()
    said = [line.strip() for line in lines if line.startswith("workbench: ")]
    return said[-1].removeprefix("workbench: ") if said else "Start it with `workbench up` to see its log."


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
