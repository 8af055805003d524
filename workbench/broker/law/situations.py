"""Members' situations made real: a release of made-up members, cut to the grants by the code that cuts every release."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from workbench.broker.consent import Consents, Decision
from workbench.broker.cut import AsOfAfterRelease
from workbench.broker.grants import Grant
from workbench.broker.slices import Slice, ensure
from workbench.broker.state import State
from workbench.broker.vault import Vault
from workbench.deid.levels import Level
from workbench.lake.release import Release, open_release
from workbench.lib.risk import read_cuts
from workbench.schema import dictionary

if TYPE_CHECKING:
    from workbench.broker.law.truth import MemberRow, Reach

AS_OF = date(2026, 1, 31)
"""The as-of date of the made-up release: what is current is so on this day."""
FIRST_DECISION = datetime(2026, 1, 31, tzinfo=UTC)
"""When a member's first consent in a situation was decided; each later one is a second newer."""
_RELEASE = "20260131-000000000000"


def reach(rows: Sequence[tuple[MemberRow, Grant]]) -> list[Reach]:
    """For each situation how far the grant's slice goes: `nothing`, `member`, `claim`; `no-rows` at level aggregate.

    Which rows a slice holds does not depend on its level, so each is cut at level identified, where ids can be read.
    """
    if not rows:
        return []
    with tempfile.TemporaryDirectory(prefix="truth") as folder:
        lake = Path(folder) / "lake"
        release = _release(lake, [row for row, _ in rows])
        state = State(f"sqlite:///{folder}/truth.sqlite", Path(folder) / "state")
        try:
            consents, vault = Consents(state), Vault(state)
            consents.decide(
                Decision(
                    member_id=_member(number),
                    recipient=said.recipient,
                    scope=said.scope,
                    source="truth table",
                    start=said.start,
                    until=said.end,
                    revoked=said.revoked,
                    decided_at=FIRST_DECISION + timedelta(seconds=place),
                )
                for number, (row, _) in enumerate(rows)
                for place, said in enumerate(row.consents)
            )
            seen: dict[str, tuple[set[str], set[str]]] = {}
            found: list[Reach] = []
            for number, (_, grant) in enumerate(rows):
                if grant.level == Level.AGGREGATE:
                    found.append("no-rows")
                    continue
                if grant.name not in seen:
                    seen[grant.name] = _seen(release, grant, vault, lake, consents)
                members, claims = seen[grant.name]
                found.append(
                    "claim"
                    if _claim(number) in claims
                    else "member"
                    if _member(number) in members
                    else "nothing"
                )
            return found
        finally:
            state.close()


def _seen(
    release: Release, grant: Grant, vault: Vault, lake: Path, consents: Consents
) -> tuple[set[str], set[str]]:
    """The members and the claims of the grant's slice."""
    plain = grant.model_copy(
        update={"level": Level.IDENTIFIED, "tables": ("member", "medical_claim"), "columns": {}}
    )
    scopes = grant.sensitive.with_consent
    view = consents.view(grant.recipient_id or "", scopes)
    try:
        cut = ensure(release, plain, vault, lake, consents=view)
    except AsOfAfterRelease:
        return set(), set()
    return _column(cut, "member", "member_id"), _column(cut, "medical_claim", "claim_id")


def _column(cut: Slice, table: str, column: str) -> set[str]:
    return {
        str(value)
        for part in cut.parts(table)
        for value in pq.read_table(part, columns=[column])[column].to_pylist()
    }


def _member(number: int) -> str:
    return f"{number:08d}T"


def _claim(number: int) -> str:
    return f"claim-{number}"


def _release(lake: Path, rows: Sequence[MemberRow]) -> Release:
    """The situations as a release on disk."""
    tables: dict[str, list[Mapping[str, Any]]] = {}
    for number, row in enumerate(rows):
        member = {"member_id": _member(number)}
        claim = {**member, "claim_id": _claim(number)}
        tables.setdefault("member", []).append({**member, "birth_date": date(1980, 1, 1), "sex": "U"})
        tables.setdefault("medical_claim", []).append(
            {**claim, "from_date": row.claim.day, "version": 1, "claim_status": "paid"}
        )
        tables.setdefault("claim_version", []).append(
            {**claim, "kind": "medical", "version": 1, "outcome": "final"}
        )
        tables.setdefault("attribution", []).extend(
            {
                **member,
                "organisation_id": span.to,
                "relation": span.relation,
                "start_date": span.start,
                "end_date": span.end,
            }
            for span in row.attributed
        )
        tables.setdefault("sensitive_claim", []).extend(
            {**claim, "kind": "medical", "category": str(category), "reason": "made up"}
            for category in row.claim.categories
        )
    folder = lake / "releases" / _RELEASE
    entries = {}
    for name, spec in dictionary().items():
        made = [dict.fromkeys(spec.columns) | dict(row) for row in tables.get(name, [])]
        part = Path("tables") / name / "part-000.parquet"
        (folder / part).parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(made, spec.arrow_schema), folder / part)
        entries[name] = {"rows": len(made), "parts": [{"file": part.as_posix(), "rows": len(made)}]}
    manifest = {
        "id": _RELEASE,
        "as_of": AS_OF.isoformat(),
        "complete_through": AS_OF.isoformat(),
        "synthetic": True,
        "risk_cuts": read_cuts([]),
        "tables": entries,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return open_release(lake, _RELEASE)
