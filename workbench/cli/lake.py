"""`workbench ingest …` and `workbench release …`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workbench.cli.plain import plain
from workbench.settings import settings

if TYPE_CHECKING:
    from rich.table import Table

    from workbench.lake.layouts import Progress
    from workbench.lake.release import Release

LAYOUTS = click.Choice(["native", "tuva", "desynpuf"])
_LAKE = click.option(
    "--lake",
    type=click.Path(file_okay=False, path_type=Path),
    help="The lake's folder. [setting: WORKBENCH_LAKE]",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for machines.")
_LAYOUT = click.option(
    "--layout", type=LAYOUTS, default="native", show_default=True, help="How the files are laid out."
)


@click.group(
    epilog="""\b
Examples:
  workbench ingest check var/sources
""",
)
def ingest() -> None:
    """Check source files before a release is built."""


@ingest.command(
    epilog="""\b
Examples:
  workbench ingest check var/sources
  workbench ingest check --layout tuva drop/tuva
  workbench ingest check --json var/sources | jq '.files[] | select(.set_aside != {})'
"""
)
@click.argument("path", type=click.Path(path_type=Path))
@_LAYOUT
@_JSON
def check(path: Path, layout: str, as_json: bool) -> None:
    """Read the files of a folder, or one of them, as a build would, and keep nothing.

    Prints for each file its rows, how many would be kept, and how many set aside for which reason. Exit 1 if a file
    is refused as a whole.
    """
    from workbench.lake.build import check_sources

    with _progress(as_json) as progress:
        accounts, refused = check_sources(path, layout_name=layout, progress=progress)
    files = [
        {"name": a.name, "kind": a.kind, "rows": a.rows, "kept": a.kept, "set_aside": a.set_aside}
        for a in accounts
    ]
    if as_json:
        click.echo(json.dumps({"files": files, "refused": [error.as_json() for error in refused]}, indent=1))
    else:
        _print(_accounting(files, "would keep"))
        for error in refused:
            click.echo(f"refused: {error.reason}\n  → {error.hint}", err=True)
    if refused:
        sys.exit(1)


@click.group(
    epilog="""\b
Examples:
  workbench release build --sources var/sources
  workbench release list
""",
)
def release() -> None:
    """Build, list and show releases of the lake."""


@release.command(
    epilog="""\b
Examples:
  workbench release build --sources var/sources
  workbench release build --sources drop/tuva --layout tuva --lake /srv/lake --as-of 2023-12-31
"""
)
@click.option("--sources", type=click.Path(path_type=Path), required=True, help="The folder of source files.")
@_LAYOUT
@_LAKE
@click.option(
    "--as-of",
    type=click.DateTime(["%Y-%m-%d"]),
    help="The day on which the data stand. [default: last day of the month of the latest service, fill or paid date]",
)
@_JSON
def build(sources: Path, layout: str, lake: Path | None, as_of: datetime | None, as_json: bool) -> None:
    """Build a release from a folder of source files.

    The same sources, code and code lists give the release that is there already. A file that cannot be read refuses
    the build; a build that fails leaves the lake as it was.
    """
    from workbench.lake.release import build as build_release

    day: date | None = as_of.date() if as_of else None
    with _progress(as_json) as progress:
        built = build_release(sources, lake or settings().lake, layout=layout, as_of=day, progress=progress)
    _show(built, as_json)


@release.command("list", epilog="\b\nExample:\n  workbench release list --json")
@_LAKE
@_JSON
def list_(lake: Path | None, as_json: bool) -> None:
    """List the releases of the lake, the latest last."""
    from workbench.lake.release import list_releases

    releases = list_releases(lake or settings().lake)
    if as_json:
        click.echo(json.dumps([_summary(r) for r in releases], indent=1))
        return
    if not releases:
        click.echo("The lake has no release. Run `workbench release build --sources DIR`.", err=True)
        return
    table = _table("release", "as of", "complete through", "layout", ">members", ">claims", "synthetic")
    for r in releases:
        s = _summary(r)
        table.add_row(
            r.id,
            s["as_of"],
            s["complete_through"],
            s["layout"],
            f"{s['members']:,}",
            f"{s['claims']:,}",
            "yes" if r.synthetic else "",
        )
    _print(table)


@release.command(
    epilog="\b\nExamples:\n  workbench release show\n  workbench release show 20260131-0123456789ab --json"
)
@click.argument("release_id", required=False)
@_LAKE
@_JSON
def show(release_id: str | None, lake: Path | None, as_json: bool) -> None:
    """Show a release (without an id the latest): what it is made from, its tables, and the account of its sources."""
    from workbench.lake.release import open_release

    _show(open_release(lake or settings().lake, release_id), as_json)


def _show(r: Release, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(r.manifest, indent=1))
        return
    m = r.manifest
    click.echo(f"release {r.id}{'  SYNTHETIC DATA' if r.synthetic else ''}")
    click.echo(
        f"as of {m['as_of']}, complete through {m['complete_through']}, layout {m['layout']}, code {m['code_version']}"
    )
    tables = _table("table", ">rows", ">parts")
    for name in r.tables():
        tables.add_row(name, f"{m['tables'][name]['rows']:,}", str(len(m["tables"][name]["parts"])))
    _print(tables)
    _print(_accounting(m["sources"], "kept"))


def _summary(r: Release) -> dict[str, Any]:
    m = r.manifest
    rows = {name: table["rows"] for name, table in m["tables"].items()}
    return {
        "id": r.id,
        "as_of": m["as_of"],
        "complete_through": m["complete_through"],
        "layout": m["layout"],
        "synthetic": r.synthetic,
        "members": rows.get("member", 0),
        "claims": rows.get("medical_claim", 0) + rows.get("pharmacy_claim", 0),
    }


def _accounting(files: list[dict[str, Any]], kept: str) -> Table:
    """One line per file: rows = kept + set aside, with the reasons."""
    table = _table("source", ">rows", f">{kept}", ">set aside", "reasons")
    for f in files:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in f["set_aside"].items())
        aside = sum(f["set_aside"].values())
        table.add_row(plain(f["name"]), f"{f['rows']:,}", f"{f['kept']:,}", f"{aside:,}", plain(reasons))
    totals = [sum(f["rows"] for f in files), sum(f["kept"] for f in files)]
    table.add_section()
    table.add_row("all", f"{totals[0]:,}", f"{totals[1]:,}", f"{totals[0] - totals[1]:,}", "")
    return table


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(
            column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    return table


def _print(table: Table) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(table)


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress]:
    """A bar on the error stream where that is a terminal; nothing for machines."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda what, done, total: None
        return
    columns = (TextColumn("{task.description:44}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("start", total=1)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
