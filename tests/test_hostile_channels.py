"""Every hostile statement again, on the other ways in: through Ibis, in the paths and bodies of REST, at the listener.

Whatever comes back, it is no failure of the broker and holds nothing of what was planted: a secret file, its path,
members of other plans, the broker's keys and folders. Nor does the log.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
import slice_world
import sqlglot
from broker_world import Bound, Reply
from channel_world import CARE, Api, Holder, api
from gate_slice import statements

from workbench.client.errors import BrokerFailure, ClientError
from workbench.client.session import Session
from workbench.client.transport import Transport
from workbench.errors import WorkbenchError

pytestmark = pytest.mark.sandbox
SECRET = "CANARY-5e1d-planted"
HOSTILE = [sql for group in statements("hostile").values() for sql in group]
OTHERS = {slice_world.B: "Canary1", slice_world.D: "Canary3", slice_world.E: "Canary4"}
"""Members of other plans, whom no answer and no line of the log may name."""


@pytest.fixture(scope="module")
def served() -> Iterator[Api]:
    with api() as api_:
        (api_.world.base / "secret.csv").write_text(f"a\n{SECRET}\n")
        yield api_


@pytest.fixture(scope="module")
def ana(served: Api) -> Bound:
    return served.world.bind("ana", CARE, "treatment")


@pytest.fixture(scope="module")
def client(served: Api) -> Holder:
    return served.client("hostile-system")


@pytest.fixture(scope="module")
def planted(served: Api) -> list[str]:
    """What must not be seen anywhere."""
    where = served.world.where
    keys = [json.loads(path.read_text())["key"] for path in where.state.glob("*.key")]
    assert keys, "the broker has keys that could be given away"
    return [SECRET, str(served.world.base), *keys, *OTHERS.values()]


def _hostile(served: Api) -> list[str]:
    return [sql.replace("{CANARY}", str(served.world.base / "secret.csv")) for sql in HOSTILE]


def _clean(said: str, asked: str, planted: list[str]) -> None:
    seen = [word for word in planted if word in said and word not in asked]
    assert not seen, (asked, said[:300])


def _clean_log(served: Api, planted: list[str]) -> None:
    kept = json.dumps(served.world.log())
    assert not [word for word in (*planted, *OTHERS) if word in kept]


def test_through_ibis_a_hostile_statement_is_refused_or_says_nothing(
    served: Api, ana: Bound, planted: list[str]
) -> None:
    session = Session(Transport(ana.socket, ana.token))
    member = session.tables.member
    embedded = (member.sql, member.alias("member").sql)
    answered = 0
    for number, sql in enumerate(_hostile(served)):
        for way in (session._backend.sql, embedded[number % 2]):
            try:
                said = repr(way(sql).execute().to_dict())
                answered += 1
            except (ClientError, sqlglot.errors.SqlglotError) as refusal:
                assert not isinstance(refusal, BrokerFailure), sql
                said = str(refusal)
            except Exception as error:  # Ibis itself could not make an expression of it
                assert not isinstance(error, WorkbenchError), sql
                said = ""
            _clean(said, sql, planted)
    assert answered <= 2 * len(statements("hostile")["harmless"])
    assert member.count().execute() == 3
    _clean_log(served, planted)


def _requests(sql: str) -> list[tuple[str, str, Any]]:
    word = quote(sql[:2000], safe="")
    return [
        ("GET", f"/members/{word}/record", None),
        ("GET", f"/members/{word}/risk", None),
        ("GET", f"/feed/{word}", None),
        ("GET", f"/feed/member?part={word}", None),
        ("GET", f"/break-glass/{word}/record", None),
        ("POST", f"/members/{word}/break-glass", {"justification": sql, "reason": sql, "minutes": sql}),
        ("POST", "/tabulate", {"table": sql, "year": 2025}),
        ("POST", "/tabulate", {"table": "members_by_county", "year": sql}),
        ("POST", "/tabulate", {"table": "members_by_county", "year": 2025, sql: 1}),
        ("GET", f"/tables/{word}", None),
        ("GET", f"/queries/{word}", None),
        ("GET", f"/audit?user={word}&grant={word}", None),
    ]


def _check(reply: Reply, asked: str, sql: str, planted: list[str]) -> None:
    assert 400 <= reply.status < 500, (asked, reply.status, reply.body[:200])
    _clean(reply.body.decode("latin-1"), sql, planted)


def test_in_paths_and_bodies_of_a_servers_socket_a_hostile_statement_is_a_word_like_any_other(
    served: Api, ana: Bound, planted: list[str]
) -> None:
    for number, sql in enumerate(_hostile(served)):
        requests = _requests(sql)
        for method, path, body in requests if number % 20 == 0 else requests[number % 6 :: 6]:
            _check(ana.ask(method, path, body), path, sql, planted)
    assert ana.ask("GET", f"/members/{slice_world.A}/record").status == 200
    _clean_log(served, planted)


def test_at_the_second_listener_too_and_it_takes_no_sql_at_all(
    served: Api, client: Holder, planted: list[str]
) -> None:
    for number, sql in enumerate(_hostile(served)):
        requests = _requests(sql)
        for method, path, body in requests if number % 20 == 0 else requests[number % 6 :: 6]:
            _check(client.ask(method, path, body), path, sql, planted)
        _check(client.ask("POST", "/query", {"sql": sql}), "/query", sql, planted)
    assert client.ask("GET", f"/members/{slice_world.A}/record").status == 200
    _clean_log(served, planted)


def test_a_member_of_another_plan_is_asked_for_in_vain_on_every_channel(
    served: Api, ana: Bound, client: Holder, planted: list[str]
) -> None:
    for way in (ana, client):
        for member in OTHERS:
            for path in (f"/members/{member}/record", f"/members/{member}/risk"):
                reply = way.ask("GET", path)
                assert reply.status == 404 and member.encode() not in reply.body
                _clean(reply.body.decode(), "", planted)
        feed = way.ask("GET", "/feed")
        assert feed.status == 200
        _clean(feed.body.decode("latin-1"), "", planted)
        for table in ("member", "diagnosis", "medical_claim"):
            body = way.ask("GET", f"/feed/{table}").body
            assert not [id for id in OTHERS if id.encode() in body]
    _clean_log(served, planted)


def test_the_planted_words_would_be_found(served: Api, planted: list[str]) -> None:
    """The canaries are where an attack would find them: in the file, the release and the state."""
    assert SECRET in Path(served.world.base / "secret.csv").read_text()
    names = {f"Canary{number}" for number in range(6)}
    assert set(OTHERS.values()) < names
    members = [*served.world.where.lake.glob("releases/*/tables/member/*.parquet")]
    released = {row["last_name"]: row["member_id"] for row in pq.read_table(members[0]).to_pylist()}
    assert {released[name] for name in OTHERS.values()} == set(OTHERS)
