"""The longitudinal member record: what is known of one member, in sections, each a pure function over tables.

Sections follow what DHCS says of the record (Medi-Cal Connect FAQ): demographic and contact facts, coverage, diagnoses
from claims since 2021, risk, providers seen, drugs, quality gaps. No laboratory values, no notes, no data of electronic
health records; not for immediate clinical decisions. The State's own schema is not public: names and shape are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import ibis

from workbench.lib.codes import line_kinds
from workbench.lib.tables import Tables

if TYPE_CHECKING:
    import ibis.expr.types as ir

CAUTION = "Made from claims, which come two to three months late. Not for immediate clinical decisions."
SINCE = "2021-01-01"
"""Diagnoses are told from here on: Medi-Cal Connect FAQ."""
MOST_PROVIDERS = 20
"""Providers told of each member: those seen on most claims."""
USE_KINDS: Mapping[str, str] = MappingProxyType(
    {
        "ed_visit": "emergency",
        "inpatient_stay": "inpatient",
        "nonacute_stay": "nursing_or_rehabilitation",
        "outpatient_visit": "outpatient",
        "telehealth_visit": "telehealth",
    }
)
"""Value set -> what the record calls this kind of care."""
NOT_HELD: Mapping[str, str] = MappingProxyType(
    {
        "care_programmes": "No release has sources of Enhanced Care Management and Community Supports yet.",
        "program_flags": "No release has sources of program and service flags yet.",
        "wic": "No release has a source of WIC yet.",
    }
)
"""Sections that the State's record has and this one cannot have, each with why."""


@dataclass(frozen=True)
class Section:
    """One section: what it reads, and its function from tables and an as-of date to rows with `member_id`."""

    name: str
    title: str
    needs: Mapping[str, tuple[str, ...]]
    """Table -> columns. Where `member` alone is needed, those columns that the caller has are enough."""
    rows: Callable[[Tables], ir.Table]
    order: tuple[str, ...] = ()
    """Columns that sort a member's rows; a `-` before one puts the greatest first."""
    one: bool = False
    """One row per member, not a list."""


def _identity(t: Tables) -> ir.Table:
    """Without the social security number: no channel of the record needs it (45 CFR 164.502(b), minimum necessary)."""
    return t.member.drop("ssn") if "ssn" in t.member.columns else t.member


def _coverage(t: Tables) -> ir.Table:
    e, o = t.eligibility, _names(t)
    joined = e.left_join(o, e.organisation_id == o.named)
    return joined.select(
        "member_id",
        "start_date",
        "end_date",
        plan_id=joined.organisation_id,
        plan=joined.name,
        county_code=joined.county_code,
        aid_code=joined.aid_code,
        medical=joined.medical,
        pharmacy=joined.pharmacy,
        behavioral=joined.behavioral,
    )


def _assigned(t: Tables) -> ir.Table:
    a, o = t.attribution, _names(t)
    joined = a.left_join(o, a.organisation_id == o.named)
    return joined.select(
        "member_id", "relation", "organisation_id", "start_date", "end_date", organisation=joined.name
    )


def _names(t: Tables) -> ir.Table:
    return t.organisation.select(named="organisation_id", name="name")


def _conditions(t: Tables) -> ir.Table:
    d = t.diagnosis
    known = d.filter(d.role != "admitting", d.from_date >= ibis.literal(SINCE).cast("date"))
    return known.group_by(["member_id", "code_system", "code"]).agg(
        first_date=known.from_date.min(), last_date=known.from_date.max(), claims=known.claim_id.nunique()
    )


def _use(t: Tables) -> ir.Table:
    c, lines = t.medical_claim, t.medical_claim_line.drop("member_id")
    header = c.filter(c.claim_status.fill_null("paid") != "void").select(
        "claim_id", "member_id", "bill_type", claim_from="from_date"
    )
    lines = lines.join(header, "claim_id")
    lines = lines.mutate(day=ibis.coalesce(lines.from_date, lines.claim_from))
    found = line_kinds(t, lines, tuple(USE_KINDS))
    named = found.mutate(
        kind=ibis.cases(*((found.value_set == name, kind) for name, kind in USE_KINDS.items())),
        year=found.day.year().cast("int32"),
    )
    return named.group_by(["member_id", "kind", "year"]).agg(
        days=named.day.nunique(), claims=named.claim_id.nunique(), last_date=named.day.max()
    )


def _medications(t: Tables) -> ir.Table:
    p = t.pharmacy_claim
    filled = p.filter(p.claim_status.fill_null("paid") == "paid")
    drug = filled.mutate(drug=ibis.coalesce(filled.drug_name, filled.ndc))
    return drug.group_by(["member_id", "drug"]).agg(
        fills=drug.count(),
        first_date=drug.fill_date.min(),
        last_date=drug.fill_date.max(),
        last_days_supply=drug.days_supply.argmax(drug.fill_date),
    )


def _providers(t: Tables) -> ir.Table:
    c, lines, p = t.medical_claim, t.medical_claim_line, t.provider
    header = c.select("claim_id", "billing_npi", claim_from="from_date")
    joined = lines.select("claim_id", "member_id", "rendering_npi").join(header, "claim_id")
    seen = joined.mutate(npi=ibis.coalesce(joined.rendering_npi, joined.billing_npi))
    seen = seen.filter(seen.npi.notnull())
    counted = seen.group_by(["member_id", "npi"]).agg(
        claims=seen.claim_id.nunique(), last_date=seen.claim_from.max()
    )
    rank = ibis.row_number().over(
        group_by="member_id", order_by=[ibis.desc(counted.claims), ibis.desc(counted.last_date), counted.npi]
    )
    first = counted.mutate(position=rank).filter(lambda r: r.position < MOST_PROVIDERS).drop("position")
    known = p.select(known="npi", name="name", taxonomy="taxonomy")
    return first.left_join(known, first.npi == known.known).drop("known")


def _risk(t: Tables) -> ir.Table:
    return t.risk_tier


def _quality(t: Tables) -> ir.Table:
    e = t.measure_event
    return e.select("member_id", "measure", "measure_year", "numerator", "event_date", "met")


def _sensitive(t: Tables) -> ir.Table:
    s = t.sensitive_claim
    return s.group_by(["member_id", "category"]).agg(claims=s.claim_id.nunique())


_NAMES = {"organisation": ("organisation_id", "name")}
SECTIONS: tuple[Section, ...] = (
    Section("identity", "Identity and contact", {"member": ("member_id",)}, _identity, one=True),
    Section(
        "coverage",
        "Coverage, with plan, county and aid code",
        {
            "eligibility": (
                "member_id",
                "organisation_id",
                "start_date",
                "end_date",
                "county_code",
                "aid_code",
                "medical",
                "pharmacy",
                "behavioral",
            ),
            **_NAMES,
        },
        _coverage,
        ("-start_date", "plan_id"),
    ),
    Section(
        "assigned",
        "Assigned organisations: plan, clinic or provider, county, Tribe",
        {
            "attribution": ("member_id", "organisation_id", "relation", "start_date", "end_date"),
            **_NAMES,
        },
        _assigned,
        ("-start_date", "relation", "organisation_id"),
    ),
    Section(
        "conditions",
        "Diagnoses on claims since 2021",
        {"diagnosis": ("claim_id", "member_id", "role", "code_system", "code", "from_date")},
        _conditions,
        ("-last_date", "code"),
    ),
    Section(
        "use",
        "Use of care, by kind and year",
        {
            "medical_claim": ("claim_id", "member_id", "claim_status", "bill_type", "from_date"),
            "medical_claim_line": (
                "claim_id",
                "line_number",
                "member_id",
                "from_date",
                "place_of_service",
                "revenue_code",
                "procedure_code",
            ),
            "value_set": ("value_set", "code_system", "code", "match"),
        },
        _use,
        ("-year", "kind"),
    ),
    Section(
        "medications",
        "Drugs dispensed",
        {"pharmacy_claim": ("member_id", "claim_status", "fill_date", "ndc", "drug_name", "days_supply")},
        _medications,
        ("-last_date", "drug"),
    ),
    Section(
        "providers",
        "Providers seen most",
        {
            "medical_claim": ("claim_id", "billing_npi", "from_date"),
            "medical_claim_line": ("claim_id", "member_id", "rendering_npi"),
            "provider": ("npi", "name", "taxonomy"),
        },
        _providers,
        ("-claims", "npi"),
    ),
    Section(
        "risk",
        "Risk tier and scores (RSST-shaped, not the DHCS RSST)",
        {
            "risk_tier": (
                "member_id",
                "as_of_date",
                "age_band",
                "adverse_events",
                "underutilisation",
                "social_risk",
                "tier",
                "reasons",
            )
        },
        _risk,
        one=True,
    ),
    Section(
        "quality",
        "Quality measures: met and open",
        {
            "measure_event": (
                "member_id",
                "measure",
                "measure_year",
                "event_date",
                "numerator",
                "met",
                "event_id",
                "basis",
            )
        },
        _quality,
        ("-event_date", "measure", "numerator"),
    ),
    Section(
        "sensitive",
        "Sensitive categories that this record holds, by claims",
        {"sensitive_claim": ("claim_id", "member_id", "category")},
        _sensitive,
        ("category",),
    ),
)
"""The sections, in the order of the record."""
