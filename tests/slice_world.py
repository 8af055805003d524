"""Six members who move between plans, two claims a year each, one of them with Part 2 records: for tests of slices."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import tiny_release

from workbench.broker.grant_model import Grant
from workbench.broker.slices import Slice
from workbench.lake.release import Release
from workbench.schema.sensitive import Category

SIERRA, GOLDEN, MISSION = "sierra-vista", "golden-poppy", "mission-peak"
# member: (born, [(plan, from, to)])
MEMBERS: dict[str, tuple[str, list[tuple[str, str, str | None]]]] = {
    "00000001A": ("1990-05-17", [(SIERRA, "2023-01-01", None)]),
    "00000002B": ("1985-06-18", [(SIERRA, "2023-01-01", "2024-06-30"), (GOLDEN, "2024-07-01", None)]),
    "00000003C": ("2015-07-19", [(MISSION, "2023-01-01", "2024-12-31"), (SIERRA, "2025-01-01", None)]),
    "00000004D": ("1970-08-20", [(MISSION, "2023-01-01", None)]),
    "00000005E": ("1930-09-21", [(SIERRA, "2023-01-01", "2023-06-30"), (SIERRA, "2024-01-01", "2025-11-30")]),
    "00000006F": ("1999-10-22", [(SIERRA, "2024-01-01", None), (GOLDEN, "2024-03-01", None)]),
}
A, B, C, D, E, F = MEMBERS
DAYS = [f"{year}-{month}" for year in (2023, 2024, 2025) for month in ("03-05", "09-15")]
PART2 = "A-2024-09-15"
"""The claim with a Part 2 record; its pharmacy claim is linked."""


def claim(member: str, day: str) -> str:
    """The id of a member's medical claim of a day."""
    return f"{member[-1]}-{day}"


def tables() -> dict[str, list[dict[str, Any]]]:
    """The rows of the world's release."""
    rows: dict[str, list[dict[str, Any]]] = {
        "organisation": [
            {"organisation_id": p, "name": p.title(), "kind": "mcp"} for p in (SIERRA, GOLDEN, MISSION)
        ],
        "provider": [{"npi": "1000000001", "name": "Canary Clinic", "part2_program": True}],
        "value_set": [{"value_set": "race", "code": c, "label": c.title()} for c in ("white", "asian")],
    }
    for table in (
        "member",
        "eligibility",
        "attribution",
        "medical_claim",
        "medical_claim_line",
        "diagnosis",
        "procedure",
    ):
        rows[table] = []
    for table in (
        "pharmacy_claim",
        "care_note",
        "claim_version",
        "member_month",
        "sensitive_claim",
        "measure_event",
    ):
        rows[table] = []
    for number, (member, (born, spans)) in enumerate(MEMBERS.items()):
        rows["member"].append(_member(number, member, born))
        for plan, start, end in spans:
            span = {"member_id": member, "organisation_id": plan, "start_date": date.fromisoformat(start)}
            last = date.fromisoformat(end) if end else None
            rows["attribution"].append({**span, "relation": "mcp", "end_date": last})
            rows["eligibility"].append(
                {**span, "end_date": last or date(2026, 1, 31), "county_code": "19", "medical": True}
            )
        rows["attribution"].append(
            {**span, "organisation_id": "county-19", "relation": "county", "start_date": date(2023, 1, 1)}
        )
        for day in DAYS:
            _claim(rows, member, date.fromisoformat(day), int(day[:4]) - int(born[:4]))
    return rows


def _member(number: int, member: str, born: str) -> dict[str, Any]:
    return {
        "member_id": member,
        "ssn": f"900-00-000{number}",
        "last_name": f"Canary{number}",
        "first_name": "Ada",
        "birth_date": date.fromisoformat(born),
        "death_date": date(2025, 12, 24) if member.endswith("E") else None,
        "sex": "F",
        "race": "asian" if number % 2 else "white",
        "street": f"{number} Canary Street",
        "city": "Canaryville",
        "state": "CA",
        "zip": "90012",
        "county_code": "19",
        "phone": "555-0100",
        "email": "canary@example.org",
    }


def _claim(rows: dict[str, list[dict[str, Any]]], member: str, day: date, age: int) -> None:
    medical, pharmacy = claim(member, day.isoformat()), f"rx-{claim(member, day.isoformat())}"
    base = {"claim_id": medical, "member_id": member, "from_date": day}
    rows["medical_claim"].append(
        {**base, "version": 1, "organisation_id": SIERRA, "billing_npi": "1000000001", "claim_status": "paid"}
    )
    rows["medical_claim_line"] += [{**base, "line_number": n, "procedure_code": "99213"} for n in (1, 2)]
    rows["diagnosis"].append(
        {**base, "role": "principal", "position": 1, "code": "F1020" if medical == PART2 else "I10"}
    )
    rows["procedure"].append({**base, "position": 1, "code": "HZ2ZZZZ", "procedure_date": day} | {})
    del rows["procedure"][-1]["from_date"]
    rows["pharmacy_claim"].append(
        {"claim_id": pharmacy, "member_id": member, "fill_date": day, "drug_name": "x", "version": 1}
    )
    for kind, id in (("medical", medical), ("pharmacy", pharmacy)):
        rows["claim_version"].append(
            {"kind": kind, "claim_id": id, "version": 1, "member_id": member, "outcome": "final"}
        )
    note = {
        "note_id": f"note-{medical}",
        "member_id": member,
        "note_date": day,
        "claim_id": medical,
        "text": "Canary note",
    }
    rows["care_note"].append(note)
    rows["member_month"].append(
        {
            "member_id": member,
            "month": day.replace(day=1),
            "organisation_id": SIERRA,
            "county_code": "19",
            "age": age,
        }
    )
    if medical == PART2:
        for kind, id, reason in (("medical", medical, "diagnosis"), ("pharmacy", pharmacy, "linked")):
            hit = {"kind": kind, "claim_id": id, "member_id": member, "category": "part2", "reason": reason}
            rows["sensitive_claim"].append(hit)
    for basis in ("all", "without_part2"):
        if basis == "all" or medical != PART2:
            event = {
                "measure": "FUM",
                "measure_year": day.year,
                "basis": basis,
                "event_id": medical,
                "member_id": member,
            }
            event |= {"event_date": day, "organisation_id": SIERRA, "county_code": "19", "age": age}
            rows["measure_event"] += [{**event, "numerator": n, "met": basis == "all"} for n in ("7d", "30d")]


def release(lake: Path, **keywords: Any) -> Release:
    """The world as a release of a lake."""
    return tiny_release.write(lake, tables(), **keywords)


def grant(**changes: Any) -> Grant:
    """A grant of Sierra Vista's current members, identified, without Part 2 records; with changes."""
    raw: dict[str, Any] = {
        "name": "one-plan",
        "title": "One plan",
        "groups": ["mcp-sierra-vista"],
        "organisation": {"relation": "mcp", "ids": [SIERRA], "as_of": "current"},
        "level": "identified",
        "purposes": ["operations"],
        "approver": "The release office",
        "valid_from": "2026-01-01",
        "valid_until": "2036-12-31",
        "channels": ["notebook"],
    }
    return Grant.model_validate({**raw, **changes})


LIMITED: dict[str, Any] = {"level": "limited", "agreement": "A-1", "purposes": ["operations"]}
SAFE_HARBOR: dict[str, Any] = {
    "level": "safe_harbor",
    "organisation": {"relation": "state"},
    "agreement": "A-1",
}
INCLUDED: dict[str, Any] = {
    "agreement": "A-1",
    "recipient": {"state": "CA"},
    "sensitive": {"basis": "audit_evaluation_2_53"} | dict.fromkeys(map(str, Category), "include"),
}
"""Every category, for grants with rows of known people; below that level `DEIDENTIFIED`."""
DEIDENTIFIED: dict[str, Any] = {
    **INCLUDED,
    "sensitive": {**INCLUDED["sensitive"], "basis": "deidentified_164_514"},
}
del DEIDENTIFIED["agreement"]


def query(cut: Slice, sql: str) -> list[tuple[Any, ...]]:
    """Asks a slice's files, each table by its name."""
    with duckdb.connect() as con:
        for table in cut.tables():
            files = [str(part) for part in cut.parts(table)]
            con.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet({files})")
        return con.execute(sql).fetchall()


def column(cut: Slice, sql: str) -> list[Any]:
    """The first column of a query's answer."""
    return [row[0] for row in query(cut, sql)]
