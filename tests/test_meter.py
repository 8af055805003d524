"""What a grant's holders may take in a day: counted before it leaves, kept over a restart, refused with when to return."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Iterator
from typing import Any

import pytest
from broker_world import BIG, World, new_world, until

from workbench.broker import meter
from workbench.client.errors import BrokerBusy, ResultCutOff
from workbench.client.session import Session
from workbench.client.transport import Transport

pytestmark = pytest.mark.sandbox
THREE = "SELECT member_id FROM member"
FIRST_BATCH = 262_144


@pytest.fixture(autouse=True)
def _in_one_day() -> None:
    """Where the day of the limits is about to end, the next one is waited for."""
    if (left := meter._to_midnight()) < 60:
        time.sleep(left)


@pytest.fixture
def world() -> Iterator[World]:
    with new_world() as world:
        yield world


def _limit(world: World, **limits: int) -> None:
    world.change_grant("demo-analyst", limits=limits)


def test_an_answer_that_would_go_beyond_the_days_rows_is_refused_with_when_to_return(world: World) -> None:
    _limit(world, rows_per_day=5)
    with world.serve():
        ana = world.bind("ana", "demo-analyst", "operations")
        rui = world.bind("rui", "demo-research-sh", "research")
        assert ana.query(THREE).status == 200
        refused = ana.query(THREE)
        assert (refused.status, refused.json["code"]) == (429, "day-limit")
        assert 0 < int(refused.headers["Retry-After"]) <= 24 * 3600
        assert "5 rows a day" in refused.json["reason"]
        assert ana.query(f"{THREE} LIMIT 2").status == 200, "what still fits is answered"
        assert ana.query("SELECT 1").json["code"] == "day-limit"
        assert rui.query(THREE).status == 200, "another grant has a day of its own"
        events = [event for event in world.log(user="ana") if event["code"] == "day-limit"]
        assert {event["event"] for event in events} == {"ended", "refused"}


def test_a_stream_that_crosses_the_limit_is_cut_and_its_reason_can_be_asked(world: World) -> None:
    world.change_grant("demo-research-sh", limits={"rows_per_day": FIRST_BATCH + 1000})
    with world.serve():
        rui = world.bind("rui", "demo-research-sh", "research")
        session = Session(Transport(rui.socket, rui.token))
        with pytest.raises(ResultCutOff, match="rows a day"):
            session.sql(BIG).arrow()
        until(lambda: world.log(user="rui")[-1]["event"] == "ended")
        last = world.log(user="rui")[-1]
        assert (last["outcome"], last["code"], last["rows"]) == ("failed", "day-limit", FIRST_BATCH)
        with pytest.raises(BrokerBusy, match="rows a day") as caught:
            session.sql(BIG)
        assert caught.value.retry_after > 10, "the client does not wait for midnight by itself"


def test_bytes_are_counted_as_rows_are(world: World) -> None:
    _limit(world, bytes_per_day=20_000)
    with world.serve():
        ana = world.bind("ana", "demo-analyst", "operations")
        taken = 0
        with contextlib.suppress(http.client.IncompleteRead):
            while (reply := ana.query("SELECT * FROM diagnosis")).status == 200:
                taken += len(reply.body)
        assert 0 < taken <= 20_000
        until(lambda: world.log(user="ana")[-1]["code"] == "day-limit")
        assert "bytes a day" in world.log(user="ana")[-1]["reason"]


def test_what_was_taken_is_known_after_a_restart(world: World) -> None:
    _limit(world, rows_per_day=3)
    with world.serve():
        ana = world.bind("ana", "demo-analyst", "operations")
        assert ana.query(THREE).status == 200
    with world.serve() as service:
        assert ana.query("SELECT 1").json["code"] == "day-limit"
        rows, sent = service.broker.meter.taken("demo-analyst")
        assert rows == 3 and sent > 0


def test_a_new_day_gives_a_new_allowance(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _limit(world, rows_per_day=3)
    with world.serve():
        ana = world.bind("ana", "demo-analyst", "operations")
        assert ana.query(THREE).status == 200 and ana.query(THREE).status == 429
        monkeypatch.setattr(meter, "_today", lambda: "2999-01-01")
        assert ana.query(THREE).status == 200


def test_a_table_of_the_catalogue_counts_too(world: World) -> None:
    world.change_grant("demo-public", limits={"rows_per_day": 1})
    with world.serve():
        pat = world.bind("pat", "demo-public", "program_administration", "app")
        spec: dict[str, Any] = {"table": "members_by_county", "year": 2025}
        reply = pat.ask("POST", "/tabulate", spec)
        assert (reply.status, reply.json["code"]) == (429, "day-limit")
        assert b'"value"' not in reply.body
