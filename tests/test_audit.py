"""The audit log: nothing unrecorded is served, and what was done to the log can be told."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.broker.audit import SAID, Audit, AuditUnavailable, audit_event, audit_folder, events, verify
from workbench.broker.audit_chain import keyed_hash, seal_of
from workbench.broker.state import State
from workbench.cli.audit import audit as audit_command


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(f"sqlite:///{tmp_path / 'broker.sqlite'}", tmp_path / "state")
    yield state
    state.close()


def _filled(state: State, count: int = 30, every: int = 10) -> Path:
    audit = Audit(state, events_per_checkpoint=every)
    for number in range(count):
        audit.record(
            "admitted",
            user="ana",
            grant="demo-analyst",
            statement=f"select {number}",
            rows=number,
            tables=["member"],
            ms=1.5,
        )
    audit.close()
    return audit_folder(state.folder)


def _kinds(state: State, folder: Path) -> set[str]:
    return {finding.kind for finding in verify(state.engine, folder)}


def _do(state: State, sql: str) -> None:
    with state.engine.begin() as connection:
        connection.execute(sa.text(sql))


def test_an_untouched_log_verifies_over_checkpoints_and_restarts(state: State) -> None:
    folder = _filled(state)
    audit = Audit(state)
    audit.record("ended", user="rui", rows=3)
    audit.close()
    assert verify(state.engine, folder) == []
    assert len((folder / "checkpoints.jsonl").read_text().splitlines()) >= 3


@pytest.mark.parametrize("column", [*SAID, "epoch"])
def test_a_change_to_any_column_is_told_as_changed(state: State, column: str) -> None:
    folder = _filled(state)
    value = "7" if column in ("rows", "bytes", "ms", "members") else "1" if column == "epoch" else "'forged'"
    _do(state, f'UPDATE audit_event SET "{column}" = {value} WHERE seq = 25')
    assert [(f.kind, f.first) for f in verify(state.engine, folder) if f.kind == "changed"] == [
        ("changed", 25)
    ]


def test_a_changed_time_is_told_as_restamped(state: State) -> None:
    folder = _filled(state)
    _do(state, "UPDATE audit_event SET at = '2020-01-01T00:00:00.000000+00:00' WHERE seq = 7")
    assert [(f.kind, f.first) for f in verify(state.engine, folder)] == [("restamped", 7)]


def test_a_deleted_event_is_told_as_missing(state: State) -> None:
    folder = _filled(state)
    _do(state, "DELETE FROM audit_event WHERE seq IN (4, 5)")
    assert [(f.kind, f.first, f.last) for f in verify(state.engine, folder)] == [("missing", 4, 5)]


def test_swapped_events_are_told_as_reordered(state: State) -> None:
    folder = _filled(state)
    _do(state, "UPDATE audit_event SET seq = -1 WHERE seq = 3")
    _do(state, "UPDATE audit_event SET seq = 3 WHERE seq = 8")
    _do(state, "UPDATE audit_event SET seq = 8 WHERE seq = -1")
    found = {(f.kind, f.first, f.last) for f in verify(state.engine, folder)}
    assert {("reordered", 3, 8), ("reordered", 8, 3)} <= found


def test_a_cut_off_end_is_told_as_truncated(state: State) -> None:
    folder = _filled(state)
    _do(state, "DELETE FROM audit_event WHERE seq > 26")
    assert [(f.kind, f.first, f.last) for f in verify(state.engine, folder)] == [("truncated", 27, 30)]
    _do(state, "DELETE FROM audit_event")
    assert _kinds(state, folder) == {"truncated"}


def test_a_cut_that_takes_the_unsigned_head_along_is_still_told(state: State) -> None:
    folder = _filled(state, count=33, every=10)
    _do(state, "DELETE FROM audit_event WHERE seq > 5")
    (folder / "head").unlink()
    assert "truncated" in _kinds(state, folder)


def test_a_forged_event_at_the_end_and_a_forged_checkpoint_are_told(state: State) -> None:
    folder = _filled(state)
    _do(
        state,
        'INSERT INTO audit_event (seq, at, event, query_id, user, "grant", purpose, channel, server, release, slice, statement, tables, columns, rows, bytes, ms, outcome, code, reason, detail, epoch, seal, stamp, link) SELECT 31, at, event, query_id, user, "grant", purpose, channel, server, release, slice, statement, tables, columns, rows, bytes, ms, outcome, code, reason, detail, epoch, seal, stamp, link FROM audit_event WHERE seq = 30',
    )
    assert "changed" in _kinds(state, folder) or "reordered" in _kinds(state, folder)
    lines = (folder / "checkpoints.jsonl").read_text().splitlines()
    forged = json.loads(lines[0]) | {"seq": 9}
    (folder / "checkpoints.jsonl").write_text("\n".join([json.dumps(forged), *lines[1:]]) + "\n")
    assert "checkpoint" in _kinds(state, folder)


def test_who_holds_todays_key_cannot_rewrite_yesterday(state: State) -> None:
    folder = _filled(state)
    present = json.loads((state.folder / "audit.key").read_text())
    assert present["epoch"] >= 3 and present["key"] != json.loads((folder / "verify.key").read_text())["key"]
    for file in (state.folder / "audit.key", folder / "verify.key"):
        assert file.stat().st_mode & 0o777 == 0o600
    key = bytes.fromhex(present["key"])
    with state.engine.begin() as connection:
        rows = [
            dict(row._mapping)
            for row in connection.execute(sa.select(audit_event).order_by(audit_event.c.seq))
        ]
        link = rows[2]["link"]
        for row in rows[3:]:
            row |= {"rows": 0} if row["seq"] == 4 else {}
            row["seal"] = seal_of(key, row)
            row["stamp"] = keyed_hash(key, row["seal"], row["at"])
            link = row["link"] = keyed_hash(key, link, row["stamp"])
            connection.execute(sa.update(audit_event).where(audit_event.c.seq == row["seq"]).values(**row))
    assert {"changed"} <= {finding.kind for finding in verify(state.engine, folder) if finding.first == 4}


@pytest.mark.parametrize(
    "fault",
    [
        "DROP TABLE audit_event",
        "CREATE TRIGGER full BEFORE INSERT ON audit_event BEGIN SELECT RAISE(ABORT, 'disk full'); END",
    ],
)
def test_an_event_that_cannot_be_written_is_an_error_for_who_waits(state: State, fault: str) -> None:
    audit = Audit(state)
    audit.record("admitted", user="ana")
    _do(state, fault)
    with pytest.raises(AuditUnavailable):
        audit.record("admitted", user="ana")
    if fault.startswith("CREATE TRIGGER"):
        _do(state, "DROP TRIGGER full")
        audit.record("admitted", user="ana")
        audit.close()
        assert verify(state.engine, audit_folder(state.folder)) == []
    else:
        audit.close()


def test_many_writers_make_one_chain(state: State) -> None:
    audit = Audit(state, events_per_checkpoint=25)
    threads = [
        threading.Thread(target=lambda: [audit.record("ended", rows=n) for n in range(20)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    audit.close()
    assert verify(state.engine, audit_folder(state.folder)) == []
    assert len(events(state.engine)) == 160


def test_a_process_killed_while_it_writes_leaves_a_log_that_verifies(tmp_path: Path) -> None:
    code = f"""
import pathlib
from workbench.broker.audit import Audit
from workbench.broker.audit_chain import keyed_hash, seal_of
from workbench.broker.state import State
audit = Audit(State('sqlite:///{tmp_path / "b.sqlite"}', pathlib.Path('{tmp_path / "state"}')), events_per_checkpoint=3)
n = 0
while True:
    audit.record('admitted', rows=n)
    n += 1
    print(n, flush=True)
"""
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            durable = [int(writer.stdout.readline()) for _ in range(17)][-1]
            writer.kill()
    state = State(f"sqlite:///{tmp_path / 'b.sqlite'}", tmp_path / "state")
    try:
        assert verify(state.engine, audit_folder(state.folder)) == []
        assert len(events(state.engine)) >= 3 * durable
    finally:
        state.close()


def test_a_literal_is_kept_as_a_keyed_hash_that_stays_the_same(state: State, tmp_path: Path) -> None:
    audit = Audit(state)
    mark = audit.mark("00000001A")
    audit.close()
    again = Audit(state)
    assert again.mark("00000001A") == mark != again.mark("00000001B") and "00000001A" not in mark
    again.close()
    assert (state.folder / "literals.key").stat().st_mode & 0o777 == 0o600
    other = State("sqlite://", tmp_path / "elsewhere")
    stranger = Audit(other)
    assert stranger.mark("00000001A") != mark
    stranger.close()
    other.close()


def test_events_are_found_by_user_grant_and_time(state: State) -> None:
    audit = Audit(state)
    audit.record("admitted", user="ana", grant="a", tables=["member"], columns=["member.sex"])
    audit.record("admitted", user="rui", grant="b")
    audit.close()
    assert [e["user"] for e in events(state.engine, user="rui")] == ["rui"]
    assert [e["columns"] for e in events(state.engine, grant="a")] == [["member.sex"]]
    assert events(state.engine, since="2999") == [] and len(events(state.engine, since="2000")) == 2
    assert "seal" not in events(state.engine)[0]


@settings(max_examples=12, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 20), st.sampled_from(["delete", "user", "rows", "at"])),
        min_size=1,
        max_size=4,
    )
)
def test_no_mix_of_edits_goes_unseen(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, str]]
) -> None:
    folder = tmp_path_factory.mktemp("audit")
    state = State(f"sqlite:///{folder / 'b.sqlite'}", folder / "state")
    try:
        second = _filled(state, count=20, every=6)
        for seq, what in edits:
            if what == "delete":
                _do(state, f"DELETE FROM audit_event WHERE seq = {seq}")
            else:
                _do(
                    state,
                    f"UPDATE audit_event SET {what} = {'999' if what == 'rows' else repr('x')} WHERE seq = {seq}",
                )
        found = verify(state.engine, second)
        for seq, _ in edits:
            assert any(finding.first <= seq <= finding.last for finding in found)
    finally:
        state.close()


def test_the_table_has_every_column_that_an_event_may_say() -> None:
    assert set(SAID) | {"seq", "at", "epoch", "seal", "stamp", "link"} == set(audit_event.c.keys())


@pytest.mark.parametrize("wrong", [("--since", "yesterday"), ("--limit", "0"), ("--limit", "-5")])
def test_a_beginning_or_a_number_that_cannot_be_is_refused_and_not_answered_with_nothing(
    wrong: tuple[str, str],
) -> None:
    said = CliRunner().invoke(audit_command, ["show", *wrong])
    assert said.exit_code == 2
    assert wrong[1] in said.output
