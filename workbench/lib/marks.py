"""Marking rows by whether others exist: as joins, which every engine can do and a compiler can share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ibis.expr.types as ir


def marked(rows: ir.Table, name: str, others: ir.Table, key: str) -> ir.Table:
    """The rows with a boolean column `name`: whether `others` has a row with the same `key`."""
    keys = others.select(found=others[key]).distinct()
    joined = rows.left_join(keys, rows[key] == keys.found)
    return joined.select(*(rows[column] for column in rows.columns), keys.found.notnull().name(name))


def joined_to(rows: ir.Table, others: ir.Table, key: str) -> ir.Table:
    """The rows with the other columns of `others`, which has at most one row for each `key`."""
    keys = others.rename(found=key)
    joined = rows.left_join(keys, rows[key] == keys.found)
    return joined.select(
        *(rows[column] for column in rows.columns), *(keys[c] for c in others.columns if c != key)
    )
