"""FUM once more, slowly, in plain Python over rows: written from the rule in words, not from the library's expression."""

from __future__ import annotations

import datetime as dt
import functools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from workbench.schema import value_sets

Row = Mapping[str, Any]
VALUE_SETS = value_sets.rows().to_pylist()
DAY = dt.timedelta(days=1)


@functools.cache
def in_set(code: str | None, names: tuple[str, ...], systems: tuple[str, ...]) -> bool:
    if not code:
        return False
    for row in VALUE_SETS:
        if row["value_set"] not in names or row["code_system"] not in systems:
            continue
        if code == row["code"] or (row["match"] == "prefix" and code.startswith(row["code"])):
            return True
    return False


def line_in(line: Row, bill_type: str | None, *names: str) -> bool:
    return (
        in_set(line["procedure_code"], names, ("HCPCS", "CPT"))
        or in_set(line["revenue_code"], names, ("REV",))
        or in_set(line["place_of_service"], names, ("POS",))
        or in_set(bill_type, names, ("BILL_TYPE",))
    )


class Claim:
    def __init__(self, header: Row, lines: Sequence[Row], diagnoses: Sequence[Row]):
        self.id, self.member = header["claim_id"], header["member_id"]
        self.header, self.lines = header, lines
        self.bill = header["bill_type"]
        self.from_date: dt.date = header["from_date"]
        self.dx = [d for d in diagnoses if d["role"] != "admitting" and d["code_system"] == "ICD-10-CM"]
        emergency = [line for line in lines if line_in(line, self.bill, "ed_visit")]
        self.emergency_day = min((self.day(line) for line in emergency), default=None)

    def day(self, line: Row) -> dt.date:
        return line["from_date"] or self.header["from_date"]

    def has(self, name: str, principal: bool = False) -> bool:
        return any(
            in_set(d["code"], (name,), ("ICD-10-CM",))
            for d in self.dx
            if d["role"] == "principal" or not principal
        )

    def stay(self, residential: bool) -> bool:
        names = ("inpatient_stay", "nonacute_stay", *(("residential_stay",) if residential else ()))
        return any(line_in(line, self.bill, *names) for line in self.lines)

    def admitted(self, residential: bool) -> dt.date | None:
        if self.header["admission_date"]:
            return self.header["admission_date"]  # type: ignore[no-any-return]
        if self.bill and self.bill[3:4] in ("3", "4"):
            return None
        names = ("inpatient_stay", "nonacute_stay", *(("residential_stay",) if residential else ()))
        if self.bill:
            return self.from_date
        return min(self.day(line) for line in self.lines if line_in(line, self.bill, *names))

    def visit_days(self) -> set[dt.date]:
        codes = (
            "outpatient_visit",
            "telehealth_visit",
            "partial_hospitalisation",
            "case_management",
            "observation",
            "ect",
        )
        elsewhere = ("inpatient_place", "laboratory_place", "ed_visit", "hospice")
        return {
            self.day(line)
            for line in self.lines
            if line_in(line, self.bill, *codes) and not in_set(line["place_of_service"], elsewhere, ("POS",))
        }

    def hospice(self) -> bool:
        home = in_set(self.bill, ("home_health_bill",), ("BILL_TYPE",))
        return any(
            line_in(line, self.bill, "hospice")
            or (not home and in_set(line["procedure_code"], ("hospice_or_home_health",), ("HCPCS",)))
            for line in self.lines
        )


def age_on(birth: dt.date, day: dt.date) -> int:
    return day.year - birth.year - ((day.month, day.day) < (birth.month, birth.day))


def covered(spans: Sequence[Row], day: dt.date) -> bool:
    return any(s["start_date"] <= day <= (s["end_date"] or dt.date.max) for s in spans)


def answer(tables: Mapping[str, Sequence[Row]], year: int, settings: Any) -> dict[tuple[str, dt.date], Row]:
    """(member, date) -> denominator, met_7d, met_30d, plan, first follow-up day, for every counted event."""
    claims: dict[str, list[Claim]] = defaultdict(list)
    lines, diagnoses = defaultdict(list), defaultdict(list)
    for line in tables["medical_claim_line"]:
        lines[line["claim_id"]].append(line)
    for diagnosis in tables["diagnosis"]:
        diagnoses[diagnosis["claim_id"]].append(diagnosis)
    for header in tables["medical_claim"]:
        if header["claim_status"] == "denied" and not settings.denied_claims_count:
            continue
        claim = Claim(header, lines[header["claim_id"]], diagnoses[header["claim_id"]])
        claims[header["member_id"]].append(claim)
    found: dict[tuple[str, dt.date], Row] = {}
    for member in tables["member"]:
        spans = [s for s in tables["eligibility"] if s["member_id"] == member["member_id"] and s["medical"]]
        for event in member_events(member, spans, claims[member["member_id"]], year, settings):
            found[member["member_id"], event["event_date"]] = event
    return found


def member_events(
    member: Row, spans: Sequence[Row], claims: Sequence[Claim], year: int, settings: Any
) -> Iterable[Row]:
    first, last = dt.date(year, 1, 1), dt.date(year, 12, 31)
    residential = settings.residential_is_admission_my2025
    if member["death_date"] and first <= member["death_date"] <= last:
        return
    for claim in claims:
        through = claim.header["through_date"] or claim.header["from_date"]
        if claim.hospice() and claim.header["from_date"] <= last and through >= first:
            return
        ended = claim.header["discharge_date"] or through
        if claim.header["discharge_status"] in ("20", "40", "41", "42") and first <= ended <= last:
            return
    kept: dt.date | None = None
    day = first
    while day <= dt.date(year, 12, 1):
        if eligible(day, member, spans, claims, year, settings) and (kept is None or (day - kept).days >= 31):
            kept = day
            window = [day + n * DAY for n in range(31)]
            plans = {
                s["organisation_id"]
                for s in spans
                if all(
                    covered([x for x in spans if x["organisation_id"] == s["organisation_id"]], d)
                    for d in window
                )
            }
            days = follow_up_days(day, claims, year, settings, residential)
            yield {
                "event_date": day,
                "organisation_id": plans.pop() if len(plans) == 1 else None,
                "met_7d": any(n <= 7 for n in days),
                "met_30d": any(n <= 30 for n in days),
                "followup_days": min(days, default=None),
            }
        day += DAY


def eligible(
    day: dt.date, member: Row, spans: Sequence[Row], claims: Sequence[Claim], year: int, settings: Any
) -> bool:
    residential = settings.residential_is_admission_my2025
    visit = [c for c in claims if c.emergency_day == day]
    principal_only = year < 2025 and not settings.self_harm_any_position_before_my2025
    if not any(
        c.has("mental_illness", principal=True) or c.has("self_harm", principal=principal_only) for c in visit
    ):
        return False
    if member["birth_date"] is None or age_on(member["birth_date"], day) < 6:
        return False
    if any(c.stay(residential) for c in visit):
        return False
    for claim in claims:
        admitted = claim.admitted(residential) if claim.stay(residential) else None
        if admitted and 0 <= (admitted - day).days <= 30:
            return False
    return all(covered(spans, day + n * DAY) for n in range(31))


def follow_up_days(
    day: dt.date, claims: Sequence[Claim], year: int, settings: Any, residential: bool
) -> list[int]:
    any_position = year >= 2025 or settings.follow_up_any_position_before_my2025
    days = []
    for claim in claims:
        if claim.emergency_day is not None or claim.stay(residential):
            continue
        if any_position:
            wanted = claim.has("mental_health_diagnosis")
        else:
            wanted = claim.has("mental_health_diagnosis", principal=True) or (
                claim.has("self_harm", principal=True) and claim.has("mental_health_diagnosis")
            )
        if wanted:
            days += [(d - day).days for d in claim.visit_days() if 0 <= (d - day).days <= 30]
    return days
