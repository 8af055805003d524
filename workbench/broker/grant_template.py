"""Templates of grants: `for_each` over the organisations of one kind, with `{org}` and `{org_name}` filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def faults_of_template(raw: Mapping[str, Any]) -> list[str]:
    """Where a template would give one organisation's grant to another, or two grants one name."""
    faults = []
    if "{org}" not in str(raw.get("name")):
        faults.append("name: the name of a template must hold {org}")
    if fixed := [group for group in _listed(raw.get("groups")) if "{org}" not in str(group)]:
        faults.append(
            f"groups: {', '.join(map(str, fixed))} would hold the grant of every organisation; in a template each must hold {{org}}"
        )
    organisation = raw.get("organisation")
    ids = _listed(organisation.get("ids")) if isinstance(organisation, dict) else []
    if any("{org}" not in str(id) for id in ids):
        faults.append("organisation.ids: in a template each must hold {org}")
    return faults


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def placeholders(value: Any) -> set[str]:
    """Whatever stands in braces in the texts of a file."""
    if isinstance(value, str):
        return set(re.findall(r"\{[^{}]*\}", value))
    if isinstance(value, list):
        return set().union(*map(placeholders, value))
    if isinstance(value, dict):
        return set().union(*map(placeholders, value.values()))
    return set()


def filled(value: Any, organisation: str, name: str) -> Any:
    """The value with the organisation's id and name in all its texts."""
    if isinstance(value, str):
        return value.replace("{org}", organisation).replace("{org_name}", name)
    if isinstance(value, list):
        return [filled(item, organisation, name) for item in value]
    if isinstance(value, dict):
        return {key: filled(item, organisation, name) for key, item in value.items()}
    return value
