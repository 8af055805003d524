"""Which human a system outside the Hub asks for: told by the system, and kept in the log beside its own name.

The broker knows the system alone; whom it names is the system's word, as its agreement binds it to tell. The audit's column
`server` has it: `api:NAME`.
"""

from __future__ import annotations

import re
from typing import Any

from workbench.broker.http import BadRequest

CLIENT = "client:"
"""How the user of a system outside the Hub begins."""
REQUESTER_HEADER = "X-Workbench-Requester"
SHORTEST, LONGEST = 2, 100
"""Characters of a requester."""
_TEXT = re.compile("[!-~][ -~]*[!-~]")


def named(server: str, requester: str | None) -> str:
    """The audit's `server` for a listener and whom its client asks for, if it says so. Raises BadRequest."""
    if requester is None:
        return server
    if not SHORTEST <= len(requester) <= LONGEST or not _TEXT.fullmatch(requester):
        raise BadRequest(
            f"The requester is a text of {SHORTEST} to {LONGEST} printable characters of ASCII.",
            hint="Name the human who asks: her account in your system, or her NPI.",
        )
    return f"{server}:{requester}"


def requester_of(body: dict[str, Any]) -> str:
    """Takes `requester` out of a request that must have one. Raises BadRequest."""
    found = body.pop("requester", None)
    if not isinstance(found, str):
        raise BadRequest(
            "requester is missing: a system names the human for whom it breaks the glass.",
            hint="Her account in your system, or her NPI; a text.",
        )
    return found
