"""The invented Medi-Cal as data: plans and where they work, who lives where, how often things happen.

Plan ids and names are those of grants/organisations.yaml. Shares are rough public knowledge of Medi-Cal's make-up,
good enough for pictures that look right; nothing here is an estimate of anything. Real are only the names of
counties, county seats and the first three digits of their ZIP codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

FIRST_MONTH = (2023, 1)
MONTHS = 36
FIRST_DAY = date(2023, 1, 1)
LAST_DAY = date(2025, 12, 31)
AS_OF = date(2026, 1, 31)
YEARS = (2023, 2024, 2025)

STATE = "dhcs"
"""Submitter of what is carved out of the plans: pharmacy (Medi-Cal Rx) and county specialty behavioral health."""
STATE_NAME = "State carve-out (synthetic)"

PLANS: Mapping[str, str] = {
    "sierra-vista": "Sierra Vista Health Plan",
    "golden-poppy": "Golden Poppy Community Plan",
    "redwood-coast": "Redwood Coast Health Alliance",
    "mission-peak": "Mission Peak Care",
}

FOOTPRINT: Mapping[str, Mapping[str, str]] = {
    "sierra-vista": {
        "alone": "02 03 05 09 14 16 20 22 24 26 39 50 54 55",
        "shared": "10 15 34 37 31",
    },
    "golden-poppy": {"alone": "13 30 33 36", "shared": "10 15 19 37 56"},
    "redwood-coast": {
        "alone": "04 06 08 11 12 17 18 21 23 25 28 29 32 45 46 47 48 49 51 52 53 57 58",
        "shared": "31 34 07",
    },
    "mission-peak": {"alone": "01 27 35 38 40 41 42 43 44", "shared": "19 56 07"},
}
"""County codes of each plan; a shared county has two plans."""

SECOND_PLAN_SHARE = 0.4
"""Share of a shared county's members in the later-listed of its two plans."""

SEATS_AND_ZIPS: Mapping[str, tuple[str, str]] = {
    "01": ("Oakland", "945 946 947"),
    "02": ("Markleeville", "961"),
    "03": ("Jackson", "956"),
    "04": ("Oroville", "959"),
    "05": ("San Andreas", "952"),
    "06": ("Colusa", "959"),
    "07": ("Martinez", "945 948"),
    "08": ("Crescent City", "955"),
    "09": ("Placerville", "956 957"),
    "10": ("Fresno", "936 937"),
    "11": ("Willows", "959"),
    "12": ("Eureka", "955"),
    "13": ("El Centro", "922"),
    "14": ("Independence", "935"),
    "15": ("Bakersfield", "932 933"),
    "16": ("Hanford", "932"),
    "17": ("Lakeport", "954"),
    "18": ("Susanville", "961"),
    "19": ("Los Angeles", "900 902 904 906 907 908 910 912 913 914 917 918 935"),
    "20": ("Madera", "936"),
    "21": ("San Rafael", "949"),
    "22": ("Mariposa", "953"),
    "23": ("Ukiah", "954"),
    "24": ("Merced", "953"),
    "25": ("Alturas", "961"),
    "26": ("Bridgeport", "935"),
    "27": ("Salinas", "939"),
    "28": ("Napa", "945"),
    "29": ("Nevada City", "959"),
    "30": ("Santa Ana", "926 927 928"),
    "31": ("Auburn", "956 957"),
    "32": ("Quincy", "959"),
    "33": ("Riverside", "922 925"),
    "34": ("Sacramento", "956 958"),
    "35": ("Hollister", "950"),
    "36": ("San Bernardino", "917 923 924"),
    "37": ("San Diego", "919 920 921"),
    "38": ("San Francisco", "941"),
    "39": ("Stockton", "952"),
    "40": ("San Luis Obispo", "934"),
    "41": ("Redwood City", "940 944"),
    "42": ("Santa Barbara", "931 934"),
    "43": ("San Jose", "950 951"),
    "44": ("Santa Cruz", "950"),
    "45": ("Redding", "960"),
    "46": ("Downieville", "961"),
    "47": ("Yreka", "960"),
    "48": ("Fairfield", "945"),
    "49": ("Santa Rosa", "954"),
    "50": ("Modesto", "953"),
    "51": ("Yuba City", "959"),
    "52": ("Red Bluff", "960"),
    "53": ("Weaverville", "960"),
    "54": ("Visalia", "932"),
    "55": ("Sonora", "953"),
    "56": ("Ventura", "930"),
    "57": ("Woodland", "956"),
    "58": ("Marysville", "959"),
}

RACES = ("hispanic", "white", "asian", "black", "aian", "nhpi", "multiple", "unknown")
RACE_CODE = {
    "white": "2106-3",
    "asian": "2028-9",
    "black": "2054-5",
    "aian": "1002-5",
    "nhpi": "2076-8",
    "unknown": "UNKNOW",
    "hispanic": "2106-3",
    "multiple": "2054-5",
}
"""CDC code sent as race 1. Hispanic members also carry the Hispanic indicator, "multiple" a second race (white)."""

RACE_MIX: Mapping[str, tuple[float, ...]] = {
    "North": (0.17, 0.62, 0.03, 0.02, 0.045, 0.005, 0.04, 0.07),
    "Sacramento Valley": (0.30, 0.32, 0.13, 0.11, 0.012, 0.016, 0.04, 0.072),
    "Bay Area": (0.36, 0.16, 0.24, 0.12, 0.006, 0.014, 0.03, 0.07),
    "Central Coast": (0.66, 0.21, 0.03, 0.02, 0.007, 0.003, 0.02, 0.05),
    "San Joaquin Valley": (0.62, 0.18, 0.07, 0.06, 0.009, 0.003, 0.018, 0.04),
    "Sierra": (0.18, 0.66, 0.02, 0.015, 0.03, 0.005, 0.03, 0.06),
    "Los Angeles": (0.58, 0.12, 0.10, 0.11, 0.004, 0.004, 0.022, 0.06),
    "South": (0.52, 0.20, 0.10, 0.07, 0.008, 0.006, 0.026, 0.07),
}
"""Shares of RACES by region of the county of residence."""

LANGUAGES: Mapping[str, tuple[tuple[str, float], ...]] = {
    "hispanic": (("English", 0.52), ("Spanish", 0.48)),
    "white": (("English", 0.88), ("Armenian", 0.05), ("Russian", 0.03), ("Farsi", 0.02), ("Arabic", 0.02)),
    "asian": (
        ("English", 0.42),
        ("Vietnamese", 0.18),
        ("Cantonese", 0.12),
        ("Mandarin", 0.10),
        ("Hmong", 0.06),
        ("Tagalog", 0.05),
        ("Korean", 0.04),
        ("Punjabi", 0.03),
    ),
    "black": (("English", 1.0),),
    "aian": (("English", 1.0),),
    "nhpi": (("English", 0.93), ("Samoan", 0.07)),
    "multiple": (("English", 0.95), ("Spanish", 0.05)),
    "unknown": (("English", 0.80), ("Spanish", 0.20)),
}

AGE_BANDS = ((0, 6, 0.115), (6, 18, 0.235), (18, 26, 0.13), (26, 45, 0.25), (45, 65, 0.17), (65, 98, 0.10))
"""First age, age after the last, share: ages at the middle of the period, newborns apart."""
NEWBORN_SHARE = 0.034
"""Members born within the three years."""

LATE_ENTRY, EARLY_EXIT, ONE_GAP, TWO_GAPS = 0.10, 0.10, 0.08, 0.02
PLAN_CHANGE, COUNTY_MOVE = 0.09, 0.06
"""Shares of members over the three years."""

FOLLOW_UP_30 = 0.28
"""Planned follow-up within 30 days of a mental-health ED visit before the shifts below; other care adds to it."""
FOLLOW_UP_EARLY = 0.72
"""Share of these within the first eight days (day 0 to 7)."""
FOLLOW_UP_BY_RACE = (0.05, 0.3, 0.12, -0.75, -0.6, -0.3, 0.0, -0.1)
"""Shifts on the log-odds scale, in the order of RACES."""
FOLLOW_UP_BY_PLAN = (0.05, -0.2, 0.12, 0.22)
FOLLOW_UP_COUNTY_SD = 0.4
"""Spread of the counties on the log-odds scale; weighted by population their mean is 0."""
FOLLOW_UP_BY_MONTH = (-0.15, -0.05, 0.1, 0.15, 0.12, 0.0, -0.15, -0.1, 0.1, 0.15, 0.05, -0.3)
FOLLOW_UP_TREND = 0.12
"""Added per year."""

SUPERSEDED, VOIDED, REPEATED, DENIED = 0.012, 0.005, 0.008, 0.06
"""Shares of claims: sent again in a higher version, voided later, sent twice as it is, refused by the payer."""
BROKEN_PER_100_000 = 60
"""Broken records of each sort per 100,000 claim lines, at least one."""
