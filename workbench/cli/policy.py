"""`workbench policy …`: check the grants before they are used, and say what a person may see, and why not."""

from __future__ import annotations

import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

import click

from workbench.broker.cut import CUTS
from workbench.broker.directory import FileDirectory
from workbench.broker.grants import Decision, Grant, GrantBook, InvalidGrants, grant_schema
from workbench.deid.levels import NOT_SERVED, Action, Level, rule, served_as, uncovered
from workbench.errors import WorkbenchError
from workbench.schema import Column, Table, dictionary
from workbench.settings import PROJECT, settings

USERS = PROJECT / "hub_config" / "demo_users.yaml"

_grants = click.option(
    "--grants",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder of grant YAML files (default: WORKBENCH_GRANTS).",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class UnknownColumn(WorkbenchError):
    """The data dictionary has no such column."""

    code = "unknown-column"
    http_status = 404


@click.group()
def policy() -> None:
    """Check the grants and explain what they permit."""


@policy.command(epilog="Example:\n\n  workbench policy check --json")
@_grants
@_json
def check(folder: Path | None, as_json: bool) -> None:
    """Validate every grant, and prove that every column of every table has a rule at every level.

    Exit code 1 when there is a fault.
    """
    faults: list[str] = []
    names: list[str] = []
    try:
        names = [grant.name for grant in GrantBook.load(folder or settings().grants)]
    except InvalidGrants as error:
        faults.extend(error.faults)
    faults.extend(f"no rule for {where}" for where in uncovered())
    tables = dictionary()
    faults.extend(
        f"no cut for table {t.name}" for t in tables.values() if t.has_member and t.name not in CUTS
    )
    columns = sum(len(table.columns) for table in tables.values())
    found = {
        "ok": not faults,
        "faults": faults,
        "grants": names,
        "tables": len(tables),
        "columns": columns,
        "levels": len(Level),
        "rules": columns * len(Level) - len(uncovered()),
    }
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        for fault in faults:
            click.echo(f"fault: {fault}")
        click.echo(
            f"{len(names)} grants, {columns} columns of {len(tables)} tables × {len(Level)} levels, {len(faults)} faults"
        )
    if faults:
        sys.exit(1)


@policy.command(
    epilog="Example:\n\n  workbench policy explain rui --grant demo-research-sh --column member.zip"
)
@click.argument("user")
@click.option("--grant", "name", help="Only this grant.")
@click.option("--column", help="What becomes of one column, as TABLE.COLUMN.")
@click.option(
    "--users",
    type=click.Path(path_type=Path, exists=True),
    default=USERS,
    help="The directory of people and their groups.",
)
@_grants
@_json
def explain(
    user: str, name: str | None, column: str | None, users: Path, folder: Path | None, as_json: bool
) -> None:
    """What may USER see and why, and why not: names the missing grant and who can give it."""
    groups = FileDirectory(users).groups(user)
    book = GrantBook.load(folder or settings().grants)
    asked = _column(column) if column else None
    only = book.get(name).name if name else None
    decisions = [d for d in book.for_user(groups, date.today()) if only in (None, d.grant.name)]
    found = {
        "user": user,
        "groups": sorted(groups),
        "grants": [_decision(decision, asked) for decision in decisions],
    }
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    click.echo(f"{user} is in {', '.join(sorted(groups)) or 'no group'}.")
    for entry in found["grants"]:
        assert isinstance(entry, dict)
        _print(entry)


@policy.command(epilog="Example:\n\n  workbench policy schema > grant.schema.json")
def schema() -> None:
    """Print the JSON schema of a grant file."""
    click.echo(json.dumps(grant_schema(), indent=1))


def _column(text: str) -> tuple[Table, Column]:
    table_name, _, column_name = text.partition(".")
    table = dictionary().get(table_name)
    if table is None:
        raise UnknownColumn(
            "The data dictionary has no such table.", hint=f"It has: {', '.join(dictionary())}."
        )
    if column_name not in table.columns:
        raise UnknownColumn(
            f"Table {table.name} has no such column.", hint=f"It has: {', '.join(table.columns)}."
        )
    return table, table.columns[column_name]


def _decision(decision: Decision, asked: tuple[Table, Column] | None) -> dict[str, Any]:
    grant = decision.grant
    entry: dict[str, Any] = {
        "grant": grant.name,
        "title": grant.title,
        "allowed": decision.allowed,
        "reason": decision.reason,
        "hint": decision.hint,
        "members": _members(grant),
        "level": grant.level,
        "tables": [
            t
            for t in grant.table_names
            if grant.level != Level.AGGREGATE and (grant.level, t) not in NOT_SERVED
        ],
        "sensitive": _sensitive(grant),
        "purposes": list(grant.purposes),
        "channels": list(grant.channels),
        "valid": [grant.valid_from.isoformat(), grant.valid_until.isoformat()],
        "agreement": grant.agreement,
        "approver": grant.approver,
    }
    if asked is not None:
        entry["column"] = _fate(grant, *asked)
    return entry


def _members(grant: Grant) -> str:
    organisation = grant.organisation
    if organisation.relation == "state":
        return "every member of the State"
    whose = f"members of {', '.join(organisation.ids)} ({organisation.relation})"
    if organisation.as_of == "ever_own_period":
        return f"{whose}, ever attributed, with only what happened on attributed days"
    day = (
        "on the release's as-of date"
        if organisation.as_of == "current"
        else f"on {organisation.as_of.isoformat()}"
    )
    return f"{whose}, attributed {day}, with their whole history"


def _sensitive(grant: Grant) -> str:
    if grant.sensitive.part2 == "include":
        return f"Part 2 records included: {grant.sensitive.basis}"
    return "Part 2 records left out, with every trace of them"


def _fate(grant: Grant, table: Table, column: Column) -> dict[str, str]:
    """What becomes of a column in a grant's slice, and by which rule."""
    found = rule(grant.level, column.identifier_class)
    about = {
        "column": f"{table.name}.{column.name}",
        "class": column.identifier_class,
        "rule": found.action,
        "source": found.source,
    }
    if table.name not in grant.table_names:
        return {
            **about,
            "seen": "no",
            "why": f"the grant does not name table {table.name}; {grant.approver} can add it",
        }
    if grant.level == Level.AGGREGATE:
        return {**about, "seen": "no", "why": "the grant's level has no rows, only tables"}
    if (grant.level, table.name) in NOT_SERVED:
        return {**about, "seen": "no", "why": NOT_SERVED[grant.level, table.name]}
    if found.action == Action.DROP:
        return {
            **about,
            "seen": "no",
            "why": f"level {grant.level} drops columns of class {column.identifier_class}",
        }
    served = served_as(grant.level, column)
    seen = "yes" if found.action == Action.KEEP else f"as {served.name} {served.type}"
    return {**about, "seen": seen, "why": served.means}


def _print(entry: dict[str, Any]) -> None:
    click.echo(f"\n{'✓' if entry['allowed'] else '✗'} {entry['grant']}: {entry['title']}")
    click.echo(f"  {entry['reason']} {entry['hint']}".rstrip())
    click.echo(f"  {entry['members']}; level {entry['level']}; {entry['sensitive']}")
    click.echo(f"  for {', '.join(entry['purposes'])}; by {', '.join(entry['channels'])}")
    if "column" in entry:
        about = entry["column"]
        click.echo(f"  {about['column']}: {about['seen']}: {about['why']} [{about['source']}]")
