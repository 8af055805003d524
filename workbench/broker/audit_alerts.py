"""Alerts: the few events that an auditor should hear of at once, not at the next look into the review queue.

Each becomes one line of `alerts.jsonl` in the auditors' folder, and the input of the site's command, if it has one
(mail, pager). An alert says who, when and under which grant: never a member, a statement, a reason or a value.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import shlex
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ALERTS = frozenset({"break-glass", "break-glass-read", "audit-damaged", "audit-pruned"})
"""What alerts. Break-glass, and every look by it: such access needs review at once. Pruning takes evidence away; damage did."""
SAID = ("seq", "at", "event", "user", "grant", "purpose", "channel", "code")
FILE = "alerts.jsonl"
COMMAND = "WORKBENCH_ALERT_COMMAND"
"""A command line that gets each alert as one line of JSON on its standard input; no shell is asked."""
COMMAND_SECONDS = 30

_log = logging.getLogger("workbench.broker.audit")


class Alerts:
    """Writes an alert's line at once, and runs the command beside the writer of the log: a slow one holds nothing up."""

    def __init__(self, folder: Path):
        self._path = folder / FILE
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def tell(self, event: Mapping[str, Any]) -> None:
        """Takes an event that is durable; what does not alert is left alone."""
        if event["event"] not in ALERTS:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="alerts", daemon=True)
            self._thread.start()
        line = json.dumps({name: event[name] for name in SAID})
        try:
            self._write(line)
        except OSError:
            _log.error("an alert could not be written to the auditors' folder")
        self._queue.put(line)

    def close(self) -> None:
        """Tells what waits and ends."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (line := self._queue.get()) is not None:
            self._run(line)

    def _write(self, line: str) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _run(self, line: str) -> None:
        try:
            command = shlex.split(os.environ.get(COMMAND, ""))
            if command:
                subprocess.run(
                    command,
                    input=line + "\n",
                    text=True,
                    timeout=COMMAND_SECONDS,
                    check=True,
                    capture_output=True,
                )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            _log.error("the alert command failed: %s", type(error).__name__)
