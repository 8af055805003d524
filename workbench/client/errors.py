"""What can go wrong between a notebook and the broker, each with what to do next."""

from __future__ import annotations

from collections.abc import Mapping

from workbench.errors import WorkbenchError


class ClientError(WorkbenchError):
    """Any failure that the client reports."""


class BrokerUnreachable(ClientError):
    """Nothing answers on the broker's socket."""

    code = "broker-unreachable"
    http_status = 503


class NoToken(ClientError):
    """The environment holds no token for the broker."""

    code = "no-token"
    http_status = 401


class TokenRefused(ClientError):
    """The broker does not accept this server's token (401)."""

    code = "token-refused"
    http_status = 401


class BrokerRefusal(ClientError):
    """The broker understood and refused: not in the grant, not admitted by the SQL gate, unknown table (4xx)."""

    code = "refused"


class BrokerBusy(ClientError):
    """The broker asks to wait (429). `retry_after` is in seconds."""

    code = "busy"
    http_status = 429

    def __init__(self, reason: str, *, hint: str = "", code: str | None = None, retry_after: float = 1.0):
        super().__init__(reason, hint=hint, code=code)
        self.retry_after = retry_after


class BrokerFailure(ClientError):
    """The broker failed on its side (5xx)."""

    code = "broker-failed"
    http_status = 500


class ResultCutOff(ClientError):
    """The answer ended before its end mark: what arrived is incomplete and is not handed out."""

    code = "result-cut-off"
    http_status = 502


class NotInThisGrant(ClientError, AttributeError):
    """A table that this grant's slice does not hold."""

    code = "unknown-table"
    http_status = 404


class MemtableRefused(ClientError):
    """A local table was to be used in a query that the broker runs."""

    code = "memtable-refused"


class ReadOnly(ClientError):
    """Something other than reading was asked of the broker."""

    code = "read-only"
    http_status = 405


def from_response(status: int, body: Mapping[str, object], retry_after: str | None) -> ClientError:
    """The typed error for the broker's JSON `{"code", "reason", "hint"}`."""
    reason = str(body.get("reason") or f"The broker answered with status {status}.")
    hint = str(body.get("hint") or "")
    code = str(body["code"]) if body.get("code") else None
    if status == 401:
        return TokenRefused(
            reason, hint=hint or "Stop this server and start it again from the Hub's home page.", code=code
        )
    if status == 429:
        seconds = seconds_of(retry_after, default=1.0)
        return BrokerBusy(
            reason, hint=hint or f"Try again in {seconds:.0f} s.", code=code, retry_after=seconds
        )
    if status >= 500:
        return BrokerFailure(reason, hint=hint, code=code, http_status=status)
    return BrokerRefusal(reason, hint=hint, code=code, http_status=status)


def seconds_of(retry_after: str | None, *, default: float) -> float:
    """Retry-After in seconds; `default` where it is missing or a date."""
    try:
        return max(0.0, float(retry_after)) if retry_after is not None else default
    except ValueError:
        return default
