"""Grants in words: whose members, which categories, and what becomes of one column, each with its reason."""

from __future__ import annotations

from workbench.broker.grants import Channel, Grant, Relation
from workbench.deid.levels import NOT_SERVED, Action, Level, rule, served_as
from workbench.errors import WorkbenchError
from workbench.schema import Column, Table, dictionary
from workbench.schema.sensitive import CATEGORIES, Category


class UnknownColumn(WorkbenchError):
    """The data dictionary has no such column."""

    code = "unknown-column"
    http_status = 404


def column_named(text: str) -> tuple[Table, Column]:
    """The column that `TABLE.COLUMN` names. Raises `UnknownColumn`."""
    table_name, _, column_name = text.partition(".")
    table = dictionary().get(table_name)
    if table is None:
        raise UnknownColumn(
            "The data dictionary has no such table.", hint=f"It has: {', '.join(dictionary())}."
        )
    if column_name not in table.columns:
        raise UnknownColumn(
            f"Table {table.name} has no such column.", hint=f"It has: {', '.join(table.columns)}."
        )
    return table, table.columns[column_name]


READS = frozenset({Channel.NOTEBOOK, Channel.LMR_API, Channel.RISK_API, Channel.FEED})
"""The channels on which a holder herself, or her system, gets rows."""


def how_seen(grant: Grant) -> str:
    """What reaches a holder on the grant's channels."""
    rowless = [channel for channel in grant.channels if channel not in READS]
    if grant.level == Level.AGGREGATE:
        return f"no rows to anybody: tables that passed disclosure control, by {', '.join(grant.channels)}"
    if not shows_rows(grant):
        words = {
            Channel.REPORTS: "reports are run on it",
            Channel.APPS: "apps are run on it",
            Channel.TABULATE: "tables that passed disclosure control are counted from it",
        }
        return f"no rows to people; {', '.join(words[channel] for channel in rowless)}"
    also = f"; also {', '.join(rowless)}" if rowless else ""
    return f"rows by {', '.join(channel for channel in grant.channels if channel in READS)}{also}"


def shows_rows(grant: Grant) -> bool:
    """Whether a channel of the grant gives rows to people or their systems."""
    return grant.level != Level.AGGREGATE and not READS.isdisjoint(grant.channels)


def members_of(grant: Grant) -> str:
    """Whose rows the grant is about."""
    organisation = grant.organisation
    if organisation.relation == Relation.STATE:
        return "every member of the State"
    whose = f"members of {', '.join(organisation.ids)} ({organisation.relation})"
    if organisation.as_of == "ever_own_period":
        return f"{whose}, ever attributed, with only what happened on attributed days"
    day = (
        "on the release's as-of date"
        if organisation.as_of == "current"
        else f"on {organisation.as_of.isoformat()}"
    )
    return f"{whose}, attributed {day}, with their whole history"


def sensitive_of(grant: Grant) -> str:
    """What becomes of the sensitive categories."""
    sensitive = grant.sensitive
    parts = []
    if sensitive.included:
        parts.append(f"included: {', '.join(sensitive.included)}")
    if sensitive.with_consent:
        parts.append(
            f"of members who consented to {grant.recipient_id} only: {', '.join(sensitive.with_consent)}"
        )
    if sensitive.excluded:
        parts.append(f"left out, with every trace: {', '.join(sensitive.excluded)}")
    if sensitive.basis is not None:
        parts.append(f"basis for Part 2: {sensitive.basis}")
    return "; ".join(parts)


def category_fate(grant: Grant, category: Category) -> dict[str, str]:
    """What becomes of one category's claims, and why."""
    handling = grant.sensitive.handling(category)
    why = {
        "exclude": f"the grant leaves it out; {grant.approver} can include it, where the law allows",
        "include": "the grant names it",
        "with_consent": f"for members whose consent to {grant.recipient_id} is in force today",
    }[handling]
    if category in grant.never_included:
        why = f"refused unless the recipient is in California: {CATEGORIES[category].law}"
    return {"category": str(category), "handling": handling, "why": why, "source": CATEGORIES[category].law}


def column_fate(grant: Grant, table: Table, column: Column) -> dict[str, str]:
    """What becomes of a column in a grant's slice, and by which rule: `seen` is yes, no, or as NAME TYPE."""
    found = rule(grant.level, column.identifier_class)
    about = {
        "column": f"{table.name}.{column.name}",
        "class": column.identifier_class,
        "rule": found.action,
        "source": found.source,
    }
    kept = grant.columns_of(table.name)
    why_not = ""
    if table.name not in grant.table_names:
        why_not = f"the grant does not name table {table.name}; {grant.approver} can add it"
    elif grant.level == Level.AGGREGATE:
        why_not = "the grant's level has no rows, only tables"
    elif (grant.level, table.name) in NOT_SERVED:
        why_not = NOT_SERVED[grant.level, table.name]
    elif found.action == Action.DROP:
        why_not = f"level {grant.level} drops columns of class {column.identifier_class}"
    elif kept is not None and column.name not in kept:
        why_not = f"the grant's columns leave it out of {table.name}; {grant.approver} can add it"
    if why_not:
        return {**about, "seen": "no", "why": why_not}
    served = served_as(grant.level, column)
    seen = "yes" if found.action == Action.KEEP else f"as {served.name} {served.type}"
    return {**about, "seen": seen, "why": served.means}


def column_seen(grant: Grant, table: Table, column: Column) -> dict[str, str]:
    """`column_fate` as a holder has it: of a column in a slice of which no channel gives her rows, she sees nothing."""
    fate = column_fate(grant, table, column)
    if fate["seen"] == "no" or shows_rows(grant):
        return fate
    kept = "has it" if fate["seen"] == "yes" else f"has it {fate['seen']}"
    return {**fate, "seen": "no", "why": f"{how_seen(grant)}; the slice {kept}"}
