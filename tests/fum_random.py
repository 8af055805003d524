"""Random members for FUM: few codes, few days, and many of them on the rule's boundaries."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from random import Random
from typing import Any

import pyarrow as pa

from workbench.schema import value_sets
from workbench.schema.dictionary import dictionary

Row = dict[str, Any]
DIAGNOSES = (
    *("F329", "F32A", "F419", "F209", "F840") * 3,
    *("T1491XA", "T424X2A", "X789XXA") * 2,
    *("T424X1A", "R45851", "F1020", "R079", "F0390", "F72", "Z9151", "F59"),
)
OFFSETS = (0, 0, 0, 1, 2, 6, 7, 7, 8, 8, 15, 29, 30, 30, 31, 31, 32, 61, 62, -1, -5)
# (weight, bill type, revenue codes, procedures, places)
KINDS: tuple[tuple[int, str | None, tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    (12, "0131", ("0450", "0981", "0456", "0301"), ("99284", "99283"), ("",)),
    (6, None, ("",), ("99285", "99281", "G0380"), ("23",)),
    (2, None, ("",), ("71045", "90792"), ("23",)),
    (12, None, ("",), ("99213", "90834", "H0031", "90791", "99442"), ("11", "02", "10", "53", "52", "81", "21", "23", "99")),
    (4, "0131", ("0510", "0900", "0914", "0762", "0301"), ("G0463", "90834", "80053"), ("",)),
    (2, "0111", ("0120", "0450", "0200"), ("",), ("",)),
    (1, "0113", ("0124",), ("",), ("",)),
    (1, "0211", ("0191", "0022"), ("",), ("",)),
    (1, "0861", ("1001",), ("",), ("",)),
    (1, None, ("",), ("H0019", "H0018"), ("56",)),
    (1, "0131", ("0120",), ("99284",), ("",)),
)  # fmt: skip
RARE: tuple[tuple[str | None, str, str, str], ...] = (
    ("0811", "0651", "", ""),
    (None, "", "T2042", "12"),
    ("0321", "0551", "Q5001", ""),
    (None, "", "Q5009", "12"),
    (None, "", "99213", "34"),
)


def tables(random: Random, members: int, year: int) -> dict[str, list[Row]]:
    """Rows by dictionary table for that many random members with visits around the year."""
    rows: dict[str, list[Row]] = defaultdict(list)
    for number in range(members):
        _member(random, f"m{number}", year, rows)
    return rows


def arrow(rows: dict[str, list[Row]]) -> dict[str, pa.Table]:
    """The rows as typed tables, with every table of the dictionary, in random-free order."""
    return {
        name: pa.Table.from_pylist(rows.get(name, []), schema=table.arrow_schema)
        for name, table in dictionary().items()
        if name != "value_set"
    } | {"value_set": value_sets.rows()}


def _member(random: Random, member: str, year: int, rows: dict[str, list[Row]]) -> None:
    choices = [dt.date(year, 1, 1), dt.date(year, 12, 1), dt.date(year, 12, 2), dt.date(year, 3, 10)]
    anchors = [random.choice([*choices, dt.date(year, 1, 1) + dt.timedelta(random.randrange(365))])]
    anchors += [
        anchors[0] + dt.timedelta(random.choice((30, 31, 32, 45, 61, 62))) for _ in range(random.randrange(3))
    ]
    anchor = random.choice(anchors)
    birth: dt.date | None = dt.date(year - random.choice((30, 30, 30, 6)), anchor.month, min(anchor.day, 28))
    if birth is not None:
        birth += dt.timedelta(random.choice((0, 1, -1)))
    death = (
        None
        if random.random() < 0.93
        else random.choice((dt.date(year, 12, 31), dt.date(year + 1, 1, 1), anchor))
    )
    birth = None if random.random() < 0.02 else birth
    rows["member"].append(
        {"member_id": member, "birth_date": birth, "death_date": death, "county_code": "19"}
    )
    _spans(random, member, anchor, year, rows)
    for number in range(random.randrange(1, 7)):
        _claim(random, member, f"{member}c{number}", random.choice(anchors), rows)


def _spans(random: Random, member: str, anchor: dt.date, year: int, rows: dict[str, list[Row]]) -> None:
    start, end = dt.date(year - 1, 1, 1), dt.date(year + 1, 6, 30)
    shape = random.random()
    spans: list[tuple[dt.date, dt.date | None, str]]
    if shape < 0.5:
        spans = [(start, random.choice((end, None)), "a")]
    elif shape < 0.7:
        cut = anchor + dt.timedelta(random.choice((-1, 0, 1, 10, 29, 30, 31)))
        gap = random.choice((1, 1, 2, 3))
        spans = [(start, cut, "a"), (cut + dt.timedelta(gap), end, random.choice("ab"))]
    elif shape < 0.85:
        spans = [
            (
                anchor + dt.timedelta(random.choice((-1, 0, 1))),
                anchor + dt.timedelta(random.choice((29, 30, 31))),
                "a",
            )
        ]
    else:
        spans = [
            (start, anchor + dt.timedelta(20), "a"),
            (anchor - dt.timedelta(5), end, random.choice("ab")),
        ]
    for first, last, plan in spans:
        rows["eligibility"].append(
            {
                "member_id": member,
                "organisation_id": plan,
                "start_date": first,
                "end_date": last,
                "county_code": random.choice(("01", "19")),
                "medical": random.random() < 0.97,
            }
        )


def _claim(random: Random, member: str, claim: str, anchor: dt.date, rows: dict[str, list[Row]]) -> None:
    day = anchor + dt.timedelta(random.choice(OFFSETS))
    if random.random() < 0.02:
        bill, revenue, procedure, place = random.choice(RARE)
        lines = [(revenue, procedure, place)]
    else:
        _, bill, revenues, procedures, places = random.choices(KINDS, [kind[0] for kind in KINDS])[0]
        lines = [
            (random.choice(revenues), random.choice(procedures), random.choice(places))
            for _ in range(random.choice((1, 1, 2)))
        ]
    rows["medical_claim"].append(
        {
            "claim_id": claim,
            "version": 1,
            "member_id": member,
            "claim_status": random.choice(("paid", "paid", "paid", "denied")),
            "from_date": day,
            "through_date": day + dt.timedelta(random.choice((0, 0, 1, 4))),
            "admission_date": day + dt.timedelta(1) if bill == "0111" and random.random() < 0.3 else None,
            "discharge_status": "20" if random.random() < 0.01 else "01",
            "bill_type": bill,
        }
    )
    for number, (revenue, procedure, place) in enumerate(lines, 1):
        rows["medical_claim_line"].append(
            {
                "claim_id": claim,
                "line_number": number,
                "member_id": member,
                "from_date": day + dt.timedelta(random.choice((0, 0, 0, 1))),
                "revenue_code": revenue or None,
                "procedure_code": procedure or None,
                "place_of_service": place or None,
            }
        )
    for position in range(1, random.choice((1, 1, 2)) + 1):
        role = (
            ("principal" if random.random() < 0.95 else "admitting")
            if position == 1
            else random.choice(("other", "external"))
        )
        rows["diagnosis"].append(
            {
                "claim_id": claim,
                "member_id": member,
                "role": role,
                "position": position,
                "code_system": "ICD-10-CM" if random.random() < 0.98 else "ICD-9-CM",
                "code": random.choice(DIAGNOSES),
            }
        )
