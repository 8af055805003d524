"""The auditors' page: who asked what, and when, as the broker's log has it. It names no member and shows no row."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from tornado.web import authenticated

from workbench.errors import WorkbenchError
from workbench.reports.control import Control
from workbench.reports.site import AUDITORS, LIST_POLICY, Page

AUDIT_POLICY = LIST_POLICY.replace("form-action 'none'", "form-action 'self'")
"""As the list of reports, and one form: the filters of this page."""
LIMITS = (200, 1000, 5000)
"""How many of the newest events may be shown."""
NAME = re.compile(r"[\w:@.+-]{1,128}")
"""What a user or a grant may be called in a filter."""


class BadFilter(WorkbenchError):
    """A filter that cannot be."""

    code = "bad-filter"
    http_status = 400


class NotAnAuditor(WorkbenchError):
    """The log is open to auditors only."""

    code = "not-an-auditor"
    http_status = 403


@dataclass(frozen=True)
class Line:
    """One event as the page shows it."""

    number: int
    at: str
    event: str
    user: str
    grant: str
    purpose: str
    channel: str
    outcome: str
    amount: str
    what: str


class AuditLog(Page):
    """`/audit`: the newest events, for members of the group of auditors."""

    @authenticated  # type: ignore[untyped-decorator]
    async def get(self) -> None:
        user = str(self.current_user["name"])
        try:
            if AUDITORS not in self.groups:
                raise NotAnAuditor(
                    "The audit log is for auditors.", hint=f"The group {AUDITORS} gives access to it."
                )
            wanted = filters({name: self.get_query_argument(name, "") for name in FILTERS})
            found = await asyncio.to_thread(Control(self.here).audit_events, wanted)
        except WorkbenchError as error:
            self._written(user, allowed=False, code=error.code)
            self.say(error, "The audit log cannot be shown")
            return
        self._written(user, allowed=True, code="")
        self.set_header("Content-Security-Policy", AUDIT_POLICY)
        self.page(
            "audit.html",
            title="Audit log",
            lines=[line(event) for event in reversed(found)],
            wanted={name: str(wanted.get(name, "")) for name in FILTERS},
            limits=LIMITS,
            link=lambda **change: "?" + urlencode({**wanted, **change}),
        )

    def _written(self, user: str, *, allowed: bool, code: str) -> None:
        self.schedules.history.viewed(
            user=user, grant="", report="audit-log", key="", allowed=allowed, code=code
        )


FILTERS = ("user", "grant", "since", "limit")


def filters(given: dict[str, str]) -> dict[str, Any]:
    """The filters of a request, checked. Raises BadFilter, which names the one that cannot be."""
    wanted: dict[str, Any] = {"limit": LIMITS[0]}
    for name in ("user", "grant"):
        value = given[name].strip()
        if value and not NAME.fullmatch(value):
            raise BadFilter(f"That cannot be the name of a {name}.", hint="Leave the field empty for all.")
        if value:
            wanted[name] = value
    since = given["since"].strip()
    if since:
        try:
            wanted["since"] = datetime.fromisoformat(since).isoformat()
        except ValueError:
            raise BadFilter(
                "The beginning is not a day or a time.",
                hint="Write it as 2026-11-22 or 2026-11-22T08:30 (UTC).",
            ) from None
    limit = given["limit"].strip()
    if limit:
        if not limit.isdecimal() or int(limit) not in LIMITS:
            raise BadFilter(
                "That many events cannot be shown at once.", hint=f"Possible: {', '.join(map(str, LIMITS))}."
            )
        wanted["limit"] = int(limit)
    return wanted


def line(event: dict[str, Any]) -> Line:
    """One event in words; a statement stands as the broker keeps it, its literals as keyed marks."""

    def said(name: str) -> str:
        return str(event.get(name) or "")

    rows = event.get("rows")
    amount = f"{rows:,} row{'' if rows == 1 else 's'}" if isinstance(rows, int) else ""
    what = " · ".join(dict.fromkeys(filter(None, (said("statement"), said("reason"), said("detail")))))
    return Line(
        number=int(event["seq"]),
        at=said("at")[:19].replace("T", " "),
        event=said("event"),
        user=said("user"),
        grant=said("grant"),
        purpose=said("purpose").replace("_", " "),
        channel=said("channel"),
        outcome=" · ".join(filter(None, (said("outcome"), said("code")))),
        amount=amount,
        what=what,
    )
