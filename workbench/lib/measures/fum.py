"""FUM: follow-up after an emergency department visit for mental illness, within 7 and within 30 days.

Rule: HEDIS FUM as public sources tell it (NCQA's specification and value sets are licensed and not used); what is
recollection is a setting below or a row of the value sets. docs/measures/FUM.md has the rule in words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import ibis

from workbench.lib.codes import diagnosis_kinds
from workbench.lib.encounters import EMERGENCY, Encounters, encounters
from workbench.lib.enrolment import medical_spans, unbroken
from workbench.lib.marks import joined_to, marked
from workbench.lib.windows import age_on, days_between, first_of_every

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from workbench.lib.tables import Tables

NUMERATORS = {"7d": 7, "30d": 30}
"""Numerator -> last day after the visit; the visit's own day is day 0 and counts."""
MINIMUM_AGE = 6
LAST_EVENT_DAY = (12, 1)
"""Month and day of the last visit whose 30 days end within the year."""
ENROLLED_DAYS = 30
ADMISSION_DAYS = 30
REPEAT_DAYS = 31
"""A kept visit silences the member's visits on days 1 to 30; day 31 starts anew."""
ILLNESS, SELF_HARM, WIDER = "mental_illness", "self_harm", "mental_health_diagnosis"
"""Value sets: index diagnoses, and the wider set that a follow-up may carry."""
FOLLOW_UP_CODES = (
    "outpatient_visit",
    "telehealth_visit",
    "partial_hospitalisation",
    "case_management",
    "observation",
    "ect",
)


@dataclass(frozen=True)
class FumSettings:
    """What is disputed between years or sources. The defaults are the rule of measurement year 2025."""

    self_harm_any_position_before_my2025: bool = False
    """From MY2025 intentional self-harm counts in any position; in earlier years only as principal diagnosis."""
    follow_up_any_position_before_my2025: bool = False
    """From MY2025 the follow-up's mental health diagnosis may stand in any position; earlier it is the principal one."""
    denied_claims_count: bool = True
    """HEDIS counts care that was given, whether it was paid for or not (recollection, unverified)."""
    residential_is_admission_my2025: bool = True
    """Residential treatment that begins on day 0 to 30 removes the visit, as a nonacute admission (unverified)."""


REASONS = (
    "the mental illness is not the principal diagnosis",
    "after 1 December",
    "birth date unknown",
    "under 6 years old",
    "became an inpatient stay",
    "admission on day 0 to 30",
    "not enrolled from the visit through day 30",
    "hospice care in the year",
    "death in the year",
    "within 30 days of a counted visit",
)
"""Why a candidate does not count; the first that applies is given."""


def events(t: Tables, year: int, settings: FumSettings | None = None) -> ir.Table:
    """The emergency visits that could count, each with the answer and its evidence.

    One row per member and date of an emergency visit in `year` with a mental health or self-harm diagnosis in any
    position: event_id (a claim of the visit), member_id, event_date, organisation_id (the plan that covered day 0 to
    30 alone; NULL if several or none did), county_code (on the day), age (years), denominator (finally counted),
    excluded (hospice or death), reason (why not counted; NULL where counted), met_7d and met_30d (NULL outside the
    denominator), followup_claim_id, followup_date and followup_days (first follow-up on day 0 to 30).
    """
    settings = settings or FumSettings()
    seen = encounters(t, FOLLOW_UP_CODES, denied_claims_count=settings.denied_claims_count)
    dx = diagnosis_kinds(t, (ILLNESS, SELF_HARM, WIDER))
    stays = seen.stays(settings.residential_is_admission_my2025)
    visits = _visits(seen, dx, stays, year, settings)
    judged = _judge(t, seen, visits, stays, year)
    eligible = judged.filter(judged.reason.isnull())
    first = first_of_every(eligible, REPEAT_DAYS, span=366)
    kept = eligible.semi_join(first, ["member_id", "event_date"]).select("event_id", kept=ibis.literal(True))
    follow_ups = _follow_ups(seen, dx, stays, year, settings)
    return _answer(judged, kept, _first_follow_up(eligible, follow_ups))


def _visits(seen: Encounters, dx: ir.Table, stays: ir.Table, year: int, settings: FumSettings) -> ir.Table:
    """One row per member and date: event_id, qualifies (by diagnosis), became_stay."""
    principal = dx.role == "principal"
    if year >= 2025 or settings.self_harm_any_position_before_my2025:
        index = (dx.value_set == SELF_HARM) | (principal & (dx.value_set == ILLNESS))
    else:
        index = principal & dx.value_set.isin([SELF_HARM, ILLNESS])
    emergency = seen.emergency()
    in_year = emergency.filter(
        emergency.day >= ibis.date(year, 1, 1), emergency.day <= ibis.date(year, 12, 31)
    )
    claim = marked(in_year, "qualifies", dx.filter(index), "claim_id")
    claim = marked(claim, "near", dx, "claim_id")
    claim = marked(claim, "became_stay", stays, "claim_id")
    visit = claim.group_by(["member_id", "day"]).agg(
        qualifying_claim=claim.claim_id.min(where=claim.qualifies),
        near_claim=claim.claim_id.min(where=claim.near),
        became_stay=claim.became_stay.any(),
    )
    event_id = ibis.coalesce(visit.qualifying_claim, visit.near_claim)
    return visit.filter(event_id.notnull()).select(
        "member_id",
        "became_stay",
        event_id=event_id,
        event_date=visit.day,
        qualifies=visit.qualifying_claim.notnull(),
    )


def _judge(t: Tables, seen: Encounters, visits: ir.Table, stays: ir.Table, year: int) -> ir.Table:
    """The visits with age, plan, county and the first reason against each, but for the 31-day rule."""
    first, last = ibis.date(year, 1, 1), ibis.date(year, 12, 31)
    hospice = seen.hospice()
    hospice = hospice.filter(
        hospice.from_date <= last, ibis.coalesce(hospice.through_date, hospice.from_date) >= first
    )
    died = _deaths(t, seen.claims, first, last)
    near = stays.join(visits, "member_id")
    admitted = near.filter(days_between(near.event_date, near.admitted).between(0, ADMISSION_DAYS))
    spans = medical_spans(t)
    covered = _covering(visits, unbroken(spans, ["member_id"]))
    v = joined_to(visits, t.member.select("member_id", "birth_date", home_county="county_code"), "member_id")
    v = joined_to(v, _plan(visits, unbroken(spans, ["member_id", "organisation_id"])), "event_id")
    v = joined_to(v, _county(visits, spans), "event_id")
    v = marked(v, "admitted", admitted, "event_id")
    v = marked(v, "covered", covered, "event_id")
    v = marked(v, "hospice", hospice, "member_id")
    v = marked(v, "died", died, "member_id")
    v = v.mutate(
        age=age_on(v.birth_date, v.event_date), county_code=ibis.coalesce(v.span_county, v.home_county)
    )
    against = (
        ~v.qualifies,
        v.event_date > ibis.date(year, *LAST_EVENT_DAY),
        v.age.isnull(),
        v.age < MINIMUM_AGE,
        v.became_stay,
        v.admitted,
        ~v.covered,
        v.hospice,
        v.died,
    )
    reason = ibis.cases(*zip(against, REASONS, strict=False), else_=ibis.null("string"))
    return v.mutate(reason=reason, excluded=v.qualifies & (v.hospice | v.died)).select(
        "event_id", "member_id", "event_date", "organisation_id", "county_code", "age", "excluded", "reason"
    )


def _deaths(t: Tables, claims: ir.Table, first: ir.DateValue, last: ir.DateValue) -> ir.Table:
    """Members who died in the year: by their death date, or by the discharge status of a claim."""
    known = t.member.filter(t.member.death_date.between(first, last)).select("member_id")
    ended = ibis.coalesce(claims.discharge_date, claims.through_date, claims.from_date)
    codes = t.value_set.filter(t.value_set.value_set == "expired")
    on_claims = claims.filter(ended.between(first, last)).semi_join(
        codes, claims.discharge_status == codes.code
    )
    return known.union(on_claims.select("member_id"))


def _covering(visits: ir.Table, periods: ir.Table) -> ir.Table:
    joined = periods.join(visits, "member_id")
    return joined.filter(
        joined.start <= joined.event_date, days_between(joined.event_date, joined.end) >= ENROLLED_DAYS
    )


def _plan(visits: ir.Table, periods: ir.Table) -> ir.Table:
    """The one plan that covered day 0 to 30 by itself; no row where two did."""
    joined = _covering(visits, periods)
    plans = joined.group_by("event_id").agg(
        organisation_id=joined.organisation_id.min(), plans=joined.organisation_id.nunique()
    )
    return plans.filter(plans.plans == 1).drop("plans")


def _county(visits: ir.Table, spans: ir.Table) -> ir.Table:
    """County of responsibility on the day, of the span that began last."""
    joined = spans.join(visits, "member_id")
    joined = joined.filter(joined.start <= joined.event_date, joined.end >= joined.event_date)
    latest = ibis.window(group_by="event_id", order_by=[ibis.desc("start"), "organisation_id", "county_code"])
    ranked = joined.select("event_id", "start", "organisation_id", "county_code").mutate(
        place=ibis.row_number().over(latest)
    )
    return ranked.filter(ranked.place == 0).select("event_id", span_county="county_code")


def _follow_ups(
    seen: Encounters, dx: ir.Table, stays: ir.Table, year: int, settings: FumSettings
) -> ir.Table:
    """One row per ambulatory claim and day with the mental health diagnosis that the year asks for."""
    found = seen.ambulatory(FOLLOW_UP_CODES)
    found = found.anti_join(seen.of(EMERGENCY), "claim_id").anti_join(stays, "claim_id")
    found = found.semi_join(dx.filter(dx.value_set == WIDER), "claim_id")
    if year < 2025 and not settings.follow_up_any_position_before_my2025:
        principal = dx.filter(dx.role == "principal", dx.value_set.isin([WIDER, SELF_HARM]))
        found = found.semi_join(principal, "claim_id")
    return found.select("member_id", followup_claim_id="claim_id", followup_date="day").distinct()


def _first_follow_up(visits: ir.Table, follow_ups: ir.Table) -> ir.Table:
    """The first follow-up of each visit on day 0 to 30; the lesser claim id where two fall on one day."""
    joined = follow_ups.join(visits, "member_id")
    near = joined.select(
        "event_id",
        "followup_claim_id",
        "followup_date",
        followup_days=days_between(joined.event_date, joined.followup_date).cast("int32"),
    )
    near = near.filter(near.followup_days.between(0, max(NUMERATORS.values())))
    first = ibis.window(group_by="event_id", order_by=["followup_days", "followup_claim_id"])
    ranked = near.mutate(place=ibis.row_number().over(first))
    return ranked.filter(ranked.place == 0).drop("place")


def _answer(judged: ir.Table, kept: ir.Table, follow_up: ir.Table) -> ir.Table:
    j = joined_to(judged, kept, "event_id")
    j = joined_to(j, follow_up, "event_id")
    counted = j.kept.fill_null(False)
    reason = ibis.ifelse(j.reason.isnull() & ~counted, REASONS[-1], j.reason)
    met = {
        f"met_{name}": ibis.ifelse(counted, (j.followup_days <= days).fill_null(False), ibis.null("boolean"))
        for name, days in NUMERATORS.items()
    }
    return j.select(
        "event_id",
        "member_id",
        "event_date",
        "organisation_id",
        "county_code",
        "age",
        denominator=counted,
        excluded=j.excluded,
        reason=reason,
        **met,
        followup_claim_id=j.followup_claim_id,
        followup_date=j.followup_date,
        followup_days=j.followup_days,
    )
