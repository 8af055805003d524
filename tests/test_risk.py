"""Risk tiers: a slow plain-Python reference says the same of random members; the cap holds; the release keeps its cuts."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import date, timedelta
from typing import Any

import duckdb
import ibis
import pyarrow as pa
import pytest

from workbench.lake import derive
from workbench.lib import risk
from workbench.lib.tables import Tables
from workbench.schema import dictionary, value_sets

AS_OF = date(2026, 1, 31)
FIRST = AS_OF - timedelta(days=364)
PLANS = ("sierra-vista", "golden-poppy", "mission-peak")
LINES = {
    "ed": {"revenue_code": "0450"},
    "stay": {"revenue_code": "0120"},
    "visit": {"procedure_code": "99213"},
    "other": {"procedure_code": "A0425"},
}
CODES = {
    "E119": "conditions",
    "J4540": "conditions",
    "I509": "conditions",
    "F209": "conditions",
    "F1020": "conditions",
    "Z5900": "housing",
    "Z560": "social_needs",
    "Z630": "social_needs",
    "I10": None,
}
GROUPS = {"E119": "diabetes", "J4540": "lung", "I509": "heart", "F209": "mind", "F1020": "substance"}


def _world(seed: int, members: int = 60) -> dict[str, list[dict[str, Any]]]:
    """Random members with what the predictors look at, on both sides of every border."""
    draw = random.Random(seed)
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for number in range(members):
        id = f"{number:08d}A"
        rows["member"].append(
            {
                "member_id": id,
                "birth_date": draw.choice([date(2005, 1, 31), date(2005, 2, 1), date(1980, 5, 5), None]),
                "death_date": draw.choice([None] * 8 + [AS_OF, AS_OF + timedelta(days=1)]),
            }
        )
        for _ in range(draw.randint(0, 3)):
            start = FIRST + timedelta(days=draw.randint(-400, 364))
            rows["eligibility"].append(
                {
                    "member_id": id,
                    "organisation_id": draw.choice(PLANS),
                    "start_date": start,
                    "end_date": draw.choice([None, start + timedelta(days=draw.randint(-3, 300))]),
                    "medical": draw.random() < 0.9,
                }
            )
        for visit in range(draw.randint(0, 8)):
            day = draw.choice([FIRST - timedelta(days=1), FIRST, AS_OF, AS_OF + timedelta(days=1)] + [
                FIRST + timedelta(days=draw.randint(0, 364)) for _ in range(8)
            ])  # fmt: skip
            claim = {"claim_id": f"{id}-{visit}", "member_id": id, "from_date": day}
            status = draw.choice([None, "paid", "denied", "void"])
            rows["medical_claim"].append({**claim, "claim_status": status})
            for line in range(draw.randint(1, 3)):
                kind = draw.choice(list(LINES))
                rows["medical_claim_line"].append({**claim, "line_number": line, **LINES[kind]})
            for position in range(1, draw.randint(1, 3)):
                rows["diagnosis"].append(
                    {
                        **claim,
                        "role": draw.choice(["principal", "other", "admitting"]),
                        "position": position,
                        "code_system": "ICD-10-CM",
                        "code": draw.choice(list(CODES)),
                    }
                )
        for fill in range(draw.randint(0, 9)):
            rows["pharmacy_claim"].append(
                {
                    "claim_id": f"rx-{id}-{fill}",
                    "member_id": id,
                    "fill_date": FIRST + timedelta(days=draw.randint(-5, 370)),
                    "drug_name": draw.choice(["a", "b", "c", "d", "e", "f", None]),
                    "claim_status": draw.choice(["paid", "paid", "denied", None]),
                }
            )
    return rows


def _reference(rows: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Member -> band, scores and reasons, one member after the other, as the rule reads."""
    found = {}
    for member in rows["member"]:
        spans = [
            (e["start_date"], e["end_date"] or date(2999, 12, 31), e["organisation_id"])
            for e in rows["eligibility"]
            if e["member_id"] == member["member_id"] and e["medical"]
        ]
        spans = sorted((s, e, plan) for s, e, plan in spans if e >= s)
        lately = AS_OF - timedelta(days=risk.COVERED_DAYS - 1)
        alive = member["death_date"] is None or member["death_date"] > AS_OF
        if alive and any(s <= AS_OF and e >= lately for s, e, _ in spans):
            found[member["member_id"]] = _judge(rows, member, spans)
    return found


def _judge(rows: dict[str, Any], member: dict[str, Any], spans: list[Any]) -> dict[str, Any]:
    id = member["member_id"]
    days: dict[str, set[date]] = defaultdict(set)
    claims = {
        c["claim_id"]: c
        for c in rows["medical_claim"]
        if c["member_id"] == id and c["claim_status"] != "void" and FIRST <= c["from_date"] <= AS_OF
    }
    for line in rows["medical_claim_line"]:
        if line["claim_id"] in claims:
            kind = next(k for k, codes in LINES.items() if codes.items() <= line.items())
            days[kind].add(line["from_date"])
    codes = {
        d["code"]
        for d in rows["diagnosis"]
        if d["member_id"] == id and d["role"] != "admitting" and FIRST <= d["from_date"] <= AS_OF
    }
    drugs = {
        p["drug_name"]
        for p in rows["pharmacy_claim"]
        if p["member_id"] == id
        and p["claim_status"] in ("paid", None)
        and FIRST <= p["fill_date"] <= AS_OF
        and p["drug_name"]
    }
    met = [span for span in spans if span[0] <= AS_OF and span[1] >= FIRST]
    gaps, reached = -1, None
    for start, end, _ in met:
        if reached is None or (start - reached).days > 1:
            gaps += 1
        reached = max(reached or end, end)
    ill = len({GROUPS[c] for c in codes if CODES[c] == "conditions"})
    ed, visits = len(days["ed"]), len(days["visit"])
    social = {c[:3] for c in codes if CODES[c] in ("social_needs", "housing")}
    counted = {
        "ed_visits": ed,
        "admissions": len(days["stay"]),
        "conditions": ill,
        "many_drugs": len(drugs) >= 5,
        "no_visit": not visits,
        "more_ed_than_visits": ed > visits,
        "condition_no_visit": ill and not visits,
        "condition_no_drug": ill and not drugs,
        "housing": "Z5900" in codes,
        "social_needs": len(social),
        "coverage_gaps": max(gaps, 0),
        "plan_changes": max(len({plan for _, _, plan in met}) - 1, 0),
    }
    born = member["birth_date"]
    child = (
        born is not None
        and (AS_OF.year - born.year - ((AS_OF.month, AS_OF.day) < (born.month, born.day))) < 21
    )
    points = {p.code: min(int(counted[p.code] or 0), p.most) * p.points for p in risk.PREDICTORS}
    said = {
        name: sum(points[p.code] for p in risk.PREDICTORS if p.subdomain == name) for name in risk.SUBDOMAINS
    }
    reasons = ",".join(p.code for p in risk.PREDICTORS if counted[p.code])
    return {"age_band": "child" if child else "adult", **said, "reasons": reasons or None}


def _engine(rows: dict[str, Any]) -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    for name in risk.NEEDS:
        schema = dictionary()[name].arrow_schema
        table = (
            value_sets.rows()
            if name == "value_set"
            else pa.Table.from_pylist([dict.fromkeys(schema.names) | r for r in rows.get(name, [])], schema)
        )
        con.register(f"given_{name}", table)
        con.execute(f"CREATE TABLE {name} AS FROM given_{name}")
    return con


def _tiers(con: duckdb.DuckDBPyConnection, cuts: risk.Cuts | None = None) -> dict[str, dict[str, Any]]:
    query = str(ibis.to_sql(risk.tiers(Tables.unbound(), AS_OF, cuts), dialect="duckdb"))
    return {row["member_id"]: row for row in con.sql(query).to_arrow_table().to_pylist()}


@pytest.mark.parametrize("seed", range(5))
def test_a_plain_reference_gives_every_member_the_same_scores_and_reasons(seed: int) -> None:
    rows = _world(seed)
    with _engine(rows) as con:
        found = _tiers(con)
    names = ("age_band", *risk.SUBDOMAINS, "reasons")
    assert {id: {n: row[n] for n in names} for id, row in found.items()} == _reference(rows)
    assert len(found) > 15


@pytest.mark.parametrize("seed", range(2))
def test_no_more_than_a_tenth_of_an_age_band_is_high_and_a_third_is_above_low(seed: int) -> None:
    with _engine(_world(100 + seed, members=200)) as con:
        found = list(_tiers(con).values())
    for band in risk.BANDS:
        tiers = [row["tier"] for row in found if row["age_band"] == band]
        assert tiers.count("high") <= risk.HIGH_SHARE * len(tiers)
        assert tiers.count("high") + tiers.count("medium_rising") <= risk.RISING_SHARE * len(tiers)
    assert any(row["tier"] == "high" for row in found)
    assert all(
        row["tier"] == "low" or max(row[n] for n in risk.SUBDOMAINS) >= risk.LEAST_POINTS for row in found
    )


def test_kept_cut_points_give_the_same_tiers_and_hold_for_a_part_of_the_members() -> None:
    with _engine(_world(7, members=200)) as con:
        cuts = derive.risk_tiers(con, AS_OF)
        columns = list(dictionary()["risk_tier"].columns)
        derived = {row["member_id"]: row for row in con.table("risk_tier").to_arrow_table().to_pylist()}
        assert list(next(iter(derived.values()))) == columns
        assert _tiers(con) == _tiers(con, cuts) == derived
        con.execute("DELETE FROM member WHERE member_id > '00000020A'")
        part = _tiers(con, cuts)
        assert 0 < len(part) < len(derived)
        assert part == {id: derived[id] for id in part}


def test_a_member_alone_is_not_high_because_nobody_else_is_there() -> None:
    rows = _world(3, members=3)
    with _engine(rows) as con:
        assert {row["tier"] for row in _tiers(con).values()} <= {"low"}


def test_every_predictor_is_of_a_subdomain_and_has_words_without_commas_in_its_code() -> None:
    for predictor in risk.PREDICTORS:
        assert predictor.subdomain in risk.SUBDOMAINS
        assert "," not in predictor.code
        assert predictor.says
        assert predictor.points > 0
        assert predictor.most > 0
