"""Promise: the first notebook runs from top to bottom under every grant that opens a notebook."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import client_world
import pytest

from workbench.settings import PROJECT

pytestmark = pytest.mark.sandbox
NOTEBOOK = PROJECT / "notebooks" / "examples" / "first-notebook.ipynb"


@pytest.fixture(scope="module")
def world() -> Iterator[client_world.World]:
    with client_world.world() as running:
        yield running


def run(world: client_world.World, grant: str, folder: Path) -> list[dict[str, Any]]:
    """Runs the notebook in a real kernel; gives the outputs in order."""
    target = folder / "ran.ipynb"
    environment = {
        **os.environ,
        **world.seat(grant).environment,
        "IPYTHONDIR": str(folder),
        "HOME": str(folder),
    }
    command = [
        sys.executable,
        "-m",
        "papermill",
        "--no-progress-bar",
        "--kernel",
        "python3",
        str(NOTEBOOK),
        str(target),
    ]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
    assert ran.returncode == 0, ran.stderr[-3000:]
    cells = json.loads(target.read_text(encoding="utf-8"))["cells"]
    return [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]


def words(outputs: list[dict[str, Any]]) -> str:
    """All text and HTML of the outputs."""
    parts = [
        output.get("data", {}).get(kind, "") for output in outputs for kind in ("text/html", "text/plain")
    ]
    return "\n".join("".join(part) for part in parts)


@pytest.mark.parametrize("grant", [client_world.ANA, client_world.RUI_SH, client_world.RUI_LDS])
def test_the_first_notebook_runs_clean_under_each_grant(
    world: client_world.World, grant: str, tmp_path: Path
) -> None:
    outputs = run(world, grant, tmp_path)
    assert not [o for o in outputs if o["output_type"] in ("error", "stream")]
    text = words(outputs)
    assert "SYNTHETIC DATA" in text
    assert grant in text
    assert "is not admitted" in text  # the refusal that the notebook shows
    plots = ["".join(o["data"]["image/svg+xml"]) for o in outputs if "image/svg+xml" in o.get("data", {})]
    assert len(plots) == 2
    assert all("SYNTHETIC DATA" in plot for plot in plots)
    without_part2 = grant == client_world.ANA
    assert ("unfit-slice" in text) == without_part2
    assert ("VISIBLE CLAIMS ONLY" in text) == without_part2


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
