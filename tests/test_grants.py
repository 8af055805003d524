"""Promises of grants: they say precisely who may see what, and whatever they do not say is refused."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from workbench.broker.grants import GrantBook, GrantRefused, InvalidGrants, grant_schema
from workbench.schema.sensitive import Category
from workbench.settings import PROJECT

GRANTS = PROJECT / "grants"
TODAY = date(2026, 6, 1)

VALID: dict[str, Any] = {
    "name": "one-plan",
    "title": "One plan",
    "groups": ["mcp-sierra-vista"],
    "organisation": {"relation": "mcp", "ids": ["sierra-vista"], "as_of": "current"},
    "level": "identified",
    "purposes": ["operations"],
    "approver": "The release office",
    "valid_from": "2026-01-01",
    "valid_until": "2026-12-31",
    "channels": ["notebook"],
}
REGISTRY = {
    "organisations": {
        "sierra-vista": {"kind": "mcp", "name": "S"},
        "mission-peak": {"kind": "mcp", "name": "M"},
    }
}


def folder(tmp_path: Path, *grants: dict[str, Any]) -> Path:
    (tmp_path / "organisations.yaml").write_text(yaml.safe_dump(REGISTRY))
    for number, grant in enumerate(grants):
        (tmp_path / f"grant-{number}.yaml").write_text(yaml.safe_dump(grant))
    return tmp_path


def book(tmp_path: Path, **changes: Any) -> GrantBook:
    return GrantBook.load(folder(tmp_path, {**VALID, **changes}))


def refusal(tmp_path: Path, **changes: Any) -> str:
    with pytest.raises(InvalidGrants) as caught:
        book(tmp_path, **changes)
    return caught.value.reason


def test_the_shipped_grants_load_and_a_template_stands_for_one_grant_of_each_plan() -> None:
    names = {grant.name for grant in GrantBook.load(GRANTS)}
    assert {"demo-analyst", "demo-research-sh", "demo-research-lds", "demo-public"} <= names
    plans = {"sierra-vista", "golden-poppy", "redwood-coast", "mission-peak"}
    assert {name.removeprefix("plan-quality-") for name in names if name.startswith("plan-quality")} == plans


def test_a_template_fills_the_organisation_into_groups_and_ids_only_of_its_own_grant() -> None:
    grant = GrantBook.load(GRANTS).get("plan-quality-mission-peak")
    assert grant.groups == ("mcp-mission-peak",)
    assert grant.organisation.ids == ("mission-peak",)


def test_an_unknown_key_is_refused_with_file_key_and_what_is_allowed(tmp_path: Path) -> None:
    reason = refusal(tmp_path, colour="red")
    assert "grant-0.yaml: colour: unknown key" in reason
    assert "valid_until" in reason


def test_an_unknown_key_inside_a_part_of_the_grant_is_refused_with_that_parts_keys(tmp_path: Path) -> None:
    reason = refusal(tmp_path, organisation={"relation": "mcp", "ids": ["sierra-vista"], "who": "x"})
    assert "organisation.who: unknown key; allowed are relation, ids, as_of" in reason


def test_two_grants_of_one_name_refuse_the_whole_folder(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidGrants, match=r"grant-1.yaml: name: a grant one-plan stands in grant-0.yaml already"
    ):
        GrantBook.load(folder(tmp_path, VALID, {**VALID, "title": "The other"}, {**VALID, "name": "third"}))


def test_a_key_that_stands_twice_is_refused_and_not_silently_the_last(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "twice.yaml").write_text(yaml.safe_dump(VALID) + "level: aggregate\n")
    with pytest.raises(InvalidGrants, match=r"twice.yaml.*the key level stands twice"):
        GrantBook.load(tmp_path)


def test_every_fault_of_the_folder_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidGrants) as caught:
        GrantBook.load(folder(tmp_path, {**VALID, "level": "raw"}, {**VALID, "name": "B"}))
    assert {fault.split(":")[0] for fault in caught.value.faults} == {"grant-0.yaml", "grant-1.yaml"}


def test_a_file_that_is_no_yaml_is_named_without_its_content(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "broken.yaml").write_text("name: [123-45-6789\n")
    with pytest.raises(InvalidGrants) as caught:
        GrantBook.load(tmp_path)
    assert "broken.yaml" in caught.value.reason
    assert "123-45-6789" not in caught.value.reason


STATE = {"relation": "state"}
INCLUDED = {"part2": "include", "basis": "research_2_52"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"level": "secret"}, "'identified', 'limited', 'safe_harbor' or 'aggregate'"),
        ({"purposes": ["curiosity"]}, "'treatment'"),
        ({"channels": ["ftp"]}, "'notebook'"),
        ({"groups": []}, "at least 1"),
        ({"tables": ["member", "payroll"]}, "unknown tables ['payroll']"),
        ({"valid_until": "2025-12-31"}, "valid_until lies before valid_from"),
        ({"organisation": {"relation": "mcp"}}, "name at least one organisation"),
        (
            {"organisation": {"relation": "state", "ids": ["sierra-vista"]}},
            "relation state means every member",
        ),
        ({"organisation": {"relation": "mcp", "ids": ["nobody"]}}, "nobody not in organisations.yaml"),
        ({"organisation": {"relation": "county", "ids": ["sierra-vista"]}}, "of another kind"),
        ({"level": "limited", "purposes": ["research"]}, "data use agreement"),
        ({"level": "limited", "agreement": "A-1", "purposes": ["treatment"]}, "164.514(e)(3)"),
        ({"purposes": ["research"]}, "needs the reference of its approval"),
        ({"level": "safe_harbor"}, "must be state-wide"),
        ({"level": "aggregate"}, "no rows to serve"),
        ({"sensitive": {"part2": "include"}}, "needs a basis"),
        ({"sensitive": {"part2": "exclude", "basis": "research_2_52"}}, "a basis says why"),
        ({"sensitive": INCLUDED}, "carries only the purposes research"),
        ({"sensitive": {"part2": "include", "basis": "deidentified_164_514"}}, "is for the levels"),
        ({"sensitive": {"part2": "maybe"}}, "'exclude', 'include' or 'with_consent'"),
        ({"limits": {"rows_per_day": 0}}, "greater than or equal to 1"),
        ({"name": "Not A Name"}, "pattern"),
        ({"for_each": "mcp"}, "must hold {org}"),
        ({"for_each": "ship", "name": "x-{org}"}, "no organisation of this kind"),
    ],
)
def test_a_grant_that_says_what_may_not_be_is_refused_with_the_rule(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    assert says in refusal(tmp_path, **changes)


def test_what_a_grant_does_not_name_is_excluded(tmp_path: Path) -> None:
    grant = book(tmp_path).get("one-plan")
    assert grant.sensitive.excluded == tuple(Category)
    assert not grant.sensitive.included and not grant.sensitive.with_consent


@pytest.mark.parametrize(
    ("groups", "today", "code", "says"),
    [
        ({"mcp-sierra-vista"}, date(2026, 1, 1), "allowed", "open to mcp-sierra-vista until 2026-12-31"),
        ({"mcp-sierra-vista"}, date(2026, 12, 31), "allowed", "open"),
        ({"mcp-sierra-vista"}, date(2025, 12, 31), "grant-not-yet-valid", "not valid before 2026-01-01"),
        ({"mcp-sierra-vista"}, date(2027, 1, 1), "grant-expired", "expired on 2026-12-31"),
        ({"stakeholders"}, date(2026, 6, 1), "wrong-group", "is for the groups mcp-sierra-vista"),
        (set(), date(2026, 6, 1), "wrong-group", "is for the groups mcp-sierra-vista"),
    ],
)
def test_who_may_use_a_grant_today_and_why_not(
    tmp_path: Path, groups: set[str], today: date, code: str, says: str
) -> None:
    [decision] = book(tmp_path).for_user(groups, today)
    assert (decision.code, decision.allowed) == (code, code == "allowed")
    assert says in decision.reason
    if not decision.allowed:
        assert "The release office" in decision.hint


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"name": "no-such"}, "unknown-grant"),
        ({"groups": {"other"}}, "wrong-group"),
        ({"now": date(2030, 1, 1)}, "grant-expired"),
        ({"purpose": "research"}, "wrong-purpose"),
        ({"channel": "feed"}, "wrong-channel"),
    ],
)
def test_a_use_outside_the_grant_is_refused_by_code(tmp_path: Path, asked: dict[str, Any], code: str) -> None:
    given = {
        "name": "one-plan",
        "groups": {"mcp-sierra-vista"},
        "now": TODAY,
        "purpose": "operations",
        "channel": "notebook",
    }
    grants = book(tmp_path)
    assert grants.require(**given).name == "one-plan"
    with pytest.raises(GrantRefused) as caught:
        grants.require(**{**given, **asked})
    assert caught.value.code == code
    assert caught.value.hint


def test_equal_policies_have_one_digest_whoever_holds_them(tmp_path: Path) -> None:
    both = {"relation": "mcp", "ids": ["sierra-vista", "mission-peak"], "as_of": "current"}
    turned = {**both, "ids": ["mission-peak", "sierra-vista"]}
    a, b = GrantBook.load(
        folder(
            tmp_path,
            {**VALID, "name": "grant-a", "organisation": both},
            {
                **VALID,
                "name": "grant-b",
                "organisation": turned,
                "groups": ["others"],
                "valid_until": "2028-01-01",
            },
        )
    )
    assert a.policy_digest == b.policy_digest


@pytest.mark.parametrize(
    "changes",
    [
        {"organisation": {"relation": "mcp", "ids": ["mission-peak"]}},
        {"organisation": {"relation": "mcp", "ids": ["sierra-vista"], "as_of": "ever_own_period"}},
        {"organisation": {"relation": "mcp", "ids": ["sierra-vista"], "as_of": "2025-06-30"}},
        {"level": "limited", "agreement": "A-1"},
        {"tables": ["member"]},
        {"sensitive": {"mental_health_specialty": "include"}},
        {"sensitive": {"hiv": "with_consent"}},
        {"columns": {"member": ["member_id", "birth_date"]}},
    ],
)
def test_whatever_decides_the_rows_changes_the_digest(tmp_path: Path, changes: dict[str, Any]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    plain = book(tmp_path / "a").get("one-plan")
    changed = book(tmp_path / "b", **changes).get("one-plan")
    assert plain.policy_digest != changed.policy_digest


def test_a_token_namespace_belongs_to_the_agreement_and_never_joins_two_levels() -> None:
    grants = GrantBook.load(GRANTS)
    safe, limited = grants.get("demo-research-sh"), grants.get("demo-research-lds")
    assert safe.namespace != limited.namespace
    edited = limited.model_copy(update={"name": "renamed", "tables": ("member",)})
    assert edited.namespace == limited.namespace
    same_agreement = safe.model_copy(update={"agreement": limited.agreement})
    assert same_agreement.namespace != limited.namespace


def test_the_published_schema_takes_the_shipped_grants_and_refuses_an_unknown_key() -> None:
    schema = grant_schema()
    files = [file for file in GRANTS.glob("*.yaml") if file.name != "organisations.yaml"]
    assert len(files) >= 5
    for file in files:
        raw = json.loads(json.dumps(yaml.safe_load(file.read_text()), default=str).replace("{org}", "org"))
        jsonschema.validate(raw, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**raw, "colour": "red"}, schema)


def test_the_page_on_grants_explains_every_key_and_its_example_is_valid(tmp_path: Path) -> None:
    page = (PROJECT / "docs" / "grants.md").read_text()
    keys = set(grant_schema()["properties"])
    assert [key for key in sorted(keys) if f"`{key}`" not in page] == []
    example = page.split("```yaml")[1].split("```")[0]
    (tmp_path / "example.yaml").write_text(example)
    [grant] = GrantBook.load(tmp_path)
    assert grant.level == "limited"
