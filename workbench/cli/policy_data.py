"""`workbench policy diff` and `policy explain --member`: what grants mean for the members and rows of a release."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from workbench.cli.progress import Lines
from workbench.settings import settings

FEW = 12
"""Columns that are listed by name; of more only the number of each table is told, --json lists all."""


@click.command(
    epilog="""\b
Examples:
  workbench policy diff grants ../reviewed/grants
  workbench policy diff grants new-grants --release 20260131-63300d47cbbf --json
"""
)
@click.argument("old", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("new", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--release", help="A release of the lake; the latest where this is missing.")
@click.option("--lake", type=click.Path(path_type=Path), help="Folder of the lake [env: WORKBENCH_LAKE].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diff(old: Path, new: Path, release: str | None, lake: Path | None, as_json: bool) -> None:
    """What would change if the grants of folder NEW replaced those of OLD: before anything is deployed.

    For each organisation and grant: members, rows, columns and categories gained and lost. Counts only; a category that
    needs consent counts as if nobody consented.
    """
    from workbench.broker.grants import GrantBook
    from workbench.broker.policy_diff import policy_diff
    from workbench.lake.release import open_release

    found = open_release(lake or settings().lake, release)
    books = GrantBook.load(old), GrantBook.load(new)
    console = Console(stderr=True, quiet=as_json)
    with Progress(TextColumn("{task.description}"), BarColumn(), console=console, transient=True) as bar:
        task = bar.add_task("reading the grants")

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=f"comparing: {what}", completed=done, total=total)

        differences = policy_diff(found, *books, progress)
    if as_json:
        click.echo(json.dumps({"release": found.id, "organisations": [d.as_json() for d in differences]}))
        return
    for difference in differences:
        several = len(difference.grants) != 1
        if several:
            _print(f"{difference.total.name}: all its grants together", difference.total)
        for grant in difference.grants:
            name = grant.name if several else f"{difference.total.name}: {grant.name}"
            _print(("  " if several else "") + name, grant, "  " if several else "")
    grants = sum(len(d.grants) for d in differences)
    click.echo(f"{len(differences)} organisations, {grants} grants differ on release {found.id}")


def _print(title: str, difference: Any, indent: str = "") -> None:
    click.echo(f"{title}: {difference.change}")
    inner = f"{indent}  "
    members = difference.members
    click.echo(f"{inner}members {_count(members)}")
    changed = {table: count for table, count in difference.rows.items() if count.gained or count.lost}
    for table, count in changed.items():
        click.echo(f"{inner}rows of {table} {_count(count)}")
    for what, columns in (("gained", difference.columns_gained), ("lost", difference.columns_lost)):
        if columns:
            click.echo(f"{inner}columns {what}: {_columns(columns)}")
    for category, (before, after) in difference.categories.items():
        if not {before, after} <= {"none", "exclude"}:
            click.echo(f"{inner}{category}: {before} → {after}")
    if difference.conditions:
        click.echo(f"{inner}also changed: {', '.join(difference.conditions)}")
    if difference.blocked:
        click.echo(
            f"{inner}would be refused on this release: nobody can find reliably the claims of {', '.join(difference.blocked)}"
        )
    if difference.early:
        click.echo(
            f"{inner}would be refused on this release: it has not reached {', '.join(difference.early)}"
        )


def _count(count: Any) -> str:
    return f"{count.old:,} → {count.new:,} (+{count.gained:,} −{count.lost:,})"


def _columns(names: Iterable[str]) -> str:
    names = list(names)
    if len(names) <= FEW:
        return ", ".join(names)
    tables: dict[str, int] = {}
    for name in names:
        table = name.partition(".")[0]
        tables[table] = tables.get(table, 0) + 1
    return ", ".join(f"{count} of {table}" for table, count in tables.items())


def explain_member(user: str, member: str, *, grant: str | None, release: str | None, as_json: bool) -> None:
    """Asks the broker what USER sees of a member, and prints it. The question stands in the audit log."""
    from workbench.broker.operator import operator

    with operator(settings(), Lines()) as broker:
        found = broker.ask(
            "POST", "/explanations", {"user": user, "member": member, "grant": grant, "release": release}
        )
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    groups = ", ".join(found["groups"]) or "no group"
    click.echo(f"{user} is in {groups}. Release {found['release']}, as of {found['as_of']}.")
    for entry in found["grants"]:
        _print_grant(entry)
    if not found["grants"]:
        click.echo(
            "No grant is for these groups." if grant is None else f"Grant {grant} is for other groups."
        )
    if found["missing"]:
        click.echo("\nGrants under which the member is seen:")
        for family in found["missing"]:
            name = ", ".join(family["grants"]) or family["file"]
            held = f", of {', '.join(family['groups'])}" if family["groups"] else ""
            click.echo(f"  {name}, level {family['level']}{held}; {family['approver']} can give it")


def _print_grant(entry: Mapping[str, Any]) -> None:
    mark = {True: "✓", False: "✗", None: "?"}[entry["sees"]]
    click.echo(f"\n{mark} {entry['grant']}, level {entry['level']}: {entry['why']}")
    if entry["sees"] or not entry["rows"]:
        click.echo(f"  seen {entry['as']}" if entry["sees"] else f"  {entry['as']}")
        click.echo(f"  sensitive categories {entry['categories']}")
    elif entry["break_glass"] and entry["allowed"]:
        click.echo("  break-glass may open the record of any member, for minutes and with a reason")
