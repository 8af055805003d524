"""The auditors' pages: the log, the review queue with its sign-offs, and who saw a member. They show no row of data.

The broker asks the Hub whether the reader is an auditor, and records each look before it answers.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from tornado.web import authenticated

from workbench.broker.directory import AUDITORS
from workbench.errors import WorkbenchError
from workbench.lake.release import list_releases
from workbench.reports.audit_plot import volume
from workbench.reports.control import Control
from workbench.reports.site import LIST_POLICY, Page

AUDIT_POLICY = LIST_POLICY.replace("form-action 'none'", "form-action 'self'")
"""As the list of reports, and forms: filters, sign-offs and the question for a member."""
LIMITS = (200, 1000, 5000)
"""How many of the newest events may be shown."""
NAME = re.compile(r"[\w:@.+-]{1,128}")
"""What a user, a grant or a kind of event may be called in a filter."""
EVENTS = (
    "admitted", "ended", "refused", "bound", "unbound", "binding-refused", "break-glass", "break-glass-read",
    "break-glass-ended", "consent-given", "consent-revoked", "report-viewed", "report-refused", "report-ran",
    "slice-built", "audit-read", "audit-who-saw", "audit-refused", "review-signed", "audit-exported", "audit-pruned",
    "audit-damaged",
)  # fmt: skip
"""The kinds that the filter suggests; others can be typed."""
ITEM = re.compile(r"[A-Z][0-9]{1,15}")


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


class AuditPage(Page):
    """What the pages share: only for auditors, every look in the log and in the history of the pages."""

    async def show(self, template: str, title: str, **facts: Any) -> None:
        """Answers with a page of the log."""
        self.set_header("Content-Security-Policy", AUDIT_POLICY)
        self.page(template, title=title, tab=template, forgery=self.xsrf_form_html(), **facts)

    async def ask(self, path: str, **how: Any) -> dict[str, Any]:
        """The broker's answer to this auditor. Raises what the broker refuses with."""
        user = str(self.current_user["name"])
        try:
            answer = await asyncio.to_thread(lambda: Control(self.here).audit(path, user, **how))
        except WorkbenchError as error:
            self._written(user, allowed=False, code=error.code)
            raise
        self._written(user, allowed=True, code="")
        return answer

    def require_auditor(self) -> None:
        """Raises NotAnAuditor: for pages that ask the broker nothing yet."""
        if AUDITORS not in self.groups:
            raise NotAnAuditor(
                "The audit log is for auditors.", hint=f"The group {AUDITORS} gives access to it."
            )

    def _written(self, user: str, *, allowed: bool, code: str) -> None:
        self.schedules.history.viewed(
            user=user, grant="", report="audit-log", key="", allowed=allowed, code=code
        )


class AuditLog(AuditPage):
    """`/audit`: the newest events."""

    @authenticated  # type: ignore[untyped-decorator]
    async def get(self) -> None:
        try:
            wanted = filters({name: self.get_query_argument(name, "") for name in FILTERS})
            found = (await self.ask("", filters=wanted))["events"]
        except WorkbenchError as error:
            self.say(error, "The audit log cannot be shown")
            return
        await self.show(
            "audit.html",
            "Audit log",
            lines=[line(event) for event in reversed(found)],
            wanted={name: str(wanted.get(name, "")) for name in FILTERS},
            narrowed=bool(set(wanted) - {"limit"}),
            older=found[0]["seq"] if len(found) == wanted["limit"] else 0,
            limits=LIMITS,
            kinds=EVENTS,
            link=lambda **change: "?" + urlencode({**wanted, **change}),
        )


class Review(AuditPage):
    """`/audit/review`: what is to be looked at, with a sign-off each, and the volume of the last weeks."""

    @authenticated  # type: ignore[untyped-decorator]
    async def get(self) -> None:
        try:
            found = await self.ask("/review")
        except WorkbenchError as error:
            self.say(error, "The review queue cannot be shown")
            return
        synthetic = any(release.synthetic for release in list_releases(self.here.lake))
        today = datetime.now(UTC).date()
        plots = await asyncio.to_thread(volume, found["days"], today, synthetic=synthetic)
        signed = self.get_query_argument("signed", "")
        await self.show(
            "audit_review.html",
            "Review",
            items=[{**item, "at": _moment(item["at"])} for item in found["items"]],
            plots=plots,
            me=str(self.current_user["name"]),
            signed=signed if ITEM.fullmatch(signed) else "",
        )

    @authenticated  # type: ignore[untyped-decorator]
    async def post(self) -> None:
        body = {"item": self.get_body_argument("item", ""), "note": self.get_body_argument("note", "")}
        try:
            signed = (await self.ask("/review", body=body))["item"]["id"]
        except WorkbenchError as error:
            self.say(error, "This was not signed off")
            return
        self.redirect(f"{self.settings['prefix']}audit/review?signed={signed}", status=303)


class WhoSaw(AuditPage):
    """`/audit/who-saw`: a member's id is asked for in the body of a form, so that it stands in no address."""

    @authenticated  # type: ignore[untyped-decorator]
    async def get(self) -> None:
        try:
            self.require_auditor()
        except WorkbenchError as error:
            self.say(error, "The audit log cannot be shown")
            return
        await self.show("audit_who_saw.html", "Who saw a member", member="", lines=None)

    @authenticated  # type: ignore[untyped-decorator]
    async def post(self) -> None:
        member = self.get_body_argument("member", "").strip()
        try:
            found = await self.ask("/who-saw", body={"member": member})
        except WorkbenchError as error:
            self.say(error, "Who saw this member cannot be shown")
            return
        await self.show(
            "audit_who_saw.html",
            "Who saw a member",
            member=member,
            lines=[{**one, "when": _span(one), "kind": one["grade"].split()[0]} for one in found["lines"]],
        )


FILTERS = ("user", "grant", "event", "since", "until", "before", "limit")


def filters(given: Mapping[str, str]) -> dict[str, Any]:
    """The filters of a request, checked. Raises BadFilter, which names the one that cannot be."""
    wanted: dict[str, Any] = {"limit": LIMITS[0]}
    for name, called in (("user", "a user"), ("grant", "a grant"), ("event", "an event")):
        value = given.get(name, "").strip()
        if value and not NAME.fullmatch(value):
            raise BadFilter(f"That cannot be the name of {called}.", hint="Leave the field empty for all.")
        if value:
            wanted[name] = value
    for name, called in (("since", "The beginning"), ("until", "The end")):
        value = given.get(name, "").strip()
        if value:
            try:
                wanted[name] = datetime.fromisoformat(value).isoformat()
            except ValueError:
                raise BadFilter(
                    f"{called} cannot be read as a day or a time.",
                    hint="Write it as 2026-11-22 or 2026-11-22T08:30 (UTC).",
                ) from None
    before = given.get("before", "").strip()
    if before:
        if not re.fullmatch("[0-9]{1,15}", before):
            raise BadFilter("That cannot be the number of an event.", hint="Leave it out.")
        wanted["before"] = int(before)
    limit = given.get("limit", "").strip()
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

    rows, members = event.get("rows"), event.get("members")
    amounts = [
        f"{count:,} {one}{'' if count == 1 else 's'}"
        for count, one in ((rows, "row"), (members, "member"))
        if isinstance(count, int)
    ]
    what = " · ".join(dict.fromkeys(filter(None, (said("statement"), said("reason"), said("detail")))))
    return Line(
        number=int(event["seq"]),
        at=_moment(said("at"), seconds=True),
        event=said("event"),
        user=said("user"),
        grant=said("grant"),
        purpose=said("purpose").replace("_", " "),
        channel=said("channel"),
        outcome=" · ".join(filter(None, (said("outcome"), said("code")))),
        amount=" · ".join(amounts),
        what=what,
    )


def _moment(iso: str, *, seconds: bool = False) -> str:
    return iso[: 19 if seconds else 16].replace("T", " ")


def _span(seen: Mapping[str, Any]) -> str:
    first, last = _moment(seen["first"]), _moment(seen["last"])
    return last if first == last else f"{first} – {last}"
