"""Who saw a member: one read of each kind, and the line that the log gives of it. Then the same through a broker."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from broker_world import World, new_world, until

from workbench.broker import who_saw as who_saw_module
from workbench.broker.audit import Audit, events
from workbench.broker.published_slice import members_file
from workbench.broker.said import BROKER_ENDED
from workbench.broker.state import State
from workbench.broker.vault import Vault
from workbench.broker.who_saw import Sighting, who_saw

ADA, BEA = "90000001A", "90000002B"
OWN, TOKENS, OTHER, GONE = "a" * 24, "b" * 24, "c" * 24, "d" * 24
KEY = ["member.member_id", "member.sex"]


@dataclass
class Log:
    """A log, a vault and a lake with lists of members: Ada is in OWN and TOKENS, Bea in OTHER alone; GONE has no list."""

    state: State
    audit: Audit
    lake: Path
    token: str
    namespaces: dict[str, str]

    def read(self, user: str = "ana", slice: str = OWN, *, end: bool = True, **said: Any) -> None:
        """One read: its admission and its end."""
        same: dict[str, Any] = {"query_id": uuid.uuid4().hex, "user": user, "grant": "g", "slice": slice}
        same |= {name: said.pop(name) for name in ("channel", "subject") if name in said}
        first = {"statement": said.pop("statement", "select 1"), "tables": said.pop("tables", ["member"])}
        self.audit.record("admitted", **same, **first, columns=said.pop("columns", KEY))
        if end:
            self.audit.record("ended", **same, **{"outcome": "answered", "rows": 1, **said})

    def of(self, member: str) -> list[Sighting]:
        """The lines on a member."""
        return who_saw(self.state.engine, self.lake, self.state.folder, self.audit.marks, member)

    def line(self, member: str = ADA) -> tuple[str, str, int]:
        """The one line on a member."""
        (line,) = self.of(member)
        return line.grade.words, line.says, line.times


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    state = State(f"sqlite:///{tmp_path / 'broker.sqlite'}", tmp_path / "state")
    audit, vault, lake = Audit(state), Vault(state), tmp_path / "lake"
    tokens = {
        name: vault.tokens(name, "member", [ADA, BEA])[ADA] for name in ("limited/A-1", "safe_harbor/B")
    }
    for slice, members in ((OWN, [ADA, BEA]), (TOKENS, [ADA]), (OTHER, [BEA])):
        path = members_file(lake, slice)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"member_id": members}), path)
    yield Log(state, audit, lake, tokens["limited/A-1"], tokens)
    audit.close()
    state.close()


def test_a_member_asked_for_by_id_is_named_and_nobody_else_is(log: Log) -> None:
    log.read(subject=log.audit.subject(ADA), channel="lmr_api", statement="record")
    log.read(subject=log.audit.subject(ADA), channel="lmr_api", statement="record", rows=0)
    lines = log.of(ADA)
    assert [(line.grade.words, line.says) for line in lines] == [
        ("named", "Asked for this member by id and got no rows."),
        ("named", "Asked for this member by id and got an answer."),
    ]
    assert log.of(BEA) == []


def test_a_refused_question_for_a_member_names_her_and_showed_nothing(log: Log) -> None:
    log.audit.record("refused", user="eve", grant="g", subject=log.audit.subject(ADA), code="wrong-group")
    log.audit.record("refused", user="eve", grant="g", statement=f"select {log.audit.mark(ADA)}")
    assert log.line() == ("named", "Asked for this member by id and was refused: nothing was shown.", 2)


def test_an_id_in_a_statement_alone_or_among_five_hundred_is_named(log: Log) -> None:
    log.read(statement=f"select * from member where member_id = {log.audit.mark(ADA)}")
    assert log.line()[:2] == ("named", "Wrote this member's id into a statement.")
    many = log.audit.mark("\0".join([f"{n:08}X" for n in range(500)] + [ADA]))
    log.read(statement=f"select * from member where member_id in ( {many}[501] )")
    assert log.line()[2] == 2


def test_a_break_glass_names_its_member(log: Log) -> None:
    for event in ("break-glass", "break-glass-read"):
        log.audit.record(event, user="dr", grant="g", subject=log.audit.subject(ADA), reason="unconscious")
    assert {line.says for line in log.of(ADA)} == {
        "Opened this member's record by break-glass.",
        "Read this member's record by break-glass.",
    }


def test_what_spoke_of_her_and_showed_nothing_comes_after_what_showed_her(log: Log) -> None:
    log.audit.record("break-glass", user="dr", grant="g", subject=log.audit.subject(ADA))
    for event in ("audit-who-saw", "policy-explained", "consent-given", "consent-revoked"):
        log.audit.record(event, user="op", subject=log.audit.subject(ADA))
    lines = log.of(ADA)
    assert lines[0].user == "dr" and len(lines) == 5
    assert all(line.says.endswith("no record was shown.") for line in lines[1:])


def test_an_answer_with_her_in_it_returned_her_and_one_without_leaves_it_possible(log: Log) -> None:
    log.read("ana", members=2, returned=log.audit.returned([ADA, BEA], False))
    log.read("bob", members=1, returned=log.audit.returned([BEA], False))
    assert [(line.user, line.grade.words) for line in log.of(ADA)] == [
        ("ana", "returned"),
        ("bob", "possible"),
    ]
    assert [line.grade.words for line in log.of(BEA)] == ["returned", "returned"]


@pytest.mark.parametrize("namespace", ["limited/A-1", "safe_harbor/B"])
def test_a_member_is_found_under_the_tokens_of_every_agreement(log: Log, namespace: str) -> None:
    token = log.namespaces[namespace]
    log.read("rui", TOKENS, members=1, returned=log.audit.returned([token], False))
    log.read("rui", TOKENS, statement=f"select * from member where member_id = {log.audit.mark(token)}")
    log.read("rui", TOKENS, subject=log.audit.subject(token))
    assert [(line.grade.words, line.user) for line in log.of(ADA)] == [
        ("named", "rui"),
        ("named", "rui"),
        ("returned", "rui"),
    ]
    assert log.of(BEA) == []


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"rows": 58}, "without their ids: it cannot be told whose"),
        ({"rows": 58, "members": 0}, "without their ids: it cannot be told whose"),
        ({"rows": 58, "members": 4}, "whose list of members is not in the log"),
        ({"rows": 9, "capped": True}, "more members than the log keeps"),
        ({"rows": 0, "bytes": 70_000, "outcome": "cancelled"}, "answer that broke off"),
        ({"end": False}, "how that ended is not in the log"),
        ({"rows": None, **BROKER_ENDED}, "how that ended is not in the log"),
        ({"channel": "feed", "tables": ["diagnosis"], "rows": 9}, "Took a whole table"),
    ],
)
def test_an_answer_of_which_cannot_be_told_whose_rows_it_held_may_have_returned_her(
    log: Log, said: dict[str, Any], words: str
) -> None:
    if said.pop("capped", False):
        said["returned"] = log.audit.returned([BEA], True)
    log.read(**said)
    grade, says, _ = log.line()
    assert grade == "may have been returned" and words in says


def test_a_feed_of_the_table_of_members_returned_everyone_in_the_slice(log: Log) -> None:
    log.read("plan", channel="feed", tables=["member"], rows=2)
    assert log.line()[0] == "returned"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"rows": 0}, "the answers had no rows"),
        ({"statement": "tabulate table=members", "tables": ["members"], "rows": 5}, "no member is shown"),
        ({"slice": GONE}, "cannot be ruled out"),
    ],
)
def test_a_slice_with_her_in_it_leaves_it_possible(log: Log, said: dict[str, Any], words: str) -> None:
    log.read(**said)
    grade, says, _ = log.line()
    assert grade == "possible" and words in says


@pytest.mark.parametrize(
    "said",
    [{"slice": OTHER, "rows": 9}, {"tables": ["value_set"], "rows": 9}, {"slice": OTHER, "end": False}],
)
def test_a_read_that_cannot_have_shown_her_is_no_line(log: Log, said: dict[str, Any]) -> None:
    log.read(**said)
    assert log.of(ADA) == []


def test_who_read_a_report_is_a_line_where_its_run_took_answers_with_her(log: Log) -> None:
    log.audit.record("report-viewed", user="early", grant="g", channel="reports")
    log.read("ana", channel="report", members=1, returned=log.audit.returned([ADA], False))
    log.audit.record("report-viewed", user="rita", grant="g", channel="reports")
    log.audit.record("report-viewed", user="rita", grant="another", channel="reports")
    assert [(line.user, line.grade.words, line.times) for line in log.of(ADA)] == [
        ("ana", "returned", 1),
        ("rita", "may have been returned", 1),
    ]


def test_reads_that_say_the_same_are_one_line_with_their_number_and_span(log: Log) -> None:
    for _ in range(30):
        log.read(rows=5)
    (line,) = log.of(ADA)
    assert (line.times, len(line.events)) == (30, who_saw_module.SHOWN_EVENTS)
    assert line.first < line.last and line.events[-1] == events(log.state.engine)[-1]["seq"]


def test_the_surest_lines_come_first(log: Log) -> None:
    log.read("d", rows=0)
    log.read("c", rows=5)
    log.read("b", members=1, returned=log.audit.returned([ADA], False))
    log.read("a", subject=log.audit.subject(ADA))
    assert [line.user for line in log.of(ADA)] == ["a", "b", "c", "d"]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with new_world() as world:
        yield world


@pytest.mark.sandbox
def test_through_a_broker_at_every_level_and_after_the_slice_was_evicted(world: World) -> None:
    member = "00000001A"
    with world.serve() as service:
        ana = world.bind("ana", "demo-analyst", "operations")
        rui = world.bind("rui", "demo-research-sh", "research", token="r")
        assert ana.query(f"SELECT sex FROM member WHERE member_id = '{member}'").status == 200
        assert ana.query("SELECT member_id, sex FROM member").status == 200
        assert ana.query("SELECT count(*) FROM member").status == 200
        assert rui.query("SELECT member_id FROM member").status == 200
        until(lambda: len(events(service.broker.state.engine, event="ended")) == 4)
        answer = world.control("POST", "/audit/who-saw?auditor=audrey", {"member": member}).json
        found = {(line["user"], line["grade"]) for line in answer["lines"]}
        assert found == {
            ("ana", "named"),
            ("ana", "returned"),
            ("ana", "may have been returned"),
            ("rui", "returned"),
        }
        log = events(service.broker.state.engine)
        assert (log[-1]["event"], log[-1]["user"], log[-1]["channel"]) == (
            "audit-who-saw",
            "audrey",
            "reports",
        )
        assert log[-1]["subject"] == answer["mark"] == service.broker.audit.subject(member)
        assert member not in json.dumps(log)
        for kept in (world.where.lake / "slices").iterdir():
            if kept.name != "members":
                shutil.rmtree(kept)
        again = world.control("POST", "/audit/who-saw?auditor=audrey", {"member": member}).json
        assert {(line["user"], line["grade"]) for line in again["lines"]} == found | {("audrey", "named")}
