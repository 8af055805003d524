"""What the invented people are treated for, by whom and with what: codes only, no licensed descriptions.

Diagnoses are ICD-10-CM, procedures CPT/HCPCS, bill types and revenue codes NUBC, places of service CMS, taxonomies
NUCC. Frequencies are invented.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ProviderKind:
    """`per_million` providers for a million people of the county, at least one in counties above `from_population`."""

    taxonomy: str
    title: str
    per_million: float
    from_population: int = 0
    part2: bool = False


PROVIDER_KINDS: Mapping[str, ProviderKind] = {
    "hospital": ProviderKind("282N00000X", "Hospital", 4),
    "emergency": ProviderKind("207P00000X", "Emergency Physicians", 8),
    "family": ProviderKind("207Q00000X", "Family Medicine", 40),
    "internal": ProviderKind("207R00000X", "Internal Medicine", 25),
    "pediatrics": ProviderKind("208000000X", "Pediatrics", 25),
    "obstetrics": ProviderKind("207V00000X", "Obstetrics and Gynecology", 12),
    "psychiatry": ProviderKind("2084P0800X", "Psychiatry", 10),
    "psychology": ProviderKind("103TC0700X", "Psychology", 15),
    "social_work": ProviderKind("1041C0700X", "Clinical Social Work", 18),
    "mental_center": ProviderKind("261QM0801X", "Community Mental Health Center", 3),
    "dual_program": ProviderKind("261QM0801X", "Dual Recovery Program", 1, 150_000, True),
    "sud_clinic": ProviderKind("261QR0405X", "Recovery Clinic", 3, 25_000, True),
    "opioid_program": ProviderKind("261QM2800X", "Opioid Treatment Program", 1.5, 100_000, True),
    "sud_residential": ProviderKind("324500000X", "Recovery House", 1.5, 100_000, True),
    "health_center": ProviderKind("261QF0400X", "Community Health Center", 12),
    "laboratory": ProviderKind("291U00000X", "Laboratory", 2),
    "pharmacy": ProviderKind("3336C0003X", "Pharmacy", 30),
    "nursing": ProviderKind("314000000X", "Nursing and Rehabilitation", 6),
    "hospice": ProviderKind("251G00000X", "Hospice", 2),
}


@dataclass(frozen=True)
class Line:
    """One line of a claim: revenue code (facility claims), one of `procedures`, usual charge in dollars."""

    revenue: str
    procedures: tuple[str, ...]
    charge: int
    modifier: str = ""


@dataclass(frozen=True)
class Template:
    """How a visit is billed: `kinds` are the providers that do it, one is chosen."""

    bill_type: str
    place: str
    kinds: tuple[str, ...]
    lines: tuple[Line, ...]
    state: bool = False
    """Sent by the state carve-out instead of the member's plan."""


def _pro(
    place: str, kinds: str, procedures: str, charge: int, modifier: str = "", state: bool = False
) -> Template:
    return Template(
        "", place, tuple(kinds.split()), (Line("", tuple(procedures.split()), charge, modifier),), state
    )


_PCP = "family internal health_center"
TEMPLATES: Mapping[str, Template] = {
    "office": _pro("11", _PCP, "99213 99214 99213 99212", 140),
    "office_child": _pro("11", "pediatrics family health_center", "99213 99214 99213", 140),
    "office_labs": Template(
        "", "11", tuple(_PCP.split()), (Line("", ("99213", "99214"), 140), Line("", ("83036", "80053"), 32))
    ),
    "telehealth": _pro("10", _PCP, "99213 99212 99214", 120, "95"),
    "preventive_adult": _pro("11", _PCP, "99395 99396 99385 99386", 190),
    "preventive_child": _pro("11", "pediatrics family health_center", "99391 99392 99393 99394", 170),
    "laboratory": _pro("81", "laboratory", "80053 80061 83036 85025", 38),
    "mammogram": _pro("11", "internal family", "77067", 210),
    "cytology": _pro("11", "obstetrics family", "88142 88175", 60),
    "prenatal": _pro("11", "obstetrics family", "99213 99214", 150),
    "emergency": Template(
        "0131",
        "",
        ("hospital",),
        (Line("0450", ("99283", "99284", "99282", "99285"), 980), Line("0300", ("80053", "85025"), 120)),
    ),
    "emergency_physician": _pro("23", "emergency", "99283 99284 99285", 420),
    "inpatient": Template(
        "0111",
        "",
        ("hospital",),
        (Line("0120", ("",), 3900), Line("0250", ("",), 620), Line("0300", ("",), 540)),
    ),
    "inpatient_psychiatric": Template(
        "0111", "", ("hospital",), (Line("0124", ("",), 2400), Line("0250", ("",), 260)), True
    ),
    "inpatient_detox": Template(
        "0111", "", ("hospital",), (Line("0126", ("",), 2600), Line("0250", ("",), 410))
    ),
    "delivery": Template(
        "0111",
        "",
        ("hospital",),
        (Line("0112", ("",), 4800), Line("0720", ("",), 2100), Line("0250", ("",), 330)),
    ),
    "delivery_physician": _pro("21", "obstetrics", "59409 59409 59514", 2600),
    "newborn": Template("0111", "", ("hospital",), (Line("0171", ("",), 1900),)),
    "nursing": Template("0211", "", ("nursing",), (Line("0191", ("",), 410), Line("0250", ("",), 90))),
    "hospice": Template("0813", "", ("hospice",), (Line("0651", ("Q5001",), 240),)),
    "therapy": _pro("11", "psychology social_work", "90834 90837 90832 90791", 160),
    "therapy_telehealth": _pro("10", "psychology social_work", "90834 90837", 150, "95"),
    "psychiatrist": _pro("11", "psychiatry", "99214 99213 99215", 210),
    "primary_mental": _pro("11", _PCP, "99214 99213", 150),
    "county_therapy": _pro(
        "53", "mental_center social_work psychology", "90837 90834 90791 90832", 185, "", True
    ),
    "county_psychiatrist": _pro("53", "psychiatry", "99214 99215", 230, "", True),
    "county_telehealth": _pro("10", "psychiatry mental_center", "99214 90834", 205, "95", True),
    "dual_program": _pro("53", "dual_program", "90837 90834 99214", 195, "", True),
    "recovery_counselling": _pro("57", "sud_clinic", "H0004 H0005 H0001 H0004", 95, "HG", True),
    "recovery_intensive": _pro("57", "sud_clinic", "H0015", 170, "HG", True),
    "opioid_methadone": _pro("58", "opioid_program", "H0020", 22, "HG", True),
    "recovery_residential": Template(
        "0863", "", ("sud_residential",), (Line("1002", ("H0018", "H0019"), 330, "HF"),), True
    ),
    "office_moud": _pro("11", _PCP, "99214 99213", 150),
    "family_planning": _pro("11", "obstetrics family health_center", "99213 99214", 140),
    "contraceptive_device": Template(
        "",
        "11",
        ("obstetrics", "health_center"),
        (Line("", ("58300",), 190), Line("", ("J7298", "J7300"), 980)),
    ),
    "termination": _pro("11", "obstetrics health_center", "59840 S0199", 640),
    "infection_test": _pro("81", "laboratory", "87491 87591 87389", 45),
    "genetic_test": _pro("81", "laboratory", "81162 81220 S3850", 1250),
}

MENTAL_SEVERE = ("F209", "F259", "F319", "F314", "F332", "F333", "F29", "F4310")
MENTAL_MILD = ("F329", "F411", "F331", "F4310", "F321", "F4010")
MENTAL_CHILD = ("F329", "F411", "F3481", "F4310", "F319", "F321")
SELF_HARM = ("T1491XA", "T391X2A", "T43222A", "X789XXA", "X838XXA")
SELF_HARM_INJURY = ("S61512A", "S51812A")
OPIOID, ALCOHOL, STIMULANT = ("F1120", "F1123"), ("F1020", "F10239", "F1010"), ("F1520", "F1510", "F1420")
ACUTE = ("J069", "J029", "R0789", "R109", "N390", "M545", "S93401A", "R51", "J209", "B349", "L0390", "R42")
INJURY = ("S0990XA", "S61219A", "S93401A", "S8001XA", "R0789", "R109", "N390", "J189", "K529", "R51")
ADMISSION = ("A419", "J189", "I5023", "I214", "K8000", "N179", "E1110", "L03116", "J441", "K5720")
PREVENTIVE = ("Z0000", "Z00129")
DIABETES, HYPERTENSION, ASTHMA = "E119", "I10", "J4540"
PREGNANCY, DELIVERY, LIVE_BIRTH, NEWBORN, SCREENING, END_OF_LIFE = (
    "Z3400",
    "O80",
    "Z370",
    "Z3800",
    "Z1231",
    "Z515",
)
SUPPORT = ("I509", "J449", "G309", "C349")
OVERDOSE = ("T401X1A", "T40601A")
CONTRACEPTION, DEVICE, TERMINATION = ("Z30011", "Z3041", "Z3009", "Z3042"), "Z30430", "Z332"
SEXUAL_INFECTION, SEXUAL_SCREENING = ("A5600", "A5400", "A539"), "Z113"
HIV, HIV_SCREENING, HIV_PROPHYLAXIS = ("B20", "Z21"), "Z114", "Z2981"
GENDER, GENDER_HISTORY = ("F640", "F649"), "Z87890"
PARTNER_VIOLENCE, PARTNER_COUNSELLING = ("T7411XA", "T7431XA"), "Z6911"
GENETIC = ("Z1371", "Z1379", "Z1501", "Z148")

DIAGNOSES: tuple[str, ...] = (
    "",
    *dict.fromkeys(
        (
            *MENTAL_SEVERE,
            *MENTAL_MILD,
            *MENTAL_CHILD,
            *SELF_HARM,
            *SELF_HARM_INJURY,
            *OPIOID,
            *ALCOHOL,
            *STIMULANT,
            *ACUTE,
            *INJURY,
            *ADMISSION,
            *PREVENTIVE,
            *SUPPORT,
            *OVERDOSE,
            *CONTRACEPTION,
            DEVICE,
            TERMINATION,
            *SEXUAL_INFECTION,
            SEXUAL_SCREENING,
            *HIV,
            HIV_SCREENING,
            HIV_PROPHYLAXIS,
            *GENDER,
            GENDER_HISTORY,
            *PARTNER_VIOLENCE,
            PARTNER_COUNSELLING,
            *GENETIC,
            DIABETES,
            HYPERTENSION,
            ASTHMA,
            PREGNANCY,
            DELIVERY,
            LIVE_BIRTH,
            NEWBORN,
            SCREENING,
            END_OF_LIFE,
        )
    ),
)
"""Every diagnosis that is used; events carry positions in this tuple, 0 is none."""


@dataclass(frozen=True)
class Drug:
    """One product: our ingredient name, units and days of a usual fill, cost in dollars."""

    ingredient: str
    quantity: int
    days: int
    cost: int


DRUGS: Mapping[str, tuple[Drug, ...]] = {
    "diabetes": (Drug("metformin", 60, 30, 9), Drug("insulin glargine", 15, 30, 140)),
    "hypertension": (Drug("lisinopril", 30, 30, 7), Drug("amlodipine", 30, 30, 8)),
    "asthma": (Drug("albuterol", 1, 30, 38), Drug("fluticasone", 1, 30, 160)),
    "antidepressant": (Drug("sertraline", 30, 30, 8), Drug("fluoxetine", 30, 30, 9)),
    "antipsychotic": (
        Drug("quetiapine", 60, 30, 18),
        Drug("aripiprazole", 30, 30, 22),
        Drug("risperidone", 60, 30, 14),
        Drug("olanzapine", 30, 30, 16),
    ),
    "opioid_use": (Drug("buprenorphine", 28, 14, 62), Drug("naltrexone", 30, 30, 48)),
    "alcohol_use": (Drug("naltrexone", 30, 30, 48), Drug("acamprosate", 180, 30, 75)),
    "infection": (Drug("amoxicillin", 21, 7, 6), Drug("ibuprofen", 30, 10, 5)),
    "contraception": (
        Drug("norethindrone", 28, 28, 12),
        Drug("levonorgestrel-ethinyl estradiol", 28, 28, 14),
    ),
    "hiv": (Drug("bictegravir-emtricitabine-tenofovir", 30, 30, 3900),),
    "prophylaxis": (Drug("emtricitabine-tenofovir", 30, 30, 40),),
}
