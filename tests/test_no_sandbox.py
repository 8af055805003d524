"""A machine without bubblewrap: the broker refuses to start, unless it was told to do without, and then it says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from broker_world import World, new_world, until
from click.testing import CliRunner

from workbench.cli.broker import query
from workbench.client import page, show
from workbench.client.session import Session
from workbench.client.transport import Transport
from workbench.reports import present
from workbench.sandbox import VARIABLE

WITHOUT_BWRAP = {"PATH": "/nonexistent"}


@pytest.fixture
def world() -> Iterator[World]:
    with new_world() as world:
        yield world


@pytest.fixture
def quiet() -> Iterator[None]:
    """What this process was told of a broker is forgotten afterwards."""
    yield
    show._Broker.insecure, show._Broker.noticed = False, ""


def test_without_bubblewrap_the_broker_does_not_start_and_says_what_to_install(world: World) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "workbench.broker.service"],
        env={**os.environ, **world.environment(), **WITHOUT_BWRAP},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1 and "bubblewrap is not installed" in done.stderr
    assert not (world.where.run / "control" / "control.sock").exists()


def test_told_to_do_without_it_serves_and_says_so_on_everything_that_is_shown(
    world: World, quiet: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with world.process(**WITHOUT_BWRAP, **{VARIABLE: "1"}) as broker:
        ana = world.bind("ana", "demo-analyst", "operations")
        assert ana.query("SELECT count(*) FROM member").table.column(0).to_pylist() == [3]
        assert ana.query("SELECT * FROM read_csv('/etc/passwd')").status == 400, "gate and engine stay locked"
        assert ana.ask("GET", "/whoami").json["insecure"] is True
        session = Session(Transport(ana.socket, ana.token))
        assert "NO SANDBOX" in capsys.readouterr().out
        Session(Transport(ana.socket, ana.token))
        assert "NO SANDBOX" not in capsys.readouterr().out, "it is printed once"
        shown = session.sql("SELECT sex FROM member")._repr_html_()
        head = page.head("A page", "A lead", synthetic=True)
        report = present.masthead("Report", "A title", [], synthetic=True)
        assert all("NO SANDBOX" in text and "SYNTHETIC DATA" in text for text in (shown, head, report))
        workers = set(world.control("GET", "/health").json["workers"]["idle"])
        os.kill(min(workers), signal.SIGKILL)
        assert ana.query("SELECT 1").status == 200, "a dead one is replaced"
        workers |= set(world.control("GET", "/health").json["workers"]["idle"])
        broker.terminate()
        assert broker.wait(20) == 0
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


@pytest.mark.sandbox
def test_with_a_sandbox_nothing_of_the_kind_is_said(world: World, quiet: None) -> None:
    with world.serve():
        ana = world.bind("ana", "demo-analyst", "operations")
        assert "insecure" not in ana.ask("GET", "/whoami").json
        session = Session(Transport(ana.socket, ana.token))
        assert "NO SANDBOX" not in session.sql("SELECT sex FROM member")._repr_html_()
        assert page.band(synthetic=False) == ""


def test_the_command_line_takes_the_option_and_says_so_with_the_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**world.environment(), **WITHOUT_BWRAP}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(VARIABLE, "0")
    arguments = ["--grant", "demo-analyst", "SELECT count(*) AS n FROM member"]
    refused = CliRunner().invoke(query, arguments)
    assert refused.exit_code != 0
    done = CliRunner().invoke(query, ["--insecure-no-sandbox", *arguments])
    assert done.exit_code == 0, done.output
    assert "NO SANDBOX" in done.output and "3" in done.output
