"""CMS DE-SynPUF, the synthetic Medicare public use file of 2008 to 2010: bene, inpatient, outpatient, carrier, pde.

Source: CMS, Data Entrepreneurs' Synthetic Public Use File, codebook and data users' document. The file is ICD-9 and
knows neither versions, plans nor month-by-month coverage. Our rules where it leaves room:

- the plan is ORGANISATION for everybody
- coverage: each year of a beneficiary gives the months of Part A, of Part B and of Part D, not which ones. Medical
  coverage is the larger number of A and B. A number of months stands at the end of the year where the year before
  has none and the year after has some (or nothing came before and the person did not die that year and the year
  after goes on); in the year of death it ends with the month of death; else it begins in January. Months in a
  Medicare Advantage plan are covered too, though their claims are missing from the file
- inpatient and outpatient claims get the bill types 0111 and 0131 by their file: it has none
- a claim in two SEGMENTs is one claim; the amounts of segment 1 count, its dates stand for an empty date
- a carrier line is refused unless its processing indicator is one of PAID_INDICATORS; no indicator counts as paid
- ICD-9 procedures: the file's procedure columns also hold diagnosis codes. What has not the shape of a procedure
  (three or four digits) is left out; a diagnosis that has that shape cannot be told apart
- PRVDR_NUM and tax numbers are no NPIs and are left out; the attending physician stands as rendering provider
- SSA county codes are left out; states become postal codes; chronic condition flags and yearly sums are left out
- a prescription's allowed amount is its total cost, its paid amount that less the patient's share
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.lake.layouts import SourceFile, SourceRefused
from workbench.lake.layouts.desynpuf_claims import read_carrier, read_facility, read_prescriptions
from workbench.lake.layouts.files import csv_header, csv_records, load_csv, source_file
from workbench.lake.layouts.judge import JUDGED, LOADED, judge, mapped, unreadable
from workbench.lake.layouts.us_states import BY_SSA_CODE

if TYPE_CHECKING:
    import pyarrow as pa

    from workbench.lake.layouts.stage import Stage

ORGANISATION = "medicare"
_NEEDED = {
    "bene": """BENE_YEAR DESYNPUF_ID BENE_BIRTH_DT BENE_DEATH_DT BENE_SEX_IDENT_CD BENE_RACE_CD SP_STATE_CODE
        BENE_HI_CVRAGE_TOT_MONS BENE_SMI_CVRAGE_TOT_MONS PLAN_CVRG_MOS_NUM""",
    "inpatient": """DESYNPUF_ID CLM_ID SEGMENT CLM_FROM_DT CLM_THRU_DT CLM_PMT_AMT AT_PHYSN_NPI CLM_ADMSN_DT
        ADMTNG_ICD9_DGNS_CD NCH_BENE_DSCHRG_DT CLM_DRG_CD ICD9_DGNS_CD_1 ICD9_PRCDR_CD_1 HCPCS_CD_1""",
    "outpatient": """DESYNPUF_ID CLM_ID SEGMENT CLM_FROM_DT CLM_THRU_DT CLM_PMT_AMT AT_PHYSN_NPI
        ADMTNG_ICD9_DGNS_CD ICD9_DGNS_CD_1 ICD9_PRCDR_CD_1 HCPCS_CD_1""",
    "carrier": """DESYNPUF_ID CLM_ID CLM_FROM_DT CLM_THRU_DT ICD9_DGNS_CD_1 PRF_PHYSN_NPI_1 TAX_NUM_1 HCPCS_CD_1
        LINE_NCH_PMT_AMT_1 LINE_ALOWD_CHRG_AMT_1 LINE_PRCSG_IND_CD_1 LINE_ICD9_DGNS_CD_1""",
    "pde": """DESYNPUF_ID PDE_ID SRVC_DT PROD_SRVC_ID QTY_DSPNSD_NUM DAYS_SUPLY_NUM PTNT_PAY_AMT TOT_RX_CST_AMT""",
}
FILES = {kind: tuple(columns.split()) for kind, columns in _NEEDED.items()}
"""File -> the columns that must be there; numbered ones may go on, further ones do no harm."""

SEX = {"1": "M", "2": "F"}
RACE = {"1": "white", "2": "black", "3": "other", "5": "hispanic"}


class DeSynPuf:
    """Reader of the CMS DE-SynPUF."""

    name = "desynpuf"
    about = "CMS DE-SynPUF CSV files"

    def sources(self, folder: Path) -> Sequence[SourceFile]:
        if not (folder / "bene.csv").is_file():
            raise SourceRefused(
                "The source folder has no bene.csv.",
                hint="A DE-SynPUF folder has bene.csv and inpatient, outpatient, carrier and pde files.",
            )
        paths = [(kind, folder / f"{kind}.csv") for kind in FILES]
        return [source_file(folder, path, kind) for kind, path in paths if path.is_file()]

    def origin(self, folder: Path) -> dict[str, Any]:
        return {"synthetic": True, "generator": "CMS 2008-2010 DE-SynPUF"}

    def read(self, file: SourceFile, number: int, stage: Stage) -> None:
        load_csv(file, number, stage, LOADED, FILES[file.kind])
        columns = csv_header(file)
        try:
            if file.kind == "bene":
                _beneficiaries(stage)
            elif file.kind == "carrier":
                read_carrier(stage, columns, ORGANISATION)
            elif file.kind == "pde":
                read_prescriptions(stage, ORGANISATION)
            else:
                read_facility(stage, columns, file.kind, ORGANISATION)
        finally:
            stage.con.execute(f"DROP TABLE IF EXISTS {LOADED}; DROP TABLE IF EXISTS {JUDGED}")

    def records(self, file: SourceFile) -> pa.RecordBatchReader:
        return csv_records(file)


def _beneficiaries(stage: Stage) -> None:
    months = ("BENE_HI_CVRAGE_TOT_MONS", "BENE_SMI_CVRAGE_TOT_MONS", "PLAN_CVRG_MOS_NUM")
    impossible = " OR ".join(f"coalesce(wb_number({c}), 0) NOT BETWEEN 0 AND 12" for c in months)
    sex = mapped("BENE_SEX_IDENT_CD", SEX)
    judge(
        stage,
        [
            ("wb_text(DESYNPUF_ID) IS NULL", "no member id"),
            (unreadable("wb_day", ("BENE_BIRTH_DT", "BENE_DEATH_DT")), "bad date"),
            ("wb_number(BENE_YEAR) IS NULL OR wb_number(BENE_YEAR) NOT BETWEEN 1966 AND 2099", "bad year"),
            (unreadable("wb_number", months), "bad number"),
            (impossible, "more than twelve months in a year"),
            (f"wb_text(BENE_SEX_IDENT_CD) IS NOT NULL AND {sex} IS NULL", "unknown sex"),
            (
                """row_number() OVER (PARTITION BY trim(DESYNPUF_ID), wb_number(BENE_YEAR)
                ORDER BY source_row) > 1""",
                "second row of one person and year",
            ),
        ],
    )
    state = "lpad(regexp_replace(trim(SP_STATE_CODE), '[.]0+$', ''), 2, '0')"
    stage.insert(
        "member",
        f"""SELECT source_file, source_row, trim(DESYNPUF_ID) AS member_id,
          make_date(wb_number(BENE_YEAR)::INTEGER, 12, 31) AS reported, wb_day(BENE_BIRTH_DT) AS birth_date,
          wb_day(BENE_DEATH_DT) AS death_date, coalesce({sex}, 'U') AS sex,
          {mapped("BENE_RACE_CD", RACE, "'unknown'")} AS race, {mapped(state, BY_SSA_CODE)} AS state
        FROM {JUDGED}""",
    )
    stage.insert("eligibility", _COVERAGE)


_COVERAGE = f"""
WITH years AS (
  SELECT source_file, source_row, trim(DESYNPUF_ID) AS member_id, wb_number(BENE_YEAR)::INTEGER AS year,
    max(wb_day(BENE_DEATH_DT)) OVER (PARTITION BY trim(DESYNPUF_ID)) AS death,
    greatest(coalesce(wb_number(BENE_HI_CVRAGE_TOT_MONS), 0),
      coalesce(wb_number(BENE_SMI_CVRAGE_TOT_MONS), 0))::INTEGER AS medical,
    coalesce(wb_number(PLAN_CVRG_MOS_NUM), 0)::INTEGER AS pharmacy
  FROM {JUDGED}),
kinds AS (
  SELECT * EXCLUDE (medical, pharmacy), 'medical' AS kind, medical AS months FROM years
  UNION ALL SELECT * EXCLUDE (medical, pharmacy), 'pharmacy', pharmacy FROM years),
around AS (
  SELECT k.*, coalesce(before.months, 0) AS months_before, coalesce(after.months, 0) AS months_after
  FROM kinds k
  LEFT JOIN kinds before ON before.member_id = k.member_id AND before.kind = k.kind AND before.year = k.year - 1
  LEFT JOIN kinds after ON after.member_id = k.member_id AND after.kind = k.kind AND after.year = k.year + 1),
placed AS (
  SELECT *, CASE
      WHEN year(death) = year THEN greatest(month(death) - months + 1, 1)
      WHEN months_before = 0 AND months_after > 0 THEN 13 - months
      ELSE 1 END AS first
  FROM around WHERE months > 0),
monthly AS (
  SELECT *, unnest(range(first, first + months)) AS month FROM placed)
SELECT source_file, source_row, member_id, '{ORGANISATION}' AS organisation_id,
  make_date(year, month::INTEGER, 1) AS start_date, last_day(make_date(year, month::INTEGER, 1)) AS end_date,
  bool_or(kind = 'medical') AS medical, bool_or(kind = 'pharmacy') AS pharmacy
FROM monthly GROUP BY ALL
"""
