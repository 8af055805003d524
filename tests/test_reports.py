"""Reports: a catalogue that refuses what it does not understand, runs in a sandbox, outputs that are whole or not there."""

from __future__ import annotations

import hashlib
import html
import json
import re
import resource
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import report_world
import sqlalchemy as sa
import yaml
from report_world import GOLDEN, MET_7D, MET_30D, SIERRA, VISITS

from workbench.broker.audit import events
from workbench.broker.grants import GrantRefused
from workbench.broker.law import NOTICE_2_32
from workbench.errors import WorkbenchError
from workbench.reports import present
from workbench.reports.catalogue import Catalogue, CatalogueRefused, NoOwner, ParameterRefused, Report
from workbench.reports.history import History, Status
from workbench.reports.run import ReportFailed, order, run
from workbench.reports.store import OutputNotWritten, Store
from workbench.settings import PROJECT

QUICK = "print(organisation, year)"


@pytest.fixture
def world(monkeypatch):
    made = report_world.make(monkeypatch)
    yield made
    shutil.rmtree(made.folder, ignore_errors=True)


def shipped() -> Report:
    return Catalogue.load(PROJECT / "reports").get("plan-quality")


def _program(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.prefix) / "bin" / "workbench"), "report", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


# the catalogue


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour": "red"}, "colour"),
        ({"template": "missing.ipynb"}, "missing.ipynb"),
        (
            {
                "parameters": {
                    "year": {"type": "integer", "minimum": 1, "maximum": 2, "default": 3, "about": "x"}
                }
            },
            "default",
        ),
        ({"parameters": {"year": {"type": "date", "default": "x", "about": "x"}}}, "year"),
        (
            {
                "schedule": {
                    "cron": "0 5 * * 1",
                    "misfire": {"grace_seconds": 60},
                    "runs": [{"organisation": SIERRA}],
                }
            },
            "weekday",
        ),
        (
            {
                "schedule": {
                    "cron": "0 5 * *",
                    "misfire": {"grace_seconds": 60},
                    "runs": [{"organisation": SIERRA}],
                }
            },
            "five",
        ),
        (
            {
                "schedule": {
                    "every_seconds": 5,
                    "misfire": {"grace_seconds": 60},
                    "runs": [{"organisation": GOLDEN}],
                }
            },
            "owner",
        ),
        (
            {
                "schedule": {
                    "every_seconds": 5,
                    "misfire": {"grace_seconds": 60},
                    "runs": [{"organisation": SIERRA, "parameters": {"year": 1999}}],
                }
            },
            "year",
        ),
    ],
)
def test_the_catalogue_refuses_what_it_does_not_understand_and_names_the_key(world, changes, words):
    world.report("quick", QUICK, **changes)
    with pytest.raises(CatalogueRefused) as refused:
        Catalogue.load(world.where.reports)
    assert "quick.yaml" in refused.value.reason
    assert words in refused.value.reason


def test_the_shipped_catalogue_is_valid_and_its_service_grant_serves_reports_only():
    report = shipped()
    grants = yaml.safe_load((PROJECT / "grants" / "plan-quality.yaml").read_text())
    assert report.grant == grants["name"]
    assert grants["channels"] == ["reports"]
    assert report.purpose in grants["purposes"]


@pytest.mark.parametrize(
    "given", [{"year": "2022"}, {"year": "2026"}, {"year": "x"}, {"year": True}, {"month": 1}]
)
def test_a_parameter_that_is_unknown_or_out_of_range_is_refused_with_what_is_allowed(given):
    with pytest.raises(ParameterRefused) as refused:
        shipped().values(given)
    assert "2023 to 2025" in refused.value.hint or "year" in refused.value.hint


def test_defaults_fill_in_and_values_are_typed():
    assert shipped().values({}) == {"year": 2025}
    assert shipped().values({"year": "2024"}) == {"year": 2024}


def test_a_report_without_a_named_owner_does_not_run(world):
    world.report("quick", QUICK)
    with pytest.raises(NoOwner, match="golden-poppy"):
        order(world.where, "quick", GOLDEN, {})


# refusals at the command line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nope", "--org", SIERRA], "no report of that name"),
        (["run", "quick", "--org", "nowhere"], "none that the registry has"),
        (["run", "quick", "--org", SIERRA, "--year", "2030"], "out of range"),
        (["run", "quick", "--org", GOLDEN], "No owner"),
        (["run", "quick", "--org", SIERRA, "--as", "rui"], "mcp-sierra-vista"),
        (["run", "quick", "--org", SIERRA, "--as", "nobody"], "no such user"),
    ],
)
def test_a_refused_run_ends_in_one_clear_line_and_exit_code_one(world, arguments, words):
    world.report("quick", QUICK)
    ended = _program(*arguments)
    assert ended.returncode == 1
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (world.where.lake / "reports").exists()


def test_an_expired_grant_is_refused_with_its_date_and_leaves_a_row(world):
    world.report("quick", QUICK)
    world.grant(valid_until="2025-12-31")
    ended = _program("run", "quick", "--org", SIERRA)
    assert ended.returncode == 1
    assert "expired on 2025-12-31" in ended.stderr
    row = History(world.where.state).last("quick", SIERRA)
    assert (row.status, row.code) == (Status.FAILED, "grant-expired")


def test_a_lake_without_a_release_is_told_before_anything_starts(world):
    world.report("quick", QUICK)
    shutil.rmtree(world.where.lake / "releases")
    ended = _program("run", "quick", "--org", SIERRA)
    assert ended.returncode == 1
    assert "no release" in ended.stderr
    assert "release build" in ended.stderr


def test_the_list_for_machines_holds_every_key_of_the_catalogue(world):
    world.report("quick", QUICK)
    listed = json.loads(_program("list", "--json").stdout)
    assert [one["name"] for one in listed] == ["quick"]
    assert Report.model_validate(listed[0]).owners == {SIERRA: "ana"}


# the run


@pytest.fixture(scope="module")
def snapshot():
    with pytest.MonkeyPatch.context() as patch:
        made = report_world.make(patch)
        shutil.copytree(PROJECT / "reports", made.where.reports, dirs_exist_ok=True)
        shutil.copytree(
            PROJECT / "notebooks" / "templates", made.folder / "notebooks" / "templates", dirs_exist_ok=True
        )
        ended = _program("run", "plan-quality", "--org", SIERRA, "--year", "2025", "--json")
        assert ended.returncode == 0, ended.stderr
        manifest = json.loads(ended.stdout)
        yield made, Path(manifest["folder"]), manifest
        shutil.rmtree(made.folder, ignore_errors=True)


@pytest.mark.sandbox
def test_an_event_belongs_to_the_plan_of_its_days_and_never_to_the_plan_of_today(snapshot):
    _, folder, _ = snapshot
    page = (folder / "report.html").read_text()
    assert f"{MET_30D} of {VISITS} visits" in page
    assert f"{MET_7D} of {VISITS} visits" in page


@pytest.mark.sandbox
def test_the_output_is_readable_to_the_operator_only_and_its_manifest_has_every_fact_of_the_stamp(snapshot):
    made, folder, manifest = snapshot
    assert (
        folder
        == made.where.lake / "reports" / "plan-quality-sierra-vista" / "plan-quality" / "sierra-vista-2025"
    )
    for part in (folder, *folder.parents[:3]):
        assert stat.S_IMODE(part.stat().st_mode) == 0o700
    for name, fact in manifest["files"].items():
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == fact["sha256"]
    stamp = manifest["stamp"]
    assert stamp["parameters"] == {"year": 2025}
    assert (stamp["grant"], stamp["owner"], stamp["purpose"]) == (
        "plan-quality-sierra-vista",
        "ana",
        "operations",
    )
    page = (folder / "report.html").read_text()
    for fact in ("release", "slice", "grant", "code_version", "owner", "complete_through"):
        assert stamp[fact], fact
        assert str(stamp[fact]) in page, fact
    assert "SYNTHETIC DATA" in page
    assert page.count(html.escape(NOTICE_2_32)) == 1, "its grant includes Part 2 records"


@pytest.mark.sandbox
def test_the_page_holds_no_script_no_code_no_member_and_nothing_from_another_host(snapshot):
    _, folder, _ = snapshot
    page = (folder / "report.html").read_text()
    assert "<script" not in page
    assert "wb.connect" not in page
    assert not re.search(r"\b\d{8}A\b", page)
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    assert "default-src 'none'" in page
    notebook = (folder / "report.ipynb").read_text()
    assert not re.search(r"\b\d{8}A\b", notebook)
    assert "Canary" not in notebook


@pytest.mark.sandbox
def test_a_rare_race_is_not_shown_apart(snapshot):
    _, folder, _ = snapshot
    page = (folder / "report.html").read_text()
    table = page[page.index("FUM by race and ethnicity") :]
    table = table[: table.index("</table>")]
    assert ">Asian<" not in table
    assert "Hispanic or Latino" in table


@pytest.mark.sandbox
def test_a_year_without_a_member_or_visit_is_a_report_of_zeros_and_no_failure(snapshot):
    made, _, _ = snapshot
    output = run(made.where, order(made.where, "plan-quality", SIERRA, {"year": 2023}))
    page = output.html()
    assert "0 of 0 visits" in page
    assert ">nan<" not in page.lower()


PROBES = """
import json, os, socket
from pathlib import Path
found = {}
try:
    socket.create_connection(("127.0.0.1", 22), 1); found["network"] = "open"
except OSError as error:
    found["network"] = type(error).__name__
found["sockets"] = sorted(str(p) for p in Path("/run").rglob("*.sock"))
found["lake"] = [p for p in LAKE if Path(p).exists()]
found["writable"] = [p for p in ("/", "/usr", "/etc", "/run/wb") if os.access(p, os.W_OK)]
found["uid"] = os.getuid()
print("FOUND" + json.dumps(found) + "END")
"""


@pytest.mark.sandbox
def test_a_run_sees_its_brokers_socket_and_nothing_else_of_the_host(world):
    hidden = [str(world.where.lake), str(world.where.state), str(world.where.grants), "/root/.bashrc"]
    world.report("probe", PROBES.replace("LAKE", repr(hidden)))
    wanted = order(world.where, "probe", SIERRA, {})
    said = world.said(run(world.where, wanted))
    found = json.loads(said[said.index("FOUND") + 5 : said.index("END")])
    assert found["network"] in ("ConnectionRefusedError", "OSError")
    assert found["sockets"] == ["/run/wb/broker/broker.sock"]
    assert found["lake"] == []
    assert found["writable"] == []
    assert found["uid"] != 0


@pytest.mark.sandbox
def test_the_token_of_a_run_ends_with_it(world):
    world.report(
        "token", "import os; print('TOKEN', os.environ['WORKBENCH_TOKEN'], os.environ['WORKBENCH_BROKER'])"
    )
    said = world.said(run(world.where, order(world.where, "token", SIERRA, {})))
    assert "TOKEN" in said
    assert not any((world.where.run / "b").iterdir())


@pytest.mark.sandbox
def test_a_run_stands_in_the_audit_log_with_its_grant_and_owner(world):
    world.report("quick", QUICK)
    wanted = order(world.where, "quick", SIERRA, {})
    run(world.where, wanted)
    engine = sa.create_engine(world.where.database_url)
    told = [event for event in events(engine, grant=wanted.grant) if event["event"] == "report-ran"]
    engine.dispose()
    assert [(event["user"], event["detail"], event["outcome"]) for event in told[-1:]] == [
        (wanted.owner, wanted.key, "answered")
    ]


@pytest.mark.sandbox
def test_a_rerun_replaces_its_own_output_whole_and_another_years_output_stays(world):
    world.report("quick", QUICK)
    first = run(world.where, order(world.where, "quick", SIERRA, {"year": 2024}))
    other = run(world.where, order(world.where, "quick", SIERRA, {}))
    (first.folder / "stray").write_text("from before")
    second = run(world.where, order(world.where, "quick", SIERRA, {"year": 2024}))
    assert second.folder == first.folder
    assert sorted(p.name for p in second.folder.iterdir()) == ["manifest.json", "report.html", "report.ipynb"]
    assert second.manifest["stamp"]["run"] != first.manifest["stamp"]["run"]
    assert [p.name for p in sorted(second.folder.parent.iterdir())] == [first.key, other.key]


@pytest.mark.sandbox
def test_a_failed_run_leaves_the_output_of_before_and_says_why_without_values(world):
    world.report("quick", QUICK)
    before = run(world.where, order(world.where, "quick", SIERRA, {}))
    world.report("quick", "raise ValueError('00000042A was here')")
    with pytest.raises(ReportFailed) as failed:
        run(world.where, order(world.where, "quick", SIERRA, {}))
    assert "The only section" in failed.value.reason
    assert "ValueError" in failed.value.reason
    assert "00000042A" not in str(failed.value)
    assert Store(world.where.lake / "reports").read(before.grant, "quick", before.key).html() == before.html()
    row = History(world.where.state).last("quick", SIERRA)
    assert row.status is Status.FAILED
    assert "00000042A" not in row.reason


@pytest.mark.sandbox
def test_a_refusal_of_the_workbenchs_own_is_told_in_its_words(world):
    world.report("refused", "import workbench as wb\nwb.connect().sql('select * from nowhere').arrow()")
    with pytest.raises(ReportFailed) as failed:
        run(world.where, order(world.where, "refused", SIERRA, {}))
    assert "nowhere" in failed.value.hint


@pytest.mark.sandbox
def test_a_run_that_takes_too_long_is_ended(world):
    world.report("slow", "import time; time.sleep(60)", limits={"seconds": 5, "memory_mb": 1024})
    with pytest.raises(ReportFailed) as failed:
        run(world.where, order(world.where, "slow", SIERRA, {}))
    assert "5 s" in failed.value.reason or "section" in failed.value.reason


@pytest.mark.sandbox
def test_a_lapsed_owner_stops_a_run_before_anything_is_read(world):
    world.report("quick", QUICK)
    world.users({"ana": []})
    with pytest.raises(GrantRefused, match="mcp-sierra-vista"):
        run(world.where, order(world.where, "quick", SIERRA, {}))
    assert not (world.where.lake / "slices").exists()


# the store


STAMP = {"grant": "g", "report": "r", "organisation": "o"}
_FILL = """
import resource, signal, sys
from pathlib import Path
from workbench.reports.store import OutputNotWritten, Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    Store(Path(sys.argv[1])).write({"grant": "g", "report": "r"}, "k", {"report.html": b"new" * 1000})
except OutputNotWritten as error:
    print(error.code)
"""


def test_a_disk_that_is_full_leaves_the_old_output_and_no_leftovers(tmp_path):
    store = Store(tmp_path / "reports")
    store.write(STAMP, "k", {"report.html": b"old"})
    ended = subprocess.run([sys.executable, "-c", _FILL, str(store.root)], capture_output=True, text=True)
    assert ended.stdout.strip() == "output-not-written", ended.stderr
    assert store.read("g", "r", "k").html() == "old"
    assert [p.name for p in (store.root / "g" / "r").iterdir()] == ["k"]
    assert issubclass(OutputNotWritten, WorkbenchError)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_reader_never_finds_half_an_output_while_it_is_replaced(tmp_path):
    store = Store(tmp_path / "reports")
    writer = """
import sys
from pathlib import Path
from workbench.reports.store import Store
for n in range(150):
    Store(Path(sys.argv[1])).write({"grant": "g", "report": "r"}, "k", {"report.html": str(n).encode() * 500})
"""
    store.write(STAMP, "k", {"report.html": b"first" * 500})
    child = subprocess.Popen([sys.executable, "-c", writer, str(store.root)])
    seen = set()
    while child.poll() is None:
        page = store.read("g", "r", "k").html()
        assert len(page) >= 500
        seen.add(page[:5])
    assert child.returncode == 0
    assert len(seen) > 3
    assert [p.name for p in (store.root / "g" / "r").iterdir()] == ["k"]


def test_a_changed_report_is_not_shown(tmp_path):
    store = Store(tmp_path / "reports")
    output = store.write(STAMP, "k", {"report.html": b"true"})
    (output.folder / "report.html").write_text("false")
    with pytest.raises(WorkbenchError, match="not the one that was written"):
        store.read("g", "r", "k").html()


# small cells


def _events(seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    size = int(random.integers(20, 400))
    met_7d = random.random(size) < 0.35
    return pd.DataFrame(
        {
            "member_id": random.integers(0, size, size).astype(str),
            "race": random.choice(["white", "hispanic", "asian", "black"], size, p=[0.5, 0.35, 0.1, 0.05]),
            "county": random.choice(["19", "37", "02"], size, p=[0.7, 0.25, 0.05]),
            "met_7d": met_7d,
            "met_30d": met_7d | (random.random(size) < 0.3),
        }
    )


@pytest.mark.parametrize("seed", range(40))
def test_no_row_shows_or_gives_away_a_count_of_one_to_ten_people(seed):
    events = _events(seed)
    shown = present.rate_tables(
        events, {"race": ["white", "hispanic", "asian", "black"], "county": ["19", "37", "02"]}
    )
    total = shown["total"].iloc[0]
    for column, table in shown.items():
        for _, row in table.iterrows():
            part = events if column == "total" else events[events[column].isin(row["codes"])]
            sets = {"hidden": [part["met_30d"] | True, part["met_30d"], ~part["met_30d"]]}
            sets["hidden_7d"] = [part["met_7d"], ~part["met_7d"], part["met_30d"] & ~part["met_7d"]]
            for mask, quantities in sets.items():
                people = [part.loc[one, "member_id"].nunique() for one in quantities]
                assert row[mask] or not any(1 <= n <= 10 for n in people), (column, row["code"], people)
        if column != "total" and not total["hidden"]:
            for number, mask in (("met_30d", "hidden"), ("met_7d", "hidden_7d")):
                gone = table[table[mask]]
                assert len(gone) != 1 or total[mask], (
                    column,
                    number,
                    "the one hidden row follows by subtraction",
                )


@pytest.mark.parametrize("seed", range(40))
def test_rows_that_are_put_together_add_up_to_the_total(seed):
    events = _events(seed)
    shown = present.rate_tables(events, {"race": ["white", "hispanic", "asian", "black"]})
    table, total = shown["race"], shown["total"].iloc[0]
    if not table["hidden"].any() and not total["hidden"]:
        assert table["events"].sum() == total["events"] == len(events)
        assert table["met_30d"].sum() == total["met_30d"]


def test_a_plan_with_a_handful_of_visits_shows_none_of_their_numbers():
    events = _events(1).head(7)
    shown = present.rate_tables(events, {"race": ["white", "hispanic", "asian", "black"]})
    total = shown["total"].iloc[0]
    assert total["hidden"]
    assert present.count(total["events"]) == present.rate(total, "30d") == present.MARK
    assert shown["race"]["hidden"].all()
