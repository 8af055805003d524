"""The register of consents on the control socket: every decision is an event before it counts, and counts at once."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from workbench.broker.consent import MOST_LISTED, STRANGERS, ConsentRefused, Decision, decision_of
from workbench.broker.http import BadRequest, answering, body_of, operator_of
from workbench.lake.release import UnknownRelease, open_release

if TYPE_CHECKING:
    from workbench.broker.core import Broker

MOST_DECISIONS = 10_000
"""Decisions in one request; a longer file comes in several."""


def consent_routes(broker: Broker) -> list[Route]:
    """POST and GET /consents; POST /consents/check writes nothing, and refuses consents of members or recipients whom nobody knows."""

    async def decide(request: Request) -> Response:
        decisions = await _decisions(request)
        await _settle(broker, operator_of(request), decisions)
        unknown = await asyncio.to_thread(_unknown, broker, {one.member_id for one in decisions})
        return JSONResponse({"decisions": len(decisions), "members_not_in_release": unknown}, 201)

    async def check(request: Request) -> Response:
        decisions = await _decisions(request)
        await _refuse_strangers(broker, [one for one in decisions if not one.revoked])
        return JSONResponse({"decisions": len(decisions)})

    async def listed(request: Request) -> Response:
        asked = request.query_params
        limit = min(_number(asked.get("limit"), MOST_LISTED, least=1), MOST_LISTED)
        found = await asyncio.to_thread(
            broker.consents.listed,
            member_id=asked.get("member"),
            recipient=asked.get("recipient"),
            after=_number(asked.get("after"), 0),
            limit=limit + 1,
        )
        page = found[:limit]
        return JSONResponse({"consents": page, "after": page[-1]["id"] if len(found) > limit else None})

    return [
        Route("/consents", answering(decide), methods=["POST"]),
        Route("/consents/check", answering(check), methods=["POST"]),
        Route("/consents", answering(listed)),
    ]


async def _settle(broker: Broker, user: str, decisions: list[Decision]) -> None:
    """Writes the events, then the decisions, then cuts what rests on the old ones."""
    await asyncio.gather(
        *(
            broker.record(
                "consent-revoked" if decision.revoked else "consent-given",
                user=user,
                subject=broker.audit.subject(decision.member_id),
                detail=f"{decision.recipient} {decision.scope}",
            )
            for decision in decisions
        )
    )
    await asyncio.to_thread(broker.consents.decide, decisions)
    broker.shelf.consents_changed()


async def _refuse_strangers(broker: Broker, consents: list[Decision]) -> None:
    """Raises ConsentRefused where a consent is of a member or for a recipient that nobody knows: slips of the pen."""
    unknown = await asyncio.to_thread(_unknown, broker, {one.member_id for one in consents})
    recipients = {grant.recipient_id for grant in broker.grants()}
    strangers = sum(one.recipient not in recipients for one in consents)
    found = [
        f"{count:,} of the {what}"
        for count, what in (
            (unknown, "members are not in the latest release"),
            (strangers, "consents are for a recipient of no grant"),
        )
        if count
    ]
    if found:
        raise ConsentRefused(
            f"No consent was written down: {'; '.join(found)}.",
            hint="Check the ids. Where they are right and come later: --even-unknown.",
            code=STRANGERS,
        )


def _unknown(broker: Broker, members: set[str]) -> int:
    """How many of the members the latest release does not know: slips of the pen, most often."""
    try:
        release = open_release(broker.settings.lake)
    except UnknownRelease:
        return len(members)
    with duckdb.connect() as con:
        con.register("given", pa.table({"member_id": sorted(members)}))
        query = f"SELECT count(*) FROM given ANTI JOIN {release.relation('member')} m USING (member_id)"
        return int(con.execute(query).fetchall()[0][0])


def _number(said: str | None, default: int, *, least: int = 0) -> int:
    if said is None:
        return default
    if not re.fullmatch("[0-9]{1,15}", said) or int(said) < least:
        raise BadRequest(
            "limit and after are whole numbers.", hint="`after` is the one that the last page gave."
        )
    return int(said)


async def _decisions(request: Request) -> list[Decision]:
    said = (await body_of(request)).get("decisions")
    if not isinstance(said, list) or not said or len(said) > MOST_DECISIONS:
        raise ConsentRefused(f"decisions is a list of 1 to {MOST_DECISIONS:,} decisions.")
    return [_decision(one) for one in said]


def _decision(said: Any) -> Decision:
    if not isinstance(said, dict):
        raise ConsentRefused("A decision is an object.")
    return decision_of(said)
