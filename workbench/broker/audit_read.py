"""Reads the audit log: events by user, grant, kind and time, without the chain's hashes. It takes no lock."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from workbench.broker.audit_chain import SAID, audit_event, readable

OPERATOR = "operator:"
"""Begins the names of operators."""
UNNAMED = "operator:unnamed"
"""An operator in a log of an earlier version, which kept only the user in whose name she asked."""


def person() -> sa.ColumnElement[str | None]:
    """Who really asked: the operator who asked in a user's name (`workbench query --as`), else the event's user."""
    e = audit_event.c
    own = e.user.startswith(OPERATOR)
    return sa.case(
        (sa.and_(e.channel == "operator", e.server.startswith(OPERATOR)), e.server),
        (sa.and_(e.channel == "operator", e.server == "command line", sa.not_(own)), UNNAMED),
        else_=e.user,
    )


def events(
    engine: sa.Engine,
    *,
    user: str | None = None,
    grant: str | None = None,
    event: str | None = None,
    since: str | None = None,
    until: str | None = None,
    before: int | None = None,
    limit: int = 1000,
) -> list[dict[str, Any]]:
    """The newest events that fit, oldest first; `since` is within, `until` and the number `before` are not."""
    at = audit_event.c.at
    query = sa.select(*(c for c in readable(engine) if c.name in ("seq", "at", *SAID)))
    for column, wanted in (
        (audit_event.c.user, user),
        (audit_event.c.grant, grant),
        (audit_event.c.event, event),
    ):
        if wanted:
            query = query.where(column == wanted)
    if since:
        query = query.where(at >= since)
    if until:
        query = query.where(at < until)
    if before is not None:
        query = query.where(audit_event.c.seq < before)
    query = query.order_by(audit_event.c.seq.desc()).limit(limit)
    with engine.connect() as connection:
        rows = [dict(row._mapping) for row in connection.execute(query)]
    for row in rows:
        for name in ("tables", "columns"):
            row[name] = json.loads(row[name]) if row[name] else []
    return rows[::-1]
