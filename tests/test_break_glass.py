"""Break-glass: one member, some minutes, for treatment, with Part 2 in a medical emergency alone, and nothing unseen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from broker_world import Reply, until
from channel_world import NOBODY, Api, Holder, api, channel_world, write_grant
from slice_world import D, E, F

import workbench as wb
from workbench.broker.audit import audit_folder
from workbench.broker.channels import break_glass
from workbench.client.errors import BrokerRefusal

pytestmark = pytest.mark.sandbox
ASKED = {
    "justification": "Unconscious in our emergency department, no history known.",
    "reason": "medical_emergency",
}
HUMAN = "e.ruiz@care.example"
SUD = "D-2024-03-05"
"""A claim with a Part 2 record of a member of another plan."""


@pytest.fixture(scope="module")
def served() -> Iterator[Api]:
    with api(part2=frozenset({SUD})) as found:
        yield found


def _open(care: Holder, member: str = D, **changes: Any) -> Reply:
    return care.ask("POST", f"/members/{member}/break-glass", {**ASKED, "requester": HUMAN, **changes})


def _access(reply: Reply) -> str:
    assert reply.status == 201, reply.json
    return str(reply.json["access"])


def _log(served: Api, event: str) -> list[dict[str, Any]]:
    return sorted((e for e in served.world.log() if e["event"] == event), key=lambda e: e["seq"])


def _left(served: Api) -> list[str]:
    folder = served.world.where.lake / break_glass.FOLDER
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _end_all(served: Api) -> None:
    """Has every open access run out now."""
    glass = served.service.channels.glass

    async def end() -> None:
        for access in list(glass._open.values()):
            await glass._end(access, "its time is up")

    served.in_the_service(end())


@pytest.fixture(autouse=True)
def _none_stays_open(served: Api) -> Iterator[None]:
    yield
    _end_all(served)
    assert _left(served) == []


def test_one_member_of_another_plan_is_seen_for_minutes_with_the_reason_on_the_record(
    served: Api, care: Holder
) -> None:
    assert care.ask("GET", f"/members/{D}/record").status == 404
    reply = _open(care, minutes=10)
    until_ = datetime.fromisoformat(reply.json["until"])
    assert timedelta(minutes=9) < until_ - datetime.now(UTC) <= timedelta(minutes=10)
    record = care.ask("GET", f"/break-glass/{_access(reply)}/record")
    assert record.status == 200
    assert record.json["member_id"] == D
    assert record.json["sections"]["identity"]["content"]["last_name"] == "Canary3"
    assert record.json["break_glass"]["reason"] == "medical_emergency"
    assert care.ask("GET", f"/members/{D}/record").status == 404
    assert care.ask("GET", f"/members/{E}/record").status == 404


def test_part_2_records_are_in_it_only_in_a_medical_emergency_and_then_with_the_notice(care: Holder) -> None:
    without = care.ask("GET", f"/break-glass/{_access(_open(care))}/record")
    assert without.json["break_glass"]["part2"] is None
    assert "F1020" not in without.body.decode()
    with_ = care.ask("GET", f"/break-glass/{_access(_open(care, medical_emergency=True))}/record")
    assert with_.json["break_glass"]["part2"] == "42 CFR 2.51"
    assert "F1020" in with_.body.decode()
    assert with_.headers["X-Workbench-Notice"] == "42-CFR-2.32"
    assert "42 CFR part 2" in with_.json["notice"]


def test_every_step_is_an_event_with_the_members_mark_and_the_typed_words(served: Api, care: Holder) -> None:
    access = _access(_open(care, medical_emergency=True))
    care.ask("GET", f"/break-glass/{access}/record")
    _end_all(served)
    until(lambda: any(access[:8] in str(e["statement"]) for e in _log(served, "break-glass-ended")))
    told = [
        [e for e in _log(served, event) if access[:8] in str(e["statement"])][-1]
        for event in ("break-glass", "break-glass-read", "break-glass-ended")
    ]
    assert [e["seq"] for e in told] == sorted(e["seq"] for e in told)
    mark = served.service.broker.audit.subject(D)
    assert {(e["subject"], e["user"], e["grant"]) for e in told} == {
        (mark, "client:care-platform", "api-care")
    }
    assert told[0]["reason"] == ASKED["justification"]
    assert told[0]["code"] == "medical_emergency"
    assert "42 CFR 2.51" in told[0]["detail"]
    assert D not in json.dumps(told)
    assert {e["server"] for e in told} == {f"api:{HUMAN}"}


def test_on_a_servers_socket_the_user_is_the_human_and_names_no_other(served: Api) -> None:
    ana = served.world.bind("ana", "api-care", "treatment")
    before = _log(served, "break-glass")
    reply = ana.ask("POST", f"/members/{D}/break-glass", {**ASKED, "requester": HUMAN})
    assert reply.status == 400
    assert _log(served, "break-glass") == before


def test_a_break_glass_alerts_the_auditors(served: Api, care: Holder) -> None:
    before = _alerts(served).count("break-glass")
    _access(_open(care))
    until(lambda: _alerts(served).count("break-glass") > before)


def _alerts(served: Api) -> str:
    file = audit_folder(served.world.where.state) / "alerts.jsonl"
    return file.read_text() if file.is_file() else ""


def test_when_its_time_is_up_the_record_and_its_files_are_gone(
    served: Api, care: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(break_glass, "timedelta", lambda minutes: timedelta(seconds=10 * minutes))
    access = _access(_open(care, minutes=1))
    assert care.ask("GET", f"/break-glass/{access}/record").status == 200
    assert _left(served) == [access]
    until(lambda: _left(served) == [])
    reply = care.ask("GET", f"/break-glass/{access}/record")
    assert (reply.status, reply.json["code"]) == (404, "unknown-access")


def test_nobody_else_can_use_an_access(served: Api, care: Holder) -> None:
    access = _access(_open(care))
    other = served.client("other-platform")
    for someone in (other, served.world.bind("ana", "api-care", "treatment")):
        assert someone.ask("GET", f"/break-glass/{access}/record").status == 404


def test_a_server_of_the_hub_can_ask_for_it_too(served: Api) -> None:
    ana = served.world.bind("ana", "api-care", "treatment")
    reply = ana.ask("POST", f"/members/{D}/break-glass", ASKED)
    assert ana.ask("GET", f"/break-glass/{_access(reply)}/record").json["member_id"] == D


@pytest.mark.parametrize(
    "changes",
    [
        {"justification": "too short"},
        {"justification": " " * 40},
        {"justification": "a  " * 4 + " " * 30},
        {"justification": "x" * 3000},
        {"justification": 7},
        {"reason": "curiosity"},
        {"reason": None},
        {"medical_emergency": "yes"},
        {"minutes": 0},
        {"minutes": 61},
        {"minutes": True},
        {"minutes": 1.5},
        {"purpose": "treatment"},
        {"requester": None},
        {"requester": "x"},
        {"requester": "a\nb"},
        {"requester": 7},
        {"requester": "x" * 101},
    ],
)
def test_what_is_not_typed_as_asked_opens_nothing(served: Api, care: Holder, changes: dict[str, Any]) -> None:
    before = len(_log(served, "break-glass"))
    assert _open(care, **changes).status == 400
    assert len(_log(served, "break-glass")) == before


def test_a_request_with_unknown_keys_is_told_all_that_it_takes(served: Api, care: Holder) -> None:
    reply = _open(care, purpose="treatment")
    assert reply.status == 400
    assert {key for key in (*ASKED, "requester") if key not in reply.json["hint"]} == set()


def test_only_a_grant_that_allows_it_and_only_for_treatment(served: Api, care: Holder) -> None:
    operations = served.client("operations-platform", purpose="operations")
    reply = _open(operations)
    assert (reply.status, reply.json["code"]) == (403, "break-glass-refused")
    analyst = served.world.bind("ana", "demo-analyst", "treatment")
    reply = analyst.ask("POST", f"/members/{D}/break-glass", ASKED)
    assert (reply.status, reply.json["code"]) == (403, "break-glass-refused")
    research = served.world.bind("rui", "demo-research-lds", "research")
    assert research.ask("POST", f"/members/{D}/break-glass", ASKED).status == 403
    assert _log(served, "refused")[-1]["code"] == "break-glass-refused"


def test_a_grant_that_stops_allowing_it_ends_open_accesses(served: Api, care: Holder) -> None:
    access = _access(_open(care))
    try:
        write_grant(served.world, "api-care", break_glass=False)
        reply = care.ask("GET", f"/break-glass/{access}/record")
        assert (reply.status, reply.json["code"]) == (403, "break-glass-refused")
    finally:
        write_grant(served.world, "api-care")


def test_an_id_of_nobody_is_not_found_and_still_told_to_the_auditors(served: Api, care: Holder) -> None:
    reply = _open(care, NOBODY)
    assert reply.status == 404
    assert NOBODY not in reply.body.decode()
    assert _log(served, "break-glass")[-1]["subject"] == served.service.broker.audit.subject(NOBODY)


def test_one_user_opens_only_a_few_at_once(served: Api) -> None:
    greedy = served.client("greedy")
    replies = [_open(greedy, member) for member in [D, E, F, D]]
    assert [r.status for r in replies] == [201] * break_glass.MOST_OPEN + [429]


def test_many_requests_at_once_open_no_more_than_one_after_another(served: Api) -> None:
    hasty = served.client("hasty")
    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(lambda member: _open(hasty, member), [D, E, F, D, E, F]))
    assert sorted(r.status for r in replies) == [201] * break_glass.MOST_OPEN + [429] * 3


def test_what_a_killed_broker_left_behind_is_removed_at_the_next_start() -> None:
    with channel_world() as world:
        (world.where.lake / break_glass.FOLDER / ("0" * 32) / "tables").mkdir(parents=True)
        with world.serve() as service:
            again = Api(world, service)
            assert _left(again) == []
            assert _log(again, "break-glass-ended")[-1]["reason"] == "the broker had ended before"


def test_a_notebook_opens_and_looks_by_name_of_the_methods(served: Api) -> None:
    bound = served.world.bind("ana", "api-care", "treatment")
    session = wb.connect(bound.socket, bound.token)
    with pytest.raises(BrokerRefusal, match="20"):
        session.break_glass(D, justification="because")
    opened = session.break_glass(D, justification=ASKED["justification"], minutes=5)
    assert session.break_glass_record(opened["access"])["member_id"] == D
