"""The report catalogue: `reports/*.yaml`, one file a report, refused whole when a key or value is not understood."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from workbench.errors import WorkbenchError

Value = int | str | bool


class CatalogueRefused(WorkbenchError):
    """A file of the catalogue is not a report that can be run."""

    code = "catalogue-refused"


class UnknownReport(WorkbenchError):
    """No report of that name."""

    code = "unknown-report"
    http_status = 404


class ParameterRefused(WorkbenchError):
    """A parameter that the report does not have, or a value outside its range."""

    code = "parameter-refused"


class UnknownOrganisation(WorkbenchError):
    """The organisation is not in the registry, or is not of the kind that the report is for."""

    code = "unknown-organisation"
    http_status = 404


class NoOwner(WorkbenchError):
    """Nobody answers for the report of this organisation."""

    code = "no-owner"
    http_status = 403


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Integer(_Model):
    """A whole number, both ends of the range included."""

    type: Literal["integer"]
    minimum: int
    maximum: int
    default: int
    about: str

    @property
    def allowed(self) -> str:
        return f"{self.minimum} to {self.maximum}"

    def read(self, value: object) -> int:
        """The value as a whole number in range; raises ValueError."""
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError
        number = int(value)
        if not self.minimum <= number <= self.maximum:
            raise ValueError
        return number


class Choice(_Model):
    """One of a few words."""

    type: Literal["choice"]
    choices: tuple[str, ...] = Field(min_length=1)
    default: str
    about: str

    @property
    def allowed(self) -> str:
        return "one of " + ", ".join(self.choices)

    def read(self, value: object) -> str:
        """The word; raises ValueError."""
        if value not in self.choices:
            raise ValueError
        return str(value)


class YesNo(_Model):
    """true or false."""

    type: Literal["boolean"]
    default: bool
    about: str

    @property
    def allowed(self) -> str:
        return "true or false"

    def read(self, value: object) -> bool:
        """The truth value; raises ValueError."""
        if isinstance(value, bool):
            return value
        if value not in ("true", "false"):
            raise ValueError
        return value == "true"


Parameter = Annotated[Integer | Choice | YesNo, Field(discriminator="type")]


class Misfire(_Model):
    """What becomes of a run whose time passed while the scheduler was down or busy."""

    grace_seconds: int = Field(ge=1)
    """A run that is later than this is not made up for: it is recorded as missed."""
    coalesce: bool = True
    """Several missed times are made up for by one run."""


class ScheduledRun(_Model):
    """One organisation of a schedule."""

    organisation: str
    parameters: Mapping[str, Value] = {}


class Schedule(_Model):
    """When the report runs by itself: by `cron` (five fields, in the timezone) or `every_seconds`."""

    cron: str | None = None
    every_seconds: int | None = Field(default=None, ge=1)
    timezone: str = "America/Los_Angeles"
    misfire: Misfire
    runs: tuple[ScheduledRun, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_trigger(self) -> Schedule:
        if (self.cron is None) == (self.every_seconds is None):
            raise ValueError("give either cron or every_seconds")
        if self.cron is not None and len(self.cron.split()) != 5:
            raise ValueError("cron has five fields: minute hour day month weekday")
        if self.cron is not None and any(letter.isdigit() for letter in self.cron.split()[4]):
            raise ValueError("write the weekday of cron by name (mon to sun): its numbers mean two things")
        return self

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            raise ValueError("not a timezone of the tz database") from None
        return name

    @property
    def words(self) -> str:
        """The rule as a person reads it."""
        return f"cron {self.cron} ({self.timezone})" if self.cron else f"every {self.every_seconds} s"


class Limits(_Model):
    """What one run may use."""

    seconds: int = Field(default=120, ge=5, le=3600)
    memory_mb: int = Field(default=3072, ge=256)


class Report(_Model):
    """One report of the catalogue."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{1,40}$")
    title: str
    about: str
    template: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*\.ipynb$")
    organisations: Literal["mcp", "bhp", "county", "provider", "tribe", "state"]
    """The kind of organisation that it is made for; one run is for one of them."""
    parameters: Mapping[str, Parameter]
    grant: str
    """The service grant it runs under; `{org}` stands for the organisation's id."""
    purpose: str
    owners: Mapping[str, str]
    """organisation -> the user who answers for it. A run needs the owner's membership in a group of the grant."""
    audience: str
    limits: Limits = Limits()
    schedule: Schedule | None = None

    @field_validator("parameters")
    @classmethod
    def _names_and_defaults(cls, parameters: Mapping[str, Parameter]) -> Mapping[str, Parameter]:
        for name, parameter in parameters.items():
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in ("organisation", "run"):
                raise ValueError(f"{name}: not a name for a parameter")
            try:
                parameter.read(parameter.default)
            except ValueError:
                raise ValueError(f"{name}: the default is not {parameter.allowed}") from None
        return parameters

    @model_validator(mode="after")
    def _schedule_holds(self) -> Report:
        for run in self.schedule.runs if self.schedule else ():
            if run.organisation not in self.owners:
                raise ValueError(f"schedule: no owner is named for {run.organisation}")
            try:
                self.values(run.parameters)
            except ParameterRefused as error:
                raise ValueError(f"schedule: {error.reason}") from None
        return self

    def grant_for(self, organisation: str) -> str:
        """The name of the service grant for this organisation."""
        return self.grant.replace("{org}", organisation)

    def owner_for(self, organisation: str) -> str:
        """The user who answers for the report of this organisation; raises NoOwner."""
        if organisation not in self.owners:
            raise NoOwner(
                f"No owner is named for {self.name} of {organisation}.",
                hint=f"Name one under `owners` in reports/{self.name}.yaml, or run it for a holder with --as.",
            )
        return self.owners[organisation]

    def values(self, given: Mapping[str, Any]) -> dict[str, Value]:
        """Every parameter with its value, defaults filled in; raises ParameterRefused."""
        unknown = sorted(set(given) - set(self.parameters))
        if unknown:
            raise ParameterRefused(
                f"{self.name} has no parameter {unknown[0]}.",
                hint="It has: " + (", ".join(self.parameters) or "none") + ".",
            )
        out: dict[str, Value] = {}
        for name, parameter in self.parameters.items():
            try:
                out[name] = parameter.read(given.get(name, parameter.default))
            except ValueError:
                raise ParameterRefused(
                    f"The parameter {name} of {self.name} is out of range.",
                    hint=f"Give {parameter.allowed}: {parameter.about}",
                ) from None
        return out

    def key(self, organisation: str, values: Mapping[str, Value]) -> str:
        """The name of the output's folder: what a rerun replaces."""
        return "-".join([organisation, *(str(values[name]).lower() for name in self.parameters)])


@dataclass(frozen=True)
class Catalogue:
    """The reports by name, and where their templates are."""

    reports: Mapping[str, Report]
    templates: Path

    @classmethod
    def load(cls, folder: Path) -> Catalogue:
        """Reads `folder/*.yaml`; templates stand in `notebooks/templates` beside the folder.

        Raises CatalogueRefused, naming the file and the key.
        """
        reports: dict[str, Report] = {}
        templates = folder.parent / "notebooks" / "templates"
        for file in sorted(folder.glob("*.yaml")):
            report = _read(file)
            if report.name in reports:
                raise CatalogueRefused(f"reports/{file.name}: a second report named {report.name}.")
            if not (templates / report.template).is_file():
                raise CatalogueRefused(
                    f"reports/{file.name}: the template {report.template} is not in notebooks/templates."
                )
            reports[report.name] = report
        return cls(reports, templates)

    def get(self, name: str) -> Report:
        """The report; raises UnknownReport."""
        if name not in self.reports:
            raise UnknownReport(
                "The catalogue has no report of that name.",
                hint="It has: " + (", ".join(self.reports) or "none") + " (`workbench report list`).",
            )
        return self.reports[name]

    def template(self, report: Report) -> Path:
        """The report's notebook."""
        return self.templates / report.template

    def scheduled(self) -> Iterator[tuple[Report, Schedule, ScheduledRun]]:
        """Every run that has a schedule."""
        for report in self.reports.values():
            if report.schedule:
                for run in report.schedule.runs:
                    yield report, report.schedule, run


def _read(file: Path) -> Report:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        raise CatalogueRefused(f"reports/{file.name}: this is not YAML.") from None
    if not isinstance(content, dict):
        raise CatalogueRefused(f"reports/{file.name}: a report is a mapping of keys.")
    try:
        return Report.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CatalogueRefused(
            f"reports/{file.name}: {where + ': ' if where else ''}{first['msg']}.",
            hint="docs/reports.md lists the keys of a report.",
        ) from None
