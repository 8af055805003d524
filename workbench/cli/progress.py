"""Progress on standard error: on a terminal a line that replaces itself and goes, elsewhere line by line."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from workbench.client.progress import DELAY_SECONDS, Progress

STEP_SECONDS, STILL_SECONDS = 1.0, 10.0
"""Between two lines, where it is another step and where it is the same."""


class Lines:
    """Writes a line at the first word of what is waited for, then one for a new step, or after a while of the same."""

    def __init__(self) -> None:
        self._step, self._at = "", -STILL_SECONDS

    def __call__(self, step: str, done: float) -> None:
        since = time.monotonic() - self._at
        if since >= (STEP_SECONDS if step != self._step else STILL_SECONDS):
            click.echo(f"{step}, {done:.0%}", err=True)
            self._step, self._at = step, time.monotonic()


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Says what is waited for, and for how long by now, once it takes longer than two seconds."""
    if sys.stderr.isatty():
        with Progress(what):
            yield
        return
    ended, started = threading.Event(), time.monotonic()

    def tell() -> None:
        pause = DELAY_SECONDS
        while not ended.wait(pause):
            click.echo(f"{what} · {time.monotonic() - started:.0f} s", err=True)
            pause = STILL_SECONDS

    teller = threading.Thread(target=tell, name="progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()
