"""Runs the truth tables: the laws' own examples, and the tables beside the grants (`truth/*.yaml` of their folder).

A table beside the grants has rows of two sorts. `access`: groups, a grant, perhaps a purpose, channel, column or
category, and the answer. `members`: how a made-up member is attributed, a claim of hers and its categories, her
consents, and how far a grant's slice goes: nothing, the member, or the claim too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from workbench.broker.directory import FileDirectory, UnknownUser
from workbench.broker.explained import UnknownColumn, category_fate, column_fate, column_named
from workbench.broker.grants import Grant, GrantBook, GrantRefused, InvalidGrants
from workbench.broker.law.tables import Law, laws, refusing
from workbench.errors import WorkbenchError
from workbench.schema.sensitive import Category

FOLDER = "truth"
TODAY = date(2026, 6, 1)
"""The day of an access row that names none."""


class InvalidTruth(WorkbenchError):
    """A truth table beside the grants cannot be read."""

    code = "invalid-truth-table"
    http_status = 400


@dataclass(frozen=True)
class Outcome:
    """How one table's rows were answered; `failures` are sentences."""

    name: str
    title: str
    rows: int
    failures: tuple[str, ...]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AccessRow(_Model):
    """Who asks what of a grant, and the answer: `allowed`, the code of the refusal, or what a column or category becomes."""

    case: str
    grant: str
    user: str | None = None
    groups: tuple[str, ...] = ()
    day: date = TODAY
    purpose: str | None = None
    channel: str | None = None
    column: str | None = None
    category: Category | None = None
    answer: str

    @model_validator(mode="after")
    def _asks_of_one_thing(self) -> AccessRow:
        if (self.column or self.category) and (self.purpose or self.channel or self.groups or self.user):
            raise ValueError("a row about a column or a category names no user, groups, purpose or channel")
        if self.user and self.groups:
            raise ValueError("a user's groups are those of the directory: name one of user and groups")
        return self


class Span(_Model):
    """An attribution of the made-up member."""

    to: str
    relation: Annotated[str, Field(alias="as")]
    start: Annotated[date, Field(alias="from")]
    end: Annotated[date | None, Field(alias="until")] = None


class Claim(_Model):
    """A medical claim of the made-up member."""

    day: date
    categories: tuple[Category, ...] = ()


class Consent(_Model):
    """A decision of the made-up member about a recipient; the later one in the list is the newer one."""

    recipient: str
    scope: str
    start: Annotated[date, Field(alias="from")]
    end: Annotated[date | None, Field(alias="until")] = None
    revoked: bool = False


Reach = Literal["nothing", "member", "claim", "no-rows"]


class MemberRow(_Model):
    """A member's situation, and how far the slice of a grant goes."""

    case: str
    grant: str
    attributed: tuple[Span, ...] = ()
    claim: Claim
    consents: tuple[Consent, ...] = ()
    answer: Reach


class TruthTable(_Model):
    """One file beside the grants."""

    about: str
    access: tuple[AccessRow, ...] = ()
    members: tuple[MemberRow, ...] = ()


def run_tables(folder: Path, users: Path) -> list[Outcome]:
    """Every table with its failures; `users` is the directory of rows about a user. Raises `InvalidGrants`, `InvalidTruth`."""
    return [*map(run_law, laws().values()), *run_folder(folder, users)]


def run_law(law: Law) -> Outcome:
    """The examples of one law, each tried on the model that reads grants."""
    failures = []
    for row in law.rows:
        if not row.examples:
            failures.append(f"{row.id}: has no example")
        for number, example in enumerate(row.examples, start=1):
            where = f"{row.id}, example {number}"
            try:
                grant = Grant.model_validate({**law.base, **example})
            except ValidationError as error:
                said = "; ".join(str(item["msg"]) for item in error.errors())
                if row.answer == "allowed":
                    failures.append(f"{where}: is refused: {said}")
                elif f"[{row.citation}]" not in said:
                    failures.append(f"{where}: is refused, but not with {row.citation}: {said}")
                continue
            if row.answer == "refused":
                failures.append(f"{where}: is allowed")
            elif not any(row.fits(facts) for facts in grant.facts()):
                failures.append(f"{where}: is not of the row's case")
            assert not refusing(grant.facts())
    title = f"{law.title} ({law.status})"
    return Outcome(f"law/{law.name}", title, sum(len(row.examples) for row in law.rows), tuple(failures))


def run_folder(folder: Path, users: Path) -> list[Outcome]:
    """The tables beside the grants of a folder; none where it has none."""
    files = sorted((folder / FOLDER).glob("*.yaml"))
    if not files:
        return []
    book, directory = GrantBook.load(folder), FileDirectory(users)
    tables = {file: read_table(file) for file in files}
    situations = [row for table in tables.values() for row in table.members]
    reached = dict(zip(map(id, situations), _reach(book, situations), strict=True))
    outcomes = []
    for file, table in tables.items():
        failures = [_differs(row.case, row.answer, _answer(book, directory, row)) for row in table.access]
        failures += [_differs(row.case, row.answer, reached[id(row)]) for row in table.members]
        rows = len(table.access) + len(table.members)
        outcomes.append(Outcome(f"{FOLDER}/{file.name}", table.about, rows, tuple(filter(None, failures))))
    return outcomes


def unreadable(folder: Path) -> list[str]:
    """A sentence for each table beside the grants that cannot be read."""
    faults = []
    for file in sorted((folder / FOLDER).glob("*.yaml")):
        try:
            read_table(file)
        except InvalidTruth as error:
            faults.append(f"{FOLDER}/{error.reason}")
    return faults


def read_table(file: Path) -> TruthTable:
    """One file's table. Raises `InvalidTruth` with the row and the key."""
    try:
        return TruthTable.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise InvalidTruth(
            f"{file.name}: {faults}.", hint="docs/grants.md shows what a row may say."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError):
        raise InvalidTruth(f"{file.name} cannot be read as YAML.") from None


def _answer(book: GrantBook, directory: FileDirectory, row: AccessRow) -> str:
    try:
        if row.column:
            return column_fate(book.get(row.grant), *column_named(row.column))["seen"]
        if row.category:
            return category_fate(book.get(row.grant), row.category)["handling"]
        groups = directory.groups(row.user) if row.user else row.groups
        book.require(row.grant, groups, row.day, purpose=row.purpose, channel=row.channel)
    except (GrantRefused, UnknownColumn, UnknownUser) as refusal:
        return refusal.code
    return "allowed"


def _reach(book: GrantBook, rows: Sequence[MemberRow]) -> list[str]:
    from workbench.broker.law.situations import reach

    grants: dict[str, Grant | None] = {}
    for row in rows:
        try:
            grants[row.grant] = book.get(row.grant)
        except GrantRefused:
            grants[row.grant] = None
    known = [(row, grant) for row in rows if (grant := grants[row.grant]) is not None]
    found: dict[int, str] = dict(zip((id(row) for row, _ in known), reach(known), strict=True))
    return [found.get(id(row), "unknown-grant") for row in rows]


def _differs(case: str, expected: Any, found: Any) -> str | None:
    return None if expected == found else f"{case}: is {found}, should be {expected}"


__all__ = ["InvalidGrants", "InvalidTruth", "Outcome", "run_folder", "run_law", "run_tables", "unreadable"]
