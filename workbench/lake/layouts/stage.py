"""The stage: what every layout reads into, before versions and checks that are the same for all layouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from workbench.schema import dictionary

if TYPE_CHECKING:
    import duckdb

ROW = {"source_file": "SMALLINT", "source_row": "BIGINT"}
"""Where a staged row comes from: number of the file in `Layout.sources`, and its data row, from 1."""

DIAGNOSES = "STRUCT(role VARCHAR, position INTEGER, code_system VARCHAR, code VARCHAR)[]"
PROCEDURES = "STRUCT(position INTEGER, code_system VARCHAR, code VARCHAR, procedure_date DATE)[]"


def _columns(table: str, *leave_out: str) -> dict[str, str]:
    columns = dictionary()[table].columns.values()
    return {column.name: column.type for column in columns if column.name not in leave_out}


STAGE: Mapping[str, Mapping[str, str]] = {
    "member": {**ROW, "reported": "DATE", **_columns("member")},
    "eligibility": {**ROW, **_columns("eligibility")},
    "attribution": {**ROW, **_columns("attribution")},
    "organisation": {**ROW, **_columns("organisation")},
    "provider": {**ROW, **_columns("provider")},
    "care_note": {**ROW, **_columns("care_note")},
    "medical_line": {
        **ROW,
        **_columns("medical_claim", "from_date", "through_date"),
        "claim_from_date": "DATE",
        "claim_through_date": "DATE",
        **_columns("medical_claim_line", "claim_id", "member_id"),
        "diagnoses": DIAGNOSES,
        "procedures": PROCEDURES,
    },
    "pharmacy_line": {**ROW, "line_number": "INTEGER", **_columns("pharmacy_claim")},
    "ndc_ingredient": {**ROW, "ndc": "VARCHAR", "ingredient": "VARCHAR"},
}
"""Stage tables: column -> DuckDB type. Columns that are not named below are those of the data dictionary.

member         one row per member and report; the latest `reported` wins column by column, empty ones never do
eligibility    any spans or months, touching and overlapping ones are joined later
attribution    only relations that the source itself states (provider, tribe); mcp, county, bhp are derived later
medical_line   one row per claim line with its header repeated. `claim_status` is paid, denied or void; `version`
               starts at 1; claim dates may be NULL (first and last of the lines), line dates too (the claim's);
               a line without a number: give it one. Lists may be NULL. Diagnoses of all lines are united.
               A row that also tells something about the member: stage.member with source_row NULL, because a row
               is accounted for once (eligibility rows are the exception: they feed both with their row number).
pharmacy_line  one row per dispensing line; `drug_name` is filled by NDC later where NULL
ndc_ingredient one row per NDC that the sources name the ingredient of (workbench.lake.layouts.ndc)
"""

_MACROS = """
CREATE MACRO wb_text(x) AS nullif(trim(x), '');
CREATE MACRO wb_code(x) AS nullif(upper(replace(trim(x), '.', '')), '');
CREATE MACRO wb_ndc(x) AS nullif(regexp_replace(x, '[^0-9]', '', 'g'), '');
CREATE MACRO wb_day(x) AS CASE
  WHEN regexp_full_match(x, '[0-9]{8}')
    THEN CASE WHEN x BETWEEN '18500101' AND '20991231' THEN try_strptime(x, '%Y%m%d')::DATE END
  WHEN length(trim(x)) = 8 THEN wb_sane(try_cast(substr(trim(x), 1, 4) || '-' || substr(trim(x), 5, 2) || '-' || substr(trim(x), 7, 2) AS DATE))
  WHEN length(trim(x)) = 10 THEN wb_sane(try_cast(trim(x) AS DATE)) END;
CREATE MACRO wb_money(x) AS try_cast(nullif(trim(x), '') AS DECIMAL(12, 2));
CREATE MACRO wb_number(x) AS try_cast(nullif(trim(x), '') AS DECIMAL(12, 3));
CREATE MACRO wb_integer(x) AS try_cast(nullif(trim(x), '') AS INTEGER);
CREATE MACRO wb_flag(x) AS CASE upper(trim(x)) WHEN 'Y' THEN true WHEN '1' THEN true WHEN 'TRUE' THEN true
  WHEN 'N' THEN false WHEN '0' THEN false WHEN '2' THEN false WHEN 'FALSE' THEN false END;
"""
_SANE = "CREATE MACRO wb_sane(d) AS CASE WHEN d >= DATE '1850-01-01' AND d < DATE '2100-01-01' THEN d END;"


class Stage:
    """The stage tables in one DuckDB connection, with what was set aside and how many rows each file has.

    SQL macros for layouts (each gives NULL where empty or bad): wb_text, wb_code (upper case, no dots), wb_ndc,
    wb_day (YYYYMMDD or YYYY-MM-DD, 1850 to 2099), wb_money, wb_number, wb_integer, wb_flag.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection):
        self.con = con
        self.rows: dict[int, int] = {}
        con.execute("CREATE SCHEMA stage")
        for table, columns in STAGE.items():
            con.execute(f"CREATE TABLE stage.{table} ({', '.join(f'{c} {t}' for c, t in columns.items())})")
        con.execute(
            "CREATE TABLE stage.set_aside (source_file SMALLINT, source_row BIGINT, reason VARCHAR, record VARCHAR)"
        )
        con.execute(_SANE)
        con.execute(_MACROS)

    def insert(self, table: str, select: str) -> None:
        """Adds the rows of a SELECT by column name; columns that it does not give are NULL."""
        if table not in STAGE:
            raise KeyError(table)
        self.con.execute(f"INSERT INTO stage.{table} BY NAME {select}")

    def set_aside(self, select: str) -> None:
        """Adds rows (source_file, source_row, reason, and optionally record) to what is set aside.

        `reason` is a short phrase without values. Where `record` is not given, the row is read again later.
        """
        self.con.execute(f"INSERT INTO stage.set_aside BY NAME {select}")

    def count(self, file: int, rows: int) -> None:
        """Says how many data rows the file has."""
        self.rows[file] = self.rows.get(file, 0) + rows
