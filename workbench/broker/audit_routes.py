"""The paths of the log: on the control socket for the operator and the auditors' page, on a server's own for auditors.

A member's id stands in the body of a request, never in its address.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from workbench.broker.auditing import FILTERS, CannotAsk
from workbench.broker.http import answering, body_of, operator_of, text_of

if TYPE_CHECKING:
    from workbench.broker.core import Broker

Reader = Callable[[Request], Awaitable[tuple[str, str]]]
"""Who reads, and on which channel; raises where this caller is no auditor."""
PAGE = "reports"
"""The channel of the auditors' page."""
MOST_EVENTS = 100_000
_READER = re.compile(r"[\w:@.+-]{1,128}")


def audit_routes(broker: Broker, reader: Reader) -> list[Route]:
    """GET /audit, GET /audit/review, POST /audit/review, POST /audit/who-saw."""
    auditing = broker.auditing

    async def log(request: Request) -> Response:
        return JSONResponse(
            {"events": await auditing.events(*await reader(request), **audit_filters(request))}
        )

    async def review(request: Request) -> Response:
        return JSONResponse(await auditing.queue(*await reader(request)))

    async def sign(request: Request) -> Response:
        who, body = await reader(request), await body_of(request)
        return JSONResponse(await auditing.sign(*who, text_of(body, "item"), str(body.get("note") or "")))

    async def who_saw(request: Request) -> Response:
        who, body = await reader(request), await body_of(request)
        return JSONResponse(await auditing.who_saw(*who, text_of(body, "member")))

    return [
        Route("/audit", answering(log)),
        Route("/audit/review", answering(review)),
        Route("/audit/review", answering(sign), methods=["POST"]),
        Route("/audit/who-saw", answering(who_saw), methods=["POST"]),
    ]


def control_audit_routes(broker: Broker) -> list[Route]:
    """Those, and what is the operator's alone: POST /audit/prune, POST /audit/exports."""
    auditing = broker.auditing

    async def reader(request: Request) -> tuple[str, str]:
        """The auditor in whose name the page asks, or the operator. Raises NotAnAuditor by what the Hub says now."""
        auditor = request.query_params.get("auditor", "")
        if auditor:
            await broker.require_auditor(_name(auditor), await broker.directory.groups(auditor), PAGE)
            return auditor, PAGE
        return operator_of(request), "operator"

    async def prune(request: Request) -> Response:
        (who, _), body = await reader(request), await body_of(request)
        archive, dry = body.get("archive", True) is not False, body.get("dry", False) is not False
        return JSONResponse(await auditing.prune(who, archive=archive, dry=dry))

    async def exports(request: Request) -> Response:
        (who, _), body = await reader(request), await body_of(request)
        return JSONResponse(
            await auditing.exported(
                who, text_of(body, "format"), _time(body.get("since")), _time(body.get("until"))
            )
        )

    return [
        *audit_routes(broker, reader),
        Route("/audit/prune", answering(prune), methods=["POST"]),
        Route("/audit/exports", answering(exports), methods=["POST"]),
    ]


def audit_filters(request: Request) -> dict[str, Any]:
    """user, grant, event, since, until, before and limit of a request for the log. Raises CannotAsk."""
    query = request.query_params
    filters: dict[str, Any] = {}
    for name in FILTERS:
        value = query.get(name)
        if not value:
            continue
        if name in ("limit", "before"):
            if not re.fullmatch("[0-9]{1,15}", value):
                raise CannotAsk(f"{name} is a whole number.")
            filters[name] = min(int(value), MOST_EVENTS) if name == "limit" else int(value)
        elif name in ("since", "until"):
            filters[name] = _time(value)
        else:
            filters[name] = value[:128]
    return filters


def _time(value: Any) -> str | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(str(value))
        return (moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment).isoformat()
    except ValueError:
        raise CannotAsk(
            "That is no day or time.", hint="Write 2026-11-01 or 2026-11-01T08:30 (UTC)."
        ) from None


def _name(value: str) -> str:
    if not _READER.fullmatch(value):
        raise CannotAsk("That cannot be the name of a reader.")
    return value
