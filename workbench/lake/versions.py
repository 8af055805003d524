"""Claim versions: the highest version of a claim replaces the others; a void one says that it never happened.

Pure functions over a table of claim lines with (claim_id, version, line_number, claim_status, member_id), where
claim_status is paid, denied or void. The same functions serve the release build and the measure decks.
Rule: the issue's deck format; APCD-CDL sends replacements under the same control number with a higher version.
"""

from __future__ import annotations

from collections.abc import Sequence

import ibis
from ibis.expr import types as ir

FINAL, SUPERSEDED, VOID, DUPLICATE = "final", "superseded", "void", "duplicate"


def claim_versions(lines: ir.Table) -> ir.Table:
    """One row per claim and version: claim_id, version, member_id, claim_status, outcome, lines.

    A version is void where every line of it is sent as void, paid where one line is paid, else denied. `outcome` is superseded below
    the highest version, and void or final for that one. `lines` counts distinct line numbers.
    """
    submitted = lines.group_by("claim_id", "version").agg(
        member_id=lines.member_id.min(),
        paid=(lines.claim_status == "paid").any(),
        void_lines=lines.line_number.nunique(where=lines.claim_status == VOID),
        lines=lines.line_number.nunique().cast("int32"),
    )
    highest = submitted.group_by("claim_id").agg(highest=submitted.version.max())
    joined = submitted.join(highest, "claim_id")
    void = joined.void_lines == joined.lines
    return joined.select(
        "claim_id",
        "version",
        "member_id",
        claim_status=ibis.cases((void, VOID), (joined.paid, "paid"), else_="denied"),
        outcome=ibis.cases((joined.version < joined.highest, SUPERSEDED), (void, VOID), else_=FINAL),
        lines=joined.lines,
    )


def line_outcomes(lines: ir.Table, order: Sequence[str] = ()) -> ir.Table:
    """The lines as given, each with its `outcome`: final, superseded, void or duplicate.

    The same claim, version and line twice is a duplicate: the first by `order` stays (without `order`, the first by
    all other columns, so that shuffled rows give one answer). A line that is also
    sent as void is void.
    """
    key = ["claim_id", "version", "line_number"]
    by = list(order) or [c for c in sorted(lines.columns) if c not in key and not lines[c].type().is_nested()]
    versions = claim_versions(lines).select("claim_id", "version", version_outcome=ibis._.outcome)
    same_line = ibis.window(group_by=key)
    nth = lines.mutate(
        nth=ibis.row_number().over(group_by=key, order_by=by),
        line_void=(lines.claim_status == VOID).any().over(same_line),
    )
    joined = nth.join(versions, ["claim_id", "version"])
    return joined.select(
        *lines.columns,
        outcome=ibis.cases(
            (joined.version_outcome != FINAL, joined.version_outcome),
            (joined.line_void, VOID),
            (joined.nth > 0, DUPLICATE),
            else_=FINAL,
        ),
    )


def final_versions(lines: ir.Table, order: Sequence[str] = ()) -> ir.Table:
    """The lines that count, each once: those whose outcome is final, with the columns as given."""
    outcomes = line_outcomes(lines, order)
    return outcomes.filter(outcomes.outcome == FINAL).select(*lines.columns)
