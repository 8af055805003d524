"""A real workbench for the tests of a session: small demo data, JupyterHub, proxy, broker, report service.

`hub_data` makes the data once; `hub` runs the Hub on it. Use `hub.visitor("ana")` for a logged-in user.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from visitor import Visitor  # noqa: E402

from workbench.sandbox import seats  # noqa: E402

MEMBERS = 2000
PASSWORD = "workbench-demo"


@dataclass
class HubData:
    """The folders of one workbench with the demo's data in them."""

    folder: Path
    run: Path

    @property
    def lake(self) -> Path:
        return self.folder / "lake"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def grants(self) -> Path:
        return self.folder / "grants"

    def environment(self, **more: str) -> dict[str, str]:
        return {
            **os.environ,
            "WORKBENCH_LAKE": str(self.lake),
            "WORKBENCH_STATE": str(self.state),
            "WORKBENCH_RUN": str(self.run),
            "WORKBENCH_GRANTS": str(self.grants),
            **more,
        }


@dataclass
class RunningHub:
    """A Hub that can be killed and started again."""

    data: HubData
    port: int
    process: subprocess.Popen[bytes] | None = None
    visitors: list[Visitor] = field(default_factory=list)
    more: dict[str, str] = field(default_factory=dict)
    """Settings beside those of the folders."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.data.state.mkdir(parents=True, exist_ok=True)
        with (self.data.state / "hub.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterhub", "-f", str(ROOT / "hub_config/jupyterhub_config.py")],
                env=self.data.environment(WORKBENCH_URL=self.url, **self.more),
                cwd=self.data.state,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 240
        while not (self._healthy() and self._broker_listens()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                tail = (self.data.state / "hub.log").read_text(errors="replace")[-3000:]
                raise AssertionError(f"the Hub did not start:\n{tail}")
            time.sleep(0.1)

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(90)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill(signal.SIGTERM)
        seats.evict(self.data.run)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/hub/health", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def _broker_listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.data.run / "control" / "control.sock")) == 0

    def visitor(self, name: str, *, logged_in: bool = True) -> Visitor:
        """A new browser session of one of the demo's people."""
        visitor = Visitor(self.url, name)
        self.visitors.append(visitor)
        if logged_in:
            answer = visitor.login(PASSWORD)
            assert answer.ok, answer.status_code
        return visitor

    def started(self, name: str, grant: str, purpose: str) -> Visitor:
        """A visitor whose server runs under this grant, freshly started."""
        visitor = self.visitor(name)
        if visitor.model()["servers"]:
            visitor.stop()
        visitor.start(grant, purpose)
        return visitor

    def working(self, name: str, grant: str, purpose: str) -> Visitor:
        """A visitor whose server runs under this grant, since when does not matter."""
        visitor = self.visitor(name)
        server = visitor.model()["servers"].get("", {})
        if not server.get("ready") or server.get("user_options") != {"grant": grant, "purpose": purpose}:
            return self.started(name, grant, purpose)
        visitor.get(f"/user/{name}/")
        return visitor


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def hub_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubData]:
    """Sources, a release and the demo's slices of a few thousand members."""
    folder = tmp_path_factory.mktemp("hub")
    run = Path(tempfile.mkdtemp(prefix="wb-", dir="/tmp"))
    data = HubData(folder, run)
    shutil.copytree(ROOT / "grants", data.grants)
    program = (
        "import sys; from workbench.cli.demo_data import prepare; from workbench.settings import settings; "
        f"prepare(settings(), {MEMBERS}, 1, print)"
    )
    subprocess.run([sys.executable, "-c", program], env=data.environment(), cwd=ROOT, check=True, timeout=600)
    yield data
    shutil.rmtree(run, ignore_errors=True)


@pytest.fixture(scope="session")
def hub(hub_data: HubData) -> Iterator[RunningHub]:
    """The running Hub of this session."""
    running = RunningHub(hub_data, free_port())
    with contextlib.ExitStack() as stack:
        stack.callback(running.stop)
        running.start()
        yield running
        for visitor in running.visitors:
            visitor.close()
