"""`workbench client`: systems outside the Hub that ask the broker's second listener."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from workbench.broker.operator import operator
from workbench.cli.progress import Lines
from workbench.settings import settings

WIDE = 140


@click.group(
    epilog="""\b
Examples:
  workbench client add sierra-care --grant mcp-care-sierra-vista --purpose treatment
  workbench client add sierra-feed --grant mcp-feed-sierra-vista --purpose operations --days 90 --json
  workbench client list --json
""",
)
def client() -> None:
    """Register systems outside the Hub: LMR API, Risk API, plan data feed, tabulate."""


@client.command(
    epilog="""\b
Examples:
  workbench client add sierra-care --grant mcp-care-sierra-vista --purpose treatment
  workbench client add sierra-feed --grant mcp-feed-sierra-vista --purpose operations --days 90 --json
"""
)
@click.argument("name")
@click.option("--grant", required=True, help="The one grant that the client has.")
@click.option("--purpose", required=True, help="The purpose of use, one of the grant's.")
@click.option(
    "--days", type=click.IntRange(1, 730), default=365, show_default=True, help="How long it may come."
)
@click.option("--json", "as_json", is_flag=True, help="Print the client as JSON.")
def add(name: str, grant: str, purpose: str, days: int, as_json: bool) -> None:
    """Register the client NAME and print its secret, this once."""
    body = {"name": name, "grant": grant, "purpose": purpose, "days": days}
    with operator(settings(), Lines()) as broker:
        made = broker.ask("POST", "/clients", body)
    if as_json:
        click.echo(json.dumps(made))
        return
    click.echo(f"client_id      {made['client_id']}\nclient_secret  {made['client_secret']}")
    click.echo(
        f"It has grant {made['grant']} for {made['purpose']} until {made['expires'][:10]}. "
        "The secret is kept as a hash and is not shown again.",
        err=True,
    )


@client.command(
    "list",
    epilog="""\b
Example:
  workbench client list --json
""",
)
@click.option("--json", "as_json", is_flag=True, help="Print the clients as JSON.")
def list_(as_json: bool) -> None:
    """List every client that there ever was."""
    with operator(settings(), Lines()) as broker:
        found: list[dict[str, Any]] = broker.ask("GET", "/clients")["clients"]
    if as_json:
        click.echo(json.dumps(found))
        return
    grid = Table("client", "grant", "purpose", "created", "expires", "state")
    for one in found:
        state = "open" if one["stands"] else "revoked" if one["revoked"] else "expired"
        grid.add_row(
            one["name"], one["grant"], one["purpose"], one["created"][:10], one["expires"][:10], state
        )
    console = Console()
    (console if console.is_terminal else Console(width=WIDE)).print(grid)


@client.command(
    epilog="""\b
Example:
  workbench client revoke sierra-care
"""
)
@click.argument("name")
def revoke(name: str) -> None:
    """End the client NAME and its tokens, at once and for good."""
    with operator(settings(), Lines()) as broker:
        broker.ask("DELETE", f"/clients/{name}")
    click.echo(f"{name} is revoked.")
