"""The file by which a State brings the ingredients of drugs: `ndc_ingredients.csv` with ndc,ingredient.

One row per NDC: eleven digits, or FDA's form with two hyphens (4-4-2, 5-3-2, 5-4-1), which is padded to eleven. The
ingredient is the generic name, several in any order and with any mark between them, as the names in RxNorm (term types
IN and MIN) or in FDA's NDC directory (SUBSTANCENAME). A product that is no drug is named too, as what it is: a fill of
an NDC that the file does not name has an unknown ingredient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.lake.layouts.files import load_csv

if TYPE_CHECKING:
    from workbench.lake.layouts import SourceFile
    from workbench.lake.layouts.stage import Stage

NAME = "ndc_ingredients.csv"
COLUMNS = ("ndc", "ingredient")

_HYPHENS = "regexp_full_match(trim(ndc), '[0-9]{4,5}-[0-9]{3,4}-[0-9]{1,2}')"
_ELEVEN = f"""CASE WHEN {_HYPHENS} THEN lpad(split_part(trim(ndc), '-', 1), 5, '0')
      || lpad(split_part(trim(ndc), '-', 2), 4, '0') || lpad(split_part(trim(ndc), '-', 3), 2, '0')
    WHEN regexp_full_match(trim(ndc), '[0-9]{{11}}') THEN trim(ndc) END"""


def read_ndc_map(file: SourceFile, number: int, stage: Stage) -> None:
    """Rows without an NDC of a known form, or without an ingredient, are set aside."""
    load_csv(file, number, stage, "ndc_rows", COLUMNS)
    stage.con.execute(
        f"""CREATE OR REPLACE TEMP TABLE judged AS SELECT source_file, source_row, {_ELEVEN} AS ndc,
          lower(wb_text(ingredient)) AS ingredient,
          CASE WHEN {_ELEVEN} IS NULL THEN 'bad NDC'
            WHEN NOT regexp_matches(coalesce(ingredient, ''), '[A-Za-z]') THEN 'no ingredient' END AS reason
        FROM ndc_rows"""
    )
    stage.set_aside("SELECT source_file, source_row, reason FROM judged WHERE reason IS NOT NULL")
    stage.insert("ndc_ingredient", "SELECT * EXCLUDE (reason) FROM judged WHERE reason IS NULL")
    stage.con.execute("DROP TABLE judged; DROP TABLE ndc_rows")
