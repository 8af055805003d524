"""Schedules: seen to fire; resting while grant or owner lapsed; failures, misses and old releases told."""

from __future__ import annotations

import pickle
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import report_world
import tiny_release
from report_world import SIERRA

from workbench.broker.hub import LocalDirectory
from workbench.broker.service import running
from workbench.reports import control
from workbench.reports.history import History, Status
from workbench.reports.readers import readable
from workbench.reports.schedule import Schedules
from workbench.reports.service import ServiceLocked, only_one
from workbench.reports.store import Store

PATIENCE = 180.0
HOLDS = ["mcp-sierra-vista"]


def every(seconds: int, grace: int = 60) -> dict[str, object]:
    """A schedule of one organisation."""
    return {
        "every_seconds": seconds,
        "misfire": {"grace_seconds": grace},
        "runs": [{"organisation": SIERRA, "parameters": {"year": 2024}}],
    }


@pytest.fixture
def world(monkeypatch):
    made = report_world.make(monkeypatch)
    yield made
    shutil.rmtree(made.folder, ignore_errors=True)


@contextmanager
def scheduler(world, sync_seconds: float = 1):
    """A broker, and a scheduler beside it."""
    with running(world.where):
        schedules = Schedules(world.where, sync_seconds=sync_seconds)
        schedules.start()
        try:
            yield schedules
        finally:
            schedules.stop(wait=True)


def until(found: Callable[[], object]) -> object:
    """The first true answer within the time of patience."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        answer = found()
        if answer:
            return answer
        time.sleep(0.1)
    raise AssertionError("it did not happen")


def rows(world, *statuses: Status) -> list:
    history = History(world.where.state)
    try:
        return [entry for entry in history.entries() if entry.status in statuses]
    finally:
        history.close()


def set_back(world, due: datetime) -> None:
    """Makes the only job of the sleeping scheduler due at a time that is past."""
    with sqlite3.connect(world.where.state / "schedule.sqlite") as database:
        (state,) = database.execute("select job_state from apscheduler_jobs").fetchone()
        job = pickle.loads(state) | {"next_run_time": due}
        database.execute(
            "update apscheduler_jobs set next_run_time = ?, job_state = ?",
            (due.timestamp(), pickle.dumps(job)),
        )
    database.close()


@pytest.mark.sandbox
def test_a_schedule_fires_by_itself_writes_its_output_and_leaves_a_row(world):
    world.report("quick", "print(organisation, year)", schedule=every(2))
    with scheduler(world) as schedules:
        assert schedules.next_run("quick", SIERRA) is not None
        row = until(lambda: rows(world, Status.SUCCEEDED))[0]
    assert (row.trigger, row.owner, row.grant, row.parameters) == (
        "schedule",
        "ana",
        "plan-quality-sierra-vista",
        {"year": 2024},
    )
    output = Store(world.where.lake / "reports").read(
        "plan-quality-sierra-vista", "quick", "sierra-vista-2024"
    )
    assert output is not None
    assert output.manifest["stamp"]["trigger"] == "schedule"
    assert f"{SIERRA} 2024" in world.said(output)


@pytest.mark.sandbox
def test_a_failing_template_is_told_and_the_schedule_goes_on(world):
    world.report("broken", "raise ValueError('00000042A')", schedule=every(2))
    with scheduler(world) as schedules:
        row = until(lambda: rows(world, Status.FAILED))[0]
        assert schedules.next_run("broken", SIERRA) is not None
    assert "ValueError" in row.reason
    assert "00000042A" not in row.reason


@pytest.mark.parametrize("what", ["grant", "owner"])
def test_a_schedule_rests_while_its_grant_or_owner_lapsed_says_so_once_and_goes_on_after(world, what):
    world.report("quick", "print(1)", schedule=every(3600))
    with scheduler(world) as schedules:
        assert schedules.next_run("quick", SIERRA) is not None
        if what == "grant":
            world.grant(valid_until="2025-12-31")
        else:
            world.users({"ana": []})
        row = until(lambda: rows(world, Status.STOPPED))[0]
        until(lambda: schedules.next_run("quick", SIERRA) is None)
        schedules.sync()
        assert len(rows(world, Status.STOPPED)) == 1
        assert row.code == ("grant-expired" if what == "grant" else "wrong-group")
        world.grant()
        world.users({"ana": HOLDS})
        until(lambda: rows(world, Status.RESUMED))
        until(lambda: schedules.next_run("quick", SIERRA) is not None)
    assert rows(world, Status.SUCCEEDED, Status.FAILED) == []


@pytest.mark.sandbox
def test_a_grant_that_lapsed_between_two_looks_stops_the_run_itself(world):
    world.report("quick", "print(1)", schedule=every(8))
    with running(world.where):
        schedules = Schedules(world.where, sync_seconds=3600)
        schedules.start()
        try:
            world.grant(valid_until="2025-12-31")
            until(lambda: rows(world, Status.STOPPED))
        finally:
            schedules.stop(wait=True)
    assert rows(world, Status.SUCCEEDED, Status.FAILED) == []
    assert not (world.where.lake / "reports").exists()


def test_a_time_that_passed_while_the_scheduler_was_down_is_recorded_as_missed(world):
    world.report("quick", "print(1)", schedule=every(3600, grace=60))
    with scheduler(world):
        pass
    due = datetime.now(UTC) - timedelta(minutes=30)
    set_back(world, due)
    with scheduler(world):
        row = until(lambda: rows(world, Status.MISSED))[0]
    assert due.isoformat(timespec="seconds") in row.reason
    assert row.trigger == "schedule"
    assert rows(world, Status.SUCCEEDED) == []


def test_jobs_outlive_a_restart_and_leave_with_their_line_of_the_catalogue(world):
    world.report("quick", "print(1)", schedule=every(3600))
    with scheduler(world) as schedules:
        due = schedules.next_run("quick", SIERRA)
    time.sleep(1.1)
    with scheduler(world) as schedules:
        assert schedules.next_run("quick", SIERRA) == due
        world.report("quick", "print(1)")
        until(lambda: schedules.next_run("quick", SIERRA) is None)


def test_a_catalogue_that_is_broken_later_stops_nothing_and_is_told(world):
    world.report("quick", "print(1)", schedule=every(3600))
    with scheduler(world) as schedules:
        world.report("quick", "print(1)", colour="red")
        until(lambda: schedules.refusal is not None)
        assert "colour" in schedules.refusal.reason
        assert schedules.next_run("quick", SIERRA) is not None


def test_a_run_that_a_killed_scheduler_left_behind_is_told_as_failed(world):
    world.report("quick", "print(1)", schedule=every(3600))
    history = History(world.where.state)
    history.begin(
        report="quick",
        organisation=SIERRA,
        key="sierra-vista-2024",
        grant="plan-quality-sierra-vista",
        owner="ana",
        trigger="schedule",
        parameters={},
    )
    with scheduler(world):
        row = rows(world, Status.FAILED)[0]
    assert row.code == "interrupted"


@pytest.mark.sandbox
def test_a_report_says_when_it_met_the_same_release_and_its_page_when_a_newer_one_came(world):
    world.report("quick", "print(1)", schedule=every(2))
    with scheduler(world):
        until(lambda: len(rows(world, Status.SUCCEEDED)) >= 2)
    assert "No new release" in rows(world, Status.SUCCEEDED)[0].note
    history = History(world.where.state)
    shelf = readable(world.where, HOLDS, history)[0]
    assert not shelf.stale
    newer = "20260228-0123456789ab"
    tiny_release.write(world.where.lake, report_world.tables(), release_id=newer, as_of="2026-02-28")
    shelf = readable(world.where, HOLDS, history)[0]
    history.close()
    assert shelf.stale


def test_a_service_of_the_hub_waits_for_the_hubs_broker_and_makes_none(world, monkeypatch):
    """Else a schedule that fires before the broker is up would run a second one on its state and its socket."""
    monkeypatch.setenv("JUPYTERHUB_SERVICE_NAME", "reports")
    monkeypatch.setattr(control, "HUBS_BROKER_SECONDS", 0.5)
    with pytest.raises(control.BrokerDown), control.Control(world.where).running():
        raise AssertionError("a broker that is not the Hub's")
    monkeypatch.setattr(control, "HUBS_BROKER_SECONDS", 90.0)
    found = []

    def wait() -> None:
        with control.Control(world.where).running():
            found.append(True)

    waiting = threading.Thread(target=wait)
    waiting.start()
    with running(world.where, LocalDirectory(world.folder / "no-one-asks")):
        waiting.join(90)
    assert found == [True]


def test_two_report_services_never_fire_side_by_side(world):
    with only_one(world.where.state), pytest.raises(ServiceLocked), only_one(world.where.state, patience=0.3):
        pass
