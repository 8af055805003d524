"""Attacks on a running Hub: forged forms, other origins, twisted paths, markup in words, rights that ended."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import websocket
import yaml
from hub_fixture import RunningHub
from visitor import Visitor

from hub_config.control import Option
from hub_config.options import render

pytestmark = [pytest.mark.hub, pytest.mark.sandbox]
MARKUP = "<script>alert(1)</script>"
BUSY = 90.0
"""Seconds that a busy machine may add to the minute that is promised."""


@pytest.fixture
def ana(hub: RunningHub) -> Visitor:
    """Ana, whose Lab runs."""
    return hub.working("ana", "demo-analyst", "operations")


@pytest.fixture
def analyst_grant(hub: RunningHub) -> Iterator[Path]:
    """The grant's file, put back after the test."""
    file = hub.data.grants / "demo-analyst.yaml"
    before = file.read_text()
    yield file
    file.write_text(before)


def test_a_page_of_another_site_starts_no_server(hub: RunningHub) -> None:
    rui = hub.visitor("rui")
    choice = "demo-research-sh|research"
    rui.get("/hub/spawn")
    forged = rui.session.post(
        f"{hub.url}/hub/spawn/rui", data={"choice": choice}, headers={"Origin": "http://evil.example"}
    )
    assert forged.status_code == 403
    rui.get(f"/hub/spawn/rui?choice={choice}")
    rui.get("/hub/spawn/rui?grant=demo-research-sh&purpose=research")
    time.sleep(1)
    assert not rui.model()["servers"]


def test_a_kernels_socket_takes_no_other_origin(hub: RunningHub, ana: Visitor) -> None:
    kernel = ana.kernel()
    cookies = "; ".join(f"{c.name}={c.value}" for c in ana.session.cookies)
    url = f"{hub.url.replace('http', 'ws', 1)}/user/ana/api/kernels/{kernel.id}/channels"
    for origin in ("http://evil.example", "null", f"{hub.url}.evil.example"):
        with pytest.raises(websocket.WebSocketBadStatusException):
            websocket.create_connection(url, cookie=cookies, origin=origin, timeout=90)
    rui = hub.visitor("rui")
    others = "; ".join(f"{c.name}={c.value}" for c in rui.session.cookies)
    with pytest.raises(websocket.WebSocketBadStatusException):
        websocket.create_connection(url, cookie=others, origin=hub.url, timeout=90)


@pytest.mark.parametrize(
    "path",
    [
        "/user/ana/api/contents", "/user/ana/files/first-notebook.ipynb", "/user/rui/%2e%2e/ana/api/contents",
        "/user/rui/..%2fana/api/contents", "/user/ana%2fapi/contents", "/user//ana/api/contents",
        "/user/ana/%2e%2e/%2e%2e/etc/passwd", "/hub/api/users", "/hub/api/users/ana", "/hub/api/groups", "/hub/api/proxy",
        "/hub/api/users/ana/tokens", "/hub/api/services",
    ],
)  # fmt: skip
def test_a_second_user_gets_nothing_of_the_first_by_any_spelling(
    hub: RunningHub, ana: Visitor, path: str
) -> None:
    rui = hub.visitor("rui")
    rui.get("/hub/home")
    request = rui.session.prepare_request(__import__("requests").Request("GET", hub.url + path))
    request.url = hub.url + path
    answer = rui.session.send(request, timeout=90)
    if answer.status_code == 200:
        assert ("/hub/" in answer.url and "/hub/api/" not in answer.url) or answer.json() == {}, answer.url
        assert '"content"' not in answer.text and "first-notebook" not in answer.text


def test_a_servers_hub_token_reads_its_user_and_does_nothing(ana: Visitor) -> None:
    code = """
import json, os, http.client, socket
found = {}
def ask(method, path, body=None):
    c = http.client.HTTPConnection("hub"); c.sock = socket.socket(socket.AF_UNIX); c.sock.connect("/run/wb/hub/hub.sock")
    c.request(method, "/hub/api" + path, body, {"Authorization": "token " + os.environ["JUPYTERHUB_API_TOKEN"], "Content-Type": "application/json", "X-Forwarded-For": "127.0.0.1", "Host": "localhost"})
    return c.getresponse().status
for method, path, body in [
    ("GET", "/users", None), ("GET", "/users/rui", None), ("POST", "/users/ana/tokens", "{}"), ("GET", "/groups", None),
    ("POST", "/groups/research-valley/users", '{"users": ["ana"]}'), ("POST", "/users/rui/server", "{}"),
    ("POST", "/users/ana/server", '{"grant": "demo-research-sh", "purpose": "research"}'), ("DELETE", "/users/ana/server", None),
    ("GET", "/proxy", None), ("POST", "/shutdown", "{}"), ("PATCH", "/users/ana", '{"admin": true}'), ("GET", "/services", None),
    ("POST", "/users", '{"usernames": ["eve"]}'), ("GET", "/users/ana/tokens", None)]:
    found[method + " " + path] = ask(method, path, body)
print(json.dumps(found))
"""
    found = json.loads(ana.kernel().run(code)[0])
    wrong = {what: status for what, status in found.items() if status < 400}
    assert set(wrong) <= {"GET /users", "GET /services"}, wrong


def test_words_of_a_request_and_of_a_grant_are_never_markup(hub: RunningHub) -> None:
    rui = hub.visitor("rui")
    rui.get("/hub/spawn")
    answer = rui.post("/hub/spawn/rui", form={"choice": f"{MARKUP}|{MARKUP}"})
    assert MARKUP not in answer.text
    answer = rui.get(f"/hub/spawn/rui?next={MARKUP}&choice={MARKUP}")
    assert MARKUP not in answer.text
    words = Option("g", MARKUP, "limited", ("research",), ("notebook",), True, MARKUP, MARKUP)
    closed = Option("h", MARKUP, "limited", ("research",), ("notebook",), False, MARKUP, "", "grant-expired")
    assert MARKUP not in render([words, closed], trouble=MARKUP)


def test_a_server_whose_grant_ended_is_stopped_within_a_minute_and_its_home_is_kept(
    hub: RunningHub, ana: Visitor, analyst_grant: Path
) -> None:
    home = hub.data.state / "homes" / "ana" / "demo-analyst"
    assert ana.model()["servers"] and home.is_dir()
    with sqlite3.connect(hub.data.state / "broker.sqlite") as connection:
        ((binding,),) = connection.execute("SELECT id FROM binding WHERE user = 'ana' AND kind = 'server'")
    connection.close()
    socket = hub.data.run / "b" / binding / "broker.sock"
    assert socket.exists()
    analyst_grant.write_text(
        yaml.safe_dump(yaml.safe_load(analyst_grant.read_text()) | {"valid_until": "2025-12-31"})
    )
    ended = time.monotonic()
    while ana.model()["servers"]:
        assert time.monotonic() - ended < 60 + BUSY, "the server of an ended grant still runs"
        time.sleep(0.5)
    assert home.is_dir() and not socket.exists()
    ana.get("/hub/spawn")
    ana.post("/hub/spawn/ana", form={"choice": "demo-analyst|operations"})
    assert not ana.model()["servers"], "no server mounts the home of a grant that ended"


def test_no_report_is_shown_while_the_audit_cannot_be_written(hub: RunningHub) -> None:
    view = "/services/reports/view/plan-quality-sierra-vista/plan-quality/sierra-vista-2025"
    visitor = hub.visitor("pat")
    assert visitor.get(view).status_code == 403
    database = hub.data.state / "broker.sqlite"
    with sqlite3.connect(database, timeout=30) as connection:
        rows = connection.execute(
            "SELECT event, outcome FROM audit_event WHERE user = 'pat' ORDER BY seq DESC LIMIT 1"
        ).fetchall()
        assert rows == [("report-refused", "refused")]
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON audit_event BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
        connection.commit()
        try:
            assert visitor.get(view).status_code == 503
        finally:
            connection.execute("DROP TRIGGER full")
            connection.commit()
    connection.close()
    assert visitor.get(view).status_code == 403
