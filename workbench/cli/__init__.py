"""`workbench …`: one program. Each group of commands is a module of this package, imported when it is called."""

from __future__ import annotations

import importlib
import sys

import click

from workbench.errors import WorkbenchError

# command -> (module, attribute, one line for --help)
COMMANDS = {
    "synth": ("workbench.cli.synth", "synth", "Write a synthetic Medi-Cal as source files."),
    "ingest": ("workbench.cli.lake", "ingest", "Check source files before a release is built."),
    "release": ("workbench.cli.lake", "release", "Build, list and show releases of the lake."),
    "slice": ("workbench.cli.slices", "slice_", "Build, list, show and evict slices."),
    "consent": ("workbench.cli.consent", "consent", "Give, revoke, list and import members' consents."),
    "query": ("workbench.cli.broker", "query", "Ask a slice in SQL, through gate, worker and audit."),
    "policy": ("workbench.cli.policy", "policy", "Check the grants and explain what they permit."),
    "measures": ("workbench.cli.measures", "measures", "List, run and test the quality measures."),
    "report": ("workbench.cli.report", "report", "List and run the standard reports."),
    "client": ("workbench.cli.client", "client", "Register systems outside the Hub for the channels."),
    "audit": ("workbench.cli.audit", "audit", "Verify and show the audit log."),
    "isolation-report": (
        "workbench.cli.isolation",
        "isolation_report",
        "Try to leave the sandbox; print what stopped each attempt.",
    ),
    "up": ("workbench.cli.up", "up", "Start the Hub with broker and scheduler (what `make demo` runs)."),
}


class _Program(click.Group):
    """A group whose commands are imported only when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


@click.command(
    cls=_Program,
    epilog="""\b
Examples:
  workbench synth --members 20000 --seed 1 var/sources
  workbench release build --sources var/sources
  workbench query --grant demo-analyst "select count(*) from member"
  workbench measures deck my_cases.json
  workbench up
""",
)
@click.version_option(package_name="workbench")
def program() -> None:
    """Workbench: population health notebooks, reports and apps on governed Medi-Cal data."""


def main() -> None:
    """Runs the program; a refusal ends in one clear line and exit code 1."""
    try:
        program(prog_name="workbench")
    except WorkbenchError as error:
        click.echo(f"workbench: {error.reason}", err=True)
        if error.hint:
            click.echo(f"  → {error.hint}", err=True)
        sys.exit(1)
