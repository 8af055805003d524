"""The code lists: complete rows with an origin, no code that its source does not know, no licensed words."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from workbench.schema import value_sets
from workbench.schema.dictionary import dictionary

CODES = Path(__file__).resolve().parents[2] / "shared" / "data" / "codes"
shared = pytest.mark.shared

ROWS = value_sets.rows().to_pylist()


def _icd() -> set[str]:
    path = CODES / "icd10cm_code_list_2026_04.txt"
    if not path.is_file():
        pytest.skip("the ICD-10-CM list is not on this machine")
    return set(path.read_text().split())


def test_every_row_is_complete_and_names_its_origin() -> None:
    assert value_sets.rows().schema == dictionary()["value_set"].arrow_schema
    for row in ROWS:
        assert all(row[column] for column in value_sets.COLUMNS), row
        assert row["match"] in ("exact", "prefix")
        assert row["code"] == row["code"].strip()
        assert "." not in row["code"]
    keys = [(r["value_set"], r["code_system"], r["code"]) for r in ROWS]
    assert len(keys) == len(set(keys))


def test_the_rows_come_in_one_order_whatever_the_files_do() -> None:
    keys = [(r["value_set"], r["code_system"], r["code"]) for r in ROWS]
    assert keys == sorted(keys)


def test_codes_have_the_shape_of_their_system() -> None:
    shapes = {
        "ICD-10-CM": r"[A-Z][0-9][0-9A-Z]{1,5}",
        "HCPCS": r"[A-V][0-9]{4}",
        "CPT": r"[0-9]{5}",
        "REV": r"[0-9]{4}",
        "POS": r"[0-9]{2}",
        "BILL_TYPE": r"0[0-9]{2}",
        "NDC": r"[0-9]{11}",
        "TAXONOMY": r"[0-9A-Z]{4,10}",
        "MODIFIER": r"[0-9A-Z]{2}",
        "DISCHARGE_STATUS": r"[0-9]{2}",
    }
    for row in ROWS:
        shape = shapes.get(row["code_system"])
        if shape and not (row["code_system"] == "REV" and row["match"] == "prefix"):
            assert re.fullmatch(shape, row["code"]), row


@pytest.mark.parametrize("code", ["T1491", "T424X2", "T3992", "T71162", "X78", "T50902", "T5802", "T6392"])
def test_self_harm_holds_intentional_codes(code: str) -> None:
    assert code in value_sets.codes("self_harm")


@pytest.mark.parametrize(
    "code", ["T424X1A", "T424X3A", "T424X4A", "T424X5A", "R45851", "Z9151", "X838", "T71163A"]
)
def test_self_harm_leaves_out_accident_assault_undetermined_and_thoughts(code: str) -> None:
    hit = any(code.startswith(prefix) for prefix in value_sets.codes("self_harm"))
    assert hit == (code == "X838")


@shared
def test_every_prefix_of_a_diagnosis_set_stands_for_real_codes() -> None:
    real = _icd()
    heads = {code[:n] for code in real for n in range(3, 8)}
    for row in ROWS:
        if row["code_system"] == "ICD-10-CM" and not row["code"].startswith("X"):
            assert row["code"] in heads, row


@shared
def test_self_harm_is_exactly_the_intentional_codes_of_poisoning_and_asphyxiation() -> None:
    """The intent stands in the 6th character, or in the 5th where the 6th is a placeholder."""
    wanted = {
        code
        for code in _icd()
        if re.fullmatch(r"T(3[6-9]|4\w|5\w|6[0-5]|71)\w{4}", code)
        and code[-1] in "ADS"
        and (code[4] if code[5] == "X" else code[5]) == "2"
    }
    prefixes = tuple(c for c in value_sets.codes("self_harm") if c.startswith("T") and c != "T1491")
    got = {code for code in _icd() if len(code) == 7 and code.startswith(prefixes)}
    assert len(wanted) > 900
    assert got == wanted


@shared
def test_every_living_hcpcs_code_is_in_the_public_list() -> None:
    path = CODES / "hcpcs_2026_jan.csv"
    if not path.is_file():
        pytest.skip("the HCPCS list is not on this machine")
    real = {row["code"] for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())}
    for row in ROWS:
        if row["code_system"] == "HCPCS" and "ended before" not in row["origin"]:
            assert row["code"] in real, row


@shared
def test_every_place_of_service_is_in_the_public_list() -> None:
    path = CODES / "tuva_terminology" / "place_of_service.csv"
    if not path.is_file():
        pytest.skip("the place of service list is not on this machine")
    real = {
        r["place_of_service_code"] for r in csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())
    }
    newer = {"27", "66"}  # in CMS's set since 2023, later than this list
    assert {r["code"] for r in ROWS if r["code_system"] == "POS"} - newer <= real


def test_mental_illness_leaves_substance_use_to_another_measure() -> None:
    for name in ("mental_illness", "mental_health_diagnosis"):
        for code in ("F1020", "F1120", "F1721", "F550"):
            assert not any(code.startswith(prefix) for prefix in value_sets.codes(name))


def test_follow_up_diagnoses_include_every_index_diagnosis() -> None:
    assert set(value_sets.codes("mental_illness")) < set(value_sets.codes("mental_health_diagnosis"))


def test_places_of_service_fall_into_one_set_only() -> None:
    places = [r["code"] for r in ROWS if r["code_system"] == "POS" and r["value_set"].endswith("_place")]
    assert len(places) == len(set(places))
    assert "23" not in places


def test_an_unknown_value_set_is_refused_by_name() -> None:
    with pytest.raises(value_sets.UnknownValueSet, match="no_such_set"):
        value_sets.codes("no_such_set")
