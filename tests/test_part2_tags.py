"""Part 2: one hit of the dated list, a listed drug, place or program tags the whole claim; nothing else does."""

from __future__ import annotations

from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.lake_drop import Drop, year
from tests.lake_drop import fill as sent_fill
from tests.lake_drop import line as sent
from workbench.lake.release import build
from workbench.lake.sensitive import LINK_DAYS, sensitive_claims
from workbench.schema import dictionary
from workbench.schema.code_lists import code_list

CLAIM = {"claim_id": "c", "member_id": "m", "from_date": date(2025, 3, 10), "through_date": date(2025, 3, 12)}
FILL = {"claim_id": "p", "member_id": "m", "fill_date": date(2025, 3, 14)}
NDC = "99999000999"
MAP = pa.schema([("ndc", pa.string()), ("ingredient", pa.string())])


def schema_of(name: str) -> pa.Schema:
    return MAP if name == "ndc_ingredient" else dictionary()[name].arrow_schema


def tags(**tables: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """(kind, claim, reason) of every tag over the given rows; the other tables are empty."""
    con = duckdb.connect()
    for name in (
        "medical_claim",
        "medical_claim_line",
        "diagnosis",
        "procedure",
        "pharmacy_claim",
        "provider",
        "ndc_ingredient",
        "member",
        "organisation",
    ):
        con.register("given", pa.Table.from_pylist(tables.get(name, []), schema_of(name)))
        con.execute(f"CREATE TABLE {name} AS FROM given")
        con.unregister("given")
    sensitive_claims(con)
    found = con.execute("SELECT kind, claim_id, reason, category, member_id FROM sensitive_claim").fetchall()
    assert all(row[3:] == ("part2", "m") for row in found)
    return {row[:3] for row in found}


def claim(day: str = "2025-03-10", through: str | None = None, **more: Any) -> dict[str, Any]:
    first = date.fromisoformat(day)
    return {
        **CLAIM,
        "from_date": first,
        "through_date": date.fromisoformat(through) if through else first,
        **more,
    }


def dx(code: str, system: str = "ICD-10-CM", position: int = 2) -> dict[str, Any]:
    return {**CLAIM, "role": "other", "position": position, "code_system": system, "code": code}


def line(code: str | None = None, **more: Any) -> dict[str, Any]:
    return {**CLAIM, "line_number": 1, "procedure_code": code, **more}


def px(code: str, system: str) -> dict[str, Any]:
    return {"claim_id": "c", "member_id": "m", "position": 1, "code_system": system, "code": code}


HIT = [
    ("a diagnosis in any position", {"diagnosis": [dx("F1120", position=25)]}, "diagnosis"),
    ("an ICD-9 diagnosis as ICD-9", {"diagnosis": [dx("30390", "ICD-9-CM")]}, "diagnosis"),
    ("a poisoning by an opioid (addition)", {"diagnosis": [dx("T402X1A")]}, "diagnosis"),
    ("a poisoning by fentanyl as coded until 2020 (addition)", {"diagnosis": [dx("T404X1A")]}, "diagnosis"),
    ("an ICD-10 procedure", {"procedure": [px("HZ2ZZZZ", "ICD-10-PCS")]}, "procedure"),
    ("an ICD-9 procedure", {"procedure": [px("9461", "ICD-9-PCS")]}, "procedure"),
    ("a DRG", {"medical_claim": [claim(ms_drg="897")]}, "drg"),
    ("the DRG that CMS's list lacks", {"medical_claim": [claim(ms_drg="894")]}, "drg"),
    ("HCPCS H0034 on a line", {"medical_claim_line": [line("H0034")]}, "line"),
    ("CPT 99408 on a line", {"medical_claim_line": [line("99408")]}, "line"),
    ("an HCPCS that CMS's list lacks", {"medical_claim_line": [line("H0001")]}, "line"),
    ("counselling with the SUD modifier", {"medical_claim_line": [line("H0004", modifier_3="HF")]}, "line"),
    ("oral buprenorphine and naloxone, to 3 mg", {"medical_claim_line": [line("J0572")]}, "line"),
    ("oral buprenorphine and naloxone, to 6 mg", {"medical_claim_line": [line("J0573")]}, "line"),
    ("oral buprenorphine and naloxone, to 10 mg", {"medical_claim_line": [line("J0574")]}, "line"),
    ("oral buprenorphine and naloxone, over 10 mg", {"medical_claim_line": [line("J0575")]}, "line"),
    ("counselling that does not say of what", {"medical_claim_line": [line("H0004")]}, "unclear"),
    ("observed medication, with a telehealth modifier", {"medical_claim_line": [line("H0033", modifier_1="95")]}, "unclear"),
    ("peer support that does not say of what", {"medical_claim_line": [line("H0038")]}, "unclear"),
    ("crisis intervention that does not say of what", {"medical_claim_line": [line("H2011")]}, "unclear"),
    ("rehabilitation with another diagnosis", {"medical_claim_line": [line("H2017")],
                                              "diagnosis": [{**dx("Z590"), "role": "principal"}]}, "unclear"),
    ("the claim of a DMC-ODS", {"medical_claim": [claim(organisation_id="ods")],
                                "medical_claim_line": [line("T1017")],
                                "diagnosis": [{**dx("F322"), "role": "principal"}],
                                "organisation": [{"organisation_id": "ods", "kind": "dmc_ods"}]}, "delivery"),
    ("a claim that a DMC-ODS sent", {"medical_claim": [claim(submitter_id="ods")],
                                     "organisation": [{"organisation_id": "ods", "kind": "dmc_ods"}]}, "delivery"),
    ("any line with the opioid programme modifier", {"medical_claim_line": [line("99213", modifier_1="HG")]}, "line"),
    ("a place of SUD treatment", {"medical_claim_line": [line(place_of_service="57")]}, "delivery"),
    ("a revenue code of SUD treatment", {"medical_claim_line": [line(revenue_code="0945")]}, "line"),
    ("a taxonomy of an SUD facility", {"medical_claim_line": [line(rendering_taxonomy="261QM2800X")]}, "provider"),
    (
        "a drug given on a medical line",
        {"medical_claim_line": [line(ndc=NDC)], "ndc_ingredient": [{"ndc": NDC, "ingredient": "naltrexone"}]},
        "drug",
    ),
    (
        "a billing provider that is a Part 2 program",
        {"medical_claim": [claim(billing_npi="1")], "provider": [{"npi": "1", "part2_program": True}]},
        "provider",
    ),
    (
        "a rendering provider that is a Part 2 program",
        {"medical_claim_line": [line(rendering_npi="1")], "provider": [{"npi": "1", "part2_program": True}]},
        "provider",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("tables", "reason"), [(t, r) for _, t, r in HIT], ids=[name for name, _, _ in HIT])
def test_one_hit_tags_the_whole_claim(tables: dict[str, list[dict[str, Any]]], reason: str) -> None:
    assert tags(**{"medical_claim": [claim()], **tables}) == {("medical", "c", reason)}


MISS = [
    ("a diagnosis H0034 is not HCPCS H0034", {"diagnosis": [dx("H0034")]}),
    ("a line F1120 is not the diagnosis", {"medical_claim_line": [line("F1120")]}),
    ("an ICD-10 code called ICD-9", {"diagnosis": [dx("F1120", "ICD-9-CM")]}),
    ("a procedure code among diagnoses", {"diagnosis": [dx("HZ2ZZZZ")]}),
    ("the beginning of a code", {"diagnosis": [dx("F112")]}),
    ("nicotine is not on the list", {"diagnosis": [dx("F17210")]}),
    ("counselling of a mental health programme", {"medical_claim_line": [line("H0004", modifier_1="HE")]}),
    ("counselling of a depression", {"medical_claim_line": [line("H0004")],
                                     "diagnosis": [{**dx("F322"), "role": "principal"}]}),
    ("MS-DRG 522 after CMS-DRG 522 had ended", {"medical_claim": [claim(ms_drg="522")]}),
    ("a revenue code that looks like a DRG", {"medical_claim_line": [line(revenue_code="0897")]}),
    ("another drug on a medical line", {"medical_claim_line": [line(ndc=NDC)],
                                        "ndc_ingredient": [{"ndc": NDC, "ingredient": "sertraline"}]}),
    ("a provider that is no program", {"medical_claim": [claim(billing_npi="1")],
                                       "provider": [{"npi": "1", "part2_program": False}]}),
]  # fmt: skip


@pytest.mark.parametrize("tables", [t for _, t in MISS], ids=[name for name, _ in MISS])
def test_what_is_no_hit_tags_nothing(tables: dict[str, list[dict[str, Any]]]) -> None:
    assert tags(**{"medical_claim": [claim()], **tables}) == set()


@pytest.mark.parametrize(
    ("day", "through", "tagged"),
    [
        ("2023-12-30", "2023-12-31", False),
        ("2023-12-31", "2024-01-01", True),
        ("2024-01-01", "2024-01-01", True),
        ("2025-06-01", None, True),
    ],
)
def test_a_code_counts_where_the_claims_first_or_last_day_lies_in_its_validity(
    day: str, through: str | None, tagged: bool
) -> None:
    """G0137 is valid from 2024-01-01."""
    found = tags(medical_claim=[claim(day, through)], medical_claim_line=[line("G0137")])
    assert found == ({("medical", "c", "line")} if tagged else set())


def test_a_code_counts_until_its_validity_ends() -> None:
    assert tags(medical_claim=[claim("2006-05-01", ms_drg="522")]) == {("medical", "c", "drg")}


@pytest.mark.parametrize(
    ("drug", "tagged"),
    [
        ("buprenorphine", True),
        ("buprenorphine/naloxone", True),
        ("methadone hydrochloride", True),
        ("naloxone", False),
        ("methadonex", False),
        (None, False),
    ],
)
def test_a_dispensed_drug_is_tagged_by_its_ingredient(drug: str | None, tagged: bool) -> None:
    found = tags(pharmacy_claim=[{**FILL, "drug_name": drug}])
    assert found == ({("pharmacy", "p", "drug")} if tagged else set())


@pytest.mark.parametrize("role", ["prescriber_npi", "pharmacy_npi"])
def test_a_fill_from_a_part2_program_is_tagged(role: str) -> None:
    found = tags(pharmacy_claim=[{**FILL, role: "1"}], provider=[{"npi": "1", "part2_program": True}])
    assert found == {("pharmacy", "p", "provider")}


@pytest.mark.parametrize(
    ("days", "prescriber", "member", "linked"),
    [
        (0, "9", "m", True),
        (LINK_DAYS, "9", "m", True),
        (LINK_DAYS + 1, "9", "m", False),
        (-1, "9", "m", False),
        (0, "8", "m", False),
        (0, "9", "n", False),
    ],
)
def test_a_fill_is_linked_to_a_tagged_visit_of_its_prescriber(
    days: int, prescriber: str, member: str, linked: bool
) -> None:
    visit = claim(billing_npi="9")
    day = date.fromordinal(visit["through_date"].toordinal() + days)
    found = tags(
        medical_claim=[visit],
        medical_claim_line=[line()],
        diagnosis=[dx("F1120")],
        pharmacy_claim=[
            {
                **FILL,
                "member_id": member,
                "fill_date": day,
                "drug_name": "gabapentin",
                "prescriber_npi": prescriber,
            }
        ],
    )
    assert found == {("medical", "c", "diagnosis")} | ({("pharmacy", "p", "linked")} if linked else set())


@pytest.mark.parametrize(
    ("day", "linked"),
    [
        ("2025-02-28", False),
        ("2025-03-01", True),
        ("2025-03-15", True),
        ("2025-03-31", True),
        ("2025-04-07", True),
        ("2025-04-08", False),
    ],
)
@pytest.mark.parametrize("lines", [[], [line()]], ids=["no lines", "a line"])
def test_a_fill_during_a_tagged_stay_is_linked_with_and_without_lines(
    day: str, linked: bool, lines: list[dict[str, Any]]
) -> None:
    filled = {**FILL, "fill_date": date.fromisoformat(day), "drug_name": "gabapentin", "prescriber_npi": "9"}
    found = tags(
        medical_claim=[claim("2025-03-01", "2025-03-31", billing_npi="9")],
        medical_claim_line=lines,
        diagnosis=[dx("F1120")],
        pharmacy_claim=[filled],
    )
    assert found == {("medical", "c", "diagnosis")} | ({("pharmacy", "p", "linked")} if linked else set())


def test_the_code_list_holds_cms_list_whole_and_names_every_addition() -> None:
    codes = code_list()
    cms = Counter(c.code_system for c in codes if c.origin == "cms")
    assert cms == {
        "ICD-10-CM": 447,
        "ICD-9-CM": 135,
        "HCPCS": 62,
        "ICD-10-PCS": 57,
        "ICD-9-PCS": 14,
        "MS-DRG": 5,
        "CPT": 4,
    }
    assert {c.origin for c in codes} == {"cms", "addition"}
    assert all(c.note for c in codes if c.origin == "addition")
    words = ("INGREDIENT", "ORGANISATION_KIND")
    assert all(c.code == c.code.upper().replace(".", "") for c in codes if c.code_system not in words)


def test_conformance_to_cms_list_is_whole() -> None:
    """Each code of that list, on a claim of its own on the first day of its validity, in the place of its system.

    It measures how well we follow that list; how much of what Part 2 means the list finds is unknown.
    """
    claims: list[dict[str, Any]] = []
    rows: dict[str, list[dict[str, Any]]] = {"diagnosis": [], "procedure": [], "medical_claim_line": []}
    listed = [c for c in code_list() if c.origin == "cms"]
    for number, code in enumerate(listed):
        of = {**claim(max(code.valid_from, date(1990, 1, 1)).isoformat()), "claim_id": str(number)}
        if code.code_system == "MS-DRG":
            of["ms_drg"] = code.code
        elif code.code_system.startswith("ICD"):
            where = "diagnosis" if code.code_system.endswith("CM") else "procedure"
            made = (
                dx(code.code, code.code_system) if where == "diagnosis" else px(code.code, code.code_system)
            )
            rows[where].append({**made, "claim_id": str(number)})
        else:
            rows["medical_claim_line"].append({**line(code.code), "claim_id": str(number)})
        claims.append(of)
    tagged = {claim_id for _, claim_id, _ in tags(medical_claim=claims, **rows)}
    assert [listed[int(c["claim_id"])].code for c in claims if c["claim_id"] not in tagged] == []
    assert len(listed) == 724


def test_a_release_tags_what_files_write_untidily_what_a_dmc_ods_delivers_and_what_was_filled_in_a_stay(
    tmp_path: Path,
) -> None:
    """From source files to Parquet: the tags of a release, each claim with its one reason."""
    small = {
        "organisations.csv": "organisation_id,name,kind,county_code\nods-54,County ODS,DMC_ODS,54\n",
        "providers.csv": "npi,name,taxonomy,county_code,part2_program\n77\u00a0,Program,101Y00000X,54,true\n",
    }
    medical = [
        sent("NBSP", _037="F10.20\u00a0"),
        sent("ZERO", _037="f10\u200b.20"),
        sent("LINE", _088="H0020\u00a0"),
        sent("BILLS", _148="77\u2009"),
        sent("RENDERS", _135="\ufeff77"),
        sent("ODS", _003="ods-54\u00a0", _088="T1017"),
        sent("UNSAID", _003="bhp-54", _088="T1017", _037="Z590"),
        sent("TOLD", _003="bhp-54", _088="T1017", _037="F322"),
        sent("STAY", "20250501", _120="20250531", _037="F1120", _148="99"),
        sent("PLAIN"),
    ]
    fills = [
        sent_fill("IN", "20250510", _051="99\u00a0"),
        sent_fill("AFTER", "20250608", _051="99"),
        sent_fill("FROM", _054="77\u200b"),
    ]
    files = {"ME_a.txt": year(), "MC_a.txt": medical, "PC_a.txt": fills}
    release = build(Drop(tmp_path / "s", files, small).write(), tmp_path / "lake")
    found = {
        (row["claim_id"], row["category"], row["reason"])
        for part in release.parts("sensitive_claim")
        for row in pq.read_table(part).to_pylist()
    }
    assert found == {
        ("NBSP", "part2", "diagnosis"),
        ("ZERO", "part2", "diagnosis"),
        ("LINE", "part2", "line"),
        ("BILLS", "part2", "provider"),
        ("RENDERS", "part2", "provider"),
        ("ODS", "part2", "delivery"),
        ("UNSAID", "part2", "unclear"),
        ("UNSAID", "mental_health_specialty", "delivery"),
        ("TOLD", "mental_health_specialty", "delivery"),
        ("STAY", "part2", "diagnosis"),
        ("IN", "part2", "linked"),
        ("FROM", "part2", "provider"),
    }
    npis = {row["npi"] for part in release.parts("provider") for row in pq.read_table(part).to_pylist()}
    assert "77" in npis and all(npi == npi.strip() for npi in npis)
