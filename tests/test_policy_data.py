"""`policy diff` counts what slices would hold; `policy explain --member` says why, and no more than an operator may know."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import slice_world as world
import yaml
from broker_world import World
from click.testing import CliRunner
from slice_world import A, B, C, D, grant, query

from workbench.broker.cut import CUTS
from workbench.broker.grants import Grant, GrantBook, OrganisationRegistry
from workbench.broker.policy_diff import TABLES, Count, Difference, OrganisationDifference, policy_diff
from workbench.broker.policy_explain import NOT_TOLD, explain_member
from workbench.broker.service import Service
from workbench.broker.slices import Slice, UnknownMember, ensure
from workbench.broker.state import State
from workbench.broker.vault import Vault
from workbench.cli.policy import policy
from workbench.lake.release import Release
from workbench.schema import dictionary
from workbench.settings import PROJECT

Lake = tuple[Release, Vault, Path]
NOBODY = "09999999Q"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    folder = tmp_path_factory.mktemp("policy")
    state = State(f"sqlite:///{folder / 'state.sqlite'}", folder / "state")
    yield world.release(folder / "lake"), Vault(state), folder / "lake"
    state.close()


def book(*grants: Grant) -> GrantBook:
    return GrantBook(grants, OrganisationRegistry({}))


def compared(release: Release, old: list[Grant], new: list[Grant]) -> list[OrganisationDifference]:
    return policy_diff(release, book(*old), book(*new))


def one(release: Release, old: Grant | None, new: Grant | None) -> Difference:
    (found,) = compared(release, [old] if old else [], [new] if new else [])
    (difference,) = found.grants
    return difference


def plan(as_of: str, *ids: str) -> dict[str, Any]:
    return {"organisation": {"relation": "mcp", "ids": list(ids) or [world.SIERRA], "as_of": as_of}}


INCLUDING = {"agreement": "A-1", "sensitive": {"part2": "include", "basis": "audit_evaluation_2_53"}}
CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as-of rule": (plan("current"), plan("ever_own_period")),
    "as-of date": (plan("2023-07-01"), plan("2024-07-01")),
    "own period and category": (plan("ever_own_period"), plan("ever_own_period") | INCLUDING),
    "category": ({}, INCLUDING),
    "with consent, which nobody gave": (
        INCLUDING,
        {"sensitive": {"part2": "with_consent", "basis": "consent_tpo"}, "recipient": {"id": world.SIERRA}},
    ),
    "tables": ({}, {"tables": ["member", "diagnosis"]}),
    "two plans for one": (plan("current") | {"recipient": {"id": "r"}},
                          plan("current", world.SIERRA, world.MISSION) | {"recipient": {"id": "r"}}),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_difference_counts_the_rows_that_the_two_slices_hold(lake: Lake, change: str) -> None:
    old, new = (grant(**{"tables": list(TABLES)} | changes) for changes in CHANGES[change])
    release, vault, folder = lake
    found = one(release, old, new)
    cuts = [ensure(release, g, vault, folder) for g in (old, new)]
    for table in TABLES:
        counted = found.rows.get(table, Count())
        assert [counted.old, counted.new] == [whole_rows(cut, table) for cut in cuts], table
        if not CUTS[table].clipped:
            before, after = (keys(cut, table) for cut in cuts)
            assert (counted.gained, counted.lost) == (len(after - before), len(before - after)), table
    members = [keys(cut, "member") for cut in cuts]
    assert found.members == Count(
        *map(len, members), len(members[1] - members[0]), len(members[0] - members[1])
    )


def test_a_grant_of_a_day_that_the_release_has_not_reached_gives_nothing_and_is_told_of(lake: Lake) -> None:
    found = one(lake[0], grant(), grant(**plan("2099-01-01")))
    assert found.early == ("2099-01-01",) and found.members.new == 0 < found.members.old
    assert one(lake[0], grant(), grant(**plan("2023-07-01"))).early == ()


def keys(cut: Slice, table: str) -> set[tuple[Any, ...]]:
    """The keys of a slice's rows."""
    if table not in cut.tables():
        return set()
    return set(query(cut, f"SELECT {', '.join(dictionary()[table].key)} FROM {table}"))


def whole_rows(cut: Slice, table: str) -> int:
    """How many of the release's rows a slice holds: a span that was cut in two counts once."""
    entry = cut.manifest["tables"].get(table, {"rows": 0, "split": 0})
    return int(entry["rows"] - entry["split"])


def test_equal_books_differ_in_nothing(lake: Lake) -> None:
    assert compared(lake[0], [grant()], [grant()]) == []


def test_who_may_use_a_grant_and_until_when_changes_no_row(lake: Lake) -> None:
    found = one(lake[0], grant(), grant(groups=["others"], valid_until="2027-12-31"))
    assert found.change == "kept"
    assert found.conditions == ("groups", "valid_until")
    assert all(not (c.gained or c.lost) for c in (found.members, *found.rows.values()))


def test_a_grant_that_comes_and_one_that_goes_are_all_gain_and_all_loss(lake: Lake) -> None:
    added, removed = one(lake[0], None, grant()), one(lake[0], grant(), None)
    assert (added.change, removed.change) == ("added", "removed")
    assert added.members == Count(0, 3, 3, 0)
    assert removed.members == Count(3, 0, 0, 3)
    assert added.columns_gained == removed.columns_lost
    assert "member.ssn" in added.columns_gained
    assert added.categories["hiv"] == ("none", "exclude")


def test_a_new_name_for_the_same_grant_gives_its_organisation_nothing(lake: Lake) -> None:
    (found,) = compared(lake[0], [grant()], [grant(name="another-name")])
    assert {g.name: g.change for g in found.grants} == {"one-plan": "removed", "another-name": "added"}
    assert found.total.name == world.SIERRA
    assert found.total.members == Count(3, 3, 0, 0)
    assert not found.total.columns_gained and not found.total.columns_lost


def test_what_another_grant_of_the_organisation_shows_already_is_no_gain(lake: Lake) -> None:
    wide = grant(name="wide", **plan("ever_own_period"))
    (found,) = compared(lake[0], [wide], [wide, grant(name="narrow", tables=["member"])])
    assert [g.name for g in found.grants] == ["narrow"]
    assert found.grants[0].members.gained == 3
    assert found.total.members == Count(5, 5, 0, 0)


def test_a_grant_that_moves_is_lost_to_one_organisation_and_new_to_the_other(lake: Lake) -> None:
    found = compared(lake[0], [grant()], [grant(**plan("current", world.GOLDEN))])
    assert {d.total.name: (d.total.change, d.total.members) for d in found} == {
        world.SIERRA: ("removed", Count(3, 0, 0, 3)),
        world.GOLDEN: ("added", Count(0, 2, 2, 0)),
    }


def test_another_level_is_told_as_columns_lost_and_shown_otherwise(lake: Lake) -> None:
    found = one(lake[0], grant(), grant(**world.LIMITED))
    assert "member.ssn" in found.columns_lost
    assert "member.member_id" in found.columns_lost
    assert not any(c == "member.member_id" or c.startswith("member.ssn") for c in found.columns_gained)
    assert any(c.startswith("member.member_id as ") for c in found.columns_gained)
    assert found.members == Count(3, 3, 0, 0)


def test_columns_that_are_left_out_and_level_aggregate_are_told(lake: Lake) -> None:
    narrow = one(lake[0], grant(), grant(columns={"member": ["sex"]}))
    assert "member.zip" in narrow.columns_lost and "member.sex" not in narrow.columns_lost
    public = {"level": "aggregate", "channels": ["tabulate"], "purposes": ["program_administration"]}
    gone = one(lake[0], grant(), grant(**public))
    assert gone.rows["diagnosis"].new == 0 and gone.rows["diagnosis"].lost == gone.rows["diagnosis"].old > 0
    assert not gone.columns_gained


def test_a_grant_that_the_release_would_refuse_is_told_as_blocked(lake: Lake) -> None:
    people = Release(
        lake[0].id,
        lake[0].path,
        {**lake[0].manifest, "synthetic": False, "unknown_drugs": {"fills": 0, "lines": 0}},
    )
    assert one(lake[0], None, grant()).blocked == ()
    assert "hiv" in one(people, None, grant()).blocked
    assert "part2" not in one(people, None, grant()).blocked


def test_the_command_prints_the_difference_of_two_folders(lake: Lake, tmp_path: Path) -> None:
    for folder, changes in (("old", {}), ("new", INCLUDING)):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / "one.yaml"
        file.write_text(
            yaml.safe_dump(grant(**{"agreement": "A-0"} | changes).model_dump(mode="json", exclude_none=True))
        )
        registry = {"organisations": {world.SIERRA: {"kind": "mcp", "name": "Sierra"}}}
        (tmp_path / folder / "organisations.yaml").write_text(yaml.safe_dump(registry))
    arguments = ["diff", str(tmp_path / "old"), str(tmp_path / "new"), "--lake", str(lake[2])]
    said = CliRunner().invoke(policy, arguments)
    assert said.exit_code == 0, said.output
    assert "sierra-vista: one-plan: changed" in said.output
    assert "rows of diagnosis 17 → 18 (+1 −0)" in said.output
    assert "part2: exclude → include" in said.output
    assert A not in said.output
    found = json.loads(CliRunner().invoke(policy, [*arguments, "--json"]).output)
    assert found["organisations"][0]["organisation"]["rows"]["diagnosis"]["gained"] == 1


def test_progress_goes_on_to_its_end(lake: Lake) -> None:
    said: list[tuple[str, int, int]] = []
    policy_diff(lake[0], book(grant()), book(grant(**INCLUDING)), lambda *step: said.append(step))
    assert [done for _, done, _ in said] == sorted(done for _, done, _ in said)
    assert said[-1][1:] == (2, 2)
    assert world.SIERRA in {what for what, _, _ in said}


def test_a_folder_with_a_fault_is_refused(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("name: wrong\n")
    said = CliRunner().invoke(
        policy, ["diff", str(tmp_path), str(PROJECT / "grants"), "--lake", str(lake[2])]
    )
    assert said.exit_code == 1
    assert type(said.exception).__name__ == "InvalidGrants"


def explained(
    release: Release, member: str, *grants: Grant, groups: tuple[str, ...] = ("mcp-sierra-vista",)
) -> Any:
    known = book(*grants)
    return explain_member(release, known, known.for_user(groups, date(2026, 6, 1)), member)


EVER = plan("ever_own_period")
WHY = [
    (A, {}, True, "attributed to sierra-vista since 2023-01-01, so on 2026-01-31"),
    (B, {}, False, "attributed to sierra-vista from 2023-01-01 to 2024-06-30, but not on 2026-01-31"),
    (B, EVER, True, "from 2023-01-01 to 2024-06-30, and the grant shows what happened on these days"),
    (B, plan("2024-06-30"), True, "so on 2024-06-30, the grant's as-of date"),
    ("00000005E", {}, False, "from 2023-01-01 to 2023-06-30 and from 2024-01-01 to 2025-11-30"),
    (D, {}, False, "never attributed to sierra-vista"),
    (A, plan("2099-01-01"), False, "attributed on 2099-01-01, and the release's as-of date is 2026-01-31"),
    (D, EVER, False, "never attributed to sierra-vista"),
    (D, world.SAFE_HARBOR, True, "about every member"),
    (A, {"valid_until": "2026-03-01"}, False, "expired on 2026-03-01"),
]  # fmt: skip


@pytest.mark.parametrize(("member", "changes", "sees", "why"), WHY)
def test_a_persons_grant_says_why_it_shows_a_member_and_why_not(
    lake: Lake, member: str, changes: dict[str, Any], sees: bool, why: str
) -> None:
    (found,) = explained(lake[0], member, grant(**changes))["grants"]
    assert found["sees"] is sees
    assert why in found["why"]


@pytest.mark.parametrize("member", list(world.MEMBERS))
def test_what_is_explained_is_what_the_slice_holds(lake: Lake, member: str) -> None:
    release, vault, folder = lake
    for changes in ({}, EVER, plan("2023-07-01"), plan("current", world.GOLDEN)):
        cut = ensure(release, grant(tables=["member"], **changes), vault, folder)
        held = (member,) in keys(cut, "member")
        assert explained(release, member, grant(**changes))["grants"][0]["sees"] is held


def test_a_grant_for_reports_alone_shows_no_member_and_says_what_is_made_from_its_slice(lake: Lake) -> None:
    (found,) = explained(lake[0], A, grant(channels=["reports"]))["grants"]
    assert (found["sees"], found["rows"], found["as"]) == (
        False,
        False,
        "no rows to people; reports are run on it",
    )
    other = explained(lake[0], A, grant(channels=["reports"], groups=["others"]))
    assert other["missing"] == []


def test_the_missing_grant_is_named_with_who_can_give_it(lake: Lake) -> None:
    golden = grant(
        name="golden",
        groups=["mcp-golden-poppy"],
        approver="Golden's office",
        **plan("current", world.GOLDEN),
    )
    found = explained(lake[0], B, grant(), golden)
    assert found["missing"] == [
        {"file": "golden", "grants": ["golden"], "level": "identified", "groups": ["mcp-golden-poppy"],
         "approver": "Golden's office"}
    ]  # fmt: skip
    assert explained(lake[0], A, grant(), golden)["missing"] == []


def test_an_operator_hears_nothing_of_claims_or_consents(lake: Lake, tmp_path: Path) -> None:
    """The member with a Part 2 record is explained word for word as without it."""
    rows = world.tables()
    rows["sensitive_claim"] = []
    plain = world.tiny_release.write(tmp_path / "lake", rows)
    consenting = grant(
        recipient={"id": world.SIERRA}, sensitive={"part2": "with_consent", "basis": "consent_tpo"}
    )
    for one_grant in (grant(), consenting):
        assert explained(lake[0], A, one_grant) == explained(plain, A, one_grant)


def test_an_operator_is_not_told_who_is_in_a_cohort_in_a_part_2_program_or_of_which_tribe(
    tmp_path: Path,
) -> None:
    rows = world.tables()
    for relation, organisation in (
        ("cohort", "study-7"),
        ("provider", "1000000001"),
        ("provider", "clinic-1"),
        ("tribe", "tribe-1"),
    ):
        span = {"member_id": A, "organisation_id": organisation, "relation": relation}
        rows["attribution"].append({**span, "start_date": date(2023, 1, 1), "end_date": None})
    release = world.tiny_release.write(tmp_path / "lake", rows)

    def of(relation: str, id: str, **more: Any) -> Grant:
        return grant(name=f"of-{relation}-{id}", organisation={"relation": relation, "ids": [id]}, **more)

    cohort, program = of("cohort", "study-7"), of("provider", "1000000001")
    for member in (A, C):
        found = explained(release, member, cohort, program)["grants"]
        assert [(g["sees"], g["why"], g["spans"]) for g in found] == [(None, NOT_TOLD, None)] * 2
    elsewhere = {"groups": ["others"]}
    others = [of(r, i, **elsewhere) for r, i in (("cohort", "study-7"), ("provider", "1000000001"))]
    assert explained(release, A, *others)["missing"] == []
    clinic, tribe = of("provider", "clinic-1", **elsewhere), of("tribe", "tribe-1", **elsewhere)
    known = GrantBook(
        [clinic, tribe], OrganisationRegistry({}), {clinic.name: "care.yaml", tribe.name: "tribal.yaml"}
    )
    missing = explain_member(release, known, known.for_user([], date(2026, 6, 1)), A)["missing"]
    assert [(m["file"], m["grants"], m["groups"]) for m in missing] == [
        ("care.yaml", [], []),
        ("tribal.yaml", [], []),
    ]


def test_a_member_that_the_release_does_not_have_is_said_to_be_unknown(lake: Lake) -> None:
    with pytest.raises(UnknownMember) as refused:
        explained(lake[0], NOBODY, grant())
    assert NOBODY not in str(refused.value)


def test_the_question_is_recorded_before_it_is_answered_and_without_the_id(
    world: World, service: Service
) -> None:
    asked = {"user": "ana", "member": B, "grant": "demo-analyst", "operator": "omar"}
    reply = world.control("POST", "/explanations", asked)
    assert reply.status == 200, reply.body
    assert [(g["grant"], g["sees"]) for g in reply.json["grants"]] == [("demo-analyst", False)]
    assert "2024-06-30" in reply.json["grants"][0]["why"]
    unknown = world.control("POST", "/explanations", {**asked, "member": NOBODY})
    assert (unknown.status, unknown.json["code"]) == (404, "unknown-member")
    events = [e for e in world.log() if e["event"] == "policy-explained"]
    assert [e["user"] for e in events] == [f"operator:{pwd.getpwuid(os.geteuid()).pw_name}"] * 2
    assert events[0]["subject"] == service.broker.audit.subject(B) != events[1]["subject"]
    assert B not in json.dumps(events, default=str) and NOBODY not in json.dumps(events, default=str)


def test_nothing_is_explained_while_the_audit_cannot_be_written(
    world: World, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.broker.audit import AuditUnavailable

    async def broken(*_: Any, **__: Any) -> None:
        raise AuditUnavailable

    monkeypatch.setattr(service.broker, "record", broken)
    reply = world.control("POST", "/explanations", {"user": "ana", "member": B, "grant": "demo-analyst"})
    assert (reply.status, reply.json["code"]) == (503, "audit-unavailable")
    assert b"2024-06-30" not in reply.body


def test_the_command_asks_the_broker_and_says_it_in_words(
    world: World, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in world.environment().items():
        monkeypatch.setenv(name, value)
    said = CliRunner().invoke(policy, ["explain", "ana", "--member", B])
    assert said.exit_code == 0, said.output
    assert (
        "✗ demo-analyst, level identified: The member was attributed to sierra-vista from 2023-01-01"
        in said.output
    )
    lacking = CliRunner().invoke(policy, ["explain", "ana", "--member", D])
    assert "mcp-care-mission-peak, level identified, of mcp-mission-peak-care; " in lacking.output
    assert "can give it" in lacking.output
    shown = CliRunner().invoke(policy, ["explain", "ana", "--member", A, "--grant", "demo-analyst"])
    assert "✓ demo-analyst" in shown.output
    refused = CliRunner().invoke(
        policy, ["explain", "ana", "--member", B, "--grants", str(PROJECT / "grants")]
    )
    assert refused.exit_code == 2
