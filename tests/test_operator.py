"""Operators see whose server runs and stop it; they open none, start none, read as nobody. Nobody is administrator."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import pytest
import requests
from broker_world import until
from hub_fixture import RunningHub
from oidc_fixture import words
from visitor import Visitor

from hub_config.access import OPERATOR_SCOPES

pytestmark = [pytest.mark.hub, pytest.mark.sandbox]


@pytest.fixture
def ana(hub: RunningHub) -> Visitor:
    """Ana, whose Lab runs."""
    return hub.working("ana", "demo-analyst", "operations")


@pytest.fixture(scope="module")
def omar(hub: RunningHub) -> Visitor:
    """The operator, with a page of the Hub open."""
    visitor = hub.visitor("omar")
    visitor.get("/hub/home")
    return visitor


def asked(visitor: Visitor, method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
    """A question to the Hub's API as the page's own script would put it."""
    visitor.get("/hub/home")
    headers |= {"X-XSRFToken": visitor._xsrf("/hub/"), "Referer": f"{visitor.url}/hub/home"}
    return visitor.session.request(
        method, f"{visitor.url}/hub/api{path}", json=body, headers=headers, timeout=90, allow_redirects=False
    )


def test_an_operator_sees_whose_server_runs_under_which_grant(ana: Visitor, omar: Visitor) -> None:
    found = asked(omar, "GET", "/users?state=active&include_stopped_servers=1").json()
    server = next(user for user in found if user["name"] == "ana")["servers"][""]
    assert server["user_options"] == {"grant": "demo-analyst", "purpose": "operations"}
    assert "state" not in server
    page = omar.get("/hub/admin")
    assert page.status_code == 200 and "opening it is its owner" in page.text
    home = words(omar.get("/hub/home").text)
    assert "See the servers" in home and "JupyterLab" not in home and "Dashboards" not in home


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/users/ana/tokens", {}), ("GET", "/users/ana/tokens", None), ("POST", "/users/rui/server", {}),
        ("POST", "/users/rui/server", {"grant": "demo-research-sh", "purpose": "research"}),
        ("PATCH", "/users/omar", {"admin": True}), ("PATCH", "/users/ana", {"name": "eve"}), ("POST", "/users", {"usernames": ["eve"]}),
        ("DELETE", "/users/rui", None), ("GET", "/groups", None), ("POST", "/groups/research-valley/users", {"users": ["omar"]}),
        ("POST", "/groups/auditors/users", {"users": ["omar"]}), ("GET", "/proxy", None), ("POST", "/shutdown", {}),
        ("GET", "/services/broker", None), ("POST", "/shares/ana/", {"user": "omar"}), ("POST", "/share-codes/ana/", {}),
        ("POST", "/users/omar/tokens", {"roles": ["admin"]}), ("POST", "/users/omar/tokens", {"scopes": ["access:servers!user=ana"]}),
        ("POST", "/users/omar/tokens", {"scopes": ["read:users:groups"]}), ("POST", "/users/ana/activity", {"servers": {"": {}}}),
    ],
)  # fmt: skip
def test_an_operator_can_change_nobody_start_nothing_and_get_no_other_token(
    ana: Visitor, omar: Visitor, method: str, path: str, body: Any
) -> None:
    answer = asked(omar, method, path, body)
    assert answer.status_code >= 400, answer.text
    assert answer.status_code < 500, answer.text


def test_an_operators_best_token_opens_no_server_of_somebody_else(ana: Visitor, omar: Visitor) -> None:
    token = asked(omar, "POST", "/users/omar/tokens", {"expires_in": 600}).json()["token"]
    for path in (
        "/user/ana/api/contents",
        "/user/ana/api/kernels",
        "/user/ana/lab",
        "/user/ana/api/sessions",
    ):
        for headers in ({"Authorization": f"token {token}"}, {}):
            session = omar.session if not headers else requests.Session()
            answer = session.get(f"{omar.url}{path}", headers=headers, timeout=90)
            assert answer.status_code in (403, 404), path
            assert "first-notebook" not in answer.text
    url = f"{omar.url}/hub/api/oauth2/authorize?client_id=jupyterhub-user-ana&response_type=code&state=x"
    answer = omar.session.get(
        f"{url}&redirect_uri=/user/ana/oauth_callback", timeout=90, allow_redirects=False
    )
    assert answer.status_code == 403
    asked(omar, "GET", "/user", None)
    assert not [
        scope for scope in OPERATOR_SCOPES if "access" in scope or "start" in scope or "tokens" in scope
    ]


def test_an_operator_gets_no_data(ana: Visitor, omar: Visitor) -> None:
    offers = omar.offers()
    assert "No grant is open to you" in words(offers) and 'name="choice"' not in offers
    for grant, purpose in (("demo-analyst", "operations"), ("demo-public", "program_administration")):
        assert omar.ask_to_start(grant, purpose).status_code >= 400
    assert not omar.model()["servers"]
    assert omar.get("/services/reports/audit").status_code == 403
    assert "No report is open to you" in omar.get("/services/reports/").text
    for path in ("/user/ana/files/first-notebook.ipynb", "/services/broker/", "/services/broker/query"):
        assert omar.get(path).status_code >= 400


def test_nobody_is_an_administrator_and_only_operators_have_the_list(hub: RunningHub, omar: Visitor) -> None:
    hub.visitor("audrey")
    assert len(asked(omar, "GET", "/users").json()) >= 3
    database = hub.data.state / "hub" / "jupyterhub.sqlite"
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        assert connection.execute("SELECT name FROM users WHERE admin").fetchall() == []
    for name in ("ana", "rui", "pat", "audrey"):
        visitor = hub.visitor(name)
        assert visitor.model()["admin"] is False
        assert visitor.get("/hub/admin").status_code == 403
        assert asked(visitor, "GET", "/users").status_code == 403
        assert asked(visitor, "DELETE", "/users/omar/server").status_code in (403, 404)


def test_an_operator_stops_a_server(ana: Visitor, omar: Visitor) -> None:
    assert ana.model()["servers"]
    assert asked(omar, "DELETE", "/users/ana/server").status_code in (202, 204)
    until(lambda: not ana.model()["servers"])
