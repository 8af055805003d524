"""The benchmarks' lake: a release as large as asked for, grants over it, and a broker that is a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import yaml

from benchmarks.harness import PROJECT
from benchmarks.multiply import HALVES, multiply
from workbench.client.session import Session, connect
from workbench.lake import release
from workbench.lake.provenance import code_list_digests
from workbench.lake.release import Release, UnknownRelease, open_release
from workbench.lake.synthetic import write
from workbench.schema import dictionary
from workbench.schema.sensitive import Category

FULL_MEMBERS, LINES_PER_MEMBER = 1_000_000, 60
BASE_SHARE, SMALLEST_BASE = 25, 400
"""The base is a real synthetic release of a 25th of the members, made by `workbench synth` and `release build`."""
SEED = 5
SMALLEST_PLAN = "redwood-coast"
"""Its halves hold about 5 % of the members each."""
PURPOSES = {
    "identified": ("operations", "audit_evaluation_2_53"),
    "limited": ("research", "research_2_52"),
    "safe_harbor": ("research", "deidentified_164_514"),
}
"""Level -> its purpose here, and the basis on which Part 2 is included."""
PLAN, WHOLE, TENTH, TENTH_ORDINARY, TENTH_LIMITED, HARBOUR = (
    "bench-plan",
    "bench-whole",
    "bench-tenth",
    "bench-tenth-ordinary",
    "bench-tenth-limited",
    "bench-safe-harbor",
)
"""Grants: one plan (5 %), the whole state, two plans (10 %) with and without the sensitive categories and at level
limited, and Safe Harbor, which is state-wide."""
GROUP = "bench"
SLICE_BUDGET = 12 << 30
"""Bytes of slices that are kept from run to run: those of older code go when newer ones need the room."""
USERS = 50


@dataclass(frozen=True)
class World:
    """A benchmarks' lake of so many members and claim lines, kept in a folder of its own."""

    folder: Path
    members: int
    lines: int
    parent: World | None = None
    """Whose base it shares."""

    @property
    def lake(self) -> Path:
        return self.folder / "lake"

    @property
    def scale(self) -> float:
        """1 for the million members of the specification."""
        return self.members / FULL_MEMBERS

    @property
    def about(self) -> str:
        """The release in one line."""
        tables = self.release().manifest["tables"]
        rows = sum(entry["rows"] for entry in tables.values())
        size = sum(part["bytes"] for entry in tables.values() for part in entry["parts"])
        return (
            f"{tables['member']['rows']:,} members, {tables['medical_claim_line']['rows']:,} claim lines, "
            f"{rows:,} rows in all, {size / 1e9:.1f} GB of Parquet"
        )

    @property
    def plan(self) -> str:
        """The organisation of the grant of one plan."""
        return f"{SMALLEST_PLAN}-{HALVES[0]}"

    def everything(self) -> None:
        """Makes all that the benchmarks find made: the releases, and the slices that live longer than one run."""
        self.prepare(PLAN, WHOLE)
        self.prepare_records()
        self.tenth().release()

    def release(self) -> Release:
        """The release, made once; made again where the dictionary's tables or the code lists are others by now."""
        made, shape = self.folder / "made", _shape()
        if made.exists() and made.read_text() == shape:
            try:
                return open_release(self.lake)
            except UnknownRelease:
                pass
        made.unlink(missing_ok=True)
        for stale in ("releases", "slices"):
            shutil.rmtree(self.lake / stale, ignore_errors=True)
        base = self._base(shape)
        threads = int(os.environ.get("BENCH_THREADS", str(os.cpu_count() or 1)))
        say(f"multiplying {base.id} to {self.members:,} members and {self.lines:,} lines (once)")
        found = multiply(base, self.lake, self.members, self.lines, say, threads=threads)
        made.write_text(shape)
        return found

    def tenth(self) -> World:
        """A world of a tenth of the members, from the same base."""
        return World(self.folder / "tenth", self.members // 10, self.lines // 10, self)

    def grants(self, folder: Path) -> None:
        """Writes the benchmarks' grants and registry."""
        folder.mkdir(parents=True)
        halves = [f"{SMALLEST_PLAN}-{half}" for half in HALVES]
        registry = {plan: {"kind": "mcp", "name": plan} for plan in halves}
        (folder / "organisations.yaml").write_text(yaml.safe_dump({"organisations": registry}))
        _grant(folder, PLAN, "identified", halves[:1])
        _grant(folder, TENTH, "identified", halves)
        _grant(folder, TENTH_ORDINARY, "identified", halves, sensitive=False)
        _grant(folder, TENTH_LIMITED, "limited", halves)
        _grant(folder, WHOLE, "identified", [])
        _grant(folder, HARBOUR, "safe_harbor", [])

    def prepare(self, *grants: str) -> None:
        """Builds the slices of these grants, in a broker that ends: what a build leaves in memory is not measured."""
        self.release()
        with self.broker() as site:
            for grant in grants:
                site.session(grant).sql("SELECT 1 AS one").arrow()

    def prepare_records(self) -> None:
        """Builds the record store of all members, in a broker that ends."""
        first = self.release().relation("member")
        with duckdb.connect() as con, self.broker() as site:
            member = con.execute(f"SELECT min(member_id) FROM {first}").fetchall()[0][0]
            ask(site.seat(WHOLE), "GET", f"/members/{member}/record")

    @contextmanager
    def broker(self) -> Iterator[Site]:
        """A broker process over this lake, its state in a folder of its own."""
        self.release()
        work = Path(tempfile.mkdtemp(prefix="wbb"))
        work.chmod(0o755)
        self.grants(work / "grants")
        users = {name: {"groups": [GROUP], "about": "A benchmark"} for name in people()}
        (work / "users.yaml").write_text(yaml.safe_dump({"password": "bench-mark", "users": users}))
        env = {
            **os.environ,
            "WORKBENCH_LAKE": str(self.lake),
            "WORKBENCH_STATE": str(work / "state"),
            "WORKBENCH_RUN": str(work / "run"),
            "WORKBENCH_GRANTS": str(work / "grants"),
            "WORKBENCH_USERS": str(work / "users.yaml"),
            "WORKBENCH_SLICE_BUDGET": str(SLICE_BUDGET),
        }
        control = work / "run" / "control" / "control.sock"
        log = work / "broker.log"
        with log.open("wb") as sink:
            command = [sys.executable, "-m", "workbench.broker.service"]
            process = subprocess.Popen(command, env=env, stdout=sink, stderr=sink)
        try:
            deadline = time.monotonic() + 30
            while not _listens(control):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the broker did not start")
                time.sleep(0.05)
            yield Site(control, process.pid)
        except BaseException:
            sys.stderr.write(log.read_text(errors="replace")[-4000:])
            raise
        finally:
            process.terminate()
            process.wait(20)
            shutil.rmtree(work, ignore_errors=True)

    def _base(self, shape: str) -> Release:
        if self.parent is not None:
            return self.parent._base(shape)
        members = max(SMALLEST_BASE, self.members // BASE_SHARE)
        folder = self.folder / "base"
        made = folder / "made"
        if not made.exists() or made.read_text() != shape:
            shutil.rmtree(folder, ignore_errors=True)
            say(f"writing {members:,} synthetic members (once)")
            write(folder / "sources", members, SEED, lambda *_: None)
            say("building their release (once)")
            release.build(folder / "sources", folder / "lake")
            shutil.rmtree(folder / "sources")
            made.write_text(shape)
        return open_release(folder / "lake")


@dataclass(frozen=True)
class Site:
    """A broker that runs: its control socket and its process."""

    control: Path
    pid: int

    def session(self, grant: str, user: str = "u00") -> Session:
        """A session of a user with a grant; waits for the slice."""
        env = self.seat(grant, user)
        return connect(env["WORKBENCH_BROKER"], env["WORKBENCH_TOKEN"])

    def seat(self, grant: str, user: str = "u00") -> Mapping[str, str]:
        """Socket and token of a user's server that is bound to a grant."""
        return seat(self.control, grant, _purpose(grant), user)

    def forget_peak(self) -> None:
        """From now on `peak_bytes` is of what comes (proc(5), clear_refs)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        """The largest resident size of the broker's process, without its workers."""
        status = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))


def people() -> list[str]:
    """The users of the benchmarks."""
    return [f"u{number:02d}" for number in range(USERS)]


def from_environment() -> World:
    """BENCH_MEMBERS (1,000,000) and BENCH_LINES (60 a member), in var/bench/<members>."""
    members = int(os.environ.get("BENCH_MEMBERS", str(FULL_MEMBERS)))
    lines = int(os.environ.get("BENCH_LINES", str(members * LINES_PER_MEMBER)))
    return World(PROJECT / "var" / "bench" / str(members), members, lines)


def _shape() -> str:
    """What a release's files depend on: names and types of all columns, keys, and the code lists; not their words."""
    tables = {
        name: [table.key, {c.name: (c.type, c.identifier_class) for c in table.columns.values()}]
        for name, table in dictionary().items()
    }
    return json.dumps({"tables": tables, "code_lists": code_list_digests()}, sort_keys=True)


def ask(seat: Mapping[str, str], method: str, path: str, body: object = None) -> bytes:
    """The answer to one request of a seat, read to its end; waits as long as it is told to come again."""
    headers = {"Authorization": f"Bearer {seat['WORKBENCH_TOKEN']}", "Content-Type": "application/json"}
    payload = None if body is None else json.dumps(body)
    while True:
        answer, read = _send(Path(seat["WORKBENCH_BROKER"]), method, path, payload, headers)
        if answer.status in (200, 201):
            return read
        if answer.status not in (202, 429):
            raise RuntimeError(f"{path}: {answer.status} {read[:500]!r}")
        time.sleep(float(answer.headers.get("Retry-After") or 1))


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


def _send(
    path: Path, method: str, url: str, payload: str | None, headers: Mapping[str, str]
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("broker")
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.sock.connect(str(path))
        connection.request(method, url, payload, dict(headers))
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def _level(grant: str) -> str:
    return {TENTH_LIMITED: "limited", HARBOUR: "safe_harbor"}.get(grant, "identified")


def _purpose(grant: str) -> str:
    return PURPOSES[_level(grant)][0]


def _grant(folder: Path, name: str, level: str, plans: list[str], *, sensitive: bool = True) -> None:
    """A grant of every table, with every sensitive category or with none; its limits are no limits."""
    purpose, basis = PURPOSES[level]
    included = {**{str(category): "include" for category in Category}, "basis": basis} if sensitive else {}
    spec: dict[str, Any] = {
        "name": name,
        "title": f"Benchmark, {level}",
        "groups": [GROUP],
        "organisation": {"relation": "mcp", "ids": plans} if plans else {"relation": "state"},
        "level": level,
        "tables": "all",
        "sensitive": included,
        "recipient": {"id": "bench", "state": "CA"},
        "purposes": [purpose],
        "agreement": "BENCH",
        "approver": "Benchmark",
        "valid_from": "2025-01-01",
        "valid_until": "2035-12-31",
        "channels": ["notebook", "tabulate", "reports"] + (["lmr_api"] if level == "identified" else []),
        "limits": {
            "rows_per_day": 10**12,
            "bytes_per_day": 10**15,
            "concurrent_queries": 64,
            "seconds_per_query": 900,
        },
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(spec))


def seat(
    control: Path, grant: str, purpose: str, user: str = "u00", kind: str = "report"
) -> Mapping[str, str]:
    """The environment of a caller who is bound to a grant, as a spawner would give it."""
    body = {"server": f"{user}-{grant}", "user": user, "grant": grant, "purpose": purpose, "kind": kind}
    _, read = _send(
        control,
        "POST",
        "/bindings",
        json.dumps({**body, "expires_in": 3600}),
        {"Content-Type": "application/json"},
    )
    answer = json.loads(read)
    if "token" not in answer:
        raise RuntimeError(f"no binding: {answer}")
    return {"WORKBENCH_BROKER": f"{answer['socket_dir']}/broker.sock", "WORKBENCH_TOKEN": answer["token"]}


def say(what: str) -> None:
    """Progress, for whoever waits."""
    print(f"· {time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)
