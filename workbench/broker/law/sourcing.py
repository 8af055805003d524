"""A promise to remove claims is worth as much as the list that finds them: categories without a source block a grant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError
from workbench.schema.sensitive import CATEGORIES, Category, can_exclude

if TYPE_CHECKING:
    from workbench.broker.grant_model import Grant
    from workbench.lake.release import Release


class UnsourcedCategory(WorkbenchError):
    """A grant must leave out a category whose claims nobody can find reliably in this release."""

    code = "unsourced-category"
    http_status = 403


def unsourced(grant: Grant, *, synthetic: bool) -> tuple[Category, ...]:
    """The categories that the grant leaves out, of everybody or without consent, and cannot on such a release."""
    hidden = {*grant.sensitive.excluded, *grant.sensitive.with_consent}
    return tuple(c for c in Category if c in hidden and not can_exclude(c, synthetic=synthetic))


def refuse_unsourced(grant: Grant, release: Release) -> None:
    """Raises `UnsourcedCategory` where the grant must leave out a category whose code list is not good enough."""
    found = unsourced(grant, synthetic=release.synthetic)
    if found:
        titles = ", ".join(f"{c} ({CATEGORIES[c].sourcing})" for c in found)
        raise UnsourcedCategory(
            f"Grant {grant.name} must leave out {titles}, and the code list of that is not good enough for this release.",
            hint="A sourced list, or a grant that includes the category, is what helps: docs/sensitive.md says which lists there are.",
        )
