"""Promises of `workbench policy`: faults are found before a grant is used, and every decision is explained."""

from __future__ import annotations

import json
import shutil
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from workbench.cli.policy import policy
from workbench.deid import levels
from workbench.deid.levels import Level
from workbench.errors import WorkbenchError
from workbench.schema import IdentifierClass
from workbench.settings import PROJECT

GRANTS = ["--grants", str(PROJECT / "grants")]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(policy, list(arguments))


def explain(*arguments: str) -> dict[str, dict[str, object]]:
    result = run("explain", *arguments, *GRANTS, "--json")
    assert result.exit_code == 0, result.output
    return {entry["grant"]: entry for entry in json.loads(result.output)["grants"]}


def test_check_passes_the_shipped_grants_and_proves_a_rule_for_every_column_at_every_level() -> None:
    result = run("check", *GRANTS, "--json")
    found = json.loads(result.output)
    assert result.exit_code == 0
    assert found["ok"] and not found["faults"]
    assert found["rules"] == found["columns"] * found["levels"] > 500
    assert len(found["grants"]) > 150


def test_check_fails_and_names_the_file_and_key_of_a_faulty_grant(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump({"name": "wrong", "colour": "red"}))
    result = run("check", "--grants", str(tmp_path), "--json")
    assert result.exit_code == 1
    assert any("wrong.yaml: colour: unknown key" in fault for fault in json.loads(result.output)["faults"])


def test_check_counts_the_grants_of_the_other_files_and_says_that_none_is_used(tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "grants", tmp_path / "grants")
    where = ("--grants", str(tmp_path / "grants"))
    whole = json.loads(run("check", *where, "--json").output)["grants"]
    (tmp_path / "grants" / "a-slip.yaml").write_text("name: slip\n  level: identified\n")
    (tmp_path / "grants" / "demo-public.yaml").write_text(
        yaml.safe_dump({"name": "demo-public", "colour": "red"})
    )
    result = run("check", *where)
    assert result.exit_code == 1
    assert "fault: a-slip.yaml, line 2: " in result.output
    assert "fault: demo-public.yaml: colour: unknown key" in result.output
    says = f"{len(whole) - 1} grants of the other files are sound; none is used until the faults are mended, "
    assert says in result.output
    found = json.loads(run("check", *where, "--json").output)
    assert (found["ok"], found["grants"]) == (False, [name for name in whole if name != "demo-public"])


@pytest.mark.parametrize("registry", ["organisations: 3", None])
def test_check_says_where_nothing_could_be_counted(tmp_path: Path, registry: str | None) -> None:
    if registry is not None:
        shutil.copytree(PROJECT / "grants", tmp_path / "grants")
        (tmp_path / "grants" / "organisations.yaml").write_text(registry)
    output = run("check", "--grants", str(tmp_path / "grants")).output
    assert "no grant could be counted; none is used until the faults are mended, " in output
    assert "0 grants" not in output


def test_check_fails_for_a_column_whose_class_has_no_rule_at_a_level(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = {c: r for c, r in levels.RULES[Level.SAFE_HARBOR].items() if c != IdentifierClass.ZIP}
    monkeypatch.setattr(levels, "RULES", MappingProxyType({**levels.RULES, Level.SAFE_HARBOR: rules}))
    result = run("check", *GRANTS)
    assert result.exit_code == 1
    assert "no rule for safe_harbor: member.zip" in result.output


@pytest.mark.parametrize(
    ("user", "open_grants"),
    [
        ("ana", {"demo-analyst", "plan-quality-sierra-vista"}),
        ("rui", {"demo-research-sh", "demo-research-lds"}),
        ("pat", {"demo-public"}),
        ("audrey", set()),
    ],
)
def test_explain_says_which_grants_are_open_to_a_person(user: str, open_grants: set[str]) -> None:
    assert {name for name, entry in explain(user).items() if entry["allowed"]} == open_grants


def test_explain_names_the_missing_group_and_who_can_give_the_grant() -> None:
    entry = explain("pat", "--grant", "demo-research-lds")["demo-research-lds"]
    assert not entry["allowed"]
    assert "research-valley" in str(entry["reason"])
    assert "DHCS Data Release Office" in str(entry["hint"])


@pytest.mark.parametrize(
    ("grant", "column", "seen"),
    [
        ("demo-research-sh", "member.zip", "as zip3 VARCHAR"),
        ("demo-research-sh", "member.county_code", "no"),
        ("demo-research-sh", "attribution.relation", "no"),
        ("demo-research-sh", "medical_claim.from_date", "as from_year INTEGER"),
        ("demo-research-lds", "medical_claim.from_date", "yes"),
        ("demo-research-lds", "member.last_name", "no"),
        ("demo-research-lds", "member.member_id", "as member_id VARCHAR"),
        ("demo-public", "member.sex", "no"),
        ("demo-analyst", "member.ssn", "yes"),
    ],
)
def test_explain_says_what_becomes_of_a_column_and_by_which_rule(grant: str, column: str, seen: str) -> None:
    about = explain("rui", "--grant", grant, "--column", column)[grant]["column"]
    assert isinstance(about, dict)
    assert about["seen"] == seen
    assert about["source"] and about["why"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nobody"], "no such user"),
        (["rui", "--grant", "no-such"], "no grant named no-such"),
        (["rui", "--column", "member.shoe_size"], "no such column"),
        (["rui", "--column", "feet.size"], "no such table"),
    ],
)
def test_a_question_about_what_is_not_there_is_refused_with_a_hint(arguments: list[str], says: str) -> None:
    result = run("explain", *arguments, *GRANTS)
    assert isinstance(result.exception, WorkbenchError)
    assert says in result.exception.reason and result.exception.hint


def found(*arguments: str) -> dict[str, Any]:
    result = run("explain", *arguments, *GRANTS, "--json")
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.output)
    return answer


def test_explain_says_agreement_limits_tables_and_recipient_as_they_count() -> None:
    said = run("explain", "nia").output
    assert "agreement: Provider participation agreement of clinic-19-1 (demo)" in said
    assert "at most 5,000,000 rows and 2,000,000,000 bytes a day, 2 queries at once, 120 seconds each" in said
    assert "recipient clinic-19-1, State CA" in said and "tables: member, " in said
    assert "agreement: none, which this level does not need" in run("explain", "pat").output


def test_a_grant_for_reports_alone_is_said_to_show_no_rows_to_people() -> None:
    asked = ("explain", "ana", "--grant", "plan-quality-sierra-vista", "--column", "member.ssn")
    said = run(*asked).output
    assert "no rows to people; reports are run on it" in said
    assert "member.ssn: no: no rows to people; reports are run on it; the slice has it" in said
    found = json.loads(run(*asked, "--json").output)
    assert found["grants"][0]["column"]["seen"] == "no"
    assert not any(one["file"] == "plan-quality.yaml" for one in found["missing"])
    assert (
        "rows by notebook; also tabulate, reports" in run("explain", "ana", "--grant", "demo-analyst").output
    )
    assert "no rows to anybody: tables" in run("explain", "pat").output


def test_grants_of_other_groups_are_told_in_one_line_for_each_file() -> None:
    others = {family["file"]: family for family in found("pat")["others"]}
    assert others["county-health.yaml"]["grants"] == 58
    assert len(others) < 20
    output = run("explain", "pat", *GRANTS).output
    assert "county-health.yaml (58 grants), level limited, of county-01-health … county-58-health" in output
    assert len(output.splitlines()) < 40


def test_a_column_that_nothing_of_hers_shows_names_the_missing_grants_and_who_can_give_them() -> None:
    missing = {family["file"]: family for family in found("rui", "--column", "member.ssn")["missing"]}
    assert missing["demo-analyst.yaml"]["approver"] == "DHCS Data Release Office (demo)"
    assert missing["demo-analyst.yaml"]["groups"] == ["mcp-sierra-vista"]
    assert "dhcs-staff.yaml" not in missing and "demo-research-sh.yaml" not in missing
    output = run("explain", "rui", "--column", "member.ssn", *GRANTS).output
    assert "Who could see member.ssn:" in output


def test_a_column_that_a_grant_of_hers_shows_misses_no_grant() -> None:
    assert found("ana", "--column", "member.ssn")["missing"] == []


def test_a_column_that_the_grants_columns_leave_out_says_so_and_who_can_add_it() -> None:
    [entry] = found("pat", "--grant", "dhcs-staff", "--column", "member.ssn")["grants"]
    assert entry["column"]["seen"] == "no"
    assert "the grant's columns leave it out" in entry["column"]["why"]
    assert "DHCS Data Release Office" in entry["column"]["why"]
    assert "ssn" not in entry["columns"]["member"]


def test_explain_gives_recipient_categories_notice_limits_and_the_law_it_rests_on() -> None:
    [entry] = found("pat", "--grant", "clinic-19-1-care")["grants"]
    assert entry["recipient"] == {"id": "clinic-19-1", "state": "CA"}
    assert entry["break_glass"] and entry["limits"]["concurrent_queries"] == 2
    assert entry["notice"].startswith("This record which has been disclosed")
    handling = {about["category"]: about["handling"] for about in entry["categories"]}
    assert (handling["part2"], handling["reproductive"], handling["hiv"]) == (
        "with_consent",
        "include",
        "include",
    )
    citations = {row["citation"] for row in entry["law"]}
    assert {"42 CFR 2.31, 2.33(b)", "45 CFR 164.506(c)(1)-(2)"} <= citations
    assert {row["status"] for row in entry["law"]} == {"needs counsel's review"}
    output = run("explain", "pat", "--grant", "clinic-19-1-care", *GRANTS).output
    assert "every answer carries the notice of 42 CFR 2.32" in output
    assert "break-glass in an emergency" in output


def test_check_warns_of_grants_that_no_release_of_real_people_may_serve_yet() -> None:
    output = run("check", *GRANTS).output
    assert "warning: demo-analyst.yaml: blocked on releases of real people" in output
    assert "reproductive (demo list)" in output
    assert "0 faults" in output


def test_check_warns_of_a_grant_that_has_ended(tmp_path: Path) -> None:
    raw = yaml.safe_load((PROJECT / "grants" / "demo-public.yaml").read_text())
    (tmp_path / "old.yaml").write_text(yaml.safe_dump({**raw, "valid_until": date(2025, 6, 1)}))
    result = run("check", "--grants", str(tmp_path), "--json")
    assert json.loads(result.output)["warnings"] == ["old.yaml: expired on 2025-06-01"]


def test_explain_reads_well_without_json() -> None:
    output = run("explain", "rui", "--grant", "demo-research-sh", *GRANTS).output
    assert "✓ demo-research-sh" in output
    assert "every member of the State; level safe_harbor" in output


def test_the_schema_is_printed_as_json() -> None:
    assert json.loads(run("schema").output)["title"] == "Workbench grant"
