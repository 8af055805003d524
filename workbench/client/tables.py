"""The tables of the slice that this session reads: a list to look at, and Ibis tables to work with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from workbench.client import show
from workbench.client.errors import NotInThisGrant

if TYPE_CHECKING:
    import ibis.expr.types as ir


@dataclass(frozen=True)
class ColumnInfo:
    """A column as it stands in the slice."""

    name: str
    type: str
    means: str


@dataclass(frozen=True)
class TableInfo:
    """A table as it stands in the slice: grain, meaning, rows, columns."""

    name: str
    grain: str
    about: str
    rows: int | None
    columns: tuple[ColumnInfo, ...]
    synthetic: bool

    @classmethod
    def from_json(cls, name: str, body: Mapping[str, Any], synthetic: bool) -> TableInfo:
        """Reads one entry of the broker's GET /tables."""
        columns = tuple(ColumnInfo(c["name"], c["type"], c.get("means") or "") for c in body["columns"])
        return cls(
            name, body.get("grain") or "", body.get("about") or "", body.get("rows"), columns, synthetic
        )

    def __repr__(self) -> str:
        rows = [[c.name, c.type, c.means] for c in self.columns]
        return "\n".join([f"{self.name}: {self.grain}", *show.text_table(["column", "type", "means"], rows)])

    def _repr_html_(self) -> str:
        rows = [[c.name, c.type, c.means] for c in self.columns]
        count = f"{self.rows:,} rows · " if self.rows is not None else ""
        return show.panel(
            show.html_table(["column", "type", "means"], rows),
            f"{self.name} · {count}{self.grain}",
            note=self.about,
            synthetic=self.synthetic,
        )


class Tables(Mapping[str, "ir.Table"]):
    """`s.tables` lists the slice's tables; `s.tables.member` is one as an Ibis table, executed by the broker."""

    def __init__(
        self, infos: Callable[[], Mapping[str, TableInfo]], table: Callable[[str], ir.Table], about: str
    ):
        self._infos = infos
        self._table = table
        self._about = about

    def __getitem__(self, name: str) -> ir.Table:
        infos = self._infos()
        if name not in infos:
            raise self._unknown(name)
        return self._table(name)

    def __getattr__(self, name: str) -> ir.Table:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __contains__(self, name: object) -> bool:
        return name in self._infos()

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos())

    def __len__(self) -> int:
        return len(self._infos())

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._infos()})

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._infos())

    def _unknown(self, name: str) -> NotInThisGrant:
        infos = self._infos()
        close = get_close_matches(name, infos, n=1)
        return NotInThisGrant(
            f"There is no table {name!r} in the slice of this grant.",
            hint=(f"Did you mean {close[0]!r}? " if close else "")
            + f"It holds: {', '.join(infos) or 'no tables'}.",
        )

    def _rows(self) -> list[list[object]]:
        return [[i.name, i.rows, len(i.columns), i.grain] for i in self._infos().values()]

    def __repr__(self) -> str:
        rows = [[show.cell(value) for value in row] for row in self._rows()]
        return "\n".join([*show.text_table(["table", "rows", "columns", "grain"], rows), self._about])

    def _repr_html_(self) -> str:
        synthetic = any(info.synthetic for info in self._infos().values())
        return show.panel(
            show.html_table(["table", "rows", "columns", "grain"], self._rows()),
            self._about,
            synthetic=synthetic,
        )
