"""The application behind each server's own socket: what a kernel, an app or a report may ask."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from workbench.broker.audit_routes import audit_routes
from workbench.broker.bindings import Binding, TokenRefused
from workbench.broker.channels.break_glass import BreakGlass
from workbench.broker.channels.paths import channel_routes
from workbench.broker.core import Answer, Broker, Caller
from workbench.broker.http import ArrowEndpoint, answering, body_of, json_answer, spec_of, text_of
from workbench.errors import WorkbenchError


def public_app(broker: Broker, glass: BreakGlass) -> Starlette:
    """The paths of a binding's socket. The binding stands in the ASGI scope, put there by the socket's listener."""

    async def caller_of(request: Request) -> Caller:
        """Socket, record, token, the Hub and the user's groups of this moment must agree."""
        binding: Binding = request.scope["binding"]
        token = binding.check(_token(request))
        if (
            binding.kind == "server"
            and broker.directory.knows_tokens
            and await broker.directory.owner(token) != binding.user
        ):
            raise TokenRefused(
                "The Hub does not know this token as yours.", hint="Stop this server and start it again."
            )
        return Caller.of(binding, await broker.directory.groups(binding.user))

    async def whoami(request: Request) -> Response:
        return json_answer(await broker.whoami(await caller_of(request)))

    async def grants(request: Request) -> Response:
        caller = await caller_of(request)
        return JSONResponse(decisions(broker, caller.groups or frozenset()))

    async def tables(request: Request) -> Response:
        return json_answer(await broker.tables(await caller_of(request)))

    async def table(request: Request) -> Response:
        found = await broker.tables(await caller_of(request))
        name = request.path_params["table"]
        if name not in found["tables"]:
            hint = f"It holds: {', '.join(found['tables'])}."
            raise WorkbenchError(
                "The slice has no such table.", hint=hint, code="unknown-table", http_status=404
            )
        notice = {"notice": found["notice"]} if "notice" in found else {}
        return json_answer({"table": name, **found["tables"][name], **notice})

    async def query(request: Request) -> Answer:
        return await broker.query(await caller_of(request), text_of(request.scope["body"], "sql"))

    async def query_state(request: Request) -> Response:
        caller = await caller_of(request)
        return JSONResponse(broker.query_state(caller.user, request.path_params["query"]))

    async def tabulate(request: Request) -> Response:
        caller = await caller_of(request)
        return json_answer(await broker.tabulate(caller, spec_of(await body_of(request))))

    async def auditor(request: Request) -> tuple[str, str]:
        caller = await caller_of(request)
        await broker.require_auditor(caller.user, caller.groups or (), caller.channel)
        return caller.user, caller.channel

    app = Starlette(
        routes=[
            Route("/whoami", answering(whoami)),
            Route("/grants", answering(grants)),
            Route("/tables", answering(tables)),
            Route("/tables/{table}", answering(table)),
            Route("/query", ArrowEndpoint(query), methods=["POST"]),
            Route("/queries/{query}", answering(query_state)),
            Route("/tabulate", answering(tabulate), methods=["POST"]),
            *audit_routes(broker, auditor),
            *channel_routes(broker, glass, lambda request, _channel: caller_of(request)),
        ]
    )
    app.router.redirect_slashes = False
    return app


def decisions(broker: Broker, groups: frozenset[str]) -> dict[str, Any]:
    """`{"grants", "others"}`: the groups' own grants, open or not and why, the open ones first; how many are not theirs."""
    own, others = broker.decisions(groups)
    found = [
        {
            "grant": d.grant.name,
            "title": d.grant.title,
            "level": str(d.grant.level),
            "purposes": [str(purpose) for purpose in d.grant.purposes],
            "channels": [str(channel) for channel in d.grant.channels],
            "valid_until": d.grant.valid_until.isoformat(),
            "allowed": d.allowed,
            "reason": d.reason,
            "hint": d.hint,
            "code": d.code,
        }
        for d in own
    ]
    return {"grants": sorted(found, key=lambda d: (not d["allowed"], d["grant"])), "others": others}


def _token(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() in ("bearer", "token") and token else None
