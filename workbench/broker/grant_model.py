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

from workbench.broker.law import NOTICE_2_32, refusing, silent
from workbench.deid.levels import Level
from workbench.schema import IdentifierClass, dictionary
from workbench.schema.sensitive import Category


class Relation(StrEnum):
    """What an organisation is to a member; `state` stands for every member."""

    STATE = "state"
    MCP = "mcp"
    BHP = "bhp"
    COUNTY = "county"
    PROVIDER = "provider"
    TRIBE = "tribe"
    COHORT = "cohort"


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
    """Legal bases on which a grant may include Part 2 records (42 CFR). `part2.yaml` says what each can carry."""

    CONSENT_TPO = "consent_tpo"
    RESEARCH_2_52 = "research_2_52"
    AUDIT_EVALUATION_2_53 = "audit_evaluation_2_53"
    QUALIFIED_SERVICE_ORGANISATION_2_11 = "qualified_service_organisation_2_11"
    DEIDENTIFIED_164_514 = "deidentified_164_514"


AGGREGATE_CHANNELS = frozenset({Channel.TABULATE, Channel.REPORTS, Channel.APPS})
FEED_LEVELS = frozenset({Level.IDENTIFIED, Level.LIMITED})
"""The feed carries bulk files to a plan or under an agreement; de-identified rows leave by the airlock."""
AGREED_LEVELS = frozenset({Level.IDENTIFIED, Level.LIMITED})
"""Rows of people who can be known: the grant names the contract, data use agreement or internal authorisation."""
HOME_STATE = "CA"
STAYS_HOME = frozenset({Category.REPRODUCTIVE, Category.GENDER_AFFIRMING})
"""Refused to recipients outside California: Civil Code 56.101(c), 56.108-56.110; the rows stand in `cmia.yaml`."""
Handling = Literal["exclude", "include", "with_consent"]
"""What becomes of a category's claims: out, in, or in for members whose consent to this recipient is in force."""

KEY_CLASSES = frozenset({IdentifierClass.MEMBER_KEY, IdentifierClass.CLAIM_KEY})
"""Columns that a grant cannot leave out: without them rows belong to nobody and cannot be joined."""

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


class Recipient(_Model):
    """Who receives the answers: the organisation that consents name, and the State that it is in."""

    id: OrganisationId | None = None
    state: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")] | None = None


class Sensitive(_Model):
    """What happens to claims of each sensitive category. What is not named is excluded."""

    part2: Handling = "exclude"
    basis: Basis | None = None
    mental_health_specialty: Handling = "exclude"
    reproductive: Handling = "exclude"
    gender_affirming: Handling = "exclude"
    hiv: Handling = "exclude"
    intimate_partner_violence: Handling = "exclude"
    minor_consent: Handling = "exclude"
    genetic: Handling = "exclude"

    @model_validator(mode="after")
    def _basis_goes_with_inclusion(self) -> Sensitive:
        if self.part2 == "exclude" and self.basis is not None:
            raise ValueError("a basis says why Part 2 records are included; part2 is exclude")
        return self

    def handling(self, category: Category) -> Handling:
        """What becomes of one category."""
        found: Handling = getattr(self, category)
        return found

    def _those(self, handling: Handling) -> tuple[str, ...]:
        return tuple(str(category) for category in Category if self.handling(category) == handling)

    @property
    def excluded(self) -> tuple[str, ...]:
        """The categories whose claims a slice must not hold, nor any trace of them."""
        return self._those("exclude")

    @property
    def with_consent(self) -> tuple[str, ...]:
        """The categories whose claims a slice holds for members who consent, and of nobody else any trace."""
        return self._those("with_consent")

    @property
    def included(self) -> tuple[str, ...]:
        """The categories whose claims a slice holds, whoever consents."""
        return self._those("include")


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
    recipient: Recipient = Recipient()
    level: Level
    tables: Literal["all"] | tuple[str, ...] = "all"
    columns: dict[str, tuple[str, ...]] = {}
    sensitive: Sensitive = Sensitive()
    purposes: tuple[Purpose, ...] = Field(min_length=1)
    agreement: Words | None = None
    approver: Words
    valid_from: date
    valid_until: date
    channels: tuple[Channel, ...] = Field(min_length=1)
    break_glass: bool = False
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
    def _says_what_can_be(self) -> Grant:
        if self.valid_until < self.valid_from:
            raise ValueError("valid_until lies before valid_from")
        if self.level == Level.AGGREGATE and not set(self.channels) <= AGGREGATE_CHANNELS:
            raise ValueError(
                f"level aggregate has no rows to serve: channels may be {_listed(AGGREGATE_CHANNELS)}"
            )
        if Channel.FEED in self.channels and self.level not in FEED_LEVELS:
            raise ValueError(f"channel feed is for the levels {_listed(FEED_LEVELS)}")
        if Channel.REPORTS in self.channels and self.sensitive.with_consent:
            raise ValueError(
                "channel reports keeps what it wrote, which cannot follow a revocation: "
                f"with_consent ({', '.join(self.sensitive.with_consent)}) goes with other channels"
            )
        self._columns_exist()
        return self

    def _columns_exist(self) -> None:
        if self.columns and self.level == Level.AGGREGATE:
            raise ValueError("level aggregate has no rows, so columns says nothing")
        for name, columns in self.columns.items():
            if name not in self.table_names:
                raise ValueError(f"columns names {name}, which is no table of this grant")
            unknown = sorted(set(columns) - set(dictionary()[name].columns))
            if unknown or not columns:
                raise ValueError(
                    f"columns of {name}: unknown {unknown}; there are: {', '.join(dictionary()[name].columns)}"
                )

    @model_validator(mode="after")
    def _the_law_allows_it(self) -> Grant:
        facts = self.facts()
        refused = [f"{row.say} [{row.citation}]" for row in refusing(facts)]
        if refused:
            raise ValueError("; ".join(refused))
        if unsaid := [f"{law.title} for purpose {purpose}" for law, purpose in silent(facts)]:
            raise ValueError(f"no row of the law's truth table allows it: {'; '.join(unsaid)}")
        return self

    def facts(self) -> list[dict[str, str | frozenset[str]]]:
        """What the truth tables of the laws ask of a grant: one mapping for each of its purposes."""
        state = self.recipient.state
        said: dict[str, str | frozenset[str]] = {
            "level": str(self.level),
            "relation": str(self.organisation.relation),
            "part2": self.sensitive.part2,
            "basis": str(self.sensitive.basis or "none"),
            "agreement": "named" if self.agreement else "missing",
            "recipient": "named" if self.recipient_id else "unnamed",
            "recipient_state": "unnamed"
            if state is None
            else HOME_STATE
            if state == HOME_STATE
            else "elsewhere",
            "break_glass": "allowed" if self.break_glass else "not",
            "treats": "yes" if Purpose.TREATMENT in self.purposes else "no",
            "channels": frozenset(map(str, self.channels)),
            "included": frozenset({*self.sensitive.included, *self.sensitive.with_consent}),
            "by_consent": frozenset(self.sensitive.with_consent),
        }
        return [{**said, "purpose": str(purpose)} for purpose in self.purposes]

    @property
    def recipient_id(self) -> str | None:
        """The organisation that consents name as recipient: the one that is said, else the grant's only organisation."""
        if self.recipient.id is None and len(self.organisation.ids) == 1:
            return self.organisation.ids[0]
        return self.recipient.id

    @property
    def never_included(self) -> frozenset[Category]:
        """The categories that this recipient gets in no case, not in an emergency either."""
        return frozenset() if self.recipient.state == HOME_STATE else STAYS_HOME

    @property
    def notice(self) -> str | None:
        """The notice of 42 CFR 2.32 that goes with every answer in which Part 2 records may be, else None.

        De-identified records are none (42 CFR 2.11), so the levels safe_harbor and aggregate on that basis carry none.
        """
        if self.sensitive.part2 == "exclude" or self.sensitive.basis == Basis.DEIDENTIFIED_164_514:
            return None
        return NOTICE_2_32

    def columns_of(self, table: str) -> frozenset[str] | None:
        """The columns of a table that the grant keeps, its keys always among them; None for all of them."""
        named = self.columns.get(table)
        if named is None:
            return None
        spec = dictionary()[table]
        keys = {name for name, column in spec.columns.items() if column.identifier_class in KEY_CLASSES}
        return frozenset({*named, *spec.key, *keys})

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
        policy = self.model_dump(mode="json", include={"organisation", "level"})
        policy["organisation"]["ids"] = sorted(policy["organisation"]["ids"])
        policy["tables"] = self.table_names
        policy["columns"] = {name: sorted(self.columns_of(name) or ()) for name in sorted(self.columns)}
        policy["sensitive"] = {category: self.sensitive.handling(category) for category in Category}
        policy["recipient"] = self.recipient_id if self.sensitive.with_consent else None
        return hashlib.sha256(json.dumps(policy, sort_keys=True).encode()).hexdigest()


def _listed(values: Collection[StrEnum]) -> str:
    return ", ".join(sorted(values))


class Template(Grant):
    """A grant as a file says it: `for_each: mcp` makes one grant of each organisation of that kind, with `{org}` filled in."""

    for_each: Literal["mcp", "bhp", "county", "provider", "tribe", "cohort"] | None = None


def grant_schema() -> dict[str, Any]:
    """The JSON schema of a grant file. In a template, `{org}` may stand in name, title, groups, ids and agreement, `{org_name}` in titles."""
    schema = Template.model_json_schema()
    schema["title"] = "Workbench grant"
    return schema
