"""The application behind the control socket: bindings for the Hub and the reports, questions of the operator.

The socket's folder is open to the operator's uid alone, and every peer's uid is checked.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from workbench.broker.audit_routes import control_audit_routes
from workbench.broker.channels.listener import control_routes as client_routes
from workbench.broker.consent_routes import consent_routes
from workbench.broker.core import Answer, Broker, Caller
from workbench.broker.grants import GrantRefused
from workbench.broker.http import (
    ArrowEndpoint,
    BadRequest,
    answering,
    body_of,
    json_answer,
    operator_of,
    spec_of,
    text_of,
)
from workbench.broker.policy_routes import policy_routes
from workbench.broker.public import decisions
from workbench.broker.slice_routes import slice_routes
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.broker.service import Service


def control_app(service: Service) -> Starlette:
    """The paths of the control socket."""
    broker = service.broker

    async def health(request: Request) -> Response:
        return JSONResponse({"ok": True, "workers": broker.pool.pids(), "bindings": len(service.listening)})

    async def bind(request: Request) -> Response:
        body = await body_of(request)
        expires_in = body.get("expires_in")
        if expires_in is not None and (not isinstance(expires_in, int | float) or expires_in <= 0):
            raise BadRequest("expires_in is a number of seconds above 0.")
        folder, binding, token = await service.bind(
            server=text_of(body, "server"),
            user=text_of(body, "user"),
            grant=text_of(body, "grant"),
            purpose=text_of(body, "purpose"),
            kind=text_of(body, "kind"),
            token_sha256=body.get("token_sha256"),
            expires_in=expires_in,
        )
        answer = {
            "binding": binding.id,
            "socket_dir": str(folder),
            "token": token,
            "expires": binding.expires,
        }
        return JSONResponse(answer, 201)

    async def unbind(request: Request) -> Response:
        if not await service.unbind(request.path_params["binding"], "given back"):
            raise WorkbenchError("There is no such binding.", code="unknown-binding", http_status=404)
        return Response(status_code=204)

    async def bindings(request: Request) -> Response:
        names = ("id", "kind", "server", "user", "grant", "purpose", "release", "created", "expires")
        found = [{name: getattr(b, name) for name in names} for b in broker.bindings.all()]
        return JSONResponse({"bindings": found})

    async def standing(request: Request) -> Response:
        return JSONResponse(await service.standing(request.path_params["binding"]))

    async def event(request: Request) -> Response:
        await broker.told(await body_of(request))
        return Response(status_code=204)

    async def options(request: Request) -> Response:
        groups = frozenset(filter(None, request.query_params.get("groups", "").split(",")))
        user = request.query_params.get("user", "")
        if "groups" not in request.query_params and user:
            groups = await broker.directory.groups(user)
        return JSONResponse({"user": user, **decisions(broker, groups)})

    async def query(request: Request) -> Answer:
        body = request.scope["body"]
        return await broker.query(await operator(broker, request, body), text_of(body, "sql"))

    async def query_state(request: Request) -> Response:
        return JSONResponse(broker.query_state(None, request.path_params["query"]))

    async def tabulate(request: Request) -> Response:
        body = await body_of(request)
        return json_answer(await broker.tabulate(await operator(broker, request, body), spec_of(body)))

    async def whoami(request: Request) -> Response:
        return json_answer(await broker.whoami(await operator(broker, request, dict(request.query_params))))

    async def tables(request: Request) -> Response:
        return json_answer(await broker.tables(await operator(broker, request, dict(request.query_params))))

    return Starlette(
        routes=[
            Route("/health", answering(health)),
            *client_routes(service.channels),
            Route("/bindings", answering(bind), methods=["POST"]),
            Route("/bindings", answering(bindings)),
            Route("/bindings/{binding}", answering(unbind), methods=["DELETE"]),
            Route("/bindings/{binding}", answering(standing)),
            Route("/events", answering(event), methods=["POST"]),
            Route("/options", answering(options)),
            Route("/query", ArrowEndpoint(query), methods=["POST"]),
            Route("/queries/{query}", answering(query_state)),
            Route("/tabulate", answering(tabulate), methods=["POST"]),
            Route("/whoami", answering(whoami)),
            Route("/tables", answering(tables)),
            *slice_routes(broker),
            *consent_routes(broker),
            *control_audit_routes(broker),
            *policy_routes(broker),
        ]
    )


async def operator(broker: Broker, request: Request, body: dict[str, Any]) -> Caller:
    """The operator of this machine, or a user in whose name `as` has her ask: then that user's rights decide.

    The purpose is the one that is said, else the first that the grant names. The log has the user, and the operator as server.
    """
    by, name, grant = operator_of(request), body.get("as"), text_of(body, "grant")
    purpose = body.get("purpose")
    if purpose is None:
        with contextlib.suppress(GrantRefused):
            purpose = str(broker.grants().get(grant).purposes[0])
    return Caller(
        user=str(name) if name else by,
        grant=grant,
        purpose=purpose,
        channel="operator",
        server=by if name else "command line",
        release=body.get("release"),
        groups=await broker.directory.groups(str(name)) if name else None,
    )
