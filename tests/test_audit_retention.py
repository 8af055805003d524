"""Retention and exports: what is old enough may go, nothing younger does, and the rest still verifies."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from workbench.broker import audit_prune
from workbench.broker.audit import Audit, audit_event, verify
from workbench.broker.audit_chain import PRUNED, keyed_hash, seal_of
from workbench.broker.audit_export import NoExport, export, rows_of
from workbench.broker.audit_marks import list_path
from workbench.broker.audit_prune import NotPruned, RetentionTooShort, plan, prune
from workbench.broker.audit_verify import verify_rows
from workbench.broker.auditing import Auditing
from workbench.broker.published_slice import members_file
from workbench.broker.state import State

NOW = datetime.now(UTC)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(f"sqlite:///{tmp_path / 'broker.sqlite'}", tmp_path / "state")
    yield state
    state.close()


def _years_ago(years: float) -> datetime:
    return NOW - timedelta(days=365.25 * years)


def _log(state: State) -> Path:
    """Twelve events of seven years ago, ten of five years ago, four of today; a checkpoint after each ten."""
    for years, count in ((7.0, 12), (5.0, 10), (0.0, 4)):
        at = _years_ago(years)
        audit = Audit(state, events_per_checkpoint=10, clock=lambda at=at: at)
        for number in range(count):
            reference = audit.returned([f"{years} {number}"], False)
            audit.record("ended", user="ana", grant="g", rows=number, members=1, returned=reference)
        audit.close()
    return audit.folder


def _seqs(state: State) -> list[int]:
    with state.engine.connect() as connection:
        return list(connection.scalars(sa.select(audit_event.c.seq).order_by(audit_event.c.seq)))


def _pruned(state: State, **how: bool) -> audit_prune.Pruning:
    audit = Audit(state)
    try:
        return prune(audit, state.engine, state.folder.parent / "lake", user="operator:root", **how)
    finally:
        audit.close()


def test_a_pruning_takes_what_is_older_than_six_years_and_nothing_younger(state: State) -> None:
    folder = _log(state)
    found = _pruned(state)
    assert (found.through, found.events) == (12, 12)
    assert _seqs(state) == list(range(13, 28))
    with state.engine.connect() as connection:
        oldest = connection.scalar(sa.select(sa.func.min(audit_event.c.at)))
        event = connection.execute(sa.select(audit_event).where(audit_event.c.event == PRUNED)).one()
    assert datetime.fromisoformat(oldest) > _years_ago(6)
    assert (event.user, event.rows, json.loads(event.detail)["through"]) == ("operator:root", 12, 12)
    assert verify(state.engine, folder) == []


def test_what_was_pruned_is_archived_and_still_proves_itself(state: State) -> None:
    folder = _log(state)
    archive = _pruned(state).archive
    assert archive is not None and archive.stat().st_mode & 0o777 == 0o600
    rows = rows_of(archive)
    assert [row["seq"] for row in rows] == list(range(1, 13))
    assert verify_rows(rows, folder) == []
    rows[4]["user"] = "somebody"
    assert [(f.kind, f.first) for f in verify_rows(rows, folder)] == [("changed", 5)]


def test_a_pruning_without_archive_forgets_the_lists_of_the_events_that_went(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _log(state)
    monkeypatch.setattr(audit_prune, "LIST_SECONDS", -1)
    with state.engine.connect() as connection:
        references = connection.execute(sa.select(audit_event.c.seq, audit_event.c.returned)).all()
    _pruned(state, archive=False)
    assert not (folder / "archive").exists()
    there = {seq for seq, reference in references if list_path(folder, reference).exists()}  # type: ignore[union-attr]
    assert there == set(range(13, 27))
    assert verify(state.engine, folder) == []


def test_a_pruning_takes_the_lists_of_slices_that_are_gone_and_that_no_event_left_names(
    state: State, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    lists = {}
    for name in ("named-by-old-events", "named-still", "there", "never-named", "being-built"):
        id = hashlib.sha256(name.encode()).hexdigest()[:24]
        lists[name] = members_file(lake, id)
        lists[name].parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"member_id": ["90000001A"]}), lists[name])
        if name != "being-built":
            os.utime(lists[name], (_years_ago(7).timestamp(),) * 2)
    (lake / "slices" / lists["there"].stem).mkdir()
    for years, names in ((7.0, ["named-by-old-events", "named-still", "there"]), (5.0, ["named-still"])):
        audit = Audit(state, clock=lambda years=years: _years_ago(years))
        for name in names:
            audit.record("admitted", user="ana", grant="g", slice=lists[name].stem)
        audit.close()
    planned = plan(state.engine, audit.folder, lake)
    assert planned is not None and (planned.through, planned.slice_lists) == (3, 2)
    assert all(path.exists() for path in lists.values())
    assert _pruned(state).slice_lists == 2
    assert {name for name, path in lists.items() if path.exists()} == {"named-still", "there", "being-built"}
    with state.engine.connect() as connection:
        detail = connection.scalar(sa.select(audit_event.c.detail).where(audit_event.c.event == PRUNED))
    assert json.loads(detail)["slice_lists"] == 2
    assert verify(state.engine, audit.folder) == []


@pytest.mark.parametrize("cut", [5, 12, 14, 22])
def test_a_beginning_that_is_gone_without_a_pruning_is_told_as_missing(state: State, cut: int) -> None:
    folder = _log(state)
    with state.engine.begin() as connection:
        connection.execute(sa.delete(audit_event).where(audit_event.c.seq <= cut))
    assert [(f.kind, f.first, f.last) for f in verify(state.engine, folder)] == [("missing", 1, cut)]


def test_more_gone_than_was_pruned_is_told_as_missing(state: State) -> None:
    folder = _log(state)
    _pruned(state)
    with state.engine.begin() as connection:
        connection.execute(sa.delete(audit_event).where(audit_event.c.seq <= 15))
    assert [(f.kind, f.first, f.last) for f in verify(state.engine, folder)] == [("missing", 13, 15)]


def test_who_holds_todays_key_cannot_pass_a_deletion_of_younger_events_off_as_a_pruning(state: State) -> None:
    folder = _log(state)
    audit = Audit(state)
    audit.record(PRUNED, user="operator:root", rows=22, detail=json.dumps({"through": 22}))
    audit.close()
    with state.engine.begin() as connection:
        connection.execute(sa.delete(audit_event).where(audit_event.c.seq <= 22))
    assert [(f.kind, f.first, f.last) for f in verify(state.engine, folder)] == [("missing", 1, 22)]


def test_a_pruning_event_that_claims_a_later_day_makes_nothing_older(state: State) -> None:
    folder = _log(state)
    audit = Audit(state, clock=lambda: NOW + timedelta(days=3000))
    audit.record(PRUNED, user="operator:root", detail=json.dumps({"through": 22}))
    audit.close()
    with state.engine.begin() as connection:
        connection.execute(sa.delete(audit_event).where(audit_event.c.seq <= 22))
    assert ("missing", 1, 22) in [(f.kind, f.first, f.last) for f in verify(state.engine, folder)]


def test_a_forged_pruning_event_counts_for_nothing(state: State) -> None:
    folder = _log(state)
    present = json.loads((state.folder / "audit.key").read_text())
    wrong = bytes(32)
    with state.engine.begin() as connection:
        row = dict(connection.execute(sa.select(audit_event).where(audit_event.c.seq == 26)).one()._mapping)
        row |= {"event": PRUNED, "detail": json.dumps({"through": 12}), "epoch": present["epoch"]}
        row["seal"] = seal_of(wrong, row)
        row["stamp"] = keyed_hash(wrong, row["seal"], row["at"])
        connection.execute(sa.update(audit_event).where(audit_event.c.seq == 26).values(**row))
        connection.execute(sa.delete(audit_event).where(audit_event.c.seq <= 12))
    assert {(f.kind, f.first) for f in verify(state.engine, folder)} >= {("missing", 1), ("changed", 26)}


def test_a_pruning_that_died_in_the_middle_verifies_and_is_finished_by_the_next(state: State) -> None:
    folder = _log(state)
    audit = Audit(state)
    audit.record(PRUNED, user="operator:root", detail=json.dumps({"through": 12}))
    audit.close()
    assert verify(state.engine, folder) == []
    with state.engine.begin() as connection:
        connection.execute(sa.delete(audit_event).where(audit_event.c.seq <= 7))
    assert verify(state.engine, folder) == []
    with state.engine.begin() as connection:
        connection.execute(sa.delete(audit_event).where(audit_event.c.seq == 9))
    assert [(f.kind, f.first) for f in verify(state.engine, folder)] == [("missing", 9)]


def test_a_log_that_does_not_verify_is_not_pruned_and_a_young_one_neither(state: State) -> None:
    _log(state)
    with state.engine.begin() as connection:
        connection.execute(sa.text("UPDATE audit_event SET user = 'x' WHERE seq = 3"))
    with pytest.raises(NotPruned, match="does not verify"):
        _pruned(state)
    assert len(_seqs(state)) == 26
    with state.engine.begin() as connection:
        connection.execute(sa.text("UPDATE audit_event SET user = 'ana' WHERE seq = 3"))
    _pruned(state)
    with pytest.raises(NotPruned, match="older than 6 years"):
        _pruned(state)


def test_a_dry_run_promises_nothing_of_a_log_that_does_not_verify(state: State, tmp_path: Path) -> None:
    _log(state)
    audit = Audit(state)
    auditing = Auditing(audit, state.engine, tmp_path / "lake", state.folder)
    try:
        assert asyncio.run(auditing.prune("operator:root", archive=True, dry=True))["events"] == 12
        with state.engine.begin() as connection:
            connection.execute(sa.text("UPDATE audit_event SET user = 'x' WHERE seq = 3"))
        for dry in (True, False):
            with pytest.raises(NotPruned, match="does not verify"):
                asyncio.run(auditing.prune("operator:root", archive=True, dry=dry))
    finally:
        audit.close()


@pytest.mark.parametrize(("years", "through"), [("6", 12), ("8", None)])
def test_a_site_may_keep_its_log_longer(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, years: str, through: int | None
) -> None:
    folder = _log(state)
    monkeypatch.setenv("WORKBENCH_AUDIT_RETENTION_YEARS", years)
    found = plan(state.engine, folder, tmp_path)
    assert (found.through if found else None) == through


@pytest.mark.parametrize("years", ["5", "0", "-6", "six", ""])
def test_a_retention_below_six_years_is_refused(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, years: str
) -> None:
    monkeypatch.setenv("WORKBENCH_AUDIT_RETENTION_YEARS", years)
    with pytest.raises(RetentionTooShort):
        plan(state.engine, _log(state), tmp_path)


def test_an_export_holds_every_column_with_its_proof_and_both_formats_say_the_same(
    state: State, tmp_path: Path
) -> None:
    folder = _log(state)
    written = export(state.engine, tmp_path / "log.jsonl", "jsonl")
    export(state.engine, tmp_path / "log.parquet", "parquet")
    lines, table = rows_of(tmp_path / "log.jsonl"), rows_of(tmp_path / "log.parquet")
    assert lines == table and (written.events, written.first, written.last) == (26, 1, 26)
    assert set(pq.read_schema(tmp_path / "log.parquet").names) == set(audit_event.c.keys())
    assert verify_rows(table, folder) == []


def test_an_export_of_a_span_verifies_and_one_with_a_hole_does_not(state: State, tmp_path: Path) -> None:
    folder = _log(state)
    span = export(
        state.engine,
        tmp_path / "span.jsonl",
        "jsonl",
        since=_years_ago(6).isoformat(),
        until=_years_ago(1).isoformat(),
    )
    assert (span.first, span.last) == (13, 22)
    rows = rows_of(span.path)
    assert verify_rows(rows, folder) == []
    assert [(f.kind, f.first) for f in verify_rows([*rows[:3], *rows[4:]], folder)] == [("missing", 16)]


def test_a_file_that_is_no_export_is_said_to_be_none(tmp_path: Path) -> None:
    for content in ("", "{}\n", "not json\n"):
        (tmp_path / "x").write_text(content)
        if content:
            with pytest.raises(NoExport):
                rows_of(tmp_path / "x")
        else:
            assert rows_of(tmp_path / "x") == []
    with pytest.raises(NoExport):
        rows_of(tmp_path / "absent")
