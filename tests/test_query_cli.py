"""`workbench query`, `slice` and `audit`: an operator goes the way of everyone, with or without a running service."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
import sqlalchemy as sa
from broker_world import World, new_world, until
from click.testing import CliRunner, Result

from workbench.broker.audit import events
from workbench.broker.operator import BrokerSilent
from workbench.cli import COMMANDS, program
from workbench.errors import WorkbenchError
from workbench.reports.control import Control

pytestmark = pytest.mark.sandbox

OPERATOR = f"operator:{pwd.getpwuid(os.geteuid()).pw_name}"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with new_world() as world:
        yield world


@pytest.fixture
def run(world: World, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in world.environment().items():
        monkeypatch.setenv(name, value)

    def invoke(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(program, list(arguments), input=stdin, prog_name="workbench")

    return invoke


@pytest.fixture(params=["its own broker", "the running broker"])
def either_way(request: pytest.FixtureRequest, world: World) -> Iterator[str]:
    if request.param == "its own broker":
        yield request.param
        return
    with world.serve():
        yield request.param


def _log(world: World) -> list[dict[str, Any]]:
    engine = sa.create_engine(world.where.database_url)
    try:
        return events(engine, limit=10_000)
    finally:
        engine.dispose()


def test_a_query_goes_through_gate_worker_and_audit_either_way(
    run: Any, world: World, either_way: str
) -> None:
    before = len(_log(world)) if (world.where.state / "broker.sqlite").exists() else 0
    done = run(
        "query", "--grant", "demo-analyst", "--json", "SELECT sex, count(*) AS n FROM member GROUP BY 1"
    )
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert (answer["columns"], answer["data"], answer["rows"], answer["synthetic"]) == (
        ["sex", "n"],
        [["F", 3]],
        1,
        True,
    )
    until(lambda: _log(world)[-1]["event"] == "ended")
    new = _log(world)[before:]
    assert {"admitted", "ended"} <= {event["event"] for event in new if event["grant"] == "demo-analyst"}
    assert any(event["channel"] == "operator" and event["user"].startswith("operator:") for event in new)


def test_the_table_for_people_names_release_slice_and_that_the_data_are_synthetic(run: Any) -> None:
    done = run("query", "--grant", "demo-analyst", "SELECT last_name FROM member ORDER BY 1")
    assert done.exit_code == 0 and "Canary0" in done.output
    assert "SYNTHETIC DATA" in done.output and "3 rows" in done.output and "demo-analyst" in done.output


def test_statements_come_from_standard_input_too(run: Any) -> None:
    assert json.loads(run("query", "--grant", "demo-analyst", "--json", "-", stdin="SELECT 7 AS a").stdout)[
        "data"
    ] == [[7]]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--grant", "demo-analyst", "DROP TABLE member"], "sql-refused", "DROP"),
        (["--grant", "demo-analyst", "SELECT nothing FROM member"], "unknown-column", "nothing"),
        (["--grant", "demo-public", "SELECT 1"], "no-rows", "tabulate"),
        (["--grant", "no-such-grant", "SELECT 1"], "unknown-grant", "no grant"),
        (["--grant", "demo-analyst", "--as", "rui", "SELECT 1"], "wrong-group", "mcp-sierra-vista"),
        (["--grant", "demo-analyst", "--as", "nobody", "SELECT 1"], "unknown-user", "no such user"),
        (["--grant", "demo-analyst", "--purpose", "research", "SELECT 1"], "wrong-purpose", "purpose"),
        (
            ["--grant", "demo-analyst", "--release", "20990101-000000000000", "SELECT 1"],
            "unknown-release",
            "release",
        ),
    ],
)
def test_a_refusal_has_a_reason_and_is_no_success(
    run: Any, arguments: list[str], code: str, says: str
) -> None:
    done = run("query", *arguments)
    assert done.exit_code != 0 and isinstance(done.exception, WorkbenchError)
    assert done.exception.code == code and says in str(done.exception)


def test_the_programs_exit_code_and_words_are_those_of_the_refusal(world: World) -> None:
    environment = {"PATH": "/usr/bin:/bin", **world.environment()}
    command = [
        str(Path(sys.executable).with_name("workbench")),
        "query",
        "--grant",
        "demo-public",
        "SELECT 1",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 1 and "tabulate" in done.stderr and "Traceback" not in done.stderr


def test_asking_as_a_user_is_recorded_with_the_user_the_purpose_and_who_really_asked(
    run: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "innocent.bystander")
    assert run("query", "--grant", "demo-research-sh", "--as", "rui", "--json", "SELECT 1").exit_code == 0
    for event in [e for e in _log(world) if e["event"] in ("admitted", "ended")][-2:]:
        assert (event["user"], event["server"], event["purpose"]) == ("rui", OPERATOR, "research")
    assert run("query", "--grant", "demo-research-sh", "--json", "SELECT 1").exit_code == 0
    last = next(e for e in reversed(_log(world)) if e["event"] == "admitted")
    assert (last["user"], last["purpose"]) == (OPERATOR, "research")
    assert "innocent.bystander" not in json.dumps(_log(world))


def test_an_operator_who_asks_as_a_user_has_that_users_rights_only(run: Any, world: World) -> None:
    reports_only = ["--grant", "plan-quality-sierra-vista", "--as", "ana", "SELECT 1"]
    several = ["--grant", "mcp-care-sierra-vista", "--as", "mia", "SELECT 1"]
    for arguments, code, says in (
        (reports_only, "wrong-channel", "does not open the channel notebook"),
        (["--purpose", "research", *several], "wrong-purpose", "purpose"),
    ):
        done = run("query", *arguments)
        assert isinstance(done.exception, WorkbenchError), done.output
        assert done.exception.code == code and says in str(done.exception)
        refused = _log(world)[-1]
        assert (refused["event"], refused["user"], refused["server"]) == (
            "refused",
            arguments[arguments.index("--as") + 1],
            OPERATOR,
        )
        assert refused["code"] == code
    for stated, recorded in (([], "treatment"), (["--purpose", "operations"], "operations")):
        assert run("query", *stated, *several).exit_code == 0
        assert _log(world)[-1]["purpose"] == recorded
    assert run("query", "--grant", "plan-quality-sierra-vista", "SELECT 1").exit_code == 0


def test_who_saw_and_the_review_queue_name_the_operator_not_the_user_in_whose_name_she_asked(
    run: Any, world: World
) -> None:
    sql = "SELECT member_id, last_name FROM member"
    shown = run("query", "--grant", "demo-analyst", "--as", "ana", "--purpose", "operations", "--json", sql)
    member = json.loads(shown.stdout)["data"][0][0]
    seen = run("audit", "who-saw", member, "--json").output.splitlines()
    lines = [line for line in map(json.loads, seen) if "As ana" in line["says"]]
    assert [(line["user"], line["grade"]) for line in lines] == [(OPERATOR, "returned")]
    assert not any(json.loads(line)["user"] == "ana" for line in seen)
    queue = [json.loads(line) for line in run("audit", "review", "--json").output.splitlines()]
    assert queue and not any(item.get("user") == "ana" for item in queue)
    table = run("audit", "show", "--user", "ana").output
    assert f"{OPERATOR} as ana" in " ".join(table.split())


def test_an_old_logs_events_in_a_users_name_are_ascribed_to_an_operator_without_a_name(world: World) -> None:
    with world.serve() as service:
        service.broker.audit.record(
            "refused", user="cora", channel="operator", server="command line", grant="demo-analyst", code="x"
        )
        items = world.control("GET", "/audit/review").json["items"]
    mine = [item["user"] for item in items if item["kind"] == "denied" and item["id"].startswith("D")]
    assert "operator:unnamed" in mine and "cora" not in mine


@contextmanager
def _a_hub_runs(world: World) -> Iterator[None]:
    """As while `workbench up` lives, whatever its broker does."""
    world.where.state.mkdir(exist_ok=True)
    with world.where.up_lock.open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _command(world: World, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("workbench")), *arguments],
        env={"PATH": "/usr/bin:/bin", **world.environment()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_command_waits_for_the_hubs_broker_while_that_starts_and_does_not_take_its_place(
    world: World,
) -> None:
    with _a_hub_runs(world):
        command = _command(world, "query", "--grant", "demo-analyst", "--json", "SELECT 7 AS a")
        assert command.stderr is not None
        assert command.stderr.readline().startswith("waiting for the Hub's broker, ")
        assert command.poll() is None and not world.answers()
        with world.serve():
            said, _ = command.communicate(timeout=90)
    assert command.returncode == 0 and json.loads(said)["data"] == [[7]]


def test_a_command_that_waits_for_a_hub_that_ends_goes_its_own_way(world: World) -> None:
    with _a_hub_runs(world):
        command = _command(world, "query", "--grant", "demo-analyst", "--json", "SELECT 7 AS a")
        assert command.stderr is not None and command.stderr.readline()
    said, _ = command.communicate(timeout=90)
    assert command.returncode == 0 and json.loads(said)["data"] == [[7]]


def test_a_hubs_broker_that_never_answers_is_told_of(
    run: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.broker.operator.HUBS_BROKER_SECONDS", 0.5)
    with _a_hub_runs(world):
        done = run("query", "--grant", "demo-analyst", "SELECT 1")
        with pytest.raises(BrokerSilent), Control(world.where).running():
            pass
    assert isinstance(done.exception, BrokerSilent) and "Hub" in done.exception.hint


def test_a_file_of_statements_is_answered_line_by_line_and_never_stops(
    run: Any, tmp_path: Path, either_way: str
) -> None:
    file = tmp_path / "statements.jsonl"
    lines: list[Any] = [
        {"id": 1, "sql": "SELECT count(*) AS n FROM member"},
        {"id": "two", "sql": "SELECT * FROM read_csv('/etc/passwd')"},
        {"id": 3, "sql": "SELECT CAST(last_name AS INTEGER) FROM member"},
        {"id": 4},
        {"id": 5, "sql": "SELECT a.claim_id FROM diagnosis a, diagnosis b"},
        {
            "id": 6,
            "sql": "SELECT from_date, units, 1.5::DECIMAL(4, 2) AS d FROM medical_claim_line ORDER BY 1 LIMIT 1",
        },
    ]
    file.write_text(
        "\n".join([*map(json.dumps, lines), "not json", "", json.dumps({"id": 7, "sql": "SELECT 7 AS x"})])
    )
    done = run("query", "--grant", "demo-analyst", "--jsonl", str(file))
    assert done.exit_code == 0, done.output
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(set(a) == {"id", "ok", "rows", "columns", "data", "code", "reason"} for a in answers)
    assert [(a["id"], a["ok"], a["code"]) for a in answers] == [
        (1, True, None), ("two", False, "sql-refused"), (3, False, "conversion"), (4, False, "bad-request"),
        (5, True, None), (6, True, None), (None, False, "bad-request"), (7, True, None),
    ]  # fmt: skip
    assert answers[0]["data"] == [[3]] and answers[1]["reason"] and "Canary" not in answers[2]["reason"]
    assert answers[4]["rows"] > 20 and len(answers[4]["data"]) == 20 and answers[5]["data"][0][2] == "1.50"


@pytest.mark.parametrize("form", ["--json", "--jsonl"])
def test_a_number_that_json_lacks_is_a_text_and_the_line_stays_json(
    run: Any, tmp_path: Path, form: str
) -> None:
    sql = (
        "SELECT 1/0 AS a, -1/0 AS b, 'nan'::DOUBLE AS c, [1/0, 2.5] AS d, {'x': 1/0} AS e, NULL::DOUBLE AS f"
    )
    asked = sql
    if form == "--jsonl":
        asked = str(tmp_path / "statements.jsonl")
        Path(asked).write_text(json.dumps({"id": "x", "sql": sql}))
    done = run("query", "--grant", "demo-analyst", form, asked)
    found = json.loads(done.stdout, parse_constant=pytest.fail)
    assert found["data"] == [["Infinity", "-Infinity", "NaN", ["Infinity", 2.5], {"x": "Infinity"}, None]]


def test_a_line_without_an_id_is_not_run(run: Any, world: World, tmp_path: Path) -> None:
    file = tmp_path / "statements.jsonl"
    deep = "[" * 100_000
    file.write_text('{"sql": "SELECT 41"}\n{"id": null, "sql": "SELECT 42"}\n{"id": NaN}\n' + deep)
    before = len(world.log())
    done = run("query", "--grant", "demo-analyst", "--jsonl", str(file))
    answers = [json.loads(line, parse_constant=pytest.fail) for line in done.stdout.splitlines()]
    assert [(a["id"], a["ok"], a["code"]) for a in answers] == [
        (id, False, "bad-request") for id in (None, None, "NaN", None)
    ]
    assert all(a["reason"] for a in answers) and done.exit_code == 0
    assert not [event for event in world.log()[before:] if event["event"] in ("admitted", "refused")]


def test_slices_are_built_listed_and_shown_with_what_was_removed(run: Any) -> None:
    done = run("slice", "build", "--grant", "demo-analyst", "--grant", "demo-public", "--json")
    built = json.loads(done.stdout)
    assert done.exit_code == 0 and [one["kind"] for one in built] == ["slice", "tabulation"]
    assert {one["id"] for one in built} <= {
        one["id"] for one in json.loads(run("slice", "list", "--json").stdout)
    }
    shown = run("slice", "show", built[0]["id"])
    assert shown.exit_code == 0 and "diagnosis" in shown.output and "removed" in shown.output
    assert json.loads(run("slice", "show", built[0]["id"], "--json").output)["grant"] == "demo-analyst"
    assert run("slice", "show", "0" * 24).exit_code != 0


def test_the_log_is_verified_and_shown_beside_a_running_broker(
    run: Any, world: World, either_way: str
) -> None:
    run("query", "--grant", "demo-analyst", "--json", "SELECT count(*) FROM member WHERE ssn = '900-00-0001'")
    done = run("audit", "verify", "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 0 and found["ok"] and found["events"] > 0 and found["findings"] == []
    shown = [
        json.loads(line)
        for line in run("audit", "show", "--grant", "demo-analyst", "--json").output.splitlines()
    ]
    assert shown and all(event["grant"] == "demo-analyst" for event in shown)
    assert "900-00-0001" not in json.dumps(shown)
    assert run("audit", "show", "--user", "nobody-at-all", "--json").output == ""


def test_a_log_that_was_tampered_with_ends_in_exit_code_one(run: Any, world: World) -> None:
    assert run("query", "--grant", "demo-analyst", "SELECT 1").exit_code == 0
    engine = sa.create_engine(world.where.database_url)
    with engine.begin() as connection:
        seq, user = connection.execute(sa.text("SELECT seq, user FROM audit_event LIMIT 1")).one()
        connection.execute(sa.text("UPDATE audit_event SET user = 'somebody' WHERE seq = :seq"), {"seq": seq})
    done = run("audit", "verify")
    assert done.exit_code == 1 and f"changed: event {seq}" in done.output
    with engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE audit_event SET user = :user WHERE seq = :seq"), {"seq": seq, "user": user}
        )
    engine.dispose()
    assert run("audit", "verify").exit_code == 0


def _pages(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command and group of the program by its words."""
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _pages(inner, (*path, name))


def test_every_command_and_every_group_has_help_with_an_example(run: Any) -> None:
    pages = list(_pages(program))
    assert {page[:1] for page in pages} == {(), *((name,) for name in COMMANDS)}
    without = [page for page in pages if "Example" not in run(*page, "--help").output]
    assert without == []
