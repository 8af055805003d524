"""`workbench audit`: verify and show the log. It reads beside a running broker and takes no lock."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import click
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from workbench.broker.audit import audit_folder, events
from workbench.broker.audit import verify as verify_log
from workbench.errors import WorkbenchError
from workbench.settings import settings

WIDE = 160
"""Columns of the table where it does not go to a terminal."""


class NoLog(WorkbenchError):
    """There is no audit log yet."""

    code = "no-audit-log"
    http_status = 404


@click.group()
def audit() -> None:
    """Verify and show the audit log."""


@audit.command(
    epilog="""\b
Example:
  workbench audit verify --json
"""
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def verify(as_json: bool) -> None:
    """Check the hash chain, event by event; exit code 1 where anything is wrong.

    Tells apart: changed, restamped (the time was changed), missing, reordered, truncated, checkpoint.
    """
    with _log() as engine:
        found = verify_log(engine, audit_folder(settings().state))
        with engine.connect() as connection:
            count = connection.execute(sa.text("SELECT count(*) FROM audit_event")).scalar()
    if as_json:
        findings = [{"kind": f.kind, "first": f.first, "last": f.last, "says": f.says} for f in found]
        click.echo(json.dumps({"ok": not found, "events": count, "findings": findings}))
    else:
        for finding in found:
            where = (
                f"event {finding.first}"
                if finding.first == finding.last
                else f"events {finding.first}–{finding.last}"
            )
            click.echo(f"{finding.kind}: {where}: {finding.says}")
        click.echo(
            f"{count:,} events, " + ("the chain is whole." if not found else f"{len(found)} findings.")
        )
    if found:
        sys.exit(1)


@audit.command(
    epilog="""\b
Examples:
  workbench audit show --user ana --since 2026-11-01
  workbench audit show --grant demo-analyst --json
"""
)
@click.option("--user", help="Events of this user.")
@click.option("--grant", help="Events under this grant.")
@click.option("--since", help="Events from this day or time on (UTC, ISO 8601).")
@click.option(
    "--limit", type=click.IntRange(min=1), default=200, show_default=True, help="The newest so many."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def show(user: str | None, grant: str | None, since: str | None, limit: int, as_json: bool) -> None:
    """Show events, the oldest first."""
    since = _moment(since)
    with _log() as engine:
        found = events(engine, user=user, grant=grant, since=since, limit=limit)
    if as_json:
        for event in found:
            click.echo(json.dumps(event))
        return
    grid = Table(show_edge=False, header_style="bold")
    for name in ("seq", "at", "event", "user", "grant", "rows", "ms", "what"):
        grid.add_column(name, justify="right" if name in ("seq", "rows", "ms") else "left", overflow="fold")
    for event in found:
        what = event["reason"] or event["statement"] or event["outcome"] or ""
        cells = (
            event["seq"],
            event["at"][:19],
            event["event"],
            event["user"],
            event["grant"],
            event["rows"],
            event["ms"],
        )
        grid.add_row(*("" if cell is None else str(cell) for cell in cells), str(what)[:160])
    console = Console()
    (console if console.is_terminal else Console(width=WIDE)).print(grid)


def _moment(since: str | None) -> str | None:
    """The beginning as the log writes it. Raises click.BadParameter for what is no day or time."""
    if since is None:
        return None
    try:
        return datetime.fromisoformat(since).isoformat()
    except ValueError:
        raise click.BadParameter(
            f"{since!r} is no day or time; write 2026-11-01 or 2026-11-01T08:30 (UTC).",
            param_hint="'--since'",
        ) from None


@contextmanager
def _log() -> Iterator[sa.Engine]:
    engine = sa.create_engine(settings().database_url)
    try:
        if not sa.inspect(engine).has_table("audit_event"):
            raise NoLog("There is no audit log yet.", hint="It begins with the first question to the broker.")
        yield engine
    except sa.exc.OperationalError:
        raise NoLog(
            "There is no audit log yet.", hint="It begins with the first question to the broker."
        ) from None
    finally:
        engine.dispose()
