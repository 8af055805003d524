"""What a claim is about, decided from bill type, revenue code, place of service and codes, never from a type field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import ibis

from workbench.lib.codes import PROCEDURES, matching

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from workbench.lib.tables import Tables

CONTINUING_BILLS = ("3", "4")
"""Fourth digit of a bill type: a continuing or last bill of a stay that began on an earlier bill (UB-04)."""


def usable_claims(t: Tables, denied_claims_count: bool) -> ir.Table:
    """Final claims: all of them, or without the denied ones."""
    claims = t.medical_claim.filter(t.medical_claim.claim_status.fill_null("paid") != "void")
    return claims if denied_claims_count else claims.filter(claims.claim_status.fill_null("paid") != "denied")


def usable_lines(t: Tables, claims: ir.Table) -> ir.Table:
    """One row per line of `claims`, with `day` (first day of service of the line) and the claim's bill type."""
    header = claims.select(
        "claim_id", "member_id", "bill_type", claim_from="from_date", claim_through="through_date"
    )
    lines = t.medical_claim_line.drop("member_id")
    return lines.join(header, "claim_id").mutate(day=ibis.coalesce(lines.from_date, header.claim_from))


def with_codes(t: Tables, lines: ir.Table, value_sets: Sequence[str]) -> ir.BooleanValue:
    """Whether a line carries a procedure, revenue code, place of service or bill type of the value sets."""
    columns = {
        "procedure_code": PROCEDURES,
        "revenue_code": ("REV",),
        "place_of_service": ("POS",),
        "bill_type": ("BILL_TYPE",),
    }
    hits = [
        lines[column].isin(matching(t, lines[column], value_sets, systems))
        for column, systems in columns.items()
    ]
    return ibis.or_(*hits)


def emergency_visits(t: Tables, lines: ir.Table) -> ir.Table:
    """One row per claim of emergency department care, facility or professional: claim_id, member_id, day."""
    found = lines.filter(with_codes(t, lines, ["ed_visit"]))
    return found.group_by(["claim_id", "member_id"]).agg(day=found.day.min())


def stays(t: Tables, claims: ir.Table, lines: ir.Table, residential: bool) -> ir.Table:
    """One row per claim of an acute or nonacute stay: claim_id, member_id, admitted (NULL on continuing bills).

    `residential` adds psychiatric and other residential treatment.
    """
    value_sets = ["inpatient_stay", "nonacute_stay", *(["residential_stay"] if residential else [])]
    found = lines.filter(with_codes(t, lines, value_sets))
    first = found.group_by("claim_id").agg(day=found.day.min())
    joined = claims.join(first, "claim_id")
    continuing = claims.bill_type.substr(3, 1).isin(CONTINUING_BILLS)
    began = ibis.ifelse(claims.bill_type.length() > 0, claims.from_date, first.day)
    return joined.select(
        claims.claim_id,
        claims.member_id,
        admitted=ibis.coalesce(
            claims.admission_date, ibis.ifelse(continuing.fill_null(False), ibis.null("date"), began)
        ),
    )


NOT_AMBULATORY_PLACES = ("inpatient_place", "laboratory_place", "ed_visit", "hospice")


def ambulatory_lines(t: Tables, lines: ir.Table, value_sets: Sequence[str]) -> ir.Table:
    """Lines with a visit code of the value sets, at a place where no one is in hospital, emergency care or a laboratory."""
    places = matching(t, lines.place_of_service, NOT_AMBULATORY_PLACES, ["POS"])
    elsewhere = lines.place_of_service.isnull() | ~lines.place_of_service.isin(places)
    return lines.filter(elsewhere, with_codes(t, lines, value_sets))


def hospice_claims(t: Tables, lines: ir.Table) -> ir.Table:
    """Lines of hospice care. Codes shared with home health count where the bill is not a home health bill."""
    home = matching(t, lines.bill_type, ["home_health_bill"], ["BILL_TYPE"])
    shared = lines.procedure_code.isin(
        matching(t, lines.procedure_code, ["hospice_or_home_health"], PROCEDURES)
    )
    at_home = lines.bill_type.isin(home).fill_null(False)
    return lines.filter(with_codes(t, lines, ["hospice"]) | (shared & ~at_home))
