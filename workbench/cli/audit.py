"""`workbench audit`: verify and show the log beside a running broker; who saw a member, review, export and prune by it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from workbench.broker.audit import audit_folder, events
from workbench.broker.audit_export import Format, export, rows_of
from workbench.broker.audit_read import OPERATOR
from workbench.broker.audit_verify import Finding, verify_rows
from workbench.broker.audit_verify import verify as verify_log
from workbench.broker.operator import operator
from workbench.cli.plain import plain
from workbench.cli.progress import waiting
from workbench.errors import WorkbenchError
from workbench.settings import settings

WIDE = 160
"""Columns of the table where it does not go to a terminal."""


class NoLog(WorkbenchError):
    """There is no audit log yet."""

    code = "no-audit-log"
    http_status = 404


class FileThere(WorkbenchError):
    """An export would replace a file."""

    code = "file-exists"
    http_status = 409


@click.group(
    epilog="""\b
Examples:
  workbench audit verify
  workbench audit who-saw 90000042A
  workbench audit review
""",
)
def audit() -> None:
    """Verify and read the audit log, who saw a member, review, export, prune."""


@audit.command(
    epilog="""\b
Examples:
  workbench audit verify --json
  workbench audit verify --file audit-2026.parquet
"""
)
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Judge an export or an archive in place of the log.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def verify(path: Path | None, as_json: bool) -> None:
    """Check the hash chain, event by event; exit code 1 where anything is wrong.

    Tells apart: changed, restamped (the time was changed), missing, reordered, truncated, checkpoint, returned (the
    list of members in an answer). A beginning that was pruned by the rules is no finding.
    """
    folder = audit_folder(settings().state)
    if path is not None:
        rows = rows_of(path)
        found, count, gone = verify_rows(rows, folder), len(rows), 0
    else:
        with _log() as engine:
            with waiting("Verifying the log"):
                found = verify_log(engine, folder)
            with engine.connect() as connection:
                query = "SELECT count(*), min(seq) FROM audit_event"
                count, first = connection.execute(sa.text(query)).one()
        gone = int(first or 1) - 1
    if as_json:
        findings = [{"kind": f.kind, "first": f.first, "last": f.last, "says": f.says} for f in found]
        click.echo(json.dumps({"ok": not found, "events": count, "pruned": gone, "findings": findings}))
    else:
        _tell(found, count, gone)
    if found:
        sys.exit(1)


@audit.command(
    epilog="""\b
Examples:
  workbench audit show --user ana --since 2026-11-01
  workbench audit show --event refused --since 2026-11-01 --until 2026-12-01
  workbench audit show --grant demo-analyst --json
"""
)
@click.option("--user", help="Events of this user.")
@click.option("--grant", help="Events under this grant.")
@click.option("--event", help="Events of this kind: admitted, ended, refused, break-glass …")
@click.option("--since", help="Events from this day or time on (UTC, ISO 8601).")
@click.option("--until", help="Events before this day or time (UTC, ISO 8601).")
@click.option(
    "--limit", type=click.IntRange(min=1), default=200, show_default=True, help="The newest so many."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def show(
    user: str | None,
    grant: str | None,
    event: str | None,
    since: str | None,
    until: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show events, the oldest first."""
    since, until = _moment(since, "--since"), _moment(until, "--until")
    with _log() as engine:
        found = events(engine, user=user, grant=grant, event=event, since=since, until=until, limit=limit)
    if as_json:
        for one in found:
            click.echo(json.dumps(one))
        return
    grid = _grid(("seq", "at", "event", "user", "grant", "rows", "ms", "what"), right=("seq", "rows", "ms"))
    for one in found:
        what = one["reason"] or one["statement"] or one["outcome"] or ""
        asked = one["server"] if str(one["server"]).startswith(OPERATOR) else None
        cells = (
            one["seq"],
            one["at"][:19],
            one["event"],
            f"{asked} as {one['user']}" if asked else one["user"],
            *(one[name] for name in ("grant", "rows", "ms")),
        )
        grid.add_row(*map(plain, cells), plain(str(what)[:160]))
    _print(grid)


@audit.command(
    "who-saw",
    epilog="""\b
Examples:
  workbench audit who-saw 90000042A
  workbench audit who-saw 90000042A --json
""",
)
@click.argument("member")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def who_saw(member: str, as_json: bool) -> None:
    """Who saw MEMBER (an id of the release), under her id or any token that stands for it; the surest first.

    named: asked for by id. returned: in an answer. may have been returned: it cannot be told whose rows an answer
    held. possible: in the slice that was asked. The look itself is an event of the log.
    """
    lines = _ask("POST", "/audit/who-saw", {"member": member})["lines"]
    if as_json:
        for line in lines:
            click.echo(json.dumps(line))
        return
    grid = _grid(("grade", "who", "grant", "channel", "when (UTC)", "times", "says"), right=("times",))
    for line in lines:
        first, last = line["first"][:16].replace("T", " "), line["last"][:16].replace("T", " ")
        when = last if line["times"] == 1 else f"{first} – {last}"
        cells = (
            line["grade"],
            line["user"],
            line["grant"],
            line["channel"],
            when,
            f"{line['times']:,}",
            line["says"],
        )
        grid.add_row(*map(plain, cells))
    _print(grid)
    click.echo(
        f"{len(lines)} lines." if lines else "Nobody: no read that is in the log can have shown this member."
    )


@audit.group(
    invoke_without_command=True,
    epilog="""\b
Examples:
  workbench audit review
  workbench audit review --json
  workbench audit review sign B57 --note "Called the clinic: emergency confirmed."
""",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_context
def review(context: click.Context, as_json: bool) -> None:
    """What is to be reviewed: break-glass first, then denials, unusual volume, first uses of a grant."""
    if context.invoked_subcommand is not None:
        return
    items = _ask("GET", "/audit/review")["items"]
    if as_json:
        for item in items:
            click.echo(json.dumps(item))
        return
    grid = _grid(("item", "kind", "when (UTC)", "who", "grant", "says"))
    for item in items:
        when = item["at"][:16].replace("T", " ")
        cells = (item["id"], item["kind"], when, item["user"], item["grant"], item["says"])
        grid.add_row(*map(plain, cells))
    _print(grid)
    click.echo(f"{len(items)} to review; `workbench audit review sign ITEM` signs one off.")


@review.command(
    epilog="""\b
Example:
  workbench audit review sign B57 --note "Called the clinic: emergency confirmed."
"""
)
@click.argument("item")
@click.option("--note", default="", help="What you found; needed for a break-glass.")
def sign(item: str, note: str) -> None:
    """Sign ITEM of the review queue off. The sign-off is an event of the log, in your name."""
    signed = _ask("POST", "/audit/review", {"item": item, "note": note})["item"]
    click.echo(f"{signed['id']} is signed off: {signed['says']}")


@audit.command(
    "export",
    epilog="""\b
Examples:
  workbench audit export audit-2026.parquet --format parquet --since 2026-01-01 --until 2027-01-01
  workbench audit export audit.jsonl
""",
)
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--format", "form", type=click.Choice(["jsonl", "parquet"]), help="By default as PATH ends.")
@click.option("--since", help="Events from this day or time on (UTC, ISO 8601).")
@click.option("--until", help="Events before this day or time (UTC, ISO 8601).")
def export_command(path: Path, form: Format | None, since: str | None, until: str | None) -> None:
    """Write the log to PATH, every column with the chain's proof values. The export is an event of the log."""
    since, until = _moment(since, "--since"), _moment(until, "--until")
    form = form or ("parquet" if path.suffix == ".parquet" else "jsonl")
    if path.exists():
        raise FileThere("There is a file of this name already.", hint="Take another name.")
    through = _ask("POST", "/audit/exports", {"format": form, "since": since, "until": until})["through"]
    with _log() as engine:
        written = export(engine, path, form, since=since, until=until, through=through)
    click.echo(f"{written.events:,} events, {written.first}–{written.last}, SHA-256 {written.sha256}")


@audit.command(
    epilog="""\b
Examples:
  workbench audit prune --dry-run
  workbench audit prune
"""
)
@click.option("--dry-run", "dry", is_flag=True, help="Only say what would go.")
@click.option("--no-archive", is_flag=True, help="Keep no copy in the auditors' folder.")
def prune(dry: bool, no_archive: bool) -> None:
    """Take away events older than the retention (six years, or WORKBENCH_AUDIT_RETENTION_YEARS).

    The log is verified, what goes is archived in the auditors' folder, and the pruning is an event before anything is
    deleted. Nothing younger goes, and the rest still verifies. With the events go the lists of who was in a slice
    that is gone and that no event left in the log names.
    """
    found = _ask("POST", "/audit/prune", {"dry": dry, "archive": not no_archive})
    kept = f"; archived as {found['archive']} in the auditors' folder" if found["archive"] else ""
    verb = "would go" if dry else "are gone"
    click.echo(f"{found['events']:,} events older than {found['years']} years {verb}{kept}.")
    if lists := found["slice_lists"]:
        click.echo(
            f"With them: {lists:,} list{'' if lists == 1 else 's'} of who was in slices that are gone."
        )


def _ask(method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The broker's answer: of the one that runs, or of one for as long as the command lasts."""
    with waiting("Reading the log"), operator(settings()) as broker:
        return broker.ask(method, path, body)


def _tell(found: list[Finding], count: int, gone: int) -> None:
    for finding in found:
        one = finding.first == finding.last
        where = f"event {finding.first}" if one else f"events {finding.first}–{finding.last}"
        click.echo(f"{finding.kind}: {where}: {finding.says}")
    before = f" (1–{gone} pruned)" if gone and not found else ""
    click.echo(
        f"{count:,} events{before}, " + ("the chain is whole." if not found else f"{len(found)} findings.")
    )


def _moment(value: str | None, option: str) -> str | None:
    """A day or time as the log writes it. Raises click.BadParameter for what is none."""
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is no day or time; write 2026-11-01 or 2026-11-01T08:30 (UTC).",
            param_hint=f"'{option}'",
        ) from None
    return (moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment).isoformat()


def _grid(names: tuple[str, ...], right: tuple[str, ...] = ()) -> Table:
    grid = Table(show_edge=False, header_style="bold")
    for name in names:
        grid.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return grid


def _print(grid: Table) -> None:
    console = Console()
    (console if console.is_terminal else Console(width=WIDE)).print(grid)


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
