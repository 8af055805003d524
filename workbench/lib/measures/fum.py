"""FUM: follow-up after an emergency department visit for mental illness, within 7 and within 30 days.

Rule: HEDIS FUM as public sources tell it (NCQA's specification and value sets are licensed and not used); what is
recollection is a setting below or a row of the value sets. docs/measures/FUM.md has the rule in words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import ibis

from workbench.lib.codes import diagnosis_kinds
from workbench.lib.encounters import Encounters, encounters
from workbench.lib.enrolment import medical_spans, unbroken
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
    kept = first_of_every(eligible, REPEAT_DAYS, span=366).mutate(kept=True)
    follow_ups = _follow_ups(seen, dx, stays, year, settings)
    return _answer(judged, kept, _first_follow_up(eligible, follow_ups))


def _flag(condition: ir.BooleanValue) -> ir.IntegerValue:
    return ibis.ifelse(condition, 1, 0)


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
    claim = in_year.mutate(
        qualifies=_flag(in_year.claim_id.isin(dx.filter(index).claim_id)),
        near=_flag(in_year.claim_id.isin(dx.claim_id)),
        became_stay=_flag(in_year.claim_id.isin(stays.claim_id)),
    )
    visit = claim.group_by(["member_id", "day"]).agg(
        qualifying_claim=claim.claim_id.min(where=claim.qualifies == 1),
        near_claim=claim.claim_id.min(where=claim.near == 1),
        qualifies=claim.qualifies.max(),
        became_stay=claim.became_stay.max(),
    )
    visit = visit.mutate(event_id=ibis.coalesce(visit.qualifying_claim, visit.near_claim))
    return visit.filter(visit.event_id.notnull()).select(
        "event_id", "member_id", "qualifies", "became_stay", event_date="day"
    )


def _judge(t: Tables, seen: Encounters, visits: ir.Table, stays: ir.Table, year: int) -> ir.Table:
    """The visits with age, plan, county and the first reason against each, but for the 31-day rule."""
    first, last = ibis.date(year, 1, 1), ibis.date(year, 12, 31)
    hospice = seen.hospice()
    hospice = hospice.filter(
        hospice.from_date <= last, ibis.coalesce(hospice.through_date, hospice.from_date) >= first
    )
    died = _deaths(t, seen.claims, first, last)
    admitted = visits.join(stays, [visits.member_id == stays.member_id]).filter(
        days_between(visits.event_date, stays.admitted).between(0, ADMISSION_DAYS)
    )
    spans = medical_spans(t)
    covered = _covering(visits, unbroken(spans, ["member_id"])).select("event_id", "event_date").distinct()
    plan = _plan(visits, unbroken(spans, ["member_id", "organisation_id"]))
    county = _county(visits, spans)
    member = t.member.select("member_id", "birth_date", home_county="county_code")
    v = (
        visits.left_join(member, "member_id")
        .drop("member_id_right")
        .left_join(plan, "event_id")
        .drop("event_id_right")
        .left_join(county, "event_id")
        .drop("event_id_right")
    )
    v = v.mutate(
        age=age_on(v.birth_date, v.event_date),
        county_code=ibis.coalesce(v.span_county, v.home_county),
        admitted=v.event_id.isin(admitted.event_id),
        covered=v.event_id.isin(covered.event_id),
        hospice=v.member_id.isin(hospice.member_id),
        died=v.member_id.isin(died.member_id),
    )
    against = (
        v.qualifies == 0,
        v.event_date > ibis.date(year, *LAST_EVENT_DAY),
        v.age.isnull(),
        v.age < MINIMUM_AGE,
        v.became_stay == 1,
        v.admitted,
        ~v.covered,
        v.hospice,
        v.died,
    )
    reason = ibis.cases(*zip(against, REASONS, strict=False), else_=ibis.null("string"))
    return v.mutate(reason=reason, excluded=(v.qualifies == 1) & (v.hospice | v.died)).select(
        "event_id", "member_id", "event_date", "organisation_id", "county_code", "age", "excluded", "reason"
    )


def _deaths(t: Tables, claims: ir.Table, first: ir.DateValue, last: ir.DateValue) -> ir.Table:
    """Members who died in the year: by their death date, or by the discharge status of a claim."""
    known = t.member.filter(t.member.death_date.between(first, last)).select("member_id")
    ended = ibis.coalesce(claims.discharge_date, claims.through_date, claims.from_date)
    codes = t.value_set.filter(t.value_set.value_set == "expired").code
    on_claims = claims.filter(claims.discharge_status.isin(codes), ended.between(first, last)).select(
        "member_id"
    )
    return known.union(on_claims)


def _covering(visits: ir.Table, periods: ir.Table) -> ir.Table:
    joined = visits.join(periods, [visits.member_id == periods.member_id])
    return joined.filter(
        periods.start <= visits.event_date, days_between(visits.event_date, periods.end) >= ENROLLED_DAYS
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
    joined = visits.join(spans, [visits.member_id == spans.member_id]).filter(
        spans.start <= visits.event_date, spans.end >= visits.event_date
    )
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
    found = found.filter(
        ~found.claim_id.isin(seen.of("ed_visit").claim_id), ~found.claim_id.isin(stays.claim_id)
    )
    mental = dx.filter(dx.value_set == WIDER)
    if year >= 2025 or settings.follow_up_any_position_before_my2025:
        found = found.filter(found.claim_id.isin(mental.claim_id))
    else:
        principal = dx.filter(dx.role == "principal")
        found = found.filter(
            found.claim_id.isin(mental.claim_id),
            found.claim_id.isin(principal.filter(principal.value_set.isin([WIDER, SELF_HARM])).claim_id),
        )
    return found.select("member_id", followup_claim_id="claim_id", followup_date="day").distinct()


def _first_follow_up(visits: ir.Table, follow_ups: ir.Table) -> ir.Table:
    """The first follow-up of each visit on day 0 to 30; the lesser claim id where two fall on one day."""
    joined = visits.join(follow_ups, [visits.member_id == follow_ups.member_id])
    near = joined.select(
        "event_id",
        "followup_claim_id",
        "followup_date",
        followup_days=days_between(visits.event_date, follow_ups.followup_date).cast("int32"),
    )
    near = near.filter(near.followup_days.between(0, max(NUMERATORS.values())))
    first = ibis.window(group_by="event_id", order_by=["followup_days", "followup_claim_id"])
    ranked = near.mutate(place=ibis.row_number().over(first))
    return ranked.filter(ranked.place == 0).drop("place")


def _answer(judged: ir.Table, kept: ir.Table, follow_up: ir.Table) -> ir.Table:
    j = judged.left_join(kept, ["member_id", "event_date"]).drop("member_id_right", "event_date_right")
    j = j.left_join(follow_up, "event_id").drop("event_id_right")
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
