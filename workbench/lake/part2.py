"""Which claims are records of substance use disorder treatment under 42 CFR Part 2: table `sensitive_claim`.

A claim is tagged as a whole by one hit:
  diagnosis, procedure, drg, line   a code of the dated list (workbench.schema.code_lists), exact in its own code
                                    system: a diagnosis H0034 is not the HCPCS H0034. The code must be valid on the
                                    claim's first or last day.
  drug                              a listed ingredient: of the dispensed drug, or of an NDC on a medical line
  provider                          billing, rendering or prescribing provider, or pharmacy, is a Part 2 program by
                                    the registry, or the line's taxonomy is that of an SUD facility
  linked                            a pharmacy claim whose prescriber billed or rendered a tagged medical claim of the
                                    same member that ended on the day of the fill or at most LINK_DAYS before: what
                                    was prescribed at that visit. Our decision: the law follows the source of the
                                    record, and the prescription comes from the same encounter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from workbench.lake.canonical import NDC_INGREDIENT
from workbench.schema.code_lists import PART2, code_list

if TYPE_CHECKING:
    import duckdb

LINK_DAYS = 7
"""Days from the end of a tagged visit to a fill that is linked to it. Our decision, no public source."""

PROCEDURE_SYSTEMS = ("HCPCS", "CPT")
"""Code systems of a line's procedure_code."""


def sensitive_claims(con: duckdb.DuckDBPyConnection) -> None:
    """Makes `sensitive_claim` from medical_claim, medical_claim_line, diagnosis, procedure, pharmacy_claim, provider.

    One row per claim, category and reason.
    """
    _load_codes(con)
    con.execute("CREATE OR REPLACE TEMP TABLE program AS SELECT npi FROM provider WHERE part2_program")
    con.execute(f"CREATE OR REPLACE TEMP TABLE medical_hit AS {_medical()}")
    con.execute(f"CREATE OR REPLACE TEMP TABLE pharmacy_hit AS {_pharmacy()}")
    con.execute(
        f"""CREATE TABLE sensitive_claim AS SELECT kind, claim_id, member_id, '{PART2}' AS category, reason FROM (
          SELECT DISTINCT 'medical' AS kind, h.claim_id, c.member_id, h.reason
          FROM medical_hit h JOIN medical_claim c USING (claim_id)
          UNION ALL
          SELECT DISTINCT 'pharmacy', h.claim_id, c.member_id, h.reason
          FROM (FROM pharmacy_hit UNION ALL FROM ({_linked()})) h JOIN pharmacy_claim c USING (claim_id))"""
    )
    con.execute("DROP TABLE medical_hit; DROP TABLE pharmacy_hit; DROP TABLE program; DROP TABLE part2_code")


def _load_codes(con: duckdb.DuckDBPyConnection) -> None:
    codes = code_list(PART2)
    listed = pa.table(
        {
            "code_system": [c.code_system for c in codes],
            "code": [c.code for c in codes],
            "valid_from": pa.array([c.valid_from for c in codes], pa.date32()),
            "valid_through": pa.array([c.valid_through for c in codes], pa.date32()),
            "with_modifier": pa.array([list(c.with_modifier) for c in codes], pa.list_(pa.string())),
        }
    )
    con.register("part2_listed", listed)
    con.execute("CREATE OR REPLACE TEMP TABLE part2_code AS FROM part2_listed")
    con.unregister("part2_listed")


def _valid(claim: str = "c", code: str = "k") -> str:
    return f"""({claim}.from_date BETWEEN {code}.valid_from AND {code}.valid_through
        OR {claim}.through_date BETWEEN {code}.valid_from AND {code}.valid_through)"""


_MODIFIERS = "[l.modifier_1, l.modifier_2, l.modifier_3, l.modifier_4]"


def _drug(name: str) -> str:
    """The listed ingredient is one of the words of a drug's name."""
    return f"list_contains(regexp_extract_all({name}, '[a-z]+'), k.code)"


def _medical() -> str:
    systems = ", ".join(f"'{system}'" for system in PROCEDURE_SYSTEMS)
    code = f"JOIN medical_claim c USING (claim_id) JOIN part2_code k ON {_valid()}"
    hits = {
        "diagnosis": f"""FROM diagnosis x {code} AND k.code = x.code AND k.code_system = x.code_system
            WHERE k.code_system IN ('ICD-10-CM', 'ICD-9-CM')""",
        "procedure": f"""FROM procedure x {code} AND k.code = x.code AND k.code_system = x.code_system
            WHERE k.code_system IN ('ICD-10-PCS', 'ICD-9-PCS')""",
        "drg": f"""FROM medical_claim c JOIN part2_code k ON {_valid()} AND k.code = c.ms_drg
            WHERE k.code_system = 'MS-DRG'""",
        "line": f"""FROM medical_claim_line l {code} AND k.code = l.procedure_code
            WHERE k.code_system IN ({systems})
              AND (len(k.with_modifier) = 0 OR list_has_any(k.with_modifier, {_MODIFIERS}))
            UNION ALL SELECT l.claim_id, 'line' FROM medical_claim_line l {code}
              AND k.code IN (l.modifier_1, l.modifier_2, l.modifier_3, l.modifier_4)
            WHERE k.code_system = 'MODIFIER'""",
        "drug": f"""FROM medical_claim_line l JOIN value_set v ON v.code = l.ndc
            JOIN medical_claim c USING (claim_id) JOIN part2_code k ON {_valid()} AND {_drug("lower(v.label)")}
            WHERE v.value_set = '{NDC_INGREDIENT}' AND k.code_system = 'INGREDIENT'""",
        "provider": f"""FROM medical_claim WHERE billing_npi IN (FROM program)
            UNION ALL SELECT claim_id, 'provider' FROM medical_claim_line WHERE rendering_npi IN (FROM program)
            UNION ALL SELECT l.claim_id, 'provider' FROM medical_claim_line l {code}
              AND k.code = l.rendering_taxonomy WHERE k.code_system = 'TAXONOMY'
            UNION ALL SELECT c.claim_id, 'provider' FROM medical_claim c JOIN provider p ON p.npi = c.billing_npi
              JOIN part2_code k ON {_valid()} AND k.code = p.taxonomy WHERE k.code_system = 'TAXONOMY'""",
    }
    return " UNION ALL ".join(f"SELECT claim_id, '{reason}' AS reason {sql}" for reason, sql in hits.items())


def _pharmacy() -> str:
    return f"""SELECT claim_id, 'drug' AS reason FROM pharmacy_claim p JOIN (
            SELECT d.drug_name, k.valid_from, k.valid_through
            FROM (SELECT DISTINCT drug_name FROM pharmacy_claim) d JOIN part2_code k ON {_drug("d.drug_name")}
            WHERE k.code_system = 'INGREDIENT') listed
          ON p.drug_name = listed.drug_name AND p.fill_date BETWEEN listed.valid_from AND listed.valid_through
        UNION ALL SELECT claim_id, 'provider' FROM pharmacy_claim
          WHERE prescriber_npi IN (FROM program) OR pharmacy_npi IN (FROM program)"""


def _linked() -> str:
    return f"""SELECT p.claim_id, 'linked' AS reason FROM pharmacy_claim p JOIN (
          SELECT DISTINCT c.member_id, c.through_date, unnest([c.billing_npi, l.rendering_npi]) AS npi
          FROM medical_claim c JOIN medical_claim_line l USING (claim_id)
          WHERE c.claim_id IN (SELECT claim_id FROM medical_hit)) v
        ON v.member_id = p.member_id AND v.npi = p.prescriber_npi
          AND p.fill_date BETWEEN v.through_date AND v.through_date + {LINK_DAYS}"""
