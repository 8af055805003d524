"""Who may read a stored report: a holder of the grant that it ran under, while that grant is valid. Nobody else."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from workbench.broker.grants import GrantBook
from workbench.reports.catalogue import Catalogue
from workbench.reports.history import Entry, History, Status
from workbench.reports.releases import newest_release
from workbench.reports.store import Output, Store
from workbench.settings import Settings


@dataclass(frozen=True)
class Shelf:
    """One report of one organisation and parameters as its readers see it: the output, if any, and how runs went."""

    grant: str
    report: str
    title: str
    organisation: str
    organisation_name: str
    key: str
    output: Output | None
    stale: bool
    """The lake has a newer release than the one that the output rests on."""
    last: Entry | None
    """The newest row of the history, whatever it says."""
    schedule: str
    """The rule in words; empty without one."""


def readable(settings: Settings, groups: Collection[str], history: History) -> list[Shelf]:
    """What a person of these groups may read, and the schedules under the grants that the person holds."""
    book = GrantBook.load(settings.grants)
    held = {
        one.grant.name for one in book.for_user(groups) if one.allowed and "reports" in one.grant.channels
    }
    newest = newest_release(settings.lake)
    catalogue = Catalogue.load(settings.reports)
    shelves = {(shelf.grant, shelf.report, shelf.key): shelf for shelf in _scheduled(catalogue, book, held)}
    for output in Store(settings.lake / "reports").outputs():
        if output.grant not in held:
            continue
        stamp = output.manifest["stamp"]
        place = (output.grant, output.report, output.key)
        rule = shelves[place].schedule if place in shelves else ""
        shelves[place] = Shelf(
            grant=output.grant,
            report=output.report,
            title=str(stamp["title"]),
            organisation=output.organisation,
            organisation_name=str(stamp["organisation_name"]),
            key=output.key,
            output=output,
            stale=newest is not None and newest != stamp["release"],
            last=None,
            schedule=rule,
        )
    return [_with_last(shelf, history) for _, shelf in sorted(shelves.items())]


def open_output(
    settings: Settings, groups: Collection[str], grant: str, report: str, key: str
) -> Output | None:
    """The output for a holder of its grant, None where there is none; raises GrantRefused with the reason.

    Whether a report exists is told to holders only.
    """
    GrantBook.load(settings.grants).require(grant, groups, channel="reports")
    return Store(settings.lake / "reports").read(grant, report, key)


def _scheduled(catalogue: Catalogue, book: GrantBook, held: Collection[str]) -> Iterator[Shelf]:
    for report, rule, one in catalogue.scheduled():
        grant = report.grant_for(one.organisation)
        if grant in held:
            yield Shelf(
                grant=grant,
                report=report.name,
                title=report.title,
                organisation=one.organisation,
                organisation_name=book.registry.name(one.organisation),
                key=report.key(one.organisation, report.values(one.parameters)),
                output=None,
                stale=False,
                last=None,
                schedule=rule.words,
            )


def _with_last(shelf: Shelf, history: History) -> Shelf:
    rows = history.entries(report=shelf.report, organisation=shelf.organisation, limit=200)
    last = next((row for row in rows if row.key == shelf.key and row.status is not Status.RUNNING), None)
    return Shelf(**{**vars(shelf), "last": last})
