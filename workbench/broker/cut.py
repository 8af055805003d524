"""Which rows of a release belong to a grant: whose members, in which of their spans, without which claims.

The rules stand as data: `CUTS` says for each table of members on which day a row happened and which claim it goes
with. A table of members that has no rule here is refused, not served whole.

As-of rules. `current`: members attributed on the release's as-of date, with their whole history. A date: the same,
attributed on that date, which the release must have reached. `ever_own_period`: members attributed by the as-of date at
any time, with only what happened on attributed days;
spans of coverage are clipped to them, and of a member who has left, what is known of the present (address, telephone)
is left out. `state`: every member.

Sensitive claims. A claim of an excluded category is out, and so is one of a category that needs consent where its
member does not consent to this recipient. What rests on it goes with it: rows by their claim, members' results by being
computed anew (`workbench.broker.visible`), attribution to a Part 2 program as such.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from workbench.broker.grants import Grant
from workbench.errors import WorkbenchError
from workbench.lake.release import Release

FOREVER = "DATE '9999-12-31'"

KEPT = "NULL::VARCHAR"

OTHER_MEMBERS = "other members"
OUTSIDE = "outside the attributed spans"
NO_CLAIM = "its claim is not in the release"
OTHER_BASIS = "computed on another basis"
RECOMPUTED = "computed anew over the visible claims"
PROGRAM = "attribution to a Part 2 program or to a cohort of others"
NO_CONSENT = "without consent"


@dataclass(frozen=True)
class Cut:
    """How the rows of one table follow members, time and claims. Expressions are DuckDB SQL over alias `s`."""

    day: str | None = None
    """The day on which a row happened."""
    clipped: bool = False
    """Rows are spans `start_date`-`end_date`, cut down to the attributed days."""
    claim: tuple[str, str] | None = None
    """(kind, column) of the claim that a row goes with; its fate is the row's."""
    claim_may_be_empty: bool = False
    present: tuple[str, ...] = ()
    """Columns that tell of today; empty for members who are not attributed any more (`ever_own_period`)."""
    until: tuple[str, ...] = ()
    """Dates that are empty when they lie after the member's last attributed day."""
    own_only: bool = False
    """Rows that rest on days around `day`: only those of the organisation itself, or with that margin inside a span."""
    programs: bool = False
    """Rows that name an organisation: a Part 2 program says what its claims would, a cohort whom somebody studies and why."""
    recomputed: bool = False
    """Rows about a member's claims together: of members who lost some, computed anew over the others."""
    today: bool = False
    """Rows that tell of the as-of date: under `ever_own_period` only of members who are attributed then."""


MEASURE_MARGIN_DAYS = 30
"""A measure event may rest on claims of this many days after it (FUM: 30). Source: the measures' follow-up windows."""

CUTS: Mapping[str, Cut] = MappingProxyType(
    {
        "member": Cut(
            present=("language", "street", "city", "zip", "county_code", "phone", "email"),
            until=("death_date",),
        ),
        "eligibility": Cut(clipped=True),
        "attribution": Cut(clipped=True, programs=True),
        "medical_claim": Cut(day="s.from_date", claim=("'medical'", "claim_id")),
        "medical_claim_line": Cut(claim=("'medical'", "claim_id")),
        "diagnosis": Cut(claim=("'medical'", "claim_id")),
        "procedure": Cut(claim=("'medical'", "claim_id")),
        "pharmacy_claim": Cut(day="s.fill_date", claim=("'pharmacy'", "claim_id")),
        "care_note": Cut(day="s.note_date", claim=("'any'", "claim_id"), claim_may_be_empty=True),
        "claim_version": Cut(claim=("s.kind", "claim_id")),
        "member_month": Cut(day="last_day(s.month)"),
        "sensitive_claim": Cut(claim=("s.kind", "claim_id")),
        "measure_event": Cut(
            day="s.event_date", claim=("'medical'", "event_id"), own_only=True, recomputed=True
        ),
        "risk_tier": Cut(recomputed=True, today=True),
    }
)

HEADERS: Mapping[str, str] = MappingProxyType({"medical_claim": "'medical'", "pharmacy_claim": "'pharmacy'"})
"""The tables with one row per claim, whose day decides for the whole claim."""

ALL, VISIBLE = "all", "visible"
"""Bases of measure events: over every claim, or over the claims that the grant sees. A slice has one of them only, so
that no row tells whose claims were removed."""


class NoCut(WorkbenchError):
    """A table of members has no rule that says which rows belong to a grant."""

    code = "no-cut"
    http_status = 500


class AsOfAfterRelease(WorkbenchError):
    """The grant's as-of date lies after the release's: who is attributed then is not known yet."""

    code = "as-of-after-release"
    http_status = 403


def refuse_future(grant: Grant, release: Release) -> None:
    """Raises `AsOfAfterRelease` where the release has not reached the grant's as-of date."""
    day = grant.organisation.as_of
    if not isinstance(day, str) and day > release.as_of:
        raise AsOfAfterRelease(
            f"Grant {grant.name} is about members attributed on {day.isoformat()}, and the release's as-of date is "
            f"{release.as_of.isoformat()}.",
            hint=f"Use a later release, or as_of: current. {grant.approver} can change the grant.",
        )


@dataclass(frozen=True)
class Hidden:
    """Which sensitive claims stay out: those of the excluded categories, and of the others by their member's consent."""

    excluded: tuple[str, ...] = ()
    consenting: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Category that needs consent → the members who consent."""

    @classmethod
    def by(cls, grant: Grant, consenting: Mapping[str, frozenset[str]]) -> Hidden:
        """What a grant hides while these members consent; nobody consents to a category that is not among them."""
        needed = grant.sensitive.with_consent
        return cls(grant.sensitive.excluded, {c: consenting.get(c, frozenset()) for c in needed})

    @property
    def categories(self) -> tuple[str, ...]:
        """Every category of which claims may be missing."""
        return (*self.excluded, *self.consenting)


@dataclass(frozen=True)
class Selection:
    """The rows of one table for a grant, as SQL.

    `source` is a FROM clause in which the row is `s` and its member `p` (table `permitted`); `fate` is NULL where a
    row of a permitted member is kept, else the reason why not.
    """

    source: str
    fate: str
