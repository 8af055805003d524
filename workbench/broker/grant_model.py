"""Grants: who may see which members, tables and categories, at which level, for which purpose, until when.

A grant is one YAML file of a reviewed folder. Unknown keys, two grants of one name and anything that the law does
not allow at the grant's level are refused when the folder is loaded; nobody's grant is guessed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from datetime import date
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from workbench.deid.levels import Level
from workbench.schema import dictionary


class Relation(StrEnum):
    """What an organisation is to a member; `state` stands for every member."""

    STATE = "state"
    MCP = "mcp"
    BHP = "bhp"
    COUNTY = "county"
    PROVIDER = "provider"
    TRIBE = "tribe"


class Purpose(StrEnum):
    """The closed list of purposes of use. Sources: W&I 14100.2; 45 CFR 164.506, 164.512(b), 164.512(i)."""

    PROGRAM_ADMINISTRATION = "program_administration"
    TREATMENT = "treatment"
    PAYMENT = "payment"
    OPERATIONS = "operations"
    PUBLIC_HEALTH = "public_health"
    RESEARCH = "research"


class Channel(StrEnum):
    """The ways on which data may reach a holder."""

    NOTEBOOK = "notebook"
    LMR_API = "lmr_api"
    RISK_API = "risk_api"
    FEED = "feed"
    TABULATE = "tabulate"
    REPORTS = "reports"
    APPS = "apps"


class Basis(StrEnum):
    """Legal bases on which a grant may include Part 2 records (42 CFR)."""

    RESEARCH_2_52 = "research_2_52"
    AUDIT_EVALUATION_2_53 = "audit_evaluation_2_53"
    QUALIFIED_SERVICE_ORGANISATION_2_11 = "qualified_service_organisation_2_11"
    DEIDENTIFIED_164_514 = "deidentified_164_514"


LIMITED_PURPOSES = frozenset({Purpose.RESEARCH, Purpose.PUBLIC_HEALTH, Purpose.OPERATIONS})
"""A limited data set is for these alone: 45 CFR 164.514(e)(3)(i)."""

BASIS_PURPOSES = {
    Basis.RESEARCH_2_52: frozenset({Purpose.RESEARCH}),
    Basis.AUDIT_EVALUATION_2_53: frozenset(
        {Purpose.PROGRAM_ADMINISTRATION, Purpose.PAYMENT, Purpose.OPERATIONS}
    ),
    Basis.QUALIFIED_SERVICE_ORGANISATION_2_11: frozenset(
        {Purpose.PROGRAM_ADMINISTRATION, Purpose.PAYMENT, Purpose.OPERATIONS}
    ),
    Basis.DEIDENTIFIED_164_514: frozenset(Purpose),
}
"""Which purposes each basis for Part 2 records can carry. Needs counsel's review."""

DEIDENTIFIED_LEVELS = frozenset({Level.SAFE_HARBOR, Level.AGGREGATE})
AGGREGATE_CHANNELS = frozenset({Channel.TABULATE, Channel.REPORTS, Channel.APPS})

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{2,62}$")]
Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=3, max_length=300)]
OrganisationId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Group = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,126}$")]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Organisation(_Model):
    """Whose members: a relation, the organisations, and the as-of rule of attribution."""

    relation: Relation
    ids: tuple[OrganisationId, ...] = ()
    as_of: Literal["current", "ever_own_period"] | date = "current"

    @model_validator(mode="after")
    def _ids_fit_the_relation(self) -> Organisation:
        if self.relation == Relation.STATE and (self.ids or self.as_of != "current"):
            raise ValueError("relation state means every member: it takes neither ids nor as_of")
        if self.relation != Relation.STATE and not self.ids:
            raise ValueError("name at least one organisation in ids, or use relation: state")
        return self


class Sensitive(_Model):
    """What happens to records of sensitive categories. What is not named is excluded."""

    part2: Literal["exclude", "include"] = "exclude"
    basis: Basis | None = None

    @model_validator(mode="after")
    def _basis_goes_with_inclusion(self) -> Sensitive:
        if self.part2 == "include" and self.basis is None:
            raise ValueError("including Part 2 records needs a basis: " + ", ".join(Basis))
        if self.part2 == "exclude" and self.basis is not None:
            raise ValueError("a basis says why Part 2 records are included; part2 is exclude")
        return self

    @property
    def excluded(self) -> tuple[str, ...]:
        """The categories whose claims a slice must not hold, nor any trace of them."""
        return ("part2",) if self.part2 == "exclude" else ()


class GrantLimits(_Model):
    """What a grant's holders may take, together, in a day and at once."""

    rows_per_day: int = Field(default=200_000_000, ge=1)
    bytes_per_day: int = Field(default=50_000_000_000, ge=1)
    concurrent_queries: int = Field(default=4, ge=1, le=64)
    seconds_per_query: int = Field(default=120, ge=1, le=3600)


class Grant(_Model):
    """One grant, with its template (`for_each`) already expanded."""

    name: Name
    title: Words
    groups: tuple[Group, ...] = Field(min_length=1)
    organisation: Organisation
    level: Level
    tables: Literal["all"] | tuple[str, ...] = "all"
    sensitive: Sensitive = Sensitive()
    purposes: tuple[Purpose, ...] = Field(min_length=1)
    agreement: Words | None = None
    approver: Words
    valid_from: date
    valid_until: date
    channels: tuple[Channel, ...] = Field(min_length=1)
    limits: GrantLimits = GrantLimits()

    @field_validator("tables")
    @classmethod
    def _tables_exist(cls, value: Literal["all"] | tuple[str, ...]) -> Literal["all"] | tuple[str, ...]:
        if value == "all":
            return value
        unknown = sorted(set(value) - set(dictionary()))
        if unknown or not value:
            raise ValueError(f"unknown tables {unknown}; there are: {', '.join(dictionary())}")
        return value

    @model_validator(mode="after")
    def _the_law_allows_it(self) -> Grant:
        for refused, reason in self._refusals():
            if refused:
                raise ValueError(reason)
        return self

    def _refusals(self) -> list[tuple[bool, str]]:
        purposes, basis = set(self.purposes), self.sensitive.basis
        return [
            (self.valid_until < self.valid_from, "valid_until lies before valid_from"),
            (
                self.level == Level.LIMITED and self.agreement is None,
                "level limited needs the agreement: a data use agreement, 45 CFR 164.514(e)(4)",
            ),
            (
                self.level == Level.LIMITED and not purposes <= LIMITED_PURPOSES,
                f"level limited serves only {_listed(LIMITED_PURPOSES)}, 45 CFR 164.514(e)(3)",
            ),
            (
                Purpose.RESEARCH in purposes and self.agreement is None,
                "purpose research needs the reference of its approval in agreement",
            ),
            (
                self.level == Level.SAFE_HARBOR and self.organisation.relation != Relation.STATE,
                "level safe_harbor must be state-wide (relation: state): a smaller area is an identifier, 45 CFR 164.514(b)(2)(i)(B)",
            ),
            (
                self.level == Level.AGGREGATE and not set(self.channels) <= AGGREGATE_CHANNELS,
                f"level aggregate has no rows to serve: channels may be {_listed(AGGREGATE_CHANNELS)}",
            ),
            (
                basis is not None and not purposes <= BASIS_PURPOSES.get(basis, frozenset()),
                f"basis {basis} carries only the purposes {_listed(BASIS_PURPOSES.get(basis, frozenset()) if basis else ())}",
            ),
            (
                basis == Basis.DEIDENTIFIED_164_514 and self.level not in DEIDENTIFIED_LEVELS,
                f"basis {Basis.DEIDENTIFIED_164_514} is for the levels {_listed(DEIDENTIFIED_LEVELS)}",
            ),
        ]

    @property
    def table_names(self) -> tuple[str, ...]:
        """The tables of the grant in the dictionary's order."""
        return tuple(name for name in dictionary() if self.tables == "all" or name in self.tables)

    @property
    def namespace(self) -> str:
        """The token namespace: the agreement's, at this level; the grant's own where it has no agreement.

        The level belongs to it, because equal tokens would join a Safe Harbor slice to a limited one.
        """
        return f"{self.level}/{self.agreement or 'grant ' + self.name}"

    @property
    def policy_digest(self) -> str:
        """SHA-256 of what decides the content of a slice; who may use it and until when are no part of it."""
        policy = self.model_dump(mode="json", include={"organisation", "level", "sensitive"})
        policy["organisation"]["ids"] = sorted(policy["organisation"]["ids"])
        policy["tables"] = self.table_names
        return hashlib.sha256(json.dumps(policy, sort_keys=True).encode()).hexdigest()


def _listed(values: Collection[StrEnum]) -> str:
    return ", ".join(sorted(values))


class Template(Grant):
    """A grant as a file says it: `for_each: mcp` makes one grant of each organisation of that kind, with `{org}` filled in."""

    for_each: Literal["mcp", "bhp", "county", "provider", "tribe"] | None = None


def grant_schema() -> dict[str, Any]:
    """The JSON schema of a grant file. In a template, `{org}` may stand in name, title, groups, ids and agreement."""
    schema = Template.model_json_schema()
    schema["title"] = "Workbench grant"
    return schema
