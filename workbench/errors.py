"""The one family of errors that users meet: what was refused, why, and what to do next; never a data value."""

from __future__ import annotations

import html


class WorkbenchError(Exception):
    """A refusal or failure that a user can act on.

    `code` is stable and short (kebab-case), `reason` is one or two sentences without data values or paths of
    the host, `hint` says what to do next. `http_status` is what the broker answers with.
    """

    code = "error"
    http_status = 400

    def __init__(
        self, reason: str, *, hint: str = "", code: str | None = None, http_status: int | None = None
    ):
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

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback: the answer is in the words, not in our code."""
        lines = [f"{type(self).__name__} [{self.code}]: {self.reason}"]
        return [*lines, f"  → {self.hint}"] if self.hint else lines

    def _repr_html_(self) -> str:
        hint = f'<div style="margin-top:4px">→ {html.escape(self.hint)}</div>' if self.hint else ""
        return (
            '<div style="border-left:4px solid #b45309;background:#fff7ed;color:#431407;padding:8px 12px;'
            'font:13px/1.5 system-ui,sans-serif;max-width:60em">'
            f"<b>Refused</b> <code>{html.escape(self.code)}</code><div>{html.escape(self.reason)}</div>{hint}</div>"
        )
