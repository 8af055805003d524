"""Promises of member-bucketed parts: a changed consent rewrites its bucket, the rest is the same file; budget; eviction."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import threading
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import slice_world as world
import tiny_release
from slice_world import A, C, F, column, grant

from workbench.broker import buckets, shelf
from workbench.broker.budget import BadBudget, budget, cost_table, to_evict
from workbench.broker.channels.record_build import ensure_record
from workbench.broker.consent import Consents, ConsentView, Decision
from workbench.broker.grants import Grant
from workbench.broker.published_slice import members_file, remove, used
from workbench.broker.slices import Slice, UnknownSlice, ensure, ensure_member, list_slices, open_slice
from workbench.broker.state import State
from workbench.broker.vault import Vault
from workbench.lake.release import Release
from workbench.schema import dictionary
from workbench.schema.sensitive import Category

BY_CONSENT: dict[str, Any] = {
    "sensitive": {"part2": "with_consent", "basis": "consent_tpo"},
    "recipient": {"id": world.SIERRA, "state": "CA"},
    "purposes": ["treatment"],
    "tables": [name for name in dictionary() if name not in ("measure_event", "risk_tier")],
}
"""Without members' results, which take longest and are tested where they are made."""


class World:
    """A release in three parts, one bucket each, and a register of consents."""

    def __init__(self, folder: Path):
        self.lake = folder / "lake"
        self.state = State(f"sqlite:///{folder / 'state.sqlite'}", folder / "state")
        self.vault = Vault(self.state)
        self.consents = Consents(self.state)
        self.release: Release = tiny_release.write(self.lake, world.tables(), cut_at=[C, F])

    def decide(self, member: str, revoked: bool = False) -> None:
        start = date(2025, 1, 1)
        self.consents.decide([Decision(member, world.SIERRA, "part2", "form 1", start, revoked=revoked)])

    def view(self) -> ConsentView:
        return self.consents.view(world.SIERRA, ["part2"])

    def slice(self, **changes: Any) -> Slice:
        return ensure(
            self.release, grant(**{**BY_CONSENT, **changes}), self.vault, self.lake, consents=self.view()
        )


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(buckets, "MEMBERS_PER_BUCKET", 1)
    found = World(tmp_path)
    yield found
    found.state.close()


def inodes(slice_: Slice) -> dict[str, int]:
    return {
        part.relative_to(slice_.path).as_posix(): part.stat().st_ino
        for part in slice_.path.rglob("*.parquet")
    }


def digests(slice_: Slice) -> dict[str, str]:
    files = [*slice_.path.rglob("*.parquet"), slice_.path / "manifest.json"]
    return {f.relative_to(slice_.path).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_parts_follow_the_releases_ranges_of_members(there: World) -> None:
    slice_ = there.slice()
    for name, entry in slice_.manifest["tables"].items():
        assert [account["part"] for account in entry["accounts"]] == entry["parts"], name
        if not dictionary()[name].has_member:
            assert len(entry["parts"]) == 1, name
            continue
        found = [set(pq.read_table(part)["member_id"].to_pylist()) for part in slice_.parts(name)]
        allowed = [{A}, {C}, {F}]
        assert [members - known for members, known in zip(found, allowed, strict=True)] == [set()] * 3, name


def test_neighbouring_parts_are_one_bucket_until_enough_members_are_in_it(
    there: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "MEMBERS_PER_BUCKET", 2)
    assert there.slice().manifest["buckets"] == 2  # A in the first two parts with C, then F
    monkeypatch.setattr(buckets, "MEMBERS_PER_BUCKET", 20_000)
    assert there.slice(tables=["member", "medical_claim"]).manifest["buckets"] == 1


def test_a_consent_shows_the_claim_and_its_revocation_hides_it_again(there: World) -> None:
    seen = "SELECT count(*) FROM medical_claim WHERE claim_id = '" + world.PART2 + "'"
    without = there.slice()
    there.decide(A)
    with_ = there.slice()
    there.decide(A, revoked=True)
    again = there.slice()
    assert [column(s, seen) for s in (without, with_, again)] == [[0], [1], [0]]
    assert without.id == again.id != with_.id
    assert with_.fitness["categories_removed"][-1] == "part2"


def test_a_changed_consent_rewrites_the_members_bucket_and_links_the_others(there: World) -> None:
    before = inodes(there.slice())
    there.decide(A)
    after = inodes(there.slice())
    assert before.keys() == after.keys()
    rewritten = {part for part in before if before[part] != after[part]}
    assert rewritten == {
        part
        for part in before
        if part.endswith("part-000.parquet") and dictionary()[part.split("/")[1]].has_member
    }


def test_a_slice_of_linked_parts_has_the_bytes_of_one_that_was_built_whole(there: World) -> None:
    there.slice()
    there.decide(A)
    there.decide(F)
    linked = digests(there.slice())
    shutil.rmtree(there.lake / "slices")
    assert digests(there.slice()) == linked


def test_a_decision_about_somebody_who_is_not_in_the_slice_rewrites_nothing(there: World) -> None:
    before = there.slice()
    there.decide("00000002B")
    after = there.slice()
    assert before.id != after.id
    assert inodes(before) == inodes(after)


def test_a_linked_part_stays_when_the_slice_before_is_gone(there: World) -> None:
    before = there.slice()
    there.decide(A)
    after = there.slice()
    remove(there.lake, before.id)
    assert sorted(set(column(after, "SELECT member_id FROM member"))) == [A, C, F]


def test_the_list_of_members_stands_outside_the_slice_and_outlives_it(there: World) -> None:
    slice_ = there.slice()
    listed = members_file(there.lake, slice_.id)
    assert slice_.path not in listed.parents
    assert pq.read_table(listed)["member_id"].to_pylist() == [A, C, F]
    remove(there.lake, slice_.id)
    assert pq.read_table(listed)["member_id"].to_pylist() == [A, C, F]
    limited = ensure(there.release, grant(**world.LIMITED), there.vault, there.lake)
    assert pq.read_table(members_file(there.lake, limited.id))["member_id"].to_pylist() == [A, C, F]


def test_what_is_made_from_a_slice_has_its_members(there: World) -> None:
    plan = grant(**BY_CONSENT)
    record = ensure_record(there.release, plan, there.vault, there.lake, consents=there.view())
    listed = members_file(there.lake, record.id)
    assert pq.read_table(listed)["member_id"].to_pylist() == [A, C, F]
    assert listed.samefile(members_file(there.lake, record.manifest["slice"]))


def test_no_more_slices_are_built_at_once_than_the_machine_can_take(
    there: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: set[str] = set()
    together = threading.Barrier(shelf.BUILDS_AT_ONCE)
    most = 0

    def make(release: Release, one: Grant, *_: Any, **__: Any) -> Slice:
        nonlocal most
        running.add(one.policy_digest)
        most = max(most, len(running))
        together.wait(60)
        running.remove(one.policy_digest)
        return Slice("0" * 24, tmp_path, {"tables": {}})

    async def recorded(*_: Any, **__: Any) -> None: ...

    async def all_at_once() -> None:
        slices = shelf.Shelf(there.lake, there.vault, recorded)
        grants = [grant(**BY_CONSENT | {"tables": [name]}) for name in BY_CONSENT["tables"][:6]]
        await asyncio.gather(*(slices.take(there.release, one, "slice", wait=True) for one in grants))

    monkeypatch.setitem(shelf.MAKERS, "slice", make)
    asyncio.run(all_at_once())
    assert most == shelf.BUILDS_AT_ONCE


def test_an_evicted_slice_is_gone_at_once_and_can_be_built_again(there: World) -> None:
    slice_ = there.slice()
    was = digests(slice_)
    remove(there.lake, slice_.id)
    with pytest.raises(UnknownSlice):
        open_slice(there.lake, slice_.id)
    assert list_slices(there.lake) == []
    assert digests(there.slice()) == was


def test_the_cost_table_counts_rows_bytes_and_what_an_eviction_gives_back(there: World) -> None:
    there.slice()
    there.decide(A)
    there.slice()
    first, second = cost_table(there.lake)
    assert first.rows == sum(e["rows"] for e in first.slice.manifest["tables"].values())
    assert 0 < first.own_bytes < first.bytes
    assert first.build_seconds > 0
    assert second.rebuild_seconds >= first.build_seconds  # what a whole build takes, not a linked one


def test_evicted_first_is_what_has_been_idle_longest_for_what_it_costs(there: World) -> None:
    ids = [there.slice(tables=[name]).id for name in ("member", "eligibility", "medical_claim")]
    entries = {e.slice.id: e for e in cost_table(there.lake)}
    total = sum(e.own_bytes for e in entries.values())

    def with_(id: str, idle: float, cost: float) -> Any:
        entry = entries[id]
        return type(entry)(entry.slice, entry.rows, 100, 100, 1_000_000 - idle, cost, cost)

    table = [with_(ids[0], 100, 100), with_(ids[1], 50, 1), with_(ids[2], 10, 1)]
    assert total > 0
    assert to_evict(table, 300, (), 1_000_000) == []
    assert to_evict(table, 200, (), 1_000_000) == [ids[1]]
    assert to_evict(table, 0, (), 1_000_000) == [ids[1], ids[2], ids[0]]
    assert to_evict(table, 100, {ids[1]}, 1_000_000) == [ids[2], ids[0]]


def test_a_use_is_noted_and_a_budget_that_is_no_number_is_refused(
    there: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    slice_ = there.slice()
    before = cost_table(there.lake)[0].last_used
    used(there.lake, slice_.id)
    assert cost_table(there.lake)[0].last_used >= before
    monkeypatch.setenv("WORKBENCH_SLICE_BUDGET", "1e9")
    with pytest.raises(BadBudget):
        budget()


def test_break_glass_gets_one_member_of_anybody_with_the_named_categories_only(
    there: World, tmp_path: Path
) -> None:
    plan = grant(**BY_CONSENT, break_glass=True)
    without = ensure_member(there.release, plan, A, frozenset(), tmp_path / "glass")
    with_ = ensure_member(there.release, plan, A, frozenset({Category.PART2}), tmp_path / "glass")
    other = ensure_member(there.release, plan, "00000004D", frozenset(), tmp_path / "glass")
    for slice_, member in ((without, A), (with_, A), (other, "00000004D")):
        for name, entry in slice_.manifest["tables"].items():
            if dictionary()[name].has_member and entry["rows"]:
                assert set(column(slice_, f"SELECT member_id FROM {name}")) == {member}, name
    seen = f"SELECT count(*) FROM medical_claim WHERE claim_id = '{world.PART2}'"
    assert column(without, seen) == [0]
    assert column(with_, seen) == [1]
    assert column(other, "SELECT count(*) FROM medical_claim") == [6]
    assert list_slices(there.lake) == []
    assert (with_.path.parent, with_.manifest["kind"]) == (tmp_path / "glass", "member")
