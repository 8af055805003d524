"""A consent that is given, revoked or lapses counts on the channels at once: record, feed, and answers on their way."""

from __future__ import annotations

import asyncio
import io

import pyarrow.parquet as pq
import pytest
from broker_world import until
from channel_world import CARE, Api, Holder
from slice_world import PART2, A

from workbench.broker.caller import Caller
from workbench.broker.channels import answers

pytestmark = pytest.mark.sandbox


def _decide(served: Api, *, revoked: bool) -> None:
    decision = {
        "member_id": A,
        "recipient": "sierra-vista",
        "scope": "part2",
        "from": "2026-01-01",
        "revoked": "yes" if revoked else "no",
        "source": "form 7",
    }
    reply = served.world.control("POST", "/consents", {"decisions": [decision]})
    assert reply.status in (200, 201), reply.json


def _diagnoses(care: Holder) -> set[str]:
    found = care.ask("GET", f"/members/{A}/record").json["sections"]["conditions"]["content"]
    return {row["code"] for row in found}


def _feed_claims(care: Holder) -> set[str]:
    read = pq.read_table(io.BytesIO(care.ask("GET", "/feed/medical_claim").body))
    return set(read["claim_id"].to_pylist())


def test_a_record_and_the_feed_follow_a_consent_from_the_next_request_on(served: Api, care: Holder) -> None:
    assert _diagnoses(care) == {"I10"}
    assert PART2 not in _feed_claims(care)
    _decide(served, revoked=False)
    assert _diagnoses(care) == {"I10", "F1020"}
    assert PART2 in _feed_claims(care)
    _decide(served, revoked=True)
    assert _diagnoses(care) == {"I10"}
    assert PART2 not in _feed_claims(care)


def test_what_rested_on_another_consent_is_removed_though_nobody_asks_for_the_slice_itself(
    served: Api, care: Holder
) -> None:
    _decide(served, revoked=True)
    assert _diagnoses(care) == {"I10"}
    assert PART2 not in _feed_claims(care)

    def kept() -> list[str]:
        manifests = [s["manifest"] for s in served.world.control("GET", "/slices").json["slices"]]
        return sorted(m["kind"] for m in manifests if m["grant"] == CARE)

    until(lambda: kept() == ["feed", "record", "slice"])


def test_a_file_of_the_feed_that_is_on_its_way_is_cut_when_a_consent_is_revoked(
    served: Api, care: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    _decide(served, revoked=False)
    assert PART2 in _feed_claims(care)
    monkeypatch.setattr(answers, "PIECE", 64)
    broker = served.service.broker
    caller = Caller("client:care-platform", CARE, "treatment", "feed", server="api")

    async def cut() -> tuple[int, str]:
        file = await answers.feed_file(broker, caller, "medical_claim", 0)
        taken = len(await anext(file.chunks))
        await asyncio.to_thread(_decide, served, revoked=True)
        try:
            async for piece in file.chunks:
                taken += len(piece)
        except answers.ConsentChanged as error:
            return taken, error.code
        return taken, "whole"

    taken, code = served.in_the_service(cut())
    assert (taken, code) == (64, "consent-changed")
    until(lambda: any(e["event"] == "ended" and e["code"] == "consent-changed" for e in served.world.log()))
