"""The line of progress: there after its delay also while nothing arrives, gone at the end, and none for quick work."""

from __future__ import annotations

import contextlib
import io
import re
import threading
import time
from collections.abc import Iterator

import jupyter_client
import pytest
from broker_world import until

from workbench.client.progress import INTERVAL_SECONDS, Progress

SLOW = """
import time
from workbench.client.progress import Progress

drawn = []

class Shown(Progress):
    def _draw(self, line):
        super()._draw(line)
        drawn.append(line)

def until_it_says(text):
    deadline = time.monotonic() + 60
    while not any(line.startswith(text) for line in drawn) and time.monotonic() < deadline:
        time.sleep(0.02)

with Shown("Waiting for the first rows", delay=0.2) as progress:
    until_it_says("Waiting for the first rows")
    progress.show("12 rows so far")
    until_it_says("12 rows so far")
"""


class Terminal(io.StringIO):
    """A terminal that remembers what was written."""

    def isatty(self) -> bool:
        return True


def test_the_line_stands_while_the_caller_waits_for_the_first_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress("Waiting", delay=0.05):
        until(lambda: re.search(r"Waiting · \d+ s", terminal.getvalue()))
    assert terminal.getvalue().endswith("\r")
    written = terminal.getvalue()
    time.sleep(2 * INTERVAL_SECONDS)
    assert terminal.getvalue() == written


def test_quick_work_shows_nothing_and_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress("Waiting", delay=5) as progress:
        assert not progress.shown
    assert terminal.getvalue() == ""
    until(lambda: not any(t.name == "progress" for t in threading.enumerate()))


@contextlib.contextmanager
def kernel() -> Iterator[jupyter_client.BlockingKernelClient]:
    manager, client = jupyter_client.manager.start_new_kernel(kernel_name="python3")
    try:
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def test_in_a_notebook_one_output_of_the_waiting_cell_is_renewed_and_then_emptied() -> None:
    said: list[tuple[str, str, str]] = []

    def hear(message: dict) -> None:
        if message["msg_type"] in {"display_data", "update_display_data"}:
            asked = message["parent_header"]["msg_id"]
            said.append((message["msg_type"], message["content"]["data"]["text/plain"], asked))

    with kernel() as client:
        reply = client.execute_interactive(SLOW, output_hook=hear, timeout=150)
        client.execute_interactive("1", output_hook=hear, timeout=60)
    assert reply["content"]["status"] == "ok"
    assert {asked for _, _, asked in said} == {reply["parent_header"]["msg_id"]}
    assert said[0][0] == "display_data" and re.fullmatch(r"Waiting for the first rows · \d+ s", said[0][1])
    assert any(text.startswith("12 rows so far") for _, text, _ in said)
    assert said[-1][:2] == ("update_display_data", "")
    assert [kind for kind, _, _ in said].count("display_data") == 1
