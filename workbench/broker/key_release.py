"""A release of which only what decides over rows is at hand, in memory: for questions about grants, not for answers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import duckdb
import pyarrow as pa

from workbench.broker.cut import CUTS
from workbench.broker.grants import Organisation, Relation
from workbench.lake.release import Release
from workbench.schema import IdentifierClass, Table, dictionary

ROW_KEY = "row_key"
"""The column that stands for a row: a hash of its key."""
CATALOG = "key_release"
_DECIDING = frozenset(
    {
        IdentifierClass.MEMBER_KEY,
        IdentifierClass.CLAIM_KEY,
        IdentifierClass.DATE,
        IdentifierClass.BIRTH_DATE,
        IdentifierClass.ORGANISATION,
        IdentifierClass.REFERENCE,
    }
)
"""The classes of columns by which rows are cut to a grant."""


@dataclass(frozen=True)
class KeyRelease(Release):
    """The same release; its relations are tables in memory with the deciding columns and `ROW_KEY`."""

    group: int | None = None
    """Only the members of this group; None for all."""

    def relation(self, table: str) -> str:
        """The table as DuckDB SQL for a FROM clause."""
        if self.group is None or not dictionary()[table].has_member:
            return f"{CATALOG}.main.{table}"
        return f"(SELECT * EXCLUDE (part) FROM {CATALOG}.grouped.{table} WHERE part = {self.group})"


def load(
    con: duckdb.DuckDBPyConnection, release: Release, tables: tuple[str, ...], member: str | None = None
) -> KeyRelease:
    """Reads the tables, or one member's rows of them, into a catalog of the connection."""
    con.execute(f"ATTACH ':memory:' AS {CATALOG}")
    for name in tables:
        if name not in release.tables():
            continue
        table = dictionary()[name]
        columns = ", ".join(f'"{column}"' for column in _deciding(table))
        key = ", ".join(f'"{column}"' for column in table.key)
        only = " WHERE member_id = $member" if member is not None and table.has_member else ""
        con.execute(
            f"CREATE TABLE {CATALOG}.main.{name} AS SELECT {columns}, hash({key}) AS {ROW_KEY} "
            f"FROM {release.relation(name)}{only}",
            {"member": member} if only else None,
        )
    return KeyRelease(release.id, release.path, release.manifest)


def _deciding(table: Table) -> list[str]:
    cut = CUTS.get(table.name)
    told = (*cut.present, *cut.until) if cut is not None else ()
    return [
        name
        for name, column in table.columns.items()
        if column.identifier_class in _DECIDING or name in table.key or name in told
    ]


def grouped(
    con: duckdb.DuckDBPyConnection,
    release: KeyRelease,
    tables: tuple[str, ...],
    groups: Sequence[Collection[Organisation]],
) -> list[KeyRelease]:
    """For each group of organisations the release of the members who were ever attributed to one of them.

    Rows of a group lie together, so that a question about one group reads little else. A group with relation `state`
    is about everybody.
    """
    con.execute(f"CREATE SCHEMA {CATALOG}.grouped")
    pairs = [
        (number, str(organisation.relation), id)
        for number, group in enumerate(groups)
        if not _everybody(group)
        for organisation in group
        for id in organisation.ids
    ]
    named = pa.table(
        {
            "part": pa.array([n for n, _, _ in pairs], pa.int32()),
            "relation": pa.array([r for _, r, _ in pairs], pa.string()),
            "organisation_id": pa.array([i for _, _, i in pairs], pa.string()),
        }
    )
    con.register("given_groups", named)
    con.execute(
        f"CREATE TABLE {CATALOG}.grouped.grouped_member AS SELECT DISTINCT g.part, a.member_id "
        f"FROM {CATALOG}.main.attribution a JOIN given_groups g USING (relation, organisation_id)"
    )
    con.unregister("given_groups")
    for name in tables:
        if name in release.tables() and dictionary()[name].has_member:
            con.execute(
                f"CREATE TABLE {CATALOG}.grouped.{name} AS SELECT g.part, s.* FROM {CATALOG}.main.{name} s "
                f"JOIN {CATALOG}.grouped.grouped_member g USING (member_id) ORDER BY g.part"
            )
    whole = replace(release, group=None)
    return [whole if _everybody(group) else replace(release, group=n) for n, group in enumerate(groups)]


def _everybody(group: Collection[Organisation]) -> bool:
    return any(organisation.relation == Relation.STATE for organisation in group)
