"""Workers: locked, sandboxed, one slice each, replaced when they overrun, and none of them matters to another."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from gate_slice import TABLES, statements, write_slice

from workbench.broker import gate, process
from workbench.broker.frames import END_OF_STREAM
from workbench.broker.pool import Busy, Lease, Mount, Pool, PoolLimits, QueryFailed, WorkerLost

pytestmark = pytest.mark.sandbox
SECRET = "CANARY-0b6d"
SMALL = PoolLimits(workers=3, threads=1, memory_bytes=300 << 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lake")
    for path in (folder, *folder.parents[:2]):
        path.chmod(0o755)
    (folder / "other").mkdir()
    (folder / "other" / "secret.csv").write_text(f"a\n{SECRET}\n")
    return folder


@pytest.fixture(scope="module")
def mount(folder: Path) -> Mount:
    return write_slice(folder / "slice")


def _run(work: Callable[[Pool], Awaitable[None]], limits: PoolLimits = SMALL) -> None:
    async def go() -> None:
        pool = Pool(limits)
        try:
            await work(pool)
        finally:
            await pool.close()

    asyncio.run(go())


@contextlib.asynccontextmanager
async def _lease(
    pool: Pool, mount: Mount, user: str = "ana", grant: str = "g", **options: float
) -> AsyncIterator[Lease]:
    lease = await pool.lease(mount, user, grant, **options)  # type: ignore[arg-type]
    try:
        yield lease
    finally:
        lease.close()


async def _bytes(lease: Lease, sql: str) -> bytes:
    return b"".join([piece async for piece in lease.query(sql)])


async def _rows(lease: Lease, sql: str) -> list[tuple[object, ...]]:
    table = pa.ipc.open_stream(await _bytes(lease, sql)).read_all()
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def test_every_honest_statement_is_answered_as_bare_duckdb_answers_it(mount: Mount) -> None:
    async def work(pool: Pool) -> None:
        with duckdb.connect(config={"threads": 1}) as bare:
            bare.execute("SET TimeZone = 'UTC'")
            for table, parts in mount.tables.items():
                bare.execute(
                    f"CREATE VIEW \"{table}\" AS SELECT * FROM read_parquet('{mount.folder / parts[0]}')"
                )
            async with _lease(pool, mount) as lease:
                for sql in (sql for texts in statements("honest").values() for sql in texts):
                    found = await _bytes(lease, gate.admit(sql, TABLES).sql)
                    assert found.endswith(END_OF_STREAM), sql
                    table = pa.ipc.open_stream(found).read_all()
                    assert table.schema.names == bare.sql(sql).columns, sql
                    if "SAMPLE" not in sql and "LIMIT" not in sql:
                        assert table.num_rows == len(bare.sql(sql).fetchall()) == lease.summary["rows"], sql

    _run(work)


def test_what_the_gate_lets_through_as_harmless_says_nothing_of_the_host(mount: Mount, folder: Path) -> None:
    async def work(pool: Pool) -> None:
        async with _lease(pool, mount) as lease:
            for sql in statements("hostile")["harmless"]:
                try:
                    said = (await _bytes(lease, gate.admit(sql, TABLES).sql)).decode("latin-1")
                except QueryFailed as refusal:
                    said = str(refusal)
                assert str(folder) not in said and SECRET not in said and "/slice" not in said

    _run(work)


def test_without_the_gate_the_locked_engine_still_gives_no_file_setting_or_extension(
    mount: Mount, folder: Path
) -> None:
    """Defence in depth: the statements that the gate refuses, sent straight to a worker."""
    secret = str(folder / "other" / "secret.csv")

    async def work(pool: Pool) -> None:
        for group in ("files", "settings", "stacked"):
            for sql in statements("hostile")[group]:
                async with _lease(pool, mount, seconds=5) as lease:
                    try:
                        said = (await _bytes(lease, sql.replace("{CANARY}", secret))).decode("latin-1")
                    except (QueryFailed, WorkerLost) as refusal:
                        said = str(refusal)
                assert SECRET not in said, sql
                assert "root:x" not in said and str(folder) not in said, sql
        async with _lease(pool, mount, "bob") as lease:
            assert await _rows(lease, "SELECT count(*) FROM member") == [(40,)]

    _run(work)


def test_a_worker_sees_its_slice_and_no_network_and_no_other_user(mount: Mount) -> None:
    async def work(pool: Pool) -> None:
        async with _lease(pool, mount) as lease:
            status = Path(f"/proc/{lease.process.pid}/status").read_text()
            assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status
            namespaces = {
                name: str(Path(f"/proc/{lease.process.pid}/ns/{name}").readlink())
                for name in ("net", "pid", "mnt", "ipc")
            }
            assert all(
                link != str(Path(f"/proc/self/ns/{name}").readlink()) for name, link in namespaces.items()
            )
            interfaces = Path(f"/proc/{lease.process.pid}/net/dev").read_text().splitlines()[2:]
            assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]
            mounts = Path(f"/proc/{lease.process.pid}/mountinfo").read_text()
            assert " /slice/tables ro" in mounts and str(mount.folder.parent) not in [
                line.split()[4] for line in mounts.splitlines()
            ]
            if os.geteuid() == 0:
                assert "Uid:\t0" not in status

    _run(work)


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELECT CAST(last_name AS INTEGER) FROM member", "conversion"),
        ("SELECT strptime(last_name, '%Y') FROM member", "invalid-input"),
        (
            "SELECT sum(9223372036854775807::BIGINT::HUGEINT * 9223372036854775807::HUGEINT * 4) FROM member",
            "out-of-range",
        ),
        ("SELECT sex, race FROM member GROUP BY sex", "not-grouped"),
        ("SELECT 1 FROM member WHERE count(*) > 1", "misplaced-aggregate"),
        ("SELECT upper(1, 2)", "wrong-arguments"),
        ("SELECT member_id FROM member JOIN diagnosis ON true", "ambiguous-column"),
        ("SELECT 1 FROM member WHERE birth_date = units", "cannot-bind"),
        ("SELECT 1 UNION ALL SELECT 1, 2", "set-operation"),
        ("SELECT error(last_name) FROM member", "invalid-input"),
    ],
)
def test_an_error_has_a_code_and_never_a_value(mount: Mount, sql: str, code: str) -> None:
    async def work(pool: Pool) -> None:
        async with _lease(pool, mount) as lease:
            with pytest.raises(QueryFailed) as caught:
                await _bytes(lease, sql)
            assert caught.value.code == code
            assert "LAS0" not in str(caught.value) and "9223" not in str(caught.value)
            assert await _rows(lease, "SELECT 1") == [(1,)]

    _run(work)


_SLOW = f"SELECT count(*) FROM {', '.join(f'diagnosis d{n}' for n in range(12))} WHERE d0.code || d11.code <> d5.code"
"""Never ends by itself."""


def test_a_query_over_its_time_is_killed_and_replaced_and_no_other_notices(mount: Mount) -> None:
    async def work(pool: Pool) -> None:
        async with _lease(pool, mount, "bob") as other:
            await _bytes(other, "SELECT 1")
            pid = other.process.pid
            async with _lease(pool, mount, seconds=0.5) as lease:
                with pytest.raises(WorkerLost) as caught:
                    await _bytes(lease, _SLOW)
                assert "longer than the 0.5 seconds" in caught.value.reason
                assert caught.value.code == "time-limit"
            assert await _rows(other, "SELECT 2") == [(2,)] and other.process.pid == pid
        async with _lease(pool, mount) as lease:
            assert await _rows(lease, "SELECT 3") == [(3,)]

    _run(work)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT len(range(4000000000))",
        "SELECT length(lpad('x', 2000000000, 'y'))",
        "SELECT length(string_agg(a.code || b.code || c.code || d.code, '')) FROM diagnosis a, diagnosis b, diagnosis c, diagnosis d, diagnosis e",
        "SELECT count(*) FROM (SELECT unnest(range(200000000)) a ORDER BY a DESC)",
    ],
)
def test_a_memory_bomb_ends_alone_within_its_limit(mount: Mount, sql: str) -> None:
    async def work(pool: Pool) -> None:
        async with _lease(pool, mount, "bob") as other, _lease(pool, mount, seconds=15) as lease:
            with pytest.raises((QueryFailed, WorkerLost)) as caught:
                await _bytes(lease, sql)
            assert caught.value.code in ("out-of-memory", "worker-lost", "time-limit")
            assert await _rows(other, "SELECT count(*) FROM member") == [(40,)]

    _run(work)


def test_a_killed_worker_ends_its_own_query_only(mount: Mount) -> None:
    async def work(pool: Pool) -> None:
        async with _lease(pool, mount) as lease, _lease(pool, mount, "bob") as other:
            query = asyncio.create_task(_bytes(lease, _SLOW))
            await asyncio.sleep(0.3)
            assert not query.done()
            os.kill(lease.process.pid, signal.SIGKILL)
            with pytest.raises(WorkerLost):
                await query
            assert await _rows(other, "SELECT 1") == [(1,)]
        async with _lease(pool, mount) as again:
            assert await _rows(again, "SELECT 1") == [(1,)]

    _run(work)


@pytest.mark.parametrize("fatal", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_died_or_hangs_while_idle_is_replaced_before_the_next_query(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, fatal: signal.Signals
) -> None:
    monkeypatch.setattr(process, "PING_SECONDS", 1.0)

    async def work(pool: Pool) -> None:
        for _ in range(3):
            async with _lease(pool, mount) as lease:
                assert await _rows(lease, "SELECT 1") == [(1,)]
                known = lease.process
            os.kill(_engine_of(known.pid), fatal)
            async with _lease(pool, mount) as again:
                assert again.process is not known
                assert await _rows(again, "SELECT count(*) FROM member") == [(40,)]

    _run(work)


def _grown(times: int) -> str:
    """A text of 1,000 * 8 ** times characters, in a statement that the gate admits."""
    sql = "SELECT repeat('y', 1000) AS x"
    for _ in range(times):
        sql = f"SELECT concat(x, x, x, x, x, x, x, x) AS x FROM ({sql})"
    return sql


_TOO_LONG = f"length(concat({', '.join(['x'] * 150)}))"
_POISON = {
    "at once": f"SELECT {_TOO_LONG} FROM ({_grown(5)})",
    "in the middle of the answer": f"SELECT CASE WHEN i > 264000 THEN {_TOO_LONG} ELSE i END"
    f" FROM ({_grown(5)}), (SELECT unnest(range(266000)) AS i)",
    "of the acceptance audit": _grown(8),
}
"""A text beyond the engine's 4 GB is an internal error, after which the engine refuses every statement."""


@pytest.mark.parametrize("when", _POISON)
def test_a_query_that_breaks_the_engine_leaves_a_sound_worker_to_the_next_one_of_the_same_user(
    mount: Mount, when: str
) -> None:
    if "range" not in _POISON[when]:
        gate.admit(_POISON[when], TABLES)

    async def work(pool: Pool) -> None:
        for _ in range(1 if "middle" in when else 2):
            async with _lease(pool, mount) as lease:
                with pytest.raises(QueryFailed) as caught:
                    await _bytes(lease, _POISON[when])
                assert caught.value.code in ("text-too-long", "out-of-memory")
                broken = lease.process
            async with _lease(pool, mount) as again:
                assert await _rows(again, "SELECT count(*) FROM member") == [(40,)]
                if caught.value.code == "text-too-long":
                    assert caught.value.http_status == 422
                    assert again.process is not broken and not broken.alive
        assert len(pool.pids()["idle"]) == 1

    _run(work)


def test_a_worker_that_met_its_own_limit_of_memory_goes_on(mount: Mount) -> None:
    async def work(pool: Pool) -> None:
        async with _lease(pool, mount) as lease:
            with pytest.raises(QueryFailed) as caught:
                await _bytes(
                    lease, "SELECT x, x || x || x || x || x || x || x || x || x FROM (" + _grown(5) + ")"
                )
            assert caught.value.code == "out-of-memory"
            known = lease.process
        async with _lease(pool, mount) as again:
            assert await _rows(again, "SELECT count(*) FROM member") == [(40,)]
            assert again.process is known

    _run(work)


def _engine_of(pid: int) -> int:
    """The worker itself: the sandbox's only child, or the sandbox's first process."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else pid


_WIDE = "SELECT a.*, b.*, c.* FROM diagnosis a, diagnosis b, diagnosis c, diagnosis d"


@pytest.mark.parametrize("sql", [_SLOW, _WIDE])
def test_a_cancelled_query_gives_its_worker_back(mount: Mount, sql: str) -> None:
    async def work(pool: Pool) -> None:
        lease = await pool.lease(mount, "ana", "g")
        query = asyncio.create_task(_first(lease, sql))
        await asyncio.sleep(0.4)
        query.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await query
        lease.close()
        async with _lease(pool, mount) as again:
            assert await _rows(again, "SELECT count(*) FROM member") == [(40,)]
        assert not pool.pids()["busy"]

    _run(work, PoolLimits(workers=1, threads=1, memory_bytes=300 << 20))


async def _first(lease: Lease, sql: str) -> bytes:
    async for piece in lease.query(sql):
        return piece
    return b""


def test_a_warm_worker_is_used_again_by_its_user_and_by_nobody_else(mount: Mount) -> None:
    async def work(pool: Pool) -> None:
        pids = []
        for user in ("ana", "ana", "rui"):
            async with _lease(pool, mount, user) as lease:
                await _bytes(lease, "SELECT 1")
                pids.append(lease.process.pid)
        assert pids[0] == pids[1] != pids[2]

    _run(work)


def test_a_worker_that_is_warmed_up_serves_the_first_query_and_no_second_one_is_started(mount: Mount) -> None:
    async def work(pool: Pool) -> None:
        pool.warm(mount, "ana")
        pool.warm(mount, "ana")
        async with _lease(pool, mount) as lease:
            assert await _rows(lease, "SELECT 1") == [(1,)]
        assert len(pool.pids()["idle"]) == 1

    _run(work)


def test_the_pool_keeps_to_its_cap_and_ends_the_one_idle_longest(mount: Mount) -> None:
    async def work(pool: Pool) -> None:
        for user in ("a", "b", "c", "a", "d"):
            async with _lease(pool, mount, user) as lease:
                await _bytes(lease, "SELECT 1")
            assert len(pool.pids()["idle"]) + len(pool.pids()["busy"]) <= 3
        kept = pool.pids()["idle"]
        async with _lease(pool, mount, "a") as lease:
            assert lease.process.pid in kept
        async with _lease(pool, mount, "b") as lease:
            assert lease.process.pid not in kept

    _run(work)


def test_a_full_pool_says_busy_and_a_grant_at_its_limit_lets_others_pass(mount: Mount) -> None:
    async def work(pool: Pool) -> None:
        async with _lease(pool, mount, "a", "one"), _lease(pool, mount, "b", "one"):
            waiting = asyncio.create_task(pool.lease(mount, "c", "one", concurrent=2))
            await asyncio.sleep(0)
            async with _lease(pool, mount, "d", "two", concurrent=2) as passed:
                assert await _rows(passed, "SELECT 1") == [(1,)]
                with pytest.raises(Busy) as caught:
                    await pool.lease(mount, "e", "three", wait=0.3)
                assert caught.value.http_status == 429
        (await asyncio.wait_for(waiting, 30)).close()

    _run(work)


def test_a_worker_of_one_mode_takes_no_order_of_the_other(mount: Mount) -> None:
    async def work(pool: Pool) -> None:
        async with _lease(pool, mount) as lease:
            with pytest.raises(QueryFailed):
                await lease.tabulate({"table": "members_by_county", "year": 2025})
        tabulating = Mount("t", mount.folder, "tabulate", {})
        async with _lease(pool, tabulating) as lease:
            with pytest.raises(QueryFailed):
                await _bytes(lease, "SELECT * FROM read_parquet('/slice/tables/member/part-000.parquet')")

    _run(work)


def test_a_long_answer_streams_through_bounded_memory(mount: Mount) -> None:
    async def work(pool: Pool) -> None:
        async with _lease(pool, mount) as lease:
            await _bytes(lease, "SELECT 1")
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            size = 0
            async for piece in lease.query(_WIDE):
                size += len(piece)
            assert lease.summary["rows"] == 40**4 and size == lease.summary["bytes"] > 200 << 20
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10

    _run(work, PoolLimits(workers=1, threads=2, memory_bytes=1 << 30))


def test_workers_end_with_the_broker_that_started_them(mount: Mount, tmp_path: Path) -> None:
    code = f"""
import asyncio, sys, pathlib
sys.path.insert(0, {str(Path(__file__).parent)!r})
from workbench.broker.pool import Mount, Pool, PoolLimits
async def main():
    lease = await Pool(PoolLimits(1, 1, 300 << 20)).lease(Mount('s', pathlib.Path({str(mount.folder)!r}), 'query', {{}}), 'a', 'g')
    print(lease.process.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as broker:
        assert broker.stdout is not None
        pid = int(broker.stdout.readline())
        broker.kill()
        broker.wait()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
