"""From the settled stage to the canonical tables of a release, each as the data dictionary has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.schema import dictionary
from workbench.schema.counties import counties
from workbench.schema.value_sets import rows as value_set_rows

if TYPE_CHECKING:
    import duckdb

NDC_INGREDIENT = "ndc_ingredient"
"""The value set whose label is the ingredient of an NDC, and the table of what value set and sources say together."""


def make_canonical(con: duckdb.DuckDBPyConnection) -> None:
    """Makes one table per canonical table of the dictionary in the main schema. Reads the stage, leaves it as it is."""
    con.register("value_set_rows", value_set_rows())
    con.execute("CREATE TABLE value_set AS FROM value_set_rows")
    con.unregister("value_set_rows")
    _ingredients(con)
    _member(con)
    _eligibility(con)
    _organisation(con)
    _attribution(con)
    _provider(con)
    _medical(con)
    _codes(con)
    _pharmacy(con)
    con.execute(f"CREATE TABLE care_note AS SELECT {_names('care_note')} FROM stage.care_note")


def tidy(said: str) -> str:
    """SQL of an id without any space of Unicode and without characters that are not seen; NULL where nothing is left."""
    return rf"nullif(regexp_replace({said}, '[\s\p{{Z}}\p{{C}}]', '', 'g'), '')"


def _ingredients(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the temporary table `ndc_ingredient`: one row per NDC with all ingredients that anybody names.

    What the sources name is in no table of a release, because a slice would hold the NDC of a fill that it hides.
    """
    con.execute(
        f"""CREATE TEMP TABLE {NDC_INGREDIENT} AS
        SELECT ndc, string_agg(DISTINCT ingredient, ' / ' ORDER BY ingredient) AS ingredient FROM (
          SELECT code AS ndc, lower(label) AS ingredient FROM value_set WHERE value_set = '{NDC_INGREDIENT}'
          UNION ALL SELECT ndc, ingredient FROM stage.ndc_ingredient) GROUP BY ndc"""
    )


def _names(table: str, *leave_out: str) -> str:
    return ", ".join(name for name in dictionary()[table].columns if name not in leave_out)


def _latest(table: str, key: str, order: str, source: str = "") -> str:
    """The last reported value of each column, empty ones never; the greater value where two are reported at once."""
    columns = [name for name in dictionary()[table].columns if name != key]
    picked = ", ".join(f"arg_max({c}, ({order}, {c})) FILTER ({c} IS NOT NULL) AS {c}" for c in columns)
    return f"SELECT {key}, {picked} FROM {source or f'stage.{table}'} GROUP BY {key}"


def _member(con: duckdb.DuckDBPyConnection) -> None:
    order = "coalesce(reported, DATE '1850-01-01'), source_file, coalesce(source_row, 0)"
    con.execute(f"CREATE TABLE member AS {_latest('member', 'member_id', order)}")


def _provider(con: duckdb.DuckDBPyConnection) -> None:
    """The registry knows more than the provider file: it comes later in the order of the files."""
    con.execute(
        f"CREATE TEMP TABLE said AS SELECT * REPLACE ({tidy('npi')} AS npi) FROM stage.provider WHERE {tidy('npi')} IS NOT NULL"
    )
    picked = _latest("provider", "npi", "source_file, source_row", "said")
    con.execute(
        f"CREATE TABLE provider AS SELECT * REPLACE (coalesce(part2_program, false) AS part2_program) FROM ({picked})"
    )
    con.execute("DROP TABLE said")


def _joined_spans(source: str, by: str) -> str:
    """Touching and overlapping spans of equal `by` as one.

    `reached` is the last day of the spans before: at the first span of an island it is the end of the island before.
    """
    return f"""SELECT {by}, start_date,
        coalesce(lead(reached) OVER (PARTITION BY {by} ORDER BY start_date), last) AS end_date FROM (
      SELECT {by}, start_date,
        max(end_date) OVER (w ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS reached,
        max(end_date) OVER (w ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS last
      FROM ({source}) WINDOW w AS (PARTITION BY {by} ORDER BY start_date, end_date)
      QUALIFY reached IS NULL OR start_date > 1 + reached)"""


def _eligibility(con: duckdb.DuckDBPyConnection) -> None:
    by = _names("eligibility", "start_date", "end_date")
    joined = _joined_spans("FROM stage.eligibility", by)
    con.execute(f"CREATE TABLE eligibility AS SELECT {_names('eligibility')} FROM ({joined})")


def _organisation(con: duckdb.DuckDBPyConnection) -> None:
    """The registry, and what eligibility names besides: plans by their id, counties, county behavioral health plans."""
    con.execute(f"CREATE TABLE organisation AS SELECT {_names('organisation')} FROM stage.organisation")
    listed = ", ".join(
        f"('county-{c.code}', '{c.name} County', 'county', '{c.code}'), "
        f"('bhp-{c.code}', '{c.name} County Behavioral Health', 'bhp', '{c.code}')"
        for c in counties().values()
    )
    con.execute(
        f"""INSERT INTO organisation
        SELECT DISTINCT organisation_id, organisation_id, 'mcp', NULL FROM eligibility
        WHERE organisation_id NOT IN (SELECT organisation_id FROM organisation)
        UNION ALL
        SELECT * FROM (VALUES {listed}) AS c(organisation_id, name, kind, county_code)
        WHERE county_code IN (SELECT county_code FROM eligibility)
          AND organisation_id NOT IN (SELECT organisation_id FROM organisation)"""
    )


def _attribution(con: duckdb.DuckDBPyConnection) -> None:
    """Plan, county and county behavioral health plan from eligibility; other relations as the source states them.

    A span lasts (no last day) where it reaches the last day that any eligibility reports: nobody has said that it
    ended. A plan whose file is late loses its current members until it comes.
    """
    relations = {
        "mcp": (
            "organisation_id",
            "organisation_id IN (SELECT organisation_id FROM organisation WHERE kind = 'mcp')",
        ),
        "county": ("'county-' || county_code", "county_code IS NOT NULL"),
        "bhp": ("'bhp-' || county_code", "county_code IS NOT NULL"),
    }
    spans = " UNION ALL BY NAME ".join(
        "SELECT *, '{}' AS relation FROM ({})".format(
            relation,
            _joined_spans(
                f"SELECT member_id, {organisation} AS organisation_id, start_date, end_date FROM eligibility WHERE {where}",
                "member_id, organisation_id",
            ),
        )
        for relation, (organisation, where) in relations.items()
    )
    con.execute(
        f"""CREATE TABLE attribution AS
        WITH last AS (SELECT max(end_date) AS day FROM eligibility)
        SELECT member_id, organisation_id, relation, start_date,
          CASE WHEN end_date < last.day THEN end_date END AS end_date FROM ({spans}), last
        UNION ALL SELECT {_names("attribution")} FROM stage.attribution"""
    )


def _medical(con: duckdb.DuckDBPyConnection) -> None:
    """The header is what the first line that states it says; its days are the first and last of the lines."""
    columns = dictionary()["medical_claim"].columns
    spans = {
        "from_date": "min(least(coalesce(claim_from_date, from_date), coalesce(from_date, claim_from_date)))",
        "through_date": """max(greatest(coalesce(claim_through_date, through_date, claim_from_date, from_date),
            coalesce(through_date, claim_through_date, from_date, claim_from_date)))""",
        "billing_npi": tidy("arg_min(billing_npi, line_number) FILTER (billing_npi IS NOT NULL)"),
        "claim_status": "CASE WHEN bool_or(claim_status = 'paid') THEN 'paid' ELSE 'denied' END",
    }
    picked = ", ".join(
        f"{spans.get(c, f'arg_min({c}, line_number) FILTER ({c} IS NOT NULL)')} AS {c}"
        for c in columns
        if c != "claim_id"
    )
    con.execute(
        f"CREATE TABLE medical_claim AS SELECT claim_id, {picked} FROM stage.medical_line GROUP BY claim_id"
    )
    days = {
        "from_date": "coalesce(from_date, claim_from_date) AS from_date",
        "through_date": """coalesce(through_date, claim_through_date, from_date, claim_from_date)
            AS through_date""",
        "rendering_npi": f"{tidy('rendering_npi')} AS rendering_npi",
    }
    listed = ", ".join(days.get(c, c) for c in dictionary()["medical_claim_line"].columns)
    con.execute(f"CREATE TABLE medical_claim_line AS SELECT {listed} FROM stage.medical_line")


def _codes(con: duckdb.DuckDBPyConnection) -> None:
    """Diagnoses and ICD procedures of all lines of a claim, each code once per role.

    Where lines of one claim disagree over a position, the second code takes the next free one.
    """
    con.execute(
        """CREATE TABLE diagnosis AS
        WITH one AS (SELECT claim_id, dx.role, dx.code_system, dx.code, min(dx.position) AS position
          FROM (SELECT claim_id, unnest(diagnoses) AS dx FROM stage.medical_line) GROUP BY ALL),
        placed AS (SELECT *,
            row_number() OVER (PARTITION BY claim_id, role, position ORDER BY code_system, code) AS nth,
            max(position) OVER (PARTITION BY claim_id, role) AS highest FROM one)
        SELECT p.claim_id, c.member_id, p.role,
          CASE WHEN nth = 1 THEN position ELSE highest + row_number() OVER (
            PARTITION BY p.claim_id, p.role, nth = 1 ORDER BY position, code_system, code) END::INTEGER AS position,
          p.code_system, p.code, c.from_date
        FROM placed p JOIN medical_claim c USING (claim_id)"""
    )
    con.execute(
        """CREATE TABLE procedure AS
        WITH said AS (SELECT DISTINCT claim_id, procedures FROM stage.medical_line WHERE len(procedures) > 0),
        one AS (SELECT claim_id, px.code_system, px.code, px.procedure_date, min(px.position) AS position
          FROM (SELECT claim_id, unnest(procedures) AS px FROM said) GROUP BY ALL),
        placed AS (SELECT *, row_number() OVER (PARTITION BY claim_id, position
              ORDER BY code_system, code, procedure_date) AS nth,
            max(position) OVER (PARTITION BY claim_id) AS highest FROM one)
        SELECT p.claim_id, c.member_id,
          CASE WHEN nth = 1 THEN position ELSE highest + row_number() OVER (
            PARTITION BY p.claim_id, nth = 1 ORDER BY position, code_system, code, procedure_date) END::INTEGER
            AS position,
          p.code_system, p.code, coalesce(p.procedure_date, c.from_date) AS procedure_date
        FROM placed p JOIN medical_claim c USING (claim_id)"""
    )


def _pharmacy(con: duckdb.DuckDBPyConnection) -> None:
    con.execute(
        f"""CREATE TABLE pharmacy_claim AS SELECT {_names("pharmacy_claim")} FROM (
          SELECT p.* REPLACE (lower(coalesce(p.drug_name, n.ingredient)) AS drug_name,
            {tidy("p.prescriber_npi")} AS prescriber_npi, {tidy("p.pharmacy_npi")} AS pharmacy_npi)
          FROM stage.pharmacy_line p LEFT JOIN {NDC_INGREDIENT} n USING (ndc))"""
    )
