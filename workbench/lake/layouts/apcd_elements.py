"""Which APCD-CDL elements we read, into which columns, and when a record cannot be used: the mapping as data.

Expressions are DuckDB SQL in which an element id stands for the field's text. Element numbers and their certainty:
workbench.lake.apcd_layout and the data dictionary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from workbench.lake.apcd_layout import (
    CLAIM_STATUS,
    COUNTY_ELEMENT,
    ELEMENTS,
    HISPANIC_INDICATOR,
    OTHER_DIAGNOSES,
    OTHER_ICD_PROCEDURES,
    PROVIDER_NAME,
    PROVIDER_NPI,
    PROVIDER_TAXONOMY,
    RACE,
    RACE_HISPANIC,
    RACE_MULTIPLE,
)

_ELEMENT = re.compile("|".join(sorted({name for names in ELEMENTS.values() for name in names})))


@dataclass(frozen=True)
class FileElements:
    """How the records of one file type are read.

    `columns` are read by name; `raw` keeps the text of a column whose value may turn out bad. A record is set aside
    where a `needed` column is empty, a date or number of `dates`, `numbers` is bad, a rule (condition, reason) holds,
    or a date of `past` lies after the day on which the file was made. `into` feeds the stage tables: SELECTs over
    the temporary table `parsed`, which has all columns, source_file, source_row and reason.
    """

    columns: Mapping[str, str]
    raw: Mapping[str, str]
    needed: Mapping[str, str]
    into: Mapping[str, str]
    dates: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    past: tuple[str, ...] = ()
    rules: tuple[tuple[str, str], ...] = field(default=())

    def elements(self) -> set[str]:
        """The element ids that the columns are made from."""
        return set(_ELEMENT.findall(" ".join([*self.columns.values(), *self.raw.values()])))


def _case(element: str, values: Mapping[str, str], otherwise: str = "NULL") -> str:
    whens = " ".join(f"WHEN '{code}' THEN '{meaning}'" for code, meaning in values.items())
    return f"CASE upper(trim({element})) {whens} ELSE {otherwise} END"


def _pad(element: str, width: int) -> str:
    code = f"wb_code({element})"
    return f"CASE WHEN length({code}) < {width} THEN lpad({code}, {width}, '0') ELSE {code} END"


def _typed(columns: Mapping[str, tuple[str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    """(macro, element) per column -> the typed columns and the raw ones."""
    return (
        {name: f"wb_{macro}({element})" for name, (macro, element) in columns.items()},
        {name: element for name, (_, element) in columns.items()},
    )


def _kept(columns: str) -> str:
    return f"SELECT source_file, source_row, {columns} FROM parsed WHERE reason IS NULL"


def _claim_status(element: str) -> str:
    return _case(
        element, {**CLAIM_STATUS, **{code.lstrip("0"): status for code, status in CLAIM_STATUS.items()}}
    )


_SEX = {"M": "M", "F": "F", "U": "U", "": "U"}


def _known_race(element: str) -> str:
    return f"nullif({_case(element, RACE)}, 'unknown')"


_RACE_OF_TWO = f"""CASE WHEN hispanic THEN '{RACE_HISPANIC}' WHEN race_1 <> race_2 THEN '{RACE_MULTIPLE}'
    ELSE coalesce(race_1, race_2, 'unknown') END AS race"""


_me_typed, _me_raw = _typed(
    {
        "birth_date": ("day", "CDLME019"),
        "start_year": ("integer", "CDLME005"),
        "start_month": ("integer", "CDLME006"),
    }
)
_MONTH = "make_date(start_year, start_month, 1)"

ME = FileElements(
    columns={
        "member_id": "wb_text(CDLME061)",
        "organisation_id": "wb_text(CDLME003)",
        "last_name": "wb_text(CDLME020)",
        "first_name": "wb_text(CDLME021)",
        "sex": _case("CDLME018", _SEX),
        "race_1": _known_race("CDLME028"),
        "race_2": _known_race("CDLME029"),
        "hispanic": f"upper(trim({HISPANIC_INDICATOR})) = 'Y'",
        "street": "wb_text(CDLME023)",
        "city": "wb_text(CDLME024)",
        "state": "wb_code(CDLME025)",
        "zip": "nullif(left(regexp_replace(CDLME026, '[^0-9]', '', 'g'), 5), '')",
        "county_code": _pad(COUNTY_ELEMENT, 2),
        "aid_code": "wb_code(CDLME009)",
        "medical": "coalesce(wb_flag(CDLME036), false)",
        "pharmacy": "coalesce(wb_flag(CDLME037), false)",
        "behavioral": "coalesce(wb_flag(CDLME039), false)",
        **_me_typed,
    },
    raw=_me_raw,
    needed={"member_id": "no member id", "organisation_id": "no plan id"},
    dates=("birth_date",),
    numbers=("start_year", "start_month"),
    rules=(
        ("start_year IS NULL OR start_month IS NULL OR start_month NOT BETWEEN 1 AND 12", "bad date"),
        ("start_year NOT BETWEEN 1966 AND 2099", "bad date"),
        ("sex IS NULL", "unknown sex"),
    ),
    into={
        "member": f"""SELECT source_file, member_id, max({_MONTH}) AS reported, last_name, first_name, birth_date,
            sex, {_RACE_OF_TWO}, street, city, state, zip, county_code FROM parsed WHERE reason IS NULL GROUP BY ALL""",
        "eligibility": _kept(
            f"""member_id, organisation_id, {_MONTH} AS start_date, last_day({_MONTH}) AS end_date, county_code,
            aid_code, medical, pharmacy, behavioral"""
        ),
    },
)

_mc_typed, _mc_raw = _typed(
    {
        "line_number": ("integer", "CDLMC006"),
        "version": ("integer", "CDLMC007"),
        "paid_date": ("day", "CDLMC024"),
        "admission_date": ("day", "CDLMC025"),
        "discharge_date": ("day", "CDLMC029"),
        "from_date": ("day", "CDLMC119"),
        "through_date": ("day", "CDLMC120"),
        "units": ("number", "CDLMC121"),
        "charge_amount": ("money", "CDLMC123"),
        "paid_amount": ("money", "CDLMC125"),
        "allowed_amount": ("money", "CDLMC131"),
    }
)

_ICD_9 = (
    "(trim(CDLMC036) IN ('9', '09') OR (wb_text(CDLMC036) IS NULL AND wb_day(CDLMC119) < DATE '2015-10-01'))"
)
"""Where the ICD version (MC036) is empty the day of service decides: ICD-10 from 2015-10-01, 45 CFR 162.1002(c)."""


_DX_SYSTEM = f"CASE WHEN {_ICD_9} THEN 'ICD-9-CM' ELSE 'ICD-10-CM' END"
_PX_SYSTEM = f"CASE WHEN {_ICD_9} THEN 'ICD-9-PCS' ELSE 'ICD-10-PCS' END"


def _filled(elements: Sequence[str]) -> str:
    """Place (from 1) and text of the elements that are not empty: few of many, so that little is left to do."""
    return f"""list_filter(list_transform([{", ".join(elements)}], lambda text, i: {{'place': i, 'text': text}}),
        lambda filled: filled.text <> '')"""


def _diagnoses() -> str:
    """Principal, others 2 to 25, admitting and external cause, in the order of the elements below."""
    last = 1 + len(OTHER_DIAGNOSES)
    return f"""list_filter(list_transform(
        {_filled(("CDLMC037", *OTHER_DIAGNOSES, "CDLMC034", "CDLMC035"))},
        lambda filled: {{
          'role': CASE WHEN filled.place = 1 THEN 'principal' WHEN filled.place <= {last} THEN 'other'
            WHEN filled.place = {last + 1} THEN 'admitting' ELSE 'external' END,
          'position': (CASE WHEN filled.place <= {last} THEN filled.place ELSE 1 END)::INTEGER,
          'code_system': {_DX_SYSTEM}, 'code': wb_code(filled.text)}}),
        lambda dx: dx.code IS NOT NULL)"""


def _procedures() -> str:
    return f"""list_filter(list_transform({_filled(("CDLMC093", *OTHER_ICD_PROCEDURES))},
        lambda filled: {{'position': filled.place::INTEGER, 'code_system': {_PX_SYSTEM},
          'code': wb_code(filled.text), 'procedure_date': wb_day(CDLMC119)}}),
        lambda px: px.code IS NOT NULL)"""


MC = FileElements(
    columns={
        "claim_id": "wb_text(CDLMC005)",
        "member_id": "wb_text(CDLMC161)",
        "organisation_id": "wb_text(CDLMC003)",
        "submitter_id": "wb_text(CDLMC001)",
        "status": _claim_status("CDLMC157"),
        "line_denied": "coalesce(wb_flag(CDLMC158), false)",
        "discharge_status": _pad("CDLMC031", 2),
        "bill_type": _pad("CDLMC032", 4),
        "billing_npi": "wb_text(CDLMC148)",
        "place_of_service": _pad("CDLMC033", 2),
        "revenue_code": _pad("CDLMC087", 4),
        "procedure_code": "wb_code(CDLMC088)",
        "modifier_1": "wb_code(CDLMC089)",
        "modifier_2": "wb_code(CDLMC090)",
        "modifier_3": "wb_code(CDLMC091)",
        "modifier_4": "wb_code(CDLMC092)",
        "ndc": "wb_ndc(CDLMC133)",
        "rendering_npi": "wb_text(CDLMC135)",
        "rendering_taxonomy": "wb_code(CDLMC142)",
        "ssn": "wb_text(CDLMC016)",
        "diagnoses": _diagnoses(),
        "procedures": _procedures(),
        **_mc_typed,
    },
    raw=_mc_raw,
    needed={"claim_id": "no claim id", "member_id": "no member id"},
    dates=("from_date", "through_date", "paid_date", "admission_date", "discharge_date"),
    numbers=("line_number", "version", "units", "charge_amount", "paid_amount", "allowed_amount"),
    past=("from_date", "paid_date"),
    rules=(
        ("from_date IS NULL", "bad date"),
        ("through_date < from_date OR discharge_date < admission_date", "dates in the wrong order"),
        ("line_number IS NULL OR version IS NULL", "bad number"),
        ("status IS NULL", "unknown claim status"),
    ),
    into={
        "medical_line": _kept(
            """claim_id, version, member_id, organisation_id, submitter_id,
            CASE WHEN status = 'paid' AND line_denied THEN 'denied' ELSE status END AS claim_status,
            admission_date, discharge_date, discharge_status, bill_type, billing_npi, paid_date, line_number,
            from_date, coalesce(through_date, from_date) AS through_date, place_of_service, revenue_code,
            procedure_code, modifier_1, modifier_2, modifier_3, modifier_4, units, charge_amount, paid_amount,
            allowed_amount, ndc, rendering_npi, rendering_taxonomy, diagnoses, procedures"""
        ),
        "member": """SELECT min(source_file) AS source_file, member_id, ssn, max(from_date) AS reported
            FROM parsed WHERE reason IS NULL AND ssn IS NOT NULL
              AND member_id IN (SELECT member_id FROM stage.member) GROUP BY member_id, ssn""",
    },
)

_pc_typed, _pc_raw = _typed(
    {
        "line_number": ("integer", "CDLPC006"),
        "version": ("integer", "CDLPC007"),
        "fill_date": ("day", "CDLPC023"),
        "paid_date": ("day", "CDLPC024"),
        "refill_number": ("integer", "CDLPC026"),
        "quantity": ("number", "CDLPC032"),
        "days_supply": ("integer", "CDLPC033"),
        "charge_amount": ("money", "CDLPC036"),
        "paid_amount": ("money", "CDLPC037"),
        "allowed_amount": ("money", "CDLPC038"),
    }
)

PC = FileElements(
    columns={
        "claim_id": "wb_text(CDLPC005)",
        "member_id": "wb_text(CDLPC068)",
        "organisation_id": "wb_text(CDLPC003)",
        "submitter_id": "wb_text(CDLPC001)",
        "claim_status": _claim_status("CDLPC065"),
        "ndc": "wb_ndc(CDLPC025)",
        "prescriber_npi": "wb_text(CDLPC051)",
        "pharmacy_npi": "wb_text(CDLPC054)",
        **_pc_typed,
    },
    raw=_pc_raw,
    needed={"claim_id": "no claim id", "member_id": "no member id"},
    dates=("fill_date", "paid_date"),
    numbers=("line_number", "version", "refill_number", "quantity", "days_supply", *list(_pc_typed)[-3:]),
    past=("fill_date", "paid_date"),
    rules=(
        ("fill_date IS NULL", "bad date"),
        ("line_number IS NULL OR version IS NULL", "bad number"),
        ("claim_status IS NULL", "unknown claim status"),
    ),
    into={
        "pharmacy_line": _kept(
            """line_number, claim_id, version, member_id, organisation_id, submitter_id, claim_status,
            fill_date, paid_date, ndc, quantity, days_supply, refill_number, charge_amount, paid_amount,
            allowed_amount, prescriber_npi, pharmacy_npi"""
        ),
    },
)

PV = FileElements(
    columns={
        "npi": f"wb_text({PROVIDER_NPI})",
        "name": f"wb_text({PROVIDER_NAME})",
        "taxonomy": f"wb_code({PROVIDER_TAXONOMY})",
    },
    raw={},
    needed={"npi": "no NPI"},
    into={"provider": _kept("npi, name, taxonomy")},
)

READ: Mapping[str, FileElements] = {"ME": ME, "MC": MC, "PC": PC, "PV": PV}
