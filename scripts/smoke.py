"""What a visitor would do, headless: start everything, log in as each demo user, run, look, stop.

`make smoke`, or from a test: `smoke(members=2000)`. Exit 0 and a one-page summary when all of it works.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from visitor import Visitor, message_on

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = str(Path(sys.executable).with_name("workbench"))
START_SECONDS = 900
CHROMIUM = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class SmokeFailed(Exception):
    """A step that did not go as a visitor expects."""


@dataclass
class Summary:
    """One line for each step that went well."""

    lines: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[list[str]]:
        """Times a step; what is put into the list stands in its line."""
        begun, found = time.monotonic(), list[str]()
        try:
            yield found
        except Exception as error:
            raise SmokeFailed(f"{what}: {type(error).__name__}: {error}") from error
        line = f"{time.monotonic() - begun:6.1f} s  {what}" + (f": {', '.join(found)}" if found else "")
        self.lines.append(line)
        print(f"ok {line}", flush=True)


@dataclass(frozen=True)
class Site:
    """A workbench of its own in a temporary folder."""

    folder: Path
    run: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "WORKBENCH_LAKE": str(self.folder / "lake"),
            "WORKBENCH_STATE": str(self.folder / "state"),
            "WORKBENCH_RUN": str(self.run),
        }

    def start(self, members: int) -> subprocess.Popen[str]:
        """`workbench up --demo`, awaited until it prints the URL."""
        command = [PROGRAM, "up", "--demo", "--members", str(members), "--port", str(self.port)]
        with (self.folder / "up.log").open("w") as log:
            process = subprocess.Popen(
                command, env=self.environment, cwd=ROOT, stdout=log, stderr=log, text=True
            )
        deadline = time.monotonic() + START_SECONDS
        while "Ctrl-C stops" not in self.said():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise SmokeFailed(f"it did not start:\n{self.said()}\n{self.hub_log()[-3000:]}")
            time.sleep(0.1)
        return process

    def stop(self, process: subprocess.Popen[str]) -> None:
        """Ctrl-C, and nothing may be left."""
        process.send_signal(signal.SIGINT)
        code = process.wait(60)
        left = [path.name for path in (self.run / "u").iterdir()]
        with socket.socket() as probe:
            listening = probe.connect_ex(("127.0.0.1", self.port)) == 0
        if code or left or listening:
            raise SmokeFailed(
                f"it did not stop cleanly: exit {code}, left {left}, still listening {listening}"
            )

    def said(self) -> str:
        return (self.folder / "up.log").read_text()

    def hub_log(self) -> str:
        log = self.folder / "state" / "log" / "hub.log"
        return log.read_text(errors="replace") if log.exists() else ""


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def smoke(members: int = 3000, screenshots: Path | None = None, folder: Path | None = None) -> Summary:
    """The whole visit; raises SmokeFailed at the first step that does not work."""
    summary = Summary()
    made = folder is None
    folder = folder or Path(tempfile.mkdtemp(prefix="wb-smoke-"))
    folder.mkdir(parents=True, exist_ok=True)
    run = Path(tempfile.mkdtemp(prefix="wb-", dir="/tmp"))
    site = Site(folder, run, free_port())
    pictures = screenshots or folder
    pictures.mkdir(parents=True, exist_ok=True)
    try:
        with summary.step(f"workbench up --demo --members {members}"):
            process = site.start(members)
        try:
            _visit(site, summary, pictures)
        except BaseException:
            process.terminate()
            process.wait(120)
            raise
        with summary.step("Ctrl-C stops everything"):
            site.stop(process)
        with summary.step("second start, nothing made anew") as found:
            begun = time.monotonic()
            process = site.start(members)
            found.append(f"{time.monotonic() - begun:.1f} s until the URL")
            site.stop(process)
            if "made in" in site.said() or "writing" in site.said():
                raise SmokeFailed(f"something was made again:\n{site.said()}")
    finally:
        shutil.rmtree(run, ignore_errors=True)
        if made:
            shutil.rmtree(folder, ignore_errors=True)
    return summary


def _visit(site: Site, summary: Summary, pictures: Path) -> None:
    password = str(yaml.safe_load((ROOT / "hub_config/demo_users.yaml").read_text())["password"])
    with contextlib.ExitStack() as stack:
        people: dict[str, Visitor] = {}
        for name in ("ana", "rui", "pat", "audrey"):
            with summary.step(f"{name} logs in"):
                people[name] = stack.enter_context(contextlib.closing(Visitor(site.url, name)))
                people[name].login(password).raise_for_status()
        for name, grant, purpose in (
            ("ana", "demo-analyst", "operations"),
            ("rui", "demo-research-sh", "research"),
            ("rui", "demo-research-lds", "research"),
        ):
            with summary.step(f"{name} runs the example notebook under {grant}") as found:
                found += _notebook(people[name], grant, purpose)
        with summary.step("audrey, who has no grant, is told so"):
            said = message_on(people["audrey"].offers())
            if "No grant is open to you" not in said:
                raise SmokeFailed(f"the page says: {said}")
        with summary.step("workbench report run plan-quality --org sierra-vista --year 2025") as found:
            found.append(_report(site))
        with summary.step("pat opens the app in Chromium") as found:
            found += _app(site, people["pat"], password, pictures)


def _notebook(visitor: Visitor, grant: str, purpose: str) -> list[str]:
    spawn = visitor.start(grant, purpose)
    kernel = visitor.kernel()
    cells = kernel.run_notebook(visitor.notebook("first-notebook.ipynb"))
    printed, _ = kernel.run(
        "import json; print(json.dumps([s.sql('select count(*) as n from member').pandas()['n'][0].item()]))"
    )
    kernel.close()
    visitor.stop()
    return [f"ready in {spawn:.1f} s", f"{cells} cells", f"{json.loads(printed)[0]:,} members in view"]


def _report(site: Site) -> str:
    command = [PROGRAM, "report", "run", "plan-quality", "--org", "sierra-vista", "--year", "2025"]
    done = subprocess.run(
        command, env=site.environment, cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    if done.returncode:
        raise SmokeFailed(done.stderr.strip() or done.stdout.strip())
    pages = sorted((site.folder / "lake" / "reports").rglob("*.html"))
    if not pages or "SYNTHETIC DATA" not in pages[-1].read_text(encoding="utf-8"):
        raise SmokeFailed("there is no report, or it does not say SYNTHETIC DATA")
    return f"{pages[-1].stat().st_size // 1024} kB of HTML"


def _app(site: Site, pat: Visitor, password: str, pictures: Path) -> list[str]:
    from playwright.sync_api import sync_playwright

    spawn = pat.start("demo-public", "program_administration")
    foreign: list[str] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM)
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(120_000)
        page.on(
            "request", lambda request: foreign.append(request.url) if _leaves(site, request.url) else None
        )
        page.goto(f"{site.url}/hub/login")
        page.fill("#username_input", "pat")
        page.fill("#password_input", password)
        page.click("#login_submit")
        page.wait_for_load_state()
        begun = time.monotonic()
        page.goto(f"{site.url}/user/pat/")
        _drawn(page)
        cold = time.monotonic() - begun
        begun = time.monotonic()
        page.reload()
        _drawn(page)
        second = time.monotonic() - begun
        page.screenshot(path=pictures / "app.png")
        page.set_viewport_size({"width": 390, "height": 844})
        page.wait_for_timeout(500)
        wide = page.evaluate("document.documentElement.scrollWidth > window.innerWidth + 1")
        page.screenshot(path=pictures / "app-phone.png")
        browser.close()
    pat.stop()
    if foreign:
        raise SmokeFailed(f"the page asked other hosts: {foreign[:3]}")
    if wide:
        raise SmokeFailed("on a phone the page is wider than the screen")
    return [f"ready in {spawn:.1f} s", f"drawn in {cold:.1f} s", f"second time in {second:.1f} s"]


def _drawn(page: Any) -> None:
    """Waits for the first chart, table and mark of synthetic data."""
    page.wait_for_selector("#rendered_cells svg", state="visible")
    page.wait_for_selector("text=SYNTHETIC DATA")


def _leaves(site: Site, url: str) -> bool:
    return not url.startswith((site.url, "data:", "blob:"))


def main() -> None:
    """Prints the summary; exits 1 with the step that failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=3000)
    parser.add_argument("--screenshots", type=Path, help="folder for the pictures of the app")
    given = parser.parse_args()
    try:
        summary = smoke(given.members, given.screenshots)
    except SmokeFailed as failed:
        print(f"smoke: FAILED {failed}", file=sys.stderr)
        sys.exit(1)
    print("\nA visitor's day at the workbench, all of it real:\n")
    print("\n".join(summary.lines))


if __name__ == "__main__":
    main()
