"""The run history: one row per run, miss, stop or resumption, in a database of the reports' own.

A run writes its row when it starts and ends it once. Reasons are the words of a WorkbenchError: no data values.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import sqlalchemy as sa


class Status(StrEnum):
    """What became of a run."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    MISSED = "missed"
    STOPPED = "stopped"
    """The schedule rests: its grant lapsed, or its owner no longer holds it."""
    RESUMED = "resumed"


_metadata = sa.MetaData()
_runs = sa.Table(
    "report_run",
    _metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("report", sa.String(64), nullable=False, index=True),
    sa.Column("organisation", sa.String(64), nullable=False),
    sa.Column("key", sa.String(120), nullable=False),
    sa.Column("grant", sa.String(120), nullable=False),
    sa.Column("owner", sa.String(120), nullable=False),
    sa.Column("trigger", sa.String(16), nullable=False),
    sa.Column("parameters", sa.Text, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("began", sa.String(32), nullable=False, index=True),
    sa.Column("ended", sa.String(32)),
    sa.Column("code", sa.String(64)),
    sa.Column("reason", sa.Text),
    sa.Column("release", sa.String(120)),
    sa.Column("note", sa.Text),
)
_views = sa.Table(
    "report_view",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.String(32), nullable=False),
    sa.Column("user", sa.String(120), nullable=False),
    sa.Column("grant", sa.String(120), nullable=False),
    sa.Column("report", sa.String(64), nullable=False),
    sa.Column("key", sa.String(120), nullable=False),
    sa.Column("allowed", sa.Boolean, nullable=False),
    sa.Column("code", sa.String(64), nullable=False),
)


@dataclass(frozen=True)
class Entry:
    """One row of the history."""

    id: str
    report: str
    organisation: str
    key: str
    grant: str
    owner: str
    trigger: str
    """schedule or command"""
    parameters: Mapping[str, Any]
    status: Status
    began: str
    """ISO time, UTC"""
    ended: str | None = None
    code: str | None = None
    reason: str | None = None
    release: str | None = None
    note: str | None = None
    """What a reader should know of a run that succeeded, for instance that it met an old release."""


def now() -> str:
    """The time as the history writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class History:
    """The open history; several processes may write."""

    def __init__(self, folder: Path):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = folder / "reports.sqlite"
        file.touch(mode=0o600)
        self._engine = sa.create_engine(f"sqlite:///{file}", connect_args={"timeout": 10})
        _metadata.create_all(self._engine)

    def begin(
        self,
        *,
        report: str,
        organisation: str,
        key: str,
        grant: str,
        owner: str,
        trigger: str,
        parameters: Mapping[str, Any],
        status: Status = Status.RUNNING,
        code: str | None = None,
        reason: str | None = None,
    ) -> str:
        """Writes a row and gives its id. A status other than running ends it at once."""
        identity = uuid.uuid4().hex
        moment = now()
        with self._engine.begin() as connection:
            connection.execute(
                _runs.insert().values(
                    id=identity,
                    report=report,
                    organisation=organisation,
                    key=key,
                    grant=grant,
                    owner=owner,
                    trigger=trigger,
                    parameters=json.dumps(dict(parameters), sort_keys=True),
                    status=status.value,
                    began=moment,
                    ended=None if status is Status.RUNNING else moment,
                    code=code,
                    reason=reason,
                )
            )
        return identity

    def end(
        self,
        identity: str,
        status: Status,
        *,
        code: str | None = None,
        reason: str | None = None,
        release: str | None = None,
        note: str | None = None,
    ) -> None:
        """Ends a running row; a row that has ended stays as it is."""
        with self._engine.begin() as connection:
            connection.execute(
                _runs.update()
                .where(_runs.c.id == identity, _runs.c.status == Status.RUNNING.value)
                .values(
                    status=status.value, ended=now(), code=code, reason=reason, release=release, note=note
                )
            )

    def interrupted(self) -> None:
        """Marks the scheduled runs that a killed scheduler left running as failed."""
        with self._engine.begin() as connection:
            connection.execute(
                _runs.update()
                .where(_runs.c.status == Status.RUNNING.value, _runs.c.trigger == "schedule")
                .values(
                    status=Status.FAILED.value,
                    ended=now(),
                    code="interrupted",
                    reason="The scheduler ended while the report ran.",
                )
            )

    def entries(
        self, *, report: str | None = None, organisation: str | None = None, limit: int = 50
    ) -> list[Entry]:
        """The newest rows first."""
        query = _runs.select().order_by(_runs.c.began.desc(), sa.text("rowid desc")).limit(limit)
        if report is not None:
            query = query.where(_runs.c.report == report)
        if organisation is not None:
            query = query.where(_runs.c.organisation == organisation)
        with self._engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return [_entry(row) for row in rows]

    def last(self, report: str, organisation: str, *statuses: Status) -> Entry | None:
        """The newest row of these statuses, or of any."""
        rows = self.entries(report=report, organisation=organisation, limit=500)
        return next((row for row in rows if not statuses or row.status in statuses), None)

    def viewed(self, *, user: str, grant: str, report: str, key: str, allowed: bool, code: str) -> None:
        """Writes down that a report was handed to a reader, or refused."""
        with self._engine.begin() as connection:
            connection.execute(
                _views.insert().values(
                    at=now(), user=user, grant=grant, report=report, key=key, allowed=allowed, code=code
                )
            )

    def views(self) -> list[Mapping[str, Any]]:
        """Every reading and every refusal, the oldest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(_views.select().order_by(_views.c.id)).mappings().all()
        return [{str(name): value for name, value in row.items()} for row in rows]

    def close(self) -> None:
        """Gives up the database."""
        self._engine.dispose()


def _entry(row: Mapping[Any, Any]) -> Entry:
    fields = {str(name): value for name, value in row.items()}
    fields["parameters"] = json.loads(fields["parameters"])
    fields["status"] = Status(fields["status"])
    return Entry(**fields)
