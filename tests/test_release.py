"""A release is immutable, whole or not there, the same for the same inputs, and accounts for every row."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from tests.lake_drop import Drop, Record, fill, line, month, year
from workbench.cli.lake import release as release_command
from workbench.lake import derive, write
from workbench.lake.build import BuildBusy, _lake
from workbench.lake.layouts import SourceRefused
from workbench.lake.release import Release, UnknownRelease, build, list_releases, open_release
from workbench.schema import dictionary

A, B = "00000001A", "00000002B"
ED: Record = {"_033": "23", "_037": "F322", "_087": "0450", "_088": "99284", "_032": "0131"}


def records() -> dict[str, list[Record]]:
    """Two members: A follows up an emergency visit after five days at a Part 2 program, B has no claims."""
    return {
        "ME_a.txt": [*year(A), *year(B, county="19", _003="golden-poppy")],
        "MC_a.txt": [
            line("E1", "20250301", **ED),
            line("F1", "20250306", _037="F322", _038="I10", _148="77"),
            line("F1", "20250306", _006="2", _037="F322", _038="E119", _148="77"),
            line("V1", "20250401"),
            line("V1", "20250401", _007="2", _157="22"),
            line("V2", "20250402", _123="100.00"),
            line("V2", "20250402", _007="2", _123="70.00", _024="20260105"),
        ],
        "PC_a.txt": [fill("P1"), fill("P2", _006="1"), fill("P2", _006="2"), fill("P2", _006="1", _007="2")],
    }


PROVIDERS = "npi,name,taxonomy,county_code,part2_program\n77,Program,261QR0405X,54,true\n"


def drop(folder: Path, **small: str) -> Path:
    return Drop(folder, dict(records()), {"providers.csv": PROVIDERS, **small}).write()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder = tmp_path_factory.mktemp("release")
    return build(drop(folder / "sources"), folder / "lake")


def table(release: Release, name: str) -> list[dict[str, Any]]:
    return [row for part in release.parts(name) for row in pq.read_table(part).to_pylist()]


def _types(schema: pa.Schema) -> list[tuple[str, pa.DataType]]:
    return [(field.name, field.type) for field in schema]


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_equal_inputs_give_equal_bytes_under_the_same_id(built: Release, tmp_path: Path) -> None:
    again = build(drop(tmp_path / "sources"), tmp_path / "lake")
    assert again.id == built.id
    assert files(again.path) == files(built.path)


def test_building_twice_gives_the_release_that_is_there_and_does_not_touch_it(tmp_path: Path) -> None:
    sources = drop(tmp_path / "s")
    first = build(sources, tmp_path / "lake")
    before = {path: path.stat().st_mtime_ns for path in first.path.rglob("*")}
    assert build(sources, tmp_path / "lake") == first
    assert {path: path.stat().st_mtime_ns for path in first.path.rglob("*")} == before
    assert not os.access(first.parts("member")[0], os.W_OK) or os.geteuid() == 0
    assert first.parts("member")[0].stat().st_mode & 0o222 == 0


def test_a_changed_source_and_another_as_of_date_give_other_releases(built: Release, tmp_path: Path) -> None:
    sources = drop(tmp_path / "s")
    other_day = build(sources, tmp_path / "lake", as_of=date(2025, 12, 31))
    (sources / "panel.csv").write_text(
        f"member_id,organisation_id,relation,start_date,end_date\n{A},clinic-1,provider,2025-01-01,\n"
    )
    other_source = build(sources, tmp_path / "lake")
    (sources / "sources.json").write_text('{"synthetic": false}')
    real = build(sources, tmp_path / "other")
    assert len({built.id, other_day.id, other_source.id, real.id}) == 4
    assert not real.synthetic
    assert other_day.id.startswith("20251231-")
    assert [r.id for r in list_releases(tmp_path / "lake")] == [other_day.id, other_source.id]
    assert open_release(tmp_path / "lake").id == other_source.id


def test_every_table_has_the_dictionarys_columns_and_types_in_its_total_order(built: Release) -> None:
    assert built.tables() == list(dictionary())
    for name, spec in dictionary().items():
        for part in built.parts(name):
            assert dict(_types(pq.read_schema(part))) == dict(_types(spec.arrow_schema)), name
            groups = pq.read_metadata(part)
            used = {groups.row_group(g).column(0).compression for g in range(groups.num_row_groups)}
            assert used <= {"ZSTD"}, name
        order = built.manifest["tables"][name]["sorted_by"]
        rows = [tuple((row[c] is None, row[c]) for c in order) for row in table(built, name)]
        assert rows == sorted(rows), name
        assert len(rows) == len(set(rows)), name


def test_the_manifest_describes_the_files_and_says_what_it_was_made_from(built: Release) -> None:
    m = built.manifest
    assert (m["layout"], m["synthetic"], built.synthetic) == ("native", True, True)
    assert {"code_version", "dictionary", "code_lists", "as_of", "complete_through"} <= set(m)
    found = files(built.path)
    stated = [part for t in m["tables"].values() for part in t["parts"]] + m["set_aside"]
    assert {entry["file"]: entry["sha256"] for entry in stated} == {
        k: v for k, v in found.items() if k != "manifest.json"
    }
    for entry in stated:
        assert pq.read_metadata(built.path / entry["file"]).num_rows == entry["rows"]


def test_every_source_row_is_kept_or_set_aside_with_a_reason(built: Release) -> None:
    accounts = {s["kind"]: s for s in built.manifest["sources"]}
    assert all(s["rows"] == s["kept"] + sum(s["set_aside"].values()) for s in accounts.values())
    assert accounts["MC"]["set_aside"] == {"superseded version": 2, "void": 1}
    assert accounts["PC"]["set_aside"] == {"superseded version": 2}
    [aside] = [e for e in built.manifest["set_aside"] if "-MC" in e["file"]]
    sent = pq.read_table(built.path / aside["file"]).to_pylist()
    assert [(row["source_row"], row["reason"]) for row in sent] == [
        (4, "superseded version"), (5, "void"), (6, "superseded version")]  # fmt: skip
    assert all(row["record"].split("|")[4] in {"V1", "V2"} for row in sent)


def test_only_final_versions_stand_in_the_claim_tables_and_all_in_claim_version(built: Release) -> None:
    assert {(c["claim_id"], c["version"]) for c in table(built, "medical_claim")} == {
        ("E1", 1),
        ("F1", 1),
        ("V2", 2),
    }
    outcomes = {
        (v["claim_id"], v["version"]): v["outcome"]
        for v in table(built, "claim_version")
        if v["kind"] == "medical"
    }
    assert outcomes == {
        ("E1", 1): "final", ("F1", 1): "final", ("V1", 1): "superseded", ("V1", 2): "void",
        ("V2", 1): "superseded", ("V2", 2): "final"}  # fmt: skip
    charges = {row["claim_id"]: row["charge_amount"] for row in table(built, "medical_claim_line")}
    assert charges["V2"] == Decimal("70.00")


def test_the_lines_of_a_pharmacy_claim_become_claims_and_a_dropped_line_is_gone(built: Release) -> None:
    """P2 had two lines; its second version has only the first."""
    assert {c["claim_id"] for c in table(built, "pharmacy_claim")} == {"P1", "P2-1"}
    outcomes = {
        (v["claim_id"], v["version"]): v["outcome"]
        for v in table(built, "claim_version")
        if v["kind"] == "pharmacy"
    }
    assert outcomes == {
        ("P1", 1): "final",
        ("P2-1", 1): "superseded",
        ("P2-2", 1): "superseded",
        ("P2-1", 2): "final",
    }
    assert {c["drug_name"] for c in table(built, "pharmacy_claim")} == {"sertraline"}


def test_diagnoses_of_all_lines_are_united_and_no_two_share_a_position(built: Release) -> None:
    found = {
        (d["role"], d["position"]): d["code"] for d in table(built, "diagnosis") if d["claim_id"] == "F1"
    }
    assert found[("principal", 1)] == "F322"
    assert {code for (role, _), code in found.items() if role == "other"} == {"I10", "E119"}


def test_months_join_to_unbroken_spans_of_equal_coverage(tmp_path: Path) -> None:
    months = [
        *(month(A, f"2025-{n:02d}") for n in (1, 2, 3)),
        *(month(A, f"2025-{n:02d}", _009="60") for n in (4, 5)),
        *(month(A, f"2025-{n:02d}", _009="60") for n in (7, 8)),
        *(month(A, f"2025-{n:02d}", _009="60", _003="golden-poppy", county="19") for n in (9, 10, 11, 12)),
        *year(B),
    ]
    release = build(
        Drop(tmp_path / "s", {"ME_a.txt": months, "MC_a.txt": [line()]}).write(), tmp_path / "lake"
    )
    spans = [
        (s["organisation_id"], s["aid_code"], str(s["start_date"]), str(s["end_date"]))
        for s in table(release, "eligibility")
        if s["member_id"] == A
    ]
    assert spans == [
        ("sierra-vista", "M1", "2025-01-01", "2025-03-31"),
        ("sierra-vista", "60", "2025-04-01", "2025-05-31"),
        ("sierra-vista", "60", "2025-07-01", "2025-08-31"),
        ("golden-poppy", "60", "2025-09-01", "2025-12-31"),
    ]
    relations = [
        (a["relation"], a["organisation_id"], str(a["start_date"]), str(a["end_date"]))
        for a in table(release, "attribution")
        if a["member_id"] == A
    ]
    assert sorted(relations) == [
        ("bhp", "bhp-19", "2025-09-01", "None"),
        ("bhp", "bhp-54", "2025-01-01", "2025-05-31"),
        ("bhp", "bhp-54", "2025-07-01", "2025-08-31"),
        ("county", "county-19", "2025-09-01", "None"),
        ("county", "county-54", "2025-01-01", "2025-05-31"),
        ("county", "county-54", "2025-07-01", "2025-08-31"),
        ("mcp", "golden-poppy", "2025-09-01", "None"),
        ("mcp", "sierra-vista", "2025-01-01", "2025-05-31"),
        ("mcp", "sierra-vista", "2025-07-01", "2025-08-31"),
    ]
    months_of_a = [m for m in table(release, "member_month") if m["member_id"] == A]
    assert [m["month"].month for m in months_of_a] == [1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]
    assert {m["organisation_id"] for m in months_of_a if m["month"].month > 8} == {"golden-poppy"}
    assert [m["age"] for m in months_of_a[:2]] == [34, 35]


def test_the_member_is_as_last_reported_and_an_empty_value_replaces_nothing(tmp_path: Path) -> None:
    sume = f"member_id,language,phone,email,death_date,county_code\n{A},Hmong,,,,19\n"
    months = [month(A, "2025-01", _020="Old", _024="Visalia"), month(A, "2025-02", _020="New", _024="")]
    sources = Drop(
        tmp_path / "s", {"ME_a.txt": months[::-1], "MC_a.txt": [line(_016="000112222")]}, {"SUME.csv": sume}
    )
    [member] = table(build(sources.write(), tmp_path / "lake"), "member")
    found = {c: member[c] for c in ("last_name", "city", "language", "county_code", "ssn", "race")}
    assert found == {
        "last_name": "New", "city": "Visalia", "language": "Hmong", "county_code": "19", "ssn": "000112222",
        "race": "white"}  # fmt: skip


def test_two_submitters_may_use_one_control_number(tmp_path: Path) -> None:
    claims = [line("SAME"), line("SAME", member=B, _001="dhcs")]
    sources = Drop(tmp_path / "s", {"ME_a.txt": [*year(A), *year(B)], "MC_a.txt": claims}).write()
    found = {
        (c["claim_id"], c["member_id"]) for c in table(build(sources, tmp_path / "lake"), "medical_claim")
    }
    assert found == {("sierra-vista:SAME", A), ("dhcs:SAME", B)}


def test_measure_events_rest_on_all_claims(built: Release) -> None:
    """The follow-up is at a Part 2 program, and it counts."""
    met = {
        (e["basis"], e["numerator"]): e["met"] for e in table(built, "measure_event") if e["measure"] == "FUM"
    }
    assert met == {("all", "7d"): True, ("all", "30d"): True}
    [event] = {
        (e["event_id"], e["organisation_id"], e["measure_year"]) for e in table(built, "measure_event")
    }
    assert event == ("E1", "sierra-vista", 2025)
    assert {(s["claim_id"], s["reason"]) for s in table(built, "sensitive_claim")} == {("F1", "provider")}


@pytest.mark.parametrize(
    ("as_of", "through"),
    [
        (date(2026, 1, 31), date(2025, 12, 31)),
        (date(2026, 1, 30), date(2025, 11, 30)),
        (date(2026, 3, 3), date(2026, 1, 31)),
        (date(2024, 12, 31), date(2024, 11, 30)),
    ],
)
def test_complete_through_is_the_last_month_with_a_run_out_of_31_days(as_of: date, through: date) -> None:
    assert derive.complete_through(as_of) == through


def test_the_data_stand_at_the_end_of_the_month_of_the_latest_date(tmp_path: Path) -> None:
    claims = [line("a", "20251230", _024="20260110"), line("late", "20251115")]
    sources = Drop(tmp_path / "s", {"ME_a.txt": year(A), "MC_a.txt": claims}).write()
    assert build(sources, tmp_path / "lake").as_of == date(2026, 1, 31)
    earlier = build(sources, tmp_path / "lake", as_of=date(2025, 11, 30))
    assert [c["claim_id"] for c in table(earlier, "medical_claim")] == ["late"]
    assert earlier.manifest["sources"][1]["set_aside"] == {"after the as-of date": 1}


def test_members_are_written_in_parts_that_keep_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [f"0000000{n}{letter}" for n in range(5) for letter in "AB"]
    sources = Drop(
        tmp_path / "s",
        {"ME_a.txt": [month(m) for m in members], "MC_a.txt": [line(m, member=m) for m in members]},
    )
    sources.write()
    monkeypatch.setattr(write, "MEMBERS_PER_PART", 4)
    release = build(sources.folder, tmp_path / "lake")
    assert [len(release.parts(name)) for name in ("member", "medical_claim", "organisation")] == [3, 3, 1]
    assert [row["member_id"] for row in table(release, "medical_claim")] == sorted(members)
    counted = duckdb.sql(f"SELECT count(*) FROM {release.relation('member')}").fetchall()
    assert counted == [(10,)]


def test_a_refused_file_leaves_the_lake_as_it_was(built: Release, tmp_path: Path) -> None:
    sources, lake = drop(tmp_path / "s"), tmp_path / "lake"
    good = build(sources, lake)
    before = files(lake)
    with (sources / "MC_a.txt").open("a") as handle:
        handle.write("cut|off\n")
    with pytest.raises(SourceRefused, match=r"^MC_a\.txt does not end with a TR record"):
        build(sources, lake)
    assert files(lake) == before
    assert list_releases(lake) == [good]


CHILD = "import sys; from pathlib import Path; from workbench.lake.release import build; build(Path(sys.argv[1]), Path(sys.argv[2]))"


def test_a_build_killed_on_the_way_leaves_the_lake_as_it_was_and_the_next_one_works(tmp_path: Path) -> None:
    sources = drop(tmp_path / "s")
    for number in range(20):  # a busy machine may let a build end before it is killed
        lake = tmp_path / f"lake-{number}"
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(sources), str(lake)])
        while not list((lake / "releases").glob(".building-*/release/tables/*")) and child.poll() is None:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        if child.wait() == -signal.SIGKILL and list((lake / "releases").glob(".building-*")):
            break
    assert child.returncode == -signal.SIGKILL
    assert list_releases(lake) == []
    assert list((lake / "releases").glob(".building-*"))
    release = build(sources, lake)
    assert list_releases(lake) == [release]
    assert not list((lake / "releases").glob(".building-*"))


@pytest.mark.parametrize("limit", [2_000, 8_000])
def test_a_full_disk_is_said_clearly_and_leaves_the_lake_as_it_was(tmp_path: Path, limit: int) -> None:
    """A limit on the size of files stands for the full disk: the engine meets it at one step or another."""
    sources, lake = drop(tmp_path / "s"), tmp_path / "lake"
    program = [sys.executable, "-B", "-c", "from workbench.cli import main; main()", "release", "build"]
    answer = subprocess.run(
        [*program, "--sources", str(sources), "--lake", str(lake)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 1
    assert "workbench: The disk is full; the lake is as it was." in answer.stderr
    assert str(tmp_path) not in answer.stderr
    assert [path.name for path in (lake / "releases").iterdir()] == [".lock"]


def test_two_builds_in_one_lake_do_not_meet(tmp_path: Path) -> None:
    with _lake(tmp_path / "lake"), pytest.raises(BuildBusy):
        build(drop(tmp_path / "s"), tmp_path / "lake")


def test_an_unknown_release_is_named_so_and_a_path_is_none(built: Release) -> None:
    lake = built.path.parent.parent
    for wrong in ("20260131-000000000000", "../releases/" + built.id, "", "latest"):
        with pytest.raises(UnknownRelease):
            open_release(lake, wrong)
    with pytest.raises(UnknownRelease):
        open_release(lake / "nowhere")


def run(*arguments: str) -> Any:
    return CliRunner().invoke(release_command, arguments)


def test_the_commands_build_list_and_show_a_release(tmp_path: Path) -> None:
    sources, lake = str(drop(tmp_path / "s")), str(tmp_path / "lake")
    built = json.loads(run("build", "--sources", sources, "--lake", lake, "--json").output)
    listed = json.loads(run("list", "--lake", lake, "--json").output)
    assert [r["id"] for r in listed] == [built["id"]]
    assert (listed[0]["members"], listed[0]["claims"], listed[0]["synthetic"]) == (2, 5, True)
    shown = run("show", "--lake", lake).output
    assert f"release {built['id']}  SYNTHETIC DATA" in shown
    assert "superseded version 2, void 1" in shown
    for command in ("build", "list", "show"):
        assert "Example" in run(command, "--help").output
