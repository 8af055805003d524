"""Slices: a release cut to a grant, made physical, with a manifest that accounts for every row.

A slice's folder is all that a worker gets: `manifest.json` and `tables/<table>/part-000.parquet` ….
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import duckdb

from workbench.broker.buckets import Bucket, bucket_of_member, fill_buckets
from workbench.broker.consent import NONE_NEEDED, ConsentView
from workbench.broker.cut import Hidden
from workbench.broker.cutter import Cutter
from workbench.broker.grants import Grant
from workbench.broker.law import refuse_unsourced
from workbench.broker.published_slice import (
    KEEP_THE_ORDER_OF_ROWS,
    BuildFailed,
    DiskFull,
    Progress,
    Slice,
    UnknownSlice,
    lineage,
    list_slices,
    members_file,
    open_slice,
    origin,
    publish,
    publish_apart,
    silent,
    slice_id,
)
from workbench.broker.reidentification import equivalence_classes
from workbench.broker.slice_parts import Before, entry_of, writing
from workbench.broker.slice_rows import rows_of
from workbench.broker.tabulation_base import build_base
from workbench.broker.tokens import make_tokens
from workbench.broker.vault import Vault
from workbench.broker.visible import compute_anew
from workbench.deid.levels import Level, Served, columns_for, dropped
from workbench.errors import WorkbenchError
from workbench.lake.release import Release
from workbench.schema import dictionary
from workbench.schema.sensitive import Category

__all__ = [
    "BuildFailed",
    "DiskFull",
    "FromSlice",
    "NoRows",
    "Slice",
    "UnknownMember",
    "UnknownSlice",
    "ensure",
    "ensure_member",
    "ensure_tabulation",
    "list_slices",
    "members_file",
    "open_slice",
    "slice_id",
]

NOT_NAMED = "the grant names the columns of this table, and not this one"


class NoRows(WorkbenchError):
    """The grant's level has no rows, so there is no slice of it."""

    code = "no-rows"
    http_status = 403


class UnknownMember(WorkbenchError):
    """The release has no member of this id."""

    code = "unknown-member"
    http_status = 404


def ensure(
    release: Release,
    grant: Grant,
    vault: Vault,
    lake: Path,
    progress: Progress = silent,
    *,
    consents: ConsentView = NONE_NEEDED,
) -> Slice:
    """The slice of a grant over a release, built when it is not there; `consents` are those that it depends on.

    Raises `NoRows`, `UnsourcedCategory`, `UnknownDrugs`, `DiskFull`, `BuildFailed`.
    """
    refuse_rowless(grant)
    refuse_unsourced(grant, release)
    id, line = slice_id(release, grant, "slice", consents.epoch), lineage(release, grant, "slice")
    order = _Order(release, grant, Hidden.by(grant, consents.members), progress)

    def build(con: duckdb.DuckDBPyConnection, folder: Path) -> dict[str, Any]:
        stamp = {"lineage": line, "consent_epoch": consents.epoch}
        return {"kind": "slice", **stamp, **_build(con, folder, order, vault, lake, line)}

    return publish(lake, id, build)


Make = Callable[[duckdb.DuckDBPyConnection, Path, Slice, Progress], dict[str, Any]]
"""Writes what is made from a slice below a folder, and returns its manifest."""


class FromSlice:
    """What is made from a grant's slice and lies beside it, called as `ensure` is, and raising what it raises."""

    def __init__(self, kind: Literal["record", "feed"], make: Make):
        self._kind: Literal["record", "feed"] = kind
        self._make = make

    def __call__(
        self,
        release: Release,
        grant: Grant,
        vault: Vault,
        lake: Path,
        progress: Progress = silent,
        *,
        consents: ConsentView = NONE_NEEDED,
    ) -> Slice:
        """The grant's one over the release, built when it is not there."""
        source = ensure(release, grant, vault, lake, progress, consents=consents)
        id = slice_id(release, grant, self._kind, consents.epoch)
        return publish(lake, id, lambda con, folder: self._make(con, folder, source, progress))


def ensure_tabulation(
    release: Release,
    grant: Grant,
    vault: Vault,
    lake: Path,
    progress: Progress = silent,
    *,
    consents: ConsentView = NONE_NEEDED,
) -> Slice:
    """The private tabulation base of a grant's population: for the broker's own code, never for SQL.

    It rests on every claim, sensitive ones too; what is tabulated from it has to pass disclosure control.
    Raises `UnsourcedCategory`, `UnknownDrugs`, `DiskFull`, `BuildFailed`.
    """
    del vault
    refuse_unsourced(grant, release)
    hidden, line = Hidden.by(grant, consents.members), lineage(release, grant, "tabulation")

    def build(con: duckdb.DuckDBPyConnection, folder: Path) -> dict[str, Any]:
        stamp = {"kind": "tabulation", "lineage": line, "consent_epoch": consents.epoch}
        return {**stamp, **build_base(con, folder, release, grant, hidden, progress)}

    return publish(lake, slice_id(release, grant, "tabulation", consents.epoch), build)


def ensure_member(
    release: Release,
    grant: Grant,
    member_id: str,
    included: frozenset[Category],
    folder: Path,
    progress: Progress = silent,
) -> Slice:
    """A slice of one member of the release, whoever the member belongs to, below `folder`: for break-glass.

    Of the sensitive categories it holds those of `included` that the law lets this recipient have; its tables and
    columns are the grant's, always identified. It is not listed and not shared; the caller removes it.
    Raises `NoRows`, `UnknownMember`, `UnsourcedCategory`, `UnknownDrugs`, `DiskFull`, `BuildFailed`.
    """
    if grant.level != Level.IDENTIFIED:
        raise NoRows(f"Grant {grant.name} is not of level identified: nobody can be looked up by it.")
    refuse_unsourced(grant, release)
    allowed = included - grant.never_included
    hidden = Hidden(tuple(str(category) for category in Category if category not in allowed))
    order = _Order(release, grant, hidden, progress, member_id)
    return publish_apart(
        folder,
        secrets.token_hex(12),
        lambda con, place: {"kind": "member", **_build(con, place, order, None, None, "")},
    )


def refuse_rowless(grant: Grant) -> None:
    """Raises `NoRows` for a grant that has tables only."""
    if grant.level == Level.AGGREGATE:
        raise NoRows(
            f"Grant {grant.name} is of level aggregate: it has tables, no rows.",
            hint='Ask for one of the tables: `s.tabulate("members_by_county", year=2025)`.',
        )


@dataclass(frozen=True)
class _Order:
    """What is to be built."""

    release: Release
    grant: Grant
    hidden: Hidden
    progress: Progress
    member: str | None = None

    def tables(self) -> dict[str, tuple[Served, ...]]:
        """The tables of the grant that the release has, each with the columns that the slice serves."""
        names = [name for name in self.grant.table_names if name in self.release.tables()]
        return {name: served(self.grant, name) for name in names}


def served(grant: Grant, name: str) -> tuple[Served, ...]:
    """The columns of a table that a slice of this grant holds, after level and grant."""
    named = grant.columns_of(name)
    return tuple(c for c in columns_for(grant.level, name) if named is None or c.column.name in named)


def _build(
    con: duckdb.DuckDBPyConnection,
    folder: Path,
    order: _Order,
    vault: Vault | None,
    lake: Path | None,
    line: str,
) -> dict[str, Any]:
    release, grant, progress, tables = order.release, order.grant, order.progress, order.tables()
    steps = len(tables) + 1
    progress("members", 0, steps)
    cutter = Cutter(con, release, grant, order.hidden, member=order.member)
    identified = grant.level == Level.IDENTIFIED
    buckets = _buckets(con, order)
    before = _before(con, lake, line) if lake is not None and order.hidden.consenting else None
    if before is not None:
        cutter.only(before.changed)
    con.execute("RESET disabled_optimizers")
    compute_anew(con, cutter, release, tables)
    if identified:
        con.execute(f"SET disabled_optimizers = '{KEEP_THE_ORDER_OF_ROWS}'")
        con.execute("SET threads = 1")
    else:
        assert vault is not None
        make_tokens(con, cutter, vault, grant.namespace, [name for name in tables if tables[name]])
    queries = {
        name: [
            (bucket, rows_of(release, cutter, grant.level, dictionary()[name], columns, bucket))
            for bucket in (buckets if dictionary()[name].has_member else (None,))
        ]
        for name, columns in tables.items()
        if columns
    }
    entries: dict[str, Any] = {}
    with writing(con, folder, cutter, queries, before) as written:
        for step, name in enumerate(tables, start=1):
            progress(name, step, steps)
            if name in written:
                account = entry_of([part.result() for part in written[name]])
                entries[name] = _entry(grant, name, tables[name], account)
    manifest = {
        **origin(release, grant),
        "members": _one(con, "SELECT count(*) FROM permitted"),
        "buckets": len(buckets),
        "with_consent": list(order.hidden.consenting),
        "tables_not_served": sorted(name for name in dictionary() if name not in entries),
        "tables": entries,
        "fitness": {
            "dates": "year" if grant.level == Level.SAFE_HARBOR else "day",
            "categories_removed": list(order.hidden.categories),
            "attribution": cutter.attribution,
            "complete_through": release.complete_through.isoformat(),
        },
    }
    if not identified and "member" in entries:
        parts = [folder / part for part in entries["member"]["parts"]]
        manifest["equivalence_classes"] = equivalence_classes(con, parts, tables["member"])
    if before is not None:
        manifest["linked_from"] = before.slice.id
    progress("done", steps, steps)
    return manifest


def _buckets(con: duckdb.DuckDBPyConnection, order: _Order) -> Sequence[Bucket | None]:
    """The buckets of the tables of members; a slice with tokens has none: its rows are in the order of the tokens."""
    if order.member is not None:
        if _one(con, "SELECT count(*) FROM permitted") == 0:
            raise UnknownMember(
                "The release has no member of this id.", hint="Check the id; ids are those of the release."
            )
        return (bucket_of_member(con, order.release),)
    return fill_buckets(con, order.release) if order.grant.level == Level.IDENTIFIED else (None,)


def _before(con: duckdb.DuckDBPyConnection, lake: Path, line: str) -> Before | None:
    """The latest slice of this lineage with the buckets in which a member's consent has changed since; None without one."""
    for slice_ in reversed(list_slices(lake)):
        file = members_file(lake, slice_.id)
        if slice_.manifest.get("lineage") != line or not file.is_file():
            continue
        known = str(file).replace("'", "''")
        changed = con.execute(
            f"SELECT DISTINCT p.bucket FROM permitted p LEFT JOIN read_parquet('{known}') o "
            "ON o.member_id = p.member_id WHERE p.consented IS DISTINCT FROM o.consented"
        ).fetchall()
        return Before(slice_, frozenset(int(bucket) for (bucket,) in changed))
    return None


def _entry(
    grant: Grant, name: str, columns: tuple[Served, ...], account: Mapping[str, Any]
) -> dict[str, Any]:
    """What the manifest says of a table."""
    table = dictionary()[name]
    kept = {c.column.name for c in columns}
    by_level = dropped(grant.level, table)
    return {
        "grain": table.grain,
        "about": table.about,
        **account,
        "columns": [
            {
                "name": c.name,
                "type": c.type,
                "means": c.means,
                "from": c.column.name,
                "rule": c.rule.action,
                "source": c.rule.source,
            }
            for c in columns
        ],
        "dropped": {c: by_level.get(c, NOT_NAMED) for c in table.columns if c not in kept},
    }


def _one(con: duckdb.DuckDBPyConnection, query: str) -> int:
    return int(con.execute(query).fetchall()[0][0])
