"""Two layouts written by others, read as they are: what is kept, what is set aside, and that nothing is lost."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from workbench.lake import checks, release
from workbench.lake.layouts import SourceRefused, layout
from workbench.lake.layouts import desynpuf as desynpuf_layout
from workbench.lake.layouts import tuva as tuva_layout
from workbench.lake.layouts.stage import Stage

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "claims"
TUVA, SYNPUF = SHARED / "tuva_demo_2023", SHARED / "desynpuf_500"


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]], extra: str = "") -> None:
    """A CSV file with these columns, and `extra` as one more that nobody asks for."""
    names = [*columns, extra] if extra else list(columns)
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, names)
        writer.writeheader()
        writer.writerows({name: row.get(name, "") for name in names} for row in rows)


def read(name: str, folder: Path) -> tuple[Stage, dict[str, tuple[int, int, Mapping[str, int]]]]:
    """The stage after reading, and rows, kept and set aside by file."""
    reader, stage = layout(name), Stage(duckdb.connect())
    files = reader.sources(folder)
    for number, file in enumerate(files):
        reader.read(file, number, stage)
    return stage, {file.kind: checks.accounting(stage, number) for number, file in enumerate(files)}


def rows(stage: Stage, sql: str) -> list[Any]:
    return stage.con.sql(sql).fetchall()


def tuva_folder(folder: Path, **tables: Sequence[Mapping[str, str]]) -> Path:
    for kind, columns in tuva_layout.FILES.items():
        more = ["diagnosis_code_2"] if kind == "medical_claim" else []
        write_csv(folder / f"{kind}.csv", [*columns, *more], tables.get(kind, ()), extra="file_name")
    return folder


def synpuf_folder(folder: Path, **tables: Sequence[Mapping[str, str]]) -> Path:
    for kind, columns in desynpuf_layout.FILES.items():
        more = {
            "inpatient": ["ICD9_DGNS_CD_2", "ICD9_PRCDR_CD_2", "HCPCS_CD_2"],
            "carrier": ["HCPCS_CD_2", "LINE_ICD9_DGNS_CD_2", "LINE_PRCSG_IND_CD_2", "LINE_NCH_PMT_AMT_2"],
        }.get(kind, [])
        write_csv(folder / f"{kind}.csv", [*columns, *more], tables.get(kind, ()), extra="SP_CHF")
    return folder


PERSON = {
    "patient_id": "p1",
    "gender": "female",
    "race": "black",
    "birth_date": "1950-02-03",
    "enrollment_start_date": "2023-01-01",
    "enrollment_end_date": "2023-12-31",
    "payer": "acme",
    "state": "Ohio (eff. 10/2005)",
}
CLAIM = {
    "claim_id": "c1",
    "claim_line_number": "1",
    "patient_id": "p1",
    "claim_start_date": "2023-03-01",
    "claim_end_date": "2023-03-04",
    "bill_type_code": "131",
    "ms_drg_code": "65",
    "discharge_disposition_code": "1",
    "hcpcs_code": "99213",
    "charge_amount": "10.50",
    "diagnosis_code_type": "icd-10-cm",
    "diagnosis_code_1": "f32.9",
    "diagnosis_code_2": "I10",
}
BENEFICIARY = {
    "BENE_YEAR": "2008.0",
    "DESYNPUF_ID": "A1",
    "BENE_BIRTH_DT": "1940-05-01",
    "BENE_SEX_IDENT_CD": "2",
    "BENE_RACE_CD": "5",
    "SP_STATE_CODE": "05",
    "BENE_HI_CVRAGE_TOT_MONS": "12.0",
    "BENE_SMI_CVRAGE_TOT_MONS": "12.0",
    "PLAN_CVRG_MOS_NUM": "00",
}


@pytest.mark.shared
@pytest.mark.skipif(not TUVA.is_dir(), reason="needs ../shared/data/claims/tuva_demo_2023")
def test_the_tuva_demo_becomes_a_release_with_every_row_accounted(tmp_path: Path) -> None:
    built = release.build(TUVA, tmp_path / "lake", layout="tuva")
    account = {s["kind"]: (s["rows"], s["kept"], s["set_aside"]) for s in built.manifest["sources"]}
    assert account == {
        "eligibility": (219, 219, {}),
        "medical_claim": (6075, 6075, {}),
        "pharmacy_claim": (612, 612, {}),
    }
    count = {name: table["rows"] for name, table in built.manifest["tables"].items()}
    assert (count["member"], count["medical_claim"], count["medical_claim_line"]) == (100, 3106, 6075)
    with (TUVA / "medical_claim.csv").open(newline="") as handle:
        billed = sum(Decimal(row["charge_amount"] or "0") for row in csv.DictReader(handle))
    lines = built.relation("medical_claim_line")
    assert duckdb.sql(f"SELECT sum(charge_amount) FROM {lines}").fetchall() == [(billed,)]
    unmapped = (
        f"SELECT count(*) FROM {built.relation('member')} WHERE state IS NULL OR sex IS NULL OR race IS NULL"
    )
    assert duckdb.sql(unmapped).fetchall() == [(0,)]


@pytest.mark.shared
@pytest.mark.skipif(not SYNPUF.is_dir(), reason="needs ../shared/data/claims/desynpuf_500")
def test_the_desynpuf_becomes_a_release_with_every_row_accounted(tmp_path: Path) -> None:
    built = release.build(SYNPUF, tmp_path / "lake", layout="desynpuf")
    account = {s["kind"]: (s["rows"], s["kept"], s["set_aside"]) for s in built.manifest["sources"]}
    assert account == {
        "bene": (998, 998, {}),
        "inpatient": (225, 225, {}),
        "outpatient": (2827, 2827, {}),
        "carrier": (16677, 16677, {}),
        "pde": (17443, 17443, {}),
    }
    assert built.synthetic
    count = {name: table["rows"] for name, table in built.manifest["tables"].items()}
    assert (count["member"], count["medical_claim"], count["pharmacy_claim"]) == (
        500,
        225 + 2827 + 16677,
        17443,
    )
    systems = f"SELECT DISTINCT code_system FROM {built.relation('diagnosis')}"
    assert duckdb.sql(systems).fetchall() == [("ICD-9-CM",)]
    with (SYNPUF / "bene.csv").open(newline="") as handle:
        months = sum(
            max(float(row["BENE_HI_CVRAGE_TOT_MONS"]), float(row["BENE_SMI_CVRAGE_TOT_MONS"]))
            for row in csv.DictReader(handle)
        )
    covered = f"""SELECT sum(datediff('month', start_date, end_date) + 1)
        FROM {built.relation("eligibility")} WHERE medical"""
    assert duckdb.sql(covered).fetchall() == [(months,)]


def test_a_tuva_claim_keeps_its_codes_dates_and_plan(tmp_path: Path) -> None:
    stage, account = read("tuva", tuva_folder(tmp_path, eligibility=[PERSON], medical_claim=[CLAIM]))
    assert account["medical_claim"] == (1, 1, {})
    assert rows(
        stage,
        """SELECT organisation_id, claim_status, claim_from_date, claim_through_date, bill_type, ms_drg,
          discharge_status, procedure_code, charge_amount, [dx.code for dx in diagnoses],
          [dx.role for dx in diagnoses] FROM stage.medical_line""",
    ) == [
        (
            "acme",
            "paid",
            date(2023, 3, 1),
            date(2023, 3, 4),
            "0131",
            "065",
            "01",
            "99213",
            Decimal("10.50"),
            ["F329", "I10"],
            ["principal", "other"],
        )
    ]
    assert rows(stage, "SELECT sex, race, state FROM stage.member") == [("F", "black", "OH")]


def test_tuva_rows_that_cannot_be_mapped_are_set_aside_each_with_its_reason(tmp_path: Path) -> None:
    claims = [
        CLAIM,
        CLAIM | {"claim_line_number": "2", "claim_start_date": "2023-02-30"},
        CLAIM | {"claim_line_number": "3", "claim_end_date": "2023-02-01"},
        CLAIM | {"claim_line_number": "x"},
        CLAIM | {"claim_line_number": "5", "charge_amount": "ten"},
        CLAIM | {"claim_line_number": "6", "diagnosis_code_type": "snomed"},
        CLAIM | {"claim_id": "", "claim_line_number": "7"},
    ]
    people = [PERSON, PERSON | {"gender": "f?"}, PERSON | {"payer": ""}]
    _, account = read("tuva", tuva_folder(tmp_path, eligibility=people, medical_claim=claims))
    assert account["medical_claim"] == (
        7,
        1,
        {
            "bad date": 1,
            "bad number": 2,
            "dates in the wrong order": 1,
            "no claim id": 1,
            "unknown diagnosis code type": 1,
        },
    )
    assert account["eligibility"] == (3, 1, {"no plan id": 1, "unknown sex": 1})


def test_a_tuva_claim_under_two_plans_at_once_is_given_to_neither(tmp_path: Path) -> None:
    people = [PERSON, PERSON | {"payer": "other", "enrollment_start_date": "2023-06-01"}]
    claims = [
        CLAIM,
        CLAIM | {"claim_id": "c2", "claim_start_date": "2023-07-01", "claim_end_date": "2023-07-01"},
    ]
    stage, _ = read("tuva", tuva_folder(tmp_path, eligibility=people, medical_claim=claims))
    plans = rows(stage, "SELECT claim_id, organisation_id FROM stage.medical_line ORDER BY claim_id")
    assert plans == [("c1", "acme"), ("c2", None)]


def test_a_tuva_span_without_end_lasts_and_still_makes_a_release(tmp_path: Path) -> None:
    folder = tmp_path / "sources"
    folder.mkdir()
    tuva_folder(folder, eligibility=[PERSON | {"enrollment_end_date": ""}], medical_claim=[CLAIM])
    built = release.build(folder, tmp_path / "lake", layout="tuva", as_of=date(2023, 12, 31))
    spans = duckdb.sql(f"SELECT start_date, end_date FROM {built.relation('attribution')}").fetchall()
    assert spans == [(date(2023, 1, 1), None)]
    assert not built.synthetic


@pytest.mark.parametrize(
    ("name", "make", "kind", "column"),
    [
        ("tuva", tuva_folder, "medical_claim", "claim_start_date"),
        ("tuva", tuva_folder, "eligibility", "payer"),
        ("desynpuf", synpuf_folder, "carrier", "LINE_PRCSG_IND_CD_1"),
        ("desynpuf", synpuf_folder, "bene", "PLAN_CVRG_MOS_NUM"),
    ],
)
def test_a_missing_column_refuses_the_file_by_its_name(
    tmp_path: Path, name: str, make: Any, kind: str, column: str
) -> None:
    make(tmp_path)
    path = tmp_path / f"{kind}.csv"
    path.write_text(path.read_text().replace(column, "something_else"))
    with pytest.raises(SourceRefused) as refused:
        read(name, tmp_path)
    assert f"{kind}.csv has no column {column}." in refused.value.reason


@pytest.mark.parametrize(("name", "needed"), [("tuva", "eligibility.csv"), ("desynpuf", "bene.csv")])
def test_a_missing_file_is_named(tmp_path: Path, name: str, needed: str) -> None:
    with pytest.raises(SourceRefused, match=needed):
        layout(name).sources(tmp_path)


def year(number: int, months: str, **more: str) -> dict[str, str]:
    given = {"BENE_YEAR": f"{number}.0", "BENE_HI_CVRAGE_TOT_MONS": months, "BENE_SMI_CVRAGE_TOT_MONS": "0.0"}
    return BENEFICIARY | given | more


@pytest.mark.parametrize(
    ("why", "years", "expected"),
    [
        ("a full year", [year(2008, "12.0")], ("2008-01-01", "2008-12-31")),
        ("came late and stayed", [year(2008, "3.0"), year(2009, "12.0")], ("2008-10-01", "2009-12-31")),
        ("left early", [year(2008, "12.0"), year(2009, "4.0")], ("2008-01-01", "2009-04-30")),
        ("came and went in one year", [year(2008, "5.0"), year(2009, "0.0")], ("2008-01-01", "2008-05-31")),
        (
            "died in June with three months",
            [year(2008, "3.0", BENE_DEATH_DT="2008-06-01")],
            ("2008-04-01", "2008-06-30"),
        ),
    ],
)
def test_months_of_synpuf_coverage_are_placed_by_the_documented_rule(
    tmp_path: Path, why: str, years: list[dict[str, str]], expected: tuple[str, str]
) -> None:
    stage, account = read("desynpuf", synpuf_folder(tmp_path, bene=years))
    assert account["bene"][:2] == (len(years), len(years))
    span = rows(
        stage, "SELECT min(start_date), max(end_date), count(*) FROM stage.eligibility WHERE medical"
    )[0]
    assert tuple(str(day) for day in span[:2]) == expected, why
    assert span[2] == sum(float(one["BENE_HI_CVRAGE_TOT_MONS"]) for one in years)


def test_drug_coverage_alone_is_no_medical_coverage(tmp_path: Path) -> None:
    one = year(2008, "0.0", PLAN_CVRG_MOS_NUM="12")
    stage, _ = read("desynpuf", synpuf_folder(tmp_path, bene=[one]))
    assert rows(stage, "SELECT medical, pharmacy, count(*) FROM stage.eligibility GROUP BY ALL") == [
        (False, True, 12)
    ]
    assert rows(stage, "SELECT sex, race, state FROM stage.member") == [("F", "hispanic", "CA")]


def test_two_segments_are_one_claim_and_its_money_counts_once(tmp_path: Path) -> None:
    stay = {
        "DESYNPUF_ID": "A1",
        "CLM_ID": "7",
        "SEGMENT": "1.0",
        "CLM_FROM_DT": "2008-03-01",
        "CLM_THRU_DT": "2008-03-09",
        "CLM_ADMSN_DT": "20080301",
        "NCH_BENE_DSCHRG_DT": "20080309",
        "CLM_PMT_AMT": "5000.0",
        "CLM_DRG_CD": "65",
        "ADMTNG_ICD9_DGNS_CD": "2989",
        "ICD9_DGNS_CD_1": "29570",
        "ICD9_PRCDR_CD_1": "9444",
        "ICD9_PRCDR_CD_2": "V5866",
        "HCPCS_CD_1": "G0378",
        "HCPCS_CD_2": "99291",
    }
    second = stay | {
        "SEGMENT": "2.0",
        "CLM_FROM_DT": "",
        "CLM_THRU_DT": "",
        "HCPCS_CD_1": "",
        "HCPCS_CD_2": "",
    }
    alone = second | {"CLM_ID": "8"}
    folder = synpuf_folder(tmp_path, bene=[BENEFICIARY], inpatient=[stay, second, alone])
    stage, account = read("desynpuf", folder)
    assert account["inpatient"] == (3, 2, {"segment without its claim": 1})
    assert rows(
        stage,
        """SELECT line_number, procedure_code, paid_amount, claim_from_date, claim_through_date, ms_drg,
        bill_type, [px.code for px in procedures] FROM stage.medical_line ORDER BY line_number""",
    ) == [
        (1, "G0378", Decimal("5000.00"), date(2008, 3, 1), date(2008, 3, 9), "065", "0111", ["9444"]),
        (2, "99291", None, date(2008, 3, 1), date(2008, 3, 9), "065", "0111", ["9444"]),
        (101, None, None, date(2008, 3, 1), date(2008, 3, 9), "065", "0111", ["9444"]),
    ]


def test_carrier_places_become_lines_and_refused_ones_are_denied(tmp_path: Path) -> None:
    visit = {
        "DESYNPUF_ID": "A1",
        "CLM_ID": "9",
        "CLM_FROM_DT": "2008-03-01",
        "CLM_THRU_DT": "2008-03-01",
        "ICD9_DGNS_CD_1": "311",
        "HCPCS_CD_1": "99213",
        "LINE_PRCSG_IND_CD_1": "A",
        "LINE_NCH_PMT_AMT_1": "50.0",
        "HCPCS_CD_2": "90801",
        "LINE_PRCSG_IND_CD_2": "O",
        "LINE_ICD9_DGNS_CD_2": "29570",
    }
    single = visit | {"CLM_ID": "10", "HCPCS_CD_2": "", "LINE_PRCSG_IND_CD_2": "", "LINE_ICD9_DGNS_CD_2": ""}
    stage, account = read("desynpuf", synpuf_folder(tmp_path, bene=[BENEFICIARY], carrier=[visit, single]))
    assert account["carrier"] == (2, 2, {})
    assert rows(
        stage,
        """SELECT claim_id, line_number, procedure_code, claim_status, paid_amount, bill_type,
        [dx.code for dx in diagnoses] FROM stage.medical_line ORDER BY claim_id DESC, line_number""",
    ) == [
        ("9", 1, "99213", "paid", Decimal("50.00"), None, ["311"]),
        ("9", 2, "90801", "denied", None, None, ["311", "29570"]),
        ("10", 1, "99213", "paid", Decimal("50.00"), None, ["311"]),
    ]


def test_synpuf_rows_that_cannot_be_mapped_are_set_aside_each_with_its_reason(tmp_path: Path) -> None:
    fill = {
        "DESYNPUF_ID": "A1",
        "PDE_ID": "1",
        "SRVC_DT": "2008-12-20",
        "PROD_SRVC_ID": "49288010404",
        "QTY_DSPNSD_NUM": "30.0",
        "DAYS_SUPLY_NUM": "10.0",
        "PTNT_PAY_AMT": "4.0",
        "TOT_RX_CST_AMT": "10.0",
    }
    fills = [
        fill,
        fill | {"PDE_ID": "2", "SRVC_DT": "2008-13-20"},
        fill | {"PDE_ID": "3", "SRVC_DT": ""},
        fill | {"PDE_ID": "4", "QTY_DSPNSD_NUM": "many"},
    ]
    people = [
        BENEFICIARY,
        BENEFICIARY,
        BENEFICIARY | {"DESYNPUF_ID": "A2", "BENE_HI_CVRAGE_TOT_MONS": "13.0"},
        BENEFICIARY | {"DESYNPUF_ID": "A3", "BENE_YEAR": ""},
    ]
    stage, account = read("desynpuf", synpuf_folder(tmp_path, bene=people, pde=fills))
    assert account["pde"] == (4, 1, {"bad date": 1, "bad number": 1, "no fill date": 1})
    assert account["bene"] == (
        4,
        1,
        {"bad year": 1, "more than twelve months in a year": 1, "second row of one person and year": 1},
    )
    assert rows(
        stage, "SELECT quantity, days_supply, paid_amount, allowed_amount FROM stage.pharmacy_line"
    ) == [(Decimal("30.000"), 10, Decimal("6.00"), Decimal("10.00"))]
