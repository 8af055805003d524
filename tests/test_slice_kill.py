"""Promise of the slice build: killed at any moment, it leaves the old state or the new one, whole, and the next build works."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import slice_world as world
import tiny_release
from slice_world import A, C, F, column

from workbench.broker.published_slice import members_file
from workbench.broker.slices import list_slices
from workbench.lake.release import open_release

KILLS = 5

BUILDER = """
import sys, time
from datetime import date
from pathlib import Path
sys.path.insert(0, {tests!r})
from slice_world import A, SIERRA, LIMITED, grant
from workbench.broker import buckets
from workbench.broker.consent import Consents, Decision
from workbench.broker.published_slice import remove
from workbench.broker.slices import ensure
from workbench.broker.state import State
from workbench.broker.vault import Vault
from workbench.lake.release import open_release
buckets.MEMBERS_PER_BUCKET = 1
lake = Path({lake!r})
state = State(f"sqlite:///{{lake.parent / 'state.sqlite'}}", lake.parent / "state")
vault, consents, release = Vault(state), Consents(state), open_release(lake)
plan = grant(sensitive={{"part2": "with_consent", "basis": "consent_tpo"}}, recipient={{"id": SIERRA, "state": "CA"}},
    purposes=["treatment"])
print("ready", flush=True)
revoked = False
while True:
    consents.decide([Decision(A, SIERRA, "part2", "form", date(2025, 1, 1), revoked=revoked)])
    kept = ensure(release, plan, vault, lake, consents=consents.view(SIERRA, ["part2"]))
    other = ensure(release, grant(**LIMITED), vault, lake)
    print("built", flush=True)
    remove(lake, other.id)
    revoked = not revoked
    if {once}:
        break
"""


def builder(lake: Path, *, once: bool = False) -> subprocess.Popen[str]:
    script = BUILDER.format(tests=str(Path(__file__).parent), lake=str(lake), once=once)
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def check(lake: Path) -> int:
    """Every slice that counts is whole: each part has its rows, no row is of another member, and its members are listed."""
    slices = list_slices(lake)
    for slice_ in slices:
        for name, entry in slice_.manifest["tables"].items():
            assert sum(pq.read_table(part).num_rows for part in slice_.parts(name)) == entry["rows"], name
        assert pq.read_table(members_file(lake, slice_.id))["member_id"].to_pylist() == [A, C, F]
        if slice_.manifest["level"] == "identified":
            claims = "SELECT count(DISTINCT claim_id) FROM medical_claim"
            assert column(slice_, claims) == [18 if consented(lake, slice_.id) else 17]
    return len(slices)


def consented(lake: Path, id: str) -> bool:
    return any(pq.read_table(members_file(lake, id))["consented"].to_pylist())


def test_a_killed_build_leaves_the_old_state_or_the_new_one(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    tiny_release.write(lake, world.tables(), cut_at=[C, F])
    chance, seen = random.Random(5), 0
    for number in range(KILLS):
        process = builder(lake)
        assert process.stdout is not None
        for said in ("ready\n", "built\n")[
            : 1 + number % 2
        ]:  # by turns in the first build and in a later one
            assert process.stdout.readline() == said
        time.sleep(chance.uniform(0.0, 3.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        seen = max(seen, check(lake))
    assert seen > 0  # some build had ended before a kill
    output, _ = builder(lake, once=True).communicate(timeout=280)
    assert output == "ready\nbuilt\n"
    check(lake)
    left = {p.name for p in (lake / "slices").iterdir()} - {s.id for s in list_slices(lake)}
    assert left == {"members", "usage"}
    assert open_release(lake).as_of == date(2026, 1, 31)
