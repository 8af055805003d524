"""`workbench consent`: members' decisions about who may have their sensitive records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from workbench.cli.broker import operating
from workbench.cli.fit import print_fitting
from workbench.cli.plain import plain
from workbench.errors import WorkbenchError
from workbench.settings import settings

LAKE = click.option(
    "--lake", type=click.Path(path_type=Path), help="Folder of the lake [env: WORKBENCH_LAKE]."
)
EVEN_UNKNOWN = click.option(
    "--even-unknown",
    is_flag=True,
    help="Write down consents of members whom the release, or for recipients whom the grants, do not know yet.",
)
BATCH = 5_000
"""Decisions sent at once; a file is checked as a whole before the first are written."""


@click.group(
    epilog="""\b
Examples:
  workbench consent give 90000012A --recipient sierra-vista --scope part2 --source form-2026-118
  workbench consent list --recipient sierra-vista
""",
)
def consent() -> None:
    """Give, revoke, list and import members' consents."""


@consent.command(
    epilog="""\b
Example:
  workbench consent give 90000012A --recipient sierra-vista --scope part2 --source form-2026-118
"""
)
@click.argument("member")
@click.option("--recipient", required=True, help="The organisation that may have the records.")
@click.option("--scope", default="all", show_default=True, help="A sensitive category, or all of them.")
@click.option("--source", required=True, help="Reference of the signed form.")
@click.option("--from", "start", metavar="DATE", help="First day; today where this is missing.")
@click.option("--until", metavar="DATE", help="Last day; until revoked where this is missing.")
@EVEN_UNKNOWN
@LAKE
def give(
    member: str, recipient: str, scope: str, source: str, start: str | None, until: str | None,
    even_unknown: bool, lake: Path | None,
) -> None:  # fmt: skip
    """Write down that a member consents. Where nobody knows the member or the recipient nothing is written."""
    said = {"member_id": member, "recipient": recipient, "scope": scope, "source": source}
    _send(lake, [{**said, "from": start, "until": until}], known_only=not even_unknown)


@consent.command(
    epilog="""\b
Example:
  workbench consent revoke 90000012A --recipient sierra-vista --source letter-2026-07-01
"""
)
@click.argument("member")
@click.option("--recipient", required=True, help="The organisation that may not have the records any more.")
@click.option("--scope", default="all", show_default=True, help="A sensitive category, or all of them.")
@click.option("--source", required=True, help="Reference of the revocation.")
@LAKE
def revoke(member: str, recipient: str, scope: str, source: str, lake: Path | None) -> None:
    """Write down that a member consents no more. Answers that rest on the consent are cut at once."""
    said = {"member_id": member, "recipient": recipient, "scope": scope, "source": source}
    _send(lake, [{**said, "revoked": "yes"}])


@consent.command(
    "import",
    epilog="""\b
Example:
  workbench consent import decisions.csv
""",
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@EVEN_UNKNOWN
@LAKE
def import_(file: Path, even_unknown: bool, lake: Path | None) -> None:
    """Read decisions from a CSV file: member_id, recipient, scope, from, until, revoked, decided_at, source.

    One consent of an unknown member or for an unknown recipient refuses all consents of the file; what it revokes is
    written down all the same.
    """
    from workbench.broker.consent import read_decisions

    read = read_decisions(file)
    _send(lake, [decision.said() for decision in read], known_only=not even_unknown)


@consent.command(
    "list",
    epilog="""\b
Example:
  workbench consent list --recipient sierra-vista
""",
)
@click.option("--member", help="Of one member only.")
@click.option("--recipient", help="About one recipient only.")
@LAKE
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(member: str | None, recipient: str | None, lake: Path | None, as_json: bool) -> None:
    """List the decisions in the order in which they were written down, and which of them count."""
    asked = {k: v for k, v in (("member", member), ("recipient", recipient)) if v}
    with operating(lake) as broker:
        pages = _pages(broker, asked)
        if as_json:
            said = "["
            for number, one in enumerate(one for page in pages for one in page):
                click.echo(("[" if number == 0 else ",\n ") + json.dumps(one), nl=False)
                said = ""
            click.echo(f"{said}]")
            return
        for page in pages:
            _print(page)


def _pages(broker: Any, asked: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """The register page by page, at least one, so that it never stands in memory as a whole."""
    while True:
        answer = broker.ask("GET", f"/consents?{urlencode(asked)}")
        yield answer["consents"]
        if answer["after"] is None:
            return
        asked = {**asked, "after": answer["after"]}


def _print(page: list[dict[str, Any]]) -> None:
    rows = [
        {
            **one,
            "member": one["member_id"],
            "revoked": _yes(one["revoked"]),
            "counts": _yes(one["counts"]),
            "decided (UTC)": one["decided_at"][:16].replace("T", " "),
        }
        for one in page
    ]
    names = ("member", "recipient", "scope", "from", "until", "revoked", "counts", "decided (UTC)", "source")
    print_fitting(rows, names, folded=("source",), less_needed=("decided (UTC)", "source", "until", "from"))


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _send(lake: Path | None, decisions: list[dict[str, Any]], *, known_only: bool = False) -> None:
    unknown = 0
    with operating(lake) as broker:
        if known_only:
            _check(broker, decisions)
        for answer in _posted(broker, "/consents", decisions):
            unknown += int(answer["members_not_in_release"])
    click.echo(f"{len(decisions)} decision{'' if len(decisions) == 1 else 's'} written down.")
    if unknown:
        click.echo(
            f"warning: {unknown} of the members are not in the latest release; check the ids.", err=True
        )
    _warn_of_strangers({str(one["recipient"]) for one in decisions})


def _check(broker: Any, decisions: list[dict[str, Any]]) -> None:
    """Refuses a file with consents of strangers as a whole; what it revokes is written down all the same."""
    from workbench.broker.consent import STRANGERS

    try:
        for _ in _posted(broker, "/consents/check", decisions):
            pass
    except WorkbenchError as refusal:
        if refusal.code != STRANGERS:
            raise
        revoked = [one for one in decisions if one.get("revoked") == "yes"]
        for _ in _posted(broker, "/consents", revoked):
            pass
        if revoked:
            click.echo(f"{len(revoked)} of the decisions revoke: these alone are written down.", err=True)
        raise


def _posted(broker: Any, path: str, decisions: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The answers to the decisions, sent in batches."""
    for first in range(0, len(decisions), BATCH):
        yield broker.ask("POST", path, {"decisions": decisions[first : first + BATCH]})


def _warn_of_strangers(recipients: set[str]) -> None:
    """A decision about a recipient whom no grant names hides and shows nothing: most often a slip of the pen."""
    from workbench.broker.grants import GrantBook, InvalidGrants

    try:
        known = {grant.recipient_id for grant in GrantBook.load(settings().grants)}
    except InvalidGrants:
        return
    for name in sorted(recipients - known)[:20]:
        click.echo(
            f"warning: no grant has the recipient {plain(name)}; the decision changes nothing.", err=True
        )
