"""The spawn page's form: the grants by level, one button a purpose, and the reason where a grant is closed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, select_autoescape

from hub_config.control import Option

LEVELS = {
    "identified": (
        "Identified",
        "All columns of the grant, members by name. For the care and operation of one's own members.",
    ),
    "limited": ("Limited data set", "No direct identifiers; random tokens, dates and county are kept."),
    "safe_harbor": (
        "Safe harbor",
        "Years instead of dates, no county, ages 90 and over together, random tokens.",
    ),
    "aggregate": ("Aggregate", "No rows: only tables in which groups of 1 to 10 people are hidden."),
}
"""Level -> (name, one sentence) as the page says it; the page has them in this order."""

PURPOSES = {
    "program_administration": "Programme administration",
    "treatment": "Treatment",
    "payment": "Payment",
    "operations": "Health care operations",
    "public_health": "Public health",
    "research": "Research",
}
SEARCHABLE_FROM = 9
"""Grants on the page from which it has a field to find one."""

_environment = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")), autoescape=select_autoescape(["html"])
)


def render(options: Sequence[Option], trouble: str = "", givers: Sequence[str] = ()) -> str:
    """The form's HTML. `trouble` says why nothing can be chosen at all, `givers` who can give a grant."""
    open_now = [option for option in options if option.allowed and option.kind != "none"]
    choices = sum(len(option.purposes) for option in open_now)
    return _environment.get_template("options.html").render(
        trouble=trouble,
        givers=givers,
        open_now=open_now,
        by_level={level: found for level in LEVELS if (found := [o for o in open_now if o.level == level])},
        searchable=len(open_now) >= SEARCHABLE_FROM,
        reports_only=[option for option in options if option.allowed and option.kind == "none"],
        closed=[option for option in options if not option.allowed and option.code != "wrong-group"],
        only_one=choices == 1,
        levels=LEVELS,
        purposes=PURPOSES,
    )
