"""What the command line writes where: answers on standard output, progress on standard error, tables that fit."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator

import pytest
from broker_world import World, new_world
from click.testing import CliRunner

from workbench.cli import program

pytestmark = pytest.mark.sandbox
PROGRAM = [
    sys.executable,
    "-c",
    "from workbench.broker import shelf; shelf.QUICK_BUILD_SECONDS = 0.0; from workbench.cli import main; main()",
]
"""No build counts as too quick to be told of."""
GRANTS = ("demo-analyst", "plan-quality-sierra-vista", "demo-research-sh")
ALWAYS = ["slice", "grant", "rows", "MB"]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with new_world() as world:
        yield world


def run(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The program as a process of its own with pipes for both outputs, and no broker beside it."""
    return subprocess.run(
        [*PROGRAM, *arguments], env={**os.environ, **world.environment()}, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip


def on_terminal(world: World, width: int, *arguments: str) -> list[str]:
    """The lines that the program writes on a terminal of that width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    environment = {**os.environ, **world.environment(), "TERM": "xterm", "NO_COLOR": "1"}
    environment.pop("COLUMNS", None)
    process = subprocess.Popen([*PROGRAM, *arguments], env=environment, stdout=theirs, stderr=theirs)
    os.close(theirs)
    written = b""
    while True:
        try:
            piece = os.read(ours, 65_536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        written += piece
    os.close(ours)
    assert process.wait(60) == 0, written
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode()).splitlines()


def columns(heading: str) -> list[str]:
    return [name.strip() for name in heading.split("┃")]


@pytest.mark.parametrize("form", ["--json", "--rows=50"])
def test_the_first_question_tells_on_standard_error_that_the_slice_is_built(form: str) -> None:
    sql = "SELECT 'the answer' AS it"
    with new_world() as fresh:
        first, second = (run(fresh, "query", "--grant", "demo-analyst", form, sql) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert re.fullmatch(r"(building the slice: [\w ]+, \d+%\n)+", first.stderr)
    assert second.stderr == ""
    assert "building" not in first.stdout
    if form == "--json":
        assert json.loads(first.stdout)["data"] == [["the answer"]]
    else:
        assert first.stdout.startswith("SYNTHETIC DATA\n") and "the answer" in first.stdout


def test_on_a_terminal_a_bar_stands_before_the_answer_while_the_slice_is_built(world: World) -> None:
    shown = on_terminal(world, 100, "query", "--grant", "demo-research-lds", "SELECT 'the answer' AS it")
    built = [number for number, line in enumerate(shown) if "building the slice: " in line]
    [answer] = [number for number, line in enumerate(shown) if " the answer " in line]
    assert built and max(built) < answer


@pytest.fixture(scope="module")
def built(world: World) -> dict[str, str]:
    """grant → id of its slice."""
    asked = [word for grant in GRANTS for word in ("--grant", grant)]
    done = run(world, "slice", "build", *asked, "--json")
    return {one["grant"]: one["id"] for one in json.loads(done.stdout)}


@pytest.mark.parametrize(
    ("width", "more"),
    [(80, []), (100, ["level"]), (200, ["kind", "level", "release", "built in s", "last used"])],
)
def test_the_list_of_slices_fits_the_terminal_one_line_a_slice(
    world: World, built: dict[str, str], width: int, more: list[str]
) -> None:
    lines = on_terminal(world, width, "slice", "list")
    table = [line for line in lines if "┃" in line or "│" in line]
    assert {*ALWAYS, *more} <= set(columns(table[0]))
    assert all(len(line) <= width for line in table)
    for grant, id in built.items():
        [line] = [line for line in table if id in line]
        assert f" {grant} " in line
    [left_out] = [line for line in lines if line.startswith("Not shown: ")] or [""]
    assert ("level" in left_out, "built in s" in left_out) == (width < 100, width < 160)


def test_what_is_no_terminal_gets_every_column_and_no_row_in_two_lines(
    world: World, built: dict[str, str]
) -> None:
    done = run(world, "slice", "list")
    heading, _, *rows = done.stdout.splitlines()
    assert columns(heading) == [
        "slice", "kind", "grant", "level", "release", "rows", "MB", "alone MB", "built in s", "anew s", "last used",
    ]  # fmt: skip
    ids = [row.split("│")[0].strip() for row in rows]
    assert set(built.values()) <= set(ids) and all(re.fullmatch("[0-9a-f]{24}", id) for id in ids)
    assert done.stderr == ""


def test_a_slice_is_shown_with_whole_names_of_tables(world: World, built: dict[str, str]) -> None:
    lines = on_terminal(world, 80, "slice", "show", built["demo-analyst"])
    names = {line.split("│")[0].strip() for line in lines if "│" in line}
    assert {"medical_claim_line", "pharmacy_claim"} <= names
    assert all(len(line) <= 80 for line in lines if "│" in line)


@pytest.mark.parametrize("command", [("who-saw", "90000001A"), ("review",), ("prune", "--dry-run")])
def test_a_look_into_the_log_that_lasts_says_so_on_standard_error_alone(
    world: World, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    for name, value in world.environment().items():
        monkeypatch.setenv(name, value)
    told = {}
    for delay in (0.0, 600.0):
        monkeypatch.setattr("workbench.cli.progress.DELAY_SECONDS", delay)
        done = CliRunner().invoke(program, ["audit", *command])
        assert done.exit_code == 0 and "Reading the log" not in done.stdout, done.output
        told[delay] = done.stderr
    assert re.match(r"Reading the log · \d s\n", told[0.0])
    assert told[600.0] == ""
