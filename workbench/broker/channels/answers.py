"""What the channels answer: a member's record, a member's risk, the plan data feed. One way for every socket.

A member outside the slice and a member who does not exist get one and the same answer. No error says an id.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from starlette.responses import Response

from workbench.broker.caller import Answer, Caller, notice_of, stamps
from workbench.broker.channels.record_store import MEMBER, RECORD, RISK
from workbench.broker.core import Broker
from workbench.broker.grants import Channel, Grant, Level
from workbench.broker.reading import Reading
from workbench.broker.shelf import Ready
from workbench.errors import WorkbenchError
from workbench.lib import lmr, risk
from workbench.schema import dictionary

LONGEST_ID = 64
"""Characters of a member's id; a longer one is nobody's."""
PIECE = 1 << 20
"""Bytes of a feed file that are read at once."""
SYNTHETIC = "SYNTHETIC DATA: nobody in it exists."
PARQUET = "application/vnd.apache.parquet"
_TOLD = {RECORD: Channel.LMR_API, RISK: Channel.RISK_API}


class UnknownMember(WorkbenchError):
    """The slice has no such member; whether anybody has this id is not told."""

    code = "unknown-member"
    http_status = 404


class NotIdentified(WorkbenchError):
    """Members are looked up by their own ids, which only an identified slice has."""

    code = "not-identified"
    http_status = 403


class ConsentChanged(WorkbenchError):
    """A consent that the answer rests on changed while it was on its way."""

    code = "consent-changed"
    http_status = 409


class UnknownFeedPart(WorkbenchError):
    """The feed has no such table, or the table no such part."""

    code = "unknown-feed-part"
    http_status = 404


def unknown_member() -> UnknownMember:
    """The one answer for every id that the slice does not have."""
    return UnknownMember(
        "There is no such member in what this grant permits.",
        hint="Check the id; GET /whoami says whose members these are.",
    )


async def record(broker: Broker, caller: Caller, member: str) -> Response:
    """The longitudinal record of one member. Raises UnknownMember, GrantRefused, SliceBuilding, DayLimitReached …"""
    async with broker.reading(
        caller, statement="record", tables=[RECORD], subject=member, channel=_TOLD[RECORD]
    ) as reading:
        ready = await _look_in(reading)
        said, found = await look_up(reading, ready, member, RECORD)
        _still_given(broker, ready)
        answer = json_bytes(record_body(reading, ready, member, json.loads(found)))
        await _give(reading, member, answer)
    return json_response(answer, reading.grant, ready, said)


async def risk_of(broker: Broker, caller: Caller, member: str) -> Response:
    """The risk tier of one member. Raises what `record` raises."""
    async with broker.reading(
        caller, statement="risk", tables=["risk_tier"], subject=member, channel=_TOLD[RISK]
    ) as reading:
        ready = await _look_in(reading)
        said, found = await look_up(reading, ready, member, RISK)
        _still_given(broker, ready)
        answer = json_bytes(
            {
                MEMBER: member,
                **provenance(reading, ready),
                "label": risk.LABEL,
                "caution": lmr.CAUTION,
                "risk": _tier(json.loads(found)),
            }
        )
        await _give(reading, member, answer)
    return json_response(answer, reading.grant, ready, said)


async def _look_in(reading: Reading) -> Ready:
    if reading.grant.level != Level.IDENTIFIED:
        raise NotIdentified(
            f"Grant {reading.grant.name} is of level {reading.grant.level}: its members have no ids to be asked by.",
            hint="Look-ups need a grant of level identified.",
        )
    return await reading.ready("record")


async def look_up(reading: Reading, ready: Ready, member: str, column: str) -> tuple[dict[str, str], str]:
    """Headers of the answer, and the member's row as JSON. The admission is durable. Raises UnknownMember."""
    lease = await reading.lease(ready)
    found = await lease.lookup(member[: LONGEST_ID + 1], column)
    await reading.admitted()
    if found is None:
        raise unknown_member()
    return {"X-Query-Id": reading.id}, found


def _still_given(broker: Broker, ready: Ready) -> None:
    """Raises ConsentChanged where the slice is not given any more."""
    if not broker.shelf.is_current(ready):
        raise ConsentChanged(
            "A member's consent changed while the answer was made, so it was cut off.",
            hint="Ask again: the answer comes from what may be seen now.",
        )


async def _give(reading: Reading, member: str, answer: bytes) -> None:
    reading.count(rows=1, bytes=len(answer), members={member})


def provenance(reading: Reading, ready: Ready) -> dict[str, Any]:
    """Where an answer comes from: what every JSON of these channels begins with."""
    manifest = ready.slice.manifest
    return {
        "synthetic": ready.slice.synthetic,
        **({"mark": SYNTHETIC} if ready.slice.synthetic else {}),
        "release": manifest["release"],
        "as_of": manifest["as_of"],
        "complete_through": ready.slice.fitness["complete_through"],
        "grant": reading.grant.name,
        "purpose": reading.caller.purpose,
        "query": reading.id,
        **notice_of(reading.grant),
    }


def record_body(reading: Reading, ready: Ready, member: str, found: dict[str, Any]) -> dict[str, Any]:
    """A record as the LMR API gives it: each section with its date, its sources, and its rows or why it is missing."""
    as_of = ready.slice.manifest["as_of"]
    sections: dict[str, Any] = {}
    for name, about in ready.slice.manifest["sections"].items():
        sections[name] = {"title": about["title"], "as_of": as_of, "families": about.get("families", [])}
        if name in found:
            sections[name]["content"] = _tier(found[name]) if name == "risk" else found[name]
        else:
            sections[name]["missing"] = about["missing"]
    return {
        MEMBER: member,
        **provenance(reading, ready),
        "caution": lmr.CAUTION,
        "sections": sections,
    }


def _tier(row: dict[str, Any] | None) -> dict[str, Any] | None:
    """A row of `risk_tier` with its reasons in words; None for a member who has no tier."""
    if row is None:
        return None
    says = {p.code: p.says for p in risk.PREDICTORS}
    reasons = [code for code in str(row.get("reasons") or "").split(",") if code]
    return {
        "tier": row["tier"],
        "age_band": row["age_band"],
        "as_of": row["as_of_date"],
        "scores": {name: row[name] for name in risk.SUBDOMAINS},
        "reasons": [{"code": code, "says": says.get(code, code)} for code in reasons],
        "label": risk.LABEL,
    }


def json_bytes(content: dict[str, Any]) -> bytes:
    """The bytes that are counted and sent."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def json_response(answer: bytes, grant: Grant, ready: Ready, more: dict[str, str]) -> Response:
    """JSON that no cache keeps, with what every answer of data says in its head."""
    headers = {"Cache-Control": "no-store", **stamps(grant, ready.slice), **more}
    return Response(answer, media_type="application/json", headers=headers)


async def feed(broker: Broker, caller: Caller) -> Response:
    """The feed's manifest: tables with columns and files, each with rows, bytes, SHA-256 and where to get it."""
    async with broker.reading(caller, statement="feed", channel=Channel.FEED) as reading:
        ready = await reading.ready("feed")
        manifest = ready.slice.manifest
        tables = {
            name: {
                **{key: entry[key] for key in ("grain", "about", "rows", "columns", "withheld")},
                "files": [
                    {"path": f"/feed/{name}?part={number}", **file}
                    for number, file in enumerate(entry["files"])
                ],
            }
            for name, entry in manifest["tables"].items()
        }
        answer = json_bytes(
            {
                **provenance(reading, ready),
                "level": str(reading.grant.level),
                "tables": tables,
                "tables_withheld": manifest["tables_withheld"],
            }
        )
        reading.count(bytes=len(answer))
        await reading.admitted()
    return json_response(answer, reading.grant, ready, {"X-Query-Id": reading.id})


@dataclass
class FeedFile(Answer):
    """One file of the feed on its way to its caller."""

    file: dict[str, Any]
    parts: int

    @property
    def headers(self) -> dict[str, str]:
        """Where it comes from, its hash and its size."""
        return {
            **super().headers,
            "Content-Length": str(self.file["bytes"]),
            "ETag": f'"{self.file["sha256"]}"',
            "X-Workbench-SHA256": str(self.file["sha256"]),
            "X-Workbench-Rows": str(self.file["rows"]),
            "X-Workbench-Parts": str(self.parts),
        }


async def feed_file(broker: Broker, caller: Caller, table: str, part: int) -> FeedFile:
    """One Parquet file of the feed. Rows and bytes are counted before it leaves. Raises UnknownFeedPart …"""
    known = table if table in dictionary() else "unknown"
    words = f"feed {known} part {part}"
    reading = broker.reading(caller, statement=words, tables=[known], channel=Channel.FEED)
    entry: dict[str, Any] = {}
    chunks = _pieces(broker, reading, words, known, part, entry)
    await anext(chunks)
    return FeedFile(
        reading.id, reading.grant, reading.slice, chunks, entry["files"][part], len(entry["files"])
    )


async def _pieces(
    broker: Broker, reading: Reading, words: str, table: str, part: int, entry: dict[str, Any]
) -> AsyncGenerator[bytes, None]:
    """Nothing as soon as the file's bytes may leave, and fills `entry`; then the bytes. Closing it ends the reading."""
    async with reading:
        ready = await reading.ready("feed")
        entry |= ready.slice.manifest["tables"].get(table, {"files": []})
        if not 0 <= part < len(entry["files"]):
            raise UnknownFeedPart(
                "The feed has no such file.", hint="GET /feed lists the tables and their parts."
            )
        reading.says(words, [table], [column["name"] for column in entry["columns"]])
        file, path = entry["files"][part], ready.slice.path / entry["parts"][part]
        members = await asyncio.to_thread(_members, path)
        reading.count(rows=file["rows"], bytes=file["bytes"], members=members)
        await reading.admitted()
        with path.open("rb") as handle:
            yield b""
            while piece := await asyncio.to_thread(handle.read, PIECE):
                _still_given(broker, ready)
                broker.permit(reading.caller, channel=Channel.FEED)
                yield piece


def _members(path: Path) -> frozenset[str] | None:
    """The members (or tokens) of a file, read a batch at a time; None where it is about nobody."""
    with pq.ParquetFile(path) as file:
        if MEMBER not in file.schema_arrow.names:
            return None
        batches = file.iter_batches(columns=[MEMBER])
        return frozenset(chain.from_iterable(batch[MEMBER].unique().to_pylist() for batch in batches))
