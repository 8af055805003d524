"""`workbench audit`: who saw a member, review, export, prune and verify on the command line, each an event of the log."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from broker_world import World, new_world
from click.testing import CliRunner, Result

from workbench.broker.audit import Audit
from workbench.broker.published_slice import members_file
from workbench.broker.state import State
from workbench.cli import program

MEMBER = "00000001A"
pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with new_world() as world:
        yield world


@pytest.fixture
def run(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    for name, value in world.environment().items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(program, ["audit", *arguments], prog_name="workbench")

    return run


def _lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def _write(world: World, years_ago: float, *events: dict[str, Any]) -> None:
    state = State(world.where.database_url, world.where.state)
    at = datetime.now(UTC) - timedelta(days=365.25 * years_ago)
    audit = Audit(state, clock=lambda: at)
    for event in events:
        if "subject" in event:
            event["subject"] = audit.subject(event["subject"])
        audit.record(**event)
    audit.close()
    state.close()


def test_who_saw_says_it_in_words_and_is_an_event_of_the_log(world: World, run: Any) -> None:
    _write(
        world, 0, {"event": "break-glass", "user": "dr", "grant": "care", "subject": MEMBER, "reason": "x"}
    )
    (line,) = _lines(run("who-saw", MEMBER, "--json"))
    assert (line["grade"], line["user"], line["says"]) == (
        "named",
        "dr",
        "Opened this member's record by break-glass.",
    )
    shown = run("who-saw", MEMBER).output
    assert "Opened this member's record by break-glass." in shown and "2 lines." in shown
    assert "Nobody" in run("who-saw", "99999999Z").output
    log = _lines(run("show", "--event", "audit-who-saw", "--json"))
    assert len(log) == 3 and all(event["user"].startswith("operator:") for event in log)
    assert log[0]["subject"] == log[1]["subject"] != log[2]["subject"]
    assert MEMBER not in json.dumps(log)


def test_review_lists_and_signs_off(run: Any) -> None:
    item = _lines(run("review", "--json"))[0]
    assert item["kind"] == "break-glass" and item["id"] in run("review").output
    bare = run("review", "sign", item["id"])
    assert bare.exit_code != 0 and "with a note" in str(bare.exception)
    done = run("review", "sign", item["id"], "--note", "Emergency confirmed.")
    assert done.exit_code == 0 and "is signed off" in done.output
    assert item["id"] not in [other["id"] for other in _lines(run("review", "--json"))]
    (signed,) = _lines(run("show", "--event", "review-signed", "--json"))
    assert signed["reason"] == "Emergency confirmed."


def test_show_is_narrowed_by_kind_and_by_both_ends_of_time(run: Any) -> None:
    assert {event["event"] for event in _lines(run("show", "--event", "break-glass", "--json"))} == {
        "break-glass"
    }
    assert run("show", "--until", "2020-01-01", "--json").output == ""
    assert run("show", "--since", "2999-01-01", "--json").output == ""
    assert _lines(run("show", "--since", "2020-01-01T00:00+02:00", "--until", "2999-01-01", "--json"))
    assert run("show", "--until", "soon").exit_code == 2


@pytest.mark.parametrize("name", ["log.jsonl", "log.parquet"])
def test_an_export_is_recorded_proves_itself_and_replaces_no_file(
    run: Any, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    done = run("export", str(path))
    assert done.exit_code == 0 and "SHA-256" in done.output, done.output
    checked = run("verify", "--file", str(path))
    assert checked.exit_code == 0 and "the chain is whole" in checked.output
    assert "already" in str(run("export", str(path)).exception)
    assert _lines(run("show", "--event", "audit-exported", "--json"))
    if name.endswith("jsonl"):
        path.write_text(path.read_text().replace('"break-glass"', '"break-grass"', 1))
        assert run("verify", "--file", str(path)).exit_code == 1


def test_a_pruning_says_first_what_would_go_and_then_verifies(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new_world() as old:
        for variable, value in old.environment().items():
            monkeypatch.setenv(variable, value)
        _write(old, 7, *({"event": "ended", "user": "ana", "rows": n, "slice": "a" * 24} for n in range(5)))
        listed = members_file(old.where.lake, "a" * 24)
        listed.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"member_id": [MEMBER]}), listed)
        os.utime(listed, (0, 0))
        _write(old, 1, {"event": "ended", "user": "ana", "rows": 1})
        with_them = "With them: 1 list of who was in slices that are gone."
        would = run("prune", "--dry-run").output
        assert "5 events older than 6 years would go" in would and with_them in would and listed.exists()
        done = run("prune").output
        assert "5 events older than 6 years are gone; archived as through-5.jsonl" in done
        assert with_them in done and not listed.exists()
        whole = json.loads(run("verify", "--json").stdout)
        assert (whole["ok"], whole["pruned"]) == (True, 5)
        assert "(1–5 pruned), the chain is whole" in run("verify").output
        archive = old.base / "state-audit" / "archive" / "through-5.jsonl"
        assert run("verify", "--file", str(archive)).exit_code == 0
        with sqlite3.connect(old.where.state / "broker.sqlite") as connection:
            connection.execute("DELETE FROM audit_event WHERE seq = 6")
        connection.close()
        told = run("verify")
        assert told.exit_code == 1 and "missing: event 6" in told.output


@pytest.mark.parametrize(
    "page", [["verify"], ["show"], ["who-saw"], ["review", "sign"], ["export"], ["prune"]]
)
def test_every_command_has_help_with_an_example(run: Any, page: list[str]) -> None:
    done = run(*page, "--help")
    assert done.exit_code == 0 and "Example" in done.output
