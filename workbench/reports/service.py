"""The Hub's service `reports`: the scheduler and the report pages in one process.

`python -m workbench.reports.service`, started by the Hub with the entry that `hub_service` makes. It holds a lock, so
that a service which a killed Hub left behind never fires beside its successor, and ends with the Hub.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from workbench.errors import WorkbenchError
from workbench.settings import Settings, settings

NAME = "reports"
LOCK_PATIENCE_SECONDS = 20.0
"""How long it waits for a predecessor to end."""
GROUPS_CACHE_SECONDS = 10
"""A group that was taken away closes the pages after this time."""
_PR_SET_PDEATHSIG = 1


class ServiceLocked(WorkbenchError):
    """Another report service works on this state."""

    code = "service-locked"
    http_status = 503


def hub_service(url: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """The entry of `c.JupyterHub.services`; `url` is where it shall listen, `environment` the WORKBENCH_ settings."""
    return {
        "name": NAME,
        "url": url,
        "command": [sys.executable, "-m", "workbench.reports.service"],
        "environment": {"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8", **environment},
        "oauth_no_confirm": True,
        "display": True,
    }


def hub_roles() -> list[dict[str, Any]]:
    """The entries of `c.JupyterHub.load_roles` that it needs: to read the groups of a report's owner, no more.

    Users reach the pages by the scope `READ_SCOPE`.
    """
    return [
        {"name": "report-service", "services": [NAME], "scopes": ["read:users:name", "read:users:groups"]}
    ]


READ_SCOPE = f"access:services!service={NAME}"


@contextlib.contextmanager
def only_one(state: Path, patience: float = LOCK_PATIENCE_SECONDS) -> Iterator[None]:
    """Holds the lock of this state's report service; raises ServiceLocked after `patience` seconds."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state / "reports.lock").open("a+") as lock:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise ServiceLocked(
                        "Another report service works on this state.", hint="Stop it, or wait until it ends."
                    ) from None
                time.sleep(0.2)
        yield


def end_with_parent() -> None:
    """Asks the kernel for SIGTERM when the Hub dies, however it dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


async def serve(here: Settings) -> None:
    """Runs scheduler and pages until SIGTERM or SIGINT."""
    from jupyterhub.services.auth import HubOAuth
    from tornado.httpserver import HTTPServer
    from tornado.netutil import bind_unix_socket

    from workbench.reports.schedule import Schedules
    from workbench.reports.site import application

    HubOAuth.instance(cache_max_age=GROUPS_CACHE_SECONDS)
    prefix = os.environ["JUPYTERHUB_SERVICE_PREFIX"]
    home = os.environ.get("JUPYTERHUB_BASE_URL", "/") + "hub/home"
    schedules = Schedules(here)
    server = HTTPServer(application(here, schedules, prefix, home, secrets.token_bytes(32)), xheaders=True)
    url = urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])
    if url.scheme == "http+unix":
        server.add_socket(bind_unix_socket(unquote(url.netloc), mode=0o600))
    else:
        server.listen(url.port or 0, url.hostname or "127.0.0.1")
    schedules.start()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    logging.getLogger("workbench.reports").info("The report service runs.")
    await ended.wait()
    server.stop()
    schedules.stop()


def main() -> None:
    """The service; exits 1 with one line when it cannot start."""
    logging.basicConfig(level=logging.INFO, format="[reports] %(levelname)s %(message)s")
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    end_with_parent()
    here = settings()
    try:
        with only_one(here.state):
            asyncio.run(serve(here))
    except WorkbenchError as error:
        sys.exit(f"workbench: {error.reason} {error.hint}".strip())
    os._exit(0)  # a run under way in a thread ends with the process; the next start marks it as interrupted


if __name__ == "__main__":
    main()
