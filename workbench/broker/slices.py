"""Slices: a release cut to a grant, made physical, with a manifest that accounts for every row.

A slice's folder is all that a worker gets: `manifest.json` and `tables/<table>/part-000.parquet`.
"""

from __future__ import annotations

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
        _tokens(con, release, cutter, vault, grant.namespace, [name for name in names if served[name]])
    tables: dict[str, Any] = {}
    for step, name in enumerate(names, start=1):
        progress(name, step, steps)
        if served[name]:
            tables[name] = _write(con, folder, release, cutter, grant.level, name, served[name])
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


def _tokens(
    con: duckdb.DuckDBPyConnection,
    release: Release,
    cutter: Cutter,
    vault: Vault,
    namespace: str,
    names: list[str],
) -> None:
    """Makes `member_token` and `claim_token`: id, token and the token's rank, which stands for it in sorts."""
    con.execute(
        _ranked(
            "member_token",
            vault.cover(con, namespace, "member", "SELECT member_id FROM permitted"),
            "SELECT member_id AS id FROM permitted",
        )
    )
    ids = []
    for name in names:
        for column in dictionary()[name].columns.values():
            follows = CUTS[name].claim if name in CUTS else None
            if column.identifier_class != IdentifierClass.CLAIM_KEY:
                continue
            if follows is not None and follows[1] == column.name:
                cutter.claims()
                ids.append("SELECT claim_id FROM claim_fate WHERE fate IS NULL")
            else:
                selection = cutter.select(name)
                ids.append(f"SELECT s.{column.name} FROM {selection.source} WHERE {selection.fate} IS NULL")
    if ids:
        con.execute(
            f"CREATE TEMP TABLE claim_id AS SELECT DISTINCT id FROM ({' UNION ALL '.join(dict.fromkeys(ids))}) i(id)"
        )
        con.execute(
            _ranked(
                "claim_token",
                vault.cover(con, namespace, "claim", "SELECT id FROM claim_id"),
                "SELECT id FROM claim_id",
            )
        )
        con.execute("DROP TABLE claim_id")


def _ranked(name: str, relation: str, ids: str) -> str:
    return (
        f"CREATE TEMP TABLE {name} AS SELECT original AS id, token, row_number() OVER (ORDER BY token) AS rank "
        f"FROM {relation} SEMI JOIN ({ids}) i ON i.id = original"
    )


def _write(
    con: duckdb.DuckDBPyConnection,
    folder: Path,
    release: Release,
    cutter: Cutter,
    level: Level,
    name: str,
    served: tuple[Served, ...],
) -> dict[str, Any]:
    """Writes one table of the slice and returns its entry of the manifest."""
    table = dictionary()[name]
    if table.has_member:
        selection = cutter.select(name)
        source, where, top_aged = selection.source, f"{selection.fate} IS NULL", "p.top_aged"
    else:
        source, where, top_aged = f"{release.relation(name)} s", "true", "false"
    keys = [c.column.name for c in served if c.rule.action == Action.TOKEN]
    for key in keys:
        map_ = (
            "member_token"
            if table.columns[key].identifier_class == IdentifierClass.MEMBER_KEY
            else "claim_token"
        )
        source += f" LEFT JOIN {map_} k_{key} ON k_{key}.id = s.{key}"
    columns = ", ".join(
        f'{expression(c, as_of=release.as_of.isoformat(), token=f"k_{c.column.name}.token", top_aged=top_aged)} AS "{c.name}"'
        for c in served
    )
    part = Path("tables") / name / "part-000.parquet"
    (folder / part).parent.mkdir()
    target = str(folder / part).replace("'", "''")
    written = con.execute(
        f"COPY (SELECT {columns} FROM {source} WHERE {where} ORDER BY {_order(table, served)}) "
        f"TO '{target}' (FORMAT parquet, COMPRESSION zstd)"
    ).fetchone()
    rows = int(written[0]) if written else 0
    rows_in = sum(int(p["rows"]) for p in release.manifest["tables"][name]["parts"])
    removed = cutter.removed(name) if table.has_member else {}
    return {
        "grain": table.grain,
        "about": table.about,
        "rows_in": rows_in,
        "rows": rows,
        "removed": removed,
        "split": rows - (rows_in - sum(removed.values())),
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
        "parts": [part.as_posix()],
        "bytes": (folder / part).stat().st_size,
    }


def _order(table: Table, served: tuple[Served, ...]) -> str:
    """A total order that says nothing: by what the slice holds, tokens by their rank, never by an original id.

    Identified: member, first date, key. De-identified: member token, then the key where all of it is kept as it is,
    else every column.
    """
    position = {
        c.column.name: f"k_{c.column.name}.rank" if c.rule.action == Action.TOKEN else f'"{c.name}"'
        for c in served
    }
    exact = {c.column.name for c in served if c.rule.action in (Action.TOKEN, Action.KEEP)}
    first = [position["member_id"]] if "member_id" in position else []
    if not any(c.rule.action == Action.TOKEN for c in served):
        first += [
            f'"{c.name}"'
            for c in served
            if c.type == "DATE" and c.column.identifier_class == IdentifierClass.DATE
        ][:1]
    rest = table.key if set(table.key) <= exact else tuple(position)
    return ", ".join(dict.fromkeys([*first, *(position[name] for name in rest)]))


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
    row = con.execute(
        f"SELECT coalesce(min(n), 0), count(*) FILTER (WHERE n = 1), count(*) "
        f"FROM (SELECT count(*) AS n FROM read_parquet('{part}') GROUP BY {listed})"
    ).fetchone()
    smallest, alone, classes = row if row else (0, 0, 0)
    return {"quasi_identifiers": names, "smallest": smallest, "members_alone": alone, "classes": classes}


def _one(con: duckdb.DuckDBPyConnection, query: str) -> int:
    row = con.execute(query).fetchone()
    return int(row[0]) if row else 0
