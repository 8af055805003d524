"""`workbench isolation-report` tells the truth: inside, outside, and in a sandbox with a hole."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from workbench.sandbox import Sandbox, launch

pytestmark = pytest.mark.sandbox
PROGRAM = str(Path(sys.prefix) / "bin" / "workbench")


def report(*arguments: str, read_only: dict[Path, str] | None = None) -> tuple[int, str]:
    running = launch(
        Sandbox(command=[PROGRAM, "isolation-report", *arguments], read_only=read_only or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert running.process.stdout is not None
    with running.process.stdout as stream:
        said = stream.read().decode()
    return running.wait(60), said


def test_inside_every_attempt_is_stopped_and_named() -> None:
    code, said = report()
    assert code == 0, said
    assert "GOT OUT" not in said
    assert said.count("stopped  ") >= 30


def test_machines_get_the_same_as_json() -> None:
    code, said = report("--json")
    answer = json.loads(said)
    assert code == 0
    assert answer["stopped"] is True
    assert len(answer["attempts"]) >= 30
    assert all(row["stopped"] and row["by"] for row in answer["attempts"])


@pytest.mark.parametrize(
    ("hole", "tried"),
    [("x.parquet", "data files of the lake"), ("jupyterhub.sqlite", "databases and keys of Hub and broker")],
)
def test_a_sandbox_that_shows_too_much_is_found_out(tmp_path: Path, hole: str, tried: str) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / hole).write_text("")
    code, said = report("--json", read_only={tmp_path: "/srv/data"})
    assert code == 1
    assert [row["tried"] for row in json.loads(said)["attempts"] if not row["stopped"]] == [tried]


def test_a_socket_of_another_server_is_found_out() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as other:
        Path(folder).chmod(0o755)
        other.bind(f"{folder}/broker.sock")
        code, said = report("--json", read_only={Path(folder): "/run/wb/other"})
    assert code == 1
    assert [row["tried"] for row in json.loads(said)["attempts"] if not row["stopped"]] == [
        "sockets of other servers"
    ]


def test_outside_it_says_that_nothing_stops_anything() -> None:
    done = subprocess.run([PROGRAM, "isolation-report"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "This is not a sandbox" in done.stderr
    assert done.stdout == ""
