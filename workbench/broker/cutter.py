"""Cuts a release to a grant: which members, in which spans, without which claims; and the rows of each table, as SQL."""

from __future__ import annotations

from collections.abc import Collection

import duckdb
import pyarrow as pa

from workbench.broker.buckets import Bucket
from workbench.broker.cut import (
    ALL,
    CUTS,
    FOREVER,
    HEADERS,
    KEPT,
    MEASURE_MARGIN_DAYS,
    NO_CLAIM,
    NO_CONSENT,
    OUTSIDE,
    PROGRAM,
    VISIBLE,
    Cut,
    Hidden,
    NoCut,
    Selection,
    refuse_future,
)
from workbench.broker.grants import Grant, Relation
from workbench.deid.levels import birthday_90
from workbench.lake.release import Release
from workbench.schema.sensitive import Category


class Cutter:
    """The helper tables of one build: `permitted` members, their `span`s, the claims of theirs that stay out.

    `permitted` has one row per member, with the bucket of the slice that the member's rows go into. With `member` the
    slice is of that member alone, whoever it is attributed to.
    """

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        release: Release,
        grant: Grant,
        hidden: Hidden,
        *,
        member: str | None = None,
    ):
        refuse_future(grant, release)
        self._con = con
        self.release = release
        self.hidden = hidden
        self._organisation = grant.organisation
        self._member = member
        self._scope = "permitted"
        self.own_period = member is None and grant.organisation.as_of == "ever_own_period"
        self._claims_known = False
        self._noted: set[str] = set()
        self._consenting()
        self._members()

    @property
    def attribution(self) -> str:
        """The as-of rule as the fitness verdict words it."""
        if self._member is not None:
            return "one member"
        if self._organisation.relation == Relation.STATE:
            return "state"
        as_of = self._organisation.as_of
        return as_of if isinstance(as_of, str) else f"as_of:{as_of.isoformat()}"

    @property
    def basis(self) -> str:
        """The basis of every measure event of the slice."""
        return VISIBLE if self.hidden.categories else ALL

    def only(self, buckets: Collection[int]) -> None:
        """Says that the rows of these buckets alone will be asked for, so that no claim of another is looked at."""
        listed = ", ".join(map(str, sorted(buckets))) or "NULL"
        self._con.execute(f"CREATE TABLE rewritten AS FROM permitted WHERE bucket IN ({listed})")
        self._scope = "rewritten"

    def select(self, table: str, bucket: Bucket | None = None, *, over_all: bool = False) -> Selection:
        """The rows of a table of members. The first call for a table may make helper tables. Raises `NoCut`.

        `over_all`: the release's own rows of a table that is computed anew, over every claim.
        """
        cut = cut_of(table)
        relation = self._rows(table, cut, bucket, over_all)
        source = f"{relation} s JOIN permitted p ON p.member_id = s.member_id"
        if bucket is not None:
            source += f" AND p.bucket = {bucket.number}"
        fates = []
        if self.own_period and cut.day is not None and table not in HEADERS:
            fates.append(f"CASE WHEN NOT {self._in_span(cut.day)} THEN '{OUTSIDE}' END")
        if self.own_period and cut.own_only:
            fates.append(f"CASE WHEN NOT ({self._own(cut)}) THEN '{OUTSIDE}' END")
        if self.own_period and cut.today:
            fates.append(f"CASE WHEN NOT p.present THEN '{OUTSIDE}' END")
        if (program := self.hides_program(cut)) is not None:
            fates.append(f"CASE WHEN {program} THEN '{PROGRAM}' END")
        if cut.claim is not None and cut.claim_may_be_empty:
            self._claims_of(table, cut.claim[1])
            source += f" LEFT JOIN noted_{table} f ON f.claim_id = s.{cut.claim[1]}"
            unknown = f"CASE WHEN f.claim_id IS NULL THEN '{NO_CLAIM}' ELSE f.fate END"
            fates.append(f"CASE WHEN s.{cut.claim[1]} IS NOT NULL THEN {unknown} END")
        elif cut.claim is not None and self.drops_claims:
            self.claims()
            kind, column = cut.claim
            outside = f" AND f.fate = '{OUTSIDE}'" if over_all else ""
            source += f" LEFT JOIN claim_out f ON f.claim_id = s.{column} AND f.kind = {kind}{outside}"
            fates.append("f.fate")
        return Selection(source, f"coalesce({', '.join(fates)})" if fates else KEPT)

    @property
    def drops_claims(self) -> bool:
        """Whether any claim of a permitted member may stay out."""
        return self.own_period or bool(self.hidden.categories)

    def claims(self) -> None:
        """Makes `claim_out`: kind, claim, member and reason of each claim that is not in the slice though its member is.

        A claim without a final version has no day, so `ever_own_period` leaves it out.
        """
        if self._claims_known:
            return
        self._claims_known = True
        release, con = self.release, self._con
        con.execute(
            "CREATE TABLE claim_out AS SELECT s.kind, s.claim_id, any_value(s.member_id) AS member_id, "
            f"min(CASE WHEN {_listed(self.hidden.excluded, 's.category')} THEN s.category "
            f"ELSE s.category || ' {NO_CONSENT}' END) AS fate "
            f"FROM {release.relation('sensitive_claim')} s SEMI JOIN {self._scope} p ON p.member_id = s.member_id "
            "LEFT JOIN consenting c ON c.member_id = s.member_id AND c.category = s.category "
            f"WHERE {_listed(self.hidden.excluded, 's.category')} "
            f"OR {_listed(self.hidden.consenting, 's.category')} AND c.member_id IS NULL GROUP BY s.kind, s.claim_id"
        )
        if not self.own_period:
            return
        con.execute(f"CREATE TABLE header AS {self._headers()}")
        con.execute(
            "INSERT INTO header SELECT DISTINCT s.kind, s.claim_id, s.member_id, true "
            f"FROM {release.relation('claim_version')} s SEMI JOIN {self._scope} p ON p.member_id = s.member_id "
            "ANTI JOIN header h ON h.kind = s.kind AND h.claim_id = s.claim_id"
        )
        con.execute(
            f"INSERT INTO claim_out SELECT kind, claim_id, member_id, '{OUTSIDE}' FROM header h WHERE h.outside "
            "AND NOT EXISTS (SELECT 1 FROM claim_out o WHERE o.kind = h.kind AND o.claim_id = h.claim_id)"
        )
        con.execute("DROP TABLE header")

    def who_lost(self) -> str:
        """A SELECT of the members of whom anything that results rest on stays out: a claim, days of coverage, a death."""
        lost = "SELECT member_id FROM claim_out"
        if not self.own_period:
            return lost
        inside = f"s.start_date >= x.start_date AND coalesce(s.end_date, {FOREVER}) <= x.end_date"
        return (
            f"{lost} UNION ALL SELECT s.member_id FROM {self.release.relation('eligibility')} s "
            f"SEMI JOIN {self._scope} p ON p.member_id = s.member_id "
            f"WHERE NOT EXISTS (SELECT 1 FROM span x WHERE x.member_id = s.member_id AND {inside}) "
            f"UNION ALL SELECT s.member_id FROM {self.release.relation('member')} s "
            f"JOIN {self._scope} p ON p.member_id = s.member_id WHERE s.death_date > p.last_day"
        )

    def kept_claims(self) -> str:
        """A SELECT of `kind`, `claim_id` and the member's `rank` in `permitted`: every claim of the slice once, final or not."""
        release = self.release
        headers = " UNION ALL ".join(
            f"SELECT {kind} AS kind, claim_id, member_id FROM {release.relation(table)}"
            for table, kind in HEADERS.items()
        )
        others = (
            f"SELECT DISTINCT v.kind, v.claim_id, v.member_id FROM {release.relation('claim_version')} v "
            f"ANTI JOIN ({headers}) h ON h.kind = v.kind AND h.claim_id = v.claim_id "
            "WHERE v.outcome IS DISTINCT FROM 'final'"
        )
        kept = (
            f"SELECT c.kind, c.claim_id, p.rank FROM ({headers} UNION ALL {others}) c "
            "JOIN permitted p ON p.member_id = c.member_id"
        )
        if not self.drops_claims:
            return kept
        self.claims()
        return f"{kept} ANTI JOIN claim_out o ON o.kind = c.kind AND o.claim_id = c.claim_id"

    def hides_program(self, cut: Cut) -> str | None:
        """SQL: whether a row `s` names a Part 2 program to which this member's ties are hidden, or a cohort of others."""
        if not cut.programs:
            return None
        own = _listed(self._organisation.ids, "s.organisation_id")
        mine = self._member is None and self._organisation.relation == Relation.COHORT
        cohort = f"(s.relation = '{Relation.COHORT}' AND NOT ({own if mine else 'false'}))"
        program = self._program()
        return cohort if program is None else f"({cohort} OR {program})"

    def _program(self) -> str | None:
        programs = f"SELECT npi FROM {self.release.relation('provider')} WHERE part2_program"
        named = f"s.organisation_id IN ({programs})"
        if Category.PART2 in self.hidden.excluded:
            return named
        if Category.PART2 in self.hidden.consenting:
            consents = f"SELECT member_id FROM consenting WHERE category = '{Category.PART2}'"
            return f"({named} AND s.member_id NOT IN ({consents}))"
        return None

    def _headers(self) -> str:
        """A SELECT of the claims with a final version: `kind`, `claim_id`, `member_id`, `outside` (not on attributed days)."""
        return " UNION ALL ".join(
            f"SELECT {kind} AS kind, s.claim_id, s.member_id, {self._outside(CUTS[table].day)} AS outside "
            f"FROM {self.release.relation(table)} s SEMI JOIN {self._scope} p ON p.member_id = s.member_id"
            for table, kind in HEADERS.items()
        )

    def _claims_of(self, table: str, column: str) -> None:
        """Makes `noted_<table>`: the claims that a table speaks of and that have a final version, each with its fate."""
        if table in self._noted:
            return
        self._noted.add(table)
        fate = "NULL::VARCHAR"
        if self.drops_claims:
            self.claims()
            fate = "(SELECT max(o.fate) FROM claim_out o WHERE o.claim_id = h.claim_id)"
        self._con.execute(
            f"CREATE TABLE noted_{table} AS SELECT DISTINCT h.claim_id, {fate} AS fate FROM ({self._headers()}) h "
            f"SEMI JOIN {self.release.relation(table)} n ON n.{column} = h.claim_id"
        )

    def _consenting(self) -> None:
        schema = pa.schema([("member_id", pa.string()), ("category", pa.string())])
        given = schema.empty_table()
        for category, members in self.hidden.consenting.items():
            of_category = [pa.array(members, pa.string()), pa.repeat(str(category), len(members))]
            given = pa.concat_tables([given, pa.Table.from_arrays(of_category, schema=schema)])
        self._con.register("given_consents", given)
        self._con.execute("CREATE TABLE consenting AS FROM given_consents")
        self._con.unregister("given_consents")

    def _members(self) -> None:
        self._spans()
        release = self.release
        everyone = f"SELECT DISTINCT member_id FROM {release.relation('member')}"
        if self._member is not None:
            ids = f"{everyone} WHERE member_id = {_quoted(self._member)}"
        elif self._organisation.relation == Relation.STATE:
            ids = everyone
        else:
            ids = "SELECT DISTINCT member_id FROM span"
        as_of = f"DATE '{release.as_of.isoformat()}'"
        present = f"EXISTS (SELECT 1 FROM span x WHERE x.member_id = i.member_id AND {as_of} BETWEEN x.start_date AND x.end_date)"
        last_day = "(SELECT max(x.end_date) FROM span x WHERE x.member_id = i.member_id)"
        consented = (
            "(SELECT list(c.category ORDER BY c.category) FROM consenting c WHERE c.member_id = i.member_id)"
        )
        self._con.execute(
            f"CREATE TABLE permitted AS SELECT i.member_id, "
            f"coalesce({birthday_90('m.birth_date')} <= {as_of}, false) AS top_aged, "
            f"{present if self.own_period else 'true'} AS present, "
            f"{last_day if self.own_period else FOREVER} AS last_day, "
            f"{consented if self.hidden.consenting else 'NULL::VARCHAR[]'} AS consented, 0 AS bucket "
            f"FROM ({ids}) i LEFT JOIN {release.relation('member')} m ON m.member_id = i.member_id"
        )

    def _spans(self) -> None:
        """Makes `span`: the attributed days of each member as disjoint spans, both ends included.

        An attribution that begins after the release's as-of date is announced, and makes nobody a member yet.
        """
        organisation = self._organisation
        ids = ", ".join(f"'{i}'" for i in organisation.ids) or "NULL"
        where = f"relation = '{organisation.relation}' AND organisation_id IN ({ids})"
        if self.own_period:
            where += f" AND start_date <= DATE '{self.release.as_of}'"
        else:
            day = self.release.as_of if organisation.as_of == "current" else organisation.as_of
            where += f" AND DATE '{day}' BETWEEN start_date AND coalesce(end_date, {FOREVER})"
        self._con.execute(
            f"""
            CREATE TABLE span AS
            WITH own AS (
                SELECT member_id, start_date, coalesce(end_date, {FOREVER}) AS end_date
                FROM {self.release.relation("attribution")} WHERE {where}
            ), reach AS (
                SELECT *, max(end_date) OVER (
                    PARTITION BY member_id ORDER BY start_date, end_date ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                ) AS reached FROM own WHERE start_date <= end_date
            ), numbered AS (
                SELECT *, count(*) FILTER (WHERE reached IS NULL OR start_date - 1 > reached) OVER (
                    PARTITION BY member_id ORDER BY start_date, end_date ROWS UNBOUNDED PRECEDING
                ) AS island FROM reach
            )
            SELECT member_id, min(start_date) AS start_date, max(end_date) AS end_date
            FROM numbered GROUP BY member_id, island
            """
        )

    def _rows(self, table: str, cut: Cut, bucket: Bucket | None, over_all: bool) -> str:
        """The table as it stands in the release, or with its spans clipped and its tales of today left out."""
        relation = relation_of(self.release, table, bucket)
        if cut.recomputed:
            return self._results(table, relation, over_all)
        if not self.own_period:
            return relation
        if cut.clipped:
            end = f"least(coalesce(s.end_date, {FOREVER}), x.end_date)"
            return (
                f"(SELECT s.* REPLACE (greatest(s.start_date, x.start_date) AS start_date, "
                f"CASE WHEN {end} < {FOREVER} THEN {end} END AS end_date) FROM {relation} s JOIN span x ON {MEETS})"
            )
        if cut.present or cut.until:
            replaced = [f"CASE WHEN q.present THEN s.{column} END AS {column}" for column in cut.present]
            replaced += [
                f"CASE WHEN s.{column} <= q.last_day THEN s.{column} END AS {column}" for column in cut.until
            ]
            return f"(SELECT s.* REPLACE ({', '.join(replaced)}) FROM {relation} s JOIN permitted q ON q.member_id = s.member_id)"
        return relation

    def _results(self, table: str, relation: str, over_all: bool) -> str:
        """Members' results: the release's, but those of members who lost claims from `recomputed_<table>`."""
        event = table == "measure_event"
        where = f" WHERE s.basis = '{ALL}'" if event else ""
        if over_all or not self.drops_claims:
            return f"(SELECT s.* FROM {relation} s{where})"
        basis = f" REPLACE ('{self.basis}' AS basis)" if event else ""
        return (
            f"(SELECT s.*{basis} FROM {relation} s ANTI JOIN lost_{table} l ON l.member_id = s.member_id{where} "
            f"UNION ALL BY NAME FROM recomputed_{table})"
        )

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


def cut_of(table: str) -> Cut:
    """How the rows of a table of members follow a grant. Raises `NoCut`."""
    cut = CUTS.get(table)
    if cut is None:
        raise NoCut(
            f"Table {table} holds members' rows, but no rule says which of them belong to a grant.",
            hint="Add one to CUTS in workbench/broker/cut.py.",
        )
    return cut


def relation_of(release: Release, table: str, bucket: Bucket | None) -> str:
    """A table of the release for a FROM clause; of a bucket only the parts that may hold its members."""
    if bucket is None or bucket.parts is None:
        return release.relation(table)
    parts = release.parts(table)
    files = ", ".join(_quoted(str(parts[number])) for number in bucket.parts)
    return f"read_parquet([{files}], hive_partitioning => false)"


def _listed(categories: Collection[str], column: str) -> str:
    return f"{column} IN ({', '.join(_quoted(c) for c in categories)})" if categories else "false"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


MEETS = f"x.member_id = s.member_id AND s.start_date <= x.end_date AND coalesce(s.end_date, {FOREVER}) >= x.start_date"
"""A span of coverage `s` has a day in common with an attributed span `x`."""
