"""Promise of the slice build: for random worlds and grants it holds exactly the rows that a slow oracle permits."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tiny_release
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from slice_oracle import RESULTS, Oracle, Row

from workbench.broker import buckets, consent
from workbench.broker.consent import Consents, Decision
from workbench.broker.grant_model import Grant
from workbench.broker.slices import Slice, ensure
from workbench.broker.state import State
from workbench.broker.vault import Vault
from workbench.days import today
from workbench.deid.levels import NOT_SERVED, Level
from workbench.schema import IdentifierClass, dictionary
from workbench.schema.sensitive import Category

AS_OF = date(2026, 1, 31)
PLANS, COUNTIES, CLINICS, COHORTS = (
    ("plan-a", "plan-b"),
    ("county-19",),
    ("1000000001", "1000000002"),
    ("cohort-1",),
)
ORGANISATIONS = {"mcp": PLANS, "county": COUNTIES, "provider": CLINICS, "cohort": COHORTS}
TODAY = today()
"""Also past midnight, see `_one_day`."""
IDS = ("90000001A", "90000002B", "90000003C", "90000004D", "90000005E")


@pytest.fixture(scope="module", autouse=True)
def _one_day() -> Iterator[None]:
    """The day on which these tests began is today until they end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consent, "today", lambda: TODAY)
        yield


def some_day(r: random.Random) -> date:
    return date(2023, 1, 1) + timedelta(days=r.randrange(0, 1200, 10))


def random_world(r: random.Random) -> dict[str, list[Row]]:
    """A release of a few people: spans with overlaps and gaps, claims, notes, tags, results."""
    rows: dict[str, list[Row]] = {name: [] for name in dictionary()}
    rows["provider"] = [
        {"npi": CLINICS[0], "name": "Program", "part2_program": True},
        {"npi": CLINICS[1], "name": "Clinic", "part2_program": False},
    ]
    rows["organisation"] = [{"organisation_id": p, "name": p, "kind": "mcp"} for p in PLANS]
    rows["value_set"] = [{"value_set": "race", "code_system": "RACE", "code": "white", "label": "White"}]
    for number, member in enumerate(IDS[: r.randint(2, 5)]):
        _person(r, rows, number, member)
    return rows


def _person(r: random.Random, rows: dict[str, list[Row]], number: int, member: str) -> None:
    died = some_day(r) if r.random() < 0.2 else None
    rows["member"].append(
        {
            "member_id": member, "ssn": f"900-00-000{number}", "last_name": "Canary", "sex": r.choice("FM"),
            "race": "white", "birth_date": r.choice([date(1930, 2, 28), date(1990, 5, 1), date(2015, 7, 1)]),
            "death_date": died, "zip": "90012", "county_code": "19", "street": "1 Canary Street", "language": "en",
        }
    )  # fmt: skip
    used: set[tuple[Any, ...]] = set()
    for relation, organisations in ORGANISATIONS.items():
        for _ in range(r.randint(0, 3)):
            start, length = some_day(r), r.choice([-5, 0, 30, 400, None])
            key = (organisation := r.choice(organisations), relation, start)
            if key in used:
                continue
            used.add(key)
            end = None if length is None else start + timedelta(days=length)
            span = {
                "member_id": member,
                "organisation_id": organisation,
                "start_date": start,
                "end_date": end,
            }
            rows["attribution"].append({**span, "relation": relation})
    starts = sorted({some_day(r) for _ in range(r.randint(0, 3))})
    for start in starts:
        end = start + timedelta(days=r.choice([20, 200, 900]))
        rows["eligibility"].append(
            {"member_id": member, "organisation_id": r.choice(PLANS), "start_date": start, "end_date": end,
             "county_code": "19", "medical": True}
        )  # fmt: skip
    for month in sorted({some_day(r).replace(day=1) for _ in range(3)}):
        rows["member_month"].append(
            {"member_id": member, "month": month, "organisation_id": r.choice(PLANS), "county_code": "19",
             "age": r.choice([10, 89, 90, 95])}
        )  # fmt: skip
    for n in range(r.randint(0, 3)):
        _claim(r, rows, member, f"{member[-1]}{n}")
    if r.random() < 0.7:
        rows["risk_tier"].append(
            {"member_id": member, "as_of_date": AS_OF, "age_band": "adult", "adverse_events": 3,
             "underutilisation": 0, "social_risk": 0, "tier": "low", "reasons": "ed_visits"}
        )  # fmt: skip


def _claim(r: random.Random, rows: dict[str, list[Row]], member: str, id: str) -> None:
    day, kind = some_day(r), r.choice(["medical", "pharmacy"])
    claim = f"{kind[:3]}-{id}"
    final = r.random() < 0.9
    base = {"claim_id": claim, "member_id": member}
    if kind == "medical" and final:
        rows["medical_claim"].append(
            {**base, "version": 1, "organisation_id": r.choice(PLANS), "from_date": day}
        )
        rows["medical_claim_line"] += [
            {**base, "line_number": n, "from_date": day} for n in range(r.randint(1, 2))
        ]
        rows["diagnosis"].append(
            {**base, "role": "principal", "position": 1, "code": "I10", "from_date": day}
        )
        if r.random() < 0.3:
            rows["procedure"].append({**base, "position": 1, "code": "0X", "procedure_date": day})
        for basis in ("all", "without_part2"):
            rows["measure_event"].append(
                {"measure": "FUM", "measure_year": day.year, "basis": basis, "event_id": claim, "member_id": member,
                 "event_date": day, "organisation_id": r.choice([*PLANS, None]), "county_code": "19",
                 "age": r.choice([30, 91]), "numerator": "7d", "met": True}
            )  # fmt: skip
    elif final:
        rows["pharmacy_claim"].append({**base, "version": 1, "fill_date": day, "drug_name": "x"})
    for version in range(1, r.randint(2, 3)):
        rows["claim_version"].append(
            {**base, "kind": kind, "version": version, "outcome": "final" if final else "void"}
        )
    for category in r.sample(list(Category), r.choice([0, 0, 1, 2])):
        rows["sensitive_claim"].append({**base, "kind": kind, "category": str(category), "reason": "line"})
    for n, spoken_of in enumerate(r.sample([claim, None, "unknown"], r.randint(0, 2))):
        rows["care_note"].append(
            {"note_id": f"note-{claim}-{n}", "member_id": member, "note_date": some_day(r), "claim_id": spoken_of,
             "text": "Canary note"}
        )  # fmt: skip


def random_grant(r: random.Random) -> Grant:
    """A grant that the law allows."""
    level = r.choice(["identified", "identified", "identified", "limited", "safe_harbor"])
    relation = "state" if level == "safe_harbor" else r.choice(["state", *ORGANISATIONS])
    organisation: dict[str, Any] = {"relation": relation}
    if relation != "state":
        ids = ORGANISATIONS[relation]
        organisation["ids"] = r.sample(ids, r.randint(1, len(ids)))
        organisation["as_of"] = r.choice(["current", "ever_own_period", min(some_day(r), AS_OF).isoformat()])
    purpose = {"identified": "treatment", "limited": "research", "safe_harbor": "research"}[level]
    handlings = ["exclude", "include", *(["with_consent"] * 2 if level == "identified" else [])]
    sensitive: dict[str, Any] = {str(c): r.choice(handlings) for c in Category}
    sensitive["part2"] = r.choice(["exclude", {"identified": "with_consent"}.get(level, "include")])
    basis = {"identified": "consent_tpo", "limited": "research_2_52", "safe_harbor": "deidentified_164_514"}
    if sensitive["part2"] != "exclude":
        sensitive["basis"] = basis[level]
    names = r.sample(list(dictionary()), 9) if r.random() < 0.3 else list(dictionary())
    narrowed = [name for name in ("member", "medical_claim") if name in names and r.random() < 0.3]
    return Grant.model_validate(
        {
            "name": "random-grant", "title": "A random grant", "groups": ["some"], "organisation": organisation,
            "recipient": {"id": "plan-a", "state": "CA"}, "level": level, "tables": names, "sensitive": sensitive,
            "columns": {name: list(dictionary()[name].columns)[-2:] for name in narrowed}, "purposes": [purpose],
            "agreement": "A-1", "approver": "The release office", "valid_from": "2026-01-01",
            "valid_until": "2036-12-31", "channels": ["notebook"],
        }
    )  # fmt: skip


def random_decisions(r: random.Random) -> list[Decision]:
    """Decisions towards this recipient and another, in the past, today and lapsed."""
    now = datetime.now(UTC)
    return [
        Decision(
            member_id=r.choice(IDS),
            recipient=r.choice(["plan-a", "plan-a", "plan-b"]),
            scope=r.choice(["all", *map(str, Category)]),
            source="form",
            start=TODAY + timedelta(days=r.choice([-900, -1, 0, 1])),
            until=r.choice([None, None, TODAY + timedelta(days=r.choice([1, 900]))]),
            revoked=r.random() < 0.3,
            decided_at=now - timedelta(days=r.choice([1, 2, 3, 50])),
        )
        for _ in range(r.randint(0, 12))
    ]


def consents_of(decisions: list[Decision]) -> dict[tuple[str, str], bool]:
    """By the newest decision for each member and category; of one moment a revocation, else the later written."""
    found = {}
    for member in IDS:
        for category in map(str, Category):
            about = [
                (d.decided_at, d.revoked, n, d)
                for n, d in enumerate(decisions)
                if d.member_id == member and d.recipient == "plan-a" and d.scope in (category, "all")
            ]
            if about:
                newest = max(about, key=lambda found: found[:3])[3]
                lasts = newest.until is None or newest.until >= TODAY
                found[member, category] = not newest.revoked and newest.start <= TODAY and lasts
    return found


def as_served(table: str, row: Row, grant: Grant, tokens: dict[str, str], old: set[str]) -> Row:
    """A row as its level shows it, in plain Python."""
    shown: Row = {}
    named = grant.columns_of(table)
    for name, column in dictionary()[table].columns.items():
        kind, value, label = column.identifier_class, row[name], name
        if named is not None and name not in named:
            continue
        if grant.level != Level.IDENTIFIED:
            if kind in (IdentifierClass.DIRECT, IdentifierClass.FREE_TEXT):
                continue
            if kind in (IdentifierClass.MEMBER_KEY, IdentifierClass.CLAIM_KEY) and value is not None:
                value = tokens[value]
        if grant.level == Level.SAFE_HARBOR:
            if kind in (IdentifierClass.GEOGRAPHY, IdentifierClass.ORGANISATION):
                continue
            if kind in (IdentifierClass.DATE, IdentifierClass.BIRTH_DATE):
                label = "year" if name == "month" else name.removesuffix("_date") + "_year"
                hide = kind == IdentifierClass.BIRTH_DATE and row["member_id"] in old
                value = None if value is None or hide or value.year <= AS_OF.year - 90 else value.year
            if kind == IdentifierClass.ZIP:
                label, value = "zip3", "000" if value is None else value[:3]
            if kind == IdentifierClass.AGE and value is not None:
                value = 90 if row["member_id"] in old else min(value, 90)
        shown[label] = value
    return shown


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[State]:
    folder = tmp_path_factory.mktemp("oracle")
    found = State(f"sqlite:///{folder / 'state.sqlite'}", folder / "state")
    yield found
    found.close()


def count(rows: list[Row]) -> Counter[str]:
    return Counter(repr(sorted(row.items(), key=lambda item: item[0])) for row in rows)


def read(slice_: Slice, table: str) -> list[Row]:
    found: list[Row] = [row for part in slice_.parts(table) for row in pq.read_table(part).to_pylist()]
    return found


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(st.integers(0, 2**32))
def test_a_slice_holds_exactly_the_rows_that_the_oracle_permits(state: State, seed: int) -> None:
    """A build takes a quarter of a second and more, so examples are not shrunk: a world is small as it is."""
    r = random.Random(seed)
    world, grant, decisions = random_world(r), random_grant(r), random_decisions(r)
    consents = Consents(state)
    with state.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM consent")
    consents.decide(decisions)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets, "MEMBERS_PER_BUCKET", r.choice([1, 2]))
        lake = Path(folder)
        release = tiny_release.write(lake, world, cut_at=r.choice([[], [IDS[1]], [IDS[1], IDS[2]]]))
        vault = Vault(state)
        view = consents.view("plan-a", grant.sensitive.with_consent)
        slice_ = ensure(release, grant, vault, lake, consents=view)
        oracle = Oracle(world, grant, AS_OF, consents_of(decisions))
        ids = [
            row[name]
            for rows in world.values()
            for row in rows
            for name in ("claim_id", "event_id", "note_id")
            if row.get(name)
        ]
        tokens = vault.tokens(grant.namespace, "claim", ids) | vault.tokens(grant.namespace, "member", IDS)
        old = {row["member_id"] for row in world["member"] if row["birth_date"].year == 1930}
        for table in grant.table_names:
            if (grant.level, table) in NOT_SERVED:
                assert table not in slice_.manifest["tables"]
                continue
            found = read(slice_, table)
            expected = [as_served(table, row, grant, tokens, old) for row in oracle.rows(table)]
            if table in RESULTS:
                lost = {m for m in oracle.members() if oracle.lost(table, m)}
                lost |= {tokens[m] for m in lost}
                found = [row for row in found if row["member_id"] not in lost]
            assert count(found) == count(expected), table
            entry = slice_.manifest["tables"][table]
            left = entry["rows_in"] - sum(entry["removed"].values()) + entry["split"] + entry["recomputed"]
            assert (entry["rows"], entry["rows_in"]) == (left, len(world[table])), table
            assert min([*entry["removed"].values(), entry["split"], entry["recomputed"]]) >= 0, table
