"""Lab's page with the mark of synthetic data."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

MARK = """<style>
body::after { content: "SYNTHETIC DATA"; position: fixed; top: 4px; right: 16px; z-index: 10000; padding: 1px 12px;
  border-radius: 999px; background: #fef3c7; color: #7c2d12; font: 600 12px/18px system-ui, sans-serif;
  pointer-events: none; }
</style></head>"""


def marked_templates() -> Path:
    """A folder with Lab's own page templates, the mark added to each."""
    folder = Path(tempfile.mkdtemp(prefix="lab-"))
    for template in (Path(sys.prefix) / "share" / "jupyter" / "lab" / "static").glob("*.html"):
        page = template.read_text(encoding="utf-8").replace("</head>", MARK, 1)
        (folder / template.name).write_text(page, encoding="utf-8")
    return folder
