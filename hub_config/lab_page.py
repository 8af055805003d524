"""Lab's page with the marks that nobody may overlook: invented data, a broker without sandbox."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

SYNTHETIC_MARK = "SYNTHETIC DATA"
INSECURE_MARK = "NO SANDBOX"

MARK = """<style>
body::after { content: "WORDS"; position: fixed; top: 4px; right: 16px; z-index: 10000; padding: 1px 12px;
  border-radius: 999px; background: GROUND; color: INK; font: 600 12px/18px system-ui, sans-serif;
  pointer-events: none; }
</style></head>"""
SYNTHETIC = {"WORDS": SYNTHETIC_MARK, "GROUND": "#fef3c7", "INK": "#7c2d12"}
INSECURE = {"WORDS": INSECURE_MARK, "GROUND": "#b42318", "INK": "#fff"}


def mark(*, synthetic: bool, insecure: bool) -> str:
    """The mark before the end of a page's head; empty where there is nothing to say. No sandbox says more than no people."""
    if not synthetic and not insecure:
        return ""
    said = dict(INSECURE if insecure else SYNTHETIC)
    if synthetic and insecure:
        said["WORDS"] = f"{INSECURE_MARK} · {SYNTHETIC_MARK}"
    text = MARK
    for name, value in said.items():
        text = text.replace(name, value)
    return text


def marked_templates(added: str) -> Path:
    """A folder with Lab's own page templates, the mark added to each."""
    folder = Path(tempfile.mkdtemp(prefix="lab-"))
    for template in (Path(sys.prefix) / "share" / "jupyter" / "lab" / "static").glob("*.html"):
        page = template.read_text(encoding="utf-8").replace("</head>", added, 1)
        (folder / template.name).write_text(page, encoding="utf-8")
    return folder
