"""Break-glass: for minutes, the record of one member whom the caller's grant does not hold, in an emergency.

Only under a grant that allows it and for treatment; never at a level with tokens, so no token is ever traced back.
A slice of that one member is built for the request and removed at its end. Part 2 records are in it only in a medical
emergency (42 CFR 2.51). Every step is an event that alerts the auditors; the justification stands in the log as typed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from workbench.broker.caller import NOTICE_HEADER, Caller
from workbench.broker.channels import answers
from workbench.broker.channels.record_build import build_record
from workbench.broker.channels.record_store import RECORD
from workbench.broker.grants import Channel, Grant, Level, Purpose
from workbench.broker.http import BadRequest
from workbench.broker.law import NOTICE_2_32, NOTICE_NAME
from workbench.broker.process import Mount
from workbench.broker.published_slice import publish_apart, silent
from workbench.broker.said import who
from workbench.broker.shelf import Ready
from workbench.broker.slices import ensure_member
from workbench.errors import WorkbenchError
from workbench.schema.sensitive import Category

if TYPE_CHECKING:
    from workbench.broker.core import Broker

FOLDER = "break-glass"
"""Below the lake: one folder for each access that is open."""
EMERGENCY = "medical_emergency"
REASONS = (
    EMERGENCY,
    "new_patient_without_attribution",
    "transfer_of_care",
    "public_health_emergency",
    "other_treatment",
)
"""Why it can be asked for: our own list, needs counsel's review."""
SHORTEST, LONGEST = 20, 2_000
"""Characters of a justification."""
MINUTES, MOST_MINUTES = 15, 60
MOST_OPEN = 3
"""Accesses that one user may have open at once."""
NEVER_FROM = ("app", "report")
LAW_OF_PART2 = "42 CFR 2.51"

_log = logging.getLogger("workbench.broker")


class BreakGlassRefused(WorkbenchError):
    """The grant or its purpose does not allow it."""

    code = "break-glass-refused"
    http_status = 403


class TooManyAccesses(WorkbenchError):
    """The caller has as many accesses open as one may. `retry_after` is in seconds, to the end of the first of them."""

    code = "too-many-accesses"
    http_status = 429

    def __init__(self, retry_after: int):
        super().__init__(f"{MOST_OPEN} accesses of yours are open.", hint="Wait until one ends.")
        self.retry_after = retry_after


class UnknownAccess(WorkbenchError):
    """There is no such access of this caller, or its time is up."""

    code = "unknown-access"
    http_status = 404


@dataclass(frozen=True)
class Asked:
    """What the caller typed."""

    justification: str
    reason: str
    medical_emergency: bool
    minutes: int


@dataclass
class Access:
    """One open access."""

    id: str
    member: str
    user: str
    grant: str
    until: datetime
    asked: Asked
    folder: Path
    ready: Ready
    said: dict[str, Any]
    ending: asyncio.Task[None] | None = None


def asked_for(body: Mapping[str, Any]) -> Asked:
    """The request `{"justification", "reason", "medical_emergency", "minutes"}`. Raises BadRequest."""
    unknown = set(body) - {"justification", "reason", "medical_emergency", "minutes"}
    if unknown:
        raise BadRequest(
            "The request has unknown keys.",
            hint="It takes justification, reason, medical_emergency, minutes; from a system requester, too.",
        )
    text, reason = body.get("justification"), body.get("reason")
    words = " ".join(text.split()) if isinstance(text, str) else ""
    if len(words) < SHORTEST or len(str(text)) > LONGEST or not words.isprintable():
        raise BadRequest(f"justification is a text of {SHORTEST} to {LONGEST} printable characters.")
    if reason not in REASONS:
        raise BadRequest(f"reason is one of: {', '.join(REASONS)}.")
    emergency, minutes = body.get("medical_emergency", False), body.get("minutes", MINUTES)
    if not isinstance(emergency, bool):
        raise BadRequest("medical_emergency is true or false.")
    if emergency and reason != EMERGENCY:
        raise BadRequest(
            f"medical_emergency: true goes with the reason {EMERGENCY} alone.",
            hint=f"Part 2 records open for a bona fide medical emergency only ({LAW_OF_PART2}).",
        )
    if isinstance(minutes, bool) or not isinstance(minutes, int) or not 1 <= minutes <= MOST_MINUTES:
        raise BadRequest(f"minutes is a whole number from 1 to {MOST_MINUTES}.")
    return Asked(words, reason, emergency, minutes)


class BreakGlass:
    """The open accesses of one broker. They do not outlive it."""

    def __init__(self, broker: Broker):
        self._broker = broker
        self._folder = broker.settings.lake / FOLDER
        self._open: dict[str, Access] = {}
        self._opening: Counter[str] = Counter()

    async def start(self) -> None:
        """Removes what a killed broker left behind, and says so in the log."""
        left = [path for path in self._folder.glob("*") if path.is_dir()]
        for path in left:
            await self._broker.record(
                "break-glass-ended", detail=path.name, reason="the broker had ended before"
            )
            await asyncio.to_thread(shutil.rmtree, path, True)

    async def stop(self) -> None:
        """Ends every access."""
        for access in list(self._open.values()):
            if access.ending is not None:
                access.ending.cancel()
            with contextlib.suppress(WorkbenchError):
                await self._end(access, "the broker ends")

    async def open(self, caller: Caller, member: str, asked: Asked) -> dict[str, Any]:
        """`{"access", "until", …}` of a new access. Raises BreakGlassRefused, UnknownMember, GrantRefused …"""
        async with self._broker.reading(
            caller, statement="break-glass", subject=member, channel=_channel(caller)
        ) as reading:
            grant = reading.grant
            self._may(caller, grant)
            # Before anything is awaited, so that many at once are counted, too.
            self._opening[caller.user] += 1
            access = secrets.token_hex(16)
            folder = self._folder / access
            said = {
                **who(caller),
                "release": reading.release.id,
                "subject": self._broker.audit.subject(member),
                "query_id": reading.id,
                "statement": f"break-glass {access[:8]}",
            }
            included = frozenset(Category(name) for name in grant.sensitive.included) - {Category.PART2}
            if asked.medical_emergency:
                included |= {Category.PART2}
            try:
                await self._broker.record(
                    "break-glass", **said, code=asked.reason, reason=asked.justification, detail=_terms(asked)
                )
                ready = await asyncio.to_thread(
                    self._build, reading.release, grant, member[: answers.LONGEST_ID + 1], included, folder
                )
                await reading.admitted()
                until = datetime.now(UTC) + timedelta(minutes=asked.minutes)
                found = Access(access, member, caller.user, caller.grant, until, asked, folder, ready, said)
                self._open[access] = found
            except BaseException:
                await asyncio.to_thread(shutil.rmtree, folder, True)
                raise
            finally:
                self._opening -= Counter({caller.user: 1})
            found.ending = asyncio.create_task(self._end_in_time(found))
        return {
            "access": access,
            "until": until.isoformat(timespec="seconds"),
            "record": f"/break-glass/{access}/record",
            "part2": asked.medical_emergency,
            "alerts": "The auditors are told of this access, and of every look at it.",
        }

    async def record(self, caller: Caller, access: str) -> Response:
        """The record of an open access, for the one who opened it. Raises UnknownAccess, GrantRefused …"""
        found = self._open.get(access)
        late = found is not None and datetime.now(UTC) >= found.until
        if found is None or late or (found.user, found.grant) != (caller.user, caller.grant):
            raise UnknownAccess(
                "There is no such access of yours, or its time is up.",
                hint="POST /members/{id}/break-glass asks for a new one.",
            )
        async with self._broker.reading(
            caller, statement="break-glass record", tables=[RECORD], subject=found.member,
            channel=_channel(caller),
        ) as reading:  # fmt: skip
            self._may(caller, reading.grant, opening=False)
            await self._broker.record("break-glass-read", **{**found.said, "query_id": reading.id})
            said, row = await answers.look_up(reading, found.ready, found.member, RECORD)
            body = answers.record_body(reading, found.ready, found.member, json.loads(row))
            if found.asked.medical_emergency:
                body["notice"] = NOTICE_2_32
                said[NOTICE_HEADER] = NOTICE_NAME
            body["break_glass"] = {
                "reason": found.asked.reason,
                "until": found.until.isoformat(timespec="seconds"),
                "part2": LAW_OF_PART2 if found.asked.medical_emergency else None,
            }
            answer = answers.json_bytes(body)
            reading.count(rows=1, bytes=len(answer), members={found.member})
        return answers.json_response(answer, reading.grant, found.ready, said)

    def _may(self, caller: Caller, grant: Grant, *, opening: bool = True) -> None:
        """Raises BreakGlassRefused."""
        reason = None
        if not grant.break_glass:
            reason = f"Grant {grant.name} does not allow break-glass."
        elif grant.level != Level.IDENTIFIED or Purpose.RESEARCH in grant.purposes:
            reason = "Break-glass is for treatment at level identified, never for research."
        elif caller.purpose != Purpose.TREATMENT:
            reason = "Break-glass is for the purpose treatment."
        elif caller.channel in NEVER_FROM:
            reason = "Break-glass is for a person who treats: not for apps and reports, which others read."
        if reason is not None:
            raise BreakGlassRefused(reason, hint=f"{grant.approver} can say who may.")
        mine = [a for a in self._open.values() if a.user == caller.user]
        if opening and len(mine) + self._opening[caller.user] >= MOST_OPEN:
            ends = min((access.until for access in mine), default=datetime.now(UTC))
            raise TooManyAccesses(max(1, int((ends - datetime.now(UTC)).total_seconds()) + 1))

    def _build(
        self, release: Any, grant: Grant, member: str, included: frozenset[Category], folder: Path
    ) -> Ready:
        """The member's slice and its record store, below the access's folder. Runs in a thread."""
        source = ensure_member(release, grant, member, included, folder, silent)
        store = publish_apart(
            folder, f"{source.id}-record", lambda con, work: build_record(con, work, source, silent)
        )
        if not store.manifest["tables"][RECORD]["rows"]:
            raise answers.unknown_member()
        parts = {RECORD: tuple(store.manifest["tables"][RECORD]["parts"])}
        return Ready(store, {}, Mount(store.id, store.path, "record", parts))

    async def _end_in_time(self, access: Access) -> None:
        await asyncio.sleep((access.until - datetime.now(UTC)).total_seconds())
        try:
            await self._end(access, "its time is up")
        except WorkbenchError as error:
            _log.error("the end of a break-glass access was not recorded: %s", error.code)

    async def _end(self, access: Access, reason: str) -> None:
        """Takes the data away first; then says so."""
        if self._open.pop(access.id, None) is None:
            return
        self._broker.pool.cut(access.ready.slice.id, "break-glass-ended")
        await asyncio.to_thread(shutil.rmtree, access.folder, True)
        await self._broker.record("break-glass-ended", **access.said, reason=reason)


def _terms(asked: Asked) -> str:
    part2 = f"Part 2 under {LAW_OF_PART2}" if asked.medical_emergency else "without Part 2"
    return f"{asked.minutes} minutes, {part2}"


def _channel(caller: Caller) -> Channel | None:
    """A server's own channel is enough; on the listener it is the LMR API's."""
    return None if caller.channel in ("notebook", *NEVER_FROM) else Channel.LMR_API
