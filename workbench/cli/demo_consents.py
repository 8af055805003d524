"""The demo's consents: invented people who let the demo's recipients have sensitive records of theirs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import date

import duckdb

from workbench.broker.audit import Audit
from workbench.broker.consent import Consents, Decision
from workbench.broker.grants import Grant, GrantBook
from workbench.broker.state import State
from workbench.lake.release import Release

SHARE_OF_TEN = 6
"""Of ten members with such records so many have signed, for the demo to show both."""
SINCE = date(2025, 1, 1)
SOURCE = "demo form (synthetic)"


def sign(release: Release, book: GrantBook, state: State, groups: Collection[str]) -> int:
    """Writes consents towards the recipients of these groups' grants where the register has none; gives how many.

    Only for a synthetic release. Every decision is an event of the audit log, like any other.
    """
    consents = Consents(state)
    if not release.synthetic:
        return 0
    decisions = [
        decision
        for grant in book
        if grant.sensitive.with_consent and set(grant.groups) & set(groups)
        if not consents.listed(recipient=grant.recipient_id)
        for decision in _of(release, grant)
    ]
    if not decisions:
        return 0
    audit = Audit(state)
    try:
        for decision in decisions:
            written = audit.submit(
                "consent-given",
                user="operator:demo",
                subject=audit.subject(decision.member_id),
                detail=f"{decision.recipient} {decision.scope}",
            )
        written.result()
    finally:
        audit.close()
    return consents.decide(decisions)


def _of(release: Release, grant: Grant) -> Iterator[Decision]:
    relation, recipient = str(grant.organisation.relation), grant.recipient_id
    assert recipient is not None
    with duckdb.connect() as con:
        found = con.execute(
            f"SELECT DISTINCT s.member_id, s.category FROM {release.relation('sensitive_claim')} s "
            f"JOIN {release.relation('attribution')} a USING (member_id) "
            "WHERE a.relation = $relation AND list_contains($ids, a.organisation_id) "
            "AND list_contains($scopes, s.category) AND hash(s.member_id, s.category) % 10 < $share ORDER BY ALL",
            {
                "relation": relation,
                "ids": list(grant.organisation.ids),
                "scopes": [str(name) for name in grant.sensitive.with_consent],
                "share": SHARE_OF_TEN,
            },
        ).fetchall()
    for member, category in found:
        yield Decision(member, recipient, category, SOURCE, SINCE)
