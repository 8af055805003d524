"""A square-tile map of California's 58 counties as SVG text: one tile a county, as large for Alpine as for Los Angeles.

A hidden county is hatched, one without anybody is blank; colour never stands alone, because each tile says its number
when it is pointed at and the table below says it in words.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from workbench.client.show import SYNTHETIC_MARK
from workbench.client.tabulation import Tabulation
from workbench.schema.counties import counties

SIDE, GAP = 40, 3
SHADES = ("#d5efec", "#a3dbd5", "#63bcb4", "#2a948c", "#0f766e", "#0b4f4a")
"""Low to high, in steps of equal lightness; the two darkest carry white words."""
EMPTY, INK, LIGHT, SOFT, MARK = "#f1f5f9", "#0f172a", "#ffffff", "#475569", "#b45309"
FONT = "font-family:system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif"


def county_map(tabulation: Tabulation) -> str:
    """The map of a table whose only dimension is `county`, shaded by its rate, or by its count."""
    value = "rate" if tabulation.is_rate else "value"
    rows = {row["county"]: row for row in tabulation.parts}
    known = [row[value] for row in rows.values() if not row["hidden"] and row[value]]
    top = max(known, default=0) or 1
    tiles = [_tile(code, rows.get(code), value, top, tabulation.mark) for code in counties()]
    width = max(c.tile_col for c in counties().values()) * (SIDE + GAP)
    height = max(c.tile_row for c in counties().values()) * (SIDE + GAP)
    words = [
        f'<text x="0" y="{height - 24}" font-size="8" fill="{SOFT}">hatched: {html.escape(tabulation.mark)}</text>',
        f'<text x="0" y="{height - 10}" font-size="8" fill="{SOFT}">pale: nobody</text>',
    ]
    if tabulation.synthetic:
        words.append(
            f'<text x="{width - GAP}" y="12" text-anchor="end" font-size="8" font-weight="700" fill="{MARK}">'
            f"{SYNTHETIC_MARK}</text>"
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" style="{FONT}">'
        '<defs><pattern id="wb-hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect width="6" height="6" fill="#f8fafc"/><rect width="2" height="6" fill="#cbd5e1"/></pattern></defs>'
        f"{''.join([*tiles, *words])}</svg>"
    )


def _tile(code: str, row: Mapping[str, Any] | None, value: str, top: float, mark: str) -> str:
    county = counties()[code]
    x, y = (county.tile_col - 1) * (SIDE + GAP), (county.tile_row - 1) * (SIDE + GAP)
    amount = row[value] if row is not None and not row["hidden"] else None
    if row is not None and row["hidden"]:
        fill, ink, said = "url(#wb-hatch)", INK, mark
    elif not amount:
        fill, ink, said = EMPTY, INK, "nobody" if value == "value" else "no visit"
    else:
        step = min(int(amount / top * len(SHADES)), len(SHADES) - 1)
        fill, ink = SHADES[step], LIGHT if step >= 4 else INK
        said = f"{amount:.1%}" if value == "rate" else f"{amount:,}"
    name = html.escape(county.name)
    return (
        f'<g class="wb-tile"><title>{name}: {html.escape(said)}</title>'
        f'<rect x="{x}" y="{y}" width="{SIDE}" height="{SIDE}" rx="4" fill="{fill}"/>'
        f'<text x="{x + SIDE / 2}" y="{y + SIDE / 2 + 4}" text-anchor="middle" font-size="11" fill="{ink}">'
        f"{_short(county.name)}</text></g>"
    )


def _short(name: str) -> str:
    """Four letters: initials of two words with what follows, else the beginning."""
    words = name.split()
    return f"{words[0][0]}.{words[-1][:3]}" if len(words) > 1 else name[:4]
