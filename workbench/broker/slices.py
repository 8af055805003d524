"""Slices: a release cut to a grant, made physical, with a manifest that accounts for every row.

A slice's folder is all that a worker gets: `manifest.json` and `tables/<table>/part-000.parquet`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from workbench.broker.cut import CUTS, Basis, Cutter
from workbench.broker.grants import Grant
from workbench.broker.published_slice import (
    BuildFailed,
    DiskFull,
    Progress,
    Slice,
    UnknownSlice,
    code_version,
    list_slices,
    open_slice,
    publish,
    silent,
    slice_id,
)
from workbench.broker.tabulation_base import build_base
from workbench.broker.tokens import follows_claim, make_tokens
from workbench.broker.vault import Vault
from workbench.deid.levels import Action, Level, Served, columns_for, dropped, expression
from workbench.errors import WorkbenchError
from workbench.lake.release import Release
from workbench.schema import IdentifierClass, Table, dictionary, dictionary_digest

__all__ = [
    "BuildFailed",
    "DiskFull",
    "NoRows",
    "Slice",
    "UnknownSlice",
    "ensure",
    "ensure_tabulation",
    "list_slices",
    "open_slice",
    "slice_id",
]


PARQUET = "COMPRESSION zstd, COMPRESSION_LEVEL 1"
"""Tokens do not compress; the lowest level made smaller files than the default (3), in less time."""


WRITERS = 2
"""Tables written at the same time: the phases of a COPY that one thread does alone overlap with those of another.
Rows that are not sorted anew are copied by one thread a table: several split the row groups differently each time."""


class NoRows(WorkbenchError):
    """The grant's level has no rows, so there is no slice of it."""

    code = "no-rows"
    http_status = 403


def ensure(release: Release, grant: Grant, vault: Vault, lake: Path, progress: Progress = silent) -> Slice:
    """The slice of a grant over a release, built when it is not there. Raises `NoRows`, `DiskFull`, `BuildFailed`."""
    if grant.level == Level.AGGREGATE:
        raise NoRows(
            f"Grant {grant.name} is of level aggregate: it has tables, no rows.",
            hint='Ask for one of the tables: `s.tabulate("members_by_county", year=2025)`.',
        )
    return publish(
        lake,
        slice_id(release, grant, "slice"),
        lambda con, folder: _build(con, folder, release, grant, vault, progress),
    )


def ensure_tabulation(
    release: Release, grant: Grant, vault: Vault, lake: Path, progress: Progress = silent
) -> Slice:
    """The private tabulation base of a grant's population: for the broker's own code, never for SQL.

    It rests on every claim, sensitive ones too; what is tabulated from it has to pass disclosure control.
    Raises `DiskFull`, `BuildFailed`.
    """
    del vault
    return publish(
        lake,
        slice_id(release, grant, "tabulation"),
        lambda con, folder: build_base(con, folder, release, grant, progress),
    )


def _build(
    con: duckdb.DuckDBPyConnection,
    folder: Path,
    release: Release,
    grant: Grant,
    vault: Vault,
    progress: Progress,
) -> dict[str, Any]:
    basis: Basis = "without_part2" if grant.sensitive.excluded else "all"
    names = [name for name in grant.table_names if name in release.tables()]
    served = {name: columns_for(grant.level, name) for name in names}
    steps = len(names) + 1
    progress("members", 0, steps)
    cutter = Cutter(con, release, grant, excluded=grant.sensitive.excluded, basis=basis)
    if grant.level != Level.IDENTIFIED:
        con.execute("RESET disabled_optimizers")
        make_tokens(con, cutter, vault, grant.namespace, [name for name in names if served[name]])
    else:
        con.execute("SET threads = 1")
    queries = {
        name: _query(release, cutter, grant.level, dictionary()[name], served[name])
        for name in names
        if served[name]
    }
    tables: dict[str, Any] = {}
    with _writing(con, folder, release, cutter, queries) as written:
        for step, name in enumerate(names, start=1):
            progress(name, step, steps)
            if name in written:
                tables[name] = _entry(grant.level, name, served[name], written[name].result())
    manifest = {
        "kind": "slice",
        "release": release.id,
        "grant": grant.name,
        "level": grant.level,
        "policy": grant.policy_digest,
        "code": code_version(),
        "dictionary": dictionary_digest(),
        "as_of": release.as_of.isoformat(),
        "synthetic": release.synthetic,
        "members": _one(con, "SELECT count(*) FROM permitted"),
        "tables_not_served": sorted(name for name in dictionary() if name not in tables),
        "tables": tables,
        "fitness": {
            "dates": "year" if grant.level == Level.SAFE_HARBOR else "day",
            "categories_removed": list(grant.sensitive.excluded),
            "attribution": cutter.attribution,
            "complete_through": release.complete_through.isoformat(),
        },
    }
    if grant.level != Level.IDENTIFIED and "member" in tables:
        manifest["equivalence_classes"] = _equivalence_classes(con, folder, served["member"])
    progress("done", steps, steps)
    return manifest


@dataclass(frozen=True)
class Written:
    """One table that stands below the build's folder."""

    part: Path
    bytes: int
    rows_in: int
    rows: int
    removed: dict[str, int]


@contextlib.contextmanager
def _writing(
    con: duckdb.DuckDBPyConnection, folder: Path, release: Release, cutter: Cutter, queries: Mapping[str, str]
) -> Iterator[dict[str, Future[Written]]]:
    """Writes the tables, `WRITERS` at a time, the largest first; what is still running when this is left is stopped."""
    for name in queries:
        (folder / "tables" / name).mkdir()
    cursors: list[duckdb.DuckDBPyConnection] = []
    own = threading.local()

    def start() -> None:
        own.con = con.cursor()
        cursors.append(own.con)

    pool = ThreadPoolExecutor(WRITERS, thread_name_prefix="slice", initializer=start)
    try:
        yield {
            name: pool.submit(lambda n: _write(own.con, folder, release, cutter, n, queries[n]), name)
            for name in sorted(queries, key=lambda n: (-_rows_in(release, n), n))
        }
    except BaseException:
        for cursor in cursors:
            cursor.interrupt()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        for cursor in cursors:
            cursor.close()


def _write(
    con: duckdb.DuckDBPyConnection, folder: Path, release: Release, cutter: Cutter, name: str, query: str
) -> Written:
    part = Path("tables") / name / "part-000.parquet"
    target = str(folder / part).replace("'", "''")
    written = con.execute(f"COPY ({query}) TO '{target}' (FORMAT parquet, {PARQUET})").fetchall()
    rows, rows_in = int(written[0][0]), _rows_in(release, name)
    removed = cutter.removed(con, name, rows_in, rows) if dictionary()[name].has_member else {}
    return Written(part, (folder / part).stat().st_size, rows_in, rows, removed)


def _rows_in(release: Release, name: str) -> int:
    return sum(int(part["rows"]) for part in release.manifest["tables"][name]["parts"])


def _entry(level: Level, name: str, served: tuple[Served, ...], written: Written) -> dict[str, Any]:
    """What the manifest says of a table."""
    table = dictionary()[name]
    return {
        "grain": table.grain,
        "about": table.about,
        "rows_in": written.rows_in,
        "rows": written.rows,
        "removed": written.removed,
        "split": written.rows - (written.rows_in - sum(written.removed.values())),
        "columns": [
            {
                "name": c.name,
                "type": c.type,
                "means": c.means,
                "from": c.column.name,
                "rule": c.rule.action,
                "source": c.rule.source,
            }
            for c in served
        ],
        "dropped": dropped(level, table),
        "parts": [written.part.as_posix()],
        "bytes": written.bytes,
    }


def _query(release: Release, cutter: Cutter, level: Level, table: Table, served: tuple[Served, ...]) -> str:
    """The rows of one table of the slice, in their order. Makes the helper tables that it reads."""
    if table.has_member:
        cutter.select(table.name)
    if level == Level.IDENTIFIED or not table.has_member:
        return _plain(release, cutter, table, served)
    if follows_claim(table.name):
        return _with_claims(release, table, served)
    return _with_members(release, cutter, table, served)


def _plain(release: Release, cutter: Cutter, table: Table, served: tuple[Served, ...]) -> str:
    """Rows with their ids: member, first date, key. A release that is sorted so already is not sorted again."""
    columns = ", ".join(f'{_value(c, release, "false")} AS "{c.name}"' for c in served)
    dates = [c.name for c in served if c.type == "DATE" and c.name not in ("birth_date", "death_date")]
    order = [*(["member_id"] if table.has_member else []), *dates[:1], *table.key]
    wanted = list(dict.fromkeys(name for name in order if name in table.columns))
    if not table.has_member:
        source, where, clipped = f"{release.relation(table.name)} s", "true", False
    else:
        selection = cutter.select(table.name)
        source, where = selection.source, f"{selection.fate} IS NULL"
        clipped = cutter.own_period and CUTS[table.name].clipped
    query = f"SELECT {columns} FROM {source} WHERE {where}"
    if not clipped and release.manifest["tables"][table.name].get("sorted_by") == wanted:
        return query
    return f"{query} ORDER BY {', '.join(f's.{name}' for name in wanted)}"


def _with_claims(release: Release, table: Table, served: tuple[Served, ...]) -> str:
    """Rows that go with a claim, under tokens: by member token, claim token, and what the slice holds."""
    kind, claim = _claim_of(table)
    tokens = {"member_id": "p.token", claim: "k.token"}
    values = {c.name: tokens.get(c.column.name) or _value(c, release, "false") for c in served}
    return (
        f"SELECT {_listed(values)} FROM {release.relation(table.name)} s "
        "JOIN permitted p ON p.member_id = s.member_id "
        f"JOIN claim_key k ON k.id = s.{claim} AND k.kind = {kind} AND k.member_rank = p.rank "
        f"ORDER BY {', '.join(['k.member_rank', 'k.prefix', *_rest(table, served, values)])}"
    )


def _with_members(release: Release, cutter: Cutter, table: Table, served: tuple[Served, ...]) -> str:
    """Rows of members, under tokens: by member token, other tokens, and what the slice holds."""
    selection = cutter.select(table.name)
    source, values, order = selection.source, {}, ["p.rank"]
    for c in served:
        value = _value(c, release, "p.top_aged")
        if c.column.identifier_class == IdentifierClass.MEMBER_KEY:
            value = "p.token"
        elif c.rule.action == Action.TOKEN:
            source += f" LEFT JOIN id_token k_{c.name} ON k_{c.name}.id = s.{c.name}"
            order.append(f"k_{c.name}.prefix")
            value = f"k_{c.name}.token"
        values[c.name] = value
    return (
        f"SELECT {_listed(values)} FROM {source} WHERE {selection.fate} IS NULL "
        f"ORDER BY {', '.join([*order, *_rest(table, served, values)])}"
    )


def _listed(values: Mapping[str, str]) -> str:
    return ", ".join(f'{value} AS "{name}"' for name, value in values.items())


def _value(served: Served, release: Release, top_aged: str) -> str:
    return expression(served, as_of=release.as_of.isoformat(), token="NULL", top_aged=top_aged)


def _claim_of(table: Table) -> tuple[str, str]:
    claim = CUTS[table.name].claim
    assert claim is not None
    return claim


def _rest(table: Table, served: tuple[Served, ...], values: Mapping[str, str]) -> list[str]:
    """What sorts rows of one member (and claim): the key, where all of it is kept as it is, else every column.

    Sorts by numbers are quick, sorts by text are not: the first stands as it is if it is a number or a date, a hash of
    the served values stands for the others.
    """
    kept = {c.column.name for c in served if c.rule.action in (Action.TOKEN, Action.KEEP)}
    shown = {c.column.name: c for c in served if c.rule.action != Action.TOKEN}
    wanted = [shown[name] for name in (table.key if set(table.key) <= kept else shown) if name in shown]
    lead = 1 if wanted and wanted[0].type != "VARCHAR" else 0
    order = [values[c.name] for c in wanted[:lead]]
    others = [values[c.name] for c in wanted[lead:]]
    return [*order, f"hash({', '.join(others)})"] if others else order


QUASI_IDENTIFIERS = frozenset(
    {IdentifierClass.QUASI, IdentifierClass.BIRTH_DATE, IdentifierClass.ZIP, IdentifierClass.GEOGRAPHY}
)


def _equivalence_classes(
    con: duckdb.DuckDBPyConnection, folder: Path, served: tuple[Served, ...]
) -> dict[str, Any]:
    """How many members share all of their quasi-identifiers: the smallest class, and how many members are alone."""
    names = [c.name for c in served if c.column.identifier_class in QUASI_IDENTIFIERS]
    listed = ", ".join(f'"{name}"' for name in names)
    part = str(folder / "tables" / "member" / "part-000.parquet").replace("'", "''")
    rows = con.execute(
        f"SELECT coalesce(min(n), 0), count(*) FILTER (WHERE n = 1), count(*) "
        f"FROM (SELECT count(*) AS n FROM read_parquet('{part}') GROUP BY {listed})"
    ).fetchall()
    smallest, alone, classes = rows[0]
    return {"quasi_identifiers": names, "smallest": smallest, "members_alone": alone, "classes": classes}


def _one(con: duckdb.DuckDBPyConnection, query: str) -> int:
    return int(con.execute(query).fetchall()[0][0])
