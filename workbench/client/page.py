"""Pieces of an app's page in the house style: band, headline cards, figure, table, notes. HTML text, no scripts."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from workbench.client.show import INSECURE, SYNTHETIC_MARK, insecure
from workbench.client.tabulation import Tabulation

STYLE = """
<style>
.wb h1 { font-size: 26px; line-height: 1.2; margin: 4px 0 4px; color: #0f2a43; font-weight: 700; }
.wb h2 { font-size: 19px; line-height: 1.3; margin: 0 0 2px; color: #0f2a43; font-weight: 700; }
.wb p { margin: 0 0 8px; }
.wb .wb-lead { color: #52616f; max-width: 46em; margin-bottom: 14px; }
.wb-band { background: #fff4e5; border: 1px solid #f0c78a; border-left: 6px solid #b45309; color: #5b2a05; border-radius: 8px;
  padding: 8px 14px; margin: 0 0 16px; font-size: 14px; }
.wb-band b { letter-spacing: .05em; margin-right: 6px; }
.wb-cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 0 0 16px; }
.wb-card { background: #fff; border: 1px solid #d9e1e8; border-radius: 12px; padding: 14px 16px; min-width: 0; }
.wb-card .wb-n { font-size: 28px; line-height: 1.15; font-weight: 700; color: #0b6e75; font-variant-numeric: tabular-nums; }
.wb-card .wb-t { font-size: 14px; font-weight: 600; color: #1e293b; }
.wb-card .wb-s { font-size: 13px; color: #52616f; }
.wb-box { background: #fff; border: 1px solid #d9e1e8; border-radius: 12px; padding: 18px 20px; margin: 0 0 16px; min-width: 0; }
.wb-box .wb-unit { color: #52616f; font-size: 14px; margin-bottom: 8px; }
.wb-fig svg { display: block; width: 100%; height: auto; max-width: 100%; }
.wb-fig .wb-narrow { display: none; }
.wb-two { display: flex; gap: 20px; align-items: flex-start; }
.wb-two .wb-wide { flex: 1 1 60%; min-width: 0; }
.wb-map { flex: 0 1 300px; min-width: 0; }
.wb-map svg { display: block; width: 100%; height: auto; }
.wb-scroll { overflow-x: auto; }
.wb table.wb-table { border-collapse: collapse; width: 100%; font-size: 15px; font-variant-numeric: tabular-nums; margin: 0; }
.wb table.wb-table th { text-align: right; font-weight: 600; font-size: 13px; color: #52616f; border-bottom: 2px solid #b8c4ce; padding: 6px 10px; background: #fff; }
.wb table.wb-table td { text-align: right; padding: 6px 10px; border-bottom: 1px solid #e6ebef; background: #fff; }
.wb table.wb-table th:first-child, .wb table.wb-table td:first-child { text-align: left; padding-left: 0; white-space: normal; }
.wb table.wb-table td.wb-hidden { color: #52616f; font-style: italic; }
.wb .wb-note { font-size: 14px; color: #52616f; margin: 12px 0 0; }
.wb-foot { font-size: 13px; color: #52616f; border-top: 1px solid #d9e1e8; padding-top: 10px; }
.wb-refused { border-left: 6px solid #b45309; }
@media (max-width: 640px) {
  .wb-page { padding: 14px 14px 32px !important; }
  .wb-top-in { padding: 10px 14px !important; }
  .wb h1 { font-size: 22px; }
  .wb-cards { grid-template-columns: 1fr 1fr; gap: 10px; }
  .wb-card { padding: 12px; }
  .wb-card:first-child:nth-last-child(odd) { grid-column: 1 / -1; }
  .wb-card .wb-n { font-size: 23px; }
  .wb-box { padding: 14px 12px; }
  .wb-fig .wb-wide { display: none; }
  .wb-two { flex-direction: column; align-items: stretch; gap: 12px; }
  .wb-map { flex: none; width: 100%; max-width: 330px; margin: 0 auto; }
  .wb-fig .wb-narrow { display: block; }
  .wb table.wb-table th, .wb table.wb-table td { padding: 6px 5px; font-size: 14px; }
}
</style>
"""


@dataclass(frozen=True)
class Card:
    """One headline number."""

    title: str
    number: str
    about: str = ""


def head(title: str, lead: str, synthetic: bool) -> str:
    """The page's title, its first sentence, and the band that says when the data are invented."""
    return (
        STYLE
        + f'<div class="wb">{band(synthetic)}<h1>{_t(title)}</h1><p class="wb-lead">{_t(lead)}</p></div>'
    )


def band(synthetic: bool) -> str:
    """The bands over a page: of invented data, and of a broker without sandbox."""
    mark, words = INSECURE.split(": ", 1)
    found = [(SYNTHETIC_MARK, "Every person, plan and number on this page is invented.")] * synthetic
    found += [(mark, words)] * insecure()
    return "".join(
        f'<div class="wb-band" role="note"><b>{mark}</b> {_t(words)}</div>' for mark, words in found
    )


def cards(items: Iterable[Card]) -> str:
    """Headline numbers side by side, two in a row on a phone."""
    inner = "".join(
        f'<div class="wb-card"><div class="wb-t">{_t(c.title)}</div><div class="wb-n">{_t(c.number)}</div>'
        f'<div class="wb-s">{_t(c.about)}</div></div>'
        for c in items
    )
    return f'<div class="wb"><div class="wb-cards">{inner}</div></div>'


def figure(title: str, about: str, *, wide: str, phone: str, alt: str, map_svg: str = "") -> str:
    """A plot drawn twice, for a desk and for a phone; the style sheet shows one of them. A map stands beside it."""
    beside = f'<div class="wb-map">{map_svg}</div>' if map_svg else ""
    return (
        f'<div class="wb wb-box"><h2>{_t(title)}</h2><div class="wb-unit">{_t(about)}</div>'
        f'<div class="wb-fig{" wb-two" if map_svg else ""}" role="img" aria-label="{html.escape(alt, quote=True)}">'
        f'{beside}<div class="wb-wide">{wide}</div><div class="wb-narrow">{_own_ids(phone, "phone")}</div></div></div>'
    )


def _own_ids(svg: str, prefix: str) -> str:
    """The SVG with ids of its own: a hatch that it shared with a plot which is not displayed would not be drawn."""
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)


def table(tabulation: Tabulation, words: Mapping[str, str] | None = None) -> str:
    """The numbers under the plot, how much of them is hidden, and the verdict.

    `words` puts the app's own words in place of the table's headings, e.g. {"Events": "Visits"}.
    """
    heads = "".join(f"<th>{_t((words or {}).get(name, name))}</th>" for name in tabulation.headings)
    body = "".join(_row(row, tabulation.mark) for row in tabulation.text_rows())
    return (
        f'<div class="wb wb-box"><div class="wb-scroll"><table class="wb-table"><thead><tr>{heads}</tr></thead>'
        f'<tbody>{body}</tbody></table></div><p class="wb-note">{_t(tabulation.note)}</p></div>'
    )


def count(value: int | None, mark: str) -> str:
    """A count with separators, or the mark of a hidden one."""
    return mark if value is None else f"{value:,}"


def rate(value: float | None, mark: str) -> str:
    """A rate in per cent, or the mark of a hidden one."""
    return mark if value is None else f"{value:.1%}"


def refusal(reason: str, hint: str) -> str:
    """What stands in place of a figure that cannot be shown."""
    more = f"<p>{_t(hint)}</p>" if hint else ""
    return f'<div class="wb wb-box wb-refused"><h2>Not available</h2><p>{_t(reason)}</p>{more}</div>'


def foot(lines: Iterable[str]) -> str:
    """The page's last lines: release, rule, mark."""
    return '<div class="wb wb-foot">' + "".join(f"<p>{_t(line)}</p>" for line in lines if line) + "</div>"


def _row(texts: Sequence[str], mark: str) -> str:
    """One row; where its numbers are hidden, one mark stands for all of them."""
    shown = [text for text in texts if text != mark]
    cells = "".join(f"<td>{_t(text)}</td>" for text in shown)
    rest = len(texts) - len(shown)
    return (
        f"<tr>{cells}" + (f'<td class="wb-hidden" colspan="{rest}">{_t(mark)}</td>' if rest else "") + "</tr>"
    )


def _t(text: str) -> str:
    return html.escape(text)
