"""42 CFR 2.32: the notice accompanies every answer of a grant under which Part 2 records may come, and no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from broker_world import Bound, World, new_world

from workbench.broker.law import NOTICE_2_32
from workbench.broker.operator import Operator
from workbench.client import show
from workbench.client.session import Session
from workbench.client.transport import Transport

pytestmark = pytest.mark.sandbox
HEADER = "X-Workbench-Notice"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with new_world() as world:
        world.change_grant(
            "demo-analyst",
            sensitive={"part2": "include", "basis": "audit_evaluation_2_53"},
            purposes=["operations"],
            agreement="An audit under 42 CFR 2.53",
        )
        with world.serve():
            yield world


@pytest.fixture(scope="module")
def ana(world: World) -> Bound:
    return world.bind("ana", "demo-analyst", "operations")


def test_every_answer_of_such_a_grant_carries_it(world: World, ana: Bound) -> None:
    query = ana.query("SELECT count(*) FROM diagnosis")
    assert query.status == 200 and query.headers[HEADER] == "42-CFR-2.32"
    for method, path, body in (
        ("GET", "/whoami", None),
        ("GET", "/tables", None),
        ("GET", "/tables/diagnosis", None),
        ("POST", "/tabulate", {"table": "members_by_county", "year": 2025}),
    ):
        reply = ana.ask(method, path, body)
        assert reply.status == 200 and reply.headers[HEADER] == "42-CFR-2.32", path
        assert reply.json["notice"] == NOTICE_2_32, path
    told = Operator(world.where.run / "control" / "control.sock").query("SELECT 1", {"grant": "demo-analyst"})
    assert told.notice == NOTICE_2_32


def test_answers_without_part_2_records_carry_none(world: World) -> None:
    cora = world.bind("cora", "county-19-health", "public_health")
    assert cora.query("SELECT 1").headers[HEADER] is None
    me = cora.ask("GET", "/whoami")
    assert me.headers[HEADER] is None and "notice" not in me.json and me.json["part2"] is False


def test_the_client_prints_it_once(ana: Bound, capsys: pytest.CaptureFixture[str]) -> None:
    show._Broker.noticed = ""
    session = Session(Transport(ana.socket, ana.token))
    said = " ".join(capsys.readouterr().out.split())
    assert said == NOTICE_2_32 and session.notice == NOTICE_2_32
    assert session.sql("SELECT 1").num_rows == 1
    Session(Transport(ana.socket, ana.token))
    assert capsys.readouterr().out == ""
    show._Broker.noticed = ""
