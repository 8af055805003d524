"""A log that was cut, or whose proof was taken away, is told for ever: also after a broker went on with it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from test_audit import _do, _filled

from workbench.broker.audit import Audit, AuditUnavailable, SecondPlaceLost, audit_folder, events, verify
from workbench.broker.audit_chain import DAMAGED
from workbench.broker.audit_verify import Finding
from workbench.broker.review import days, queue
from workbench.broker.state import State


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(f"sqlite:///{tmp_path / 'broker.sqlite'}", tmp_path / "state")
    yield state
    state.close()


def _killed(state: State, folder: Path, count: int = 27, every: int = 10) -> None:
    """Leaves what a killed broker leaves: the files of the last moment, without the last checkpoint."""
    audit = Audit(state, events_per_checkpoint=every)
    for number in range(count):
        audit.record("admitted", user="ana", rows=number)
    kept = {path: path.read_bytes() for path in _files(state, folder)}
    audit.close()
    for path, content in kept.items():
        path.write_bytes(content)


def _files(state: State, folder: Path) -> list[Path]:
    return [folder / "head", folder / "checkpoints.jsonl", state.folder / "audit.key"]


def _go_on(state: State) -> None:
    """A broker opens the log, writes an event, sets its checkpoint and ends; twice."""
    for _ in range(2):
        audit = Audit(state)
        audit.record("admitted", user="rui")
        audit.close()


def _told(state: State, folder: Path) -> set[tuple[str, int, int]]:
    return {(f.kind, f.first, f.last) for f in verify(state.engine, folder)}


def test_events_cut_off_after_the_last_checkpoint_stay_missing_when_a_broker_goes_on(state: State) -> None:
    folder = audit_folder(state.folder)
    _killed(state, folder)
    _do(state, "DELETE FROM audit_event WHERE seq > 22")
    assert _told(state, folder) == {("truncated", 23, 27)}
    _go_on(state)
    assert _told(state, folder) == {("missing", 23, 27), ("truncated", 23, 27)}
    told = events(state.engine, event=DAMAGED)
    assert [(e["seq"], e["code"]) for e in told] == [(28, "truncated")]
    assert DAMAGED in (folder / "alerts.jsonl").read_text()


def test_a_damaged_log_is_an_alert_in_the_review_queue(state: State) -> None:
    _killed(state, audit_folder(state.folder))
    _do(state, "DELETE FROM audit_event WHERE seq > 22")
    Audit(state).close()
    items = [item for item in queue(state.engine, days(state.engine)) if item.id.startswith("A")]
    assert [item.id for item in items] == ["A28"]
    assert items[0].says.startswith("audit-damaged: The log had been cut off")


def test_a_log_that_was_emptied_goes_on_beyond_its_signed_end(state: State) -> None:
    folder = audit_folder(state.folder)
    _killed(state, folder)
    _do(state, "DELETE FROM audit_event")
    _go_on(state)
    assert _told(state, folder) == {("missing", 1, 27), ("truncated", 1, 27)}


def test_another_event_at_the_signed_end_is_told_when_a_broker_went_on(state: State) -> None:
    folder = audit_folder(state.folder)
    _killed(state, folder)
    _do(state, "UPDATE audit_event SET link = seal WHERE seq = 27")
    assert ("changed", 27, 27) in _told(state, folder)
    _go_on(state)
    assert [e["code"] for e in events(state.engine, event=DAMAGED)] == ["changed"]


def test_a_kill_between_an_event_and_its_head_or_between_a_checkpoint_and_its_key_is_no_damage(
    state: State,
) -> None:
    folder = audit_folder(state.folder)
    audit = Audit(state, events_per_checkpoint=1_000)
    audit.record("admitted", user="ana")
    before = {path: path.read_bytes() for path in _files(state, folder) if path.exists()}
    audit.record("ended", user="ana")
    at_the_end = (folder / "head").read_bytes()
    audit.close()
    checkpoints = (folder / "checkpoints.jsonl").read_bytes()
    # The head is one event behind; the checkpoint is not there yet.
    (folder / "checkpoints.jsonl").unlink()
    for path, content in before.items():
        path.write_bytes(content)
    assert _told(state, folder) == set()
    # The checkpoint is there, the key is the former.
    (folder / "head").write_bytes(at_the_end)
    (folder / "checkpoints.jsonl").write_bytes(checkpoints)
    assert _told(state, folder) == set()
    _go_on(state)
    assert _told(state, folder) == set()
    assert events(state.engine, event=DAMAGED) == []


@pytest.mark.parametrize("gone", [("head",), ("checkpoints.jsonl",), ("head", "checkpoints.jsonl")])
@pytest.mark.parametrize("cut", [None, 3, 0])
def test_a_proof_that_is_gone_is_told_with_and_without_a_cut_and_for_ever(
    state: State, gone: tuple[str, ...], cut: int | None
) -> None:
    folder = audit_folder(state.folder)
    _killed(state, folder)
    for name in gone:
        (folder / name).unlink()
    if cut is not None:
        _do(state, f"DELETE FROM audit_event WHERE seq > {cut}")
    assert "checkpoint" in {kind for kind, _, _ in _told(state, folder)}
    _go_on(state)
    _go_on(state)
    assert "checkpoint" in {kind for kind, _, _ in _told(state, folder)}


def test_an_older_head_that_was_put_back_is_told_once_a_checkpoint_came_after_it(state: State) -> None:
    folder = audit_folder(state.folder)
    audit = Audit(state, events_per_checkpoint=1_000)
    audit.record("admitted")
    old = (folder / "head").read_bytes()
    audit.record("admitted")
    audit.close()
    (folder / "head").write_bytes(old)
    assert _told(state, folder) == {("checkpoint", 1, 1)}
    _go_on(state)
    assert {kind for kind, _, _ in _told(state, folder)} == {"checkpoint"}


def test_a_forged_head_moves_no_number_and_is_told(state: State) -> None:
    folder = audit_folder(state.folder)
    _killed(state, folder)
    head = json.loads((folder / "head").read_text()) | {"seq": 9_000}
    (folder / "head").write_text(json.dumps(head))
    _go_on(state)
    assert events(state.engine, event=DAMAGED)[0]["seq"] == 28
    assert {kind for kind, _, _ in _told(state, folder)} == {"checkpoint"}


def test_a_deletion_that_was_hidden_by_new_numbers_is_told_as_missing_in_few_lines(state: State) -> None:
    folder = _filled(state, count=300, every=20)
    with state.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM audit_event WHERE seq = 50"))
        for seq in range(51, 301):
            connection.execute(sa.text(f"UPDATE audit_event SET seq = {seq - 1} WHERE seq = {seq}"))
    found = verify(state.engine, folder)
    assert found == [
        Finding("reordered", 50, 299, "These events were written as numbers 51 to 300."),
        Finding("missing", 50, 50, "The event of this number is gone; another stands there."),
    ]


def test_a_run_of_changed_events_is_one_finding(state: State) -> None:
    folder = _filled(state)
    _do(state, "UPDATE audit_event SET user = 'bob' WHERE seq BETWEEN 5 AND 20")
    assert _told(state, folder) == {("changed", 5, 20)}


def test_nothing_is_served_when_the_auditors_folder_is_gone_and_none_is_made_in_its_place(
    state: State,
) -> None:
    folder = _filled(state)
    shutil.rmtree(folder)
    with pytest.raises(SecondPlaceLost, match="WORKBENCH_AUDIT") as told:
        Audit(state)
    assert not folder.exists()
    assert "copy" in str(told.value.hint)
    assert str(folder) not in f"{told.value} {told.value.hint}"


def test_an_auditors_folder_that_is_removed_under_a_running_broker_ends_its_service(state: State) -> None:
    audit = Audit(state)
    audit.record("admitted")
    shutil.rmtree(audit_folder(state.folder))
    with pytest.raises(AuditUnavailable):
        audit.record("admitted")
    audit.close()


@pytest.mark.parametrize("broken", ["a file", "head", "checkpoints.jsonl", "verify.key"])
def test_a_second_place_that_cannot_be_used_is_refused_by_the_name_of_its_setting(
    state: State, broken: str
) -> None:
    folder = _filled(state)
    if broken == "a file":
        shutil.rmtree(folder)
        folder.write_text("")
    else:
        (folder / broken).unlink()
        (folder / broken).mkdir()
    with pytest.raises(SecondPlaceLost, match="WORKBENCH_AUDIT") as told:
        Audit(state)
    assert str(folder) not in f"{told.value} {told.value.hint}"
    assert told.value.__suppress_context__ or told.value.__context__ is None


def test_a_key_that_is_gone_from_the_state_replaces_no_key_of_the_auditors(state: State) -> None:
    folder = _filled(state)
    (state.folder / "audit.key").unlink()
    before = (folder / "verify.key").read_bytes()
    with pytest.raises(SecondPlaceLost):
        Audit(state)
    assert (folder / "verify.key").read_bytes() == before
    with sqlite3.connect(state.folder.parent / "broker.sqlite") as connection:
        connection.execute("DELETE FROM audit_event")
    connection.close()
    with pytest.raises(SecondPlaceLost):
        Audit(state)


@pytest.mark.parametrize("ended", ["killed", "closed"])
@pytest.mark.parametrize("checkpoints", ["gone", "empty lines"])
def test_a_signed_head_holds_the_end_of_the_log_when_the_checkpoints_are_gone(
    state: State, ended: str, checkpoints: str
) -> None:
    folder = audit_folder(state.folder)
    _killed(state, folder, count=8, every=3)
    if ended == "closed":
        Audit(state).close()
        _go_on(state)
    end = len(events(state.engine))
    _do(state, f"DELETE FROM audit_event WHERE seq = {end}")
    if checkpoints == "gone":
        (folder / "checkpoints.jsonl").unlink()
    else:
        (folder / "checkpoints.jsonl").write_text("\n\n")
    audit = Audit(state)
    assert audit.record("admitted") > end + 1
    audit.close()
    assert {e["code"] for e in events(state.engine, event=DAMAGED)} == {"checkpoint", "truncated"}
    assert {("missing", end, end), ("truncated", end, end)} <= _told(state, folder)


def test_an_auditors_folder_that_is_moved_or_replaced_under_a_running_broker_ends_its_service(
    state: State,
) -> None:
    folder = audit_folder(state.folder)
    away = folder.with_name("away")
    audit = Audit(state)
    audit.record("admitted")
    folder.rename(away)
    with pytest.raises(AuditUnavailable):
        audit.record("admitted")
    shutil.copytree(away, folder)
    with pytest.raises(AuditUnavailable):
        audit.record("admitted")
    shutil.rmtree(folder)
    away.rename(folder)
    assert audit.record("admitted") == 2
    audit.close()
    assert _told(state, folder) == set()


def test_no_checkpoint_is_signed_into_a_folder_that_stands_in_the_place_of_the_auditors(
    state: State,
) -> None:
    folder = audit_folder(state.folder)
    audit = Audit(state)
    audit.record("admitted")
    shutil.copytree(folder, folder.with_name("copy"))
    folder.rename(folder.with_name("away"))
    folder.with_name("copy").rename(folder)
    key = (state.folder / "audit.key").read_bytes()
    audit.close()
    assert not (folder / "checkpoints.jsonl").exists()
    assert (state.folder / "audit.key").read_bytes() == key


@pytest.mark.parametrize(
    "line",
    ["{}", "7", "[]", "null", '{"epoch": "0", "seq": 1, "link": "", "at": "", "seal": ""}',
     '{"epoch": 0, "seq": Infinity, "link": "", "at": "", "seal": ""}',
     '{"epoch": 0, "seq": 1, "link": "", "at": "", "seal": "é"}'],
)  # fmt: skip
@pytest.mark.parametrize("instead", [False, True])
def test_a_line_among_the_checkpoints_that_is_none_is_told_by_the_verifier_and_stops_no_broker(
    state: State, line: str, instead: bool
) -> None:
    folder = _filled(state)
    path = folder / "checkpoints.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*(lines[:-1] if instead else lines), line]) + "\n", encoding="utf-8")
    says = [f.says for f in verify(state.engine, folder) if f.kind == "checkpoint"]
    assert "A line among the checkpoints is none." in says
    _go_on(state)
    assert "checkpoint" in {kind for kind, _, _ in _told(state, folder)}
    assert [e["code"] for e in events(state.engine, event=DAMAGED)] == ["checkpoint"] * instead


@pytest.mark.parametrize("field", [{"seq": "x"}, {"seq": 1e400}, {"epoch": None}, {"seal": "é"}])
def test_a_head_with_a_field_that_no_broker_writes_is_unreadable(
    state: State, field: dict[str, object]
) -> None:
    folder = _filled(state)
    head = json.loads((folder / "head").read_text()) | field
    (folder / "head").write_text(json.dumps(head))
    assert [f.says for f in verify(state.engine, folder)] == ["The log's head is gone or unreadable."]


def test_a_broker_that_cannot_write_what_is_wrong_leaves_the_proof_and_nothing_open(state: State) -> None:
    folder = audit_folder(state.folder)
    _killed(state, folder)
    _do(state, "DELETE FROM audit_event WHERE seq > 22")
    (folder / "checkpoints.jsonl").unlink()
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    _do(state, "CREATE TRIGGER full BEFORE INSERT ON audit_event BEGIN SELECT RAISE(ABORT, 'full'); END")
    with pytest.raises(AuditUnavailable):
        Audit(state)
    assert "audit" not in {thread.name for thread in threading.enumerate()}
    assert str(folder / "head") not in _open_files()
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    _do(state, "DROP TRIGGER full")
    Audit(state).close()
    told = [(e["seq"], e["code"]) for e in events(state.engine, event=DAMAGED)]
    assert told == [(28, "checkpoint"), (29, "truncated")]


def _open_files() -> set[str]:
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found.add(str(descriptor.readlink()))
        except OSError:
            continue
    return found
