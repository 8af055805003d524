"""Attacks on the broker from where a kernel, an app or a second user stands. Each test names what must hold."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest
from broker_world import PATIENCE, SLOW, Bound, World, ask, new_world, until

from workbench.broker import connection
from workbench.broker.review import queue
from workbench.broker.service import Service

pytestmark = pytest.mark.sandbox


def _head(who: Bound, target: str = "/whoami", *more: str, token: str | None = None) -> bytes:
    lines = [f"GET {target} HTTP/1.1", "Host: b", "Connection: close", *more]
    lines.append(f"Authorization: Bearer {token or who.token}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@pytest.mark.parametrize("path", ["/tabulate", "/query"])
def test_half_a_surrogate_pair_is_refused_and_the_log_goes_on(pat: Bound, ana: Bound, path: str) -> None:
    for body in ({"table": "members_by_county", "year": 2025, "\ud800": 1}, {"sql": "SELECT '\ud800'"}):
        assert pat.ask("POST", path, body).status == 400
    assert ana.query("SELECT 1").status == 200


def test_the_logs_writer_outlives_an_event_that_cannot_be_written(service: Service, ana: Bound) -> None:
    service.broker.audit.record("refused", user="x", reason="\ud800 and \0")
    with pytest.raises(Exception, match="audit log cannot be written"):
        service.broker.audit.record("refused", rows=2**100)
    assert ana.query("SELECT 2").status == 200


@pytest.mark.parametrize(
    "body",
    [
        {"table": "members_by_county", "params": {"table": "fum_by_plan", "year": 2025}},
        {"table": "members_by_county", "year": int("9" * 4000)},
        {"table": "members_by_county", "year": 2025, "x": "a" * 100_000},
        {"table": "members_by_county", "year": 2025, **{f"k{i}": 1 for i in range(10_000)}},
        {"table": "members_by_county", "year": float("nan")},
        {"table": "members_by_county", "year": [2025]},
        {"table": "../../etc/passwd", "year": 2025},
    ],
)
def test_a_request_for_a_table_is_short_plain_and_never_echoed_at_length(
    world: World, pat: Bound, body: dict[str, object]
) -> None:
    reply = pat.ask("POST", "/tabulate", body)
    assert reply.status == 400 and len(reply.body) < 2000
    assert all(len(str(event["reason"])) < 2000 for event in world.log()[-3:])


@pytest.mark.parametrize(
    "lines",
    [
        ("X: " + "y" * 200_000,),
        tuple(f"X{i}: y" for i in range(20_000)),
    ],
)
def test_a_head_without_measure_is_cut_off(ana: Bound, lines: tuple[str, ...]) -> None:
    assert b"200 OK" not in ana.raw(_head(ana, "/whoami", *lines))
    assert b"200 OK" in ana.raw(_head(ana, "/whoami", "X: " + "y" * 20_000))


def test_a_head_without_end_is_cut_off_before_it_fills_memory(ana: Bound) -> None:
    with socket.socket(socket.AF_UNIX) as near:
        near.settimeout(PATIENCE)
        near.connect(str(ana.socket))
        near.sendall(b"GET /whoami HTTP/1.1\r\nX: ")
        with pytest.raises(OSError):
            for _ in range(100):
                near.sendall(b"y" * 65536)


def test_slow_connections_cost_their_maker_only_and_end(
    monkeypatch: pytest.MonkeyPatch, ana: Bound, rui: Bound
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 10.0)
    slow = [socket.socket(socket.AF_UNIX) for _ in range(connection.MAX_CONNECTIONS + 50)]
    try:
        for near in slow:
            near.settimeout(PATIENCE)
            try:
                near.connect(str(ana.socket))
                near.sendall(b"GET /whoami HTTP/1.1\r\nHost: b\r\nX: ")
            except OSError:
                time.sleep(0.01)
        assert rui.ask("GET", "/whoami").status == 200
        assert any(_stands(near) for near in slow), "she was answered while they were there"
        assert all(_ended(near) for near in slow)
        assert ana.ask("GET", "/whoami").status == 200
    finally:
        for near in slow:
            near.close()


def _stands(near: socket.socket) -> bool:
    """Whether the connection is open and nothing has been said on it."""
    near.settimeout(0)
    try:
        near.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        near.settimeout(PATIENCE)
    return False


def _ended(near: socket.socket) -> bool:
    """Whether it comes to its end."""
    try:
        return near.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


@pytest.mark.parametrize(
    "data",
    [
        b"POST /query HTTP/1.1\r\nHost: b\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /query HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\nContent-Length: 60\r\n\r\n",
        b"POST /query HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST /query HTTP/1.1\r\nHost: b\r\nContent-Length: -1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_a_smuggled_second_request_is_never_answered(ana: Bound, data: bytes) -> None:
    said = ana.raw(data + _head(ana))
    assert b"200 OK" not in said and said.count(b"HTTP/1.1 ") == 1 and b" 400 " in said


def test_the_second_request_of_a_connection_needs_its_own_token(ana: Bound) -> None:
    first = _head(ana).replace(b"Connection: close\r\n", b"")
    said = ana.raw(first + b"GET /whoami HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n")
    assert said.count(b"200 OK") == 1 and said.count(b"401 ") == 1


def test_no_header_makes_somebody_else_of_a_caller(ana: Bound, rui: Bound) -> None:
    forged = [f"{n}: rui" for n in ("X-Forwarded-User", "X-Remote-User", "X-Forwarded-Host", "Forwarded")]
    said = ana.raw(_head(ana, "/whoami", "X-Workbench-Grant: demo-research-sh", *forged))
    assert b'"user":"ana"' in said and b'"grant":"demo-analyst"' in said
    for token in (rui.token, f"{ana.token}, x", f"x {ana.token}", ""):
        assert b" 401 " in ana.raw(_head(ana, token=token or " "))


@pytest.mark.parametrize(
    "target",
    [
        "/tables/../bindings", "/tables/%2e%2e/%2e%2e/etc/passwd", "/tables/..%2fmanifest.json", "/tables/member%00",
        "/tables/member/", "//whoami", "/bindings", "/events", "/options", "/slices", "/health",
        "http://control/bindings", "/queries/../bindings",
    ],
)  # fmt: skip
def test_a_path_leads_to_its_own_place_or_nowhere(ana: Bound, target: str) -> None:
    assert ana.raw(_head(ana, target)).startswith(b"HTTP/1.1 404 ")


def test_a_token_is_worth_nothing_once_its_binding_is_over(world: World, service: Service) -> None:
    old = world.bind("ana", "demo-analyst", "operations", token="first", server="ana/replay")
    with socket.socket(socket.AF_UNIX) as open_before:
        open_before.settimeout(PATIENCE)
        open_before.connect(str(old.socket))
        open_before.sendall(_head(old).replace(b"Connection: close", b"X: y"))
        assert b"200 OK" in open_before.recv(65536)
        assert world.control("DELETE", f"/bindings/{old.id}").status == 204
        assert _ended(open_before), "a connection from before is no way around the end"
    new = world.bind("ana", "demo-analyst", "operations", token="second", server="ana/replay")
    assert Bound("", new.socket, "first").ask("GET", "/whoami").status == 401


def test_tables_and_whoami_say_nothing_of_rows_that_were_removed(world: World, ana: Bound) -> None:
    said = ana.ask("GET", "/tables").body + ana.ask("GET", "/whoami").body
    assert b"removed" not in said.replace(b"categories_removed", b"") and b"rows_in" not in said
    table = ana.ask("GET", "/tables/medical_claim").json
    counted = ana.query("SELECT count(*) FROM medical_claim").table.column(0).to_pylist()
    assert [table["rows"]] == counted


def test_a_worker_that_runs_sql_has_no_manifest(service: Service, ana: Bound) -> None:
    assert ana.query("SELECT 1").status == 200
    roots = [Path(f"/proc/{pid}/root/slice") for pid in service.broker.pool.pids()["idle"]]
    seen = [sorted(p.name for p in root.iterdir()) for root in roots if root.is_dir()]
    if not seen:
        pytest.skip("an ordinary user cannot look into a sandbox from outside")
    assert ["tables"] in seen


def test_a_sort_bigger_than_memory_is_answered_and_stays_in_the_sandbox(world: World, ana: Bound) -> None:
    text = "md5(a.claim_id || b.claim_id || c.claim_id || d.claim_id || e.claim_id || v.i)"
    big = (
        f"SELECT count(*) FROM (SELECT row_number() OVER (ORDER BY m) AS r, * FROM (SELECT {text} AS m, "
        f"reverse({text}) AS n FROM diagnosis a, diagnosis b, diagnosis c, diagnosis d, diagnosis e, "
        "(VALUES ('1'), ('2'), ('3'), ('4')) v(i))) WHERE m > '0' AND n > '0'"
    )
    reply = ana.query(big)
    assert reply.status == 200, reply.body
    assert not Path("/tmp/spill").exists()


def test_memory_bombs_end_alone_and_the_pool_recovers(ana: Bound, rui: Bound) -> None:
    bomb = "WITH a AS (SELECT repeat('x', 1000) AS s)" + "".join(
        f", {chr(ord('b') + i)} AS (SELECT {' || '.join(['s'] * 10)} AS s FROM {chr(ord('a') + i)})"
        for i in range(7)
    )
    for _ in range(3):
        assert ana.query(f"{bomb} SELECT length(s) FROM h").status == 422
        assert rui.query("SELECT count(*) FROM member").status == 200
    assert ana.query("SELECT count(*) FROM member").status == 200


@pytest.mark.parametrize(
    "body",
    [
        {"event": "admitted", "report": "r", "grant": "g", "user": "u", "outcome": "answered"},
        {"event": "report-viewed", "report": "r", "grant": "g", "user": "u"},
        {
            "event": "report-viewed",
            "report": "r",
            "grant": "g",
            "user": "u",
            "outcome": "x",
            "statement": "s",
        },
        {"event": "report-viewed", "report": "r\n", "grant": "g", "user": "u", "outcome": "x"},
        {"event": "report-viewed", "report": "r" * 500, "grant": "g", "user": "u", "outcome": "x"},
        {"event": ["report-viewed"], "report": "r", "grant": "g", "user": "u", "outcome": "x"},
    ],
)
def test_only_the_listed_events_can_be_told(world: World, service: Service, body: dict[str, object]) -> None:
    assert world.control("POST", "/events", body).json["code"] == "untellable-event"
    assert not [event for event in world.log() if str(event["user"]) == "u"]


def test_a_reading_of_a_report_joins_the_chain(world: World, service: Service) -> None:
    said = {"report": "plan-quality", "grant": "g", "user": "ana", "outcome": "answered", "key": "k-2025"}
    assert world.control("POST", "/events", {"event": "report-viewed", **said}).status == 204
    last = world.log()[-1]
    assert (last["event"], last["user"], last["grant"], last["channel"], last["statement"], last["detail"]) == (
        "report-viewed", "ana", "g", "reports", "report plan-quality", "k-2025",
    )  # fmt: skip
    assert not service.broker.audit._closed


def test_the_hub_learns_when_a_binding_gives_nothing_any_more() -> None:
    with new_world() as world, world.serve():
        who = world.bind("ana", "demo-analyst", "operations")
        path = f"/bindings/{who.id}"
        assert world.control("GET", path).json["stands"] is True
        people = world.users.read_text()
        world.users.write_text(people.replace("mcp-sierra-vista", "mcp-golden-poppy"))
        assert world.control("GET", path).json["code"] == "wrong-group"
        world.users.write_text(people)
        world.change_grant("demo-analyst", surprise=1)
        assert world.control("GET", path).json["stands"] is True, "a broken folder ends nobody's work"
        world.change_grant("demo-analyst", surprise=1)
        (world.where.grants / "demo-analyst.yaml").unlink()
        assert world.control("GET", path).json["stands"] is False
        assert world.control("GET", "/bindings/none").json["stands"] is False
        assert ask(who.socket, "GET", path, Authorization=f"Bearer {who.token}").status == 404


def test_a_flood_of_slow_queries_leaves_others_a_worker(service: Service, ana: Bound, rui: Bound) -> None:
    assert [who.query("SELECT 1").status for who in (ana, rui)] == [200, 200]
    floods = [ana.posting(SLOW) for _ in range(20)]
    try:
        until(lambda: len(service.broker.pool.pids()["busy"]) > 1)
        assert rui.query("SELECT count(*) FROM member").status == 200
        assert any(_stands(near) for near in floods), "she did not wait for their end"
    finally:
        for near in floods:
            near.close()


@pytest.mark.parametrize(
    "sql",
    [
        'SELECT count(*) FROM member WHERE last_name = "Zylberstein"',
        "SELECT * FROM zylberstein",
        "SELECT zylberstein(last_name) FROM member",
        "SELECT last_name::zylberstein FROM member",
        "SELECT zylberstein.sex FROM member",
    ],
)
def test_a_name_that_only_the_caller_wrote_reaches_her_and_no_file_of_the_broker(
    world: World, service: Service, ana: Bound, caplog: pytest.LogCaptureFixture, sql: str
) -> None:
    refused = ana.query(sql)
    assert refused.status == 400 and b"ylberstein" in refused.body
    assert world.log()[-1]["reason"]
    assert "ylberstein" not in f"{world.log()}{queue(service.broker.state.engine)}{caplog.text}"
    for file in world.base.rglob("*"):
        if file.is_file():
            assert b"ylberstein" not in file.read_bytes().lower(), file.name


def test_json_bombs_cost_nothing(ana: Bound) -> None:
    for body in (b"[" * 1_000_000, b'{"sql":' * 50_000, b'{"sql":' + b"9" * 1_000_000 + b"}"):
        head = (
            f"POST /query HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {ana.token}\r\nConnection: close\r\n"
        )
        started = time.process_time()
        said = ana.raw(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert b" 400 " in said and json.loads(said.split(b"\r\n\r\n", 1)[1])["code"] == "bad-request"
        assert time.process_time() - started < 2, "seconds of the processor, of the broker's threads too"
