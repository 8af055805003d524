"""The OpenAPI document is valid 3.1, says what the listener has, and the running listener keeps to it under fuzzing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from channel_world import CARE, NOBODY, Api, Holder
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR
from slice_world import A, C, D, E, F

from workbench.broker.channels.listener import api_app
from workbench.broker.channels.openapi import document

pytestmark = pytest.mark.sandbox
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
HIDDEN = (D, "Canary3", "900-00-0003", NOBODY, "Canary note", "F1020", "A-2024-09-15")
"""Values of members and claims that the client's grant does not hold, and of nobody."""
IDS = (A, C, F, D, E, NOBODY)

schema = schemathesis.openapi.from_dict(document())
schema.config.phases.update(phases=["fuzzing", "coverage"])


@schema.hook
def map_path_parameters(context: Any, path_parameters: Any) -> Any:
    """Every second look-up is for an id of the world."""
    if not isinstance(path_parameters, dict):
        return path_parameters
    member = str(path_parameters.get("member", ""))
    if member and len(member) % 2:
        return {**path_parameters, "member": IDS[sum(member.encode()) % len(IDS)]}
    return path_parameters


@pytest.fixture(scope="module")
def care(served: Api) -> Holder:
    holder = served.client("fuzzing-client")
    holder.ask("GET", f"/members/{A}/record")
    holder.ask("GET", "/feed")
    return holder


def test_the_document_is_openapi_3_1() -> None:
    assert OPENAPI_31_VALIDATOR.is_valid(document()), list(OPENAPI_31_VALIDATOR.iter_errors(document()))
    assert document()["openapi"] == "3.1.0"


def test_the_listener_gives_the_document_to_anybody(served: Api) -> None:
    assert served.ask("GET", "/openapi.json").json == document(served.service.channels.url)


def test_the_document_has_every_path_of_the_listener_and_no_other(served: Api) -> None:
    routes = api_app(served.service.channels).routes
    assert sorted(route.path for route in routes) == sorted(document()["paths"])


@schema.parametrize()
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_the_running_listener_keeps_to_the_document_and_tells_nothing_hidden(
    case: Any, served: Api, care: Holder
) -> None:
    assert served.service.channels.address is not None
    host, port = served.service.channels.address
    headers = {} if case.path.startswith("/oauth") else {"Authorization": f"Bearer {care.token}"}
    response = case.call(base_url=f"http://{host}:{port}", headers=headers, timeout=180)
    case.validate_response(response, checks=CHECKS)
    text = response.content.decode("utf-8", "replace")
    for value in HIDDEN:
        assert value not in text
    assert str(Path(served.world.base)) not in text
    assert (
        CARE in text
        or response.status_code != 200
        or case.path in ("/openapi.json", "/oauth/token", "/feed/{table}")
    )
