"""Matching codes on claims to value sets, exact or by their leading part, as joins that every engine can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import ibis

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from workbench.lib.tables import Tables

LINE_CODES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "procedure_code": ("HCPCS", "CPT"),
        "revenue_code": ("REV",),
        "place_of_service": ("POS",),
        "bill_type": ("BILL_TYPE",),
    }
)
"""Column of a line (bill type: of its claim) -> the code systems that it is written in."""


def line_kinds(t: Tables, lines: ir.Table, value_sets: Sequence[str]) -> ir.Table:
    """What each line is, by its codes: one row per line and value set that one of its codes falls in.

    Columns: claim_id, member_id, line_number, day, value_set. Lines that fall in none are absent.
    """
    parts = []
    for column, systems in LINE_CODES.items():
        known = _known(t, lines[column], value_sets, systems)
        coded = lines.join(known, lines[column] == known.present)
        parts.append(coded.select("claim_id", "member_id", "line_number", "day", "value_set"))
    return ibis.union(*parts, distinct=True)


def diagnosis_kinds(t: Tables, value_sets: Sequence[str]) -> ir.Table:
    """What each claim was for: one row per claim, role of the diagnosis and value set that its code falls in.

    Columns: claim_id, role, value_set. Admitting diagnoses are left out: they say what was suspected at the door, not
    what was found.
    """
    d = t.diagnosis.filter(t.diagnosis.role != "admitting", t.diagnosis.code_system == "ICD-10-CM")
    known = _known(t, d.code, value_sets, ["ICD-10-CM"])
    return d.join(known, d.code == known.present).select("claim_id", "role", "value_set").distinct()


def _known(t: Tables, column: ir.StringColumn, value_sets: Sequence[str], systems: Sequence[str]) -> ir.Table:
    """The distinct codes of `column` with each value set that they fall in: present, value_set."""
    v = t.value_set
    wanted = v.filter(v.value_set.isin(list(value_sets)), v.code_system.isin(list(systems))).select(
        "value_set", "match", wanted="code"
    )
    present = column.name("present").as_table().distinct()
    leads = (wanted.match == "prefix") & (present.present.left(wanted.wanted.length()) == wanted.wanted)
    hits = present.join(wanted, (present.present == wanted.wanted) | leads)
    return hits.select("present", "value_set").distinct()
