"""The book of grants: a folder of YAML files, read, expanded and validated as one; and who may use which of them now."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from workbench.broker.grant_model import (
    AGREED_LEVELS,
    Basis,
    Channel,
    Grant,
    GrantLimits,
    Organisation,
    Purpose,
    Recipient,
    Relation,
    Sensitive,
    Template,
    grant_schema,
)
from workbench.broker.grant_template import faults_of_template, filled, placeholders
from workbench.days import today
from workbench.deid.levels import Level
from workbench.errors import WorkbenchError
from workbench.schema.counties import counties

__all__ = [
    "Basis",
    "Channel",
    "Decision",
    "Grant",
    "GrantBook",
    "GrantLimits",
    "GrantRefused",
    "InvalidGrants",
    "Level",
    "Organisation",
    "OrganisationRegistry",
    "Purpose",
    "Recipient",
    "Relation",
    "Sensitive",
    "grant_schema",
]

REGISTRY_FILE = "organisations.yaml"


class InvalidGrants(WorkbenchError):
    """The folder of grants has faults; none of its grants is used until they are mended. `faults` lists them all.

    `sound` names the grants of the files without a fault, as far as they were read.
    """

    code = "invalid-grants"
    http_status = 503

    def __init__(self, faults: Collection[str], sound: Collection[str] = ()):
        self.faults = tuple(faults)
        self.sound = tuple(sound)
        super().__init__(
            "The grants are not valid: " + "; ".join(self.faults) + ".",
            hint="Mend the files and run `workbench policy check`; `workbench policy schema` prints what a grant may say.",
        )


class GrantRefused(WorkbenchError):
    """A grant exists or not, but this caller may not use it now; the reason says why and who can change that."""

    code = "grant-refused"
    http_status = 403


@dataclass(frozen=True)
class Decision:
    """Whether one grant is open to a caller now, with the reason, and who can change it."""

    grant: Grant
    allowed: bool
    reason: str
    hint: str
    code: str


class OrganisationRegistry:
    """The organisations that templates are expanded over and grants may name: id → (kind, name)."""

    def __init__(self, organisations: Mapping[str, tuple[str, str]]):
        homes = {f"county-{c}": ("county", f"{county.name} County") for c, county in counties().items()}
        plans = {
            f"bhp-{c}": ("bhp", f"{county.name} County Behavioral Health Plan")
            for c, county in counties().items()
        }
        self._organisations = {**homes, **plans, **organisations}

    @classmethod
    def load(cls, file: Path) -> OrganisationRegistry:
        """Reads organisations.yaml; without the file only the counties and their behavioral health plans exist."""
        if not file.is_file():
            return cls({})
        raw = _read(file).get("organisations")
        if not isinstance(raw, dict):
            raise InvalidGrants([f"{file.name}: must hold a mapping `organisations`"])
        faults = [
            f"{file.name}: {key} needs kind and name" for key, v in raw.items() if not _names_organisation(v)
        ]
        if faults:
            raise InvalidGrants(faults)
        return cls({str(key): (str(value["kind"]), str(value["name"])) for key, value in raw.items()})

    def of_kind(self, kind: str) -> list[str]:
        """The ids of one kind, sorted."""
        return sorted(key for key, (k, _) in self._organisations.items() if k == kind)

    def kinds(self) -> list[str]:
        """The kinds of organisations that there are, sorted."""
        return sorted({kind for kind, _ in self._organisations.values()})

    def kind(self, organisation: str) -> str | None:
        """The kind of an organisation; None for an unknown one."""
        found = self._organisations.get(organisation)
        return found[0] if found else None

    def name(self, organisation: str) -> str:
        """The display name; the id for an unknown one."""
        return self._organisations.get(organisation, ("", organisation))[1]


class GrantBook:
    """All grants of one folder, by name."""

    def __init__(
        self,
        grants: Collection[Grant],
        registry: OrganisationRegistry,
        files: Mapping[str, str] | None = None,
    ):
        self._grants = {grant.name: grant for grant in sorted(grants, key=lambda g: g.name)}
        self._files = files or {}
        self.registry = registry

    @classmethod
    def load(cls, folder: Path) -> GrantBook:
        """Reads every *.yaml of the folder. Raises `InvalidGrants` with all faults; two grants of one name are one."""
        if not folder.is_dir():
            raise InvalidGrants(["the folder of grants does not exist"])
        registry = OrganisationRegistry.load(folder / REGISTRY_FILE)
        faults: list[str] = []
        faulty: set[str] = set()
        found: dict[str, tuple[Grant, str]] = {}
        for file in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
            if file.name == REGISTRY_FILE:
                continue
            try:
                grants = _grants_of(file, registry)
            except InvalidGrants as error:
                faults.extend(error.faults)
                faulty.add(file.name)
                continue
            for grant in grants:
                if grant.name in found:
                    faults.append(
                        f"{file.name}: name: a grant {grant.name} stands in {found[grant.name][1]} already"
                    )
                    faulty.add(file.name)
                else:
                    found[grant.name] = (grant, file.name)
        if faults:
            raise InvalidGrants(faults, sorted(name for name, (_, at) in found.items() if at not in faulty))
        return cls(
            [grant for grant, _ in found.values()],
            registry,
            {name: file for name, (_, file) in found.items()},
        )

    def __iter__(self) -> Iterator[Grant]:
        return iter(self._grants.values())

    def __len__(self) -> int:
        return len(self._grants)

    def file_of(self, grant: Grant) -> str:
        """The file that the grant comes from, one for all grants of a template."""
        return self._files.get(grant.name, grant.name)

    def get(self, name: str) -> Grant:
        """The grant of that name. Raises `GrantRefused` when there is none."""
        grant = self._grants.get(name)
        if grant is None:
            raise GrantRefused(
                f"There is no grant named {name}."
                if name.isascii() and len(name) < 80
                else "There is no such grant.",
                hint="`workbench policy explain USER` lists the grants and who can give them.",
                code="unknown-grant",
                http_status=404,
            )
        return grant

    def for_user(self, groups: Collection[str], day: date | None = None) -> list[Decision]:
        """One decision for each grant of the book: is it open to a holder of these groups today, and why (not)."""
        day = day or today()
        return [_decide(grant, frozenset(groups), day) for grant in self]

    def require(
        self,
        name: str,
        groups: Collection[str],
        day: date | None = None,
        *,
        purpose: str | None = None,
        channel: str | None = None,
    ) -> Grant:
        """The grant, if a holder of these groups may use it today for this purpose on this channel.

        Raises `GrantRefused` (codes unknown-grant, wrong-group, grant-not-yet-valid, grant-expired, wrong-purpose,
        wrong-channel) with who can change it.
        """
        grant = self.get(name)
        decision = _decide(grant, frozenset(groups), day or today())
        if not decision.allowed:
            raise GrantRefused(decision.reason, hint=decision.hint, code=decision.code)
        if purpose is not None and purpose not in grant.purposes:
            raise GrantRefused(
                f"Grant {name} does not serve the purpose that was stated.",
                hint=f"Its purposes are: {', '.join(grant.purposes)}.",
                code="wrong-purpose",
            )
        if channel is not None and channel not in grant.channels:
            raise GrantRefused(
                f"Grant {name} does not open the channel {Channel(channel) if channel in set(Channel) else 'asked for'}.",
                hint=f"Its channels are: {', '.join(grant.channels)}. {grant.approver} can change that.",
                code="wrong-channel",
            )
        return grant


def _decide(grant: Grant, groups: frozenset[str], day: date) -> Decision:
    ask = f"{grant.approver} can give it."
    if not groups & set(grant.groups):
        reason = f"Grant {grant.name} is for the groups {', '.join(grant.groups)}."
        return Decision(grant, False, reason, f"{ask} Your group decides at your next login.", "wrong-group")
    if day < grant.valid_from:
        reason = f"Grant {grant.name} is not valid before {grant.valid_from.isoformat()}."
        return Decision(grant, False, reason, f"{grant.approver} can change that.", "grant-not-yet-valid")
    if day > grant.valid_until:
        reason = f"Grant {grant.name} expired on {grant.valid_until.isoformat()}."
        return Decision(grant, False, reason, f"{grant.approver} can renew it.", "grant-expired")
    member_of = ", ".join(sorted(groups & set(grant.groups)))
    reason = f"Grant {grant.name} is open to {member_of} until {grant.valid_until.isoformat()}."
    return Decision(grant, True, reason, "", "allowed")


def _grants_of(file: Path, registry: OrganisationRegistry) -> list[Grant]:
    """The grants of one file: one, or one for each organisation of a template."""
    raw = _read(file)
    kind = raw.get("for_each")
    if unfilled := placeholders(raw) - (set() if kind is None else {"{org}", "{org_name}"}):
        known = "for_each is missing" if kind is None else "a template fills in {org} and {org_name}"
        raise InvalidGrants([f"{file.name}: nothing fills in {', '.join(sorted(unfilled))}: {known}"])
    if kind is None:
        grants = [_validated(file, {k: v for k, v in raw.items() if k != "for_each"})]
    else:
        organisations = registry.of_kind(str(kind))
        if not organisations:
            raise InvalidGrants(
                [
                    f"{file.name}: for_each: the registry has no organisation of this kind; it has {', '.join(registry.kinds())}"
                ]
            )
        if faults := faults_of_template(raw):
            raise InvalidGrants([f"{file.name}: {fault}" for fault in faults])
        template = {key: value for key, value in raw.items() if key != "for_each"}
        grants = [_validated(file, filled(template, one, registry.name(one))) for one in organisations]
    unknown = sorted({o for g in grants for o in g.organisation.ids if registry.kind(o) is None})
    if unknown:
        raise InvalidGrants([f"{file.name}: organisation.ids: {', '.join(unknown)} not in {REGISTRY_FILE}"])
    wrong = sorted(
        {
            o
            for g in grants
            for o in g.organisation.ids
            if registry.kind(o) not in (None, g.organisation.relation)
        }
    )
    if wrong:
        raise InvalidGrants(
            [f"{file.name}: organisation.ids: {', '.join(wrong)} are of another kind than the relation says"]
        )
    return grants


def _validated(file: Path, raw: dict[str, Any]) -> Grant:
    try:
        grant = Grant.model_validate(raw)
    except ValidationError as error:
        raise InvalidGrants([_fault(file, dict(item)) for item in error.errors()]) from None
    if grant.level in AGREED_LEVELS and grant.agreement is None:
        raise InvalidGrants(
            [
                f"{file.name}: agreement: level {grant.level} needs the reference of what permits it: a contract, a "
                "data use agreement, an internal authorisation"
            ]
        )
    return grant


def _fault(file: Path, item: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in item["loc"] if part not in _UNION_PARTS)
    if item["type"] == "extra_forbidden":
        owner = _model_at(item["loc"][:-1])
        return f"{file.name}: {key}: unknown key; allowed are {', '.join(owner.model_fields)}"
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{file.name}: {key}: {message}" if key else f"{file.name}: {message}"


_UNION_PARTS = frozenset(
    {"date", "literal['current','ever_own_period']", "literal['all']", "tuple[str, ...]"}
)


def _model_at(location: tuple[int | str, ...]) -> type[BaseModel]:
    nested: dict[str, type[BaseModel]] = {
        "organisation": Organisation,
        "recipient": Recipient,
        "sensitive": Sensitive,
        "limits": GrantLimits,
    }
    return nested.get(str(location[0]), Grant) if location else Template


def _names_organisation(value: object) -> bool:
    return isinstance(value, dict) and {"kind", "name"} <= set(value)


class _OneKeyOnce(yaml.SafeLoader):
    """YAML in which a key stands once: the plain loader takes the last of two and says nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key} stands twice", problem_mark=node.start_mark
                )
        return super().construct_mapping(node, deep)


def _read(file: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(file.read_text(encoding="utf-8"), Loader=_OneKeyOnce)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InvalidGrants([f"{file.name}{line}: {error.problem or 'not YAML'}"]) from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError):
        raise InvalidGrants([f"{file.name}: cannot be read as YAML"]) from None
    if not isinstance(raw, dict):
        raise InvalidGrants([f"{file.name}: must be a mapping of keys"])
    return raw
