"""`workbench isolation-report`: run inside a sandbox, it tries to get out and prints what stopped each attempt."""

from __future__ import annotations

import json
import sys

import click

from workbench.cli.isolation_kernel import Escaped
from workbench.cli.isolation_probes import PROBES, inside
from workbench.errors import WorkbenchError


class NotInside(WorkbenchError):
    """The command runs in no sandbox, so there is nothing to report on."""

    code = "not-inside-a-sandbox"


@click.command(
    "isolation-report",
    epilog="""\b
Examples (in a terminal or notebook that the Hub started):
  workbench isolation-report
  workbench isolation-report --json
""",
)
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for machines.")
def isolation_report(as_json: bool) -> None:
    """Try to leave the sandbox in every way we know; print what stopped each attempt.

    Exit 0 only when every attempt was stopped. The attempts are harmless where they succeed.
    """
    if not inside():
        raise NotInside(
            "This is not a sandbox: nothing here stops anything, and nothing was tried.",
            hint="Run it in a terminal or notebook that the Hub started.",
        )
    rows = [_attempt(*probe) for probe in PROBES]
    out = [row for row in rows if not row["stopped"]]
    if as_json:
        click.echo(json.dumps({"stopped": not out, "attempts": rows}, indent=1))
    else:
        width = max(len(str(row["tried"])) for row in rows)
        for row in rows:
            mark = "stopped" if row["stopped"] else "GOT OUT"
            click.echo(f"{mark}  {row['tried']:{width}}  {row['by']}")
        click.echo(f"\n{len(rows) - len(out)} of {len(rows)} attempts were stopped.")
    if out:
        sys.exit(1)


def _attempt(tried: str, layer: str, attempt: object) -> dict[str, object]:
    assert callable(attempt)
    try:
        attempt()
    except Escaped as escaped:
        return {"tried": tried, "stopped": False, "by": str(escaped)}
    except OSError as error:
        return {"tried": tried, "stopped": True, "by": f"{layer} ({error.strerror or error})"}
    return {"tried": tried, "stopped": True, "by": layer}
