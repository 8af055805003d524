"""The APCD-CDL file layouts as data: element ids in file order, header, trailer and the codes that we use.

Source: public generators and models of the APCD Council's Common Data Layout (v2 to v3.0.1); the medical (MC) and
pharmacy (PC) element numbers agree between two independent ones. Of the eligibility file (ME) thirty numbers are
confirmed; of the provider file (PV) only the number of fields and their lengths. What is marked "unverified" here
is recollection: correct it in this module only, readers and generator follow.

A file is pipe-delimited UTF-8 without quoting: a header (`HD`), a row of element ids, records, a trailer (`TR`).
Dates are YYYYMMDD. Readers find a column by its name in the second row, never by its position.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

DELIMITER = "|"
HEADER = "HD"
TRAILER = "TR"

HEADER_FIELDS = (
    "record",
    "submitter",
    "payor",
    "name",
    "type",
    "period_begin",
    "period_end",
    "test_or_production",
    "comment",
)
TRAILER_FIELDS = ("record", "submitter", "payor", "name", "type", "created", "reserved", "record_count")

COUNTY_ELEMENT = "CALME001"
"""Our own column of the eligibility file: county of responsibility, 01-58. The CDL has none; the 834 sends REF*ZX."""


def _numbered(file_type: str, last: int) -> tuple[str, ...]:
    return tuple(f"CDL{file_type}{number:03d}" for number in range(1, last + 1))


ELEMENTS: Mapping[str, tuple[str, ...]] = {
    "ME": (*_numbered("ME", 64), COUNTY_ELEMENT, "CDLME899"),
    "MC": (*_numbered("MC", 163), "CDLMC899"),
    "PC": (*_numbered("PC", 71), "CDLPC899"),
    "PV": (*_numbered("PV", 27), "CDLPV899"),
}

OTHER_DIAGNOSES = tuple(f"CDLMC{number:03d}" for number in range(38, 62))
"""Other diagnoses 1-24; the principal one is CDLMC037, admitting CDLMC034, external cause CDLMC035."""
OTHER_ICD_PROCEDURES = tuple(f"CDLMC{number:03d}" for number in range(94, 119))
"""Other ICD procedures 1-25; the principal one is CDLMC093."""

CLAIM_STATUS = {"01": "paid", "02": "paid", "03": "paid", "04": "denied", "19": "paid", "22": "void"}
"""CDLMC157 and CDLPC065: X12 claim status codes of 835 CLP02 (1-3 paid, 4 denied, 19 paid and forwarded, 22 reversal)."""

RACE = {
    "1002-5": "aian",
    "2028-9": "asian",
    "2054-5": "black",
    "2076-8": "nhpi",
    "2106-3": "white",
    "2131-1": "other",
    "UNKNOW": "unknown",
}
"""CDLME028 race 1 and CDLME029 race 2 (element numbers unverified): CDC race codes -> codes of the value set `race`.
Two different known races are RACE_MULTIPLE; HISPANIC_INDICATOR `Y` (RACE_HISPANIC) comes before any race."""
RACE_MULTIPLE, RACE_HISPANIC = "multiple", "hispanic"
HISPANIC_INDICATOR = "CDLME031"

PROVIDER_NPI, PROVIDER_NAME, PROVIDER_TAXONOMY = "CDLPV004", "CDLPV009", "CDLPV018"
"""Element numbers of the provider file are unverified. County and Part 2 program come with providers.csv."""

FLAG_YES, FLAG_NO = "Y", "N"


def header(file_type: str, submitter: str, name: str, begin: date, end: date, comment: str = "") -> str:
    """The HD record of one file: `begin` and `end` give the months it covers. Payor is the submitter."""
    return DELIMITER.join(
        (HEADER, submitter, submitter, name, file_type, f"{begin:%Y%m}", f"{end:%Y%m}", "T", comment)
    )


def column_row(file_type: str) -> str:
    """The second record of one file: its element ids in order."""
    return DELIMITER.join(ELEMENTS[file_type])


def trailer(file_type: str, submitter: str, name: str, created: date, records: int) -> str:
    """The TR record of one file: `records` counts the records between column row and trailer."""
    return DELIMITER.join(
        (TRAILER, submitter, submitter, name, file_type, f"{created:%Y%m%d}", "", str(records))
    )
