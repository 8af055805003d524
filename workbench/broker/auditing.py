"""The auditors' work: reading the log, who saw a member, the review queue, retention. Each look is itself an event.

The event is durable before anything is shown, and an answer does not hold the event of its own reading.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from workbench.broker import review
from workbench.broker.audit import Audit
from workbench.broker.audit_chain import audit_event
from workbench.broker.audit_prune import plan, prune, retention_years
from workbench.broker.audit_read import events
from workbench.broker.who_saw import who_saw
from workbench.errors import WorkbenchError

LONGEST_MEMBER_ID = 64
LONGEST_NOTE = 1_000
SHOWN_DAYS = 35
"""Of the volume beside the queue."""
NAMES = ("user", "grant", "event")
FILTERS = (*NAMES, "since", "until", "limit", "before")


class CannotAsk(WorkbenchError):
    """A question to the log that cannot be."""

    code = "bad-filter"
    http_status = 400


class Auditing:
    """What auditors and the operator may do with one log. `reader` is who does it: the log says so."""

    def __init__(self, audit: Audit, engine: sa.Engine, lake: Path, state: Path):
        self._audit = audit
        self._engine = engine
        self._lake = lake
        self._state = state

    async def events(self, reader: str, channel: str, **filters: Any) -> list[dict[str, Any]]:
        """The newest events that fit, oldest first. Raises AuditUnavailable."""
        said = await asyncio.to_thread(self._words, filters)
        number = await self._say("audit-read", reader, channel, statement=f"audit {said}".strip())
        filters["before"] = min(number, int(filters.get("before") or number))
        return await asyncio.to_thread(lambda: events(self._engine, **filters))

    async def who_saw(self, reader: str, channel: str, member_id: str) -> dict[str, Any]:
        """`{"lines": [...]}`: who saw this member, graded. The log keeps her mark. Raises CannotAsk, AuditUnavailable."""
        member_id = member_id.strip()
        if not 0 < len(member_id) <= LONGEST_MEMBER_ID or not member_id.isprintable():
            raise CannotAsk("That cannot be the id of a member.")
        mark = self._audit.subject(member_id)
        number = await self._say("audit-who-saw", reader, channel, subject=mark, statement="audit who-saw")
        lines = await asyncio.to_thread(
            who_saw, self._engine, self._lake, self._state, self._audit.marks, member_id, before=number
        )
        return {"mark": mark, "lines": [line.as_json() for line in lines]}

    async def queue(self, reader: str, channel: str) -> dict[str, Any]:
        """`{"items": [...], "days": [...]}`: what is to be reviewed, and the volume of each day, person and grant."""
        await self._say("audit-read", reader, channel, statement="audit review")
        volume = await asyncio.to_thread(review.days, self._engine)
        items = await asyncio.to_thread(review.queue, self._engine, volume)
        first = (datetime.now(UTC) - timedelta(days=SHOWN_DAYS)).date().isoformat()
        days = [day.as_json() for day in volume if day.day >= first]
        return {"items": [item.as_json() for item in items], "days": days}

    async def sign(self, reader: str, channel: str, item: str, note: str) -> dict[str, Any]:
        """Signs an item of the queue off. Raises NothingToSign, SignOffRefused, AuditUnavailable."""
        note = note.strip()[:LONGEST_NOTE]
        found = review.check_sign_off(await asyncio.to_thread(review.queue, self._engine), item, reader, note)
        said = {
            "item": found.id,
            "kind": found.kind,
            "user": found.user,
            "first": found.first,
            "last": found.last,
        }
        await self._say(
            review.SIGNED,
            reader,
            channel,
            grant=found.grant or None,
            reason=note or None,
            detail=json.dumps(said),
        )
        return {"item": found.as_json()}

    async def prune(self, reader: str, *, archive: bool, dry: bool) -> dict[str, Any]:
        """Takes away what is older than the retention, or says what would go; a damaged log is refused in both.

        Raises NotPruned, RetentionTooShort.
        """
        if dry:
            found = await asyncio.to_thread(plan, self._engine, self._audit.folder, self._lake)
        else:
            found = await asyncio.to_thread(
                lambda: prune(self._audit, self._engine, self._lake, user=reader, archive=archive)
            )
        answer: dict[str, Any] = {
            "years": retention_years(),
            "events": 0,
            "through": 0,
            "slice_lists": 0,
            "archive": None,
        }
        if found is not None:
            kept = found.archive.name if found.archive else None
            answer |= {name: getattr(found, name) for name in ("events", "through", "slice_lists")}
            answer["archive"] = kept
        return answer

    async def exported(self, reader: str, form: str, since: str | None, until: str | None) -> dict[str, Any]:
        """Records that the log is about to be exported; the number up to which it then goes."""
        span = f"since {since or 'the beginning'} until {until or 'now'}"
        number = await self._say(
            "audit-exported", reader, "operator", statement=f"audit export {form} {span}"
        )
        return {"through": number}

    def _words(self, filters: dict[str, Any]) -> str:
        """The filters as the log keeps them; what no event holds might be anything, an id too, and is marked."""
        said = []
        for name, value in sorted(filters.items()):
            if name in NAMES:
                query = sa.select(audit_event.c.seq).where(audit_event.c[name] == value).limit(1)
                with self._engine.connect() as connection:
                    known = connection.scalar(query) is not None
                value = value if known else self._audit.mark(str(value))
            said.append(f"{name}={value}")
        return " ".join(said)

    async def _say(self, event: str, reader: str, channel: str, **said: Any) -> int:
        future = self._audit.submit(event, user=reader, channel=channel, outcome="answered", **said)
        return int(await asyncio.wrap_future(future))
