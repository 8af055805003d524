"""Every sensitive category: crafted claims that are one, traps that are none, and where the lists come from."""

from __future__ import annotations

import csv
from datetime import date
from importlib.resources import files
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from workbench.broker.cut import CUTS
from workbench.lake.sensitive import LINK_DAYS, MINOR_AGES, sensitive_claims
from workbench.schema import dictionary
from workbench.schema.code_lists import code_list
from workbench.schema.dictionary import Goes, links, unlinked
from workbench.schema.sensitive import CATEGORIES, Category, Sourcing, can_exclude

TABLES = (
    "member organisation provider ndc_ingredient medical_claim medical_claim_line diagnosis procedure pharmacy_claim"
).split()
MAP = pa.schema([("ndc", pa.string()), ("ingredient", pa.string())])
DAY = date(2025, 3, 10)
ADULT, MINOR = (
    {"member_id": "m", "birth_date": date(1980, 1, 1)},
    {"member_id": "m", "birth_date": date(2010, 1, 1)},
)
PLANS = [
    {"organisation_id": "bhp-01", "kind": "bhp"},
    {"organisation_id": "ods-01", "kind": "dmc_ods"},
    {"organisation_id": "plan", "kind": "mcp"},
]


def tags(**tables: Any) -> set[tuple[str, str, str]]:
    """(claim, category, reason) of every tag over the given rows; a claim `c` of the member `m` is there unless given."""
    rows = {
        "member": [ADULT],
        "organisation": PLANS,
        "medical_claim": [claim()],
        "pharmacy_claim": [],
        **{table: given if isinstance(given, list) else [given] for table, given in tables.items()},
    }
    con = duckdb.connect()
    for name in TABLES:
        schema = MAP if name == "ndc_ingredient" else dictionary()[name].arrow_schema
        con.register("given", pa.Table.from_pylist(rows.get(name, []), schema))
        con.execute(f"CREATE TABLE {name} AS FROM given")
        con.unregister("given")
    sensitive_claims(con)
    return set(con.execute("SELECT claim_id, category, reason FROM sensitive_claim").fetchall())


def claim(**more: Any) -> dict[str, Any]:
    return {
        "claim_id": "c",
        "member_id": "m",
        "from_date": DAY,
        "through_date": DAY,
        "organisation_id": "plan",
        **more,
    }


def dx(code: str, system: str | None = "ICD-10-CM", **more: Any) -> dict[str, Any]:
    return {
        "claim_id": "c",
        "member_id": "m",
        "role": "other",
        "position": 7,
        "code_system": system,
        "code": code,
        **more,
    }


def line(code: str | None = None, **more: Any) -> dict[str, Any]:
    return {"claim_id": "c", "member_id": "m", "line_number": 3, "procedure_code": code, **more}


def px(code: str, system: str | None = "ICD-10-PCS") -> dict[str, Any]:
    return {"claim_id": "c", "member_id": "m", "position": 2, "code_system": system, "code": code}


def fill(drug: str | None, **more: Any) -> dict[str, Any]:
    return {"claim_id": "p", "member_id": "m", "fill_date": DAY, "drug_name": drug, **more}


HITS = [
    ("hiv", {"diagnosis": dx("B20")}, "diagnosis"),
    ("hiv", {"diagnosis": dx("Z21", role="admitting")}, "diagnosis"),
    ("hiv", {"medical_claim_line": line("G0475")}, "line"),
    ("hiv", {"medical_claim_line": line("87389")}, "line"),
    ("hiv", {"medical_claim": claim(ms_drg="977")}, "drg"),
    ("hiv", {"medical_claim": [], "pharmacy_claim": fill("bictegravir-emtricitabine-tenofovir")}, "drug"),
    ("reproductive", {"diagnosis": dx("Z332")}, "diagnosis"),
    ("reproductive", {"diagnosis": dx("Z30011")}, "diagnosis"),
    ("reproductive", {"diagnosis": dx("A5600")}, "diagnosis"),
    ("reproductive", {"procedure": px("10A07ZX")}, "procedure"),
    ("reproductive", {"medical_claim_line": line("S0199")}, "line"),
    ("reproductive", {"medical_claim_line": line("J7298")}, "line"),
    ("reproductive", {"medical_claim": [], "pharmacy_claim": fill("levonorgestrel")}, "drug"),
    ("gender_affirming", {"diagnosis": dx("F640")}, "diagnosis"),
    ("gender_affirming", {"diagnosis": dx("Z87890")}, "diagnosis"),
    ("intimate_partner_violence", {"diagnosis": dx("T7411XA")}, "diagnosis"),
    ("intimate_partner_violence", {"diagnosis": dx("Y07010", role="external")}, "diagnosis"),
    ("intimate_partner_violence", {"diagnosis": dx("Z6911")}, "diagnosis"),
    ("genetic", {"diagnosis": dx("Z1501")}, "diagnosis"),
    ("genetic", {"medical_claim_line": line("S3850")}, "line"),
    (
        "mental_health_specialty",
        {"medical_claim": claim(organisation_id="bhp-01"), "medical_claim_line": line("H2017", modifier_2="he")},
        "delivery",
    ),
    ("part2", {"medical_claim": claim(organisation_id="ods-01", submitter_id="plan")}, "delivery"),
    ("part2", {"medical_claim_line": line("H0034")}, "line"),
    ("part2", {"medical_claim_line": line(place_of_service="58")}, "delivery"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("category", "tables", "reason"), HITS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_claim_of_a_category_is_tagged_as_a_whole_with_its_reason(
    category: str, tables: dict[str, Any], reason: str
) -> None:
    only = "p" if "pharmacy_claim" in tables else "c"
    assert tags(**tables) == {(only, category, reason)}


MISSES = [
    ("a diagnosis H00.34 is not the HCPCS H0034", {"diagnosis": dx("H0034")}),
    ("a diagnosis code on a line", {"medical_claim_line": line("B20")}),
    ("an HCPCS code among diagnoses", {"diagnosis": dx("S0199")}),
    ("a DRG number as a revenue code", {"medical_claim_line": line(revenue_code="0977")}),
    ("an ICD-10 code sent as ICD-9", {"diagnosis": dx("Z21", "ICD-9-CM")}),
    ("a diagnosis that looks like an ICD procedure", {"procedure": px("B20")}),
    ("a longer code that begins like a listed one", {"diagnosis": dx("Z2199")}),
    ("a DRG with a digit too many", {"medical_claim": claim(ms_drg="8971")}),
    ("a revenue code with a digit too many", {"medical_claim_line": line(revenue_code="09451")}),
    ("a place with a digit too many", {"medical_claim_line": line(place_of_service="571")}),
    ("abuse of a child", {"diagnosis": dx("T7412XA")}),
    ("a screening that is not genetic", {"diagnosis": dx("Z1231")}),
    ("a drug whose name only holds a listed one", {"pharmacy_claim": fill("tenofovirol")}),
    ("a managed care plan's claim", {"medical_claim": claim(submitter_id="plan")}),
    ("a member without a plan", {"medical_claim": claim(organisation_id=None)}),
]  # fmt: skip


@pytest.mark.parametrize("tables", [t for _, t in MISSES], ids=[name for name, _ in MISSES])
def test_a_claim_that_only_looks_like_one_is_not_tagged(tables: dict[str, Any]) -> None:
    assert tags(**tables) == set()


SPACES = ["\u00a0", "\u200b", "\ufeff", "\u2009", "\u3000", "\u00ad", "\t", "\r\n"]


@pytest.mark.parametrize(
    "spelling",
    ["F11.20", "f1120", " F1120 ", "F11 .20", "f11.20", *(f"F1{s}1.20{s}" for s in SPACES)],
    ids=ascii,
)
def test_dots_case_and_every_kind_of_space_do_not_matter(spelling: str) -> None:
    assert tags(diagnosis=dx(spelling)) == {("c", "part2", "diagnosis")}


@pytest.mark.parametrize("system", ["icd-10-cm", "ICD10CM", " ICD-10-CM\u00a0", None, "", "ABK"], ids=ascii)
def test_a_diagnosis_hits_however_its_system_is_written_or_not_said(system: str | None) -> None:
    assert tags(diagnosis=dx("F1120", system)) == {("c", "part2", "diagnosis")}
    assert tags(diagnosis=dx("F112", system)) == set()


@pytest.mark.parametrize("code", ["HZ2ZZZZ", "9461", "H0020", "99408"])
def test_a_procedure_without_a_system_hits_in_each(code: str) -> None:
    assert tags(procedure=px(code, None)) == {("c", "part2", "procedure")}


def test_an_old_code_without_a_system_hits_while_it_is_valid() -> None:
    old = claim(from_date=date(2014, 5, 1), through_date=date(2014, 5, 1))
    assert tags(medical_claim=old, diagnosis=dx("303.90", None)) == {("c", "part2", "diagnosis")}


@pytest.mark.parametrize("space", SPACES, ids=ascii)
def test_an_organisation_and_a_drug_are_known_with_a_space_that_nobody_sees(space: str) -> None:
    assert tags(medical_claim=claim(organisation_id=f"ods-01{space}")) == {("c", "part2", "delivery")}
    assert tags(medical_claim=[], pharmacy_claim=fill(f"{space}methadone{space}")) == {("p", "part2", "drug")}


@pytest.mark.parametrize(
    ("column", "said", "reason"),
    [
        ("procedure_code", "h0034", "line"),
        ("place_of_service", "58 ", "delivery"),
        ("revenue_code", "945", "line"),
    ],
)
def test_a_line_counts_however_it_is_written(column: str, said: str, reason: str) -> None:
    assert tags(medical_claim_line=line(**{column: said})) == {("c", "part2", reason)}


@pytest.mark.parametrize("said", ["897", "0897", " 897"])
def test_a_drg_counts_with_and_without_leading_zeros(said: str) -> None:
    assert tags(medical_claim=claim(ms_drg=said)) == {("c", "part2", "drg")}


@pytest.mark.parametrize(
    ("modifier", "reason"),
    [("hf", "line"), ("HG ", "line"), ("HE", None), ("GT", "unclear"), (None, "unclear")],
)
def test_counselling_is_of_substance_use_unless_it_says_mental_health(
    modifier: str | None, reason: str | None
) -> None:
    found = tags(medical_claim_line=line("H0004", modifier_4=modifier))
    assert found == ({("c", "part2", reason)} if reason else set())


@pytest.mark.parametrize(
    ("first", "last", "tagged"),
    [
        ("2007-09-30", "2007-10-01", True),
        ("2007-10-01", "2007-10-02", True),
        ("2007-10-02", "2007-10-03", False),
        ("2025-01-01", "2025-01-02", False),
    ],
)
def test_a_drg_is_a_hit_within_its_dates_only(first: str, last: str, tagged: bool) -> None:
    """MS-DRG 522 of CMS's list ends on 2007-10-01; the number means a hip replacement today."""
    days = {"from_date": date.fromisoformat(first), "through_date": date.fromisoformat(last)}
    assert tags(medical_claim=claim(ms_drg="522", **days)) == ({("c", "part2", "drg")} if tagged else set())


def test_a_claim_of_several_categories_has_a_row_for_each() -> None:
    found = tags(diagnosis=[dx("B20"), dx("F1120"), dx("Z332")], medical_claim_line=line("J7298"))
    assert found == {
        ("c", "hiv", "diagnosis"),
        ("c", "part2", "diagnosis"),
        ("c", "reproductive", "diagnosis"),
        ("c", "reproductive", "line"),
    }


def test_dmc_ods_is_part_2_and_not_specialty_mental_health() -> None:
    county = claim(organisation_id="bhp-01")
    assert tags(medical_claim=county, medical_claim_line=line("H0004", modifier_1="HG")) == {
        ("c", "part2", "line")
    }
    assert tags(medical_claim=county, medical_claim_line=line("90837"), diagnosis=dx("F1020")) == {
        ("c", "part2", "diagnosis"),
        ("c", "mental_health_specialty", "delivery"),
    }


BOTH = {("c", "mental_health_specialty", "delivery"), ("c", "part2", "unclear")}
MENTAL = {("c", "mental_health_specialty", "delivery")}
UNSAID = [
    ("no diagnosis", {}, BOTH),
    ("case management alone", {"medical_claim_line": line("T1017")}, BOTH),
    ("a social reason", {"diagnosis": dx("Z5900", role="principal")}, BOTH),
    ("a mental disorder as a second diagnosis", {"diagnosis": dx("F322")}, BOTH),
    ("a mental disorder", {"diagnosis": dx("F32.2", role="principal")}, MENTAL),
    ("schizophrenia", {"diagnosis": dx("F209", role="principal")}, MENTAL),
    ("nicotine", {"diagnosis": dx("F17210", role="principal")}, BOTH),
    ("a mental health programme", {"medical_claim_line": line("T1017", modifier_1="HE")}, MENTAL),
    ("an ICD-9 code that looks like one", {"diagnosis": dx("F322", "ICD-9-CM", role="principal")}, BOTH),
]  # fmt: skip


@pytest.mark.parametrize("named", ["organisation_id", "submitter_id"])
@pytest.mark.parametrize(("tables", "found"), [u[1:] for u in UNSAID], ids=[u[0] for u in UNSAID])
def test_a_countys_claim_that_does_not_tell_dmc_ods_from_mental_health_is_both(
    tables: dict[str, Any], found: set[tuple[str, str, str]], named: str
) -> None:
    assert tags(medical_claim=claim(**{named: "bhp-01"}), **tables) == found


def test_a_dmc_ods_claim_is_part_2_whatever_its_codes() -> None:
    sent = claim(organisation_id="bhp-01", submitter_id="ods-01")
    visits = {"medical_claim_line": line("T1017"), "diagnosis": dx("F322", role="principal")}
    assert tags(medical_claim=sent, **visits) == {("c", "part2", "delivery")}


@pytest.mark.parametrize("days", [0, LINK_DAYS, LINK_DAYS + 1])
def test_what_was_prescribed_at_a_tagged_visit_goes_with_it_in_every_category(days: int) -> None:
    later = date.fromordinal(DAY.toordinal() + days)
    found = tags(
        medical_claim=claim(billing_npi="9"),
        medical_claim_line=line(),
        diagnosis=dx("Z21"),
        pharmacy_claim=[
            fill("doxycycline", prescriber_npi="9", fill_date=later),
            fill("doxycycline", prescriber_npi="8", fill_date=later, claim_id="other"),
        ],
    )
    linked = {("p", "hiv", "linked")} if days <= LINK_DAYS else set()
    assert found == {("c", "hiv", "diagnosis")} | linked


AGES = [
    ("the day before the twelfth birthday", date(2013, 3, 11), False),
    ("the twelfth birthday", date(2013, 3, 10), True),
    ("the last day of age 17", date(2007, 3, 11), True),
    ("the eighteenth birthday", date(2007, 3, 10), False),
    ("no birth date", None, False),
]  # fmt: skip


@pytest.mark.parametrize(("birth", "minor"), [a[1:] for a in AGES], ids=[a[0] for a in AGES])
def test_a_minors_own_service_is_one_by_age_on_the_day_and_category(birth: date | None, minor: bool) -> None:
    assert MINOR_AGES == (12, 17)
    found = tags(member={"member_id": "m", "birth_date": birth}, diagnosis=dx("Z30011"))
    more = {("c", "minor_consent", "category")} if minor else set()
    assert found == {("c", "reproductive", "diagnosis")} | more


@pytest.mark.parametrize(
    ("category", "tables", "minor"),
    [
        ("part2", {"diagnosis": dx("F1210")}, True),
        ("hiv", {"diagnosis": dx("Z114")}, True),
        ("intimate_partner_violence", {"diagnosis": dx("T7421XA")}, True),
        (
            "mental_health_specialty",
            {
                "medical_claim": claim(organisation_id="bhp-01"),
                "medical_claim_line": line(modifier_1="HE"),
            },
            True,
        ),
        ("gender_affirming", {"diagnosis": dx("F642")}, False),
        ("genetic", {"diagnosis": dx("Z1379")}, False),
    ],
)
def test_only_the_services_that_the_law_names_are_a_minors_own(
    category: str, tables: dict[str, Any], minor: bool
) -> None:
    found = {(claim_id, c) for claim_id, c, _ in tags(member=MINOR, **tables)}
    assert found == {("c", category)} | ({("c", "minor_consent")} if minor else set())


def test_therapy_and_care_of_pregnancy_are_a_minors_own_and_nothing_of_an_adults() -> None:
    visits = {"medical_claim_line": line("90837"), "diagnosis": dx("Z3400")}
    assert tags(member=MINOR, **visits) == {
        ("c", "minor_consent", "line"),
        ("c", "minor_consent", "diagnosis"),
    }
    assert tags(member=ADULT, **visits) == set()


def test_a_minors_fill_is_tagged_by_the_day_of_the_fill() -> None:
    found = tags(member=MINOR, medical_claim=[], pharmacy_claim=[fill("norethindrone")])
    assert found == {("p", "reproductive", "drug"), ("p", "minor_consent", "category")}


def test_every_category_has_a_list_that_says_where_each_code_comes_from() -> None:
    for category in Category:
        codes = code_list(category)
        assert codes, category
        assert all(c.origin for c in codes)
        assert all(c.note for c in codes if c.origin != "cms"), category
        assert all(c.valid_from <= c.valid_through for c in codes)
        assert len({(c.code_system, c.code, c.valid_from) for c in codes}) == len(codes), category
    text = (files("workbench.schema.code_lists") / "__init__.py").read_text(encoding="utf-8")
    assert all(
        f"\n  {origin} " in text
        for category in Category
        for origin in {c.origin for c in code_list(category)}
    )


def test_no_category_is_called_sourced_while_a_code_of_its_list_is_by_recollection() -> None:
    by_heart = {
        category for category in Category for c in code_list(category) if c.origin in ("recollection", "law")
    }
    sourced = {category for category in Category if CATEGORIES[category].sourcing is Sourcing.SOURCED}
    assert not by_heart & sourced
    assert sourced == {Category.PART2, Category.MENTAL_HEALTH_SPECIALTY, Category.INTIMATE_PARTNER_VIOLENCE}


@pytest.mark.parametrize("category", list(Category))
def test_a_list_that_is_not_sourced_is_good_enough_for_synthetic_data_only(category: Category) -> None:
    assert can_exclude(category, synthetic=True)
    assert can_exclude(category, synthetic=False) == (CATEGORIES[category].sourcing is Sourcing.SOURCED)


def test_every_table_is_linked_or_says_why_a_hidden_claim_leaves_no_trace_in_it() -> None:
    sources, targets = ({getattr(link, end) for link in links()} for end in ("source", "target"))
    assert targets.isdisjoint(unlinked())
    assert sources | targets | set(unlinked()) == set(dictionary())
    for name, table in dictionary().items():
        has_claim = any(c.identifier_class == "claim_key" for c in table.columns.values())
        assert name in targets or not has_claim or name == "medical_claim", name
        assert name in targets or not table.derived or name in unlinked(), name


def test_every_link_by_a_claim_goes_through_a_claim_key_and_the_recomputed_ones_are_of_derived_tables() -> (
    None
):
    for link in links():
        column = dictionary()[link.target].columns[link.by]
        if link.goes is Goes.RECOMPUTED:
            assert dictionary()[link.target].derived
            assert column.identifier_class == "member_key"
        elif link.source in ("medical_claim", "pharmacy_claim") and link.target != "pharmacy_claim":
            assert column.identifier_class == "claim_key", link


def test_the_cut_of_a_slice_follows_every_link_of_the_dictionary() -> None:
    for link in links():
        cut = CUTS[link.target]
        if link.goes is Goes.RECOMPUTED:
            assert cut.recomputed, link
        elif link.source == "provider":
            assert cut.programs, link
        elif not cut.recomputed and link.target != "pharmacy_claim":
            assert cut.claim is not None and cut.claim[1] == link.by, link
    assert {name for name, cut in CUTS.items() if cut.claim is not None} <= {
        *(link.target for link in links()),
        "medical_claim",
    }


def test_the_lists_are_files_of_one_shape() -> None:
    folder = files("workbench.schema.code_lists")
    names = {file.name.removesuffix(".csv") for file in folder.iterdir() if file.name.endswith(".csv")}
    assert names == set(Category)
    for name in names:
        head = next(csv.reader((folder / f"{name}.csv").read_text(encoding="utf-8").splitlines()))
        assert head == "code_system code valid_from valid_through with_modifier origin note".split()
