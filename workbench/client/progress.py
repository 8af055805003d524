"""One line of progress that replaces itself: in Lab, Voila and papermill by display updates, on a terminal by \\r.

No widgets: a report keeps no dead widget, and a notebook opened elsewhere shows nothing left over. The line is drawn
by a thread of its own, so that it also stands while the caller waits for the broker's first byte.
"""

from __future__ import annotations

import contextvars
import html
import sys
import threading
import time
from types import TracebackType
from typing import Any

DELAY_SECONDS = 2.0
"""Nothing is shown for work that is done within this time."""
INTERVAL_SECONDS = 0.5


class Progress:
    """Shows a line after `delay` seconds, renews it every half second, and takes it away at the end.

    Use as a context manager. `waiting` is what the line says until `show` knows better.
    """

    def __init__(self, waiting: str = "Waiting for the broker", delay: float = DELAY_SECONDS):
        self._text = waiting
        self._delay = delay
        self._started = time.monotonic()
        self._handle: Any = None
        self._width = 0
        self._ended = threading.Event()
        self._drawing = threading.Lock()

    def __enter__(self) -> Progress:
        if _in_kernel() or sys.stderr.isatty():
            context = contextvars.copy_context()  # a kernel finds the cell that it answers to in it
            threading.Thread(target=context.run, args=(self._tick,), name="progress", daemon=True).start()
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
        """What the line says from now on, with the seconds so far."""
        self._text = text

    def done(self) -> None:
        """Takes the line away; none comes after it."""
        self._ended.set()
        with self._drawing:
            if self._handle is not None:
                self._handle.update({"text/plain": ""}, raw=True)
                self._handle = None
            if self._width:
                sys.stderr.write("\r" + " " * self._width + "\r")
                sys.stderr.flush()
                self._width = 0

    def _tick(self) -> None:
        wait = self._delay
        while not self._ended.wait(wait):
            with self._drawing:
                if not self._ended.is_set():
                    self._draw(f"{self._text} · {time.monotonic() - self._started:.0f} s")
            wait = INTERVAL_SECONDS

    def _draw(self, line: str) -> None:
        if _in_kernel():
            self._show_in_kernel(line)
        else:
            sys.stderr.write("\r" + line.ljust(self._width))
            sys.stderr.flush()
            self._width = max(self._width, len(line))

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
