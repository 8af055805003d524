"""Checks that are the same for every layout: what a claim or note needs besides a readable row.

Each check moves rows from the stage tables to set_aside with a reason; a row is never in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from functools import cache
from typing import TYPE_CHECKING

import ibis

from workbench.errors import WorkbenchError
from workbench.lake import versions
from workbench.lake.layouts.stage import STAGE, Stage

if TYPE_CHECKING:
    import duckdb

KINDS = {"medical": "medical_line", "pharmacy": "pharmacy_line"}

OUTCOME_REASON = {
    versions.SUPERSEDED: "superseded version",
    versions.VOID: "void",
    versions.DUPLICATE: "duplicate",
}


class AccountingError(WorkbenchError):
    """Rows read are not rows kept plus rows set aside: a defect of the reader, never of the sources."""

    code = "accounting"


def settle(stage: Stage, as_of: date) -> None:
    """Runs all checks; makes `claim_version` and leaves only final claim lines in the stage."""
    _unknown_members(stage.con)
    _spans(stage.con)
    _same_row_twice(stage.con)
    for kind, table in KINDS.items():
        _after(stage.con, table, kind, as_of)
        _several_members(stage.con, table)
        _claim_ids(stage.con, table)
        _versions(stage.con, table, kind)
    stage.con.execute(
        "CREATE TABLE claim_version AS FROM medical_version UNION ALL BY NAME FROM pharmacy_version"
    )
    _notes(stage.con)


def accounting(stage: Stage, file: int) -> tuple[int, int, Mapping[str, int]]:
    """Rows of one file: in all, kept, set aside by reason. Raises AccountingError where they do not add up."""
    con = stage.con
    reasons = con.execute(
        """SELECT reason, count(*) FROM stage.set_aside WHERE source_file = ? GROUP BY reason ORDER BY reason""",
        [file],
    ).fetchall()
    where = " UNION ALL ".join(
        f"SELECT source_row FROM stage.{table} WHERE source_file = {file}" for table in STAGE
    )
    kept = con.execute(f"SELECT count(DISTINCT source_row) FROM ({where})").fetchall()[0][0]
    rows, aside = stage.rows.get(file, 0), dict(reasons)
    if rows != kept + sum(aside.values()):
        raise AccountingError(
            f"A source file of {rows} rows has {kept} kept and {sum(aside.values())} set aside.",
            hint="This is a defect of the reader: report it with the layout and the kind of the file.",
        )
    return rows, kept, aside


def _move(con: duckdb.DuckDBPyConnection, table: str, condition: str, reason: str) -> None:
    """Sets aside the rows of a stage table that meet a condition over it."""
    con.execute(
        f"""INSERT INTO stage.set_aside BY NAME SELECT DISTINCT source_file, source_row, '{reason}' AS reason
        FROM stage.{table} WHERE {condition}"""
    )
    con.execute(f"DELETE FROM stage.{table} WHERE {condition}")


def _unknown_members(con: duckdb.DuckDBPyConnection) -> None:
    con.execute(
        "CREATE TEMP TABLE known AS SELECT DISTINCT member_id FROM stage.member WHERE member_id IS NOT NULL"
    )
    for table in ("medical_line", "pharmacy_line", "care_note", "attribution"):
        _move(con, table, "member_id IS NULL OR member_id NOT IN (FROM known)", "unknown member")


def _spans(con: duckdb.DuckDBPyConnection) -> None:
    """One span per member, plan and first day: of several the longest, then the last sent, stays."""
    _move(con, "eligibility", "end_date < start_date", "dates in the wrong order")
    con.execute(
        """CREATE OR REPLACE TEMP TABLE extra AS SELECT source_file, source_row,
          first_value((county_code, aid_code, medical, pharmacy, behavioral, end_date)) OVER w
            = (county_code, aid_code, medical, pharmacy, behavioral, end_date) AS same
        FROM stage.eligibility SEMI JOIN (SELECT member_id, organisation_id, start_date
          FROM stage.eligibility GROUP BY ALL HAVING count(*) > 1) USING (member_id, organisation_id, start_date)
        WINDOW w AS (PARTITION BY member_id, organisation_id, start_date
          ORDER BY end_date DESC, source_file DESC, source_row DESC)
        QUALIFY row_number() OVER w > 1"""
    )
    for same, reason in (
        ("same", "duplicate"),
        ("NOT same", "other coverage for the same plan and first day"),
    ):
        inside = f"(source_file, source_row) IN (SELECT (source_file, source_row) FROM extra WHERE {same})"
        _move(con, "eligibility", inside, reason)
        con.execute(f"DELETE FROM stage.member WHERE {inside}")


def _same_row_twice(con: duckdb.DuckDBPyConnection) -> None:
    """Organisations, relations and notes sent twice under one key: the last sent stays."""
    keys = {
        "organisation": "organisation_id",
        "attribution": "member_id, organisation_id, relation, start_date",
        "care_note": "note_id",
    }
    for table, key in keys.items():
        con.execute(
            f"""CREATE OR REPLACE TEMP TABLE extra AS SELECT source_file, source_row FROM stage.{table}
            QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY source_file DESC, source_row DESC) > 1"""
        )
        _move(
            con,
            table,
            "(source_file, source_row) IN (SELECT (source_file, source_row) FROM extra)",
            "duplicate",
        )


def _after(con: duckdb.DuckDBPyConnection, table: str, kind: str, as_of: date) -> None:
    day = "coalesce(from_date, claim_from_date)" if kind == "medical" else "fill_date"
    _move(con, table, f"{day} IS NULL", "bad date")
    _move(con, table, f"{day} > DATE '{as_of}'", "after the as-of date")


def _several_members(con: duckdb.DuckDBPyConnection, table: str) -> None:
    con.execute(
        f"""CREATE OR REPLACE TEMP TABLE mixed AS SELECT claim_id, submitter_id, version FROM stage.{table}
        GROUP BY ALL HAVING min(member_id) <> max(member_id)"""
    )
    inside = """EXISTS (FROM mixed m WHERE m.claim_id = t.claim_id AND m.version = t.version
        AND m.submitter_id IS NOT DISTINCT FROM t.submitter_id)"""
    condition = (
        f"(source_file, source_row) IN (SELECT (source_file, source_row) FROM stage.{table} t WHERE {inside})"
    )
    _move(con, table, condition, "lines of one claim name several members")


def _claim_ids(con: duckdb.DuckDBPyConnection, table: str) -> None:
    """A control number is unique within its submitter only: where two use the same, the submitter goes before it."""
    con.execute(
        f"""UPDATE stage.{table} SET claim_id = submitter_id || ':' || claim_id WHERE claim_id IN (
        SELECT claim_id FROM stage.{table} GROUP BY claim_id
        HAVING min(submitter_id) <> max(submitter_id)) AND submitter_id IS NOT NULL"""
    )


def _versions(con: duckdb.DuckDBPyConnection, table: str, kind: str) -> None:
    """Settles versions, voids and repeats. A claim of one version without a repeated or void line is final as it is."""
    con.execute(
        f"""CREATE OR REPLACE TEMP TABLE unsettled AS SELECT {", ".join(_VERSIONED)} FROM stage.{table}
        WHERE claim_id IN (SELECT claim_id FROM stage.{table} GROUP BY claim_id
          HAVING min(version) <> max(version) OR count(*) <> count(DISTINCT line_number)
            OR bool_or(claim_status = '{versions.VOID}'))"""
    )
    outcomes, versioned = _version_queries(table)
    con.execute(f"CREATE OR REPLACE TEMP TABLE gone AS FROM ({outcomes}) WHERE outcome <> '{versions.FINAL}'")
    con.execute(f"CREATE TABLE {kind}_version AS SELECT '{kind}' AS kind, * FROM ({versioned})")
    if kind == "pharmacy":
        _one_line_per_claim(con)
    con.execute(
        f"""DELETE FROM stage.{table} USING gone g WHERE {table}.source_file = g.source_file
        AND {table}.source_row = g.source_row AND {table}.line_number = g.line_number"""
    )
    con.execute(
        f"""INSERT INTO stage.set_aside BY NAME
        SELECT source_file, source_row, {_case(OUTCOME_REASON)} AS reason
        FROM (SELECT source_file, source_row, max(outcome) AS outcome FROM gone GROUP BY ALL)
        ANTI JOIN stage.{table} USING (source_file, source_row)"""
    )
    con.execute("DROP TABLE unsettled; DROP TABLE gone")


_VERSIONED = {
    "claim_id": "string",
    "version": "int32",
    "line_number": "int32",
    "claim_status": "string",
    "member_id": "string",
    "source_file": "int16",
    "source_row": "int64",
}


@cache
def _version_queries(table: str) -> tuple[str, str]:
    """SQL of the outcomes of the lines that are not settled, and of all versions."""
    some = ibis.table(_VERSIONED, name="unsettled")
    lines = ibis.table(_VERSIONED, name=table, database="stage")
    outcomes = versions.line_outcomes(some, ("source_file", "source_row"))
    both = (outcomes, versions.claim_versions(lines))
    first, second = (str(ibis.to_sql(query, dialect="duckdb")) for query in both)
    return first, second


def _case(values: Mapping[str, str]) -> str:
    return "CASE outcome " + " ".join(f"WHEN '{k}' THEN '{v}'" for k, v in values.items()) + " END"


def _one_line_per_claim(con: duckdb.DuckDBPyConnection) -> None:
    """Where a pharmacy claim has several lines each becomes a claim of its own: <claim>-<line>.

    The version that counts is decided for the claim as it was sent, before it is parted.
    """
    con.execute(
        """CREATE OR REPLACE TEMP TABLE parted AS SELECT claim_id FROM stage.pharmacy_line
        GROUP BY claim_id HAVING count(DISTINCT line_number) > 1"""
    )
    con.execute(
        """CREATE OR REPLACE TEMP TABLE parted_version AS
        SELECT DISTINCT v.* REPLACE (v.claim_id || '-' || l.line_number AS claim_id, 1 AS lines)
        FROM pharmacy_version v JOIN stage.pharmacy_line l USING (claim_id, version)
        WHERE v.claim_id IN (FROM parted)"""
    )
    con.execute("DELETE FROM pharmacy_version WHERE claim_id IN (FROM parted)")
    con.execute("INSERT INTO pharmacy_version BY NAME FROM parted_version")
    con.execute(
        """UPDATE stage.pharmacy_line SET claim_id = claim_id || '-' || line_number
        WHERE claim_id IN (FROM parted)"""
    )


def _notes(con: duckdb.DuckDBPyConnection) -> None:
    """A note that speaks of a claim goes where that claim goes; without the claim nobody can say where."""
    known = """claim_id IN (SELECT claim_id FROM stage.medical_line) OR claim_id IN (
        SELECT claim_id FROM stage.pharmacy_line)"""
    _move(con, "care_note", f"claim_id IS NOT NULL AND NOT ({known})", "names a claim that is not there")
