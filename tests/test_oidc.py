"""Login at a real OpenID Connect provider: groups decide, names are safe, and what is taken away there ends here."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from hub_fixture import HubData
from oidc_fixture import (
    REFRESH_SECONDS,
    SECRET,
    SILENT_SECONDS,
    TOKEN_SECONDS,
    Site,
    below,
    bound,
    site_on,
    words,
)
from playwright.sync_api import sync_playwright
from visitor import CellFailed, Kernel, Visitor
from websocket import WebSocketException

from hub_config.oidc import REFRESH_SECONDS as USUAL_REFRESH
from hub_config.spawner import POLL_SECONDS
from workbench.broker.hub import KEEP_SECONDS

pytestmark = [pytest.mark.hub, pytest.mark.sandbox]
ASK = "print('rows', s.sql('select count(*) as n from member').pandas()['n'][0])"


@pytest.fixture(scope="module")
def site(hub_data: HubData, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site_on(hub_data, tmp_path_factory.mktemp("oidc")) as running:
        yield running


BUSY = 90.0
"""Seconds that a busy machine may add to what was promised before it counts as not happening at all."""


def until(found: Callable[[], object], seconds: float, what: str) -> float:
    """Waits until it is so; the seconds that it took."""
    begun = time.monotonic()
    while not found():
        assert time.monotonic() - begun < seconds, what
        time.sleep(0.1)
    return time.monotonic() - begun


def remembered(site: Site, name: str) -> set[str]:
    """The groups that the Hub's database gives a person, read beside the Hub, so that nobody makes a request."""
    database = site.hub.data.state / "hub" / "jupyterhub.sqlite"
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            'SELECT g.name FROM users u JOIN user_group_map m ON m.user_id = u.id JOIN "groups" g ON g.id = m.group_id '
            "WHERE u.name = ?",
            (name,),
        ).fetchall()
    return {group for (group,) in rows}


def working(site: Site, name: str, groups: list[str]) -> tuple[Visitor, Kernel]:
    """A person whose kernel has read from the broker."""
    site.provider.person(name, groups)
    visitor, answer = site.come(name)
    assert answer.status_code == 200, words(answer.text)
    visitor.start("demo-analyst", "operations")
    kernel = visitor.kernel()
    assert "rows" in kernel.run(f"import workbench as wb; s = wb.connect(); {ASK}")[0]
    return visitor, kernel


@pytest.fixture
def grants(site: Site) -> Iterator[Path]:
    """The site's folder of grants, without the test's own file afterwards."""
    yield site.hub.data.grants
    (site.hub.data.grants / "late.yaml").unlink(missing_ok=True)


def test_the_groups_claim_decides_which_grants_are_open_and_no_other_group_reaches_the_hub(
    site: Site,
) -> None:
    site.provider.person("rui", ["research-valley", "everyone", "x,auditors", "admin", 7, None])
    rui, answer = site.come("rui")
    assert answer.status_code == 200
    assert site.groups_of(rui) == ["research-valley"]
    assert "demo-research-sh|research" in rui.offers()
    assert rui.get("/services/reports/audit").status_code == 403
    assert rui.model()["admin"] is False


@pytest.mark.parametrize(
    ("sub", "groups"),
    [("zed", ["everyone"]), ("yva", []), ("xan", None), ("wim", "mcp"), ("vic", {"auditors": True}), ("uma", [["auditors"]])],
)  # fmt: skip
def test_nobody_without_a_group_that_opens_something_gets_in_and_the_page_says_who_gives_one(
    site: Site, sub: str, groups: object
) -> None:
    site.provider.person(sub, groups)
    visitor, answer = site.come(sub)
    assert answer.status_code == 403
    said = words(answer.text)
    assert "none of your groups there opens anything here" in said and "DHCS Data Release Office" in said
    assert "Traceback" not in answer.text
    assert "oauth_login" in visitor.get("/hub/home").text
    assert remembered(site, sub) == set()


@pytest.mark.parametrize(
    "name", ["../ana", "a/b", "a%2fb", ".hidden", "\u00e1na", "\u212aim", "ana\u200b", "a b", "ana\n", "", "x" * 129, 7, ["ana"], None]
)  # fmt: skip
def test_a_name_that_could_mean_another_path_or_person_comes_not_in(site: Site, name: object) -> None:
    site.provider.person("odd", ["auditors"], preferred_username=name)
    _, answer = site.come("odd")
    assert answer.status_code == 403
    assert "cannot be a user name here" in words(answer.text)


def test_a_name_stays_with_its_first_person_whatever_its_case_and_who_may_not_come_in_takes_none(
    site: Site,
) -> None:
    site.provider.person("1001", ["everyone"], preferred_username="lee")
    assert site.come("lee", "1001")[1].status_code == 403
    site.provider.person("1002", ["auditors"], preferred_username="Lee")
    lee, answer = site.come("lee", "1002")
    assert answer.status_code == 200 and lee.model()["name"] == "lee"
    for name in ("lee", "Lee", "LEE"):
        site.provider.person("1001", ["auditors"], preferred_username=name)
        _, answer = site.come("lee", "1001")
        assert answer.status_code == 403 and "belongs to another person" in words(answer.text)
    site.provider.person("1002", ["auditors"], preferred_username="LEE")
    assert site.come("lee", "1002")[1].status_code == 200


def test_a_grant_that_is_written_later_lets_its_group_in_and_one_that_is_over_shows_who_can_give_it(
    site: Site, grants: Path
) -> None:
    site.provider.person("liv", ["late-comers"])
    assert site.come("liv")[1].status_code == 403
    grant = yaml.safe_load((grants / "demo-analyst.yaml").read_text())
    grant |= {
        "name": "late",
        "groups": ["late-comers"],
        "valid_until": "2025-12-31",
        "approver": "Office of Late Things",
    }
    (grants / "late.yaml").write_text(yaml.safe_dump(grant, allow_unicode=True))
    liv, answer = site.come("liv")
    assert answer.status_code == 200
    said = words(liv.get("/hub/home").text)
    assert "Nothing is open to you yet" in said and "Office of Late Things" in said and "late-comers" in said
    assert "Office of Late Things" in words(liv.offers())


def test_a_broken_folder_of_grants_shuts_nobody_out_and_lets_nobody_new_in(site: Site, grants: Path) -> None:
    site.provider.person("ida", ["research-valley"])
    site.provider.person("ivo", ["late-comers"])
    assert site.come("ida")[1].status_code == 200
    (grants / "late.yaml").write_text("name: [broken")
    assert site.come("ida")[1].status_code == 200
    assert site.come("ivo")[1].status_code == 403


def test_a_group_taken_away_makes_the_broker_refuse_and_stops_the_server_without_a_request(
    site: Site,
) -> None:
    """Ana keeps another group, so that the broker alone decides; her kernel goes on asking all the while."""
    visitor, kernel = working(site, "ana", ["mcp-sierra-vista", "research-valley"])
    site.provider.person("ana", ["research-valley"])
    taken = time.monotonic()
    refused = 0.0
    while not refused:
        try:
            kernel.run(ASK, seconds=60)
        except CellFailed as failed:
            assert "mcp-sierra-vista" in str(failed) or "grant" in str(failed), failed
            refused = time.monotonic() - taken
        except (WebSocketException, OSError):
            refused = time.monotonic() - taken
        assert time.monotonic() - taken < REFRESH_SECONDS + KEEP_SECONDS + BUSY
        time.sleep(0.1)
    until(
        lambda: not bound(site.hub),
        REFRESH_SECONDS + KEEP_SECONDS + POLL_SECONDS + BUSY,
        "the server still runs",
    )
    assert remembered(site, "ana") == {"research-valley"}
    assert not visitor.model()["servers"]


def test_as_installed_a_lost_group_ends_everything_within_a_minute() -> None:
    stop_seconds = 8
    assert USUAL_REFRESH + KEEP_SECONDS + POLL_SECONDS + stop_seconds < 60


def test_a_closed_account_loses_server_groups_and_session(site: Site) -> None:
    visitor, _ = working(site, "mel", ["mcp-sierra-vista"])
    site.provider.end_sessions("mel")
    until(lambda: not bound(site.hub), REFRESH_SECONDS + BUSY, "the server still runs")
    assert remembered(site, "mel") == set()
    answer = visitor.session.get(f"{site.hub.url}/hub/api/user", timeout=90)
    assert answer.status_code == 403
    assert "oauth_login" in visitor.get("/hub/home").text


def test_the_owner_of_a_schedule_loses_a_group_without_server_or_request(site: Site) -> None:
    site.provider.person("ana", ["mcp-sierra-vista"])
    assert site.come("ana")[1].status_code == 200
    assert remembered(site, "ana") == {"mcp-sierra-vista"}
    site.provider.person("ana", ["auditors"])
    until(lambda: remembered(site, "ana") == {"auditors"}, REFRESH_SECONDS + BUSY, "the schedule would go on")


def test_a_provider_that_falls_silent_ends_nothing_at_once_and_everything_after_a_time(site: Site) -> None:
    working(site, "sam", ["mcp-sierra-vista"])
    site.provider.stop()
    silent = time.monotonic()
    try:
        time.sleep(REFRESH_SECONDS + 2)
        assert bound(site.hub), "a hiccup of the provider ends no server"
        visitor = Visitor(site.hub.url, "tom")
        state = {"client_id": "x", "code": "y"}
        answer = visitor.session.get(f"{site.hub.url}/hub/oauth_login", allow_redirects=False, timeout=90)
        begun = answer.headers["Location"].partition("state=")[2].partition("&")[0]
        back = visitor.session.get(
            f"{site.hub.url}/hub/oauth_callback?code={state['code']}&state={begun}", timeout=60
        )
        assert back.status_code == 503 and "does not answer" in words(back.text)
        assert "Traceback" not in back.text
        until(
            lambda: not bound(site.hub),
            SILENT_SECONDS + REFRESH_SECONDS + BUSY,
            "the last answer counts for ever",
        )
        assert time.monotonic() - silent > SILENT_SECONDS / 2
        assert remembered(site, "sam") == set()
    finally:
        site.provider.start()


def test_a_group_taken_away_while_the_hub_was_down_ends_the_server_when_it_is_back(site: Site) -> None:
    working(site, "kay", ["mcp-sierra-vista"])
    site.hub.kill(signal.SIGKILL)
    assert bound(site.hub), "servers outlive the Hub"
    site.provider.person("kay", ["everyone"])
    site.hub.start()
    until(lambda: not bound(site.hub), REFRESH_SECONDS + BUSY, "the server still runs")
    assert remembered(site, "kay") == set()


def test_a_server_outlives_its_owners_access_token(site: Site) -> None:
    """The refresh token is used, and kept anew where the provider gives another."""
    visitor, kernel = working(site, "joy", ["mcp-sierra-vista"])
    time.sleep(2 * TOKEN_SECONDS + REFRESH_SECONDS)
    assert "rows" in kernel.run(ASK)[0]
    assert remembered(site, "joy") == {"mcp-sierra-vista"}
    visitor.stop()


def test_tokens_lie_encrypted_and_the_secrets_are_in_no_environment(site: Site) -> None:
    state = site.hub.data.state / "hub"
    assert stat.S_IMODE((state / "auth_state.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((state / "identities.json").stat().st_mode) == 0o600
    site.provider.person("rui", ["research-valley"], email="rui@research.example")
    assert site.come("rui")[1].status_code == 200
    with closing(sqlite3.connect(f"file:{state / 'jupyterhub.sqlite'}?mode=ro", uri=True)) as connection:
        (kept,) = connection.execute("SELECT encrypted_auth_state FROM users WHERE name = 'rui'").fetchone()
    assert kept and b"access_token" not in kept
    whole = b"".join(path.read_bytes() for path in state.glob("jupyterhub.sqlite*"))
    assert b"rui@research.example" not in whole
    assert site.hub.process is not None
    children = [site.hub.process.pid, *below(site.hub.process.pid)]
    key = (state / "auth_state.key").read_text().strip()
    for pid in children:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert SECRET.encode() not in environment and key.encode() not in environment
    log = (site.hub.data.state / "hub.log").read_text()
    assert SECRET not in log and "rui@research.example" not in log
    assert "Traceback" not in log


def test_the_landing_page_of_a_stakeholder_opens_the_dashboard_with_one_tap_on_a_phone(site: Site) -> None:
    site.provider.person("pat", ["stakeholders"])
    with sync_playwright() as tool:
        browser = tool.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.set_default_timeout(120_000)
        page.goto(f"{site.hub.url}/hub/login")
        page.click("text=Sign in with your organisation")
        page.fill("input[name=sub]", "pat")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=Good to see you, pat")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        text = page.inner_text("main")
        assert "Public dashboard of the State" in text and "JupyterLab" not in text
        with page.expect_navigation():
            page.click("form.wb-open button")
        page.wait_for_url("**/user/pat/**")
        page.wait_for_selector(".wb-top")
        page.goto(f"{site.hub.url}/user/pat/lab")
        assert "There is no such page" in page.inner_text("main")
        browser.close()
    site.come("pat")[0].stop()
