"""The benchmarks' lake: a larger synthetic Medi-Cal, its release, and a broker that runs as a process of its own."""

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
from pathlib import Path
from typing import Any

import yaml

from benchmarks.harness import PROJECT
from workbench.lake import release
from workbench.lake.release import Release
from workbench.lake.synthetic import write

MEMBERS = int(os.environ.get("BENCH_MEMBERS", "80000"))
FOLDER = PROJECT / "var" / "bench" / str(MEMBERS)
LEVELS = {
    "identified": ("bench-identified", "operations", "audit_evaluation_2_53"),
    "limited": ("bench-limited", "research", "research_2_52"),
    "safe_harbor": ("bench-safe-harbor", "research", "deidentified_164_514"),
}
"""Level -> the grant's name, its purpose, and the basis on which it includes Part 2."""


def lake_release() -> Release:
    """The release, made once and kept in var/bench."""
    sources, lake = FOLDER / "sources", FOLDER / "lake"
    if not (FOLDER / "made").exists():
        shutil.rmtree(FOLDER, ignore_errors=True)
        _say(f"writing {MEMBERS:,} synthetic members (once)")
        write(sources, MEMBERS, 5, lambda *_: None)
        _say("building their release (once)")
        release.build(sources, lake)
        shutil.rmtree(sources)
        (FOLDER / "made").touch()
    return release.open_release(lake)


def grants(folder: Path) -> None:
    """State-wide grants, one a level, that no demo has."""
    folder.mkdir(parents=True)
    shutil.copy(PROJECT / "grants" / "organisations.yaml", folder)
    for level, (name, purpose, basis) in LEVELS.items():
        spec: dict[str, Any] = {
            "name": name,
            "title": f"Benchmark, {level}",
            "groups": ["research-valley"],
            "organisation": {"relation": "state"},
            "level": level,
            "tables": "all",
            "sensitive": {"part2": "include", "basis": basis},
            "purposes": [purpose],
            "agreement": "BENCH",
            "approver": "Benchmark",
            "valid_from": "2025-01-01",
            "valid_until": "2035-12-31",
            "channels": ["notebook", "tabulate", "reports"],
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(spec))


@contextmanager
def broker() -> Iterator[Path]:
    """A broker process over the benchmarks' lake, its state in a folder of its own; yields its control socket."""
    lake_release()
    work = Path(tempfile.mkdtemp(prefix="wbb"))
    work.chmod(0o755)
    grants(work / "grants")
    env = {
        **os.environ,
        "WORKBENCH_LAKE": str(FOLDER / "lake"),
        "WORKBENCH_STATE": str(work / "state"),
        "WORKBENCH_RUN": str(work / "run"),
        "WORKBENCH_GRANTS": str(work / "grants"),
    }
    control = work / "run" / "control" / "control.sock"
    process = subprocess.Popen([sys.executable, "-m", "workbench.broker.service"], env=env)
    try:
        deadline = time.monotonic() + 30
        while not control.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the broker did not start")
            time.sleep(0.05)
        yield control
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(work, ignore_errors=True)


def seat(
    control: Path, grant: str, purpose: str, user: str = "rui", kind: str = "report"
) -> Mapping[str, str]:
    """The environment of a caller who is bound to a grant, as a spawner would give it."""
    body = {"server": f"bench-{grant}", "user": user, "grant": grant, "purpose": purpose, "kind": kind}
    connection = http.client.HTTPConnection("control")
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.connect(str(control))
    connection.request(
        "POST", "/bindings", json.dumps({**body, "expires_in": 3600}), {"Content-Type": "application/json"}
    )
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return {"WORKBENCH_BROKER": f"{answer['socket_dir']}/broker.sock", "WORKBENCH_TOKEN": answer["token"]}


def _say(what: str) -> None:
    print(f"· {what}", file=sys.stderr, flush=True)
