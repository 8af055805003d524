"""Promises of grants: they say precisely who may see what, and whatever they do not say is refused."""

from __future__ import annotations

import json
import time
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from workbench.broker.grants import (
    GrantBook,
    GrantLimits,
    GrantRefused,
    InvalidGrants,
    Sensitive,
    grant_schema,
)
from workbench.lake.synthetic import enrolment
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
    "agreement": "A-0",
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
TEMPLATE: dict[str, Any] = {
    "for_each": "mcp",
    "name": "x-{org}",
    "groups": ["mcp-{org}"],
    "organisation": {"relation": "mcp", "ids": ["{org}"]},
}
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
        ({"level": "limited", "purposes": ["research"], "agreement": None}, "data use agreement"),
        ({"agreement": None}, "agreement: level identified needs the reference of what permits it"),
        ({"level": "limited", "agreement": "A-1", "purposes": ["treatment"]}, "164.514(e)(3)"),
        ({"purposes": ["research"], "agreement": None}, "needs the reference of its approval"),
        ({"level": "safe_harbor"}, "must be state-wide"),
        ({"level": "aggregate"}, "no rows to serve"),
        ({"sensitive": {"part2": "include"}}, "needs a basis"),
        ({"sensitive": {"part2": "exclude", "basis": "research_2_52"}}, "a basis says why"),
        ({"sensitive": INCLUDED}, "carries only the purposes research"),
        ({"sensitive": {"part2": "include", "basis": "deidentified_164_514"}}, "is for the levels"),
        ({"sensitive": {"part2": "maybe"}}, "'exclude', 'include' or 'with_consent'"),
        ({"limits": {"rows_per_day": 0}}, "greater than or equal to 1"),
        ({"name": "Not A Name"}, "pattern"),
        ({"recipient": {"state": "California"}}, "pattern"),
        ({"sensitive": {"reproductive": "include"}}, "recipient: {state: CA}"),
        ({"sensitive": {"hiv": "with_consent"}, "organisation": STATE}, "needs recipient.id"),
        ({"sensitive": {"part2": "with_consent", "basis": "research_2_52"}}, "goes with basis consent_tpo"),
        (
            {"sensitive": {"part2": "include", "basis": "audit_evaluation_2_53"}, "agreement": None},
            "42 CFR 2.53",
        ),
        ({"columns": {"payroll": ["x"]}}, "payroll, which is no table of this grant"),
        ({"columns": {"member": ["shoe"]}}, "unknown ['shoe']"),
        ({"columns": {"member": []}}, "columns of member"),
        ({"tables": ["diagnosis"], "columns": {"member": ["sex"]}}, "no table of this grant"),
        (
            {"level": "aggregate", "channels": ["tabulate"], "columns": {"member": ["sex"]}},
            "columns says nothing",
        ),
        ({"break_glass": True}, "needs treatment among the purposes"),
        ({"level": "limited", "agreement": "A-1", "channels": ["lmr_api"]}, "164.514(e)(2)(viii)"),
        ({"level": "limited", "agreement": "A-1", "channels": ["risk_api"]}, "164.514(e)(2)(viii)"),
        (
            {"level": "safe_harbor", "organisation": STATE, "channels": ["feed"]},
            "channel feed is for the levels identified, limited",
        ),
        ({"organisation": {"relation": "cohort"}}, "name at least one organisation"),
        ({"for_each": "mcp"}, "must hold {org}"),
        ({"for_each": "ship", "name": "x-{org}"}, "no organisation of this kind"),
        ({**TEMPLATE, "groups": ["mcp-{org}", "g1"]}, "g1 would hold the grant of every organisation"),
        (
            {**TEMPLATE, "organisation": {"relation": "mcp", "ids": ["sierra-vista"]}},
            "organisation.ids: in a template",
        ),
        (
            {**TEMPLATE, "title": "Care of {orgname}"},
            "nothing fills in {orgname}: a template fills in {org} and {org_name}",
        ),
        ({"title": "Care of {org_name}"}, "nothing fills in {org_name}: for_each is missing"),
        (
            {"organisation": {"relation": "provider", "ids": ["clinic-99"]}},
            "clinic-99 not in organisations.yaml",
        ),
        ({"organisation": {"relation": "tribe", "ids": ["tribe-x"]}}, "tribe-x not in organisations.yaml"),
        ({"organisation": {"relation": "cohort", "ids": ["study-9"]}}, "study-9 not in organisations.yaml"),
        (
            {"channels": ["notebook", "reports"], "sensitive": {"hiv": "with_consent"}},
            "cannot follow a revocation",
        ),
    ],
)
def test_a_grant_that_says_what_may_not_be_is_refused_with_the_rule(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    assert says in refusal(tmp_path, **changes)


def test_a_template_is_one_grant_of_each_organisation_with_its_own_group(tmp_path: Path) -> None:
    made = [(grant.groups, grant.organisation.ids) for grant in book(tmp_path, **TEMPLATE)]
    assert made == [(("mcp-mission-peak",), ("mission-peak",)), (("mcp-sierra-vista",), ("sierra-vista",))]


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
        ({"day": date(2030, 1, 1)}, "grant-expired"),
        ({"purpose": "research"}, "wrong-purpose"),
        ({"channel": "feed"}, "wrong-channel"),
    ],
)
def test_a_use_outside_the_grant_is_refused_by_code(tmp_path: Path, asked: dict[str, Any], code: str) -> None:
    given = {
        "name": "one-plan",
        "groups": {"mcp-sierra-vista"},
        "day": TODAY,
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


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"recipient": {"id": "another", "state": "CA"}}, True),
        ({"break_glass": True, "purposes": ["treatment"]}, True),
        ({"columns": {"member": ["sex", "birth_date"]}}, False),
    ],
)
def test_what_decides_no_row_leaves_the_digest_alone(
    tmp_path: Path, changes: dict[str, Any], same: bool
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    plain = book(tmp_path / "a").get("one-plan")
    assert (plain.policy_digest == book(tmp_path / "b", **changes).get("one-plan").policy_digest) == same


def test_the_recipient_decides_the_digest_where_consents_name_it_and_the_order_of_columns_never(
    tmp_path: Path,
) -> None:
    consent: dict[str, Any] = {"sensitive": {"hiv": "with_consent"}}
    grants = {}
    for name, changes in {
        "own": consent,
        "named": {**consent, "recipient": {"id": "sierra-vista"}},
        "other": {**consent, "recipient": {"id": "mission-peak"}},
        "one-way": {"columns": {"member": ["sex", "race"]}},
        "other-way": {"columns": {"member": ["race", "sex", "member_id"]}},
    }.items():
        (tmp_path / name).mkdir()
        grants[name] = book(tmp_path / name, **changes).get("one-plan").policy_digest
    assert grants["own"] == grants["named"] != grants["other"]
    assert grants["one-way"] == grants["other-way"]


def test_a_grant_narrows_a_table_to_columns_and_its_keys_stay(tmp_path: Path) -> None:
    columns = {"member": ["sex"], "medical_claim_line": ["procedure_code"]}
    grant = book(tmp_path, columns=columns).get("one-plan")
    assert grant.columns_of("member") == {"member_id", "sex"}
    assert grant.columns_of("medical_claim_line") == {
        "claim_id",
        "line_number",
        "member_id",
        "procedure_code",
    }
    assert grant.columns_of("diagnosis") is None


def test_consents_are_asked_for_the_only_organisation_unless_the_recipient_is_named(tmp_path: Path) -> None:
    both = {"relation": "mcp", "ids": ["sierra-vista", "mission-peak"]}
    for name, changes, recipient in (
        ("one", {}, "sierra-vista"),
        ("named", {"recipient": {"id": "x-1"}}, "x-1"),
        ("two", {"organisation": both}, None),
        ("state", {"organisation": STATE}, None),
    ):
        (tmp_path / name).mkdir()
        assert book(tmp_path / name, **changes).get("one-plan").recipient_id == recipient


def test_sensitive_names_every_category_that_releases_tag() -> None:
    assert set(Sensitive.model_fields) - {"basis"} == set(Category)


@pytest.mark.parametrize(
    ("who", "names"),
    [
        ("DHCS staff", ["dhcs-staff", "dhcs-evaluation"]),
        ("MCP", ["mcp-care-sierra-vista", "mcp-feed-mission-peak", "plan-quality-golden-poppy"]),
        ("BHP", ["bhp-01-care", "bhp-58-care"]),
        ("county or SP&A", ["county-01-health", "county-58-health"]),
        ("provider group or FQHC", ["clinic-19-1-care"]),
        ("Tribal health program", ["tribe-oak-meadow-care"]),
        ("researcher", ["demo-research-lds", "demo-research-sh"]),
        ("public stakeholder", ["demo-public"]),
    ],
)
def test_every_user_group_of_medi_cal_connect_has_an_example_grant(who: str, names: list[str]) -> None:
    grants = GrantBook.load(GRANTS)
    assert {grants.get(name).name for name in names} == set(names)


def test_the_demos_registry_has_the_clinics_and_tribes_of_the_synthetic_data() -> None:
    registry = GrantBook.load(GRANTS).registry
    assert registry.of_kind("provider") == sorted(enrolment.clinics())
    assert registry.of_kind("tribe") == sorted(enrolment.TRIBES)


def test_no_group_of_the_demo_opens_more_than_a_handful_of_the_hundreds_of_grants() -> None:
    grants = GrantBook.load(GRANTS)
    assert len(grants) > 150
    for group in {group for grant in grants for group in grant.groups}:
        assert sum(decision.allowed for decision in grants.for_user({group}, TODAY)) <= 2


def test_a_folder_of_a_thousand_grants_loads_in_less_than_a_second(tmp_path: Path) -> None:
    template = {
        **VALID,
        "for_each": "county",
        "groups": ["{org}-office"],
        "organisation": {"relation": "county", "ids": ["{org}"]},
        "recipient": {"id": "{org}", "state": "CA"},
        "sensitive": {"part2": "with_consent", "basis": "consent_tpo", "reproductive": "include"},
    }
    made = [{**template, "name": f"g{n}-{{org}}"} for n in range(20)]
    folder(tmp_path, *made)
    GrantBook.load(tmp_path)
    begun = time.process_time()
    assert len(GrantBook.load(tmp_path)) == 20 * 58
    assert time.process_time() - begun < 1.0


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
    assert [n for n in GrantLimits().model_dump().values() if f"{n:,}" not in page] == []
    example = page.split("```yaml")[1].split("```")[0]
    (tmp_path / "example.yaml").write_text(example)
    [grant] = GrantBook.load(tmp_path)
    assert grant.level == "limited"
