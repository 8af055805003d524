"""May this row be in this slice? Answered slowly, in plain Python, one row at a time: for tests of the builder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from workbench.broker.grant_model import Grant
from workbench.schema import dictionary

Row = dict[str, Any]
Tables = Mapping[str, Sequence[Row]]
FOREVER = date(9999, 12, 31)
HEADERS = {"medical": ("medical_claim", "from_date"), "pharmacy": ("pharmacy_claim", "fill_date")}
RESULTS = ("measure_event", "risk_tier")


@dataclass(frozen=True)
class Oracle:
    """What a grant may see of a release: `consents` says whether a member consents to a category."""

    tables: Tables
    grant: Grant
    as_of: date
    consents: Mapping[tuple[str, str], bool]

    def rows(self, table: str) -> list[Row]:
        """The rows of the slice before de-identification."""
        found = []
        for row in self.tables.get(table, ()):
            full = dict.fromkeys(dictionary()[table].columns) | dict(row)
            found += self.kept(table, full)
        return found

    def kept(self, table: str, row: Row) -> list[Row]:
        """What becomes of one row: nothing, itself, itself with less, or the pieces of its span."""
        if "member_id" not in row:
            return [row]
        member = row["member_id"]
        if member not in self.members() or (table in RESULTS and self.lost(table, member)):
            return []
        if table == "member":
            return [self._as_of_today(row)]
        if table in ("eligibility", "attribution"):
            hidden = table == "attribution" and (self._program(row) or self._others_cohort(row))
            return [] if hidden else self._pieces(row)
        if table == "member_month":
            return [row] if self._on(member, _month_end(row["month"])) else []
        if table == "risk_tier":
            return [row] if not self.own or self.present(member) else []
        if table == "measure_event":
            return self._event(row)
        if table == "care_note":
            return [row] if self._on(member, row["note_date"]) and self._note(row) else []
        kind = row.get("kind") or ("pharmacy" if table == "pharmacy_claim" else "medical")
        return [row] if self.claim(kind, row["claim_id"]) else []

    @property
    def own(self) -> bool:
        return self.grant.organisation.as_of == "ever_own_period"

    def members(self) -> set[str]:
        everyone = {row["member_id"] for row in self.tables["member"]}
        if self.grant.organisation.relation == "state":
            return everyone
        day = self.grant.organisation.as_of
        if day == "current":
            day = self.as_of
        return {m for m in everyone if (any(self.spans(m)) if self.own else _in(self.spans(m), day))}

    def spans(self, member: str) -> list[tuple[date, date]]:
        """The attributed days, as spans that neither overlap nor touch."""
        organisation = self.grant.organisation
        days = sorted(
            (row["start_date"], row.get("end_date") or FOREVER)
            for row in self.tables["attribution"]
            if row["member_id"] == member
            and row["relation"] == organisation.relation
            and row["organisation_id"] in organisation.ids
            and row["start_date"] <= (row.get("end_date") or FOREVER)
            and row["start_date"] <= self.as_of
        )
        merged: list[tuple[date, date]] = []
        for start, end in days:
            if merged and (merged[-1][1] == FOREVER or start <= merged[-1][1] + timedelta(days=1)):
                merged[-1] = (merged[-1][0], max(merged[-1][1], end))
            else:
                merged.append((start, end))
        return merged

    def present(self, member: str) -> bool:
        return _in(self.spans(member), self.as_of)

    def hides(self, member: str, category: str) -> bool:
        """Whether claims of a category are hidden of a member."""
        handling = self.grant.sensitive.handling(category)  # type: ignore[arg-type]
        return handling == "exclude" or (
            handling == "with_consent" and not self.consents.get((member, category), False)
        )

    def hidden(self, kind: str, claim: str) -> bool:
        """Whether a claim is out for what it is about."""
        return any(
            tag["kind"] == kind and tag["claim_id"] == claim and self.hides(tag["member_id"], tag["category"])
            for tag in self.tables["sensitive_claim"]
        )

    def claim(self, kind: str, claim: str) -> bool:
        """Whether a claim is in the slice, as far as its member is."""
        return not self.hidden(kind, claim) and (not self.own or self._inside(kind, claim))

    def lost(self, table: str, member: str) -> bool:
        """Whether a member's results are computed anew: claims of theirs are hidden."""
        claims = [
            (tag["kind"], tag["claim_id"])
            for tag in self.tables["sensitive_claim"]
            if tag["member_id"] == member
        ]
        if any(self.hidden(*claim) for claim in claims):
            return True
        if not self.own:
            return False
        died = next(row.get("death_date") for row in self.tables["member"] if row["member_id"] == member)
        if died is not None and died > self.spans(member)[-1][1]:
            return True
        clipped = any(
            not any(s <= row["start_date"] and row["end_date"] <= e for s, e in self.spans(member))
            for row in self.tables["eligibility"]
            if row["member_id"] == member
        )
        return clipped or any(not self._inside(kind, claim) for kind, claim in self._claims(member))

    def _claims(self, member: str) -> set[tuple[str, str]]:
        finals = {
            (kind, row["claim_id"])
            for kind, (table, _) in HEADERS.items()
            for row in self.tables[table]
            if row["member_id"] == member
        }
        versions = {
            (row["kind"], row["claim_id"])
            for row in self.tables["claim_version"]
            if row["member_id"] == member
        }
        return finals | versions

    def _inside(self, kind: str, claim: str) -> bool:
        table, day = HEADERS[kind]
        return any(
            row["claim_id"] == claim and _in(self.spans(row["member_id"]), row[day])
            for row in self.tables[table]
        )

    def _on(self, member: str, day: date | None) -> bool:
        return not self.own or _in(self.spans(member), day)

    def _note(self, row: Row) -> bool:
        if row["claim_id"] is None:
            return True
        known = [
            kind
            for kind, (table, _) in HEADERS.items()
            for claim in self.tables[table]
            if claim["claim_id"] == row["claim_id"] and claim["member_id"] in self.members()
        ]
        return bool(known) and all(self.claim(kind, row["claim_id"]) for kind in known)

    def _program(self, row: Row) -> bool:
        programs = {p["npi"] for p in self.tables["provider"] if p.get("part2_program")}
        return row["organisation_id"] in programs and self.hides(row["member_id"], "part2")

    def _others_cohort(self, row: Row) -> bool:
        own = self.grant.organisation.ids if self.grant.organisation.relation == "cohort" else ()
        return row["relation"] == "cohort" and row["organisation_id"] not in own

    def _event(self, row: Row) -> list[Row]:
        if row["basis"] != "all" or not self.claim("medical", row["event_id"]):
            return []
        organisation, spans = self.grant.organisation, self.spans(row["member_id"])
        if self.own and not _in(spans, row["event_date"]):
            return []
        if self.own and organisation.relation == "mcp" and row["organisation_id"] not in organisation.ids:
            return []
        last = row["event_date"] + timedelta(days=30)
        if (
            self.own
            and organisation.relation != "mcp"
            and not any(s <= row["event_date"] and last <= e for s, e in spans)
        ):
            return []
        hides = bool(self.grant.sensitive.excluded or self.grant.sensitive.with_consent)
        return [{**row, "basis": "visible" if hides else "all"}]

    def _pieces(self, row: Row) -> list[Row]:
        if not self.own:
            return [row]
        end = row["end_date"] or FOREVER
        pieces = [
            (max(row["start_date"], start), min(end, last))
            for start, last in self.spans(row["member_id"])
            if row["start_date"] <= last and end >= start
        ]
        return [{**row, "start_date": s, "end_date": e if e < FOREVER else None} for s, e in pieces]

    def _as_of_today(self, row: Row) -> Row:
        if not self.own:
            return row
        now = ("language", "street", "city", "zip", "county_code", "phone", "email")
        gone = {} if self.present(row["member_id"]) else dict.fromkeys(now)
        died, last = row["death_date"], self.spans(row["member_id"])[-1][1]
        return {**row, **gone, "death_date": died if died is not None and died <= last else None}


def _in(spans: Sequence[tuple[date, date]], day: Any) -> bool:
    return day is not None and any(start <= day <= end for start, end in spans)


def _month_end(day: date) -> date:
    return (day.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)
