"""The control socket's path for questions about policy: what a person sees of one member, and why."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from workbench.broker.core import Broker
from workbench.broker.http import answering, body_of, operator_of, text_of
from workbench.broker.policy_explain import explain_member
from workbench.lake.release import open_release


def policy_routes(broker: Broker) -> list[Route]:
    """`POST /explanations {"user", "member", "grant"?, "release"?}`, recorded before it is answered."""

    async def explain(request: Request) -> Response:
        body = await body_of(request)
        user, member = text_of(body, "user"), text_of(body, "member")
        book = broker.grants()
        only = book.get(str(body["grant"])).name if body.get("grant") else None
        groups = await broker.directory.groups(user)
        decisions = [d for d in book.for_user(groups) if only in (None, d.grant.name)]
        release = open_release(broker.settings.lake, body.get("release"))
        await broker.record(
            "policy-explained",
            user=operator_of(request),
            channel="operator",
            release=release.id,
            grant=only,
            subject=await asyncio.to_thread(broker.audit.subject, member),
            detail=f"what {user} sees of a member",
        )
        found = await asyncio.to_thread(explain_member, release, book, decisions, member)
        return JSONResponse({"user": user, "groups": sorted(groups), **found})

    return [Route("/explanations", answering(explain), methods=["POST"])]
