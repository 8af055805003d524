"""What holds for all tests: fixtures of several modules, properties that give every run the same examples, no proxy.

`pytest --hypothesis-profile=default` looks for new examples.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

pytest_plugins = ["hub_fixture", "broker_world", "channel_world"]

settings.register_profile(
    "workbench", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("workbench")

os.environ["no_proxy"] = os.environ["NO_PROXY"] = "*"
"""Every test talks to this machine alone, whatever proxy the machine's users have."""
