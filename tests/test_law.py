"""Promises of the law's truth tables: each row is tried, what no row allows is refused, and refusals cite their row."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import slice_world
import tiny_release
import yaml
from broker_world import new_world
from click.testing import CliRunner
from pydantic import ValidationError

from workbench.broker.grant_model import STAYS_HOME, Basis, Channel, Grant, Purpose, Relation
from workbench.broker.grants import GrantBook
from workbench.broker.law import NOTICE_2_32, UnsourcedCategory, laws, refuse_unsourced, tables
from workbench.broker.law.situations import reach
from workbench.broker.law.truth import InvalidTruth, MemberRow, run_folder, run_law
from workbench.broker.slices import ensure, ensure_member, ensure_tabulation, list_slices
from workbench.broker.state import State
from workbench.broker.vault import Vault
from workbench.cli.policy import USERS, policy
from workbench.deid.levels import Level
from workbench.lake.release import Release, open_release
from workbench.schema import sensitive
from workbench.schema.sensitive import CATEGORIES, Category, Sourcing
from workbench.settings import PROJECT

GRANTS = PROJECT / "grants"
BASE = dict(laws()["hipaa"].base)
ROWS = [(law, row) for law in laws().values() for row in law.rows]
HOME = {"state": "CA"}


def grant(**changes: Any) -> Grant:
    return Grant.model_validate({**BASE, **changes})


def refusal(**changes: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        grant(**changes)
    return "; ".join(item["msg"] for item in caught.value.errors())


@pytest.mark.parametrize("law", laws().values(), ids=lambda law: law.name)
def test_every_row_of_a_law_is_answered_by_the_model_as_it_says(law: tables.Law) -> None:
    outcome = run_law(law)
    assert outcome.failures == ()
    assert outcome.rows >= len(law.rows) >= 6


@pytest.mark.parametrize(("law", "row"), ROWS, ids=[f"{law.name}:{row.id}" for law, row in ROWS])
def test_a_row_names_its_citation_its_status_and_has_an_example(law: tables.Law, row: tables.Row) -> None:
    assert any(character.isdigit() for character in row.citation)
    assert row.status == "needs counsel's review"
    assert row.examples and row.case.endswith(".")


def test_every_value_that_a_law_can_ask_for_is_one_that_grants_have_and_the_other_way() -> None:
    assert tables.ONE_VALUED["level"] == set(Level)
    assert tables.ONE_VALUED["relation"] == set(Relation)
    assert tables.ONE_VALUED["purpose"] == set(Purpose)
    assert tables.ONE_VALUED["basis"] == {"none", *Basis}
    assert tables.MANY_VALUED["channels"] == set(Channel)
    facts = grant().facts()[0]
    assert set(facts) == set(tables.KNOWN)


def test_a_row_without_which_a_case_is_silent_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hipaa = laws()["hipaa"]
    fewer = replace(hipaa, rows=tuple(row for row in hipaa.rows if row.id != "treatment"))
    monkeypatch.setattr(tables, "laws", lambda: MappingProxyType({**laws(), "hipaa": fewer}))
    tables._judged.cache_clear()
    try:
        said = refusal(purposes=["treatment"])
        assert "no row of the law's truth table allows it: HIPAA" in said and "treatment" in said
        assert grant(purposes=["operations"])
    finally:
        tables._judged.cache_clear()


RUNNING = {"program_administration", "payment", "operations"}
CARRIES: dict[str | None, set[str]] = {
    None: set(Purpose),
    "consent_tpo": {"treatment", "payment", "operations"},
    "research_2_52": {"research"},
    "audit_evaluation_2_53": RUNNING,
    "qualified_service_organisation_2_11": RUNNING,
    "deidentified_164_514": set(Purpose),
}


def stands_by_hand(level: str, purpose: str, basis: str | None, agreement: str | None) -> bool:
    """The laws once more, written as one expression for a grant of one purpose."""
    still_identifies = level in ("identified", "limited")
    agreed = agreement is not None or not (
        level == "limited"
        or purpose == "research"
        or (purpose == "public_health" and still_identifies)
        or basis in ("research_2_52", "audit_evaluation_2_53", "qualified_service_organisation_2_11")
    )
    fits = purpose in CARRIES[basis] and (basis != "deidentified_164_514" or not still_identifies)
    fits = fits and (basis != "consent_tpo" or level == "identified")
    return agreed and fits and (level != "limited" or purpose in ("research", "public_health", "operations"))


@pytest.mark.parametrize("level", Level)
def test_every_combination_of_level_purpose_basis_and_agreement_is_decided_and_cited(level: Level) -> None:
    for purpose, basis, agreement in itertools.product(Purpose, (None, *Basis), (None, "A-1")):
        changes: dict[str, Any] = {"level": level, "purposes": [purpose], "agreement": agreement}
        if level in (Level.SAFE_HARBOR, Level.AGGREGATE):
            changes |= {"organisation": {"relation": "state"}, "channels": ["tabulate"]}
        if basis is not None:
            handling = "with_consent" if basis == Basis.CONSENT_TPO else "include"
            changes |= {"sensitive": {"part2": handling, "basis": basis}, "recipient": {"id": "one-plan"}}
        if stands_by_hand(level, purpose, basis, agreement):
            assert grant(**changes)
        else:
            said = refusal(**changes)
            assert "[" in said and "no row of the law" not in said, changes


@pytest.mark.parametrize("category", sorted(STAYS_HOME))
@pytest.mark.parametrize("handling", ["include", "with_consent"])
@pytest.mark.parametrize(
    ("recipient", "allowed"), [(HOME, True), ({"state": "NV"}, False), ({"state": "TX"}, False), ({}, False)]
)
def test_reproductive_and_gender_affirming_data_go_to_recipients_in_california_only(
    category: str, handling: str, recipient: dict[str, str], allowed: bool
) -> None:
    changes = {"sensitive": {category: handling}, "recipient": recipient}
    if allowed:
        assert not grant(**changes).never_included
    else:
        assert "56.101(c)" in refusal(**changes)


def test_a_recipient_elsewhere_may_have_a_grant_that_leaves_them_out_and_never_gets_them() -> None:
    outside = grant(recipient={"state": "NV"})
    assert set(outside.sensitive.excluded) == set(Category)
    assert outside.never_included == STAYS_HOME


@pytest.mark.parametrize(("state", "claims"), [("CA", 1), ("NV", 0)])
def test_an_emergency_opens_no_reproductive_record_to_a_recipient_elsewhere(
    tmp_path: Path, state: str, claims: int
) -> None:
    rows = slice_world.tables()
    for hit in rows["sensitive_claim"]:
        hit["category"] = "reproductive"
    member = rows["sensitive_claim"][0]["member_id"]
    release = tiny_release.write(tmp_path / "lake", rows)
    emergency = slice_world.grant(purposes=["treatment"], break_glass=True, recipient={"state": state})
    cut = ensure_member(release, emergency, member, frozenset({Category.REPRODUCTIVE}), tmp_path / "glass")
    found = slice_world.column(
        cut, f"SELECT count(*) FROM medical_claim WHERE claim_id = '{slice_world.PART2}'"
    )
    assert found == [claims]


def test_a_state_is_two_capital_letters_and_not_a_sentence_that_holds_them() -> None:
    for state in ("ca", "California", "CA ", ""):
        assert "pattern" in refusal(recipient={"state": state})


@pytest.mark.parametrize(
    ("changes", "notice"),
    [
        ({}, False),
        ({"agreement": "A-1", "sensitive": {"part2": "include", "basis": "audit_evaluation_2_53"}}, True),
        ({"sensitive": {"part2": "with_consent", "basis": "consent_tpo"}}, True),
        (
            {
                "level": "safe_harbor",
                "organisation": {"relation": "state"},
                "sensitive": {"part2": "include", "basis": "deidentified_164_514"},
            },
            False,
        ),
    ],
)
def test_every_grant_that_may_answer_with_part_2_records_carries_the_notice(
    changes: dict[str, Any], notice: bool
) -> None:
    assert grant(**changes).notice == (NOTICE_2_32 if notice else None)
    assert "42 CFR part 2" in NOTICE_2_32 and "2.31" in NOTICE_2_32


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"break_glass": True}, "2.51"),
        (
            {"break_glass": True, "purposes": ["treatment", "research"], "agreement": "A-1"},
            "never for research",
        ),
        (
            {"break_glass": True, "purposes": ["operations"], "level": "limited", "agreement": "A-1"},
            "is for level identified",
        ),
    ],
)
def test_break_glass_is_for_those_who_treat_identified_members_and_never_for_research(
    changes: dict[str, Any], says: str
) -> None:
    assert grant(break_glass=True, purposes=["treatment"]).break_glass
    assert says in refusal(**changes)


def stands(synthetic: bool) -> Release:
    """A release of invented, or of real, people."""
    known = {"fills": 0, "lines": 0}
    return Release("20260131-0123456789ab", Path(), {"synthetic": synthetic, "unknown_drugs": known})


@pytest.mark.parametrize(
    ("sourcing", "synthetic", "blocked"),
    [
        (Sourcing.SOURCED, True, False),
        (Sourcing.SOURCED, False, False),
        (Sourcing.DEMO, True, False),
        (Sourcing.DEMO, False, True),
        (Sourcing.NONE, True, True),
        (Sourcing.NONE, False, True),
    ],
)
@pytest.mark.parametrize("handling", ["exclude", "with_consent"])
def test_a_grant_that_must_leave_out_what_no_sourced_list_finds_is_blocked(
    monkeypatch: pytest.MonkeyPatch, sourcing: Sourcing, synthetic: bool, blocked: bool, handling: str
) -> None:
    sources = {c: replace(about, sourcing=Sourcing.SOURCED) for c, about in CATEGORIES.items()}
    sources[Category.HIV] = replace(CATEGORIES[Category.HIV], sourcing=sourcing)
    monkeypatch.setattr(sensitive, "CATEGORIES", MappingProxyType(sources))
    release = stands(synthetic)
    refuse_unsourced(grant(sensitive={"hiv": "include"}), release)
    hides = grant(sensitive={"hiv": handling})
    if not blocked:
        refuse_unsourced(hides, release)
        return
    with pytest.raises(UnsourcedCategory) as caught:
        refuse_unsourced(hides, release)
    assert "hiv" in caught.value.reason and caught.value.http_status == 403


def of_real_people(release: Release) -> Release:
    """The release, said to be no synthetic one."""
    manifest = release.path / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "synthetic": False}))
    return open_release(release.path.parent.parent, release.id)


def test_no_slice_of_any_kind_is_built_for_a_blocked_grant(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    release = of_real_people(slice_world.release(lake))
    state = State(f"sqlite:///{tmp_path / 's.sqlite'}", tmp_path / "state")
    vault, blocked = Vault(state), slice_world.grant(purposes=["treatment"], break_glass=True)
    for build in (
        lambda: ensure(release, blocked, vault, lake),
        lambda: ensure_tabulation(release, blocked, vault, lake),
        lambda: ensure_member(release, blocked, slice_world.A, frozenset(), tmp_path / "glass"),
    ):
        with pytest.raises(UnsourcedCategory):
            build()
    assert list_slices(lake) == []
    assert ensure(release, slice_world.grant(**slice_world.INCLUDED), vault, lake).tables()
    state.close()


@pytest.mark.sandbox
def test_the_broker_answers_a_blocked_grant_with_the_categories_and_an_open_one_with_data() -> None:
    with new_world() as world:
        of_real_people(open_release(world.where.lake))
        with world.serve():
            blocked = world.bind("ana", "demo-analyst", "operations").query("SELECT count(*) FROM member")
            open_ = world.bind("rui", "demo-research-sh", "research").query("SELECT count(*) FROM member")
    assert (blocked.status, blocked.json["code"]) == (403, "unsourced-category")
    assert "genetic (demo)" in blocked.json["reason"] and open_.status == 200


def test_the_demo_grants_work_on_synthetic_data_and_say_where_real_data_would_block_them() -> None:
    book = GrantBook.load(GRANTS)
    for one in book:
        refuse_unsourced(one, stands(synthetic=True))
    warnings = yaml.safe_load(
        CliRunner().invoke(policy, ["check", "--grants", str(GRANTS), "--json"]).output
    )["warnings"]
    blocked = {line.split(":")[0] for line in warnings if "blocked on releases of real people" in line}
    assert {"demo-analyst.yaml", "mcp-care.yaml", "clinic-care.yaml", "tribe-care.yaml"} <= blocked
    assert not {"demo-research-sh.yaml", "demo-public.yaml"} & blocked


def test_every_shipped_grant_with_a_person_behind_it_has_rows_in_the_truth_tables() -> None:
    book = GrantBook.load(GRANTS)
    named = {
        str(row["grant"])
        for file in (GRANTS / "truth").glob("*.yaml")
        for part in ("access", "members")
        for row in yaml.safe_load(file.read_text())[part]
    }
    tested = {book.file_of(one) for one in book if one.name in named}
    assert tested == {book.file_of(one) for one in book}


def test_the_truth_tables_beside_the_shipped_grants_hold_on_slices_that_are_built() -> None:
    outcomes = run_folder(GRANTS, USERS)
    assert [failure for outcome in outcomes for failure in outcome.failures] == []
    assert sum(outcome.rows for outcome in outcomes) >= 100


def situation(**changes: Any) -> MemberRow:
    raw = {"case": "x", "grant": "g", "claim": {"day": "2024-05-01"}, "answer": "claim", **changes}
    return MemberRow.model_validate(raw)


def test_a_wrong_row_is_told_with_what_is_and_what_should_be(tmp_path: Path) -> None:
    (tmp_path / "truth").mkdir()
    (tmp_path / "organisations.yaml").write_text((GRANTS / "organisations.yaml").read_text())
    (tmp_path / "demo-analyst.yaml").write_text((GRANTS / "demo-analyst.yaml").read_text())
    rows: dict[str, Any] = {
        "about": "Wrong on purpose.",
        "access": [
            {"case": "a stranger", "grant": "demo-analyst", "groups": ["stakeholders"], "answer": "allowed"},
            {"case": "ana", "user": "ana", "grant": "demo-analyst", "answer": "wrong-group"},
            {"case": "nobody", "user": "nobody", "grant": "demo-analyst", "answer": "unknown-user"},
            {"case": "a name", "grant": "demo-analyst", "column": "member.ssn", "answer": "no"},
        ],
        "members": [
            {
                "case": "somebody else's member",
                "grant": "demo-analyst",
                "claim": {"day": date(2024, 5, 1)},
                "answer": "claim",
            }
        ],
    }
    (tmp_path / "truth" / "wrong.yaml").write_text(yaml.safe_dump(rows))
    result = CliRunner().invoke(policy, ["test", "--grants", str(tmp_path)])
    assert result.exit_code == 1
    assert "a stranger: is wrong-group, should be allowed" in result.output
    assert "ana: is allowed, should be wrong-group" in result.output
    assert "nobody:" not in result.output
    assert "a name: is yes, should be no" in result.output
    assert "somebody else's member: is nothing, should be claim" in result.output


def test_a_situation_is_answered_by_the_cut_and_follows_consent_attribution_and_category() -> None:
    plan = grant(
        organisation={"relation": "mcp", "ids": ["one-plan"]},
        sensitive={"part2": "with_consent", "basis": "consent_tpo"},
    )
    here = [{"to": "one-plan", "as": "mcp", "from": "2024-01-01"}]
    hit = {"day": "2024-05-01", "categories": ["part2"]}
    consent = [{"recipient": "one-plan", "scope": "part2", "from": "2025-01-01"}]
    rows = [
        situation(attributed=here),
        situation(attributed=here, claim=hit),
        situation(attributed=here, claim=hit, consents=consent),
        situation(claim=hit, consents=consent),
    ]
    assert reach([(row, plan) for row in rows]) == ["claim", "member", "claim", "nothing"]


@pytest.mark.parametrize(
    "text", ["about: [", "about: x\naccess: [{case: x, grant: y, answer: allowed, colour: red}]", "[]"]
)
def test_a_truth_table_that_cannot_be_read_is_refused_by_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "truth").mkdir()
    (tmp_path / "organisations.yaml").write_text((GRANTS / "organisations.yaml").read_text())
    (tmp_path / "truth" / "odd.yaml").write_text(text)
    with pytest.raises(InvalidTruth) as caught:
        run_folder(tmp_path, USERS)
    assert "odd.yaml" in caught.value.reason
    checked = CliRunner().invoke(policy, ["check", "--grants", str(tmp_path)])
    assert checked.exit_code == 1 and "fault: truth/odd.yaml" in checked.output


def test_a_table_of_the_law_that_asks_for_what_there_is_not_is_refused() -> None:
    row = {"id": "x", "case": "X.", "answer": "allowed", "citation": "1"}
    for when in ({"colour": "red"}, {"level": "secret"}, {"included": "teeth"}):
        with pytest.raises(ValueError, match="x"):
            tables._row("hipaa", "s", {**row, "when": when})
    with pytest.raises(ValueError, match="says what to do"):
        tables._row("hipaa", "s", {**row, "answer": "refused"})


def test_policy_test_runs_all_five_laws_and_passes_without_tables_beside_the_grants(tmp_path: Path) -> None:
    result = CliRunner().invoke(policy, ["test", "--grants", str(tmp_path), "--json"])
    assert result.exit_code == 0
    names = [table["table"] for table in json.loads(result.output)["tables"]]
    assert names == [f"law/{name}" for name in ("hipaa", "part2", "cmia", "ipa", "wic_14100_2")]
