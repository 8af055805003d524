"""`workbench up` refuses in one line what cannot work, and ends all that it started."""

from __future__ import annotations

import fcntl
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from broker_world import until
from hub_fixture import ROOT, HubData, free_port

pytestmark = [pytest.mark.hub, pytest.mark.sandbox]
PROGRAM = str(Path(sys.executable).with_name("workbench"))


def refused(data: HubData, *arguments: str, **environment: str) -> list[str]:
    done = subprocess.run(
        [PROGRAM, "up", *arguments],
        env=data.environment(**environment),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 1
    return done.stderr.strip().splitlines()


@pytest.fixture
def other_place(tmp_path: Path, hub_data: HubData) -> Iterator[HubData]:
    """The same lake with a state folder and sockets of its own."""
    place = HubData(tmp_path, hub_data.run.with_name(hub_data.run.name + "-up"))
    (tmp_path / "lake").symlink_to(hub_data.lake)
    (tmp_path / "grants").symlink_to(hub_data.grants)
    yield place
    shutil.rmtree(place.run, ignore_errors=True)


def test_a_taken_port_is_one_clear_line(other_place: HubData) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = refused(other_place, "--port", str(taken.getsockname()[1]))
    assert "is taken" in said[0]
    assert len(said) == 2


def test_a_second_workbench_on_one_state_is_refused(other_place: HubData) -> None:
    other_place.state.mkdir()
    with (other_place.state / "up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = refused(other_place, "--port", str(free_port()))
    assert "runs already" in said[0]


def test_without_bubblewrap_it_says_what_to_install(other_place: HubData) -> None:
    said = refused(other_place, "--port", str(free_port()), PATH="/nowhere")
    assert "bubblewrap is not installed" in said[0]
    assert "apt-get install bubblewrap" in said[1]


@pytest.mark.parametrize(
    ("number", "after"),
    [(signal.SIGINT, "Ctrl-C stops"), (signal.SIGTERM, "Ctrl-C stops"), (signal.SIGINT, "starting")],
    ids=["Ctrl-C", "terminated", "Ctrl-C while it starts"],
)
def test_when_it_ends_nothing_of_it_is_left(other_place: HubData, number: int, after: str) -> None:
    port = free_port()
    up = subprocess.Popen(
        [PROGRAM, "up", "--port", str(port)],
        env=other_place.environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert up.stdout is not None
    with up.stdout as said:
        for line in said:
            if after in line:
                break
        time.sleep(1.0 if after == "starting" else 0.0)
        up.send_signal(number)
        assert up.wait(90) == 0
    marker = str(other_place.run).encode()
    until(lambda: not [path for path in Path("/proc").glob("[0-9]*/environ") if marker in _read(path)])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
