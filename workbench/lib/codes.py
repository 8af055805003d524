"""Matching codes on claims to value sets, exact or by their leading part, as joins that every engine can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from workbench.lib.tables import Tables

PROCEDURES = ("HCPCS", "CPT")


def matching(
    t: Tables, column: ir.StringColumn, value_sets: Sequence[str], systems: Sequence[str]
) -> ir.StringColumn:
    """The distinct codes of `column` that fall in any of the value sets: use as `column.isin(matching(…))`."""
    wanted = t.value_set.filter(
        t.value_set.value_set.isin(list(value_sets)), t.value_set.code_system.isin(list(systems))
    ).select(wanted="code", match="match")
    present = column.name("present").as_table().distinct()
    hits = present.join(
        wanted,
        (present.present == wanted.wanted)
        | ((wanted.match == "prefix") & (present.present.left(wanted.wanted.length()) == wanted.wanted)),
    )
    return hits.present


def diagnosed(t: Tables, value_set: str) -> ir.Table:
    """One row per diagnosis (claim, role, position) that falls in the value set; admitting diagnoses are left out.

    An admitting diagnosis is what was suspected at the door, not what was found.
    """
    rows = t.diagnosis.filter(t.diagnosis.role != "admitting", t.diagnosis.code_system == "ICD-10-CM")
    return rows.filter(rows.code.isin(matching(t, rows.code, [value_set], ["ICD-10-CM"])))
