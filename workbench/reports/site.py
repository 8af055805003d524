"""The report pages: a list of what the logged-in user may read, and the reports themselves, for reading only."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyterhub.services.auth import HubOAuthCallbackHandler, HubOAuthenticated
from tornado.web import Application, ErrorHandler, RedirectHandler, RequestHandler, authenticated

from workbench.broker.directory import AUDITORS
from workbench.errors import WorkbenchError
from workbench.lake.release import list_releases
from workbench.reports.control import Control
from workbench.reports.history import Status
from workbench.reports.readers import Shelf, open_output, readable
from workbench.reports.schedule import Schedules
from workbench.settings import Settings

PAGES = Path(__file__).with_name("pages")
HOUSE_CSS = Path(__file__).with_name("house") / "house.css"
LIST_POLICY = "; ".join(
    [
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
REPORT_POLICY = LIST_POLICY + "; img-src data:; sandbox"
"""A report is paper: no script, no form, no frame, no file to save, nothing from or to any host."""
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-DNS-Prefetch-Control": "off",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), display-capture=()",
}
HISTORY_ROWS = 20


@dataclass(frozen=True)
class Row:
    """One card of the list."""

    title: str
    organisation: str
    parameters: str
    href: str
    badge: str
    badge_words: str
    trouble: str
    facts: list[tuple[str, str]]
    synthetic: bool


class Page(HubOAuthenticated, RequestHandler):  # type: ignore[misc]
    """What every page shares: the login, the headers, errors in words."""

    @property
    def here(self) -> Settings:
        found: Settings = self.settings["workbench"]
        return found

    @property
    def schedules(self) -> Schedules:
        found: Schedules = self.settings["schedules"]
        return found

    @property
    def groups(self) -> list[str]:
        """The groups of the logged-in user, as the Hub names them now."""
        return sorted(str(group) for group in self.current_user.get("groups", []))

    def set_default_headers(self) -> None:
        for name, value in HEADERS.items():
            self.set_header(name, value)
        self.set_header("Content-Security-Policy", LIST_POLICY)
        self.clear_header("Server")

    def page(self, template: str, **facts: Any) -> None:
        """Answers with a page of the house."""
        user = self.current_user["name"] if self.current_user else ""
        self.finish(
            self.render_string(
                template,
                css=HOUSE_CSS.read_text(encoding="utf-8") + (PAGES / "pages.css").read_text(encoding="utf-8"),
                user=user,
                home=self.settings["home"],
                index=self.settings["prefix"],
                synthetic=any(release.synthetic for release in list_releases(self.here.lake)),
                auditor=bool(self.current_user) and AUDITORS in self.groups,
                **facts,
            )
        )

    def say(self, error: WorkbenchError, title: str) -> None:
        """Answers with a refusal: its reason and what to do next."""
        self.set_status(error.http_status)
        self.page("message.html", title=title, reason=error.reason, hint=error.hint)

    def write_error(self, status_code: int, **_: Any) -> None:
        words = {404: "There is no such page.", 403: "This is not open to you."}
        self.set_default_headers()
        self.finish(
            words.get(status_code, "The report pages failed. Try again; if this stays, tell your operator.")
        )


class Index(Page):
    """`/`: the reports that the user may read."""

    @authenticated  # type: ignore[untyped-decorator]
    def get(self) -> None:
        history = self.schedules.history
        try:
            shelves = readable(self.here, self.groups, history)
        except WorkbenchError as error:
            self.say(error, "The reports cannot be listed")
            return
        entries = [
            entry for entry in history.entries(limit=200) if entry.grant in {shelf.grant for shelf in shelves}
        ][:HISTORY_ROWS]
        refusal = self.schedules.refusal
        self.page(
            "index.html",
            title="Reports",
            rows=[self._row(shelf) for shelf in shelves],
            entries=entries,
            groups=", ".join(self.groups),
            refusal=refusal.reason if refusal else "",
        )

    def _row(self, shelf: Shelf) -> Row:
        stamp: Mapping[str, Any] = shelf.output.manifest["stamp"] if shelf.output else {}
        badge, words, trouble = _state(shelf)
        facts = []
        if stamp:
            facts += [
                ("Run", f"{_moment(stamp['began'])} UTC"),
                ("Data", f"release {stamp['release']}, complete through {stamp['complete_through']}"),
            ]
        facts.append(("Grant", shelf.grant))
        if shelf.schedule:
            due = self.schedules.next_run(shelf.report, shelf.organisation)
            facts.append(
                ("Schedule", f"{shelf.schedule}; " + (f"next {due:%Y-%m-%d %H:%M %Z}" if due else "resting"))
            )
        parameters = stamp.get("parameters") or (shelf.last.parameters if shelf.last else {})
        return Row(
            title=shelf.title,
            organisation=shelf.organisation_name,
            parameters=", ".join(f"{name} {value}" for name, value in parameters.items()),
            href=f"{self.settings['prefix']}view/{shelf.grant}/{shelf.report}/{shelf.key}"
            if shelf.output
            else "",
            badge=badge,
            badge_words=words,
            trouble=trouble,
            facts=facts,
            synthetic=bool(stamp.get("synthetic")),
        )


class View(Page):
    """`/view/GRANT/REPORT/KEY`: one report, for holders of its grant."""

    @authenticated  # type: ignore[untyped-decorator]
    async def get(self, grant: str, report: str, key: str) -> None:
        try:
            output = open_output(self.here, self.groups, grant, report, key)
            html = output.html() if output else ""
        except WorkbenchError as error:
            if await self._viewed(grant, report, key, allowed=False, code=error.code):
                self.say(error, "This report is not open to you")
            return
        if output is None:
            self.set_status(404)
            self.page(
                "message.html",
                title="There is no such report",
                reason="Nothing was made under this name.",
                hint="",
            )
            return
        if not await self._viewed(grant, report, key, allowed=True, code=""):
            return
        self.set_header("Content-Security-Policy", REPORT_POLICY)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        back = f'<a class="back" href="{self.settings["prefix"]}">← All reports</a>'
        self.finish(html.replace('<main class="report">', f'<main class="report">{back}', 1))

    async def _viewed(self, grant: str, report: str, key: str, *, allowed: bool, code: str) -> bool:
        """Writes the reading down, in the broker's log too; where that fails the answer is a refusal (and False)."""
        user = str(self.current_user["name"])
        event, outcome = ("report-viewed", "answered") if allowed else ("report-refused", "refused")
        said = {"report": report, "grant": grant, "user": user, "outcome": outcome, "key": key, "code": code}
        try:
            await asyncio.to_thread(lambda: Control(self.here).tell(event, **said))
        except WorkbenchError:
            trouble = WorkbenchError(
                "This reading cannot be written down, so no report is shown.",
                hint="Try again in a minute; if this stays, tell your operator.",
                code="audit-unavailable",
                http_status=503,
            )
            self.say(trouble, "Reports cannot be shown now")
            return False
        self.schedules.history.viewed(
            user=user, grant=grant, report=report, key=key, allowed=allowed, code=code
        )
        return True


def _state(shelf: Shelf) -> tuple[str, str, str]:
    """The badge, its words, and what is wrong: the newest row of the history decides, then the release."""
    last = shelf.last
    if last is not None and last.status is Status.STOPPED:
        return "stopped", "stopped", f"The schedule rests. {last.reason}"
    if last is not None and last.status is Status.FAILED:
        kept = " The output from before is shown." if shelf.output else ""
        return (
            "failed",
            "last run failed",
            f"The run of {_moment(last.began)} UTC failed. {last.reason}{kept}",
        )
    if last is not None and last.status is Status.MISSED:
        return "missed", "missed", str(last.reason)
    if shelf.output is None:
        return "waiting", "not run yet", ""
    if shelf.stale:
        return "stale", "old release", "The lake has a newer release than this report rests on."
    note = (last.note if last else None) or ""
    return "current", "current", "" if note.startswith("No new release") else note


def _moment(iso: str) -> str:
    return iso.replace("T", " ")[:16]


def application(
    here: Settings, schedules: Schedules, prefix: str, home: str, cookie_secret: bytes
) -> Application:
    """The tornado application below `prefix` (ends with a slash)."""
    from workbench.reports.audit_page import AuditLog, Review, WhoSaw

    name = r"([a-z0-9][a-z0-9_.-]*)"
    return Application(
        [
            (prefix, Index),
            (prefix.rstrip("/"), RedirectHandler, {"url": prefix}),
            (f"{prefix}view/{name}/{name}/{name}", View),
            (f"{prefix}audit", AuditLog),
            (f"{prefix}audit/review", Review),
            (f"{prefix}audit/who-saw", WhoSaw),
            (f"{prefix}oauth_callback", HubOAuthCallbackHandler),
        ],
        cookie_secret=cookie_secret,
        template_path=str(PAGES),
        workbench=here,
        schedules=schedules,
        prefix=prefix,
        home=home,
        default_handler_class=ErrorHandler,
        default_handler_args={"status_code": 404},
    )
