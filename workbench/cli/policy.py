"""`workbench policy …`: check the grants before they are used, and say what a person may see, and why not."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from workbench.broker.cut import CUTS
from workbench.broker.directory import FileDirectory
from workbench.broker.explained import (
    category_fate,
    column_named,
    column_seen,
    how_seen,
    members_of,
    sensitive_of,
)
from workbench.broker.grants import Decision, Grant, GrantBook, InvalidGrants, grant_schema
from workbench.broker.law import allowing, hides_by_drug, unsourced
from workbench.broker.law.truth import run_tables, unreadable
from workbench.cli.policy_data import diff, explain_member
from workbench.days import today
from workbench.deid.levels import NOT_SERVED, Level, uncovered
from workbench.schema import Column, Table, dictionary
from workbench.schema.sensitive import CATEGORIES, Category
from workbench.settings import PROJECT, settings

USERS = PROJECT / "hub_config" / "demo_users.yaml"

_grants = click.option(
    "--grants",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder of grant YAML files (default: WORKBENCH_GRANTS).",
)
_users = click.option(
    "--users",
    type=click.Path(path_type=Path, exists=True),
    default=USERS,
    help="The directory of people and their groups.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(
    epilog="""\b
Examples:
  workbench policy check
  workbench policy explain ana --column member.ssn
  workbench policy diff grants ../reviewed/grants
""",
)
def policy() -> None:
    """Check the grants and explain what they permit."""


@policy.command(epilog="Example:\n\n  workbench policy check --json")
@_grants
@_json
def check(folder: Path | None, as_json: bool) -> None:
    """Validate every grant and truth table, and prove that every column of every table has a rule at every level.

    Warns of grants that must leave out a category whose code list is not sourced: they are blocked on every release
    of real people. Warns too where drugs tell of the category: such a grant is blocked while the ingredient of a drug
    in the release is not known. Where a grant's file has a fault, the grants of the others are counted, and none is used. Exit
    code 1 when there is a fault.
    """
    faults: list[str] = []
    warnings: list[str] = []
    try:
        book = GrantBook.load(folder or settings().grants)
        names = [grant.name for grant in book]
        counted = f"{len(names)} grants"
        warnings = [*_unsourced(book), *_ended(book)]
    except InvalidGrants as error:
        faults.extend(error.faults)
        names = list(error.sound)
        counted = (
            f"{len(names)} grants of the other files are sound" if names else "no grant could be counted"
        )
        counted += "; none is used until the faults are mended"
    faults.extend(unreadable(folder or settings().grants))
    faults.extend(f"no rule for {where}" for where in uncovered())
    tables = dictionary()
    faults.extend(
        f"no cut for table {t.name}" for t in tables.values() if t.has_member and t.name not in CUTS
    )
    columns = sum(len(table.columns) for table in tables.values())
    found = {
        "ok": not faults,
        "faults": faults,
        "warnings": warnings,
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
        for warning in warnings:
            click.echo(f"warning: {warning}")
        click.echo(
            f"{counted}, {columns} columns of {len(tables)} tables × {len(Level)} levels, "
            f"{len(faults)} faults, {len(warnings)} warnings"
        )
    if faults:
        sys.exit(1)


@policy.command(epilog="Example:\n\n  workbench policy test")
@_users
@_grants
@_json
def test(users: Path, folder: Path | None, as_json: bool) -> None:
    """Run the truth tables: those of the five laws, and those beside the grants (`truth/*.yaml` of their folder).

    A row of a law is a grant that the law allows or refuses, tried on the model that reads the files. A row beside the
    grants says who gets what of a grant, or which records of a made-up member are in its slice, which is then built.
    Exit code 1 when a row is not answered as it says.
    """
    tables = run_tables(folder or settings().grants, users)
    wrong = [failure for table in tables for failure in table.failures]
    if as_json:
        found = [{"table": t.name, "title": t.title, "rows": t.rows, "failures": t.failures} for t in tables]
        click.echo(json.dumps({"ok": not wrong, "tables": found}, indent=1))
    else:
        for table in tables:
            click.echo(f"{'✗' if table.failures else '✓'} {table.name}: {table.rows} rows. {table.title}")
            for failure in table.failures:
                click.echo(f"    {failure}")
        click.echo(f"{sum(t.rows for t in tables)} rows, {len(wrong)} answered otherwise")
    if wrong:
        sys.exit(1)


@policy.command(
    epilog="Example:\n\n  workbench policy explain rui --grant demo-research-sh --column member.zip"
)
@click.argument("user")
@click.option("--grant", "name", help="Only this grant.")
@click.option("--column", help="What becomes of one column, as TABLE.COLUMN.")
@click.option(
    "--member",
    metavar="ID",
    help="What USER sees of this member, and why not: the broker is asked, with its own grants and people; recorded.",
)
@click.option("--release", help="With --member: a release of the lake; the latest where this is missing.")
@_users
@_grants
@_json
def explain(
    user: str, name: str | None, column: str | None, member: str | None, release: str | None,
    users: Path, folder: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """What may USER see and why, and why not: names the missing grant and who can give it.

    Grants of other groups are told in one line for each file; `--grant` explains one of them in full.
    """
    if member is not None:
        if folder is not None or column is not None:
            raise click.UsageError(
                "--member asks the broker, with its own grants: not with --grants or --column."
            )
        explain_member(user, member, grant=name, release=release, as_json=as_json)
        return
    groups = FileDirectory(users).groups(user)
    book = GrantBook.load(folder or settings().grants)
    asked = column_named(column) if column else None
    decisions = book.for_user(groups)
    if name is not None:
        shown = [d for d in decisions if d.grant.name == book.get(name).name]
        others: list[Decision] = []
    else:
        shown = [d for d in decisions if d.code != "wrong-group"]
        others = [d for d in decisions if d.code == "wrong-group"]
    found: dict[str, Any] = {
        "user": user,
        "groups": sorted(groups),
        "grants": [_decision(decision, asked) for decision in shown],
        "others": _families(book, (d.grant for d in others)),
    }
    if asked is not None:
        found["missing"] = _missing(book, decisions, asked)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    click.echo(f"{user} is in {', '.join(sorted(groups)) or 'no group'}.")
    for entry in found["grants"]:
        _print(entry)
    for title, key in (("Grants of other groups", "others"), (f"Who could see {column}", "missing")):
        if found.get(key):
            click.echo(f"\n{title}:")
            for family in found[key]:
                click.echo(f"  {_family_in_words(family)}")


policy.add_command(diff)


@policy.command(epilog="Example:\n\n  workbench policy schema > grant.schema.json")
def schema() -> None:
    """Print the JSON schema of a grant file."""
    click.echo(json.dumps(grant_schema(), indent=1))


def _unsourced(book: GrantBook) -> list[str]:
    """A line for each file of grants that must leave out what no sourced list finds, or what drugs tell of."""
    blocked: dict[str, tuple[Category, ...]] = {}
    by_drug: dict[str, tuple[Category, ...]] = {}
    for grant in book:
        if found := unsourced(grant, synthetic=False):
            blocked[book.file_of(grant)] = found
        if found := hides_by_drug(grant):
            by_drug[book.file_of(grant)] = found
    return [
        f"{name}: blocked on releases of real people, because it must leave out "
        + ", ".join(f"{c} ({CATEGORIES[c].sourcing} list)" for c in categories)
        for name, categories in blocked.items()
    ] + [
        f"{name}: blocked on a release of real people while the ingredient of any drug in it is not known, because it "
        "must leave out "
        + ", ".join(categories)
        + ". NDCs have no sourced list here: bring ndc_ingredients.csv with the sources"
        for name, categories in by_drug.items()
    ]


def _ended(book: GrantBook) -> list[str]:
    ended = {book.file_of(g): g.valid_until for g in book if g.valid_until < today()}
    return [f"{name}: expired on {day.isoformat()}" for name, day in ended.items()]


def _families(book: GrantBook, grants: Iterable[Grant]) -> list[dict[str, Any]]:
    """One entry for each file: how many of these grants it stands for, who holds them, who can give them."""
    families: dict[str, list[Grant]] = defaultdict(list)
    for grant in grants:
        families[book.file_of(grant)].append(grant)
    return [
        {
            "file": name,
            "grants": len(several),
            "level": several[0].level,
            "groups": sorted({group for grant in several for group in grant.groups}),
            "approver": several[0].approver,
        }
        for name, several in families.items()
    ]


def _missing(book: GrantBook, decisions: list[Decision], asked: tuple[Table, Column]) -> list[dict[str, Any]]:
    """The grants that would show a column which no open grant shows; none where one does."""
    showing = [d for d in decisions if column_seen(d.grant, *asked)["seen"] != "no"]
    if any(decision.allowed for decision in showing):
        return []
    return _families(book, (decision.grant for decision in showing))


def _family_in_words(family: dict[str, Any]) -> str:
    groups: list[str] = family["groups"]
    held = ", ".join(groups) if len(groups) <= 3 else f"{groups[0]} … {groups[-1]}"
    count = f" ({family['grants']} grants)" if family["grants"] > 1 else ""
    return f"{family['file']}{count}, level {family['level']}, of {held}; {family['approver']} can give it"


def _decision(decision: Decision, asked: tuple[Table, Column] | None) -> dict[str, Any]:
    grant = decision.grant
    entry: dict[str, Any] = {
        "grant": grant.name,
        "title": grant.title,
        "allowed": decision.allowed,
        "reason": decision.reason,
        "hint": decision.hint,
        "members": members_of(grant),
        "recipient": {"id": grant.recipient_id, "state": grant.recipient.state},
        "level": grant.level,
        "tables": [
            t
            for t in grant.table_names
            if grant.level != Level.AGGREGATE and (grant.level, t) not in NOT_SERVED
        ],
        "columns": {name: sorted(grant.columns_of(name) or ()) for name in grant.columns},
        "sensitive": sensitive_of(grant),
        "categories": [category_fate(grant, category) for category in Category],
        "notice": grant.notice,
        "purposes": list(grant.purposes),
        "channels": list(grant.channels),
        "seen": how_seen(grant),
        "break_glass": grant.break_glass,
        "limits": grant.limits.model_dump(),
        "valid": [grant.valid_from.isoformat(), grant.valid_until.isoformat()],
        "agreement": grant.agreement,
        "approver": grant.approver,
        "law": [
            {"law": row.law, "case": row.case, "citation": row.citation, "status": row.status}
            for row in allowing(grant.facts())
        ],
    }
    if asked is not None:
        entry["column"] = column_seen(grant, *asked)
    return entry


def _print(entry: dict[str, Any]) -> None:
    click.echo(f"\n{'✓' if entry['allowed'] else '✗'} {entry['grant']}: {entry['title']}")
    click.echo(f"  {entry['reason']} {entry['hint']}".rstrip())
    click.echo(f"  {entry['members']}; level {entry['level']}")
    click.echo(f"  {entry['sensitive']}")
    if entry["tables"]:
        click.echo(f"  tables: {', '.join(entry['tables'])}")
    for table, columns in entry["columns"].items():
        click.echo(f"  of {table} only {', '.join(columns)}")
    emergency = "; break-glass in an emergency" if entry["break_glass"] else ""
    click.echo(f"  for {', '.join(entry['purposes'])}; {entry['seen']}{emergency}")
    recipient, limits = entry["recipient"], entry["limits"]
    click.echo(f"  recipient {recipient['id'] or 'not named'}, State {recipient['state'] or 'not named'}")
    click.echo(f"  agreement: {entry['agreement'] or 'none, which this level does not need'}")
    click.echo(
        f"  at most {limits['rows_per_day']:,} rows and {limits['bytes_per_day']:,} bytes a day, "
        f"{limits['concurrent_queries']} queries at once, {limits['seconds_per_query']} seconds each"
    )
    click.echo(f"  law: {'; '.join(row['citation'] for row in entry['law'])} (needs counsel's review)")
    if entry["notice"]:
        click.echo("  every answer carries the notice of 42 CFR 2.32")
    if "column" in entry:
        about = entry["column"]
        click.echo(f"  {about['column']}: {about['seen']}: {about['why']} [{about['source']}]")
