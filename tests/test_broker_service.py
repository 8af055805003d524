"""The broker's service: who may ask what, what they get, and what is left behind."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import stat
import subprocess
import sys

import pytest
import slice_world
import sqlalchemy as sa
from broker_world import Bound, World, ask, new_world, until
from gate_slice import statements

from workbench.broker.caller import Caller
from workbench.broker.frames import END_OF_STREAM
from workbench.broker.pool import PoolLimits
from workbench.broker.service import Service

pytestmark = pytest.mark.sandbox


def test_a_server_learns_who_it_is_and_what_it_may_see(ana: Bound, rui: Bound) -> None:
    me = ana.ask("GET", "/whoami").json
    assert (me["user"], me["grant"], me["level"], me["purpose"]) == (
        "ana",
        "demo-analyst",
        "identified",
        "operations",
    )
    assert (
        me["organisation"] == "Sierra Vista Health Plan" and me["synthetic"] is True and me["part2"] is False
    )
    tables = ana.ask("GET", "/tables").json
    assert {"name": "ssn", "type": "VARCHAR"}.items() <= tables["tables"]["member"]["columns"][1].items()
    assert tables["fitness"]["dates"] == "day" and tables["tables"]["member"]["rows"] > 0
    assert ana.ask("GET", "/tables/member").json["grain"] == "one row per member"
    assert ana.ask("GET", "/tables/nothing").status == 404
    names = [c["name"] for c in rui.ask("GET", "/tables/member").json["columns"]]
    assert "ssn" not in names and "birth_year" in names


def test_a_user_is_told_of_her_groups_grants_and_of_others_how_many(world: World, ana: Bound) -> None:
    world.change_grant("plan-quality", valid_until="2025-06-30")
    said = ana.ask("GET", "/grants").json
    world.change_grant("plan-quality", valid_until="2035-12-31")
    assert [(g["grant"], g["allowed"]) for g in said["grants"]] == [
        ("demo-analyst", True),
        ("plan-quality-sierra-vista", False),
    ]
    assert "expired on 2025-06-30" in said["grants"][1]["reason"]
    assert said["others"] >= 3 and "demo-public" not in json.dumps(said)


def test_a_query_is_answered_as_a_whole_arrow_stream_with_its_provenance(ana: Bound) -> None:
    reply = ana.query("SELECT member_id, last_name FROM member ORDER BY 1")
    assert reply.status == 200 and reply.headers["Content-Type"] == "application/vnd.apache.arrow.stream"
    assert reply.body.endswith(END_OF_STREAM) and reply.table.num_rows == 3
    assert (
        reply.headers["X-Workbench-Grant"] == "demo-analyst"
        and reply.headers["X-Workbench-Synthetic"] == "true"
    )
    state = ana.ask("GET", f"/queries/{reply.headers['X-Query-Id']}").json
    assert (state["state"], state["rows"], state["bytes"]) == ("answered", 3, len(reply.body))


def test_two_grants_see_two_worlds(ana: Bound, rui: Bound) -> None:
    mine = set(ana.query("SELECT member_id FROM member").table.column(0).to_pylist())
    theirs = set(rui.query("SELECT member_id FROM member").table.column(0).to_pylist())
    assert len(mine) == 3 and len(theirs) == 6 and not mine & theirs
    assert rui.query("SELECT ssn FROM member").json["code"] == "unknown-column"


def test_a_grant_of_level_aggregate_has_tables_and_no_rows(world: World, pat: Bound) -> None:
    reply = pat.query("SELECT count(*) FROM member")
    assert reply.status == 403 and reply.json["code"] == "no-rows" and "tabulate" in reply.json["hint"]
    table = pat.ask("POST", "/tabulate", {"table": "members_by_county", "year": 2025})
    assert table.status == 200 and table.json["grant"] == "demo-public" and table.json["synthetic"] is True
    assert all(row["value"] is None for row in table.json["rows"] if row["hidden"])
    assert pat.ask("GET", "/tables").json["code"] == "no-rows"
    assert pat.ask("POST", "/tabulate", {"table": "members_by_shoe_size", "year": 2025}).status == 400


@pytest.mark.parametrize(
    ("binding", "token", "code"),
    [
        ("ana", "rui", "token-refused"),
        ("rui", "ana", "token-refused"),
        ("ana", "pat", "token-refused"),
        ("pat", "ana", "token-refused"),
    ],
)
def test_a_token_is_good_on_its_own_servers_socket_only(
    binding: str, token: str, code: str, ana: Bound, rui: Bound, pat: Bound
) -> None:
    them = {"ana": ana, "rui": rui, "pat": pat}
    stolen = Bound("", them[binding].socket, them[token].token)
    for path, body in (
        ("/whoami", None),
        ("/query", {"sql": "SELECT 1"}),
        ("/tables", None),
        ("/grants", None),
    ):
        reply = stolen.ask("POST" if body else "GET", path, body)
        assert reply.status == 401 and reply.json["code"] == code
    assert Bound("", them[binding].socket, "").ask("GET", "/whoami").status == 401


@pytest.mark.parametrize(
    ("user", "grant", "purpose", "kind", "code"),
    [
        ("ana", "demo-research-sh", "research", "server", "wrong-group"),
        ("ana", "demo-analyst", "research", "server", "wrong-purpose"),
        ("ana", "demo-analyst", "operations", "app", "wrong-channel"),
        ("pat", "demo-public", "program_administration", "server", "wrong-channel"),
        ("ana", "no-such-grant", "operations", "server", "unknown-grant"),
        ("nobody", "demo-analyst", "operations", "server", "unknown-user"),
        ("ana", "demo-analyst", "operations", "spaceship", "binding-refused"),
    ],
)
def test_a_server_gets_no_binding_that_the_grants_do_not_give(
    world: World, service: Service, user: str, grant: str, purpose: str, kind: str, code: str
) -> None:
    body = {
        "server": "x",
        "user": user,
        "grant": grant,
        "purpose": purpose,
        "kind": kind,
        "token_sha256": "0" * 64,
    }
    reply = world.control("POST", "/bindings", body)
    assert reply.json["code"] == code and 400 <= reply.status < 500


def test_every_hostile_statement_is_refused_and_no_canary_shows_in_answer_or_log(
    world: World, ana: Bound
) -> None:
    canary = "CANARY-71c2-900-00-0003"
    texts = [
        sql.replace("{CANARY}", f"/srv/{canary}") for group in statements("hostile").values() for sql in group
    ]
    for sql in texts:
        reply = ana.query(sql) if sql else ana.query(" ")
        said = reply.body.decode("latin-1")
        assert reply.status in (200, 400, 422), (sql, reply.status)
        assert canary not in said and str(world.base) not in said and "/slice" not in said
    kept = json.dumps(world.log())
    assert canary not in kept and str(world.base) not in kept and "Canary0" not in kept


def test_a_statement_is_kept_without_its_literals_and_a_refused_one_too(world: World, ana: Bound) -> None:
    for sql in (
        "SELECT sex FROM member WHERE ssn = '900-00-0000'",
        "SELECT nothing FROM member WHERE ssn = '900-00-0000'",
    ):
        ana.query(sql)
    kept = [e["statement"] for e in world.log(user="ana") if e["statement"] and "ssn" in e["statement"]][-2:]
    assert all("900-00" not in text and "#" in text for text in kept)


def test_every_query_is_recorded_as_admitted_and_as_ended(world: World, ana: Bound) -> None:
    reply = ana.query("SELECT sex, count(*) FROM member GROUP BY 1")
    query = reply.headers["X-Query-Id"]
    until(lambda: len([e for e in world.log() if e["query_id"] == query]) == 2)
    admitted, ended = (e for e in world.log() if e["query_id"] == query)
    assert (admitted["event"], admitted["tables"], admitted["columns"]) == (
        "admitted",
        ["member"],
        ["member.sex"],
    )
    assert (admitted["user"], admitted["grant"], admitted["purpose"], admitted["channel"]) == (
        "ana",
        "demo-analyst",
        "operations",
        "notebook",
    )
    assert (ended["event"], ended["outcome"], ended["rows"], ended["bytes"]) == (
        "ended",
        "answered",
        1,
        len(reply.body),
    )


def test_the_log_is_for_auditors(world: World, service: Service, ana: Bound) -> None:
    assert ana.ask("GET", "/audit").json["code"] == "not-an-auditor"
    world.users.write_text(
        world.users.read_text().replace("groups: [mcp-sierra-vista]", "groups: [mcp-sierra-vista, auditors]")
    )
    try:
        found = ana.ask("GET", "/audit?user=ana&limit=3").json["events"]
        assert len(found) == 3 and all(event["user"] == "ana" for event in found)
    finally:
        world.users.write_text(world.users.read_text().replace(", auditors]", "]"))


def test_an_error_after_the_first_byte_cuts_the_stream_and_its_reason_can_be_asked(ana: Bound) -> None:
    late = (
        "SELECT a.claim_id, CASE WHEN row_number() OVER () > 1000000 THEN CAST(a.code AS INTEGER) END AS x "
        "FROM diagnosis a, diagnosis b, diagnosis c, diagnosis d, diagnosis e"
    )
    connection = http.client.HTTPConnection("b", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.connect(str(ana.socket))
    connection.request("POST", "/query", json.dumps({"sql": late}), {"Authorization": f"Bearer {ana.token}"})
    response = connection.getresponse()
    assert response.status == 200, "the error has to come after the first byte"
    with pytest.raises(http.client.IncompleteRead) as caught:
        response.read()
    response.close()
    connection.close()
    cut = caught.value.partial
    assert len(cut) > 1000 and not cut.endswith(END_OF_STREAM)
    state = ana.ask("GET", f"/queries/{response.headers['X-Query-Id']}").json
    assert (state["state"], state["code"]) == ("failed", "conversion")


def test_queries_are_nobody_elses_business(ana: Bound, rui: Bound) -> None:
    query = ana.query("SELECT 1").headers["X-Query-Id"]
    assert rui.ask("GET", f"/queries/{query}").status == 404


@pytest.mark.parametrize("body", ["", "[]", "{", '{"sql": 1}', "{}", '{"sql": ""}', "[" * 100_000])
def test_a_request_that_is_no_request_is_told_so(ana: Bound, body: str) -> None:
    connection = http.client.HTTPConnection("b", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.connect(str(ana.socket))
    connection.request("POST", "/query", body, {"Authorization": f"Bearer {ana.token}"})
    response = connection.getresponse()
    assert response.status == 400 and json.loads(response.read())["code"] == "bad-request"
    connection.close()


def test_the_control_socket_is_the_operators_alone(world: World, service: Service, ana: Bound) -> None:
    folder = world.where.run / "control"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "control.sock").stat().st_mode) == 0o600
    assert stat.S_IMODE((world.where.run / "b").stat().st_mode) == 0o700
    assert stat.S_IMODE(world.where.run.stat().st_mode) == 0o700
    for path in ("/bindings", "/options", "/slices", "/health"):
        assert ana.ask("GET", path).status == 404


@pytest.mark.skipif(os.geteuid() != 0, reason="another uid can be taken by root only")
def test_a_peer_of_another_uid_is_cut_off_even_if_it_reaches_the_control_socket(
    world: World, service: Service
) -> None:
    folder = world.where.run / "control"
    code = (
        "import os, socket; os.setuid(54321); s = socket.socket(socket.AF_UNIX);"
        f"s.connect({str(folder / 'control.sock')!r}); s.sendall(b'GET /bindings HTTP/1.1\\r\\nHost: b\\r\\n\\r\\n'); print(s.recv(100))"
    )
    world.where.run.chmod(0o755)
    folder.chmod(0o755)
    (folder / "control.sock").chmod(0o666)
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90)
    finally:
        folder.chmod(0o700)
        (folder / "control.sock").chmod(0o600)
        world.where.run.chmod(0o700)
    assert "200 OK" not in done.stdout and (
        "b''" in done.stdout or "ConnectionReset" in done.stderr or "BrokenPipe" in done.stderr
    )


def test_a_slice_that_takes_its_time_is_reported_with_progress_and_then_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workbench.broker.shelf.QUICK_BUILD_SECONDS", 0.0)
    with new_world() as world, world.serve():
        who = world.bind("rui", "demo-research-sh", "research")
        first = ask(who.socket, "POST", "/query", {"sql": "SELECT 1"}, Authorization=f"Bearer {who.token}")
        assert first.status == 202 and first.json["code"] == "slice-building"
        assert 0 <= first.json["progress"]["done"] <= 1 and first.headers["Retry-After"]
        assert who.query("SELECT count(*) FROM member").table.column(0).to_pylist() == [6]
        assert {"slice-building", "slice-built"} <= {e["event"] for e in world.log()}


def test_a_group_taken_away_and_a_grant_that_ended_stop_a_running_server_at_once() -> None:
    with new_world() as world, world.serve():
        who = world.bind("ana", "demo-analyst", "operations")
        assert who.query("SELECT 1").status == 200
        people = world.users.read_text()
        world.users.write_text(people.replace("mcp-sierra-vista", "mcp-golden-poppy"))
        assert who.query("SELECT 1").json["code"] == "wrong-group"
        world.users.write_text(people)
        world.change_grant("demo-analyst", valid_until="2025-06-30")
        assert who.query("SELECT 1").json["code"] == "grant-expired"
        world.change_grant("demo-analyst", valid_until="2035-12-31", purposes=["treatment"])
        assert who.query("SELECT 1").json["code"] == "wrong-purpose"
        world.change_grant("demo-analyst", purposes=["operations"], surprise=1)
        reply = who.query("SELECT 1")
        assert (
            reply.status == 503
            and reply.json["code"] == "invalid-grants"
            and "surprise" in reply.json["reason"]
        )
        assert {"refused"} == {e["event"] for e in world.log()[-4:]}


def test_on_real_data_a_category_without_a_sourced_list_blocks_every_grant_that_must_leave_it_out() -> None:
    with new_world() as world:
        for manifest in world.where.lake.glob("releases/*/manifest.json"):
            manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"synthetic": False}))
        with world.serve():
            who = world.bind("ana", "demo-analyst", "operations")
            for path, body in (
                ("/query", {"sql": "SELECT 1"}),
                ("/tabulate", {"table": "members_by_county", "year": 2025}),
            ):
                reply = who.ask("POST", path, body)
                assert (reply.status, reply.json["code"]) == (403, "unsourced-category")
                assert "hiv" in reply.json["reason"]
            assert {"refused"} == {e["event"] for e in world.log() if e["code"] == "unsourced-category"}


def test_nothing_is_served_while_the_audit_cannot_be_written() -> None:
    with new_world() as world, world.serve() as service:
        who = world.bind("ana", "demo-analyst", "operations")
        assert who.query("SELECT 1").status == 200
        with service.broker.state.engine.begin() as connection:
            connection.execute(
                sa.text(
                    "CREATE TRIGGER full BEFORE INSERT ON audit_event BEGIN SELECT RAISE(ABORT, 'full'); END"
                )
            )
        for path, body in (
            ("/query", {"sql": "SELECT last_name FROM member"}),
            ("/tabulate", {"table": "members_by_sex", "year": 2025}),
        ):
            reply = who.ask("POST", path, body)
            assert (
                reply.status == 503
                and reply.json["code"] == "audit-unavailable"
                and b"Canary" not in reply.body
            )
        body = {
            "server": "s",
            "user": "ana",
            "grant": "demo-analyst",
            "purpose": "operations",
            "kind": "server",
            "token_sha256": "0" * 64,
        }
        assert world.control("POST", "/bindings", body).json["code"] == "audit-unavailable"
        with service.broker.state.engine.begin() as connection:
            connection.execute(sa.text("DROP TRIGGER full"))
        assert who.query("SELECT last_name FROM member").status == 200


def test_bindings_and_their_folders_live_through_a_restart_and_the_log_stays_whole() -> None:
    with new_world() as world:
        with world.serve():
            who = world.bind("ana", "demo-analyst", "operations")
            report = world.bind("ana", "plan-quality-sierra-vista", "operations", "report", expires_in=600)
            short = world.bind("ana", "plan-quality-sierra-vista", "operations", "report", expires_in=0.01)
            assert short.ask("GET", "/whoami").json["code"] == "token-refused"
            folder = who.socket.parent.stat().st_ino
            assert who.query("SELECT 1").status == 200
        with world.serve():
            assert who.socket.parent.stat().st_ino == folder
            assert who.query("SELECT 1").status == 200 and report.query("SELECT 1").status == 200
            assert not short.socket.exists()
            assert world.control("DELETE", f"/bindings/{who.id}").status == 204
            assert not who.socket.parent.exists()
            assert world.control("DELETE", f"/bindings/{who.id}").status == 404
        assert world.tampering() == []


def test_a_server_that_starts_again_gets_a_new_binding_and_its_old_one_ends() -> None:
    with new_world() as world, world.serve():
        old = world.bind("ana", "demo-analyst", "operations", token="old")
        new = world.bind("ana", "demo-analyst", "operations", token="new")
        assert new.ask("GET", "/whoami").status == 200 and not old.socket.exists()


def test_the_managed_service_starts_by_itself_ends_on_a_signal_and_has_one_writer() -> None:
    with new_world() as world:
        with world.process() as first:
            who = world.bind("ana", "demo-analyst", "operations")
            assert who.query("SELECT count(*) FROM member").status == 200
            first.kill()
            with world.process() as second:
                assert who.query("SELECT count(*) FROM member").status == 200
                second.terminate()
                assert second.wait(60) == 0
        assert not (world.where.run / "control" / "control.sock").exists()
        assert world.tampering() == []


def test_options_for_the_spawn_page_give_each_grant_with_the_reason(world: World, service: Service) -> None:
    found = world.control("GET", "/options?user=rui&groups=research-valley").json["grants"]
    assert [g["grant"] for g in found if g["allowed"]] == ["demo-research-lds", "demo-research-sh"]
    assert all(g["reason"] for g in found) and found[0]["purposes"] == ["research"]
    by_directory = world.control("GET", "/options?user=pat").json["grants"]
    assert [g["grant"] for g in by_directory if g["allowed"]] == ["demo-public"]


def test_limits_of_memory_have_a_floor_and_leave_room_for_the_process() -> None:
    limits = PoolLimits()
    assert limits.memory_bytes >= 1 << 30 and limits.sandbox.memory_bytes > limits.memory_bytes


def test_a_token_hash_that_is_none_is_refused(world: World, service: Service) -> None:
    body = {
        "server": "x",
        "user": "ana",
        "grant": "demo-analyst",
        "purpose": "operations",
        "kind": "server",
        "token_sha256": None,
    }
    assert world.control("POST", "/bindings", body).json["code"] == "binding-refused"


def test_the_latest_release_is_read_once_until_another_comes_or_goes(world: World, service: Service) -> None:
    asks = Caller("operator:local", "demo-analyst", None, "operator")
    broker = service.broker
    first = broker.release(asks)
    assert broker.release(asks) is first
    newer = slice_world.release(world.where.lake, release_id="20260228-0123456789ab", as_of="2026-02-28")
    try:
        assert broker.release(asks).id == newer.id
    finally:
        shutil.rmtree(newer.path)
    assert broker.release(asks).id == first.id
