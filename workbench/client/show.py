"""How the client's answers look in a notebook: small HTML without outside links, and plain text beside it."""

from __future__ import annotations

import html
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDEST_CELL = 60
SYNTHETIC_MARK = "SYNTHETIC DATA"
INSECURE_MARK = "NO SANDBOX"
INSECURE = "NO SANDBOX: this broker runs queries without one. It is not for people's data."

_PANEL = (
    "font:13px/1.45 system-ui,-apple-system,'Segoe UI',sans-serif;color:#0f172a;background:#fff;"
    "border:1px solid #cbd5e1;border-radius:6px;display:inline-block;max-width:100%;overflow-x:auto"
)
_HEAD = "text-align:left;padding:4px 12px;background:#f1f5f9;color:#0f172a;font-weight:600;white-space:nowrap"
_CELL = "padding:3px 12px;border-top:1px solid #e2e8f0;white-space:nowrap;color:#0f172a;text-align:left"
_NOTE = (
    "font:12px/1.45 system-ui,-apple-system,'Segoe UI',sans-serif;color:#475569;border-left:3px solid #b45309;"
    "padding:2px 10px;margin:6px 0;max-width:100ch"
)
_MARK = (
    "display:inline-block;background:#b45309;color:#fff;font-weight:700;font-size:11px;letter-spacing:.04em;"
    "border-radius:3px;padding:1px 6px;margin-right:8px"
)


class _Broker:
    """What is to be said of the broker that this process asks, once and on everything that it shows."""

    insecure = False
    noticed = ""


def tell_of_broker(*, insecure: bool, notice: str) -> None:
    """Shows the notice that accompanies the answers (42 CFR 2.32) and the lack of a sandbox, each once."""
    if insecure and not _Broker.insecure:
        _say(INSECURE)
    if notice and notice != _Broker.noticed:
        _say(notice)
    _Broker.insecure, _Broker.noticed = insecure, notice or _Broker.noticed


def _say(text: str) -> None:
    """A paragraph in a notebook, a report or an app; elsewhere printed lines."""
    if _shell() is None:
        print(textwrap.fill(text, 110))
        return
    from IPython.display import display

    display({"text/html": f'<p style="{_NOTE}">{html.escape(text)}</p>', "text/plain": text}, raw=True)


def _shell() -> Any:
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def insecure() -> bool:
    """Whether the broker that this process asks runs queries without a sandbox."""
    return _Broker.insecure


class Raw(str):
    """HTML that is already safe."""


class Words(str):
    """A sentence: shown whole, over as many lines as it needs."""


def cell(value: object) -> str:
    """One value as text: empty for NULL, cut where it is long."""
    if value is None:
        return ""
    if isinstance(value, Words):
        return value
    text = (
        f"{value:,}"
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000
        else str(value)
    )
    return text if len(text) <= WIDEST_CELL else text[: WIDEST_CELL - 1] + "…"


def html_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A plain table; numbers to the right, NULL as a grey dash."""
    head = "".join(f'<th style="{_HEAD}">{html.escape(name)}</th>' for name in columns)
    body = "".join("<tr>" + "".join(_html_cell(value) for value in row) + "</tr>" for row in rows)
    return (
        '<table style="border-collapse:collapse;margin:0;font-variant-numeric:tabular-nums">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _html_cell(value: object) -> str:
    if isinstance(value, Raw):
        return f'<td style="{_CELL}">{value}</td>'
    if isinstance(value, Words):
        return f'<td style="{_CELL};white-space:normal;max-width:60ch">{html.escape(value)}</td>'
    if value is None:
        return f'<td style="{_CELL};color:#94a3b8">–</td>'
    align = ";text-align:right" if isinstance(value, int | float) and not isinstance(value, bool) else ""
    return f'<td style="{_CELL}{align}">{html.escape(cell(value))}</td>'


def panel(body: str, caption: str, *, note: str = "", synthetic: bool = False) -> str:
    """A table with its caption, its verdict and the mark of invented data."""
    marks = [SYNTHETIC_MARK] * synthetic + [INSECURE_MARK] * insecure()
    mark = "".join(f'<span style="{_MARK}">{text}</span>' for text in marks)
    text = html.escape(caption.replace(f"{SYNTHETIC_MARK} · ", ""))
    verdict = (
        f'<div style="color:#475569;margin-top:2px;white-space:normal">{html.escape(note)}</div>'
        if note
        else ""
    )
    return (
        f'<div style="{_PANEL}">{body}'
        f'<div style="padding:5px 12px;border-top:1px solid #cbd5e1;background:#f8fafc">{mark}{text}{verdict}</div></div>'
    )


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a plain-text table."""
    widths = [max(len(name), *(len(row[i]) for row in rows), 0) for i, name in enumerate(columns)]
    lines = ["  ".join(name.ljust(width) for name, width in zip(columns, widths, strict=True)).rstrip()]
    lines.append("  ".join("-" * width for width in widths))
    lines += [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return lines


def figures_as_svg() -> None:
    """In a notebook, shows matplotlib figures as SVG in the house fonts. Nothing is imported for it."""
    shell = _shell()
    if shell is not None:
        formatter = shell.display_formatter.formatters["image/svg+xml"]
        formatter.for_type_by_name("matplotlib.figure", "Figure", _svg)


def _svg(figure: Figure) -> str:
    from workbench.lib.plots import to_svg

    return to_svg(figure)
