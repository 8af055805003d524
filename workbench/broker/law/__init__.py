"""What the law says of a grant: five truth tables as data, the notice of 42 CFR 2.32, and unsourced categories.

Nobody with a licence to practise law has read these tables: every row says that it needs counsel's review.
"""

from workbench.broker.law.notice import NOTICE_2_32, NOTICE_NAME
from workbench.broker.law.sourcing import (
    UnknownDrugs,
    UnsourcedCategory,
    blocked,
    hides_by_drug,
    refuse_unsourced,
    unsourced,
)
from workbench.broker.law.tables import LAWS, Law, Row, allowing, laws, refusing, silent

__all__ = [
    "LAWS",
    "NOTICE_2_32",
    "NOTICE_NAME",
    "Law",
    "Row",
    "UnknownDrugs",
    "UnsourcedCategory",
    "allowing",
    "blocked",
    "hides_by_drug",
    "laws",
    "refuse_unsourced",
    "refusing",
    "silent",
    "unsourced",
]
