"""An operator's way to the broker: the control socket of the one that runs, or of one that lives as long as the command.

Both go through the same gate, sandboxed worker and audit.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from workbench.broker.caller import NOTICE_HEADER
from workbench.broker.frames import END_OF_STREAM
from workbench.broker.law import NOTICE_2_32, NOTICE_NAME
from workbench.errors import WorkbenchError
from workbench.settings import HUB_START_SECONDS, Settings

Progress = Callable[[str, float], None]
HUBS_BROKER_SECONDS = HUB_START_SECONDS
"""How long a command waits for the broker of a Hub that starts, or starts it again."""


class BrokerSilent(WorkbenchError):
    """The broker does not answer."""

    code = "broker-silent"
    http_status = 503


class Refused(WorkbenchError):
    """What the broker answered in place of data; code, reason and hint are the broker's."""


@dataclass(frozen=True)
class Rows:
    """A whole answer and what it is stamped with."""

    table: pa.Table
    query: str
    grant: str
    release: str
    slice: str
    synthetic: bool
    notice: str
    """The notice of 42 CFR 2.32, where it accompanies the answer."""


class Operator:
    """Questions on a control socket."""

    def __init__(self, control: Path, progress: Progress | None = None):
        self._control = control
        self._progress = progress

    def query(self, sql: str, address: Mapping[str, Any]) -> Rows:
        """Runs one statement and takes its whole answer. Raises Refused."""
        response = self._patiently("POST", "/query", {"sql": sql, **address})
        body = response.read()
        if body[-8:] != END_OF_STREAM:
            raise self._why(response)
        value = response.headers.get
        return Rows(
            pa.ipc.open_stream(body).read_all(),
            value("X-Query-Id") or "",
            value("X-Workbench-Grant") or "",
            value("X-Workbench-Release") or "",
            value("X-Workbench-Slice") or "",
            value("X-Workbench-Synthetic") == "true",
            NOTICE_2_32 if value(NOTICE_HEADER) == NOTICE_NAME else "",
        )

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The JSON answer; waits for a slice that is being built. Raises Refused."""
        answer: dict[str, Any] = json.loads(self._patiently(method, path, body).read() or b"{}")
        return answer

    def _patiently(self, method: str, path: str, body: Mapping[str, Any] | None) -> http.client.HTTPResponse:
        while True:
            response = self._send(method, path, body)
            if response.status in (200, 201, 204):
                return response
            said = json.loads(response.read() or b"{}")
            if said.get("code") == "slice-building":
                if self._progress is not None:
                    self._progress(
                        f"building the slice: {said['progress']['step']}", float(said["progress"]["done"])
                    )
                time.sleep(0.2)
                continue
            raise Refused(
                str(said.get("reason") or f"The broker answered with status {response.status}."),
                hint=str(said.get("hint") or ""),
                code=str(said.get("code") or "refused"),
                http_status=response.status,
            )

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("broker")
        try:
            connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.sock.connect(str(self._control))
            payload = json.dumps(body) if body is not None else None
            connection.request(
                method,
                path,
                body=payload,
                headers={"Content-Type": "application/json", "Connection": "close"},
            )
            return connection.getresponse()
        except (OSError, http.client.HTTPException):
            connection.close()
            raise BrokerSilent(
                "The broker does not answer.", hint="Try again, or start it with `workbench up`."
            ) from None

    def _why(self, response: http.client.HTTPResponse) -> Refused:
        """Why an answer broke off after its first byte."""
        with contextlib.suppress(WorkbenchError, KeyError):
            state = self.ask("GET", f"/queries/{response.headers['X-Query-Id']}")
            return Refused(str(state["reason"]), code=str(state["code"]))
        return Refused(
            "The answer broke off before its end.", hint="Try again, or ask for less.", code="cut-off"
        )


@contextlib.contextmanager
def operator(where: Settings, progress: Progress | None = None) -> Iterator[Operator]:
    """The broker that runs on this state, or one of its own for the block.

    Where a Hub runs the broker is the Hub's, waited for while it starts: one of the command's own would hold the state,
    and users would find nobody. Raises BrokerSilent, StateLocked, SandboxUnavailable.
    """
    control = where.run / "control" / "control.sock"
    if hubs_broker(where, progress) or _answers(control):
        yield Operator(control, progress)
        return
    from workbench.broker.service import running

    with running(where):
        yield Operator(control, progress)


def hubs_broker(where: Settings, progress: Progress | None = None) -> bool:
    """Whether a Hub runs on this state; then its broker answers by now. Raises BrokerSilent where it does not start."""
    began = time.monotonic()
    while _hub_runs(where):
        if _answers(where.run / "control" / "control.sock"):
            return True
        waited = (time.monotonic() - began) / HUBS_BROKER_SECONDS
        if waited > 1:
            raise BrokerSilent(
                "The Hub runs, and its broker does not answer.",
                hint="Look at the Hub's log, or stop `workbench up` and try again.",
            )
        if progress is not None:
            progress("waiting for the Hub's broker", waited)
        time.sleep(0.2)
    return False


def _hub_runs(where: Settings) -> bool:
    try:
        with where.up_lock.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _answers(control: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(control))
        except OSError:
            return False
    return True
