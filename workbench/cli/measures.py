"""`workbench measures`: list, run and test the quality measures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

EPILOG_DECK = """\b
Example:
  workbench measures deck tests/decks/fum.json
"""
EPILOG_RUN = """\b
Examples:
  workbench measures run FUM --grant demo-analyst --year 2025 --by county
  workbench measures run FUM --grant demo-public --year 2025 --by race --json
"""
EPILOG_LIST = """\b
Example:
  workbench measures list --json
"""


@click.group(
    epilog="""\b
Examples:
  workbench measures deck tests/decks/fum.json
  workbench measures run FUM --grant demo-analyst --year 2025 --by county
  workbench measures run FUM --grant demo-public --year 2025 --by race --json
""",
)
def measures() -> None:
    """List, run and test the quality measures."""


@measures.command("list", epilog=EPILOG_LIST)
@click.option("--json", "as_json", is_flag=True, help="As JSON, one object a measure.")
def list_(as_json: bool) -> None:
    """Every measure with its numerators and the years for which its rule is known."""
    from workbench.lib.measures import MEASURES

    rows = [
        {
            "measure": m.name,
            "title": m.title,
            "numerators": list(m.numerators),
            "years": [m.years[0], m.years[-1]],
            "precision": m.precision,
        }
        for m in MEASURES.values()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        numerators = ", ".join(map(str, row["numerators"]))
        click.echo(f"{row['measure']:6} {row['title']} ({numerators}; {row['years'][0]}–{row['years'][1]})")


@measures.command("deck", epilog=EPILOG_DECK)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="As JSON: passed, failed and the cases.")
def deck_(files: tuple[Path, ...], as_json: bool) -> None:
    """Judge FILES of hand-made cases: one line a case, then `N passed, N failed`. Exits 0 only if none failed."""
    from workbench.lake import deck

    results = deck.run([deck.read(file) for file in files])
    passed = sum(result.passed for result in results)
    failed = len(results) - passed
    if as_json:
        cases: list[dict[str, Any]] = [
            {"case": r.case, "why": r.why, "passed": r.passed, "expected": r.expected, "got": r.got}
            for r in results
        ]
        click.echo(json.dumps({"passed": passed, "failed": failed, "cases": cases}, indent=2))
    else:
        for result in results:
            click.echo(result.line())
        click.echo(f"{passed} passed, {failed} failed")
    if failed:
        raise click.exceptions.Exit(1)


@measures.command("run", epilog=EPILOG_RUN)
@click.argument("name")
@click.option("--grant", required=True, help="The grant under which to ask.")
@click.option("--year", required=True, type=int, help="The measurement year.")
@click.option("--by", default=None, help="county, race, sex, age_group, month or plan.")
@click.option("--release", default=None, help="A release of the lake; the latest where this is missing.")
@click.option("--lake", type=click.Path(path_type=Path), help="Folder of the lake [env: WORKBENCH_LAKE].")
@click.option(
    "--visible-only", is_flag=True, help="Compute on what the grant sees, though it is not the true rate."
)
@click.option("--json", "as_json", is_flag=True, help="The rates as JSON.")
def run(
    name: str, grant: str, year: int, by: str | None, release: str | None, lake: Path | None,
    visible_only: bool, as_json: bool,
) -> None:  # fmt: skip
    """The rates of measure NAME under a grant, through gate, worker and audit, with their verdict."""
    from workbench.broker.operator import operator
    from workbench.cli.measures_run import from_rows, from_tables
    from workbench.cli.progress import Lines
    from workbench.lib.measures import measure
    from workbench.settings import settings

    chosen = measure(name)
    where = settings() if lake is None else dataclasses.replace(settings(), lake=lake)
    with operator(where, Lines()) as broker:
        built = broker.ask("POST", "/slices", {"grant": grant, "release": release})
        manifest = built["manifest"]
        address = {"grant": grant, "release": release}
        if manifest["kind"] == "tabulation":
            answer = from_tables(broker, chosen, year, by, address)
        else:
            answer = from_rows(broker, chosen, year, by, address, manifest, visible_only)
    if as_json:
        click.echo(json.dumps(answer.as_json(), default=str))
    else:
        click.echo(answer.text())
