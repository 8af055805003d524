"""The one family of errors that users meet: what was refused, why, and what to do next; never a data value."""

from __future__ import annotations


class WorkbenchError(Exception):
    """A refusal or failure that a user can act on.

    `code` is stable and short (kebab-case), `reason` is one or two sentences without data values or paths of
    the host, `hint` says what to do next. `http_status` is what the broker answers with.
    """

    code = "error"
    http_status = 400

    def __init__(self, reason: str, *, hint: str = "", code: str | None = None, http_status: int | None = None):
        super().__init__(reason if not hint else f"{reason} {hint}")
        self.reason = reason
        self.hint = hint
        if code is not None:
            self.code = code
        if http_status is not None:
            self.http_status = http_status

    def as_json(self) -> dict[str, str]:
        """The error as the broker sends it."""
        return {"code": self.code, "reason": self.reason, "hint": self.hint}
