"""What a change of the grants changes over a release, before it is deployed: members, rows, columns, categories.

Rows are decided by the same `Cutter` that builds slices, so what is counted here is what a slice would hold; consents
are not looked at: a category that needs them counts as if nobody consented. Results about members that are computed anew
for each grant (measure events, risk tiers) are not compared row by row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import duckdb

from workbench.broker.cut import CUTS, KEPT, AsOfAfterRelease, Hidden, refuse_future
from workbench.broker.cutter import Cutter
from workbench.broker.explained import column_fate
from workbench.broker.grants import Grant, GrantBook, Relation
from workbench.broker.key_release import ROW_KEY, KeyRelease, grouped, load
from workbench.broker.law import blocked
from workbench.deid.levels import Level, columns_for
from workbench.lake.release import Release
from workbench.schema import dictionary
from workbench.schema.sensitive import Category

TABLES = tuple(name for name, table in dictionary().items() if table.has_member and not CUTS[name].recomputed)
"""The tables of members whose rows are compared."""
Side = Literal["old", "new"]
SIDES: tuple[Side, Side] = ("old", "new")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Count:
    """How many there are before and after, and how many of them are only in the one or the other."""

    old: int = 0
    new: int = 0
    gained: int = 0
    lost: int = 0


@dataclass(frozen=True)
class Difference:
    """What one grant, or all grants of one organisation, would give and take. Empty where nothing changes."""

    name: str
    change: str
    """added, removed, changed (another slice) or kept (the same slice, under other conditions)."""
    members: Count
    rows: Mapping[str, Count]
    columns_gained: tuple[str, ...]
    columns_lost: tuple[str, ...]
    categories: Mapping[str, tuple[str, str]]
    """Category -> its handling before and after, where these differ; `none` where there is no grant."""
    conditions: tuple[str, ...] = ()
    """Keys of the grant that change and do not decide what a slice holds: groups, purposes, dates."""
    blocked: tuple[str, ...] = ()
    """Categories that the new grant must leave out and cannot on this release: it would be refused."""
    early: tuple[str, ...] = ()
    """As-of dates of new grants that the release has not reached."""

    def as_json(self) -> dict[str, Any]:
        """The difference for machines."""
        return asdict(self)


@dataclass(frozen=True)
class OrganisationDifference:
    """One organisation: what all its grants together give and take, and each grant that changes."""

    total: Difference
    grants: tuple[Difference, ...]

    def as_json(self) -> dict[str, Any]:
        """The difference for machines."""
        return {"organisation": self.total.as_json(), "grants": [grant.as_json() for grant in self.grants]}


def policy_diff(
    release: Release, old: GrantBook, new: GrantBook, progress: Progress = lambda what, done, total: None
) -> list[OrganisationDifference]:
    """The organisations of which a grant changes, in order of name."""
    books: dict[Side, dict[str, Grant]] = {"old": {g.name: g for g in old}, "new": {g.name: g for g in new}}
    organisations: dict[str, set[str]] = defaultdict(set)
    for book in books.values():
        for grant in book.values():
            organisations[organisation_of(grant)].add(grant.name)
    changed = {
        name
        for name in set(books["old"]) | set(books["new"])
        if _said(books["old"].get(name)) != _said(books["new"].get(name))
    }
    touched = sorted(o for o, names in organisations.items() if names & changed)
    if not touched:
        return []
    progress("read the release's keys", 0, len(touched) + 1)
    pairs = [
        [_pair(books, name, organisation) for name in sorted(organisations[organisation])]
        for organisation in touched
    ]
    whose = [[g.organisation for pair in several for g in pair if g is not None] for several in pairs]
    found = []
    with duckdb.connect(config={"threads": 1}) as con:
        con.execute("ATTACH ':memory:' AS held")
        con.execute("CREATE TABLE held.main.held (holding INTEGER, place UTINYINT, row_key UBIGINT)")
        keys = load(con, release, (*TABLES, "provider"))
        parts = grouped(con, keys, TABLES, whose)
        for number, (organisation, several, part) in enumerate(
            zip(touched, pairs, parts, strict=True), start=1
        ):
            progress(organisation, number, len(touched) + 1)
            found.append(_Comparison(con, part).organisation(organisation, several))
    progress("done", len(touched) + 1, len(touched) + 1)
    return found


def organisation_of(grant: Grant) -> str:
    """Who a grant is for, as differences are grouped: the recipient, else whose members it is about."""
    if grant.recipient_id is not None:
        return grant.recipient_id
    if grant.organisation.relation == Relation.STATE:
        return "state"
    return ", ".join(sorted(grant.organisation.ids))


Pair = tuple[Grant | None, Grant | None]


def _pair(books: Mapping[Side, Mapping[str, Grant]], name: str, organisation: str) -> Pair:
    """A grant before and after. One that moves to another organisation is gone from the one and new to the other."""
    old, new = (books[side].get(name) for side in SIDES)
    return (
        old if old is not None and organisation_of(old) == organisation else None,
        new if new is not None and organisation_of(new) == organisation else None,
    )


def _said(grant: Grant | None) -> dict[str, Any] | None:
    return grant.model_dump(mode="json") if grant is not None else None


class _Comparison:
    """One organisation's rows, by grant, in one engine: `held` has one row per holding, table and row."""

    def __init__(self, con: duckdb.DuckDBPyConnection, release: KeyRelease):
        self._con = con
        self._release = release
        self._holdings = 0

    def organisation(self, name: str, pairs: Iterable[Pair]) -> OrganisationDifference:
        """What the organisation gains and loses. `pairs`: its grants before and after."""
        self._con.execute("TRUNCATE held.main.held")
        olds: list[Grant] = []
        news: list[Grant] = []
        held_before: list[int] = []
        held_after: list[int] = []
        each = []
        for old, new in pairs:
            same = old is not None and new is not None and old.policy_digest == new.policy_digest
            before = self._hold(old)
            after = before if same else self._hold(new)
            held_before, held_after = held_before + before, held_after + after
            one, other = [g for g in (old,) if g is not None], [g for g in (new,) if g is not None]
            olds, news = olds + one, news + other
            if _said(old) != _said(new):
                each.append(self._difference((one + other)[0].name, one, other, before, after))
        if len(olds) < 2 and len(news) < 2 and len(each) == 1:
            total = replace(each[0], name=name, conditions=())
        else:
            total = self._difference(name, olds, news, held_before, held_after)
        return OrganisationDifference(total, tuple(each))

    def _hold(self, grant: Grant | None) -> list[int]:
        """Adds what a grant gives to `held`, and tells under which number."""
        if grant is None:
            return []
        self._holdings += 1
        if _too_early(grant, self._release):
            return [self._holdings]
        con = self._con
        con.execute("ATTACH ':memory:' AS one_grant")
        con.execute("USE one_grant")
        try:
            cutter = Cutter(con, self._release, grant, Hidden.by(grant, {}))
            given = ["SELECT 0 AS place, hash(member_id) AS row_key FROM permitted"]
            for place, table in enumerate(TABLES, start=1):
                if _serves(grant, table) and table in self._release.tables():
                    selection = cutter.select(table)
                    where = "" if selection.fate == KEPT else f" WHERE {selection.fate} IS NULL"
                    given.append(f"SELECT {place}, s.{ROW_KEY} FROM {selection.source}{where}")
            con.execute(
                f"INSERT INTO held.main.held SELECT {self._holdings}, * FROM ({' UNION ALL '.join(given)})"
            )
        finally:
            con.execute("USE memory")
            con.execute("DETACH one_grant")
        return [self._holdings]

    def _difference(
        self, name: str, old: list[Grant], new: list[Grant], first: list[int], second: list[int]
    ) -> Difference:
        counts = self._counts(first, second)
        columns = {side: _columns(grants) for side, grants in zip(SIDES, (old, new), strict=True)}
        return Difference(
            name=name,
            change=_change(old, new),
            members=counts.get(0, Count()),
            rows={table: counts[place] for place, table in enumerate(TABLES, start=1) if place in counts},
            columns_gained=tuple(sorted(columns["new"] - columns["old"])),
            columns_lost=tuple(sorted(columns["old"] - columns["new"])),
            categories=_categories(old, new),
            conditions=_conditions(old, new),
            blocked=tuple(sorted({str(c) for g in new for c in blocked(g, self._release)})),
            early=tuple(sorted({str(g.organisation.as_of) for g in new if _too_early(g, self._release)})),
        )

    def _counts(self, first: list[int], second: list[int]) -> dict[int, Count]:
        """Place -> counts; places that are empty on both sides are missing."""
        rows = self._con.execute(
            """SELECT place, count(*) FILTER (o), count(*) FILTER (n), count(*) FILTER (n AND NOT o),
              count(*) FILTER (o AND NOT n) FROM (
                SELECT place, row_key, bool_or(list_contains($first, holding)) AS o,
                  bool_or(list_contains($second, holding)) AS n
                FROM held.main.held GROUP BY ALL)
            WHERE o OR n GROUP BY place ORDER BY place""",
            {"first": first, "second": second},
        ).fetchall()
        return {place: Count(*counts) for place, *counts in rows}


def _serves(grant: Grant, table: str) -> bool:
    return (
        grant.level != Level.AGGREGATE
        and table in grant.table_names
        and bool(columns_for(grant.level, table))
    )


def _columns(grants: list[Grant]) -> set[str]:
    """The columns that grants show, each as it is shown: `member.zip`, `member.zip as zip3 VARCHAR`."""
    shown = set()
    for grant in grants:
        for table in dictionary().values():
            for column in table.columns.values():
                seen = column_fate(grant, table, column)["seen"]
                if seen != "no":
                    shown.add(f"{table.name}.{column.name}" + ("" if seen == "yes" else f" {seen}"))
    return shown


_MOST = ("none", "exclude", "with_consent", "include")
"""How much of a category is seen, the least first."""


def _categories(old: list[Grant], new: list[Grant]) -> dict[str, tuple[str, str]]:
    """Where the most that any grant shows of a category differs."""

    def most(grants: list[Grant], category: Category) -> str:
        return max((g.sensitive.handling(category) for g in grants), key=_MOST.index, default="none")

    both = {str(category): (most(old, category), most(new, category)) for category in Category}
    return {category: (o, n) for category, (o, n) in both.items() if o != n}


def _change(old: list[Grant], new: list[Grant]) -> str:
    if not old or not new:
        return "added" if new else "removed"
    same = {g.policy_digest for g in old} == {g.policy_digest for g in new}
    return "kept" if same else "changed"


def _conditions(old: list[Grant], new: list[Grant]) -> tuple[str, ...]:
    """Of one grant before and after: the keys that differ and are told in no other place."""
    if len(old) != 1 or len(new) != 1:
        return ()
    told = {"name", "organisation", "level", "tables", "columns", "sensitive"}
    before, after = (g.model_dump(mode="json") for g in (*old, *new))
    return tuple(sorted(key for key in before if before[key] != after[key] and key not in told))


def _too_early(grant: Grant, release: Release) -> bool:
    try:
        refuse_future(grant, release)
    except AsOfAfterRelease:
        return True
    return False
