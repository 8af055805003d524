"""The slices of the lake on the control socket: built ahead, listed with what they cost, evicted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from workbench.broker.budget import cost_table
from workbench.broker.http import answering, body_of

if TYPE_CHECKING:
    from workbench.broker.core import Broker


def slice_routes(broker: Broker) -> list[Route]:
    """POST and GET /slices, DELETE /slices/{id}."""

    async def build(request: Request) -> Response:
        from workbench.broker.control import operator

        ready = await broker.start_build(await operator(broker, request, await body_of(request)))
        return JSONResponse({"slice": ready.id, "manifest": ready.manifest})

    async def listed(request: Request) -> Response:
        entries = await asyncio.to_thread(cost_table, broker.settings.lake)
        return JSONResponse({"slices": [entry.shown() for entry in entries]})

    async def evict(request: Request) -> Response:
        await broker.shelf.evict(request.path_params["slice"])
        return Response(status_code=204)

    return [
        Route("/slices", answering(build), methods=["POST"]),
        Route("/slices", answering(listed)),
        Route("/slices/{slice}", answering(evict), methods=["DELETE"]),
    ]
