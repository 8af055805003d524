"""Code lists that decide over a claim as a whole, dated: which codes make it a Part 2 record.

`part2.csv`, one row per code and validity:
  origin `cms`       the list by which CMS itself redacts substance use disorder (SUD) claims in its data at the point
                     of care: github.com/CMSgov/beneficiary-fhir-data, security_labels.yml, last changed 2026-04-23,
                     CC0. Codes without descriptions. It has no drugs, and applies to a claim whose first or last day
                     lies in the validity.
  origin `addition`  what that list lacks for Medi-Cal, our decision: drugs for opioid and alcohol use disorder by
                     ingredient, MS-DRG 894, HCPCS codes of DMC-ODS billing and SUD drugs, poisoning by narcotics and
                     hallucinogens (T40, intents accident, self-harm, undetermined), taxonomies of SUD facilities.
`with_modifier`: the code counts only on a line that also has one of these modifiers.

42 CFR Part 2 follows the source programme, not the code; a list is a proxy that tags too much rather than too little.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files

PART2 = "part2"


@dataclass(frozen=True)
class DatedCode:
    """One code of a list; both ends of the validity are included."""

    code_system: str
    code: str
    valid_from: date
    valid_through: date
    with_modifier: tuple[str, ...]
    origin: str
    note: str


@cache
def code_list(name: str = PART2) -> tuple[DatedCode, ...]:
    """All rows of a code list."""
    return tuple(
        DatedCode(
            code_system=row["code_system"],
            code=row["code"],
            valid_from=date.fromisoformat(row["valid_from"]),
            valid_through=date.fromisoformat(row["valid_through"]),
            with_modifier=tuple(row["with_modifier"].split()),
            origin=row["origin"],
            note=row["note"],
        )
        for row in csv.DictReader(_text(name).splitlines())
    )


@cache
def digest(name: str = PART2) -> str:
    """SHA-256 of a code list as it stands: part of a release's identity."""
    return hashlib.sha256(_text(name).encode()).hexdigest()


def _text(name: str) -> str:
    return (files("workbench.schema.code_lists") / f"{name}.csv").read_text(encoding="utf-8")
