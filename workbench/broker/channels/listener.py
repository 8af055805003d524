"""The second listener: systems outside the Hub, with client credentials of their own and the channels of their grant.

It listens on TCP, on the loopback alone unless it has a certificate. There is no `/query` on it, and a token of the Hub
is of no use. Nothing writes down a path: members' ids stand in them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import json
import ssl
import urllib.parse
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from workbench.broker.caller import Caller, Way
from workbench.broker.channels.answers import SYNTHETIC
from workbench.broker.channels.break_glass import BreakGlass
from workbench.broker.channels.clients import (
    DAYS,
    TOKEN_SECONDS,
    Client,
    ClientRefused,
    Clients,
    LoginFailed,
    TooManyLogins,
)
from workbench.broker.channels.openapi import document
from workbench.broker.channels.paths import channel_routes
from workbench.broker.channels.requester import REQUESTER_HEADER, named
from workbench.broker.connection import HEAD_SECONDS, BoundedProtocol, SharedConnections
from workbench.broker.core import Broker
from workbench.broker.grants import Channel
from workbench.broker.http import BadRequest, answering, body_of, bounded_body, json_answer, spec_of, text_of
from workbench.errors import WorkbenchError

WAYS: Mapping[Channel, Way] = {
    Channel.LMR_API: "lmr_api",
    Channel.RISK_API: "risk_api",
    Channel.FEED: "feed",
    Channel.TABULATE: "tabulate",
}
API_CHANNELS = tuple(WAYS)
LONGEST_FORM = 8 << 10

Connecting = Callable[[ASGIApp, Callable[..., BoundedProtocol]], Callable[[], BoundedProtocol]]
"""From an application and a protocol to what makes the protocol of a new connection."""


class UnsafeListener(WorkbenchError):
    """The listener's address is not one on which it may listen."""

    code = "unsafe-listener"
    http_status = 500


class Channels:
    """Clients, break-glass accesses and the second listener of one broker."""

    def __init__(self, broker: Broker):
        self.broker = broker
        self.clients = Clients(broker.state)
        self.glass = BreakGlass(broker)
        self.address: tuple[str, int] | None = None
        """Where the listener is, once it listens."""
        self.connections = SharedConnections()
        self._server: asyncio.AbstractServer | None = None

    async def start(self, connecting: Connecting) -> None:
        """Opens the listener where `api_bind` asks for one. Raises UnsafeListener."""
        await self.glass.start()
        where = self.broker.settings
        if not where.api_bind:
            return
        host, port = address_of(where.api_bind)
        context = _tls(where.api_tls_cert, where.api_tls_key)
        if context is None and not _is_loopback(host):
            raise UnsafeListener(
                "Without a certificate the API listens on the loopback alone.",
                hint="Set WORKBENCH_API_TLS_CERT and WORKBENCH_API_TLS_KEY, or WORKBENCH_API_BIND to 127.0.0.1:PORT.",
            )
        app = api_app(self)
        try:
            self._server = await asyncio.get_running_loop().create_server(
                connecting(app, partial(BoundedProtocol, self.connections)),
                host,
                port,
                ssl=context,
                ssl_handshake_timeout=HEAD_SECONDS if context else None,
            )
        except OSError:
            raise UnsafeListener(
                "The API's address cannot be listened on.",
                hint="Is another program there? Change WORKBENCH_API_BIND.",
            ) from None
        self.address = self._server.sockets[0].getsockname()[:2]

    @property
    def url(self) -> str:
        """The listener's own address."""
        host, port = self.address or ("localhost", 0)
        scheme = "https" if self.broker.settings.api_tls_cert else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    async def stop(self) -> None:
        """Closes the listener and ends every break-glass access."""
        if self._server is not None:
            self._server.close()
            self.connections.cut()
        await self.glass.stop()

    async def add_client(self, name: str, grant: str, purpose: str, days: int) -> tuple[Client, str]:
        """A new client of a grant that opens a channel of the listener. Raises GrantRefused, ClientRefused."""
        said = {
            "user": f"client:{name}"[:128],
            "grant": grant[:128],
            "purpose": purpose[:64],
            "channel": "api",
        }
        book = self.broker.grants()
        try:
            opened = book.require(grant, book.get(grant).groups, purpose=purpose)
            if not set(opened.channels) & set(API_CHANNELS):
                raise ClientRefused(
                    f"Grant {grant} opens none of: {', '.join(API_CHANNELS)}.",
                    hint=f"{opened.approver} can change its channels.",
                )
            client, secret = await asyncio.to_thread(self.clients.add, name, grant, purpose, days=days)
        except WorkbenchError as error:
            await self.broker.record("client-refused", **said, code=error.code, reason=error.reason)
            raise
        try:
            await self.broker.record("client-added", **said, detail=f"until {client.expires}")
        except WorkbenchError:
            await asyncio.to_thread(self.clients.forget, name)
            raise
        return client, secret

    async def revoke_client(self, name: str) -> Client:
        """Ends a client, its tokens and its connections, and says so. Raises ClientRefused."""
        client = await asyncio.to_thread(self.clients.revoke, name)
        self.connections.cut(name)
        await self.broker.record("client-revoked", user=f"client:{name}", grant=client.grant, channel="api")
        return client


def control_routes(channels: Channels) -> list[Route]:
    """The operator's paths: `POST`, `GET /clients`, `DELETE /clients/{name}`."""

    async def add(request: Request) -> Response:
        body = await body_of(request)
        name, grant, purpose = (text_of(body, key) for key in ("name", "grant", "purpose"))
        days = body.get("days", DAYS)
        if isinstance(days, bool) or not isinstance(days, int):
            raise BadRequest("days is a whole number.")
        client, secret = await channels.add_client(name, grant, purpose, days)
        return JSONResponse({**_shown(client), "client_id": client.name, "client_secret": secret}, 201)

    async def listed(request: Request) -> Response:
        return JSONResponse({"clients": [_shown(client) for client in channels.clients.all()]})

    async def revoke(request: Request) -> Response:
        return JSONResponse(_shown(await channels.revoke_client(request.path_params["name"])))

    return [
        Route("/clients", answering(add), methods=["POST"]),
        Route("/clients", answering(listed)),
        Route("/clients/{name}", answering(revoke), methods=["DELETE"]),
    ]


def api_app(channels: Channels) -> Starlette:
    """The paths of the second listener."""
    broker, clients = channels.broker, channels.clients

    async def who(request: Request, channel: Channel) -> Caller:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        client = clients.bearer(token.strip() if scheme.lower() == "bearer" else None)
        channels.connections.own(request.client and (request.client.host, request.client.port), client.name)
        server = named("api", request.headers.get(REQUESTER_HEADER))
        return Caller(f"client:{client.name}", client.grant, client.purpose, WAYS[channel], server=server)

    async def token(request: Request) -> Response:
        name, secret = await _credentials(request)
        address = request.client.host if request.client else ""
        known = clients.get(name) is not None
        said = {"user": f"client:{name}" if known else "client:unknown", "channel": "api", "server": "api"}
        try:
            client, bearer = await clients.login(name, secret, address)
        except (LoginFailed, TooManyLogins) as refusal:
            if isinstance(refusal, LoginFailed) or refusal.first:
                await broker.record("client-login-refused", **said, code=refusal.code, reason=refusal.reason)
            raise
        await broker.record("client-login", **said, grant=client.grant, purpose=client.purpose)
        answer = {"access_token": bearer, "token_type": "Bearer", "expires_in": TOKEN_SECONDS}
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})

    async def whoami(request: Request) -> Response:
        grant = broker.grants().get((await who(request, Channel.LMR_API)).grant)
        opened = [channel for channel in API_CHANNELS if channel in grant.channels] or [Channel.LMR_API]
        about = await broker.whoami(await who(request, opened[0]))
        own = {
            "channel": "api",
            "channels": [str(channel) for channel in opened],
            **({"mark": SYNTHETIC} if about.get("synthetic") else {}),
        }
        return json_answer({**about, **own})

    async def tabulate(request: Request) -> Response:
        caller = await who(request, Channel.TABULATE)
        return json_answer(await broker.tabulate(caller, spec_of(await body_of(request))))

    async def openapi(request: Request) -> Response:
        return JSONResponse(document(channels.url))

    app = Starlette(
        routes=[
            Route("/oauth/token", answering(token), methods=["POST"]),
            Route("/whoami", answering(whoami)),
            Route("/tabulate", answering(tabulate), methods=["POST"]),
            Route("/openapi.json", answering(openapi)),
            *channel_routes(broker, channels.glass, who),
        ],
        exception_handlers={HTTPException: _no_such_path},
    )
    app.router.redirect_slashes = False
    return app


async def _no_such_path(request: Request, error: Exception) -> Response:
    """What the router refuses, as JSON."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    content = {
        "code": "no-such-path" if status == 404 else "no-such-method",
        "reason": "The listener has no such path or method.",
        "hint": "GET /openapi.json describes it.",
    }
    return JSONResponse(content, status, getattr(error, "headers", None))


async def _credentials(request: Request) -> tuple[str, str]:
    """Name and secret of RFC 6749, 4.4: HTTP Basic, or in the form. Raises BadRequest."""
    raw = await bounded_body(request, LONGEST_FORM)
    try:
        form = dict(urllib.parse.parse_qsl(raw.decode("ascii"), max_num_fields=20, strict_parsing=bool(raw)))
    except ValueError:
        raise BadRequest("The request is not a form.", code="invalid_request") from None
    if form.get("grant_type") != "client_credentials":
        raise BadRequest(
            "grant_type is client_credentials.",
            hint="Send it in a form, application/x-www-form-urlencoded.",
            code="unsupported_grant_type",
        )
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        with contextlib.suppress(ValueError):
            name, _, secret = base64.b64decode(value, validate=True).decode().partition(":")
            return urllib.parse.unquote(name), urllib.parse.unquote(secret)
        raise BadRequest("The Basic credentials cannot be read.", code="invalid_request")
    if "client_id" not in form or "client_secret" not in form:
        raise BadRequest(
            "The request carries no client_id and client_secret.",
            hint="Send them by HTTP Basic, or in the form.",
            code="invalid_request",
        )
    return form["client_id"], form["client_secret"]


def address_of(bind: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:8010` or `[::1]:8010`. Raises UnsafeListener."""
    host, _, port = bind.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise UnsafeListener("WORKBENCH_API_BIND is HOST:PORT.", hint="For example 127.0.0.1:8010.")
    return host, int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tls(cert: str, key: str) -> ssl.SSLContext | None:
    if not cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key or None)
    except (OSError, ssl.SSLError):
        raise UnsafeListener(
            "The API's certificate or key cannot be read.",
            hint="Check WORKBENCH_API_TLS_CERT and WORKBENCH_API_TLS_KEY: PEM files.",
        ) from None
    return context


def _shown(client: Client) -> dict[str, Any]:
    return {**json.loads(json.dumps(client.__dict__)), "stands": client.stands}
