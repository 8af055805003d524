"""`workbench slice`: what slices there are, what they hold and cost; build one ahead, evict one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from workbench.cli.broker import operating, where_is
from workbench.cli.fit import print_fitting

LAKE = click.option(
    "--lake", type=click.Path(path_type=Path), help="Folder of the lake [env: WORKBENCH_LAKE]."
)


@click.group(
    "slice",
    epilog="""\b
Examples:
  workbench slice build --grant demo-analyst
  workbench slice list
""",
)
def slice_() -> None:
    """Build, list, show and evict slices."""


@slice_.command(
    "build",
    epilog="""\b
Example:
  workbench slice build --grant demo-analyst --grant demo-research-sh
""",
)
@click.option("--grant", "grants", multiple=True, required=True, help="A grant; may stand several times.")
@click.option("--release", help="A release of the lake; the latest where this is missing.")
@LAKE
@click.option("--json", "as_json", is_flag=True, help="Print the manifests as JSON.")
def build(grants: tuple[str, ...], release: str | None, lake: Path | None, as_json: bool) -> None:
    """Build the slice of a grant, if it is not there (of an aggregate grant: its tabulation base)."""
    from workbench.broker.budget import cost_table

    built = []
    with operating(lake) as broker:
        for grant in grants:
            answer = broker.ask("POST", "/slices", {"grant": grant, "release": release})
            built.append(answer["slice"])
    entries = {entry.slice.id: entry.shown() for entry in cost_table(where_is(lake).lake)}
    _show_slices([entries[id] for id in built if id in entries], as_json)


@slice_.command(
    "list",
    epilog="""\b
Example:
  workbench slice list --json
""",
)
@LAKE
@click.option("--json", "as_json", is_flag=True, help="Print manifests and costs as JSON.")
def list_(lake: Path | None, as_json: bool) -> None:
    """List the slices of the lake with what they cost, the oldest first.

    "alone" is what an eviction would give back: slices that differ in a few consents share their other files.
    """
    from workbench.broker.budget import cost_table

    _show_slices([entry.shown() for entry in cost_table(where_is(lake).lake)], as_json)


@slice_.command(
    epilog="""\b
Example:
  workbench slice show 3f0c…
"""
)
@click.argument("id")
@LAKE
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def show(id: str, lake: Path | None, as_json: bool) -> None:
    """Show what one slice holds and what was removed from it, and why."""
    from workbench.broker.slices import open_slice

    found = open_slice(where_is(lake).lake, id)
    if as_json:
        click.echo(json.dumps({"id": found.id, **found.manifest}))
        return
    console = Console()
    about = found.manifest
    console.print(
        f"[bold]{found.id}[/bold] {about.get('kind', '')} · {about.get('grant', '')} · {about.get('level', '')}"
    )
    console.print(f"release {about['release']} · fitness {json.dumps(about.get('fitness', {}))}", style="dim")
    numbers = ("rows in", "computed anew", "rows", "columns", "dropped")
    rows = []
    for name, entry in about["tables"].items():
        removed = entry.get("removed") or {}
        counts = [entry.get(count) or 0 for count in ("rows_in", "recomputed", "rows")]
        counts += [len(entry.get(columns) or ()) for columns in ("columns", "dropped")]
        rows.append(
            {"table": name} | {title: f"{count:,}" for title, count in zip(numbers, counts, strict=True)}
            | {"removed": ", ".join(f"{why} {count:,}" for why, count in removed.items()) or "–"}
        )  # fmt: skip
    print_fitting(
        rows,
        ("table", "rows in", "removed", *numbers[1:]),
        right=numbers,
        folded=("removed",),
        less_needed=("computed anew", "columns"),
    )
    if risk := about.get("equivalence_classes"):
        _show_risk(console, risk)


@slice_.command(
    epilog="""\b
Example:
  workbench slice evict 3f0c…
"""
)
@click.argument("id")
@LAKE
def evict(id: str, lake: Path | None) -> None:
    """Take a slice out of the lake; it is built again when somebody asks for it."""
    with operating(lake) as broker:
        broker.ask("DELETE", f"/slices/{id}")
    click.echo(f"Evicted {id}.")


def _show_risk(console: Console, risk: dict[str, Any]) -> None:
    """The re-identification risk figure: how large the groups are that share all quasi-identifiers."""
    sizes = ", ".join(f"{float(q):.0%} {n:,}" for q, n in risk.get("quantiles", {}).items())
    console.print(
        f"Re-identification: {risk['classes']:,} classes by {', '.join(risk['quasi_identifiers'])}. "
        f"Smallest {risk['smallest']:,}; {risk['members_alone']:,} members are alone in theirs; "
        f"{risk.get('share_below_11', 0):.1%} of members are in classes of fewer than 11."
    )
    if sizes:
        console.print(f"A member's class, by share of members: {sizes}.", style="dim")


def _show_slices(found: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([{"id": one["id"], **one["manifest"], "cost": one["cost"]} for one in found]))
        return
    numbers = ("rows", "MB", "alone MB", "built in s", "anew s")
    rows = []
    for one in found:
        cost, about = one["cost"], one["manifest"]
        rows.append(
            {name: about.get(name, "") for name in ("kind", "grant", "level", "release")}
            | {
                "slice": one["id"],
                "rows": f"{cost['rows']:,}",
                "MB": f"{cost['bytes'] / 1e6:,.1f}",
                "alone MB": f"{cost['own_bytes'] / 1e6:,.1f}",
                "built in s": f"{cost['build_seconds']:,.1f}",
                "anew s": f"{cost['rebuild_seconds']:,.1f}",
                "last used": datetime.fromtimestamp(cost["last_used"], UTC).strftime("%Y-%m-%d %H:%M"),
            }
        )
    print_fitting(
        rows,
        ("slice", "kind", "grant", "level", "release", *numbers, "last used"),
        right=numbers,
        less_needed=("built in s", "alone MB", "release", "anew s", "kind", "last used", "level"),
    )
