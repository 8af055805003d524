"""Consents of members: who let whom have which sensitive records, and until when.

The register is append-only. For one member, recipient and category the newest decision counts alone: a later one is
never outvoted by an older one that would last longer. Of one moment a revocation counts as the newer, because files name
days alone, and in any order. A decision about a member of no recipient's slice changes nothing
that anybody may see; the epoch of a view is the hash of who consents on a day, so it changes with a decision and on
the day on which one begins or lapses, and is what it was when the same people consent again.

Law: 42 CFR 2.31 (written consent, its scope and end), 2.31(a)(6) and 2.33 (treatment, payment, operations until
revoked); Civ. Code 56.11 for the other categories. Needs counsel's review.
"""

from __future__ import annotations

import csv
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa

from workbench.broker.state import State, metadata
from workbench.days import time_zone, today
from workbench.errors import WorkbenchError
from workbench.schema.sensitive import Category

ALL = "all"
"""The scope of a consent to every sensitive category."""
SCOPES = (ALL, *(str(category) for category in Category))
FIELDS = ("member_id", "recipient", "scope", "from", "until", "revoked", "decided_at", "source")
"""The columns of a file of decisions; `until` and `decided_at` may be empty, `revoked` is yes or no."""

STRANGERS = "consent-of-strangers"
"""The code of consents of members or for recipients whom nobody knows."""
MOST_LISTED = 1_000
"""Decisions in one page of a listing."""

consents = sa.Table(
    "consent",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("member_id", sa.String, nullable=False, index=True),
    sa.Column("recipient", sa.String, nullable=False),
    sa.Column("scope", sa.String, nullable=False),
    sa.Column("from", sa.Date, nullable=False, key="starts"),
    sa.Column("until", sa.Date, nullable=True, key="ends"),
    sa.Column("revoked", sa.Boolean, nullable=False),
    sa.Column("decided_at", sa.String, nullable=False),
    sa.Column("source", sa.String, nullable=False),
    sa.Index("consent_of_recipient", "recipient", "scope"),
)


class ConsentRefused(WorkbenchError):
    """A decision that cannot stand in the register; none of those that came with it does."""

    code = "consent-refused"
    http_status = 400


@dataclass(frozen=True)
class Decision:
    """What one member decided about one recipient: a consent, or that earlier ones end (`revoked`).

    `source` is the reference of the signed form. `until` is the last day; without it the consent lasts until revoked.
    """

    member_id: str
    recipient: str
    scope: str
    source: str
    start: date
    until: date | None = None
    revoked: bool = False
    decided_at: datetime | None = None

    def __post_init__(self) -> None:
        for name in ("member_id", "recipient", "source"):
            value = getattr(self, name)
            if not isinstance(value, str) or not 0 < len(value.strip()) <= 200 or not value.isprintable():
                raise ConsentRefused(f"A decision needs {name}: up to 200 printable characters.")
        if self.scope not in SCOPES:
            raise ConsentRefused("There is no such scope.", hint=f"Scopes are: {', '.join(SCOPES)}.")
        if self.until is not None and self.until < self.start:
            raise ConsentRefused("The consent would end before it begins.")

    def said(self) -> dict[str, Any]:
        """As JSON with the names of FIELDS."""
        return {
            "member_id": self.member_id,
            "recipient": self.recipient,
            "scope": self.scope,
            "from": self.start.isoformat(),
            "until": self.until.isoformat() if self.until else None,
            "revoked": "yes" if self.revoked else "no",
            "decided_at": self.decided_at.isoformat() if self.decided_at else None,
            "source": self.source,
        }


@dataclass(frozen=True)
class ConsentView:
    """Who consents on one day, as one recipient may rely on it: category → members; `epoch` stands for all of it."""

    epoch: str
    members: Mapping[str, frozenset[str]]


NONE_NEEDED = ConsentView("", MappingProxyType({}))
"""The view of a grant that depends on nobody's consent."""


class Consents:
    """The register. One writer: it belongs to the holder of the state's lock."""

    def __init__(self, state: State):
        self._engine = state.engine
        self._decided: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._deciding = threading.Lock()
        self._views: dict[tuple[str, tuple[str, ...]], tuple[tuple[int, date], ConsentView]] = {}

    def decide(self, decisions: Iterable[Decision]) -> int:
        """Writes decisions down, all or none; gives how many. Views from now on follow them. Raises ConsentRefused.

        Views that are in use are made anew here: it takes seconds where many consent, and callers of `view` do not wait.
        """
        now = datetime.now(UTC)
        rows = [_row(decision, now) for decision in decisions]
        if not rows:
            return 0
        with self._deciding:
            with self._engine.begin() as connection:
                connection.execute(consents.insert(), rows)
            recipients, day = {row["recipient"] for row in rows}, today()
            with self._lock:
                used = [key for key in self._views if key[0] in recipients]
            views: dict[tuple[str, tuple[str, ...]], ConsentView] = {}
            try:
                views = {key: self._view(*key, day) for key in used}
            finally:  # whatever happens, no view from before the decision is given again
                with self._lock:
                    self._decided.update(recipients)
                    for key, view in views.items():
                        self._views[key] = ((self._decided[key[0]], day), view)
        return len(rows)

    def view(self, recipient: str, scopes: Collection[str], on: date | None = None) -> ConsentView:
        """Who consents to each of the categories `scopes` towards a recipient, on a day (today)."""
        names, day = tuple(sorted(scopes)), on or today()
        if not names:
            return NONE_NEEDED
        with self._lock:
            known = self._views.get((recipient, names))
            stamp = (self._decided[recipient], day)
            if known is None or known[0] != stamp:
                known = self._views[recipient, names] = (stamp, self._view(recipient, names, day))
        return known[1]

    def listed(
        self,
        *,
        member_id: str | None = None,
        recipient: str | None = None,
        after: int = 0,
        limit: int = MOST_LISTED,
    ) -> list[dict[str, Any]]:
        """The first `limit` decisions with an id above `after`, in the order in which they were written down.

        Each has `counts`: whether any of its categories has no newer decision of the member about the recipient.
        """
        query = sa.select(consents, _counts().label("counts")).where(consents.c.id > after)
        if member_id is not None:
            query = query.where(consents.c.member_id == member_id)
        if recipient is not None:
            query = query.where(consents.c.recipient == recipient)
        with self._engine.connect() as connection:
            found = connection.execute(query.order_by(consents.c.id).limit(limit)).mappings()
            return [_shown(dict(row)) for row in found]

    def _view(self, recipient: str, scopes: tuple[str, ...], day: date) -> ConsentView:
        members = {scope: self._consenting(recipient, scope, day) for scope in scopes}
        return ConsentView(_epoch(recipient, members), MappingProxyType(members))

    def _consenting(self, recipient: str, category: str, day: date) -> frozenset[str]:
        c = consents.c
        place = sa.func.row_number().over(
            partition_by=c.member_id, order_by=[c.decided_at.desc(), c.revoked.desc(), c.id.desc()]
        )
        newest = (
            sa.select(c.member_id, c.starts, c.ends, c.revoked, place.label("place"))
            .where(c.recipient == recipient, c.scope.in_([category, ALL]))
            .subquery()
            .c
        )
        query = sa.select(newest.member_id).where(
            newest.place == 1,
            sa.not_(newest.revoked),
            newest.starts <= day,
            sa.or_(newest.ends.is_(None), newest.ends >= day),
        )
        with self._engine.connect() as connection:
            return frozenset(connection.scalars(query))


def read_decisions(file: Path) -> list[Decision]:
    """The decisions of a CSV file with the columns FIELDS. Raises ConsentRefused, which names the line, no value."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle)
            missing = sorted(set(FIELDS) - set(reader.fieldnames or ()))
            if missing:
                raise ConsentRefused(
                    f"The file lacks the columns {', '.join(missing)}.",
                    hint=f"It needs: {', '.join(FIELDS)}.",
                )
            return [decision_of(row, where=f"Line {reader.line_num}: ") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error):
        raise ConsentRefused("The file cannot be read as CSV in UTF-8.") from None


def decision_of(said: Mapping[str, Any], *, where: str = "") -> Decision:
    """A decision from text or JSON with the names of FIELDS. Raises ConsentRefused."""
    try:
        start, until = said.get("from"), said.get("until")
        decided = said.get("decided_at")
        return Decision(
            member_id=str(said.get("member_id") or "").strip(),
            recipient=str(said.get("recipient") or "").strip(),
            scope=str(said.get("scope") or "").strip(),
            source=str(said.get("source") or "").strip(),
            start=date.fromisoformat(str(start)) if start else today(),
            until=date.fromisoformat(str(until)) if until else None,
            revoked=_yes(said.get("revoked")),
            decided_at=datetime.fromisoformat(str(decided)) if decided else None,
        )
    except ConsentRefused as refusal:
        raise ConsentRefused(f"{where}{refusal.reason}", hint=refusal.hint) from None
    except ValueError:
        raise ConsentRefused(
            f"{where}Days are written 2026-01-31, times 2026-01-31T12:00:00+00:00, revoked is yes or no."
        ) from None


_WORDS = {"": False, "no": False, "false": False, "0": False, "yes": True, "true": True, "1": True}


def _yes(value: Any) -> bool:
    word = str("" if value is None else value).strip().lower()
    if word not in _WORDS:
        raise ValueError
    return _WORDS[word]


def _row(decision: Decision, now: datetime) -> dict[str, Any]:
    decided = decision.decided_at or now
    decided = decided if decided.tzinfo is not None else decided.replace(tzinfo=time_zone())
    if decided > now:
        raise ConsentRefused(
            "A decision cannot have been made in the future.",
            hint="`from` may lie ahead; `decided_at` is when the member decided.",
        )
    return {
        "member_id": decision.member_id,
        "recipient": decision.recipient,
        "scope": decision.scope,
        "starts": decision.start,
        "ends": decision.until,
        "revoked": decision.revoked,
        "decided_at": decided.astimezone(UTC).isoformat(timespec="microseconds"),
        "source": decision.source,
    }


def _counts() -> sa.ColumnElement[bool]:
    """Of a row of the register: it is the newest decision of one of its categories at least."""
    c, other = consents.c, consents.alias().c
    newer = sa.and_(
        other.member_id == c.member_id,
        other.recipient == c.recipient,
        sa.tuple_(other.decided_at, other.revoked, other.id) > sa.tuple_(c.decided_at, c.revoked, c.id),
    )
    replaced = sa.exists().where(newer, other.scope.in_([c.scope, ALL]))
    scopes = sa.select(sa.func.count(other.scope.distinct())).where(newer).correlate(consents)
    return sa.and_(sa.not_(replaced.correlate(consents)), scopes.scalar_subquery() < len(Category))


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "member_id": row["member_id"],
        "recipient": row["recipient"],
        "scope": row["scope"],
        "from": row["from"].isoformat(),
        "until": row["until"].isoformat() if row["until"] else None,
        "revoked": bool(row["revoked"]),
        "decided_at": row["decided_at"],
        "source": row["source"],
        "counts": bool(row["counts"]),
    }


def _epoch(recipient: str, members: Mapping[str, frozenset[str]]) -> str:
    said = [recipient, [[name, sorted(found)] for name, found in sorted(members.items())]]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]
