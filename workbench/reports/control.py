"""The way to the broker's control socket: a short-lived binding for one report run.

Only the operator's uid reaches that socket. Where no broker service runs, one runs in this process for as long
as it is needed, so that a command and the scheduler go the same way.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from workbench.errors import WorkbenchError
from workbench.reports.unix import UnixConnection
from workbench.settings import HUB_START_SECONDS, Settings

ANSWER_SECONDS = 60.0
TELL_SECONDS = 10.0
HUBS_BROKER_SECONDS = HUB_START_SECONDS
"""How long a run waits for the Hub's broker, which starts with it and later on a busy machine."""
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
        """Uses the broker that runs, or one of this process for as long as the block lasts.

        Where a Hub runs, its broker is waited for and none made: that would hold the state and serve the control
        socket in its place. Raises BrokerDown, BrokerSilent, StateLocked or SandboxUnavailable where there can be none.
        """
        if self.answers() or self._hubs_answers():
            yield
            return
        from workbench.broker.operator import hubs_broker
        from workbench.broker.service import running

        if hubs_broker(self._settings):
            yield
            return
        with running(self._settings):
            yield

    def _hubs_answers(self) -> bool:
        """Whether the Hub's own broker listens, waited for; False where no Hub started this process."""
        if not os.environ.get("JUPYTERHUB_SERVICE_NAME"):
            return False
        deadline = time.monotonic() + HUBS_BROKER_SECONDS
        while not self.answers():
            if time.monotonic() > deadline:
                raise BrokerDown("The Hub's broker does not answer.", hint="Look at the Hub's log.")
            time.sleep(0.2)
        return True

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

    def audit(
        self,
        path: str,
        auditor: str,
        *,
        filters: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """What the broker answers an auditor below `/audit`; it asks the Hub who she is and records that she looked."""
        query = urlencode({**(filters or {}), "auditor": auditor})
        return self._ask("GET" if body is None else "POST", f"/audit{path}?{query}", body)

    def tell(self, event: str, **said: str) -> None:
        """Puts an event into the broker's audit log; raises BrokerDown or BindingRefused where that cannot be."""
        self._ask("POST", "/events", {"event": event, **said}, TELL_SECONDS)

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None, seconds: float = ANSWER_SECONDS
    ) -> dict[str, Any]:
        connection = UnixConnection(str(self.path), seconds)
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
