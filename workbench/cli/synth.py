"""`workbench synth`: a synthetic Medi-Cal as source files."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(
    epilog="""\b
Examples:
  workbench synth --members 20000 --seed 1 var/sources
  workbench synth --members 500 --json /tmp/sources
"""
)
@click.option(
    "--members", type=click.IntRange(1), default=20_000, show_default=True, help="How many members."
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Same seed, same bytes.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
def synth(members: int, seed: int, as_json: bool, out: Path) -> None:
    """Write a synthetic Medi-Cal as source files into the folder OUT.

    APCD-CDL eligibility, medical, pharmacy and provider files, and small CSV files, as agencies would send them:
    2023 to 2025, all 58 counties, four plans, with repeated, superseded, void, refused and broken records among
    them. Nobody in it exists. An earlier synthetic drop in OUT is replaced, other files never.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from workbench.lake.synthetic import write

    columns = (TextColumn("members"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("members", total=members)
        summary = write(out, members, seed, lambda done, total: bar.update(task, completed=done, total=total))
    if as_json:
        click.echo(json.dumps(summary.as_json(), indent=2))
        return
    claims = summary.medical["claims"] + summary.pharmacy["claims"]
    click.echo(
        f"{summary.members:,} synthetic members, {summary.eligibility_records:,} eligibility records, "
        f"{claims:,} claims in {summary.files} files ({summary.bytes / 1e6:,.0f} MB), {summary.seconds:.1f} s"
    )
