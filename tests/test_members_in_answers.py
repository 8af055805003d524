"""Which members an answer named: the log has them as marks, whatever the statement did to get them."""

from __future__ import annotations

from typing import Any

import pytest
from broker_world import BIG, Bound, World, until

from workbench.broker import members_found
from workbench.broker.service import Service

pytestmark = pytest.mark.sandbox


def _ended(world: World, who: Bound, sql: str) -> dict[str, Any]:
    reply = who.query(sql)
    assert reply.status == 200, reply.body
    query = reply.headers["X-Query-Id"]

    def found() -> list[dict[str, Any]]:
        return [e for e in world.log() if e["query_id"] == query and e["event"] == "ended"]

    until(found)
    return found()[0]


@pytest.mark.parametrize(
    ("sql", "members"),
    [
        ("SELECT member_id FROM member", 3),
        ("SELECT * FROM member", 3),
        ("SELECT DISTINCT a.last_name AS x, a.member_id AS y FROM member a, diagnosis", 3),
        ("SELECT m.k FROM member AS m(k, x)", 3),
        ("SELECT array_agg(member_id) FROM diagnosis", 3),
        ("SELECT max(member_id) FROM (SELECT member_id FROM medical_claim)", 1),
        ("WITH a AS (SELECT member_id AS b FROM member) SELECT b FROM a LIMIT 2", 2),
        ("SELECT sex, count(DISTINCT member_id) AS n FROM member GROUP BY 1", 0),
        ("SELECT sex FROM member", None),
        ("SELECT count(*) FROM member", None),
    ],
)
def test_the_log_counts_the_members_that_an_answer_named(
    world: World, ana: Bound, rui: Bound, sql: str, members: int | None
) -> None:
    ended = _ended(world, ana, sql)
    assert ended["members"] == members
    assert bool(ended["returned"]) == bool(members)


def test_the_list_of_an_answer_holds_its_members_and_nobody_else(
    world: World, service: Service, ana: Bound, rui: Bound
) -> None:
    theirs = rui.query("SELECT member_id FROM member ORDER BY 1 LIMIT 2").table.column(0).to_pylist()
    ended = _ended(world, rui, "SELECT member_id FROM member ORDER BY 1 LIMIT 1")
    marks = service.broker.audit.marks
    assert ended["members"] == 1
    assert [marks.wanted([id]).returned(ended["returned"]) for id in theirs] == [True, False]


def test_a_long_answer_of_few_members_names_them_all(world: World, ana: Bound) -> None:
    ended = _ended(world, ana, BIG)
    assert ended["members"] == 3 and not ended["returned"].endswith("+")


def test_an_answer_of_more_members_than_a_list_takes_says_so() -> None:
    import duckdb
    import pyarrow as pa

    with duckdb.connect() as con:
        con.execute(
            f"CREATE TABLE member AS SELECT 'm' || range AS member_id FROM range({members_found.MOST + 10})"
        )
        members = members_found.Members(con, "member", "member_id")
        found = members_found.Found(members)
        for batch in con.sql("SELECT member_id, 'x' || member_id AS other FROM member").to_arrow_reader(
            10_000
        ):
            found.look(batch)
        said = found.members()
        assert len(said["members"]) == members_found.MOST and said["capped"] is True
        noise = members_found.Found(members)
        noise.look(pa.record_batch({"x": [f"no member {i}" for i in range(members_found.MOST + 10)]}))
        assert noise.members() == {"members": [], "capped": False}
