"""What a claim is about, decided from bill type, revenue code, place of service and codes, never from a type field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ibis

from workbench.lib.codes import line_kinds

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from workbench.lib.tables import Tables

CONTINUING_BILLS = ("3", "4")
"""Fourth digit of a bill type: a continuing or last bill of a stay that began on an earlier bill (UB-04)."""
STAYS = ("inpatient_stay", "nonacute_stay")
RESIDENTIAL = "residential_stay"
EMERGENCY = "ed_visit"
HOSPICE, SHARED_WITH_HOME_HEALTH, HOME_HEALTH_BILL = "hospice", "hospice_or_home_health", "home_health_bill"
NOT_AMBULATORY = ("inpatient_place", "laboratory_place", EMERGENCY, HOSPICE)


@dataclass(frozen=True)
class Encounters:
    """The usable claims, and what their lines are: the ground that a measure stands on."""

    claims: ir.Table
    """One row per claim."""
    kinds: ir.Table
    """One row per line and value set: claim_id, member_id, line_number, day, value_set."""

    def of(self, *value_sets: str) -> ir.Table:
        """The lines of any of these kinds."""
        return self.kinds.filter(self.kinds.value_set.isin(list(value_sets)))

    def emergency(self) -> ir.Table:
        """One row per claim of emergency department care, facility or professional: claim_id, member_id, day."""
        found = self.of(EMERGENCY)
        return found.group_by(["claim_id", "member_id"]).agg(day=found.day.min())

    def stays(self, residential: bool) -> ir.Table:
        """One row per claim of an acute or nonacute stay: claim_id, member_id, admitted (NULL on continuing bills).

        `residential` adds psychiatric and other residential treatment.
        """
        found = self.of(*STAYS, *([RESIDENTIAL] if residential else []))
        first = found.group_by("claim_id").agg(day=found.day.min())
        c = self.claims
        continuing = c.bill_type.substr(3, 1).isin(CONTINUING_BILLS).fill_null(False)
        began = ibis.ifelse(c.bill_type.length().fill_null(0) > 0, c.from_date, first.day)
        admitted = ibis.coalesce(c.admission_date, ibis.ifelse(continuing, ibis.null("date"), began))
        return c.join(first, "claim_id").select(c.claim_id, c.member_id, admitted=admitted)

    def ambulatory(self, value_sets: Sequence[str]) -> ir.Table:
        """Lines of these kinds where no one is in hospital, emergency care, hospice or a laboratory."""
        elsewhere = self.of(*NOT_AMBULATORY).select("claim_id", "line_number").distinct()
        return self.of(*value_sets).anti_join(elsewhere, ["claim_id", "line_number"])

    def hospice(self) -> ir.Table:
        """Claims of hospice care. Codes shared with home health count where the bill is not a home health bill."""
        shared = self.of(SHARED_WITH_HOME_HEALTH).anti_join(self.of(HOME_HEALTH_BILL), "claim_id")
        found = self.of(HOSPICE).select("claim_id").union(shared.select("claim_id"))
        return self.claims.semi_join(found, "claim_id")


def encounters(t: Tables, visit_codes: Sequence[str], *, denied_claims_count: bool) -> Encounters:
    """The final claims, with or without the denied ones, and what their lines are.

    `visit_codes` names the value sets of visits that the measure looks for besides emergency care, stays and hospice.
    """
    status = t.medical_claim.claim_status.fill_null("paid")
    claims = t.medical_claim.filter(
        status != "void" if denied_claims_count else ~status.isin(["void", "denied"])
    )
    header = claims.select("claim_id", "member_id", "bill_type", claim_from="from_date")
    lines = (
        t.medical_claim_line.drop("member_id")
        if "member_id" in t.medical_claim_line.columns
        else t.medical_claim_line
    )
    lines = lines.join(header, "claim_id")
    lines = lines.mutate(day=ibis.coalesce(lines.from_date, lines.claim_from))
    wanted = [
        *visit_codes,
        *STAYS,
        RESIDENTIAL,
        *NOT_AMBULATORY,
        SHARED_WITH_HOME_HEALTH,
        HOME_HEALTH_BILL,
    ]
    return Encounters(claims, line_kinds(t, lines, wanted))
