"""Which rows of a release belong to a grant: whose members, in which of their spans, without which claims.

The rules stand as data: `CUTS` says for each table of members on which day a row happened and which claim it goes
with. A table of members that has no rule here is refused, not served whole.

As-of rules. `current`: members attributed on the release's as-of date, with their whole history. A date: the same,
attributed on that date. `ever_own_period`: members ever attributed, with only what happened on attributed days;
spans of coverage are clipped to them, and of a member who has left, what is known of the present (address, telephone)
is left out. `state`: every member.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import duckdb

from workbench.broker.grants import Grant, Relation
from workbench.deid.levels import birthday_90
from workbench.errors import WorkbenchError
from workbench.lake.release import Release

FOREVER = "DATE '9999-12-31'"

KEPT = "NULL::VARCHAR"

OTHER_MEMBERS = "other members"
OUTSIDE = "outside the attributed spans"
NO_CLAIM = "its claim is not in the release"
OTHER_BASIS = "computed on another basis"


@dataclass(frozen=True)
class Cut:
    """How the rows of one table follow members, time and claims. Expressions are DuckDB SQL over alias `s`."""

    day: str | None = None
    """The day on which a row happened."""
    clipped: bool = False
    """Rows are spans `start_date`-`end_date`, cut down to the attributed days."""
    claim: tuple[str, str] | None = None
    """(kind, column) of the claim that a row goes with; its fate is the row's."""
    claim_may_be_empty: bool = False
    present: tuple[str, ...] = ()
    """Columns that tell of today; empty for members who are not attributed any more (`ever_own_period`)."""
    until: tuple[str, ...] = ()
    """Dates that are empty when they lie after the member's last attributed day."""
    own_only: bool = False
    """Rows that rest on days around `day`: only those of the organisation itself, or with that margin inside a span."""


MEASURE_MARGIN_DAYS = 30
"""A measure event may rest on claims of this many days after it (FUM: 30). Source: the measures' follow-up windows."""

CUTS: Mapping[str, Cut] = MappingProxyType(
    {
        "member": Cut(
            present=("language", "street", "city", "zip", "county_code", "phone", "email"),
            until=("death_date",),
        ),
        "eligibility": Cut(clipped=True),
        "attribution": Cut(clipped=True),
        "medical_claim": Cut(day="s.from_date", claim=("'medical'", "claim_id")),
        "medical_claim_line": Cut(claim=("'medical'", "claim_id")),
        "diagnosis": Cut(claim=("'medical'", "claim_id")),
        "procedure": Cut(claim=("'medical'", "claim_id")),
        "pharmacy_claim": Cut(day="s.fill_date", claim=("'pharmacy'", "claim_id")),
        "care_note": Cut(day="s.note_date", claim=("'any'", "claim_id"), claim_may_be_empty=True),
        "claim_version": Cut(claim=("s.kind", "claim_id")),
        "member_month": Cut(day="last_day(s.month)"),
        "sensitive_claim": Cut(claim=("s.kind", "claim_id")),
        "measure_event": Cut(day="s.event_date", claim=("'medical'", "event_id"), own_only=True),
        "risk_tier": Cut(day="s.as_of_date"),
    }
)

HEADERS: Mapping[str, str] = MappingProxyType({"medical_claim": "'medical'", "pharmacy_claim": "'pharmacy'"})
"""The tables with one row per claim, whose day decides for the whole claim."""

Basis = Literal["all", "without_part2", "both"]


class NoCut(WorkbenchError):
    """A table of members has no rule that says which rows belong to a grant."""

    code = "no-cut"
    http_status = 500


@dataclass(frozen=True)
class Selection:
    """The rows of one table for a grant, as SQL.

    `source` is a FROM clause in which the row is `s` and its member `p` (table `permitted`); `fate` is NULL where a
    row of a permitted member is kept, else the reason why not.
    """

    source: str
    fate: str


class Cutter:
    """The helper tables of one build: `permitted` members, their `span`s, the claims of theirs that stay out."""

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        release: Release,
        grant: Grant,
        *,
        excluded: tuple[str, ...],
        basis: Basis,
    ):
        self._con = con
        self._release = release
        self._organisation = grant.organisation
        self._excluded = excluded
        self._basis = basis
        self.own_period = grant.organisation.as_of == "ever_own_period"
        self._claims_known = False
        self._noted: set[str] = set()
        self._members()

    @property
    def attribution(self) -> str:
        """The as-of rule as the fitness verdict words it."""
        if self._organisation.relation == Relation.STATE:
            return "state"
        as_of = self._organisation.as_of
        return as_of if isinstance(as_of, str) else f"as_of:{as_of.isoformat()}"

    def select(self, table: str) -> Selection:
        """The rows of a table of members. The first call for a table may make helper tables. Raises `NoCut`."""
        cut = CUTS.get(table)
        if cut is None:
            raise NoCut(
                f"Table {table} holds members' rows, but no rule says which of them belong to a grant.",
                hint="Add one to CUTS in workbench/broker/cut.py.",
            )
        source = f"{self._rows(table, cut)} s JOIN permitted p ON p.member_id = s.member_id"
        fates = []
        if table == "measure_event" and self._basis != "both":
            fates.append(f"CASE WHEN s.basis <> '{self._basis}' THEN '{OTHER_BASIS}' END")
        if self.own_period and cut.day is not None and table not in HEADERS:
            fates.append(f"CASE WHEN NOT {self._in_span(cut.day)} THEN '{OUTSIDE}' END")
        if self.own_period and cut.own_only:
            fates.append(f"CASE WHEN NOT ({self._own(cut)}) THEN '{OUTSIDE}' END")
        if cut.claim is not None and cut.claim_may_be_empty:
            self._claims_of(table, cut.claim[1])
            source += f" LEFT JOIN noted_{table} f ON f.claim_id = s.{cut.claim[1]}"
            unknown = f"CASE WHEN f.claim_id IS NULL THEN '{NO_CLAIM}' ELSE f.fate END"
            fates.append(f"CASE WHEN s.{cut.claim[1]} IS NOT NULL THEN {unknown} END")
        elif cut.claim is not None and self._drops_claims:
            self.claims()
            kind, column = cut.claim
            source += f" LEFT JOIN claim_out f ON f.claim_id = s.{column} AND f.kind = {kind}"
            fates.append("f.fate")
        return Selection(source, f"coalesce({', '.join(fates)})" if fates else KEPT)

    def removed(self, con: duckdb.DuckDBPyConnection, table: str, rows_in: int, rows: int) -> dict[str, int]:
        """How many of the release's rows a table loses, by reason. A span that is clipped is not lost.

        `con` is a cursor of the build's engine: after `select` of the table this may run in another thread.
        """
        selection = self.select(table)
        if CUTS[table].clipped and self.own_period:
            relation = self._release.relation(table)
            theirs = _one(
                con, f"SELECT count(*) FROM {relation} s SEMI JOIN permitted p ON p.member_id = s.member_id"
            )
            met = _one(
                con, f"SELECT count(*) FROM {relation} s WHERE EXISTS (SELECT 1 FROM span x WHERE {_MEETS})"
            )
            counts = {OUTSIDE: theirs - met, OTHER_MEMBERS: rows_in - theirs}
        elif selection.fate == KEPT:
            counts = {OTHER_MEMBERS: rows_in - rows}
        else:
            query = f"SELECT {selection.fate} AS fate, count(*) FROM {selection.source} GROUP BY ALL"
            fates = dict(con.execute(query).fetchall())
            counts = {OTHER_MEMBERS: rows_in - sum(fates.values())}
            counts |= {reason: count for reason, count in fates.items() if reason is not None}
        return {reason: counts[reason] for reason in sorted(counts) if counts[reason]}

    @property
    def _drops_claims(self) -> bool:
        return self.own_period or bool(self._excluded)

    def claims(self) -> None:
        """Makes `claim_out`: kind, claim and reason of each claim that is not in the slice though its member is.

        A claim without a final version has no day, so `ever_own_period` leaves it out.
        """
        if self._claims_known:
            return
        self._claims_known = True
        release, con = self._release, self._con
        hidden = ", ".join("'" + category + "'" for category in self._excluded) or "NULL"
        con.execute(
            "CREATE TABLE claim_out AS SELECT kind, claim_id, min(category) AS fate "
            f"FROM {release.relation('sensitive_claim')} s SEMI JOIN permitted p ON p.member_id = s.member_id "
            f"WHERE category IN ({hidden}) GROUP BY ALL"
        )
        if not self.own_period:
            return
        con.execute(f"CREATE TABLE header AS {self._headers()}")
        con.execute(
            "INSERT INTO header SELECT DISTINCT s.kind, s.claim_id, s.member_id, true "
            f"FROM {release.relation('claim_version')} s SEMI JOIN permitted p ON p.member_id = s.member_id "
            "ANTI JOIN header h ON h.kind = s.kind AND h.claim_id = s.claim_id"
        )
        con.execute(
            f"INSERT INTO claim_out SELECT kind, claim_id, '{OUTSIDE}' FROM header h WHERE h.outside "
            "AND NOT EXISTS (SELECT 1 FROM claim_out o WHERE o.kind = h.kind AND o.claim_id = h.claim_id)"
        )
        con.execute("DROP TABLE header")

    def kept_claims(self) -> str:
        """A SELECT of `kind`, `claim_id` and the member's `rank` in `permitted`: every claim of the slice once, final or not."""
        release = self._release
        headers = " UNION ALL ".join(
            f"SELECT {kind} AS kind, claim_id, member_id FROM {release.relation(table)}"
            for table, kind in HEADERS.items()
        )
        others = (
            f"SELECT DISTINCT v.kind, v.claim_id, v.member_id FROM {release.relation('claim_version')} v "
            f"ANTI JOIN ({headers}) h ON h.kind = v.kind AND h.claim_id = v.claim_id"
        )
        kept = (
            f"SELECT c.kind, c.claim_id, p.rank FROM ({headers} UNION ALL {others}) c "
            "JOIN permitted p ON p.member_id = c.member_id"
        )
        if not self._drops_claims:
            return kept
        self.claims()
        return f"{kept} ANTI JOIN claim_out o ON o.kind = c.kind AND o.claim_id = c.claim_id"

    def _headers(self) -> str:
        """A SELECT of the claims with a final version: `kind`, `claim_id`, `member_id`, `outside` (not on attributed days)."""
        return " UNION ALL ".join(
            f"SELECT {kind} AS kind, s.claim_id, s.member_id, {self._outside(CUTS[table].day)} AS outside "
            f"FROM {self._release.relation(table)} s SEMI JOIN permitted p ON p.member_id = s.member_id"
            for table, kind in HEADERS.items()
        )

    def _claims_of(self, table: str, column: str) -> None:
        """Makes `noted_<table>`: the claims that a table speaks of and that have a final version, each with its fate."""
        if table in self._noted:
            return
        self._noted.add(table)
        fate = KEPT
        if self._drops_claims:
            self.claims()
            fate = "(SELECT max(o.fate) FROM claim_out o WHERE o.claim_id = h.claim_id)"
        self._con.execute(
            f"CREATE TABLE noted_{table} AS SELECT DISTINCT h.claim_id, {fate} AS fate FROM ({self._headers()}) h "
            f"SEMI JOIN {self._release.relation(table)} n ON n.{column} = h.claim_id"
        )

    def _members(self) -> None:
        self._spans()
        release = self._release
        if self._organisation.relation == Relation.STATE:
            ids = f"SELECT DISTINCT member_id FROM {release.relation('member')}"
        else:
            ids = "SELECT DISTINCT member_id FROM span"
        as_of = f"DATE '{release.as_of.isoformat()}'"
        present = f"EXISTS (SELECT 1 FROM span x WHERE x.member_id = i.member_id AND {as_of} BETWEEN x.start_date AND x.end_date)"
        last_day = "(SELECT max(x.end_date) FROM span x WHERE x.member_id = i.member_id)"
        self._con.execute(
            f"CREATE TABLE permitted AS SELECT i.member_id, "
            f"coalesce({birthday_90('m.birth_date')} <= {as_of}, false) AS top_aged, "
            f"{present if self.own_period else 'true'} AS present, "
            f"{last_day if self.own_period else FOREVER} AS last_day "
            f"FROM ({ids}) i LEFT JOIN {release.relation('member')} m ON m.member_id = i.member_id"
        )

    def _spans(self) -> None:
        """Makes `span`: the attributed days of each member as disjoint spans, both ends included."""
        organisation = self._organisation
        ids = ", ".join(f"'{i}'" for i in organisation.ids) or "NULL"
        where = f"relation = '{organisation.relation}' AND organisation_id IN ({ids})"
        if not self.own_period:
            day = self._release.as_of if organisation.as_of == "current" else organisation.as_of
            where += f" AND DATE '{day}' BETWEEN start_date AND coalesce(end_date, {FOREVER})"
        self._con.execute(
            f"""
            CREATE TABLE span AS
            WITH own AS (
                SELECT member_id, start_date, coalesce(end_date, {FOREVER}) AS end_date
                FROM {self._release.relation("attribution")} WHERE {where}
            ), reach AS (
                SELECT *, max(end_date) OVER (
                    PARTITION BY member_id ORDER BY start_date, end_date ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                ) AS reached FROM own WHERE start_date <= end_date
            ), numbered AS (
                SELECT *, count(*) FILTER (WHERE reached IS NULL OR start_date > reached) OVER (
                    PARTITION BY member_id ORDER BY start_date, end_date ROWS UNBOUNDED PRECEDING
                ) AS island FROM reach
            )
            SELECT member_id, min(start_date) AS start_date, max(end_date) AS end_date
            FROM numbered GROUP BY member_id, island
            """
        )

    def _rows(self, table: str, cut: Cut) -> str:
        """The table as it stands in the release, or with its spans clipped and its tales of today left out."""
        relation = self._release.relation(table)
        if not self.own_period:
            return relation
        if cut.clipped:
            end = f"least(coalesce(s.end_date, {FOREVER}), x.end_date)"
            return (
                f"(SELECT s.* REPLACE (greatest(s.start_date, x.start_date) AS start_date, "
                f"CASE WHEN {end} < {FOREVER} THEN {end} END AS end_date) FROM {relation} s JOIN span x ON {_MEETS})"
            )
        if cut.present or cut.until:
            replaced = [f"CASE WHEN q.present THEN s.{column} END AS {column}" for column in cut.present]
            replaced += [
                f"CASE WHEN s.{column} <= q.last_day THEN s.{column} END AS {column}" for column in cut.until
            ]
            return f"(SELECT s.* REPLACE ({', '.join(replaced)}) FROM {relation} s JOIN permitted q ON q.member_id = s.member_id)"
        return relation

    def _in_span(self, day: str) -> str:
        return f"EXISTS (SELECT 1 FROM span x WHERE x.member_id = s.member_id AND {day} BETWEEN x.start_date AND x.end_date)"

    def _outside(self, day: str | None) -> str:
        return f"NOT {self._in_span(day)}" if self.own_period and day is not None else "false"

    def _own(self, cut: Cut) -> str:
        if self._organisation.relation == Relation.MCP:
            ids = ", ".join(f"'{i}'" for i in self._organisation.ids)
            return f"coalesce(s.organisation_id IN ({ids}), false)"
        margin = f"({cut.day} + INTERVAL {MEASURE_MARGIN_DAYS} DAY)::DATE"
        return f"EXISTS (SELECT 1 FROM span x WHERE x.member_id = s.member_id AND {cut.day} >= x.start_date AND {margin} <= x.end_date)"


def _one(con: duckdb.DuckDBPyConnection, query: str) -> int:
    return int(con.execute(query).fetchall()[0][0])


_MEETS = f"x.member_id = s.member_id AND s.start_date <= x.end_date AND coalesce(s.end_date, {FOREVER}) >= x.start_date"
