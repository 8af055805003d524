"""Report pages behind a real Hub: holders of the grant read, nobody else, and nothing leaves the page."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import report_world
import yaml
from hub_fixture import PASSWORD, HubData, RunningHub, free_port
from playwright.sync_api import sync_playwright

from workbench.reports.history import History
from workbench.reports.store import Store
from workbench.settings import Settings

PAGES = "/services/reports/"
VIEW = f"{PAGES}view/plan-quality-sierra-vista/plan-quality/sierra-vista-2025"
pytestmark = [pytest.mark.hub, pytest.mark.sandbox]


@pytest.fixture(scope="module")
def made(hub: RunningHub) -> dict[str, Any]:
    """A report made by the operator's command while the Hub and its broker run."""
    command = [
        str(Path(sys.prefix) / "bin" / "workbench"),
        "report",
        "run",
        "plan-quality",
        "--org",
        "sierra-vista",
        "--json",
    ]
    ended = subprocess.run(command, env=hub.data.environment(), capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stderr
    manifest: dict[str, Any] = json.loads(ended.stdout)
    return manifest


@pytest.fixture
def grant_file(hub: RunningHub) -> Iterator[Path]:
    """The service grant's file, put back after the test."""
    file = hub.data.grants / "plan-quality.yaml"
    before = file.read_text()
    yield file
    file.write_text(before)


def test_a_holder_of_the_grant_finds_the_report_with_its_release_and_schedule(hub, made):
    page = hub.visitor("ana").get(PAGES)
    assert page.status_code == 200
    assert f'href="{VIEW}"' in page.text
    for words in (
        "Plan quality snapshot",
        "Sierra Vista",
        made["stamp"]["release"],
        "cron",
        "; next 20",
        "SYNTHETIC DATA",
        "current",
    ):
        assert words in page.text, words


def test_a_holder_reads_the_report_under_a_policy_that_lets_nothing_in_or_out(hub, made):
    page = hub.visitor("ana").get(VIEW)
    assert page.status_code == 200
    assert made["stamp"]["slice"] in page.text
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "sandbox" in policy.split("; ")
    assert "allow-" not in policy
    assert "Content-Disposition" not in page.headers
    assert page.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("name", ["pat", "rui", "audrey"])
def test_who_does_not_hold_the_grant_is_refused_with_the_reason_and_sees_no_list(hub, made, name):
    visitor = hub.visitor(name)
    answer = visitor.get(VIEW)
    assert answer.status_code == 403
    assert "mcp-sierra-vista" in answer.text
    assert made["stamp"]["slice"] not in answer.text
    listed = visitor.get(PAGES)
    assert "No report is open to you" in listed.text
    assert "plan-quality" not in listed.text


def test_a_report_that_does_not_exist_is_told_to_holders_only(hub, made):
    missing = VIEW.replace("2025", "1999")
    assert hub.visitor("ana").get(missing).status_code == 404
    assert hub.visitor("pat").get(missing).status_code == 403


def test_who_is_not_logged_in_is_sent_to_the_login(hub, made):
    answer = hub.visitor("ana", logged_in=False).get(VIEW, allow_redirects=False)
    assert answer.status_code == 302
    assert "/hub/api/oauth2/authorize" in answer.headers["Location"]


def test_a_grant_that_has_expired_closes_its_reports(hub, made, grant_file):
    visitor = hub.visitor("ana")
    assert visitor.get(VIEW).status_code == 200
    grant_file.write_text(
        yaml.safe_dump(yaml.safe_load(grant_file.read_text()) | {"valid_until": "2025-12-31"})
    )
    closed = visitor.get(VIEW)
    assert closed.status_code == 403
    assert "expired on 2025-12-31" in closed.text
    assert "plan-quality" not in visitor.get(PAGES).text


@pytest.mark.parametrize(
    "path", ["/report.ipynb", "/manifest.json", "/../../../../state/audit.key", "/%2e%2e/%2e%2e"]
)
def test_only_the_page_is_served_and_no_other_file(hub, made, path):
    assert hub.visitor("ana").get(VIEW + path).status_code in (403, 404)


def test_every_reading_and_refusal_is_written_down(hub, made):
    hub.visitor("ana").get(VIEW)
    hub.visitor("pat").get(VIEW)
    views = History(hub.data.state).views()
    assert {"user": "ana", "allowed": True, "code": ""}.items() <= views[-2].items()
    assert {"user": "pat", "allowed": False, "code": "wrong-group"}.items() <= views[-1].items()


@pytest.mark.browser
def test_the_report_fits_a_phone_and_asks_no_other_host(hub, made):
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.set_default_timeout(120_000)
        asked: list[str] = []
        said: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.goto(f"{hub.url}/hub/login?next={PAGES}")
        page.fill("#username_input", "ana")
        page.fill("#password_input", PASSWORD)
        page.click("#login_submit")
        page.wait_for_selector(".card")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        asked.clear()
        said.clear()
        page.click(".card h2 a")
        page.wait_for_selector(".stamp")
        pictures = page.locator("figure.plot img.phone")
        assert pictures.count() >= 3
        assert all(pictures.nth(n).bounding_box()["width"] > 200 for n in range(pictures.count()))
        assert page.locator("figure.plot img.wide").first.is_hidden()
        assert page.locator("main.report").bounding_box()["width"] <= 390
        assert [url for url in asked if not url.startswith((hub.url, "data:"))] == []
        assert [text for text in said if "Content Security Policy" in text] == []
        page.click("a.back")
        page.wait_for_selector(".card")
        browser.close()


@dataclass
class ScheduledData(HubData):
    """A workbench of a small lake whose report catalogue is a test's own."""

    where: Settings | None = None

    def environment(self, **more: str) -> dict[str, str]:
        assert self.where is not None
        return super().environment(WORKBENCH_REPORTS=str(self.where.reports), **more)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[report_world.World]:
    made = report_world.make(monkeypatch)
    yield made
    shutil.rmtree(made.folder, ignore_errors=True)


def test_the_hubs_report_service_fires_a_schedule_and_the_owner_reads_what_it_made(world):
    schedule = {
        "every_seconds": 3,
        "misfire": {"grace_seconds": 60},
        "runs": [{"organisation": report_world.SIERRA, "parameters": {"year": 2024}}],
    }
    world.report("quick", "print('made by the clock for', organisation, year)", schedule=schedule)
    data = ScheduledData(world.folder, world.where.run, world.where)
    running = RunningHub(data, free_port())
    try:
        running.start()
        ana, view = running.visitor("ana"), f"{PAGES}view/plan-quality-sierra-vista/quick/sierra-vista-2024"
        deadline = time.monotonic() + 180
        while (page := ana.get(view)).status_code == 404 and time.monotonic() < deadline:
            time.sleep(0.5)
        assert page.status_code == 200
        made = Store(data.lake / "reports").read("plan-quality-sierra-vista", "quick", "sierra-vista-2024")
        assert "made by the clock for sierra-vista 2024" in world.said(made)
        listed = ana.get(PAGES).text
        assert "schedule" in listed
        assert "succeeded" in listed
        for visitor in running.visitors:
            visitor.close()
    finally:
        running.stop()
