"""The whole visit of `make smoke`, inside `make test`."""

from __future__ import annotations

import shutil
from pathlib import Path

import hub_fixture  # noqa: F401  puts scripts/ on the path
import pytest
from smoke import smoke


@pytest.mark.hub
@pytest.mark.sandbox
@pytest.mark.browser
@pytest.mark.timeout(1200)
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium")
def test_a_visitor_can_do_all_that_the_demo_promises(tmp_path: Path) -> None:
    summary = smoke(members=2000, screenshots=tmp_path / "pictures", folder=tmp_path / "site")
    assert len(summary.lines) >= 12
    assert (tmp_path / "pictures" / "app.png").stat().st_size > 20_000
