"""A measure over the session's slice: computed there, served from the release's results, or refused."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from workbench.lib.fitness import Fit, require
from workbench.lib.measures import evidence, measure
from workbench.lib.result import MeasureResult
from workbench.lib.tables import Tables

if TYPE_CHECKING:
    from workbench.client.session import Session


def run(session: Session, name: str, *, year: int, visible_only: bool) -> MeasureResult:
    """The measure's events of one year with their rates and verdict. Raises UnknownMeasure, UnfitSlice."""
    chosen = measure(name)
    tables = session.tables
    fit = require(chosen, session.fitness, list(tables), visible_only=visible_only)
    t = Tables.from_backend(tables.__getitem__)
    source = evidence.from_results if fit.kind == "derived" else evidence.from_claims
    return MeasureResult(
        measure=chosen,
        year=year,
        events=source(t, chosen, year).execute(),
        fit=_stamped(fit, session),
        synthetic=session.synthetic,
        source=f"Grant {session.grant}, release {session.release}",
        plans=_plans(session, list(tables)),
    )


def _plans(session: Session, tables: Collection[str]) -> dict[str, str]:
    """Id -> name of the slice's plans; empty at a level that names no organisation."""
    if "organisation" not in tables:
        return {}
    rows = (
        session.sql("select organisation_id, name from organisation where kind = 'mcp'").arrow().to_pylist()
    )
    return {row["organisation_id"]: row["name"] for row in rows}


def _stamped(fit: Fit, session: Session) -> Fit:
    """The fit with whose events these are: a slice of present members is not the plan's population of that year."""
    if session.fitness.get("attribution") != "current":
        return fit
    words = "Events of the members whom this grant holds today, with whatever plan they had then."
    return Fit(fit.kind, f"{fit.reason} {words}".strip(), fit.hint)
