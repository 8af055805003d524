"""Promises of the days: grants and consents begin and end at midnight in California, wherever the machine stands."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner

from workbench.broker.consent import Consents, Decision, decision_of
from workbench.broker.grants import GrantBook
from workbench.broker.service import running
from workbench.broker.state import State
from workbench.cli import program
from workbench.days import DEFAULT, SETTING, NoSuchZone, time_zone, today
from workbench.settings import PROJECT, settings

EARLIEST, LATEST = "Etc/GMT+12", "Pacific/Kiritimati"
"""26 hours apart: it is never the same day in both."""
MEMBER = "90000001A"


@pytest.fixture(params=[EARLIEST, LATEST])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A machine whose own clock shows another day than California's, in one of the two at least."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Consents]:
    state = State(f"sqlite:///{tmp_path / 'state.sqlite'}", tmp_path / "state")
    yield Consents(state)
    state.close()


def day_in(zone: str) -> date:
    return datetime.now(ZoneInfo(zone)).date()


def grants(folder: Path, *, until: date) -> Path:
    folder.mkdir()
    (folder / "study.yaml").write_text(
        "name: study\ntitle: Study\ngroups: [team]\norganisation: {relation: state}\nrecipient: {id: dhcs, state: CA}\n"
        "level: identified\npurposes: [operations]\nagreement: none\napprover: Office\nchannels: [notebook]\n"
        f"valid_from: 2020-01-01\nvalid_until: {until.isoformat()}\n"
    )
    return folder


def test_the_day_is_californias_whatever_the_machines_zone(
    machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SETTING, raising=False)
    before = day_in("America/Los_Angeles")
    assert before <= today() <= day_in("America/Los_Angeles")


def test_a_grant_ends_with_the_day_of_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    last = day_in(EARLIEST)
    folder = grants(tmp_path / "grants", until=last)
    codes = {}
    for zone in (EARLIEST, LATEST):
        monkeypatch.setenv(SETTING, zone)
        codes[zone] = [d.code for d in GrantBook.load(folder).for_user({"team"})]
        shown = CliRunner().invoke(program, ["policy", "check", "--grants", str(folder)]).output
        assert (f"study.yaml: expired on {last}" in shown) is (zone == LATEST)
    assert codes == {EARLIEST: ["allowed"], LATEST: ["grant-expired"]}


def test_a_consent_begins_and_ends_with_the_day_of_the_setting(
    register: Consents, monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    early, late = day_in(EARLIEST), day_in(LATEST)
    register.decide(
        [
            Decision("LASTS-TILL-EARLY", "plan", "part2", "form", start=early, until=early),
            Decision("BEGINS-LATE", "plan", "part2", "form", start=late),
        ]
    )
    seen = {}
    for zone in (EARLIEST, LATEST, EARLIEST):
        monkeypatch.setenv(SETTING, zone)
        seen[zone] = set(register.view("plan", ["part2"]).members["part2"])
    assert seen == {EARLIEST: {"LASTS-TILL-EARLY"}, LATEST: {"BEGINS-LATE"}}
    monkeypatch.setenv(SETTING, LATEST)
    said = {"member_id": MEMBER, "recipient": "plan", "scope": "all", "source": "form"}
    assert decision_of(said).start == day_in(LATEST)


def test_a_decision_of_a_day_is_of_that_day_in_california(
    register: Consents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SETTING, raising=False)
    evening = datetime(2026, 3, 3, 4, tzinfo=UTC)  # still the second of March there
    day = date(2026, 3, 1)
    register.decide([Decision(MEMBER, "plan", "part2", "form", start=day, decided_at=evening)])
    said = {"member_id": MEMBER, "recipient": "plan", "scope": "part2", "source": "letter"}
    register.decide(
        [decision_of({**said, "from": "2026-03-01", "revoked": "yes", "decided_at": "2026-03-03"})]
    )
    assert register.view("plan", ["part2"]).members == {"part2": frozenset()}
    [_, revoked] = register.listed()
    assert (revoked["decided_at"], revoked["counts"]) == ("2026-03-03T08:00:00.000000+00:00", True)
    tomorrow = (today() + timedelta(days=1)).isoformat()
    with pytest.raises(Exception, match="future"):
        register.decide([decision_of({**said, "decided_at": tomorrow})])


@pytest.mark.parametrize("zone", ["California", "../../etc/passwd", "America", "PST8PDT!"])
def test_nothing_starts_in_an_unknown_zone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    for name in ("LAKE", "STATE", "RUN", "AUDIT"):
        monkeypatch.setenv(f"WORKBENCH_{name}", str(tmp_path / name.lower()))
    monkeypatch.setenv(SETTING, zone)
    with pytest.raises(NoSuchZone, match=SETTING):
        time_zone()
    with pytest.raises(NoSuchZone), running(settings()):
        pytest.fail("the broker started")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = CliRunner().invoke(program, ["up", "--port", str(taken.getsockname()[1])])
    assert isinstance(found.exception, NoSuchZone)


def test_an_unset_or_empty_zone_is_californias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SETTING, raising=False)
    assert time_zone().key == DEFAULT == "America/Los_Angeles"
    monkeypatch.setenv(SETTING, "")
    assert time_zone().key == DEFAULT


@pytest.mark.parametrize(
    ("tzdata", "says"), [(True, "America/Los_Angeles"), (False, "no database of time zones")]
)
def test_a_machine_without_zones_has_those_of_the_requirements_or_says_so(tzdata: bool, says: str) -> None:
    code = "import sys; from workbench.days import time_zone\n"
    code += "" if tzdata else "sys.modules['tzdata'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}print(time_zone().key)"],
        env={k: v for k, v in os.environ.items() if k != SETTING} | {"PYTHONTZPATH": ""},
        cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert says in done.stdout + done.stderr
    assert (done.returncode == 0) is tzdata
    locked = (PROJECT / "requirements" / "workbench.txt").read_text()
    assert "\ntzdata==" in locked
