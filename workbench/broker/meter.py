"""What a grant's holders took today, in rows and bytes; when it is enough, they come again tomorrow (UTC)."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from workbench.broker.audit_chain import audit_event
from workbench.broker.grants import Grant
from workbench.errors import WorkbenchError

LONGEST_READ = timedelta(days=1)
"""No read lasts so long: a grant gives a query an hour at most."""
_OF_A_READ = (
    "query_id",
    "user",
    "grant",
    "purpose",
    "channel",
    "server",
    "release",
    "slice",
    "subject",
)


class DayLimitReached(WorkbenchError):
    """A grant's holders took what the grant allows in a day. `retry_after` is in seconds, to midnight UTC."""

    code = "day-limit"
    http_status = 429

    def __init__(self, grant: Grant, what: str, limit: int, *, retry_after: int):
        super().__init__(
            f"The holders of grant {grant.name} may take {limit:,} {what} a day, and this answer would go beyond.",
            hint=f"Aggregate in the query, or come again after midnight UTC. {grant.approver} can change the limit.",
        )
        self.retry_after = retry_after


class Meter:
    """Rows and bytes of each grant on the current day.

    What left before a restart is known from the log; an answer that runs over midnight counts, in the log, on the
    day of its end.
    """

    def __init__(self, engine: sa.Engine):
        self._engine = engine
        self._day = ""
        self._rows: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._begin(_today(), from_log=True)

    def check(self, grant: Grant) -> None:
        """Raises DayLimitReached where nothing is left of the day's rows or bytes."""
        self._fits(grant, 1, 1)

    def take(self, grant: Grant, *, rows: int = 0, bytes: int = 0) -> None:
        """Counts what is about to leave, or raises DayLimitReached and counts nothing."""
        self._fits(grant, rows, bytes)
        self._rows[grant.name] += rows
        self._bytes[grant.name] += bytes

    def taken(self, grant: str) -> tuple[int, int]:
        """Rows and bytes that the grant's holders took today."""
        self._begin(_today())
        return self._rows[grant], self._bytes[grant]

    def _fits(self, grant: Grant, rows: int, bytes: int) -> None:
        had_rows, had_bytes = self.taken(grant.name)
        limits = grant.limits
        if rows and had_rows + rows > limits.rows_per_day:
            raise DayLimitReached(grant, "rows", limits.rows_per_day, retry_after=_to_midnight())
        if bytes and had_bytes + bytes > limits.bytes_per_day:
            raise DayLimitReached(grant, "bytes", limits.bytes_per_day, retry_after=_to_midnight())

    def _begin(self, day: str, *, from_log: bool = False) -> None:
        if day == self._day:
            return
        self._day = day
        self._rows.clear()
        self._bytes.clear()
        if from_log:
            column = audit_event.c
            query = (
                sa.select(column.grant, sa.func.sum(column.rows), sa.func.sum(column.bytes))
                .where(column.event == "ended", column.at >= day)
                .group_by(column.grant)
            )
            with self._engine.connect() as connection:
                for grant, rows, sent in connection.execute(query):
                    self._rows[grant], self._bytes[grant] = int(rows or 0), int(sent or 0)


def without_end(engine: sa.Engine) -> list[dict[str, Any]]:
    """Reads that were admitted and whose end nobody wrote, because the broker was killed: what the log says of them."""
    column = audit_event.c
    last = sa.select(sa.func.max(column.at))
    with engine.connect() as connection:
        newest = connection.execute(last).scalar()
        if newest is None:
            return []
        since = (datetime.fromisoformat(newest) - LONGEST_READ).isoformat()
        ended = sa.select(column.query_id).where(column.event == "ended", column.at >= since)
        query = sa.select(*(column[name] for name in _OF_A_READ)).where(
            column.event == "admitted", column.at >= since, column.query_id.not_in(ended)
        )
        return [dict(row._mapping) for row in connection.execute(query)]


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def _to_midnight() -> int:
    now = datetime.now(UTC)
    tomorrow = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return int((tomorrow - now).total_seconds()) + 1
