"""The Tuva input layer: eligibility.csv, medical_claim.csv and pharmacy_claim.csv.

Source: the Tuva Project's published input layer (Apache-2.0), versions with `patient_id`. Our rules where it leaves
room:

- the member is `patient_id`; `member_id` (the payer's) is not used
- the plan is the span's `payer`; a claim belongs to the plan that covered its first day, if that was one
- the layout has neither versions nor refusals: every claim is version 1 and paid
- a span without an end lasts: it is closed on LASTING
- coverage is medical; the layout does not tell pharmacy or behavioral coverage, both stay empty
- `refills` is the number allowed, not the number of this fill: not used
- states come as names or postal codes; there are no county codes
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.lake.layouts import SourceFile, SourceRefused
from workbench.lake.layouts.files import csv_header, csv_records, load_csv, source_file
from workbench.lake.layouts.judge import JUDGED, LOADED, code_list, judge, mapped, procedure_list, unreadable
from workbench.lake.layouts.native import Native
from workbench.lake.layouts.ndc import NAME as NDC_MAP
from workbench.lake.layouts.ndc import read_ndc_map
from workbench.lake.layouts.us_states import BY_NAME

if TYPE_CHECKING:
    import pyarrow as pa

    from workbench.lake.layouts.stage import Stage

LASTING = "9999-12-31"
MOST_CODES = 25

_ELIGIBILITY = """patient_id gender race birth_date death_date enrollment_start_date enrollment_end_date payer
    first_name last_name address city state zip_code phone"""
_MEDICAL = """claim_id claim_line_number patient_id claim_start_date claim_end_date claim_line_start_date
    claim_line_end_date admission_date discharge_date discharge_disposition_code place_of_service_code
    bill_type_code ms_drg_code revenue_center_code service_unit_quantity hcpcs_code hcpcs_modifier_1
    hcpcs_modifier_2 hcpcs_modifier_3 hcpcs_modifier_4 rendering_npi billing_npi paid_date paid_amount
    allowed_amount charge_amount diagnosis_code_type diagnosis_code_1 procedure_code_type procedure_code_1
    procedure_date_1 data_source"""
_PHARMACY = """claim_id claim_line_number patient_id prescribing_provider_npi dispensing_provider_npi
    dispensing_date ndc_code quantity days_supply paid_date paid_amount allowed_amount data_source"""
FILES = {
    "eligibility": tuple(_ELIGIBILITY.split()),
    "medical_claim": tuple(_MEDICAL.split()),
    "pharmacy_claim": tuple(_PHARMACY.split()),
}
"""File -> the columns that must be there; further ones do no harm."""
REQUIRED_FILES = ("eligibility", "medical_claim")

SEX = {"MALE": "M", "FEMALE": "F", "M": "M", "F": "F", "UNKNOWN": "U", "OTHER": "U", "": "U"}
RACE = {
    "WHITE": "white",
    "BLACK": "black",
    "BLACK OR AFRICAN AMERICAN": "black",
    "ASIAN": "asian",
    "HISPANIC": "hispanic",
    "AMERICAN INDIAN OR ALASKA NATIVE": "aian",
    "NORTH AMERICAN NATIVE": "aian",
    "NATIVE HAWAIIAN OR OTHER PACIFIC ISLANDER": "nhpi",
    "OTHER": "other",
    "OTHER RACE": "other",
}
DIAGNOSIS_SYSTEMS = {"ICD-10-CM": "ICD-10-CM", "ICD-9-CM": "ICD-9-CM"}
PROCEDURE_SYSTEMS = {"ICD-10-PCS": "ICD-10-PCS", "ICD-9-PCS": "ICD-9-PCS", "ICD-9-CM": "ICD-9-PCS"}


class Tuva:
    """Reader of the Tuva input layer."""

    name = "tuva"
    about = "Tuva input layer CSV files"

    def sources(self, folder: Path) -> Sequence[SourceFile]:
        missing = [f"{name}.csv" for name in REQUIRED_FILES if not (folder / f"{name}.csv").is_file()]
        if missing:
            raise SourceRefused(
                f"The source folder has no {', '.join(missing)}.",
                hint="A Tuva input layer has eligibility.csv, medical_claim.csv and pharmacy_claim.csv.",
            )
        paths = [(name, folder / f"{name}.csv") for name in FILES]
        paths.append(("ndc_ingredients", folder / NDC_MAP))
        return [source_file(folder, path, name) for name, path in paths if path.is_file()]

    def origin(self, folder: Path) -> dict[str, Any]:
        """As `sources.json` says, if there is one; data in this layout are real unless it says otherwise."""
        return Native().origin(folder)

    def read(self, file: SourceFile, number: int, stage: Stage) -> None:
        if file.path.name == NDC_MAP:
            read_ndc_map(file, number, stage)
            return
        load_csv(file, number, stage, LOADED, FILES[file.kind])
        try:
            {"eligibility": _eligibility, "medical_claim": _medical, "pharmacy_claim": _pharmacy}[file.kind](
                stage, csv_header(file)
            )
        finally:
            stage.con.execute(f"DROP TABLE IF EXISTS {LOADED}; DROP TABLE IF EXISTS {JUDGED}")

    def records(self, file: SourceFile) -> pa.RecordBatchReader:
        return csv_records(file)


def _eligibility(stage: Stage, columns: Sequence[str]) -> None:
    dates = ("birth_date", "death_date", "enrollment_start_date", "enrollment_end_date")
    sex = mapped("gender", SEX, "CASE WHEN gender IS NULL THEN 'U' END")
    judge(
        stage,
        [
            ("wb_text(patient_id) IS NULL", "no member id"),
            ("wb_text(payer) IS NULL", "no plan id"),
            (unreadable("wb_day", dates), "bad date"),
            ("wb_day(enrollment_start_date) IS NULL", "no start date"),
            ("wb_day(enrollment_end_date) < wb_day(enrollment_start_date)", "dates in the wrong order"),
            (f"{sex} IS NULL", "unknown sex"),
        ],
    )
    stage.insert(
        "eligibility",
        f"""SELECT source_file, source_row, trim(patient_id) AS member_id, trim(payer) AS organisation_id,
          wb_day(enrollment_start_date) AS start_date,
          coalesce(wb_day(enrollment_end_date), DATE '{LASTING}') AS end_date, true AS medical FROM {JUDGED}""",
    )
    name = "upper(trim(regexp_replace(state, '[(].*[)]', '')))"
    postal = mapped("regexp_replace(state, '[(].*[)]', '')", BY_NAME)
    known = ", ".join(f"'{code}'" for code in sorted(set(BY_NAME.values())))
    stage.insert(
        "member",
        f"""SELECT source_file, source_row, trim(patient_id) AS member_id,
          wb_day(enrollment_start_date) AS reported, wb_text(last_name) AS last_name,
          wb_text(first_name) AS first_name, wb_day(birth_date) AS birth_date, wb_day(death_date) AS death_date,
          {sex} AS sex, {mapped("race", RACE, "'unknown'")} AS race, wb_text(address) AS street,
          wb_text(city) AS city, CASE WHEN {name} IN ({known}) THEN {name} ELSE {postal} END AS state,
          nullif(left(regexp_replace(zip_code, '[^0-9]', '', 'g'), 5), '') AS zip, wb_text(phone) AS phone
        FROM {JUDGED}""",
    )


def _plan(day: str) -> str:
    """SQL: the plan of the row's member on a day, if there was just one."""
    return f"""(SELECT CASE WHEN min(e.organisation_id) = max(e.organisation_id) THEN min(e.organisation_id) END
        FROM stage.eligibility e WHERE e.member_id = trim({JUDGED}.patient_id)
          AND {day} BETWEEN e.start_date AND e.end_date)"""


def _numbered(columns: Sequence[str], prefix: str) -> list[int]:
    return [n for n in range(1, MOST_CODES + 1) if f"{prefix}_{n}" in columns]


def _medical(stage: Stage, columns: Sequence[str]) -> None:
    diagnoses, procedures = _numbered(columns, "diagnosis_code"), _numbered(columns, "procedure_code")
    procedure_days = [n for n in procedures if f"procedure_date_{n}" in columns]
    dates = [name for name in FILES["medical_claim"] if name.endswith("_date")] + [
        f"procedure_date_{n}" for n in procedure_days
    ]
    diagnosis_system = mapped("diagnosis_code_type", DIAGNOSIS_SYSTEMS)
    procedure_system = mapped("procedure_code_type", PROCEDURE_SYSTEMS)
    any_diagnosis = " OR ".join(f"wb_code(diagnosis_code_{n}) IS NOT NULL" for n in diagnoses)
    any_procedure = " OR ".join(f"wb_code(procedure_code_{n}) IS NOT NULL" for n in procedures)
    judge(
        stage,
        [
            ("wb_text(claim_id) IS NULL", "no claim id"),
            ("wb_text(patient_id) IS NULL", "no member id"),
            ("wb_integer(claim_line_number) IS NULL", "bad number"),
            (unreadable("wb_day", dates), "bad date"),
            ("wb_day(claim_start_date) IS NULL", "no start date"),
            ("wb_day(claim_end_date) < wb_day(claim_start_date)", "dates in the wrong order"),
            (unreadable("wb_money", ("paid_amount", "allowed_amount", "charge_amount")), "bad number"),
            (unreadable("wb_number", ("service_unit_quantity",)), "bad number"),
            (f"({any_diagnosis}) AND {diagnosis_system} IS NULL", "unknown diagnosis code type"),
            (f"({any_procedure}) AND {procedure_system} IS NULL", "unknown procedure code type"),
        ],
    )
    coded = code_list(
        ("principal" if n == 1 else "other", n, diagnosis_system, f"wb_code(diagnosis_code_{n})")
        for n in diagnoses
    )
    operated = procedure_list(
        (
            n,
            procedure_system,
            f"wb_code(procedure_code_{n})",
            f"wb_day(procedure_date_{n})" if n in procedure_days else "NULL::DATE",
        )
        for n in procedures
    )
    stage.insert(
        "medical_line",
        f"""SELECT source_file, source_row, trim(claim_id) AS claim_id, 1 AS version,
          trim(patient_id) AS member_id, {_plan("wb_day(claim_start_date)")} AS organisation_id,
          wb_text(data_source) AS submitter_id, 'paid' AS claim_status,
          wb_day(claim_start_date) AS claim_from_date, wb_day(claim_end_date) AS claim_through_date,
          wb_day(admission_date) AS admission_date, wb_day(discharge_date) AS discharge_date,
          {_padded("discharge_disposition_code", 2)} AS discharge_status, {_padded("bill_type_code", 4)} AS bill_type,
          {_padded("ms_drg_code", 3)} AS ms_drg, wb_text(billing_npi) AS billing_npi,
          wb_day(paid_date) AS paid_date, wb_integer(claim_line_number) AS line_number,
          wb_day(claim_line_start_date) AS from_date, wb_day(claim_line_end_date) AS through_date,
          {_padded("place_of_service_code", 2)} AS place_of_service,
          {_padded("revenue_center_code", 4)} AS revenue_code, wb_code(hcpcs_code) AS procedure_code,
          wb_code(hcpcs_modifier_1) AS modifier_1, wb_code(hcpcs_modifier_2) AS modifier_2,
          wb_code(hcpcs_modifier_3) AS modifier_3, wb_code(hcpcs_modifier_4) AS modifier_4,
          wb_number(service_unit_quantity) AS units, wb_money(charge_amount) AS charge_amount,
          wb_money(paid_amount) AS paid_amount, wb_money(allowed_amount) AS allowed_amount,
          wb_text(rendering_npi) AS rendering_npi, {coded} AS diagnoses, {operated} AS procedures
        FROM {JUDGED}""",
    )


def _pharmacy(stage: Stage, columns: Sequence[str]) -> None:
    judge(
        stage,
        [
            ("wb_text(claim_id) IS NULL", "no claim id"),
            ("wb_text(patient_id) IS NULL", "no member id"),
            (unreadable("wb_day", ("dispensing_date", "paid_date")), "bad date"),
            ("wb_day(dispensing_date) IS NULL", "no fill date"),
            ("wb_integer(claim_line_number) IS NULL", "bad number"),
            (unreadable("wb_money", ("paid_amount", "allowed_amount")), "bad number"),
            (unreadable("wb_number", ("quantity", "days_supply")), "bad number"),
        ],
    )
    stage.insert(
        "pharmacy_line",
        f"""SELECT source_file, source_row, trim(claim_id) AS claim_id, 1 AS version,
          wb_integer(claim_line_number) AS line_number, trim(patient_id) AS member_id,
          {_plan("wb_day(dispensing_date)")} AS organisation_id, wb_text(data_source) AS submitter_id,
          'paid' AS claim_status, wb_day(dispensing_date) AS fill_date, wb_day(paid_date) AS paid_date,
          wb_ndc(ndc_code) AS ndc, wb_number(quantity) AS quantity,
          wb_number(days_supply)::INTEGER AS days_supply, wb_money(paid_amount) AS paid_amount,
          wb_money(allowed_amount) AS allowed_amount, wb_text(prescribing_provider_npi) AS prescriber_npi,
          wb_text(dispensing_provider_npi) AS pharmacy_npi
        FROM {JUDGED}""",
    )


def _padded(column: str, width: int) -> str:
    return f"lpad(wb_code({column}), greatest({width}, length(wb_code({column})))::INTEGER, '0')"
