"""A broker without sandbox is told on every page of Hub, Lab and app; settings reach the broker that the Hub starts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_fixture import HubData, RunningHub, free_port
from oidc_fixture import below, copied

from hub_config.lab_page import mark

pytestmark = [pytest.mark.hub, pytest.mark.sandbox]
MARK = "NO SANDBOX"


@pytest.fixture(scope="module")
def bare(hub_data: HubData, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    """A Hub whose broker runs queries without a sandbox."""
    data = copied(hub_data, tmp_path_factory.mktemp("bare"))
    running = RunningHub(
        data, free_port(), more={"WORKBENCH_INSECURE_NO_SANDBOX": "1", "WORKBENCH_AUDIT_RETENTION_YEARS": "7"}
    )
    try:
        running.start()
        yield running
    finally:
        for visitor in running.visitors:
            visitor.close()
        running.stop()
        shutil.rmtree(data.run, ignore_errors=True)


def test_every_page_says_that_the_broker_has_no_sandbox(bare: RunningHub) -> None:
    assert MARK in bare.visitor("ana", logged_in=False).get("/hub/login").text
    pat = bare.visitor("pat")
    for path in ("/hub/home", "/hub/spawn", "/hub/no-such-page", "/user/ana/lab"):
        assert MARK in pat.get(path).text, path
    ana = bare.started("ana", "demo-analyst", "operations")
    assert MARK in ana.get("/user/ana/lab").text
    ana.stop()
    pat.start("demo-public", "program_administration")
    assert MARK in pat.get("/user/pat/").text
    pat.stop()


def test_the_sites_settings_reach_the_broker_that_the_hub_starts(bare: RunningHub) -> None:
    assert bare.process is not None
    processes = [Path(f"/proc/{pid}") for pid in below(bare.process.pid)]
    (broker,) = [p for p in processes if b"workbench.broker.service" in (p / "cmdline").read_bytes()]
    told = (broker / "environ").read_bytes().split(b"\0")
    assert b"WORKBENCH_AUDIT_RETENTION_YEARS=7" in told and b"WORKBENCH_INSECURE_NO_SANDBOX=1" in told


@pytest.mark.parametrize(
    ("synthetic", "insecure", "words"),
    [
        (False, False, ""),
        (True, False, '"SYNTHETIC DATA"'),
        (False, True, '"NO SANDBOX"'),
        (True, True, '"NO SANDBOX · SYNTHETIC DATA"'),
    ],
)
def test_labs_page_is_marked_with_what_is_so_and_nothing_else(
    synthetic: bool, insecure: bool, words: str
) -> None:
    said = mark(synthetic=synthetic, insecure=insecure)
    assert words in said
    assert bool(said) is (synthetic or insecure)
    assert (MARK in said) is insecure
    assert "WORDS" not in said and "GROUND" not in said


def test_a_hub_with_a_sandbox_shows_no_such_mark(hub: RunningHub) -> None:
    for path in ("/hub/home", "/hub/spawn"):
        assert MARK not in hub.visitor("pat").get(path).text
