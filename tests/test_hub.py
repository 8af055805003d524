"""The Hub, its spawn page, sandboxes and refusals: everything real."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_fixture import RunningHub
from visitor import CellFailed, Visitor, message_on
from websocket import WebSocketException

from workbench.sandbox import PYTHON, Sandbox, launch, seats
from workbench.sandbox.bwrap import start_ticks

pytestmark = [pytest.mark.hub, pytest.mark.sandbox]


@pytest.fixture(scope="module")
def ana(hub: RunningHub) -> Iterator[Visitor]:
    visitor = hub.started("ana", "demo-analyst", "operations")
    yield visitor
    visitor.stop()


@pytest.fixture
def extra_grant(hub: RunningHub) -> Iterator[Path]:
    """A grant file of the test's own in the Hub's folder of grants."""
    path = hub.data.grants / "test-expired.yaml"
    text = (hub.data.grants / "demo-analyst.yaml").read_text()
    text = text.replace("name: demo-analyst", "name: test-expired").replace("2035-12-31", "2025-06-30")
    path.write_text(text)
    yield path
    path.unlink()


def grants_on(page: str) -> set[str]:
    return {value.partition("|")[0] for value in re.findall(r'name="choice"[^>]*value="([^"]+)"', page)}


def test_a_wrong_password_is_refused_in_words(hub: RunningHub) -> None:
    answer = hub.visitor("ana", logged_in=False).login("not-the-password")
    assert answer.status_code == 403
    assert "Invalid username or password" in message_on(answer.text)


def test_a_stranger_cannot_log_in_with_the_right_password(hub: RunningHub) -> None:
    assert hub.visitor("mallory", logged_in=False).login("workbench-demo").status_code == 403


@pytest.mark.parametrize(
    ("name", "offered"),
    [
        ("rui", {"demo-research-sh", "demo-research-lds"}),
        ("pat", {"demo-public"}),
        ("audrey", set()),
    ],
)
def test_the_spawn_page_offers_a_users_own_grants(hub: RunningHub, name: str, offered: set[str]) -> None:
    assert grants_on(hub.visitor(name).offers()) == offered


def test_who_has_no_grant_is_told_so_and_gets_no_start_button(hub: RunningHub) -> None:
    page = hub.visitor("audrey").offers()
    assert "No grant is open to you" in message_on(page)
    assert 'type="submit"' not in page


@pytest.mark.parametrize(
    ("grant", "purpose", "words"),
    [
        ("demo-research-sh", "treatment", "does not serve that purpose. It serves: research"),
        ("demo-analyst", "operations", "There is no grant"),
        ("no-such-grant", "research", "There is no grant"),
        ("", "", "Choose a grant and a purpose"),
    ],
)
def test_a_choice_that_is_not_the_users_is_refused_with_the_reason(
    hub: RunningHub, grant: str, purpose: str, words: str
) -> None:
    rui = hub.visitor("rui")
    answer = rui.ask_to_start(grant, purpose)
    assert 400 <= answer.status_code < 404
    assert words in message_on(answer.text)
    assert rui.model()["servers"] == {}


def test_a_service_grant_opens_no_notebook(hub: RunningHub) -> None:
    ana = hub.visitor("ana")
    if not ana.model()["servers"]:
        assert "plan-quality-sierra-vista" not in grants_on(ana.offers())
        answer = ana.ask_to_start("plan-quality-sierra-vista", "operations")
        assert "reports only" in message_on(answer.text)


def test_an_expired_grant_is_shown_with_its_reason_and_cannot_be_started(
    hub: RunningHub, extra_grant: Path
) -> None:
    ana = hub.visitor("ana")
    if ana.model()["servers"]:
        ana.stop()
    deadline = time.monotonic() + 90
    while "test-expired" not in (page := ana.offers()) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert "expired on 2025-06-30" in page
    assert "test-expired" not in grants_on(page)
    answer = ana.ask_to_start("test-expired", "operations")
    assert answer.status_code == 403
    assert "expired on 2025-06-30" in message_on(answer.text)


def test_with_the_broker_down_the_spawn_page_says_so_and_nothing_starts(hub: RunningHub) -> None:
    control = hub.data.run / "control" / "control.sock"
    away = control.with_suffix(".away")
    rui = hub.visitor("rui")
    rui.offers()
    control.rename(away)
    try:
        page = rui.offers()
        assert "data broker does not answer" in message_on(page)
        assert 'type="submit"' not in page
        answer = rui.ask_to_start("demo-research-sh", "research")
        assert answer.status_code == 503
        assert "data broker does not answer" in message_on(answer.text)
    finally:
        away.rename(control)
    assert rui.model()["servers"] == {}


def test_the_example_notebook_runs_from_top_to_bottom(ana: Visitor) -> None:
    kernel = ana.kernel()
    assert kernel.run_notebook(ana.notebook("first-notebook.ipynb")) > 5
    kernel.close()


def test_a_kernel_sees_no_network_and_no_other_socket(ana: Visitor) -> None:
    kernel = ana.kernel()
    printed, _ = kernel.run(
        "import os, subprocess\n"
        "r = subprocess.run(['workbench', 'isolation-report'], capture_output=True, text=True)\n"
        "print(r.returncode, r.stdout[-2000:], r.stderr)\n"
        "print(sorted(os.listdir('/run/wb')), sorted(os.listdir('/run/wb/broker')), sorted(os.listdir('/run/wb/hub')))"
    )
    assert printed.startswith("0 "), printed
    assert "GOT OUT" not in printed
    assert "['broker', 'hub'] ['broker.sock'] ['hub.sock']" in printed
    kernel.close()


@pytest.mark.parametrize(
    "path",
    [
        "files/first-notebook.ipynb",
        "files/first-notebook.ipynb?download=1",
        "nbconvert/html/first-notebook.ipynb",
        "nbconvert/html/first-notebook.ipynb?download=true",
        "api/nbconvert",
        "api/contents/first-notebook.ipynb?download=1",
    ],
)
def test_lab_hands_out_no_files(ana: Visitor, path: str) -> None:
    assert ana.get(f"/user/ana/{path}").status_code == 403


@pytest.mark.parametrize(
    "path", ["lab", "lab/tree/first-notebook.ipynb", "api/contents", "tree", "no/such/page"]
)
def test_every_answer_of_lab_forbids_other_hosts_and_downloads(ana: Visitor, path: str) -> None:
    policy = ana.get(f"/user/ana/{path}").headers["Content-Security-Policy"]
    directives = dict(part.strip().partition(" ")[::2] for part in policy.split(";"))
    assert directives["connect-src"] == "'self' blob: data:"
    assert directives["form-action"] == "'self'"
    assert "allow-scripts" in directives["sandbox"] and "allow-downloads" not in directives["sandbox"]
    for sources in directives.values():
        assert not re.search(r"(?:https?|wss?):|\*", sources)


def test_nobody_opens_the_server_of_somebody_else(hub: RunningHub, ana: Visitor) -> None:
    rui = hub.visitor("rui")
    for path in ("/user/ana/lab", "/user/ana/api/contents", "/user/ana/api/kernels"):
        assert rui.get(path).status_code in (403, 404)


def test_a_token_of_another_server_is_refused_on_my_socket(hub: RunningHub, ana: Visitor) -> None:
    rui = hub.started("rui", "demo-research-sh", "research")
    theirs = rui.kernel()
    token = theirs.run("import os; print(os.environ['JUPYTERHUB_API_TOKEN'])")[0].strip()
    theirs.close()
    mine = ana.kernel()
    ask = (
        "import http.client, os, socket\n"
        "def ask(token):\n"
        "    c = http.client.HTTPConnection('b'); c.sock = socket.socket(socket.AF_UNIX)\n"
        "    c.sock.connect(os.environ['WORKBENCH_BROKER'])\n"
        "    c.request('GET', '/tables', headers={'Authorization': 'Bearer ' + token})\n"
        "    return c.getresponse().status\n"
    )
    printed, _ = mine.run(ask + f"print(ask({token!r}), ask(os.environ['JUPYTERHUB_API_TOKEN']))")
    assert printed.split() == ["401", "200"]
    mine.close()
    rui.stop()


def test_nothing_written_under_one_grant_is_readable_under_another(hub: RunningHub) -> None:
    rui = hub.started("rui", "demo-research-sh", "research")
    kernel = rui.kernel()
    kernel.run("open('/home/user/rows.csv', 'w').write('secret'); open('/tmp/rows.csv', 'w').write('secret')")
    kernel.close()
    rui.stop()
    rui.start("demo-research-lds", "research")
    kernel = rui.kernel()
    printed, _ = kernel.run(
        "import os\n"
        "print(os.path.exists('/home/user/rows.csv'), os.path.exists('/tmp/rows.csv'), os.listdir('/home'))"
    )
    assert printed.strip() == "False False ['user']"
    kernel.close()
    rui.stop()
    homes = hub.data.state / "homes" / "rui"
    first, second = (homes / grant for grant in ("demo-research-sh", "demo-research-lds"))
    assert (first / "rows.csv").read_text() == "secret"
    assert all(stat.S_IMODE(home.stat().st_mode) == 0o700 for home in (first, second))
    if os.geteuid() == 0:
        assert first.stat().st_uid != second.stat().st_uid
        assert min(first.stat().st_uid, second.stat().st_uid) >= 200_000


def test_a_killed_hub_comes_back_to_running_servers_with_their_state(hub: RunningHub) -> None:
    rui = hub.started("rui", "demo-research-sh", "research")
    kernel = rui.kernel()
    kernel.run("import workbench as wb; s = wb.connect(); kept = 42")
    sandbox = (hub.data.run / "u").glob("*.json")
    records = {path.name: path.read_text() for path in sandbox}
    hub.kill(signal.SIGKILL)
    hub.start()
    assert {path.name: path.read_text() for path in (hub.data.run / "u").glob("*.json")} == records
    again = hub.visitor("rui")
    assert again.ready()
    again.get("/user/rui/")
    reopened = again.reopen(kernel.id)
    printed, _ = reopened.run("print(kept, s.sql('select count(*) as n from member').pandas()['n'][0] > 0)")
    assert printed.split() == ["42", "True"]
    again.stop()


def test_a_sandbox_that_no_hub_knows_is_ended_when_the_hub_starts(hub: RunningHub) -> None:
    orphan = launch(Sandbox(command=[PYTHON, "-c", "import time; time.sleep(300)"], outlives_launcher=True))
    seats.Seat(hub.data.run, "99999").take(orphan.child_pid, orphan.started)
    hub.kill(signal.SIGTERM)
    hub.start()
    assert orphan.wait(60) != 0
    assert not (hub.data.run / "u" / "99999.json").exists()


def test_code_inside_cannot_take_the_servers_place(hub: RunningHub) -> None:
    """Who kills the server from a kernel ends the sandbox: no program without our headers can answer in its name."""
    if (idle := hub.visitor("rui")).model()["servers"]:
        idle.stop()
    ours = set(seats_of(hub))
    rui = hub.started("rui", "demo-research-sh", "research")
    kernel = rui.kernel()
    printed, _ = kernel.run("import os; print(sorted(f for _, _, files in os.walk('/run') for f in files))")
    assert printed.strip() == "['broker.sock', 'hub.sock']"
    before = set(seats_of(hub)) - ours
    with pytest.raises((CellFailed, WebSocketException, OSError)):
        kernel.run("import os, signal; os.kill(os.getppid(), signal.SIGKILL)", seconds=15)
    deadline = time.monotonic() + 150
    while rui.get("/user/rui/api").status_code == 200 or (before & set(seats_of(hub))):
        assert time.monotonic() < deadline, "the server still answers"
        rui.model()
        time.sleep(1)


def seats_of(hub: RunningHub) -> list[str]:
    """The sandboxes that live on after their record says so."""
    records = [json.loads(path.read_text()) for path in (hub.data.run / "u").glob("*.json")]
    return [r["started"] for r in records if start_ticks(r["child_pid"]) == r["started"]]


def test_stopping_a_server_leaves_no_process_socket_or_binding(hub: RunningHub) -> None:
    rui = hub.started("rui", "demo-research-sh", "research")
    records = {path.stem for path in (hub.data.run / "u").glob("*.json")}
    bindings = {path.name for path in (hub.data.run / "b").iterdir()}
    rui.stop()
    gone = records - {path.stem for path in (hub.data.run / "u").glob("*.json")}
    assert len(gone) == 1
    assert not (hub.data.run / "u" / f"{gone.pop()}.sock").exists()
    assert len(bindings - {path.name for path in (hub.data.run / "b").iterdir()}) == 1


def test_a_stakeholder_gets_the_app_and_no_lab(hub: RunningHub) -> None:
    pat = hub.started("pat", "demo-public", "program_administration")
    page = pat.get("/user/pat/")
    assert page.status_code == 200
    assert "Workbench" in page.text
    for path in ("lab", "tree", "api/contents", "api/kernels", "api/sessions", "api/terminals"):
        answer = pat.session.get(f"{hub.url}/user/pat/{path}", allow_redirects=False, timeout=90)
        assert answer.status_code != 200, path
    pat.stop()


def test_a_new_home_has_the_examples_and_an_old_one_is_left_alone(hub: RunningHub) -> None:
    home = hub.data.state / "homes" / "ana" / "demo-analyst"
    assert (home / "first-notebook.ipynb").is_file()
    (home / "mine.txt").write_text("keep")
    if os.geteuid() == 0:
        shutil.chown(home / "mine.txt", home.stat().st_uid)
    ana = hub.started("ana", "demo-analyst", "treatment")
    assert (home / "mine.txt").read_text() == "keep"
    kernel = ana.kernel()
    assert kernel.run("print(open('/home/user/mine.txt').read())")[0].strip() == "keep"
    kernel.close()
