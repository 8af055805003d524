"""`workbench report …`: the standard reports of the catalogue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from workbench.reports.catalogue import Catalogue, Report
from workbench.settings import settings


@click.group(
    epilog="""\b
Examples:
  workbench report list
  workbench report run plan-quality --org sierra-vista --year 2025
  workbench report history
"""
)
def report() -> None:
    """List and run the standard reports."""


@report.command("list", epilog="\b\nExample:\n  workbench report list --json\n")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def list_(as_json: bool) -> None:
    """The reports of the catalogue: parameters, grant, owners, schedule."""
    reports = Catalogue.load(settings().reports).reports.values()
    if as_json:
        click.echo(json.dumps([one.model_dump(mode="json") for one in reports], indent=1))
        return
    if not reports:
        click.echo(
            "The catalogue has no report. WORKBENCH_REPORTS names its folder; docs/reports.md tells how to write one."
        )
    for one in reports:
        click.echo(f"{one.name}  {one.title}\n  {one.about}")
        for name, parameter in one.parameters.items():
            click.echo(f"  --{name}  {parameter.about}: {parameter.allowed} (default {parameter.default})")
        owners = ", ".join(f"{org}: {owner}" for org, owner in one.owners.items())
        click.echo(f"  for each {one.organisations}, under grant {one.grant}; owners {owners or 'none'}")
        for run in one.schedule.runs if one.schedule else ():
            click.echo(f"  scheduled for {run.organisation}, {one.schedule.words if one.schedule else ''}")


class _Runs(click.Group):
    """One command a report, with the options that its parameters say."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(Catalogue.load(settings().reports).reports)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _command(Catalogue.load(settings().reports).get(cmd_name))


@report.command(
    "run", cls=_Runs, epilog="\b\nExample:\n  workbench report run plan-quality --org sierra-vista\n"
)
def run() -> None:
    """Run a report for one organisation, through the broker, in a sandbox of its own."""


def _command(one: Report) -> click.Command:
    parameters = [
        click.Option([f"--{name.replace('_', '-')}", name], metavar=name.upper(), help=_help(parameter))
        for name, parameter in one.parameters.items()
    ]
    return click.Command(
        one.name,
        callback=lambda **given: _run(one, **given),
        help=f"{one.title}. {one.about}",
        epilog=f"\b\nExample:\n  workbench report run {one.name} --org {next(iter(one.owners), 'ORG')}\n",
        params=[
            click.Option(["--org"], required=True, help=f"The organisation ({one.organisations}) it is for."),
            *parameters,
            click.Option(
                ["--as", "user"], metavar="USER", help="Run for this holder of the grant, not the owner."
            ),
            click.Option(
                ["--out"],
                type=click.Path(path_type=Path, file_okay=False),
                help="Folder to keep reports in; LAKE/reports by default.",
            ),
            click.Option(["--json", "as_json"], is_flag=True, help="Machine-readable."),
            click.Option(["--quiet"], is_flag=True, help="No progress on standard error."),
        ],
    )


def _help(parameter: Any) -> str:
    return f"{parameter.about[:1].upper()}{parameter.about[1:]}: {parameter.allowed}; {parameter.default} by default."


def _run(
    one: Report,
    *,
    org: str,
    user: str | None,
    out: Path | None,
    as_json: bool,
    quiet: bool,
    **given: str | None,
) -> None:
    from workbench.reports import run as runner
    from workbench.reports.store import HTML, Store

    here = settings()
    wanted = runner.order(here, one.name, org, {k: v for k, v in given.items() if v is not None}, owner=user)
    output = runner.run(
        here,
        wanted,
        store=Store(out.absolute()) if out else None,
        progress=(lambda _: None) if quiet else (lambda line: click.echo(line, err=True)),
    )
    if as_json:
        click.echo(json.dumps({"folder": str(output.folder), **output.manifest}, indent=1))
        return
    click.echo(f"{output.folder / HTML}")
    stamp = output.manifest["stamp"]
    click.echo(f"release {stamp['release']}, slice {stamp['slice']}, {stamp['seconds']} s in the sandbox")


@report.command(epilog="\b\nExample:\n  workbench report history --json\n")
@click.option("--limit", default=20, show_default=True, help="Rows, newest first.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def history(limit: int, as_json: bool) -> None:
    """What ran, failed, was missed or stopped, newest first."""
    from workbench.reports.history import History

    entries = History(settings().state).entries(limit=limit)
    if as_json:
        click.echo(json.dumps([vars(entry) for entry in entries], indent=1))
        return
    for entry in entries:
        words = entry.reason or entry.note or ""
        click.echo(f"{entry.began}  {entry.status:9}  {entry.report} {entry.key}  {words}".rstrip())
