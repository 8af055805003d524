"""What attackers found in slices and channels, and must not find again: each test is a way in that was open once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import tiny_release
from channel_world import Api, api
from slice_world import GOLDEN, SIERRA, A, B, C, D, column, grant, query
from slice_world import tables as slice_tables
from test_tabulate import _care

from workbench.broker.consent import Consents, read_decisions
from workbench.broker.slices import Slice, ensure, ensure_tabulation
from workbench.broker.state import State
from workbench.broker.tabulate import compute
from workbench.broker.vault import Vault
from workbench.schema import value_sets

ASKED = {
    "justification": "Unconscious in our emergency department, no history known.",
    "reason": "medical_emergency",
}
SUD = "D-2024-03-05"
OWN_PERIOD = {"relation": "mcp", "ids": [SIERRA], "as_of": "ever_own_period"}


@pytest.fixture(scope="module")
def served() -> Iterator[Api]:
    with api(part2=frozenset({SUD})) as found:
        yield found


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    state = State(f"sqlite:///{tmp_path / 'state.sqlite'}", tmp_path / "state")
    yield Vault(state)
    state.close()


def _cut(tmp_path: Path, vault: Vault, rows: dict[str, Any], **changes: Any) -> Slice:
    return ensure(tiny_release.write(tmp_path / "lake", rows), grant(**changes), vault, tmp_path / "lake")


def test_a_tier_under_own_period_tells_nothing_of_coverage_by_another_plan(
    tmp_path: Path, vault: Vault
) -> None:
    """Both have all their claims in Sierra's days; one was of another plan before, the other was nowhere."""
    rows: dict[str, Any] = {"value_set": value_sets.rows()}
    spans = {
        A: [(GOLDEN, date(2025, 3, 1), date(2025, 6, 30)), (SIERRA, date(2025, 9, 1), date(2026, 1, 31))],
        B: [(SIERRA, date(2025, 9, 1), date(2026, 1, 31))],
    }
    rows["member"] = [{"member_id": m, "birth_date": date(1990, 1, 1)} for m in spans]
    rows["eligibility"] = [
        {"member_id": m, "organisation_id": plan, "start_date": first, "end_date": last, "medical": True}
        for m, of_member in spans.items()
        for plan, first, last in of_member
    ]
    rows["attribution"] = [
        {"relation": "mcp"} | {k: v for k, v in row.items() if k != "medical"} for row in rows["eligibility"]
    ]
    tier = {"as_of_date": date(2026, 1, 31), "age_band": "adult", "adverse_events": 0, "underutilisation": 4}
    rows["risk_tier"] = [
        {**tier, "member_id": A, "social_risk": 2, "tier": "low", "reasons": "no_visit,coverage_gaps,plan_changes"},
        {**tier, "member_id": B, "social_risk": 0, "tier": "low", "reasons": "no_visit"},
    ]  # fmt: skip
    slice_ = _cut(tmp_path, vault, rows, organisation=OWN_PERIOD)
    assert query(slice_, "SELECT member_id, social_risk, reasons FROM risk_tier ORDER BY ALL") == [
        (A, 0, "no_visit"),
        (B, 0, "no_visit"),
    ]


def test_a_former_plan_does_not_learn_of_a_death_from_a_visit_that_no_measure_counts(
    tmp_path: Path, vault: Vault
) -> None:
    """Both had the same emergency visit in May and left in June; one died in October, so the release counts one visit."""
    rows: dict[str, Any] = {
        name: [] for name in ("eligibility", "medical_claim_line", "diagnosis", "sensitive_claim")
    }
    rows |= {"member": [], "attribution": [], "medical_claim": [], "measure_event": []}
    rows["value_set"] = value_sets.rows().to_pylist()
    for member, died in ((A, None), (B, date(2025, 10, 1))):
        day, span = date(2025, 5, 9), {"member_id": member, "start_date": date(2024, 1, 1)}
        event = {"member_id": member, "event_id": f"E{member}", "event_date": day, "county_code": "19"}
        rows["member"].append({"member_id": member, "birth_date": date(1985, 1, 1), "death_date": died})
        claim = _care(rows, event | {"organisation_id": SIERRA}, 3)
        rows["medical_claim"] += [
            claim,
            {**claim, "claim_id": f"E{member}", "from_date": day, "through_date": day, "bill_type": "0131"},
        ]
        rows["attribution"].append(
            {**span, "organisation_id": SIERRA, "relation": "mcp", "end_date": date(2025, 6, 30)}
        )
        if died is None:
            event |= {
                "measure": "FUM",
                "measure_year": 2025,
                "basis": "all",
                "organisation_id": SIERRA,
                "age": 40,
            }
            rows["measure_event"] += [{**event, "numerator": n, "met": True} for n in ("7d", "30d")]
    rows["eligibility"] = [
        {**row, "start_date": date(2024, 1, 1), "end_date": date(2025, 6, 30)} for row in rows["eligibility"]
    ]
    rows["sensitive_claim"] = []
    slice_ = _cut(tmp_path, vault, rows, organisation=OWN_PERIOD)
    assert column(slice_, "SELECT count(*) FROM member WHERE death_date IS NOT NULL") == [0]
    counted = "SELECT member_id, numerator, met, organisation_id, age FROM measure_event ORDER BY ALL"
    assert query(slice_, counted) == [(m, n, True, SIERRA, 40) for m in (A, B) for n in ("30d", "7d")]


def test_a_file_of_days_that_lists_the_newest_first_revives_no_consent_revoked_that_day(
    tmp_path: Path,
) -> None:
    file = tmp_path / "decisions.csv"
    file.write_text(
        "member_id,recipient,scope,from,until,revoked,decided_at,source\n"
        f"{A},clinic,all,2026-01-05,,yes,2026-01-05,form 2\n{A},clinic,part2,2026-01-05,,no,2026-01-05,form 1\n"
    )
    state = State(f"sqlite:///{tmp_path / 's.sqlite'}", tmp_path / "state")
    register = Consents(state)
    register.decide(read_decisions(file))
    assert register.view("clinic", ["part2"]).members == {"part2": frozenset()}
    assert [row["counts"] for row in register.listed(member_id=A)] == [True, False]
    state.close()


@pytest.mark.parametrize("as_of", ["current", "ever_own_period"])
def test_who_is_in_a_cohort_is_known_to_the_cohorts_own_grant_alone(
    tmp_path: Path, vault: Vault, as_of: str
) -> None:
    rows = slice_tables()
    study = {"relation": "cohort", "start_date": date(2025, 1, 1)}
    rows["attribution"] += [
        {**study, "member_id": A, "organisation_id": "opioid-study"},
        {**study, "member_id": A, "organisation_id": "asthma-study"},
        {**study, "member_id": C, "organisation_id": "opioid-study"},
    ]
    release = tiny_release.write(tmp_path / "lake", rows)
    seen = "SELECT member_id, organisation_id FROM attribution WHERE relation = 'cohort' ORDER BY ALL"
    organisations: list[dict[str, Any]] = [{"relation": "mcp", "ids": [SIERRA], "as_of": as_of}]
    organisations += [{"relation": "state"}, {"relation": "county", "ids": ["county-19"], "as_of": as_of}]
    for organisation in organisations:
        slice_ = ensure(release, grant(organisation=organisation), vault, tmp_path / "lake")
        assert query(slice_, seen) == []
        entry = slice_.manifest["tables"]["attribution"]
        assert entry["rows"] == entry["rows_in"] - sum(entry["removed"].values()) + entry["split"], (
            organisation
        )
    study_team = grant(organisation={"relation": "cohort", "ids": ["opioid-study"], "as_of": as_of})
    slice_ = ensure(release, study_team, vault, tmp_path / "lake")
    assert query(slice_, seen) == [(A, "opioid-study"), (C, "opioid-study")]


def test_a_table_does_not_tell_of_everybody_in_a_cell_that_something_is_hidden(
    tmp_path: Path, vault: Vault
) -> None:
    """In county 37 whoever has an open emergency visit is followed up by a Part 2 program, in county 19 only some are.

    Twenty people are no small number, but the table's twenty beside the caller's own none names each of them.
    """
    rows: dict[str, Any] = {
        name: [] for name in ("member", "measure_event", "eligibility", "medical_claim_line")
    }
    rows |= {"diagnosis": [], "medical_claim": [], "sensitive_claim": [], "member_month": []}
    rows["value_set"] = value_sets.rows().to_pylist()
    for number in range(80):
        county, by_program = ("37", True) if number < 20 else ("19", number % 2 == 0)
        event = {
            "measure": "FUM",
            "measure_year": 2025,
            "basis": "all",
            "member_id": f"{number:08d}A",
            "age": 40,
        }
        event |= {"event_id": f"E{number}", "event_date": date(2025, 5, 9), "county_code": county}
        rows["member"].append({"member_id": event["member_id"], "birth_date": date(1985, 1, 1)})
        rows["measure_event"] += [{**event, "numerator": n, "met": by_program} for n in ("7d", "30d")]
        follow_up = _care(rows, event | {"organisation_id": SIERRA}, 3)
        index = {**follow_up, "claim_id": event["event_id"], "bill_type": "0131"}
        rows["medical_claim"].append(
            index | {"from_date": date(2025, 5, 9), "through_date": date(2025, 5, 9)}
        )
        if by_program:
            rows["medical_claim"].append(follow_up)
        else:
            rows["sensitive_claim"].pop()
    release = tiny_release.write(tmp_path / "lake", rows)
    changes: dict[str, Any] = {
        "level": "aggregate",
        "channels": ["tabulate"],
        "organisation": {"relation": "state"},
    }
    base = ensure_tabulation(release, grant(**changes), vault, tmp_path / "lake")
    visible = "SELECT county, count(*), count(*) FILTER (met) FROM event WHERE basis = 'visible' AND numerator = '7d' GROUP BY ALL"
    assert sorted(query(base, visible)) == [("19", 60, 0), ("37", 20, 0)]
    answer = compute(base.path, {"table": "fum_by_county", "year": 2025, "numerator": "7d"})
    shown = {row["county"]: row["met"] for row in answer["rows"] if not row["hidden"]}
    assert "37" not in shown
    assert not {"19", "total"} <= set(shown)
    state = compute(base.path, {"table": "fum_by_state", "year": 2025, "numerator": "7d"})
    assert (state["rows"][0]["hidden"], state["rows"][0]["met"]) in ((False, 50), (True, None))


@pytest.mark.sandbox
@pytest.mark.parametrize("kind", ["app", "report"])
def test_an_app_or_a_report_which_others_read_breaks_no_glass(served: Api, kind: str) -> None:
    from channel_world import CARE, write_grant

    channels = ["notebook", "tabulate", "lmr_api", "risk_api", "feed", "apps", "reports"]
    write_grant(served.world, CARE, channels=channels, sensitive={"mental_health_specialty": "include"})
    bound = served.world.bind("ana", CARE, "treatment", kind=kind)
    reply = bound.ask("POST", f"/members/{D}/break-glass", ASKED)
    assert (reply.status, reply.json["code"]) == (403, "break-glass-refused")
    opened = served.world.bind("ana", CARE, "treatment").ask("POST", f"/members/{D}/break-glass", ASKED)
    assert opened.status == 201
    assert bound.ask("GET", f"/break-glass/{opened.json['access']}/record").status == 403
    write_grant(served.world, CARE)


@pytest.mark.sandbox
def test_part_2_is_not_opened_by_calling_a_transfer_a_medical_emergency(served: Api) -> None:
    care = served.client("transfers")
    for reason in ("transfer_of_care", "public_health_emergency", "other_treatment"):
        asked = {**ASKED, "requester": "e.ruiz", "reason": reason, "medical_emergency": True}
        assert care.ask("POST", f"/members/{D}/break-glass", asked).status == 400


@pytest.mark.sandbox
def test_an_access_whose_time_is_up_gives_nothing_though_its_timer_is_late(served: Api) -> None:
    """The timer counts the machine's running time; a machine that slept wakes up after the end that was promised."""
    care = served.client("sleepers")
    asked = {**ASKED, "requester": "e.ruiz"}
    access = care.ask("POST", f"/members/{D}/break-glass", asked).json["access"]
    assert care.ask("GET", f"/break-glass/{access}/record").status == 200
    served.service.channels.glass._open[access].until = datetime.now(UTC) - timedelta(seconds=1)
    assert care.ask("GET", f"/break-glass/{access}/record").json["code"] == "unknown-access"
