"""The format of decks: hand-made cases of one measure in a JSON file, each with its expected answer."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from workbench.errors import WorkbenchError

YEAR = 2025
"""The measurement year of a deck that names none."""


class BrokenDeck(WorkbenchError):
    """A deck file that is not JSON or not in the deck format."""

    code = "broken-deck"


def _texts(value: object) -> object:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


Codes = Annotated[list[str | None], BeforeValidator(_texts)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, coerce_numbers_to_str=True)


class DeckMember(_Model):
    """Who the case is about."""

    birth_date: dt.date | None = None
    sex: str | None = None
    death_date: dt.date | None = None


class DeckSpan(_Model):
    """One enrolment span, both ends included; no end means that it lasts."""

    start: dt.date
    end: dt.date | None = None
    plan: str | None = None
    county: str | None = None


class DeckClaim(_Model):
    """One line of one version of a claim."""

    claim_id: str
    line: int = 1
    version: int = 1
    claim_status: str = "paid"
    from_date: dt.date = Field(alias="from")
    through: dt.date | None = None
    dx: Codes = []
    proc: Codes = []
    icd_proc: Codes = []
    rev: Codes = []
    pos: str | None = None
    bill_type: str | None = None
    discharge_status: str | None = None
    rendering_taxonomy: str | None = None
    ndc: str | None = None
    drug: str | None = None
    days_supply: int | None = None
    package_count: float | None = None
    billed_under: str | None = None


class ExpectedEvent(_Model):
    """One event of the answer, or a tempting one that must not count."""

    event_date: dt.date
    denominator: bool
    excluded: bool = False
    numerators: dict[str, bool | None] | None = None


class Expected(_Model):
    """The answer of a case."""

    events: list[ExpectedEvent]


class Case(_Model):
    """One hand-made case."""

    id: str
    why: str = ""
    part: str | None = None
    member: DeckMember
    enrollment: list[DeckSpan] = []
    claims: list[DeckClaim] = []
    expected: Expected


class Deck(_Model):
    """The cases of one measure."""

    measure: str
    spec: str = ""
    year: int = YEAR
    cases: list[Case]


def parse(text: str, name: str = "deck") -> Deck:
    """A deck from its JSON text. Raises BrokenDeck, naming the field that is wrong."""
    try:
        return Deck.model_validate(json.loads(text))
    except json.JSONDecodeError as error:
        raise BrokenDeck(f"{name} is not JSON (line {error.lineno}).", hint="Mend the file.") from None
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BrokenDeck(
            f"{name} is not in the deck format: {where}: {first['msg']}.",
            hint=f"{error.error_count()} fields are wrong.",
        ) from None


def read(path: Path) -> Deck:
    """A deck from its file. Raises BrokenDeck."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise BrokenDeck(f"{path.name} cannot be read as a UTF-8 text file.") from None
    return parse(text, path.name)
