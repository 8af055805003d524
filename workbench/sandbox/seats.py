"""Servers that outlive their launcher: where each one listens, and a record of it, so that none is forgotten."""

from __future__ import annotations

import json
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from workbench.sandbox.bwrap import signal_sandbox, stop


@dataclass(frozen=True)
class Seat:
    """The place of one user's server among the sockets. The folder is never visible inside a sandbox."""

    run: Path
    key: str

    @property
    def path(self) -> Path:
        """What the proxy connects to."""
        return self.run / "u" / f"{self.key}.sock"

    @property
    def record(self) -> Path:
        """Which process sits here, so that a Hub that died while spawning leaves no orphan."""
        return self.run / "u" / f"{self.key}.json"

    def listen(self) -> socket.socket:
        """A listening socket that only this user's server will hold. Code inside can neither take nor replace it."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.path))
        listener.listen(128)
        return listener

    def take(self, child_pid: int, started: str | None) -> None:
        """Writes down the sandbox that sits here."""
        self.record.write_text(json.dumps({"child_pid": child_pid, "started": started}))

    def leave(self) -> None:
        """Nobody sits here any more."""
        self.record.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


def evict(run: Path, keep: frozenset[int] = frozenset(), patience: float = 3.0) -> int:
    """Ends every recorded sandbox whose pid is not in `keep`, all at once; how many there were."""
    leaving: list[tuple[int, str]] = []
    for record in sorted((run / "u").glob("*.json")):
        pid, started = _sitting(record)
        if pid in keep:
            continue
        if started is not None and signal_sandbox(pid, started, signal.SIGTERM):
            leaving.append((pid, started))
        Seat(run, record.stem).leave()
    deadline = time.monotonic() + patience
    for pid, started in leaving:
        stop(pid, started, patience=max(deadline - time.monotonic(), 0.1))
    return len(leaving)


def _sitting(record: Path) -> tuple[int, str | None]:
    try:
        sitting = json.loads(record.read_text())
        return int(sitting["child_pid"]), sitting["started"]
    except (OSError, ValueError, KeyError):
        return 0, None
