"""The OpenAPI 3.1 description of the second listener: openapi.yaml, with the closed lists of the code filled in."""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

import yaml

from workbench.broker.channels import requester
from workbench.broker.channels.break_glass import LONGEST, MINUTES, MOST_MINUTES, REASONS, SHORTEST
from workbench.broker.law import NOTICE_NAME
from workbench.lib import risk


@functools.cache
def document(url: str = "https://localhost") -> dict[str, Any]:
    """The description as JSON values. `url` is the listener's own, without a path."""
    text = (resources.files(__package__) / "openapi.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    flows = found["components"]["securitySchemes"]["client"]["flows"]
    flows["clientCredentials"]["tokenUrl"] = f"{url}/oauth/token"
    schemas = found["components"]["schemas"]
    schemas["Tier"]["properties"]["tier"]["enum"] = list(risk.TIERS)
    schemas["Tier"]["properties"]["age_band"]["enum"] = list(risk.BANDS)
    schemas["Tier"]["properties"]["label"]["const"] = risk.LABEL
    asked = schemas["BreakGlass"]["properties"]
    asked["reason"]["enum"] = list(REASONS)
    asked["justification"] |= {"minLength": SHORTEST, "maxLength": LONGEST}
    asked["requester"] |= {"minLength": requester.SHORTEST, "maxLength": requester.LONGEST}
    found["components"]["parameters"]["Requester"]["name"] = requester.REQUESTER_HEADER
    asked["minutes"] |= {"minimum": 1, "maximum": MOST_MINUTES, "default": MINUTES}
    found["components"]["headers"]["Notice"]["schema"]["const"] = NOTICE_NAME
    return found
