"""One line of progress that replaces itself: in Lab, Voila and papermill by display updates, on a terminal by \\r.

No widgets: a report keeps no dead widget, and a notebook opened elsewhere shows nothing left over.
"""

from __future__ import annotations

import html
import sys
import time
from types import TracebackType
from typing import Any

DELAY_SECONDS = 2.0
"""Nothing is shown for work that is done within this time."""
INTERVAL_SECONDS = 0.5


class Progress:
    """Shows a line after `delay` seconds, at most every half second, and takes it away at the end."""

    def __init__(self, delay: float = DELAY_SECONDS):
        now = time.monotonic()
        self._started = now
        self._next = now + delay
        self._handle: Any = None
        self._width = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.done()

    @property
    def shown(self) -> bool:
        """Whether a line stands now."""
        return self._handle is not None or self._width > 0

    def show(self, text: str) -> None:
        """Shows `text` and the seconds so far, if it is time."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + INTERVAL_SECONDS
        line = f"{text} · {now - self._started:.0f} s"
        if _in_kernel():
            self._show_in_kernel(line)
        elif sys.stderr.isatty():
            sys.stderr.write("\r" + line.ljust(self._width))
            sys.stderr.flush()
            self._width = len(line)

    def done(self) -> None:
        """Takes the line away."""
        if self._handle is not None:
            self._handle.update({"text/plain": ""}, raw=True)
            self._handle = None
        if self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()
            self._width = 0

    def _show_in_kernel(self, line: str) -> None:
        bundle = {
            "text/plain": line,
            "text/html": f'<small style="color:#475569">⏳ {html.escape(line)}</small>',
        }
        if self._handle is None:
            from IPython.display import DisplayHandle

            self._handle = DisplayHandle()
            self._handle.display(bundle, raw=True)
        else:
            self._handle.update(bundle, raw=True)


def _in_kernel() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None
