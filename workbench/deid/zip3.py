"""The ZIP3 rule of Safe Harbor, as data: 45 CFR 164.514(b)(2)(i)(B).

Three digits of a ZIP code may stay where more than 20,000 people live in all ZIP codes that begin with them; else
`000`. What is not known to be populated enough is `000` as well.
"""

from __future__ import annotations

UNKNOWN = "000"

RESTRICTED_2000 = frozenset(
    [
        "036",
        "059",
        "063",
        "102",
        "203",
        "556",
        "692",
        "790",
        "821",
        "823",
        "830",
        "831",
        "878",
        "879",
        "884",
        "890",
        "893",
    ]
)
"""20,000 people or fewer by the 2000 Census. Source: HHS, Guidance Regarding Methods for De-identification (2012)."""

RESTRICTED_2010 = frozenset("036 059 102 203 205 369 556 692 821 823 878 879 884 893".split())
"""The same by the 2010 Census. Source: public tabulations of Census ZCTA populations, five of which agree."""

NO_RESIDENTS_2010 = frozenset("202 204 753 772".split())
"""ZIP3s that such a tabulation finds with hardly any residents and the lists in use leave out: restricted, too."""

RESTRICTED = RESTRICTED_2000 | RESTRICTED_2010 | NO_RESIDENTS_2010
"""All lists together: what either Census calls small is small."""

_NO_RESIDENTS = frozenset({"901", "909", "929", "938", "942"})
"""California prefixes with few or no residents (post boxes, government) or out of use. Unverified; leaving out is safe."""

POPULATED = frozenset(str(prefix) for prefix in range(900, 962)) - _NO_RESIDENTS - RESTRICTED
"""California's ZIP3s (USPS prefixes 900-961) that keep their digits; any other ZIP3 is `000` until a population
table says that it has more than 20,000 people."""


def zip3(zip_code: str | None) -> str:
    """The ZIP3 that Safe Harbor permits for a ZIP code of five or nine digits."""
    text = (zip_code or "").strip()
    digits = text.replace("-", "")
    if not digits.isascii() or not digits.isdigit() or len(digits) not in (5, 9):
        return UNKNOWN
    return digits[:3] if digits[:3] in POPULATED else UNKNOWN


def expression(source: str) -> str:
    """The same rule as SQL (DuckDB) over a VARCHAR expression."""
    known = ", ".join(f"'{prefix}'" for prefix in sorted(POPULATED))
    digits = f"replace(trim({source}), '-', '')"
    valid = f"regexp_full_match({digits}, '[0-9]{{5}}([0-9]{{4}})?')"
    return f"CASE WHEN {valid} AND left({digits}, 3) IN ({known}) THEN left({digits}, 3) ELSE '{UNKNOWN}' END"
