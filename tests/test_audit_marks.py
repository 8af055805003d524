"""Marks of members, and logs that an earlier version wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import old_audit
import pytest
import sqlalchemy as sa

from workbench.broker.audit import Audit, AuditUnavailable, audit_folder, events, verify
from workbench.broker.audit_marks import is_whole, list_path
from workbench.broker.state import State

MEMBERS = [f"{number:08}A" for number in range(500)]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(f"sqlite:///{tmp_path / 'broker.sqlite'}", tmp_path / "state")
    yield state
    state.close()


@pytest.fixture
def audit(state: State) -> Iterator[Audit]:
    audit = Audit(state)
    yield audit
    audit.close()


def file_of(audit: Audit, reference: str) -> Path:
    path = list_path(audit.folder, reference)
    assert path is not None
    return path


def test_a_log_of_the_first_version_still_verifies_before_and_after_it_is_migrated(tmp_path: Path) -> None:
    database, folder = tmp_path / "state" / "broker.sqlite", tmp_path / "state-audit"
    old_audit.write(database, tmp_path / "state", folder)
    beside = sa.create_engine(f"sqlite:///{database}")
    assert verify(beside, folder) == []
    assert [e["subject"] for e in events(beside, limit=2)] == [None, None]
    state = State(f"sqlite:///{database}", tmp_path / "state")
    try:
        audit = Audit(state)
        number = audit.record("ended", user="ana", members=2, returned=audit.returned(["A", "B"], False))
        audit.close()
        assert number == 26
        assert verify(state.engine, folder) == []
        assert events(state.engine)[-1]["members"] == 2
        with state.engine.begin() as connection:
            connection.execute(sa.text("UPDATE audit_event SET subject = '@forged' WHERE seq = 7"))
        assert [(f.kind, f.first) for f in verify(state.engine, folder)] == [("changed", 7)]
    finally:
        beside.dispose()
        state.close()


def test_a_migration_that_was_done_is_not_done_again(tmp_path: Path) -> None:
    old_audit.write(tmp_path / "broker.sqlite", tmp_path / "state", audit_folder(tmp_path / "state"))
    for _ in range(2):
        state = State(f"sqlite:///{tmp_path / 'broker.sqlite'}", tmp_path / "state")
        audit = Audit(state)
        audit.close()
        assert verify(state.engine, audit_folder(state.folder)) == []
        state.close()


def test_a_members_mark_is_the_same_tomorrow_and_tells_no_id(state: State, audit: Audit) -> None:
    mark = audit.subject("00000001A")
    assert mark == audit.subject("00000001A") != audit.subject("00000001B")
    assert "00000001A" not in mark and mark[1:13] != audit.mark("00000001A")[1:]


def test_an_answers_list_holds_its_members_and_no_other_and_no_id(audit: Audit) -> None:
    reference = audit.returned(MEMBERS, False)
    assert all(audit.marks.wanted([member]).returned(reference) for member in MEMBERS)
    assert not any(audit.marks.wanted([member + "X"]).returned(reference) for member in MEMBERS)
    raw = file_of(audit, reference).read_bytes()
    assert len(raw) == 8 * len(MEMBERS) and not any(member.encode() in raw for member in MEMBERS)
    assert audit.returned(reversed(MEMBERS), True) == reference + "+"
    assert audit.marks.wanted(MEMBERS).returned(audit.returned([], False)) is False


def test_a_list_that_was_changed_or_taken_away_is_told(state: State, audit: Audit) -> None:
    kept, gone = audit.returned(MEMBERS[:3], False), audit.returned(MEMBERS[3:9], False)
    for reference in (kept, gone):
        audit.record("ended", returned=reference, members=3)
    assert verify(state.engine, audit.folder) == []
    file_of(audit, kept).write_bytes(bytes(24))
    file_of(audit, gone).unlink()
    assert not is_whole(audit.folder, kept) and audit.marks.wanted(MEMBERS).returned(gone) is None
    assert [(f.kind, f.first, f.last) for f in verify(state.engine, audit.folder)] == [("returned", 1, 2)]


def test_a_member_in_a_long_list_of_literals_is_found_though_the_log_keeps_one_mark(audit: Audit) -> None:
    statement = f"select * from member where member_id in ( {audit.mark(chr(0).join(MEMBERS))}[500] )"
    assert len(statement) < 120
    assert audit.marks.wanted([MEMBERS[77]]).named(statement)
    assert not audit.marks.wanted(["00009999Z"]).named(statement)
    assert audit.marks.wanted(["other", "00009999Z"]).named(f"select {audit.mark('00009999Z')}")


def test_members_that_cannot_be_written_down_are_an_error_for_who_waits(tmp_path: Path) -> None:
    folder = tmp_path / "second"
    state = State("sqlite://", tmp_path / "state")
    audit = Audit(state, folder=folder)
    (folder / "returned").write_text("in the way")
    try:
        with pytest.raises(OSError):
            audit.returned(["A"], False)
        with pytest.raises(AuditUnavailable):
            audit.mark("A\0B")
    finally:
        audit.close()
        state.close()
