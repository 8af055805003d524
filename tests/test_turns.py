"""Whose turn it is for a worker, and what ends the workers of a slice whose consent changed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from gate_slice import write_slice

from workbench.broker import pool as pool_module
from workbench.broker.pool import Busy, Lease, Mount, Pool, PoolLimits, WorkerLost

pytestmark = pytest.mark.sandbox
SLOW = (
    f"SELECT count(*) FROM {', '.join(f'diagnosis d{n}' for n in range(12))} "
    "WHERE d0.code || d1.code <> d2.code || d3.code"
)
"""Longer than any test."""
PATIENCE = 60.0


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Mount:
    folder = tmp_path_factory.mktemp("lake")
    for path in (folder, *folder.parents[:2]):
        path.chmod(0o755)
    return write_slice(folder / "slice")


def _run(work: Callable[[Pool], Awaitable[None]], workers: int, kept: int = 0) -> None:
    async def go() -> None:
        pool = Pool(PoolLimits(workers=workers, threads=1, memory_bytes=300 << 20, kept=kept))
        try:
            await work(pool)
        finally:
            await pool.close()

    asyncio.run(go())


async def _served(pool: Pool, mount: Mount, asked: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Who got the one worker, in order, when these (grant, user) came in this order while it was taken."""
    order: list[tuple[str, str]] = []
    first = await pool.lease(mount, "someone", asked[0][0])

    async def one(grant: str, user: str) -> None:
        lease = await pool.lease(mount, user, grant)
        order.append((grant, user))
        lease.close()

    waiting = [asyncio.create_task(one(*pair)) for pair in asked]
    await asyncio.sleep(0)
    first.close()
    await asyncio.gather(*waiting)
    return order


def test_a_flood_of_one_grant_does_not_starve_a_caller_of_another(mount: Mount) -> None:
    async def work(pool: Pool) -> None:
        flood = [("flood", user) for user in "abcde"]
        order = await _served(pool, mount, [*flood, ("other", "z"), ("third", "y")])
        assert order[:2] == [("other", "z"), ("third", "y")]
        assert order[2:] == flood, "among its own, who came first"

    _run(work, 1)


def test_more_users_find_their_worker_warm_than_may_work_at_once(mount: Mount) -> None:
    async def work(pool: Pool) -> None:
        async def pid_of(user: str) -> int:
            lease = await pool.lease(mount, user, "one")
            lease.close()
            return lease.process.pid

        first = [await pid_of(user) for user in "abcd"]
        assert [await pid_of(user) for user in "abcd"] == first
        fifth = await pid_of("e")
        assert fifth not in first
        assert [await pid_of(user) for user in "bcd"] == first[1:], "who was idle longest made room"
        leases = [await pool.lease(mount, user, f"g{user}") for user in "bc"]
        with pytest.raises(Busy):
            await pool.lease(mount, "d", "gd", wait=0.3)
        for lease in leases:
            lease.close()

    _run(work, workers=2, kept=4)


def test_within_a_grant_users_take_turns(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "STAY_SECONDS", 0.0)

    async def work(pool: Pool) -> None:
        order = await _served(pool, mount, [("one", "a"), ("one", "a"), ("one", "a"), ("one", "b")])
        assert order.index(("one", "b")) == 1

    _run(work, 1)


def test_a_new_worker_goes_on_with_its_user_for_a_moment_and_no_longer(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(pool: Pool) -> None:
        asked = [("one", "a"), ("one", "a"), ("two", "b"), ("two", "b")]
        monkeypatch.setattr(pool_module, "STAY_SECONDS", 3600.0)
        order = await _served(pool, mount, asked)
        assert [grant for grant, _ in order] == ["two", "two", "one", "one"]
        monkeypatch.setattr(pool_module, "STAY_SECONDS", 0.0)
        order = await _served(pool, mount, asked)
        assert [grant for grant, _ in order] == ["two", "one", "two", "one"]

    _run(work, 1)


def test_neither_a_user_nor_a_grant_ever_holds_the_last_worker(mount: Mount) -> None:
    async def work(pool: Pool) -> None:
        held = [await pool.lease(mount, user, "flood") for user in "ab"]
        with pytest.raises(Busy) as caught:
            await pool.lease(mount, "c", "flood", wait=0.2)
        assert caught.value.http_status == 429 and caught.value.retry_after > 0
        held.append(await pool.lease(mount, "z", "other", wait=PATIENCE))
        for lease in held:
            lease.close()

    _run(work, 3)


def test_busy_says_which_limit_was_met_and_comes_again_when_what_runs_may_have_ended(mount: Mount) -> None:
    async def busy(pool: Pool, user: str, grant: str, concurrent: int = 9) -> Busy:
        with pytest.raises(Busy) as caught:
            await pool.lease(mount, user, grant, concurrent=concurrent, wait=0.2)
        return caught.value

    async def work(pool: Pool) -> None:
        one = await pool.lease(mount, "a", "one", concurrent=1, seconds=20)
        own = await busy(pool, "b", "one", concurrent=1)
        assert (
            own.reason == "The holders of grant one run as many queries as the grant allows at once: 1 of 1."
        )
        one._began -= 11
        assert (await busy(pool, "b", "one", concurrent=1)).retry_after == 11, "as long as it has run"
        one._began -= 1000
        assert (await busy(pool, "b", "one", concurrent=1)).retry_after == 20, "but no longer than it may"
        two = await pool.lease(mount, "a", "two", seconds=20)
        user = await busy(pool, "a", "three")
        assert user.reason == "You run as many queries as one user may at once: 2 of 2."
        assert user.retry_after == pool_module.SOONEST, "the newest query may end soon"
        three = await pool.lease(mount, "c", "three", wait=PATIENCE)
        everyone = await busy(pool, "d", "four")
        assert everyone.reason == "All 3 workers are busy."
        assert f"{everyone.retry_after} seconds" in everyone.hint
        one.close()
        four = await pool.lease(mount, "d", "three", wait=PATIENCE)
        share = await busy(pool, "e", "three")
        assert (
            share.reason
            == "The holders of grant three run as many queries as one grant may have at once: 2 of 2."
        )
        for lease in (two, three, four):
            lease.close()

    _run(work, 3)


def test_a_caller_who_goes_away_while_she_waits_leaves_the_queue(mount: Mount) -> None:
    async def work(pool: Pool) -> None:
        held = await pool.lease(mount, "a", "one")
        waiting = [asyncio.create_task(pool.lease(mount, "b", "two")) for _ in range(20)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        mine = asyncio.create_task(pool.lease(mount, "c", "three", wait=PATIENCE))
        await asyncio.sleep(0)
        held.close()
        (await mine).close()
        assert not pool.pids()["busy"]

    _run(work, 1)


def test_a_worker_that_was_warming_while_its_slice_was_cut_is_not_kept(mount: Mount) -> None:
    async def work(pool: Pool) -> None:
        pool.warm(mount, "a")
        await asyncio.sleep(0)
        pool.cut(mount.slice_id)
        while pool._warming:
            await asyncio.sleep(0.02)
        assert not pool.pids()["idle"]

    _run(work, 2)


async def _all(lease: Lease, sql: str) -> bytes:
    return b"".join([piece async for piece in lease.query(sql)])


def test_a_cut_ends_the_answers_of_that_slice_at_once_and_no_others(mount: Mount, tmp_path: Path) -> None:
    other = Mount("another-slice", mount.folder, "query", mount.tables)

    async def work(pool: Pool) -> None:
        old, kept = await pool.lease(mount, "a", "one"), await pool.lease(other, "b", "two")
        idle = await pool.lease(mount, "c", "one")
        await _all(idle, "SELECT 1")
        idle.close()
        running = asyncio.create_task(_all(old, SLOW))
        await asyncio.sleep(0.3)
        asked = asyncio.get_running_loop().time() - 1
        pool.cut(mount.slice_id, "consent-changed")
        with pytest.raises(WorkerLost) as caught:
            await asyncio.wait_for(running, PATIENCE)
        assert caught.value.code == "consent-changed"
        assert pool.pids()["idle"] == []
        assert await _all(kept, "SELECT 1")
        with pytest.raises(WorkerLost, match="consent"):
            await pool.lease(mount, "d", "one", asked=asked)
        for lease in (old, kept):
            lease.close()

    _run(work, 4)


def test_who_waits_for_a_worker_of_a_slice_that_is_cut_is_told_so(mount: Mount) -> None:
    async def work(pool: Pool) -> None:
        held = await pool.lease(mount, "a", "one")
        waiting = asyncio.create_task(pool.lease(mount, "b", "two"))
        await asyncio.sleep(0)
        pool.cut(mount.slice_id, "consent-changed")
        held.close()
        with pytest.raises(WorkerLost) as caught:
            await asyncio.wait_for(waiting, PATIENCE)
        assert caught.value.code == "consent-changed"
        later = await pool.lease(mount, "b", "two")
        with contextlib.closing(later):
            assert await _all(later, "SELECT 1"), "who asks afterwards, with the slice of now, is served"

    _run(work, 1)
