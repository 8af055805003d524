"""Invented care-management notes about invented people. Some carry names, phones, dates and places on purpose."""

from __future__ import annotations

import numpy as np
import polars as pl

from workbench.lake.synthetic import world
from workbench.lake.synthetic.behavioral import Mind
from workbench.lake.synthetic.billing import Sent
from workbench.lake.synthetic.calendar import EPOCH
from workbench.lake.synthetic.events import TEMPLATE
from workbench.lake.synthetic.people import People

SHARE = 0.05
"""Members with notes; those with a mental-health condition four times as often as others."""

TELLING = 0.4
"""Of the notes of members with emergency or treatment claims, the share that is about one of these."""

AFTER_EMERGENCY = (
    "Called {first} after the ED visit on {day}. Lives with {relative}; prefers calls after 4 pm at {phone}. "
    "Follow-up appointment offered within seven days.",
    "{first} {last} seen in the ED on {day}. Transport to the follow-up visit arranged, confirmed with {helper}.",
    "Could not reach member at {phone} after ED visit of {day}; letter sent to the address in {city}.",
    "Member says the ED visit was after a hard week at work. Safety plan reviewed. {helper} will call again.",
)
IN_TREATMENT = (
    "{first} attends the programme twice a week. Asks that {relative} is not told. Reached at {phone}.",
    "Care conference with {helper}: housing application filed, next review in a month.",
)
EVERYDAY = (
    "Annual care plan reviewed. Goals: regular primary care, medicines by mail. Contact {phone}.",
    "{first} {last} moved within {city}; new phone {phone}. Language line used ({language}).",
    "Medicines reconciled with the pharmacy. No concerns today.",
    "{relative} called on behalf of {first}; authorisation on file. Needs a ride to the clinic on Tuesdays.",
    "Food box delivered. Member thankful. Next call in two weeks.",
)
ROLES = ("lead care manager", "community health worker", "nurse care manager")
RELATIVES = (
    "her mother",
    "his mother",
    "her sister",
    "his brother",
    "their aunt",
    "a grandmother",
    "a neighbour",
)
HELPERS = ("Ms. Okafor", "Mr. Delgado", "Pao Vue", "Nurse Whitfield", "Dr. Aguilar", "Teresa from the clinic")
_EMERGENCY, _TREATMENT = ("emergency",), ("recovery_counselling", "dual_program", "recovery_residential")


def notes(
    rng: np.random.Generator, block: int, people: People, mind: Mind, medical: Sent
) -> tuple[list[dict[str, str]], int]:
    """The notes of a block as rows of care_notes.csv, and how many of them speak of a claim."""
    weight = np.where(mind.mental > 0, 4.0, 1.0)
    wanted = rng.random(len(people)) < SHARE * weight / weight.mean()
    claims = medical.claims
    first_claim = np.searchsorted(claims["row"], np.arange(len(people) + 1))
    table = people.table
    rows: list[dict[str, str]] = []
    linked = 0
    emergency = [TEMPLATE[name] for name in _EMERGENCY]
    treatment = [TEMPLATE[name] for name in _TREATMENT]
    last_day = (world.LAST_DAY - EPOCH).days
    for member in np.flatnonzero(wanted).tolist():
        begin, end = int(first_claim[member]), int(first_claim[member + 1])
        if begin == end:
            continue
        for _ in range(int(rng.integers(1, 4))):
            claim = int(rng.integers(begin, end))
            telling = [c for c in range(begin, end) if int(claims["template"][c]) in (*emergency, *treatment)]
            if telling and rng.random() < TELLING:
                claim = telling[int(rng.integers(0, len(telling)))]
            template = int(claims["template"][claim])
            if template in emergency and mind.mental[member] > 0:
                speaks = True
                texts: tuple[str, ...] = AFTER_EMERGENCY
            elif template in treatment:
                speaks, texts = True, IN_TREATMENT
            else:
                speaks, texts = False, EVERYDAY
            day = min(int(claims["day"][claim]) + int(rng.integers(1, 10)), last_day)
            visit = np.datetime64(int(claims["day"][claim]), "D").item()
            choose = rng.integers(0, 1 << 30, 4)
            text = texts[int(choose[0]) % len(texts)].format(
                first=table["first_name"][member],
                last=table["last_name"][member],
                city=table["city"][member],
                phone=table["phone"][member],
                language=table["language"][member],
                relative=RELATIVES[int(choose[1]) % len(RELATIVES)],
                helper=HELPERS[int(choose[2]) % len(HELPERS)],
                day=f"{visit:%m/%d/%Y}",
            )
            linked += speaks
            rows.append(
                {
                    "note_id": f"N{block:05d}{len(rows):06d}",
                    "member_id": table["member_id"][member],
                    "note_date": str(np.datetime64(day, "D")),
                    "author_role": ROLES[int(choose[3]) % len(ROLES)],
                    "claim_id": medical.claim_ids[claim] if speaks else "",
                    "text": text[0].upper() + text[1:],
                }
            )
    return rows, linked


def frame(rows: list[dict[str, str]]) -> pl.DataFrame:
    """The rows as a table, with its columns also where there are none."""
    columns = ("note_id", "member_id", "note_date", "author_role", "claim_id", "text")
    return pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String))
