"""Which claims are of a sensitive category, each with its reason: table `sensitive_claim`.

One hit tags the whole claim. A code hits only in its own code system (a diagnosis H0034 is not the HCPCS H0034),
where only letters and digits matter and no case, and where it is valid on the claim's first or last day. A diagnosis
or procedure whose code system is not said, or is none that we know, hits in every system of such codes. The codes are those
of workbench.schema.code_lists.

  diagnosis, procedure, drg, line   a listed code in that place; `line` is a procedure, modifier or revenue code
  delivery    how it was delivered: a listed place of service, or the kind of the organisation that the claim belongs
              to or comes from: DMC-ODS, or a behavioral health plan. A claim of such a plan whose lines or place say
              substance use treatment is DMC-ODS: `part2`, not specialty mental health
  unclear     `part2` only: it may be substance use treatment, and the claim does not tell. It is a behavioral health
              plan's, or has a code that is of substance use with a modifier only; and nothing says mental health: no
              principal diagnosis of MENTAL_HEALTH, no modifier MENTAL_HEALTH_MODIFIER
  drug        a listed ingredient: of the dispensed drug, or of an NDC on a medical line
  provider    `part2` only: a provider or pharmacy is a Part 2 program by the registry, or a listed taxonomy
  linked      a pharmacy claim whose prescriber billed or rendered a tagged medical claim of the same member, filled from
              the first day of that claim to LINK_DAYS after its last: what was prescribed at that visit or in that stay.
              Our decision: a prescription tells of the encounter that it comes from
  category    `minor_consent` only: the member was of MINOR_AGES, and the claim is of a category to whose services a
              minor may consent alone. Its own codes (therapy, care of pregnancy) count at those ages only
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from workbench.lake.canonical import NDC_INGREDIENT, tidy
from workbench.schema.code_lists import code_list
from workbench.schema.sensitive import Category

if TYPE_CHECKING:
    import duckdb

LINK_DAYS = 7
"""Days from the last day of a tagged visit to a fill that is linked to it. Our decision, no public source."""

MENTAL_HEALTH = "F(0[1-9]|[2-9]).*"
"""Principal diagnoses (ICD-10-CM, without dots) by which a county's claim says that it is mental health and no DMC-ODS:
chapter F, mental disorders, but for F10 to F19, which are of substances. Our decision, needs counsel's review."""

MENTAL_HEALTH_MODIFIER = "HE"
"""HCPCS modifier: mental health program."""

MINOR_AGES = (12, 17)
"""Ages in whole years, both included, at which a minor may consent alone to most listed services: Family Code 6924 to
6930. Services without a lower age (care of pregnancy, 6925) are tagged from 12 too. Needs counsel's review."""


def sensitive_claims(con: duckdb.DuckDBPyConnection) -> None:
    """Makes `sensitive_claim` from the canonical tables. One row per claim, category and reason."""
    _load_codes(con)
    con.execute("CREATE OR REPLACE TEMP TABLE program AS SELECT npi FROM provider WHERE part2_program")
    con.execute(f"CREATE OR REPLACE TEMP TABLE found AS SELECT DISTINCT * FROM ({_medical()})")
    con.execute(f"INSERT INTO found {_behavioral_plan()}")
    con.execute(f"INSERT INTO found {_unclear()}")
    con.execute(f"CREATE OR REPLACE TEMP TABLE medical_hit AS {_of_age('medical_claim', 'from_date')}")
    con.execute(f"CREATE OR REPLACE TEMP TABLE found AS {_pharmacy()}")
    con.execute(f"INSERT INTO found {_linked()}")
    con.execute(f"CREATE OR REPLACE TEMP TABLE pharmacy_hit AS {_of_age('pharmacy_claim', 'fill_date')}")
    con.execute(
        """CREATE TABLE sensitive_claim AS
        SELECT DISTINCT 'medical' AS kind, h.claim_id, c.member_id, h.category, h.reason
        FROM medical_hit h JOIN medical_claim c USING (claim_id)
        UNION ALL
        SELECT DISTINCT 'pharmacy', h.claim_id, c.member_id, h.category, h.reason
        FROM pharmacy_hit h JOIN pharmacy_claim c USING (claim_id)"""
    )
    for table in ("medical_hit", "pharmacy_hit", "found", "program", "listed"):
        con.execute(f"DROP TABLE {table}")


def unknown_drugs(con: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """How many fills, and lines of medical claims that name an NDC, are of a drug whose ingredient nobody knows.

    No list of ingredients finds them. A name that a source gives is not enough: it may be a brand.
    """
    unknown = f"NOT EXISTS (FROM {NDC_INGREDIENT} n WHERE n.ndc = c.ndc)"
    fills, lines = con.execute(
        f"""SELECT (SELECT count(*) FROM pharmacy_claim c WHERE {unknown}),
          (SELECT count(*) FROM medical_claim_line c WHERE c.ndc IS NOT NULL AND {unknown})"""
    ).fetchall()[0]
    return {"fills": fills, "lines": lines}


def _load_codes(con: duckdb.DuckDBPyConnection) -> None:
    """Makes `listed`: one row per category and dated code."""
    codes = [(category, code) for category in Category for code in code_list(category)]
    rows = pa.table(
        {
            "category": [str(category) for category, _ in codes],
            "code_system": [c.code_system for _, c in codes],
            "code": [c.code for _, c in codes],
            "valid_from": pa.array([c.valid_from for _, c in codes], pa.date32()),
            "valid_through": pa.array([c.valid_through for _, c in codes], pa.date32()),
            "with_modifier": pa.array([list(c.with_modifier) for _, c in codes], pa.list_(pa.string())),
        }
    )
    con.register("listed_rows", rows)
    con.execute("CREATE OR REPLACE TEMP TABLE listed AS FROM listed_rows")
    con.unregister("listed_rows")


def _plain(code: str) -> str:
    """The letters and digits of a code, in upper case: no dots, no marks, no space of any alphabet, seen or not."""
    return f"upper(regexp_replace({code}, '[^A-Za-z0-9]', '', 'g'))"


def _codes(table: str, column: str, *systems: str, width: int = 0) -> str:
    """A relation `k`: each spelling `said` of a listed code that the column has. `width` pads with zeros.

    Only the distinct values are spelt out and compared, so that the rows are joined by what they say.
    """
    plain = _plain("d.said")
    if width:
        bare = f"ltrim({plain}, '0')"
        plain = f"lpad({bare}, greatest({width}, length({bare}))::INTEGER, '0')"
    within = ", ".join(f"'{system}'" for system in systems)
    return f"""(SELECT d.said, k.* FROM (SELECT DISTINCT {column} AS said FROM {table}) d
        JOIN listed k ON k.code = {plain} WHERE k.code_system IN ({within})) k"""


_CLAIM = "JOIN medical_claim c ON c.claim_id = l.claim_id"
_VALID = """(c.from_date BETWEEN k.valid_from AND k.valid_through
    OR c.through_date BETWEEN k.valid_from AND k.valid_through)"""
_BEHAVIORAL = Category.MENTAL_HEALTH_SPECIALTY
_KIND = " UNION ALL ".join(
    f"""SELECT c.claim_id, k.category FROM medical_claim c JOIN (
      SELECT d.said, k.* FROM (SELECT DISTINCT {named} AS said FROM medical_claim) d
      JOIN organisation o ON {tidy("o.organisation_id")} = {tidy("d.said")}
      JOIN listed k ON k.code_system = 'ORGANISATION_KIND' AND k.code = o.kind) k ON k.said = c.{named}
    WHERE {_VALID}"""
    for named in ("organisation_id", "submitter_id")
)
"""Claims by the listed kind of the organisation that they belong to or come from: claim_id, category."""
_MODIFIERS = ("modifier_1", "modifier_2", "modifier_3", "modifier_4")


def _line(column: str, *systems: str, width: int = 0, also: str = "true") -> str:
    codes = _codes("medical_claim_line", column, *systems, width=width)
    return f"""FROM medical_claim_line l JOIN {codes} ON k.said = l.{column} {_CLAIM}
        WHERE {_VALID} AND {also}"""


_SYSTEMS = ("ICD-10-CM", "ICD-9-CM", "ICD-10-PCS", "ICD-9-PCS", "HCPCS", "CPT")


def _icd(table: str, *systems: str) -> str:
    """Codes that say their system, and in each of these systems those that say none or one that nobody knows."""
    said, within = _plain("d.system"), ", ".join(f"'{system}'" for system in systems)
    known = ", ".join(f"'{system.replace('-', '')}'" for system in _SYSTEMS)
    return f"""FROM {table} l JOIN (
          SELECT d.said, d.system, k.* FROM (SELECT DISTINCT code AS said, code_system AS system FROM {table}) d
          JOIN listed k ON k.code = {_plain("d.said")} AND k.code_system IN ({within}) AND len(k.with_modifier) = 0
            AND (replace(k.code_system, '-', '') = {said} OR coalesce({said}, '') NOT IN ({known}))) k
        ON k.said = l.code AND k.system IS NOT DISTINCT FROM l.code_system {_CLAIM} WHERE {_VALID}"""


def _medical() -> str:
    """Every hit of a medical claim by a code, a drug or a provider: claim_id, category, reason."""
    with_modifier = ", ".join(_plain(f"l.{modifier}") for modifier in _MODIFIERS)
    hits = [
        ("diagnosis", _icd("diagnosis", "ICD-10-CM", "ICD-9-CM")),
        ("procedure", _icd("procedure", "ICD-10-PCS", "ICD-9-PCS", "HCPCS", "CPT")),
        (
            "drg",
            f"""FROM medical_claim c JOIN {_codes("medical_claim", "ms_drg", "MS-DRG", width=3)}
            ON k.said = c.ms_drg WHERE {_VALID}""",
        ),
        (
            "line",
            _line(
                "procedure_code",
                "HCPCS",
                "CPT",
                also=f"(len(k.with_modifier) = 0 OR list_has_any(k.with_modifier, [{with_modifier}]))",
            ),
        ),
        *(("line", _line(modifier, "MODIFIER")) for modifier in _MODIFIERS),
        ("line", _line("revenue_code", "REV", width=4)),
        ("delivery", _line("place_of_service", "POS", width=2)),
        ("provider", _line("rendering_taxonomy", "TAXONOMY")),
        (
            "provider",
            f"""FROM medical_claim c JOIN provider p ON p.npi = c.billing_npi
            JOIN {_codes("provider", "taxonomy", "TAXONOMY")} ON k.said = p.taxonomy WHERE {_VALID}""",
        ),
        (
            "drug",
            f"""FROM medical_claim_line l JOIN {NDC_INGREDIENT} v ON v.ndc = l.ndc
            JOIN listed k ON k.code_system = 'INGREDIENT' AND {_drug("v.ingredient")} {_CLAIM} WHERE {_VALID}""",
        ),
    ]
    found = [f"SELECT c.claim_id, k.category, '{reason}' AS reason {sql}" for reason, sql in hits]
    programs = [
        "FROM medical_claim c WHERE c.billing_npi IN (FROM program)",
        "FROM medical_claim_line c WHERE c.rendering_npi IN (FROM program)",
    ]
    found += [f"SELECT c.claim_id, '{Category.PART2}', 'provider' {sql}" for sql in programs]
    found.append(
        f"SELECT claim_id, category, 'delivery' FROM ({_KIND}) WHERE category <> '{_BEHAVIORAL}'",
    )
    return " UNION ALL ".join(found)


def _behavioral_plan() -> str:
    """Claims of behavioral health plans, but for those whose lines or place say substance use treatment (DMC-ODS)."""
    return f"""SELECT DISTINCT claim_id, category, 'delivery' FROM ({_KIND})
        WHERE category = '{_BEHAVIORAL}' AND claim_id NOT IN (SELECT claim_id FROM found
          WHERE category = '{Category.PART2}' AND reason IN ('line', 'delivery'))"""


def _unclear() -> str:
    """Claims that may be substance use treatment as well as mental health, and that do not tell which."""
    codes = _codes("medical_claim_line", "procedure_code", "HCPCS", "CPT")
    mental = " OR ".join(f"{_plain(f'l.{m}')} = '{MENTAL_HEALTH_MODIFIER}'" for m in _MODIFIERS)
    return f"""SELECT DISTINCT claim_id, '{Category.PART2}', 'unclear' FROM (
          SELECT claim_id FROM found WHERE category = '{_BEHAVIORAL}'
          UNION ALL SELECT c.claim_id FROM medical_claim_line l JOIN {codes} ON k.said = l.procedure_code {_CLAIM}
            WHERE {_VALID} AND k.category = '{Category.PART2}' AND len(k.with_modifier) > 0) u
        WHERE NOT EXISTS (FROM found f WHERE f.claim_id = u.claim_id AND f.category = '{Category.PART2}')
          AND NOT EXISTS (FROM diagnosis d WHERE d.claim_id = u.claim_id AND d.role = 'principal'
            AND {_plain("d.code_system")} = 'ICD10CM' AND regexp_full_match({_plain("d.code")}, '{MENTAL_HEALTH}'))
          AND NOT EXISTS (FROM medical_claim_line l WHERE l.claim_id = u.claim_id AND ({mental}))"""


def _drug(name: str) -> str:
    """The listed ingredient is one of the words of a drug's name."""
    return (
        rf"list_contains(regexp_extract_all(regexp_replace({name}, '\p{{Cf}}', '', 'g'), '[a-z]+'), k.code)"
    )


def _pharmacy() -> str:
    return f"""SELECT claim_id, k.category, 'drug' AS reason FROM pharmacy_claim p JOIN (
            SELECT d.drug_name, d.ndc, k.category, k.valid_from, k.valid_through
            FROM (SELECT DISTINCT drug_name, ndc FROM pharmacy_claim) d LEFT JOIN {NDC_INGREDIENT} v USING (ndc)
            JOIN listed k ON k.code_system = 'INGREDIENT'
              AND {_drug("concat_ws(' ', lower(d.drug_name), v.ingredient)")}) k
          ON p.drug_name IS NOT DISTINCT FROM k.drug_name AND p.ndc IS NOT DISTINCT FROM k.ndc
          AND p.fill_date BETWEEN k.valid_from AND k.valid_through
        UNION ALL SELECT claim_id, '{Category.PART2}', 'provider' FROM pharmacy_claim
          WHERE prescriber_npi IN (FROM program) OR pharmacy_npi IN (FROM program)"""


def _linked() -> str:
    return f"""SELECT DISTINCT p.claim_id, v.category, 'linked' FROM pharmacy_claim p JOIN (
          SELECT DISTINCT c.member_id, c.from_date, coalesce(c.through_date, c.from_date) AS through_date, h.category,
            unnest([c.billing_npi, l.rendering_npi]) AS npi
          FROM medical_hit h JOIN medical_claim c USING (claim_id) LEFT JOIN medical_claim_line l USING (claim_id)) v
        ON v.member_id = p.member_id AND v.npi = p.prescriber_npi
          AND p.fill_date BETWEEN v.from_date AND v.through_date + {LINK_DAYS}"""


def _of_age(claims: str, day: str) -> str:
    """The hits of `found`, where `minor_consent` asks for the member's age, and what follows from other categories."""
    minor, (youngest, oldest) = Category.MINOR_CONSENT, MINOR_AGES
    return f"""SELECT claim_id, category, reason FROM found WHERE category <> '{minor}'
        UNION ALL
        SELECT f.claim_id, '{minor}', CASE WHEN f.category = '{minor}' THEN f.reason ELSE 'category' END
        FROM found f JOIN {claims} c USING (claim_id) JOIN member m ON m.member_id = c.member_id
        WHERE date_sub('year', m.birth_date, c.{day}) BETWEEN {youngest} AND {oldest}
          AND (f.category = '{minor}' OR f.category IN (
            SELECT code FROM listed WHERE category = '{minor}' AND code_system = 'CATEGORY'))"""
