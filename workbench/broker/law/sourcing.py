"""A promise to remove claims is worth as much as what finds them: a list without a source, a drug that nobody knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError
from workbench.schema.sensitive import BY_DRUG, CATEGORIES, Category, can_exclude

if TYPE_CHECKING:
    from workbench.broker.grant_model import Grant
    from workbench.lake.release import Release


class UnsourcedCategory(WorkbenchError):
    """A grant must leave out a category whose claims nobody can find reliably in this release."""

    code = "unsourced-category"
    http_status = 403


class UnknownDrugs(WorkbenchError):
    """A grant must leave out a category that drugs tell of, and the release has drugs whose ingredient nobody knows."""

    code = "unknown-drugs"
    http_status = 403


def hides_by_drug(grant: Grant) -> tuple[Category, ...]:
    """The categories that the grant leaves out, of everybody or without consent, and that drugs tell of."""
    return tuple(c for c in Category if c in _hidden(grant) and c in BY_DRUG)


def _hidden(grant: Grant) -> set[str]:
    return {*grant.sensitive.excluded, *grant.sensitive.with_consent}


def unsourced(grant: Grant, *, synthetic: bool) -> tuple[Category, ...]:
    """The categories that the grant leaves out, of everybody or without consent, and cannot on such a release."""
    return tuple(c for c in Category if c in _hidden(grant) and not can_exclude(c, synthetic=synthetic))


def blocked(grant: Grant, release: Release) -> tuple[Category, ...]:
    """The categories that the grant must leave out of this release and that nobody can find in it reliably."""
    found = {*unsourced(grant, synthetic=release.synthetic)}
    if _names_not_all_drugs(release):
        found.update(hides_by_drug(grant))
    return tuple(c for c in Category if c in found)


def _names_not_all_drugs(release: Release) -> bool:
    return not release.synthetic and release.unknown_drugs != (0, 0)


def refuse_unsourced(grant: Grant, release: Release) -> None:
    """Refuses where the grant must leave out what nobody can find reliably in this release.

    Raises `UnsourcedCategory` where a code list is not good enough; on a release of real people `UnknownDrugs` where
    a category is told of by drugs and a fill's ingredient is not known.
    """
    found = unsourced(grant, synthetic=release.synthetic)
    if found:
        titles = ", ".join(f"{c} ({CATEGORIES[c].sourcing})" for c in found)
        raise UnsourcedCategory(
            f"Grant {grant.name} must leave out {titles}, and the code list of that is not good enough for this release.",
            hint="A sourced list, or a grant that includes the category, is what helps: docs/sensitive.md says which lists there are.",
        )
    by_drug = hides_by_drug(grant)
    if by_drug and _names_not_all_drugs(release):
        raise UnknownDrugs(
            f"Grant {grant.name} must leave out {', '.join(by_drug)}, which drugs tell of, and {_uncounted(release)}.",
            hint="Bring ndc_ingredients.csv (ndc,ingredient) with the sources and build again: docs/sensitive.md says how.",
        )


def _uncounted(release: Release) -> str:
    if release.unknown_drugs is None:
        return "this release was built before drugs of unknown ingredient were counted"
    fills, lines = release.unknown_drugs
    return (
        f"the ingredient of the drug is not known for {fills:,} fills and {lines:,} lines of medical claims"
    )
