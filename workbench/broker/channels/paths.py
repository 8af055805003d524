"""The channels' paths, for any socket that can say who asks: a server's own, or the listener for systems outside."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from workbench.broker.caller import Caller
from workbench.broker.channels import answers
from workbench.broker.channels.break_glass import BreakGlass, asked_for
from workbench.broker.channels.requester import CLIENT, named, requester_of
from workbench.broker.core import Broker
from workbench.broker.grants import Channel
from workbench.broker.http import ArrowEndpoint, BadRequest, answering, body_of, json_answer

Who = Callable[[Request, Channel], Awaitable[Caller]]
"""Who asks on a channel. Raises what refuses the token."""


def channel_routes(broker: Broker, glass: BreakGlass, who: Who) -> list[Route]:
    """Record, risk, feed and break-glass, as routes."""

    async def record(request: Request) -> Response:
        caller = await who(request, Channel.LMR_API)
        return await answers.record(broker, caller, request.path_params["member"])

    async def risk(request: Request) -> Response:
        caller = await who(request, Channel.RISK_API)
        return await answers.risk_of(broker, caller, request.path_params["member"])

    async def feed(request: Request) -> Response:
        return await answers.feed(broker, await who(request, Channel.FEED))

    async def feed_file(request: Request) -> answers.FeedFile:
        caller = await who(request, Channel.FEED)
        table = request.path_params["table"]
        return await answers.feed_file(broker, caller, table, _part(request))

    async def break_glass(request: Request) -> Response:
        caller = await who(request, Channel.LMR_API)
        body = await body_of(request)
        if caller.user.startswith(CLIENT):
            caller = replace(caller, server=named("api", requester_of(body)))
        asked = asked_for(body)
        return json_answer(await glass.open(caller, request.path_params["member"], asked), 201)

    async def glass_record(request: Request) -> Response:
        caller = await who(request, Channel.LMR_API)
        return await glass.record(caller, request.path_params["access"])

    return [
        Route("/members/{member}/record", answering(record)),
        Route("/members/{member}/risk", answering(risk)),
        Route("/members/{member}/break-glass", answering(break_glass), methods=["POST"]),
        Route("/break-glass/{access}/record", answering(glass_record)),
        Route("/feed", answering(feed)),
        Route(
            "/feed/{table}",
            ArrowEndpoint(feed_file, media=answers.PARQUET, takes_body=False),
            methods=["GET"],
        ),
    ]


def _part(request: Request) -> int:
    value = request.query_params.get("part", "0")
    if not re.fullmatch("[0-9]{1,6}", value):
        raise BadRequest("part is a number: see GET /feed.")
    return int(value)
