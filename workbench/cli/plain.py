"""Words that others wrote, for a terminal: neither markup nor control codes in them do anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text


def plain(value: object) -> Text:
    """The value as text; a character that is not printable becomes the sign for an unknown one, a line's end stays. None is empty."""
    from rich.text import Text

    words = "" if value is None else str(value)
    return Text("".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in words))
