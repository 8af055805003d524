"""Lab inside a sandbox: `python -I -m hub_config.singleuser`, started by the spawner.

It serves on a listening socket that the spawner made (its number is in WORKBENCH_LISTEN_FD): code in the sandbox
cannot put another server in its place, so the headers and refusals of policy.py hold.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from pathlib import Path
from typing import Any

LISTEN_FD = "WORKBENCH_LISTEN_FD"
CONFIG = Path(__file__).with_name("lab") / "jupyter_server_config.py"
_PR_SET_DUMPABLE = 4


def adopt(descriptor: int) -> Any:
    """A replacement for ServerApp's own binding: serve on the socket that was handed over."""

    def bind(server: Any) -> None:
        listener = socket.socket(fileno=descriptor)
        listener.setblocking(False)
        listener.set_inheritable(False)
        server.http_server.add_socket(listener)

    return bind


def main() -> None:
    """Serves Lab until it is stopped."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]  # an optional check that costs 1.5 s at import
    from jupyter_server.serverapp import ServerApp
    from jupyterhub.singleuser.extension import main as launch

    ServerApp._bind_http_server = adopt(int(os.environ.pop(LISTEN_FD)))
    launch([f"--config={CONFIG}"])


if __name__ == "__main__":
    main()
