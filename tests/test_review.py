"""The review queue, its sign-offs, and the alerts: what an auditor has to look at, and that looking is recorded."""

from __future__ import annotations

import json
import os
import pwd
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from broker_world import World, new_world, until

from workbench.broker.audit import Audit, events, verify
from workbench.broker.audit_alerts import ALERTS
from workbench.broker.review import NothingToSign, SignOffRefused, check_sign_off, is_far, queue
from workbench.broker.state import State

MEMBER = "00000001A"


class Days:
    """An audit whose clock is set by the day."""

    def __init__(self, folder: Path):
        self.state = State(f"sqlite:///{folder / 'broker.sqlite'}", folder / "state")
        self.day = datetime(2026, 10, 1, 9, tzinfo=UTC)
        self.audit = Audit(self.state, clock=lambda: self.day)

    def take(self, *amounts: int, user: str = "ana", grant: str = "g") -> None:
        """One answer of so many rows on each of the next days."""
        for rows in amounts:
            self.day += timedelta(days=1)
            self.audit.record("ended", user=user, grant=grant, rows=rows, outcome="answered")

    def queue(self, *kinds: str) -> list[Any]:
        """The items of these kinds."""
        return [item for item in queue(self.state.engine) if not kinds or item.kind in kinds]

    def sign(self, item: Any, user: str = "audrey") -> None:
        """What the broker records at a sign-off."""
        self.audit.record("review-signed", user=user, detail=json.dumps({"item": item.id}))


@pytest.fixture
def days(tmp_path: Path) -> Iterator[Days]:
    days = Days(tmp_path)
    yield days
    days.audit.close()
    days.state.close()


def test_break_glass_comes_first_then_denials_then_volume_then_first_uses(days: Days) -> None:
    days.audit.record("admitted", user="ana", grant="g", purpose="operations", channel="notebook")
    days.take(*[500] * 6, 90_000)
    days.audit.record("refused", user="eve", grant="g", code="wrong-group", reason="Not your group.")
    days.audit.record("break-glass", user="dr", grant="care", code="emergency", reason="Found unconscious.")
    days.audit.record("refused", user="eve", grant="g", code="wrong-group", reason="Not your group.")
    found = days.queue()
    assert [(item.kind, item.user) for item in found] == [
        ("break-glass", "dr"),
        ("denied", "eve"),
        ("volume", "ana"),
        ("first-use", "ana"),
    ]
    assert found[0].says.endswith("emergency · Found unconscious. Looked at it 0 times.")
    assert (found[1].times, found[1].says) == (2, "Refused 2 times: Not your group.")
    assert found[2].says.startswith("90,000 rows on") and "500 a day" in found[2].says


def test_a_refusal_hides_behind_no_other(days: Days) -> None:
    said = ("The function zip is not admitted.", "ATTACH is not admitted.", "B.", "B.", "C.", "D.")
    for reason in said:
        days.audit.record("refused", user="eve", grant="g", code="sql-refused", reason=reason)
    (item,) = days.queue()
    assert item.says == "Refused 6 times: B. ATTACH is not admitted. C. And 2 more reasons."


def test_what_was_signed_is_gone_and_what_happens_after_it_comes_back(days: Days) -> None:
    days.audit.record("refused", user="eve", grant="g", code="wrong-group", reason="No.")
    (item,) = days.queue()
    days.sign(item)
    assert days.queue() == []
    days.audit.record("refused", user="eve", grant="g", code="wrong-group", reason="No.")
    (again,) = days.queue()
    assert (again.id, again.times, again.first) == ("D3", 2, item.first)
    with pytest.raises(NothingToSign):
        check_sign_off([again], item.id, "audrey", "")


def test_a_look_by_a_break_glass_that_was_signed_off_brings_it_back(days: Days) -> None:
    said = {
        "user": "dr",
        "grant": "care",
        "subject": days.audit.subject(MEMBER),
        "statement": "break-glass 1234",
    }
    days.audit.record("break-glass", **said, code="emergency")
    days.audit.record("break-glass-read", **said)
    days.sign(days.queue()[0])
    assert days.queue() == []
    days.audit.record("break-glass-read", **said)
    days.audit.record("break-glass", **said | {"statement": "break-glass 5678"}, code="emergency")
    assert [(item.id, item.times) for item in days.queue()] == [("B5", 0), ("B4", 2)]


def test_denials_are_one_item_a_day_a_person_a_grant_and_a_reason(days: Days) -> None:
    for user, code in (("eve", "a"), ("eve", "a"), ("eve", "b"), ("max", "a")):
        days.audit.record("refused", user=user, grant="g", code=code)
    days.day += timedelta(days=1)
    days.audit.record("binding-refused", user="eve", grant="g", code="a")
    assert sorted((item.user, item.times) for item in days.queue()) == [
        ("eve", 1),
        ("eve", 1),
        ("eve", 2),
        ("max", 1),
    ]


def test_a_first_use_is_one_of_each_person_and_grant_and_none_of_the_brokers_own(days: Days) -> None:
    for user, grant in (("ana", "g"), ("ana", "g"), ("ana", "h"), ("rui", "g"), ("broker", "g")):
        days.audit.record("admitted", user=user, grant=grant, purpose="research", channel="notebook")
    assert [(i.user, i.grant, i.last) for i in days.queue()] == [
        ("rui", "g", 4),
        ("ana", "h", 3),
        ("ana", "g", 1),
    ]


@pytest.mark.parametrize(
    ("past", "today", "far"),
    [
        ([500, 480, 530, 510, 490], 60_000, True),
        ([500, 480, 530, 510, 490], 900, False),  # within the floor
        ([5_000] * 10, 11_000, False),  # great regularity does not make a small step odd
        ([5_000] * 10, 12_000, True),
        ([5_000, 9_000, 2_000, 30_000, 7_000, 4_000], 18_000, False),  # someone who varies may vary
        ([5_000, 9_000, 2_000, 30_000, 7_000, 4_000], 60_000, True),
        ([500, 500, 900_000, 500, 500, 480], 40_000, True),  # one odd day in the past hides no second
        ([500, 500, 500, 500], 90_000, False),  # too short a past
        ([0, 0, 0, 0, 0], 5_000, True),
    ],
)
def test_a_day_is_held_against_the_callers_own_past(
    days: Days, past: list[int], today: int, far: bool
) -> None:
    days.take(*past, today)
    assert [item.kind for item in days.queue() if item.last == len(past) + 1] == ["volume"] * far


def test_a_days_past_is_of_the_same_person_and_grant_and_of_sixty_days(days: Days) -> None:
    days.take(*[50_000] * 70)
    days.take(*[500] * 6, 50_000, user="rui")
    days.take(*[500] * 6, 50_000, grant="h")
    assert sorted((item.user, item.grant) for item in days.queue()) == [("ana", "h"), ("rui", "g")]
    assert is_far(50_000, [500] * 60, 1_000) and not is_far(50_000, [], 1_000)


def test_many_look_ups_by_id_are_unusual_though_they_are_few_rows(days: Days) -> None:
    for count in (8, 7, 9, 8, 8, 60):
        days.day += timedelta(days=1)
        for number in range(count):
            subject = days.audit.subject(f"{number}")
            days.audit.record("ended", user="nurse", grant="care", rows=1, subject=subject)
    (item,) = days.queue()
    assert (item.kind, item.times) == ("lookups", 60) and item.says.startswith("60 members asked for by id")


@pytest.mark.parametrize(
    ("auditor", "note", "code"),
    [
        ("dr", "long enough a note", "own-matter"),
        ("audrey", "", "sign-off-refused"),
        ("audrey", "short", "sign-off-refused"),
    ],
)
def test_a_break_glass_needs_a_note_and_another_persons_eyes(
    days: Days, auditor: str, note: str, code: str
) -> None:
    days.audit.record("break-glass", user="dr", grant="care")
    items = days.queue()
    with pytest.raises(SignOffRefused) as refusal:
        check_sign_off(items, items[0].id, auditor, note)
    assert refusal.value.code == code
    assert check_sign_off(items, " b1 ", "audrey", "I called the clinic.").id == "B1"


def test_an_alert_is_written_for_the_auditors_and_given_to_the_command_without_a_value(
    days: Days, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"
    script = f"import sys; open({str(told)!r}, 'a').write(sys.stdin.read())"
    monkeypatch.setenv("WORKBENCH_ALERT_COMMAND", f'{sys.executable} -c "{script}"')
    subject = days.audit.subject(MEMBER)
    days.audit.record("admitted", user="dr", grant="care", statement="select 1")
    days.audit.record(
        "break-glass",
        user="dr",
        grant="care",
        code="emergency",
        reason=f"Ada Canary, {MEMBER}",
        subject=subject,
    )
    days.audit.close()
    for text in ((days.audit.folder / "alerts.jsonl").read_text(), told.read_text()):
        (line,) = [json.loads(line) for line in text.splitlines()]
        assert (line["seq"], line["event"], line["user"], line["code"]) == (
            2,
            "break-glass",
            "dr",
            "emergency",
        )
        assert not any(word in text for word in (MEMBER, "Ada", subject, "select"))
    assert (days.audit.folder / "alerts.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_command_that_fails_or_hangs_holds_up_no_event(
    days: Days, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def told(command: str) -> None:
        monkeypatch.setenv("WORKBENCH_ALERT_COMMAND", command)
        days.audit.record("break-glass", user="dr", grant="care")
        days.audit.record("ended", user="dr", grant="care")

    for number, command in enumerate(("/no/such/command", "false", '"unclosed'), 1):
        told(command)
        until(lambda number=number: len([m for m in caplog.messages if "command failed" in m]) == number)
    told(f"sh -c 'sleep 8; touch {tmp_path}/end'")
    assert not (tmp_path / "end").exists()
    days.audit.close()
    assert len((days.audit.folder / "alerts.jsonl").read_text().splitlines()) == 4


def test_break_glass_every_look_by_it_and_pruning_alert() -> None:
    assert {"break-glass", "break-glass-read", "audit-pruned"} <= ALERTS


@pytest.fixture
def world() -> Iterator[World]:
    with new_world() as world:
        yield world


@pytest.mark.sandbox
def test_over_the_control_socket_every_look_and_every_sign_off_is_an_event_of_the_chain(world: World) -> None:
    world.users.write_text(world.users.read_text() + "  dr: {groups: [auditors], about: A doctor}\n")
    with world.serve() as service:
        audit, engine = service.broker.audit, service.broker.state.engine
        audit.record("break-glass", user="dr", grant="care", subject=audit.subject(MEMBER))
        answer = world.control("GET", "/audit/review?auditor=audrey").json
        assert [item["id"] for item in answer["items"]] == ["B1"]
        body = {"item": "B1", "note": "I called the clinic."}
        assert world.control("POST", "/audit/review?auditor=dr", body).json["code"] == "own-matter"
        assert world.control("POST", "/audit/review?auditor=audrey", body).status == 200
        assert world.control("POST", "/audit/review?auditor=audrey", body).json["code"] == "nothing-to-sign"
        assert world.control("GET", "/audit/review?auditor=audrey").json["items"] == []
        shown = world.control("GET", "/audit?auditor=audrey&event=break-glass&limit=5").json["events"]
        assert [event["event"] for event in shown] == ["break-glass"]
        assert world.control("GET", "/audit").json["events"][-1]["event"] == "audit-read"
        log = events(engine)
        assert [(e["event"], e["user"]) for e in log[1:]] == [
            ("audit-read", "audrey"),
            ("review-signed", "audrey"),
            ("audit-read", "audrey"),
            ("audit-read", "audrey"),
            ("audit-read", f"operator:{pwd.getpwuid(os.geteuid()).pw_name}"),
        ]
        assert (log[2]["reason"], json.loads(log[2]["detail"])["item"]) == ("I called the clinic.", "B1")
        assert verify(engine, audit.folder) == []
        assert world.control("GET", "/audit?auditor=rui").json["code"] == "not-an-auditor"
        assert events(engine)[-1]["event"] == "audit-refused"
        for wrong in ("limit=many", "since=yesterday", "auditor=%20", "before=x"):
            assert world.control("GET", f"/audit?{wrong}").json["code"] == "bad-filter", wrong
        assert world.control("POST", "/audit/who-saw", {"member": "x" * 65}).json["code"] == "bad-filter"


@pytest.mark.sandbox
def test_an_id_typed_into_the_wrong_field_does_not_get_into_the_log(world: World) -> None:
    with world.serve() as service:
        engine = service.broker.state.engine
        service.broker.audit.record("ended", user="ana")
        for query in (f"user={MEMBER}", f"grant={MEMBER}", f"event={MEMBER}"):
            assert world.control("GET", f"/audit?auditor=audrey&{query}").json["events"] == []
        world.control("GET", "/audit?auditor=audrey&user=ana")
        log = events(engine)
        assert log[-1]["statement"] == "audit user=ana"
        assert MEMBER not in json.dumps(log)


@pytest.mark.sandbox
def test_on_a_servers_socket_the_log_is_open_to_auditors_alone_and_a_refusal_is_written_down(
    world: World,
) -> None:
    with world.serve() as service:
        ana = world.bind("ana", "demo-analyst", "operations")
        tries = [
            ("GET", "/audit", None),
            ("GET", "/audit/review", None),
            ("POST", "/audit/who-saw", {"member": MEMBER}),
        ]
        for method, path, body in [*tries, ("POST", "/audit/review", {"item": "B1", "note": "I looked."})]:
            assert ana.ask(method, path, body).json["code"] == "not-an-auditor", path
        assert ana.ask("POST", "/audit/prune", {}).status == 404
        refused = events(service.broker.state.engine, event="audit-refused")
        assert [event["user"] for event in refused if event["channel"] == "notebook"] == ["ana"] * 4
        file = world.users
        file.write_text(file.read_text().replace("[mcp-sierra-vista]", "[mcp-sierra-vista, auditors]"))
        assert ana.ask("POST", "/audit/who-saw", {"member": MEMBER}).status == 200
        assert ana.ask("GET", "/audit/review").json["items"][0]["user"] == "ana"
        own = next(i for i in ana.ask("GET", "/audit/review").json["items"] if i["user"] == "ana")
        assert ana.ask("POST", "/audit/review", {"item": own["id"]}).json["code"] == "own-matter"


@pytest.mark.sandbox
def test_nothing_of_the_log_is_shown_while_the_look_cannot_be_written(world: World) -> None:
    import sqlalchemy as sa

    with world.serve() as service:
        with service.broker.state.engine.begin() as connection:
            connection.execute(
                sa.text(
                    "CREATE TRIGGER full BEFORE INSERT ON audit_event BEGIN SELECT RAISE(ABORT, 'full'); END"
                )
            )
        try:
            for method, path, body in (
                ("GET", "/audit", None),
                ("GET", "/audit/review", None),
                ("POST", "/audit/who-saw", {"member": MEMBER}),
                ("POST", "/audit/exports", {"format": "jsonl"}),
            ):
                assert world.control(method, path, body).json["code"] == "audit-unavailable", path
        finally:
            with service.broker.state.engine.begin() as connection:
                connection.execute(sa.text("DROP TRIGGER full"))
