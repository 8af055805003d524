"""Parts the rows of a loaded CSV file into those that are used and those that are set aside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.lake.layouts.stage import Stage

LOADED, JUDGED = "loaded", "judged"


def judge(stage: Stage, rules: Sequence[tuple[str, str]]) -> None:
    """Sets aside the rows of the table `loaded` that meet a rule (condition, reason), the first that applies.

    The others are the temporary table `judged`.
    """
    whens = " ".join(f"WHEN {condition} THEN '{reason}'" for condition, reason in rules)
    stage.con.execute(
        f"CREATE OR REPLACE TEMP TABLE reasons AS SELECT *, CASE {whens} END AS reason FROM {LOADED}"
    )
    stage.set_aside("SELECT source_file, source_row, reason FROM reasons WHERE reason IS NOT NULL")
    stage.con.execute(
        f"CREATE OR REPLACE TEMP TABLE {JUDGED} AS SELECT * EXCLUDE (reason) FROM reasons WHERE reason IS NULL"
    )
    stage.con.execute(f"DROP TABLE reasons; DROP TABLE {LOADED}")


def unreadable(macro: str, columns: Iterable[str]) -> str:
    """SQL: one of the columns holds something that the stage's macro cannot read; empty ones are fine."""
    return " OR ".join(f"(wb_text({c}) IS NOT NULL AND {macro}({c}) IS NULL)" for c in columns)


def mapped(expression: str, values: Mapping[str, str], otherwise: str = "NULL") -> str:
    """SQL: the meaning of a code, upper case and trimmed."""
    whens = " ".join(f"WHEN '{code}' THEN '{meaning}'" for code, meaning in values.items())
    return f"CASE upper(trim({expression})) {whens} ELSE {otherwise} END"


def code_list(entries: Iterable[tuple[str, int, str, str]]) -> str:
    """SQL: a list of diagnoses from (role, position, code system, SQL of the code), without empty codes."""
    structs = ", ".join(
        f"{{'role': '{role}', 'position': {position}, 'code_system': {system}, 'code': {code}}}"
        for role, position, system, code in entries
    )
    return f"list_filter([{structs}], lambda dx: dx.code IS NOT NULL)"


def procedure_list(entries: Iterable[tuple[int, str, str, str]]) -> str:
    """SQL: a list of ICD procedures from (position, code system, SQL of the code, SQL of the day)."""
    structs = ", ".join(
        f"{{'position': {position}, 'code_system': {system}, 'code': {code}, 'procedure_date': {day}}}"
        for position, system, code, day in entries
    )
    return f"list_filter([{structs}], lambda px: px.code IS NOT NULL)"
