"""Risk tiers in the shape of California's RSST: three subdomain scores, one tier, and the reasons for it.

RSST-shaped, not the DHCS RSST: the State's predictors, windows, weights and cut points are not public in a form that
could be followed. Public are the three subdomains, the statewide view, and that only about a tenth of the people can be
high at any time (DHCS, Medi-Cal Connect FAQ; thinqpoint on the RSST). All else stands below as data and is unverified.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import ibis

from workbench.lib.codes import diagnosis_kinds, line_kinds
from workbench.lib.enrolment import medical_spans, unbroken
from workbench.lib.windows import age_on

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from workbench.lib.tables import Tables

LABEL = "RSST-shaped, not the DHCS RSST"
"""Stands on every answer that tells a tier."""
LOOKBACK_DAYS = 365
"""Predictors are counted on so many days up to the as-of date. Recollection, unverified."""
COVERED_DAYS = 92
"""Ranked is who had medical coverage on one of so many days up to the as-of date: enrolment is known months late."""
ADULT_AGE = 21
"""Children and adults are ranked apart. Recollection, unverified."""
HIGH_SHARE = 0.10
"""At most this share of each age band is high. Source: "only ~10% of the statewide population" (thinqpoint)."""
RISING_SHARE = 0.35
"""At most this share is medium-rising or high. Our own choice, unverified."""
LEAST_POINTS = 3
"""Fewer points lift nobody out of low, however rare they are. Our own choice, unverified."""
MANY_DRUGS = 5

CHILD, ADULT = "child", "adult"
BANDS = (CHILD, ADULT)
SUBDOMAINS = ("adverse_events", "underutilisation", "social_risk")
TIERS = ("low", "medium_rising", "high")
NEEDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "member": ("member_id", "birth_date", "death_date"),
        "eligibility": (
            "member_id",
            "organisation_id",
            "start_date",
            "end_date",
            "county_code",
            "medical",
        ),
        "medical_claim": ("claim_id", "member_id", "claim_status", "from_date", "bill_type"),
        "medical_claim_line": (
            "claim_id",
            "line_number",
            "from_date",
            "place_of_service",
            "revenue_code",
            "procedure_code",
        ),
        "diagnosis": ("claim_id", "member_id", "role", "code_system", "code", "from_date"),
        "pharmacy_claim": ("member_id", "claim_status", "fill_date", "drug_name"),
        "value_set": ("value_set", "code_system", "code", "match"),
    }
)
"""Table -> columns that `tiers` reads, of the member alone but for the value sets; dates to the day."""

SCORES: Mapping[str, str] = MappingProxyType(
    {"member_id": "string", "age_band": "string"} | dict.fromkeys(SUBDOMAINS, "int32") | {"reasons": "string"}
)
"""Columns of `scores`, as Ibis types."""
Cuts = Mapping[str, Mapping[str, Mapping[str, int | None]]]
"""Age band -> subdomain -> tier -> the lowest score that reaches it; None where no score does."""


@dataclass(frozen=True)
class Predictor:
    """One line of the score: what is counted, and what it is worth."""

    code: str
    subdomain: str
    points: int
    """For each one counted."""
    most: int
    """Counted at most so many times."""
    says: str


PREDICTORS = (
    Predictor("ed_visits", "adverse_events", 3, 6, "Days with an emergency department visit"),
    Predictor("admissions", "adverse_events", 5, 3, "Days on which an inpatient claim began"),
    Predictor("conditions", "adverse_events", 2, 5, "Long-term conditions on claims"),
    Predictor("many_drugs", "adverse_events", 3, 1, "Five or more different drugs"),
    Predictor("no_visit", "underutilisation", 4, 1, "No outpatient or telehealth visit"),
    Predictor("more_ed_than_visits", "underutilisation", 3, 1, "More emergency than outpatient visits"),
    Predictor(
        "condition_no_visit", "underutilisation", 3, 1, "A long-term condition and no outpatient visit"
    ),
    Predictor("condition_no_drug", "underutilisation", 2, 1, "A long-term condition and no drug dispensed"),
    Predictor("housing", "social_risk", 6, 1, "Homelessness or unstable housing on a claim"),
    Predictor(
        "social_needs", "social_risk", 2, 4, "Other social circumstances on claims (ICD-10-CM Z55-Z65)"
    ),
    Predictor("coverage_gaps", "social_risk", 1, 2, "Breaks in medical coverage"),
    Predictor("plan_changes", "social_risk", 1, 2, "Changes of plan"),
)
"""What the scores add up. The choice and the weights are our own, unverified."""

EMERGENCY, INPATIENT = "ed_visit", "inpatient_stay"
VISITS = ("outpatient_visit", "telehealth_visit")
HOUSING = "social_housing_instability"
SOCIAL = (
    "social_education",
    "social_employment",
    "social_environment",
    "social_family",
    "social_housing",
    "social_isolation",
    "social_psychosocial",
    "social_upbringing",
)
CONDITIONS = (
    "condition_asthma_copd",
    "condition_diabetes",
    "condition_heart_failure",
    "condition_kidney",
    "condition_severe_mental_illness",
    "substance_use",
)


def tiers(t: Tables, as_of: date, cuts: Cuts | None = None) -> ir.Table:
    """The tier of every living member who had medical coverage lately (COVERED_DAYS): one row per member.

    Columns: member_id, as_of_date, age_band, adverse_events, underutilisation, social_risk (points), tier (low,
    medium_rising, high: the highest that any subdomain reaches) and reasons (codes of the predictors that count, with
    commas; NULL where none does). Without `cuts` the cut points are taken from these very members, which is right
    over the whole state only; `cuts` are those that a release keeps. See NEEDS for what it reads.
    """
    return tiers_of(scores(t, as_of), as_of, cuts)


def tiers_of(scored: ir.Table, as_of: date, cuts: Cuts | None = None) -> ir.Table:
    """The tiers of members whose `scores` are known: see `tiers`."""
    if cuts is None:
        found = cut_points(scored)
        wide = found.group_by("age_band").agg(
            **{
                f"{tier}_{name}": found[tier].max(where=found.subdomain == name)
                for tier in TIERS[1:]
                for name in SUBDOMAINS
            }
        )
        joined = scored.left_join(wide, "age_band").drop("age_band_right")
        reached = {
            tier: [joined[name] >= joined[f"{tier}_{name}"] for name in SUBDOMAINS] for tier in TIERS[1:]
        }
    else:
        joined = scored
        reached = {
            tier: [joined[name] >= _cut(joined, cuts, name, tier) for name in SUBDOMAINS]
            for tier in TIERS[1:]
        }
    any_of = {
        tier: conditions[0].fill_null(False) | conditions[1].fill_null(False) | conditions[2].fill_null(False)
        for tier, conditions in reached.items()
    }
    return joined.select(
        "member_id",
        as_of_date=ibis.literal(as_of.isoformat()).cast("date"),
        age_band=joined.age_band,
        **{name: joined[name] for name in SUBDOMAINS},
        tier=ibis.cases((any_of["high"], "high"), (any_of["medium_rising"], "medium_rising"), else_="low"),
        reasons=joined.reasons,
    )


def scores(t: Tables, as_of: date) -> ir.Table:
    """The points of each member in each subdomain: member_id, age_band, the three SUBDOMAINS, reasons."""
    counted = _counted(t, as_of)
    points = {p.code: ibis.least(counted[p.code], p.most) * p.points for p in PREDICTORS}
    sums: dict[str, Any] = {}
    for name in SUBDOMAINS:
        parts = [points[p.code] for p in PREDICTORS if p.subdomain == name]
        sums[name] = sum(parts[1:], parts[0]).cast("int32")
    said = ibis.literal("")
    for p in PREDICTORS:
        said = said.concat(ibis.ifelse(counted[p.code] > 0, f"{p.code},", ""))
    return counted.select(
        "member_id",
        "age_band",
        **sums,
        reasons=ibis.ifelse(said != "", said.substr(0, said.length() - 1), ibis.null("string")),
    )


def cut_points(scored: ir.Table) -> ir.Table:
    """The lowest scores that reach a tier: one row per age band and subdomain, with medium_rising and high.

    A member is as rare as in the subdomain where the fewest have as many points. The tier takes the rarest as long as
    they are no more than its share of the age band; so equal scores are in or out together. NULL where nobody is in.
    """
    groups = scored.group_by(["age_band", *SUBDOMAINS]).agg(people=scored.count())
    band = ibis.window(group_by="age_band")
    groups = groups.mutate(all_people=groups.people.sum().over(band))
    for name in SUBDOMAINS:
        by_score = groups.group_by(["age_band", name]).agg(
            here=groups.people.sum(), all_people=groups.all_people.max()
        )
        upward = ibis.window(group_by="age_band", order_by=ibis.desc(by_score[name]), preceding=(None, 0))
        share = by_score.here.sum().over(upward) / by_score.all_people
        rare = by_score.select(
            "age_band", name, **{f"rare_{name}": ibis.ifelse(by_score[name] < LEAST_POINTS, 1.0, share)}
        )
        groups = groups.inner_join(rare, ["age_band", name])
    groups = groups.mutate(rarest=ibis.least(*(groups[f"rare_{name}"] for name in SUBDOMAINS)))
    ranked = groups.group_by(["age_band", "rarest"]).agg(
        here=groups.people.sum(), all_people=groups.all_people.max()
    )
    upward = ibis.window(group_by="age_band", order_by=ranked.rarest, preceding=(None, 0))
    ranked = ranked.mutate(share=ranked.here.sum().over(upward) / ranked.all_people)
    limits = ranked.group_by("age_band").agg(
        high=ranked.rarest.max(where=ranked.share <= HIGH_SHARE),
        medium_rising=ranked.rarest.max(where=ranked.share <= RISING_SHARE),
    )
    with_limits = groups.inner_join(limits, "age_band")
    parts = []
    for name in SUBDOMAINS:
        rare = with_limits[f"rare_{name}"]
        cut = with_limits.group_by("age_band").agg(
            medium_rising=with_limits[name].min(where=rare <= with_limits.medium_rising),
            high=with_limits[name].min(where=rare <= with_limits.high),
        )
        parts.append(
            cut.select(
                "age_band", subdomain=ibis.literal(name), medium_rising=cut.medium_rising, high=cut.high
            )
        )
    return ibis.union(*parts)


def read_cuts(rows: Iterable[tuple[str, str, int | None, int | None]]) -> Cuts:
    """The rows of `cut_points` as a release's manifest keeps them (`risk_cuts`)."""
    nobody = {name: dict.fromkeys(TIERS[1:]) for name in SUBDOMAINS}
    found: dict[str, dict[str, dict[str, int | None]]] = {
        band: {name: dict(cuts) for name, cuts in nobody.items()} for band in BANDS
    }
    for band, subdomain, medium_rising, high in rows:
        found[band][subdomain] = {"medium_rising": medium_rising, "high": high}
    return found


def _cut(scored: ir.Table, cuts: Cuts, subdomain: str, tier: str) -> ir.IntegerValue:
    child, adult = (
        ibis.null("int32") if (score := cuts[band][subdomain][tier]) is None else ibis.literal(score, "int32")
        for band in BANDS
    )
    return ibis.ifelse(scored.age_band == CHILD, child, adult)


def _counted(t: Tables, as_of: date) -> ir.Table:
    """What is counted of each covered member: member_id, age_band and one number for each predictor."""
    last = ibis.literal(as_of.isoformat()).cast("date")
    first = ibis.literal((as_of - timedelta(days=LOOKBACK_DAYS - 1)).isoformat()).cast("date")
    lately = ibis.literal((as_of - timedelta(days=COVERED_DAYS - 1)).isoformat()).cast("date")
    m, spans = t.member, medical_spans(t)
    covered = spans.filter(spans.start <= last, spans.end >= lately)
    members = m.filter(m.death_date.isnull() | (m.death_date > last)).semi_join(covered, "member_id")
    counted = members.select(
        "member_id",
        age_band=ibis.ifelse(age_on(members.birth_date, last) < ADULT_AGE, CHILD, ADULT).fill_null(ADULT),
    )
    for part in (
        _care(t, first, last),
        _diagnoses(t, first, last),
        _drugs(t, first, last),
        _spans(spans, first, last),
    ):
        names = [name for name in part.columns if name != "member_id"]
        counted = counted.left_join(part, "member_id").drop("member_id_right")
        counted = counted.mutate(**{name: counted[name].fill_null(0) for name in names})
    ill, seen = counted.conditions > 0, counted.visits > 0
    return counted.mutate(
        many_drugs=(counted.drugs >= MANY_DRUGS).cast("int64"),
        no_visit=(~seen).cast("int64"),
        more_ed_than_visits=(counted.ed_visits > counted.visits).cast("int64"),
        condition_no_visit=(ill & ~seen).cast("int64"),
        condition_no_drug=(ill & (counted.drugs == 0)).cast("int64"),
    )


def _care(t: Tables, first: ir.DateValue, last: ir.DateValue) -> ir.Table:
    """Days of emergency care, of beginning inpatient claims, of visits: member_id, ed_visits, admissions, visits."""
    c, lines = t.medical_claim, t.medical_claim_line
    claims = c.filter(c.claim_status.fill_null("paid") != "void", c.from_date.between(first, last))
    header = claims.select("claim_id", "member_id", "bill_type", claim_from="from_date")
    lines = lines.drop("member_id") if "member_id" in lines.columns else lines
    lines = lines.join(header, "claim_id")
    lines = lines.mutate(day=ibis.coalesce(lines.from_date, lines.claim_from))
    kinds = line_kinds(t, lines, (EMERGENCY, INPATIENT, *VISITS))
    admitted = kinds.value_set == INPATIENT
    days = kinds.select(
        "member_id",
        "day",
        kind=ibis.cases((kinds.value_set == EMERGENCY, "ed"), (admitted, "stay"), else_="visit"),
        claim_id=ibis.ifelse(admitted, kinds.claim_id, ""),
    )
    per_claim = days.group_by(["member_id", "kind", "claim_id"]).agg(first_day=days.day.min())
    stays = per_claim.filter(per_claim.kind == "stay").select("member_id", "kind", day="first_day")
    others = days.filter(days.kind != "stay").select("member_id", "kind", "day")
    seen = ibis.union(stays, others, distinct=True)
    return seen.group_by("member_id").agg(
        ed_visits=(seen.kind == "ed").sum(),
        admissions=(seen.kind == "stay").sum(),
        visits=(seen.kind == "visit").sum(),
    )


def _diagnoses(t: Tables, first: ir.DateValue, last: ir.DateValue) -> ir.Table:
    """Kinds of conditions and circumstances on claims: member_id, conditions, housing, social_needs."""
    d = t.diagnosis.filter(t.diagnosis.from_date.between(first, last))
    kinds = diagnosis_kinds(t.replace(diagnosis=d), (*CONDITIONS, HOUSING, *SOCIAL))
    claims = d.select("claim_id", "member_id").distinct()
    found = kinds.join(claims, "claim_id").select("member_id", "value_set").distinct()
    return found.group_by("member_id").agg(
        conditions=found.value_set.isin(CONDITIONS).sum(),
        housing=(found.value_set == HOUSING).sum(),
        social_needs=found.value_set.isin(SOCIAL).sum(),
    )


def _drugs(t: Tables, first: ir.DateValue, last: ir.DateValue) -> ir.Table:
    """How many different drugs were dispensed: member_id, drugs."""
    p = t.pharmacy_claim
    filled = p.filter(p.claim_status.fill_null("paid") == "paid", p.fill_date.between(first, last))
    return filled.group_by("member_id").agg(drugs=filled.drug_name.nunique())


def _spans(spans: ir.Table, first: ir.DateValue, last: ir.DateValue) -> ir.Table:
    """Breaks of coverage and changes of plan: member_id, coverage_gaps, plan_changes."""
    met = spans.filter(spans.start <= last, spans.end >= first)
    periods = unbroken(met, ["member_id"])
    gaps = periods.group_by("member_id").agg(coverage_gaps=periods.count() - 1)
    plans = met.group_by("member_id").agg(plan_changes=met.organisation_id.nunique() - 1)
    return gaps.join(plans, "member_id")
