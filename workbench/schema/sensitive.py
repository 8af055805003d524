"""The sensitive categories of claims: their law, how a claim is tagged, and how well the code list is sourced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from types import MappingProxyType

import yaml

from workbench.schema.code_lists import code_list


class Category(StrEnum):
    """A kind of claim that the law protects beyond HIPAA; the value is what `sensitive_claim.category` holds."""

    PART2 = "part2"
    MENTAL_HEALTH_SPECIALTY = "mental_health_specialty"
    REPRODUCTIVE = "reproductive"
    GENDER_AFFIRMING = "gender_affirming"
    HIV = "hiv"
    INTIMATE_PARTNER_VIOLENCE = "intimate_partner_violence"
    MINOR_CONSENT = "minor_consent"
    GENETIC = "genetic"


class Sourcing(StrEnum):
    """How good a category's code list is."""

    SOURCED = "sourced"
    DEMO = "demo"
    NONE = "none"


@dataclass(frozen=True)
class SensitiveCategory:
    """One category. `rule` says in words how a claim is tagged; `source` is that of the code list."""

    category: Category
    title: str
    law: str
    sourcing: Sourcing
    source: str
    rule: str


def _read() -> Mapping[Category, SensitiveCategory]:
    text = (files("workbench.schema") / "sensitive.yaml").read_text(encoding="utf-8")
    raw = yaml.safe_load(text)["categories"]
    if set(raw) != set(Category):
        raise ValueError(
            f"sensitive.yaml: {sorted(set(raw) ^ set(Category))} stand in one of file and code only"
        )
    return MappingProxyType(
        {
            category: SensitiveCategory(
                category=category,
                title=raw[category]["title"],
                law=raw[category]["law"],
                sourcing=Sourcing(raw[category]["sourcing"]),
                source=raw[category]["source"],
                rule=raw[category]["rule"],
            )
            for category in Category
        }
    )


CATEGORIES: Mapping[Category, SensitiveCategory] = _read()
"""Every category with what is known of it, in the order of `Category`."""


def _by_drug() -> frozenset[Category]:
    found = {c for c in Category if any(code.code_system == "INGREDIENT" for code in code_list(c))}
    derived = {
        c for c in Category for code in code_list(c) if code.code_system == "CATEGORY" and code.code in found
    }
    return frozenset(found | derived)


BY_DRUG = _by_drug()
"""The categories that some claims are of by the ingredient of a drug alone, or by such a category."""


def can_exclude(category: Category, *, synthetic: bool) -> bool:
    """Whether the claims of a category can be found well enough to promise that they are removed.

    A `demo` list is good enough for a synthetic release only, no list for none.
    """
    sourcing = CATEGORIES[category].sourcing
    return sourcing is Sourcing.SOURCED or (sourcing is Sourcing.DEMO and synthetic)
