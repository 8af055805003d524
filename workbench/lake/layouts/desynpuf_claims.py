"""The claim files of the CMS DE-SynPUF. The rules are in desynpuf.py."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.lake.layouts.judge import JUDGED, code_list, judge, procedure_list, unreadable

if TYPE_CHECKING:
    from workbench.lake.layouts.stage import Stage

BILL_TYPES = {"inpatient": "0111", "outpatient": "0131"}
PAID_INDICATORS = ("A", "R", "S")
"""LINE_PRCSG_IND_CD: allowed; reprocessed; secondary payer. The others refuse the line in one way or another."""
PROCEDURE_SHAPE = "^[0-9]{3,4}$"
LINES_PER_SEGMENT = 100
_ICD_9, _ICD_9_PROCEDURES = "'ICD-9-CM'", "'ICD-9-PCS'"


def numbers(columns: Sequence[str], prefix: str) -> list[int]:
    """The numbers n for which there is a column <prefix>_n."""
    found = (re.fullmatch(rf"{prefix}_(\d+)", column) for column in columns)
    return sorted(int(match.group(1)) for match in found if match)


def _header_rules(dates: Sequence[str], amounts: Sequence[str]) -> list[tuple[str, str]]:
    return [
        ("wb_text(CLM_ID) IS NULL", "no claim id"),
        ("wb_text(DESYNPUF_ID) IS NULL", "no member id"),
        (unreadable("wb_day", dates), "bad date"),
        ("wb_day(CLM_THRU_DT) < wb_day(CLM_FROM_DT)", "dates in the wrong order"),
        (unreadable("wb_money", amounts), "bad number"),
    ]


def read_facility(stage: Stage, columns: Sequence[str], kind: str, organisation: str) -> None:
    """Inpatient or outpatient claims: a row is a segment of a claim, its HCPCS codes are the lines."""
    inpatient = kind == "inpatient"
    dates = ["CLM_FROM_DT", "CLM_THRU_DT", *(["CLM_ADMSN_DT", "NCH_BENE_DSCHRG_DT"] if inpatient else [])]
    judge(
        stage,
        [
            *_header_rules(dates, ["CLM_PMT_AMT"]),
            ("wb_number(SEGMENT) IS NULL OR wb_number(SEGMENT) < 1", "bad number"),
            ("wb_number(SEGMENT) = 1 AND wb_day(CLM_FROM_DT) IS NULL", "no start date"),
            (
                """wb_day(CLM_FROM_DT) IS NULL AND count(wb_day(CLM_FROM_DT)) OVER (PARTITION BY trim(CLM_ID)) = 0""",
                "segment without its claim",
            ),
            *(
                [("wb_day(NCH_BENE_DSCHRG_DT) < wb_day(CLM_ADMSN_DT)", "dates in the wrong order")]
                if inpatient
                else []
            ),
        ],
    )
    lines = ", ".join(f"wb_code(HCPCS_CD_{n})" for n in numbers(columns, "HCPCS_CD"))
    diagnoses = code_list(
        [
            *(
                ("principal" if n == 1 else "other", n, _ICD_9, f"wb_code(ICD9_DGNS_CD_{n})")
                for n in numbers(columns, "ICD9_DGNS_CD")
            ),
            ("admitting", 1, _ICD_9, "wb_code(ADMTNG_ICD9_DGNS_CD)"),
        ]
    )
    procedures = procedure_list(
        (n, _ICD_9_PROCEDURES, _procedure(f"ICD9_PRCDR_CD_{n}"), "wb_day(CLM_FROM_DT)")
        for n in numbers(columns, "ICD9_PRCDR_CD")
    )
    stay = (
        """wb_day(CLM_ADMSN_DT) AS admission_date, wb_day(NCH_BENE_DSCHRG_DT) AS discharge_date,
        CASE WHEN wb_code(CLM_DRG_CD) IS NOT NULL THEN lpad(wb_code(CLM_DRG_CD), 3, '0') END AS ms_drg,"""
        if inpatient
        else ""
    )
    stage.insert(
        "medical_line",
        f"""WITH segments AS (
          SELECT *, min(wb_day(CLM_FROM_DT)) OVER claim AS claim_first, max(wb_day(CLM_THRU_DT)) OVER claim AS claim_last,
            list_filter([{lines}], lambda code: code IS NOT NULL) AS codes
          FROM {JUDGED} WINDOW claim AS (PARTITION BY trim(CLM_ID))),
        lines AS (
          SELECT *, unnest(range(1, greatest(len(codes), 1) + 1)) AS place FROM segments)
        SELECT source_file, source_row, trim(CLM_ID) AS claim_id, 1 AS version, trim(DESYNPUF_ID) AS member_id,
          '{organisation}' AS organisation_id, '{organisation}' AS submitter_id, 'paid' AS claim_status,
          claim_first AS claim_from_date, claim_last AS claim_through_date, {stay}
          '{BILL_TYPES[kind]}' AS bill_type,
          ((wb_number(SEGMENT)::INTEGER - 1) * {LINES_PER_SEGMENT} + place)::INTEGER AS line_number,
          codes[place] AS procedure_code, wb_text(AT_PHYSN_NPI) AS rendering_npi,
          CASE WHEN place = 1 AND wb_number(SEGMENT) = 1 THEN wb_money(CLM_PMT_AMT) END AS paid_amount,
          {diagnoses} AS diagnoses, {procedures} AS procedures
        FROM lines""",
    )


def _procedure(column: str) -> str:
    return f"CASE WHEN regexp_matches(wb_code({column}), '{PROCEDURE_SHAPE}') THEN wb_code({column}) END"


def read_carrier(stage: Stage, columns: Sequence[str], organisation: str) -> None:
    """Professional claims: one row is a claim with its lines side by side; empty places are no lines."""
    places = numbers(columns, "HCPCS_CD")
    money = [
        f"{name}_{n}"
        for n in places
        for name in ("LINE_NCH_PMT_AMT", "LINE_ALOWD_CHRG_AMT")
        if f"{name}_{n}" in columns
    ]
    judge(
        stage,
        [
            *_header_rules(["CLM_FROM_DT", "CLM_THRU_DT"], money),
            ("wb_day(CLM_FROM_DT) IS NULL", "no start date"),
        ],
    )

    def given(name: str, place: int, macro: str = "wb_text") -> str:
        return f"{macro}({name}_{place})" if f"{name}_{place}" in columns else "NULL"

    lines = ", ".join(
        f"""{{'place': {n}, 'code': {given("HCPCS_CD", n, "wb_code")}, 'npi': {given("PRF_PHYSN_NPI", n)},
        'tax': {given("TAX_NUM", n)}, 'indicator': {given("LINE_PRCSG_IND_CD", n)},
        'dx': {given("LINE_ICD9_DGNS_CD", n, "wb_code")}, 'paid': {given("LINE_NCH_PMT_AMT", n, "wb_money")},
        'allowed': {given("LINE_ALOWD_CHRG_AMT", n, "wb_money")}}}"""
        for n in places
    )
    header_numbers = numbers(columns, "ICD9_DGNS_CD")
    header = code_list(
        ("principal" if n == 1 else "other", n, _ICD_9, f"wb_code(ICD9_DGNS_CD_{n})") for n in header_numbers
    )
    known = ", ".join(f"wb_code(ICD9_DGNS_CD_{n})" for n in header_numbers)
    paid = ", ".join(f"'{indicator}'" for indicator in PAID_INDICATORS)
    stage.insert(
        "medical_line",
        f"""WITH claims AS (
          SELECT *, list_filter([{lines}], lambda l: l.place = 1
            OR coalesce(l.code, l.npi, l.tax, l.indicator, l.dx) IS NOT NULL) AS used,
            {header} AS header, [{known}] AS known
          FROM {JUDGED}),
        lines AS (SELECT *, unnest(used) AS line FROM claims)
        SELECT source_file, source_row, trim(CLM_ID) AS claim_id, 1 AS version, trim(DESYNPUF_ID) AS member_id,
          '{organisation}' AS organisation_id, '{organisation}' AS submitter_id,
          CASE WHEN coalesce(line.indicator, 'A') IN ({paid}) THEN 'paid' ELSE 'denied' END AS claim_status,
          wb_day(CLM_FROM_DT) AS claim_from_date, wb_day(CLM_THRU_DT) AS claim_through_date,
          line.place::INTEGER AS line_number, line.code AS procedure_code, line.npi AS rendering_npi,
          line.paid AS paid_amount, line.allowed AS allowed_amount,
          CASE WHEN line.dx IS NULL OR list_contains(known, line.dx) THEN header
            ELSE list_append(header, {{'role': 'other', 'position': {max(header_numbers)} + line.place,
              'code_system': {_ICD_9}, 'code': line.dx}}) END AS diagnoses
        FROM lines""",
    )


def read_prescriptions(stage: Stage, organisation: str) -> None:
    """Part D events: one row is one fill."""
    money = ("PTNT_PAY_AMT", "TOT_RX_CST_AMT")
    judge(
        stage,
        [
            ("wb_text(PDE_ID) IS NULL", "no claim id"),
            ("wb_text(DESYNPUF_ID) IS NULL", "no member id"),
            (unreadable("wb_day", ("SRVC_DT",)), "bad date"),
            ("wb_day(SRVC_DT) IS NULL", "no fill date"),
            (unreadable("wb_number", ("QTY_DSPNSD_NUM", "DAYS_SUPLY_NUM")), "bad number"),
            (unreadable("wb_money", money), "bad number"),
        ],
    )
    stage.insert(
        "pharmacy_line",
        f"""SELECT source_file, source_row, trim(PDE_ID) AS claim_id, 1 AS version, 1 AS line_number,
          trim(DESYNPUF_ID) AS member_id, '{organisation}' AS organisation_id, '{organisation}' AS submitter_id,
          'paid' AS claim_status, wb_day(SRVC_DT) AS fill_date,
          CASE WHEN length(wb_ndc(PROD_SRVC_ID)) = 11 THEN wb_ndc(PROD_SRVC_ID) END AS ndc,
          wb_number(QTY_DSPNSD_NUM) AS quantity, wb_number(DAYS_SUPLY_NUM)::INTEGER AS days_supply,
          wb_money(TOT_RX_CST_AMT) AS allowed_amount,
          wb_money(TOT_RX_CST_AMT) - coalesce(wb_money(PTNT_PAY_AMT), 0) AS paid_amount
        FROM {JUDGED}""",
    )
