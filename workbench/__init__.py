"""Workbench: population health notebooks, reports and apps on governed Medi-Cal data.

In a notebook: `import workbench as wb; s = wb.connect()`. Names are imported when they are first used, so that the
command line and the services do not pay for the notebook's libraries.
"""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "connect": ("workbench.client", "connect"),
    "Session": ("workbench.client", "Session"),
    "WorkbenchError": ("workbench.errors", "WorkbenchError"),
    "lmr": ("workbench.lib.lmr", None),
    "measures": ("workbench.lib.measures", None),
    "plots": ("workbench.lib.plots", None),
    "risk": ("workbench.lib.risk", None),
}

__all__ = ["Session", "WorkbenchError", "connect", "lmr", "measures", "plots", "risk"]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    module_name, attribute = _NAMES[name]
    module = importlib.import_module(module_name)
    value = module if attribute is None else getattr(module, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
