"""Promises of `workbench policy`: faults are found before a grant is used, and every decision is explained."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType

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


def test_check_fails_and_names_the_file_and_key_of_a_faulty_grant(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump({"name": "wrong", "colour": "red"}))
    result = run("check", "--grants", str(tmp_path), "--json")
    assert result.exit_code == 1
    assert any("wrong.yaml: colour: unknown key" in fault for fault in json.loads(result.output)["faults"])


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


def test_explain_reads_well_without_json() -> None:
    output = run("explain", "rui", "--grant", "demo-research-sh", *GRANTS).output
    assert "✓ demo-research-sh" in output
    assert "every member of the State; level safe_harbor" in output


def test_the_schema_is_printed_as_json() -> None:
    assert json.loads(run("schema").output)["title"] == "Workbench grant"
