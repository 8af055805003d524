"""What the audit's events say: of a caller, of an error, of an outcome, and what the report service may tell."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from workbench.broker.caller import Caller
from workbench.errors import WorkbenchError

REPORT_EVENTS = frozenset({"report-viewed", "report-refused", "report-ran"})
"""The events that a service of this site may add to the chain. Decisions and reads of the broker are its own, and so
are looks into the log, on a page or elsewhere: the broker records them as it answers."""
_NEEDED = ("report", "grant", "user", "outcome")
_LONGEST = {"report": 128, "grant": 128, "user": 128, "outcome": 32, "key": 256, "code": 64}
"""Characters of a field, as the log's columns take them."""


class UntellableEvent(WorkbenchError):
    """An event that is not one of the closed list, or does not say what it must."""

    code = "untellable-event"


def report_event(body: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Kind and columns of `{"event", "report", "grant", "user", "outcome"[, "key", "code"]}`. Raises UntellableEvent."""
    event = body.get("event")
    if not isinstance(event, str) or event not in REPORT_EVENTS:
        raise UntellableEvent(
            "There is no such event to tell.", hint=f"It can be: {', '.join(sorted(REPORT_EVENTS))}."
        )
    unknown = set(body) - {"event", *_LONGEST}
    missing = [name for name in _NEEDED if not body.get(name)]
    if unknown or missing:
        raise UntellableEvent(
            "The event says too much or too little.",
            hint=f"It says event, {', '.join(_NEEDED)}; key and code may be.",
        )
    for name, longest in _LONGEST.items():
        value = body.get(name, "")
        if not isinstance(value, str) or len(value) > longest or not value.isprintable():
            raise UntellableEvent(f"The event's {name!r} is no short text.")
    return event, {
        "user": body["user"],
        "grant": body["grant"],
        "channel": "reports",
        "statement": f"report {body['report']}",
        "detail": body.get("key") or None,
        "outcome": body["outcome"],
        "code": body.get("code") or None,
    }


BROKER_ENDED = {
    "outcome": "failed",
    "code": "broker-ended",
    "reason": "The broker ended before the answer did; how much of it had left is not known.",
}
"""The end that the next broker writes for a read of one that was killed."""


def who(caller: Caller) -> dict[str, Any]:
    """The columns that name a caller."""
    return {
        "user": caller.user,
        "grant": caller.grant,
        "purpose": caller.purpose,
        "channel": caller.channel,
        "server": caller.server or None,
    }


def why(error: WorkbenchError) -> dict[str, str]:
    """The columns that give a refusal's reason: without the names that only the caller wrote (`GateRefusal.recorded`)."""
    return {"code": error.code, "reason": str(getattr(error, "recorded", error.reason))}


def outcome(error: BaseException | None) -> tuple[str, dict[str, str]]:
    """How a read ended, and why."""
    if error is None:
        return "answered", {}
    if isinstance(error, WorkbenchError):
        return "failed", why(error)
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "cancelled", {"code": "cancelled", "reason": "The caller went away."}
    return "failed", {"code": "broker-error", "reason": type(error).__name__}


def milliseconds(started: float) -> float:
    """Since `started` (perf_counter)."""
    return round((time.perf_counter() - started) * 1000, 1)
