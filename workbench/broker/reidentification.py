"""How easily the members of a de-identified slice could be singled out: the sizes of their equivalence classes.

An equivalence class is all members of the slice with the same values of all quasi-identifiers (sex, race, language,
birth, ZIP, geography, as the slice holds them). Every figure counts members, so that a quantile says in how large a
class the member at that place is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from workbench.deid.levels import Served
from workbench.schema import IdentifierClass

QUASI_IDENTIFIERS = frozenset(
    {IdentifierClass.QUASI, IdentifierClass.BIRTH_DATE, IdentifierClass.ZIP, IdentifierClass.GEOGRAPHY}
)
SMALL = 11
"""Classes of fewer members are small. Source: CalHHS Data De-Identification Guidelines, the least count to publish."""
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95)


def equivalence_classes(
    con: duckdb.DuckDBPyConnection, parts: Sequence[Path], served: tuple[Served, ...]
) -> dict[str, Any]:
    """The smallest class, how many members are alone, the quantiles of class sizes, the share in small classes."""
    names = [c.name for c in served if c.column.identifier_class in QUASI_IDENTIFIERS]
    listed = ", ".join(f'"{name}"' for name in names) or "everyone"
    files = ", ".join("'" + str(part).replace("'", "''") + "'" for part in parts)
    people = f"(SELECT 1 AS everyone, * FROM read_parquet([{files}]))"
    sizes = f"SELECT count(*) AS n FROM {people} GROUP BY {listed}"
    smallest, alone, classes, members, small = con.execute(
        "SELECT coalesce(min(n), 0), count(*) FILTER (n = 1), count(*), coalesce(sum(n), 0)::BIGINT, "
        f"coalesce(sum(n) FILTER (n < {SMALL}), 0)::BIGINT FROM ({sizes})"
    ).fetchall()[0]
    each = f"SELECT unnest(range(n)) AS place, n FROM ({sizes})"
    found = con.execute(f"SELECT quantile_disc(n, {list(QUANTILES)}) FROM ({each})").fetchall()[0][0]
    quantiles = {f"{q:.2f}": int(n) for q, n in zip(QUANTILES, found or [], strict=False)}
    return {
        "quasi_identifiers": names,
        "smallest": smallest,
        "members_alone": alone,
        "classes": classes,
        "members": members,
        "quantiles": quantiles,
        "members_below_11": small,
        "share_below_11": round(small / members, 4) if members else 0.0,
    }
