"""Why a person sees a member, or does not: one member against every grant, by the cut that builds slices.

Who asks is an operator, who is not given any member's data. So this tells of attribution only what the grants of the
person turn on: never whether the member has sensitive claims or consents, and nothing of cohorts and Part 2 programs,
because to be attributed to one of these says what a claim would. The question is an event of the audit log.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from typing import Any

import duckdb

from workbench.broker.cut import AsOfAfterRelease, Hidden
from workbench.broker.cutter import Cutter
from workbench.broker.explained import how_seen, sensitive_of, shows_rows
from workbench.broker.grants import Decision, Grant, GrantBook, Relation
from workbench.broker.key_release import KeyRelease, load
from workbench.broker.slices import UnknownMember
from workbench.deid.levels import Level
from workbench.lake.release import Release

FOREVER = date(9999, 12, 31)
NOT_TOLD = "not told: whether somebody belongs to a cohort or to a Part 2 program says what a claim would"
TOLD = (Relation.STATE, Relation.MCP, Relation.BHP, Relation.COUNTY)
"""The relations of which a grant of another group may be named to an operator with its organisation."""
AS_SEEN = {
    Level.IDENTIFIED: "with the member's ids",
    Level.LIMITED: "under a token: the person cannot ask for this member by id",
    Level.SAFE_HARBOR: "under a token, without dates and places: the person cannot ask for this member by id",
    Level.AGGREGATE: "nothing of any member: the grant has tables, no rows",
}


def explain_member(
    release: Release, book: GrantBook, decisions: Sequence[Decision], member: str
) -> dict[str, Any]:
    """`{"release", "as_of", "grants", "missing"}`: the person's grants one by one; where none shows the member, the grants
    of other groups that would, with who can give them. Raises UnknownMember.
    """
    with duckdb.connect(config={"threads": 1}) as con:
        one = load(con, release, ("member", "attribution", "provider"), member)
        if not con.execute(f"SELECT 1 FROM {one.relation('member')}").fetchall():
            raise UnknownMember(
                "The release has no member of this id.", hint="Check the id, or name another --release."
            )
        own = [d for d in decisions if d.code != "wrong-group"]
        others = [d.grant for d in decisions if d.code == "wrong-group"]
        grants = [_own(con, one, decision) for decision in own]
        return {
            "release": release.id,
            "as_of": release.as_of.isoformat(),
            "grants": grants,
            "missing": [] if any(g["sees"] for g in grants) else _missing(con, one, book, others),
        }


def _own(con: duckdb.DuckDBPyConnection, release: KeyRelease, decision: Decision) -> dict[str, Any]:
    grant = decision.grant
    covered, spans = _covers(con, release, grant)
    told = not _telling(con, release, grant)
    seen = covered and decision.allowed and shows_rows(grant)
    if not told:
        why = NOT_TOLD
    elif not decision.allowed:
        why = f"{decision.reason} {decision.hint}".strip()
    else:
        why = _why(release, grant, covered, spans)
    return {
        "grant": grant.name,
        "level": str(grant.level),
        "allowed": decision.allowed,
        "sees": seen if told else None,
        "why": why,
        "spans": [[s.isoformat(), None if e == FOREVER else e.isoformat()] for s, e in spans]
        if told
        else None,
        "rows": shows_rows(grant),
        "as": AS_SEEN[grant.level] if shows_rows(grant) else how_seen(grant),
        "categories": sensitive_of(grant),
        "break_glass": grant.break_glass,
        "approver": grant.approver,
    }


def _missing(
    con: duckdb.DuckDBPyConnection, release: KeyRelease, book: GrantBook, grants: Sequence[Grant]
) -> list[dict[str, Any]]:
    """The grants of other groups under which the member would be seen, one entry for each file.

    Of which clinic or Tribe somebody is, an operator is not told: such grants stand as their file has them.
    """
    attributed = set(
        con.execute(f"SELECT relation, organisation_id FROM {release.relation('attribution')}").fetchall()
    )
    families: dict[str, list[Grant]] = defaultdict(list)
    for grant in grants:
        relation, ids = grant.organisation.relation, grant.organisation.ids
        if relation != Relation.STATE and attributed.isdisjoint((str(relation), id) for id in ids):
            continue
        if not shows_rows(grant) or _telling(con, release, grant):
            continue
        if _covers(con, release, grant)[0]:
            families[book.file_of(grant)].append(grant)
    return [
        {
            "file": name,
            "grants": [grant.name for grant in several if grant.organisation.relation in TOLD],
            "level": str(several[0].level),
            "groups": sorted(
                {g for grant in several if grant.organisation.relation in TOLD for g in grant.groups}
            ),
            "approver": several[0].approver,
        }
        for name, several in families.items()
    ]


def _covers(
    con: duckdb.DuckDBPyConnection, release: KeyRelease, grant: Grant
) -> tuple[bool, list[tuple[date, date]]]:
    """Whether the member is in the grant's slice, and when it was attributed to the grant's organisations."""
    con.execute("ATTACH ':memory:' AS one_grant")
    con.execute("USE one_grant")
    try:
        covered = False
        with contextlib.suppress(AsOfAfterRelease):
            Cutter(con, release, grant, Hidden.by(grant, {}))
            covered = bool(con.execute("SELECT 1 FROM permitted").fetchall())
        ids = list(grant.organisation.ids)
        spans = con.execute(
            f"SELECT start_date, coalesce(end_date, DATE '{FOREVER}') FROM {release.relation('attribution')} "
            "WHERE relation = $relation AND list_contains($ids, organisation_id) ORDER BY ALL",
            {"relation": str(grant.organisation.relation), "ids": ids},
        ).fetchall()
    finally:
        con.execute("USE memory")
        con.execute("DETACH one_grant")
    return covered, spans


def _telling(con: duckdb.DuckDBPyConnection, release: KeyRelease, grant: Grant) -> bool:
    """Whether being attributed to the grant's organisations says more of a member than an operator may know."""
    if grant.organisation.relation == Relation.COHORT:
        return True
    programs = (
        f"SELECT 1 FROM {release.relation('provider')} WHERE part2_program AND list_contains($ids, npi)"
    )
    return bool(con.execute(programs, {"ids": list(grant.organisation.ids)}).fetchall())


def _why(release: Release, grant: Grant, covered: bool, spans: Sequence[tuple[date, date]]) -> str:
    """The as-of rule over the member's spans, in words."""
    organisation = grant.organisation
    if organisation.relation == Relation.STATE:
        return "The grant is about every member."
    whose = " or ".join(organisation.ids)
    was = f"attributed to {whose} {_spans(spans)}" if spans else f"never attributed to {whose}"
    if organisation.as_of == "ever_own_period":
        rest = (
            ", and the grant shows what happened on these days"
            if covered
            else "; the grant shows its own days only"
        )
        return f"The member was {was}{rest}."
    day = release.as_of if organisation.as_of == "current" else organisation.as_of
    assert isinstance(day, date)
    if day > release.as_of:
        return f"The grant is about members attributed on {day.isoformat()}, and the release's as-of date is {release.as_of.isoformat()}."
    kind = "the release's as-of date" if organisation.as_of == "current" else "the grant's as-of date"
    rule = f"{day.isoformat()}, {kind}"
    if covered:
        return f"The member was {was}, so on {rule}, too; the grant shows the whole history."
    return f"The member was {was}, but not on {rule}; the grant shows members who were."


def _spans(spans: Sequence[tuple[date, date]]) -> str:
    words = [
        f"since {start.isoformat()}" if end == FOREVER else f"from {start.isoformat()} to {end.isoformat()}"
        for start, end in spans
    ]
    return " and ".join(words)
