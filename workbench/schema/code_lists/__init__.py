"""Code lists that decide over a claim as a whole, dated: which codes make it one of a sensitive category.

One file a category, one row per code and validity. Whether a list is good enough to promise that the category's claims
are removed is said in workbench/schema/sensitive.yaml.

code_system  ICD-10-CM, ICD-9-CM, ICD-10-PCS, ICD-9-PCS, MS-DRG, HCPCS, CPT, MODIFIER, REV (revenue code), POS (place of
             service), TAXONOMY (of a provider), INGREDIENT (of a drug), ORGANISATION_KIND (of the claim's plan or
             submitter), CATEGORY (a claim of that category; `minor_consent` only)
origin       of `part2.csv`:
  cms          the list by which CMS itself redacts substance use disorder (SUD) claims in its data at the point of
               care: github.com/CMSgov/beneficiary-fhir-data, security_labels.yml, last changed 2026-04-23, CC0. Codes
               without descriptions. It has no drugs, and applies to a claim whose first or last day lies in the
               validity.
  addition     what that list lacks for Medi-Cal, our decision: drugs for opioid and alcohol use disorder by ingredient,
               MS-DRG 894, HCPCS codes of DMC-ODS billing and SUD drugs, poisoning by narcotics and hallucinogens (T40,
               intents accident, self-harm, undetermined), taxonomies, places and revenue codes of SUD facilities.
             of the others:
  icd-10-cm    the title of the code or of its block says so: ICD-10-CM, code list of April 2026 (CDC/NCHS, public
               domain). Every code of the list that begins with the block's, headings too. The choice of blocks is ours
  hcpcs        the title of the code says so: HCPCS Level II, January 2026 (CMS, public domain)
  ms-drg       the title of the group says so: MS-DRG (CMS, public domain)
  nih          the drug tables of the federal guidelines: clinicalinfo.hiv.gov
  registry     a fact of the organisation registry, not of a code
  law          the law that the note names; not checked by counsel
  recollection by heart, unverified
with_modifier  the code says so only on a line that also has one of these modifiers. Without one it may be: such a
               claim is `unclear` unless it says mental health (workbench.lake.sensitive).

A list is a proxy: 42 CFR Part 2, for one, follows the source programme and not the code. These tag too much rather than
too little where we could choose. What they hold can be compared with CMS's list (conformance to that list); how much of
what the law means they find is unknown.
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
