"""The rows of each table of a slice as SQL: which, with which values, in which order."""

from __future__ import annotations

from collections.abc import Mapping

from workbench.broker.buckets import Bucket
from workbench.broker.cut import CUTS
from workbench.broker.cutter import Cutter
from workbench.broker.tokens import follows_claim
from workbench.deid.levels import Action, Level, Served, expression
from workbench.lake.release import Release
from workbench.schema import IdentifierClass, Table


def rows_of(
    release: Release,
    cutter: Cutter,
    level: Level,
    table: Table,
    served: tuple[Served, ...],
    bucket: Bucket | None = None,
) -> str:
    """The rows of one table of the slice (of one bucket of it), in their order. Makes the helper tables that it reads."""
    if table.has_member:
        cutter.select(table.name, bucket)
    if level == Level.IDENTIFIED or not table.has_member:
        return _plain(release, cutter, table, served, bucket)
    if follows_claim(table.name):
        return _with_claims(release, table, served)
    return _with_members(release, cutter, table, served)


def _plain(
    release: Release, cutter: Cutter, table: Table, served: tuple[Served, ...], bucket: Bucket | None
) -> str:
    """Rows with their ids: member, first date, key. A release that is sorted so already is not sorted again."""
    columns = ", ".join(f'{_value(c, release, "false")} AS "{c.name}"' for c in served)
    dates = [c.name for c in served if c.type == "DATE" and c.name not in ("birth_date", "death_date")]
    order = [*(["member_id"] if table.has_member else []), *dates[:1], *table.key]
    wanted = list(dict.fromkeys(name for name in order if name in table.columns))
    if not table.has_member:
        source, where, moved = f"{release.relation(table.name)} s", "true", False
    else:
        selection = cutter.select(table.name, bucket)
        source, where = selection.source, f"{selection.fate} IS NULL"
        rule = CUTS[table.name]
        moved = (cutter.own_period and rule.clipped) or (cutter.drops_claims and rule.recomputed)
    query = f"SELECT {columns} FROM {source} WHERE {where}"
    if not moved and release.manifest["tables"][table.name].get("sorted_by") == wanted:
        return query
    return f"{query} ORDER BY {', '.join(f's.{name}' for name in wanted)}"


def _with_claims(release: Release, table: Table, served: tuple[Served, ...]) -> str:
    """Rows that go with a claim, under tokens: by member token, claim token, and what the slice holds."""
    kind, claim = _claim_of(table)
    tokens = {"member_id": "p.token", claim: "k.token"}
    values = {c.name: tokens.get(c.column.name) or _value(c, release, "false") for c in served}
    return _in_words(
        served,
        f"SELECT {_listed(values)} FROM {release.relation(table.name)} s "
        f"JOIN claim_key k ON k.id = s.{claim} AND k.kind = {kind} "
        "JOIN permitted p ON p.rank = k.member_rank AND p.member_id = s.member_id "
        f"ORDER BY {', '.join(['k.member_rank', 'k.prefix', *_rest(table, served, values)])}",
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
    return _in_words(
        served,
        f"SELECT {_listed(values)} FROM {source} WHERE {selection.fate} IS NULL "
        f"ORDER BY {', '.join([*order, *_rest(table, served, values)])}",
    )


def _in_words(served: tuple[Served, ...], rows: str) -> str:
    """Sorted rows whose tokens are UUIDs, with their tokens as text.

    Sorts hold sixteen bytes a token instead of 48. A projection keeps the order of what is sorted below it, at any
    number of threads; a join does not.
    """
    words = {
        c.name: f"replace(r.\"{c.name}\"::VARCHAR, '-', '')"
        if c.rule.action == Action.TOKEN
        else f'r."{c.name}"'
        for c in served
    }
    return f"SELECT {_listed(words)} FROM ({rows}) r"


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
