"""What people wait for: a kernel after the click, the app's page, a report."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import papermill

from benchmarks.harness import PROJECT, Figure, absolute, against
from benchmarks.world import World, seat

sys.path.insert(0, str(PROJECT / "scripts"))

from smoke import CHROMIUM, Site
from visitor import Visitor

MEMBERS = 20_000
RUNS = 5
PASSWORD = "workbench-demo"
PLOT = ".wb-fig svg"


def run(where: World) -> list[Figure]:
    """Spawn click to ready kernel, app page cold and second, report in its sandbox: of the demo, whatever the lake."""
    del where
    with _ours() as site, _plain() as plain_url:
        spawns: dict[str, list[float]] = {"ours": [], "alternative": []}
        for turn in range(RUNS + 1):
            visitor = Visitor(site.url, "ana")
            visitor.login(PASSWORD)
            ours = _to_kernel(visitor, partial(visitor.ask_to_start, "demo-analyst", "operations"))
            plain = Visitor(plain_url, "ana")
            plain.login(PASSWORD)
            other = _to_kernel(plain, partial(plain.get, "/hub/spawn"))
            if turn:
                spawns["ours"].append(ours)
                spawns["alternative"].append(other)
        figures = [
            against(
                "spawn click to ready kernel",
                spawns,
                "plain local spawner with the same start-up fixes",
                1.2,
                seconds=3,
            )
        ]
        cold, second, started = _app(site)
        note = f"from the click that starts the viewer's server to the drawn plot: {statistics.median(started):.1f} s"
        figures.append(absolute("app page, cold: first visit of a new server to drawn plot", cold, 3.0, note))
        figures.append(absolute("app page, second", second, 1.5))
        figures.append(_report(site))
    return figures


def _to_kernel(visitor: Visitor, click: Callable[[], object]) -> float:
    """Seconds from the click to a kernel that answered; the server is stopped afterwards."""
    begun = time.perf_counter()
    click()
    while not visitor.ready():
        time.sleep(0.05)
    kernel = visitor.kernel()
    kernel.run("1 + 1")
    taken = time.perf_counter() - begun
    kernel.close()
    visitor.stop()
    visitor.close()
    return taken


def _app(site: Site) -> tuple[list[float], list[float], list[float]]:
    """Seconds to a drawn plot: the first visit of a new server, a later visit, and from the server's start."""
    from playwright.sync_api import sync_playwright

    cold: list[float] = []
    started: list[float] = []
    second: list[float] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        for _ in range(RUNS):
            visitor = Visitor(site.url, "pat")
            visitor.login(PASSWORD)
            page = browser.new_page()
            page.goto(f"{site.url}/hub/login")
            page.fill("#username_input", "pat")
            page.fill("#password_input", PASSWORD)
            page.click("#login_submit")
            page.wait_for_load_state()
            begun = time.perf_counter()
            visitor.ask_to_start("demo-public", "program_administration")
            while not visitor.ready():
                time.sleep(0.05)
            visit = time.perf_counter()
            page.goto(f"{site.url}/user/pat/")
            page.wait_for_selector(PLOT, timeout=60_000)
            cold.append(time.perf_counter() - visit)
            started.append(time.perf_counter() - begun)
            time.sleep(8)  # a viewer looks at the page; meanwhile the next kernel is heated
            begun = time.perf_counter()
            page.goto(f"{site.url}/user/pat/")
            page.wait_for_selector(PLOT, timeout=60_000)
            second.append(time.perf_counter() - begun)
            page.context.close()
            visitor.stop()
            visitor.close()
        browser.close()
    return cold, second, started


def _report(site: Site) -> Figure:
    """`workbench report run` as a whole, against papermill alone in this process, on the same slice."""
    command = [
        str(Path(sys.executable).with_name("workbench")),
        "report", "run", "plan-quality", "--org", "sierra-vista", "--year", "2025", "--json",
    ]  # fmt: skip
    ours: list[float] = []
    alone: list[float] = []
    env = seat(site.run / "control" / "control.sock", "plan-quality-sierra-vista", "operations", user="ana")
    os.environ.update(env)
    template = PROJECT / "notebooks" / "templates" / "plan-quality.ipynb"
    parameters = {"organisation": "sierra-vista", "year": 2025}
    for turn in range(RUNS + 1):
        begun = time.perf_counter()
        subprocess.run(command, env=site.environment, check=True, capture_output=True)
        whole = time.perf_counter() - begun
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            papermill.execute_notebook(
                str(template),
                str(Path(folder) / "out.ipynb"),
                parameters,
                progress_bar=False,
                log_output=False,
            )
            plain = time.perf_counter() - begun
        if turn:
            ours.append(whole)
            alone.append(plain)
    other = statistics.median(alone)
    figure = absolute("report run, sandboxed, as a command", ours, 6.0)
    figure.alternative, figure.alternative_is = other, "papermill in process, no sandbox, no HTML"
    figure.ratio = figure.ours / other
    figure.samples["alternative"] = alone
    return figure


@contextmanager
def _ours() -> Iterator[Site]:
    """`workbench up --demo` on a port of its own, its data kept in var/bench."""
    folder = PROJECT / "var" / "bench" / "hub"
    folder.mkdir(parents=True, exist_ok=True)
    run_folder = Path(tempfile.mkdtemp(prefix="wb-", dir="/tmp"))
    site = Site(folder, run_folder, _free_port())
    process = site.start(MEMBERS)
    try:
        yield site
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        shutil.rmtree(run_folder, ignore_errors=True)


@contextmanager
def _plain() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="wbp"))
    ports = [_free_port() for _ in range(3)]
    url = f"http://127.0.0.1:{ports[0]}"
    env = {
        **os.environ,
        "PLAIN_FOLDER": str(folder),
        "PLAIN_URL": url,
        "PLAIN_HUB_PORT": str(ports[1]),
        "PLAIN_API_PORT": str(ports[2]),
    }
    config = str(Path(__file__).with_name("plain_hub_config.py"))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterhub", "-f", config], env=env, cwd=folder, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((folder / "log").read_text()[-2000:])
            try:
                visitor = Visitor(url, "ana")
                if visitor.get("/hub/login").ok:
                    break
            except OSError:
                pass
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
