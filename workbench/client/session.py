"""A notebook's session with the broker: `s = wb.connect()`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from workbench.client import show
from workbench.client.errors import ClientError, NotInThisGrant
from workbench.client.result import ArrowStream, Result
from workbench.client.tables import TableInfo, Tables
from workbench.client.tabulation import Tabulation
from workbench.client.transport import Transport
from workbench.client.verdict import describe

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from workbench.client.ibis_backend import BrokerBackend
    from workbench.lib.result import MeasureResult

LEVELS_WITHOUT_ROWS = {"aggregate"}


class Whoami(dict[str, Any]):
    """The broker's answer to `whoami`: a dict that a notebook shows as a table."""

    def __repr__(self) -> str:
        rows = [[key, show.cell(text)] for key, text in self._facts()]
        return "\n".join(show.text_table(["", ""], rows)[2:])

    def _repr_html_(self) -> str:
        synthetic = bool(self.get("synthetic"))
        return show.panel(
            show.html_table(["who", "am I"], self._facts()),
            "Fixed when this server started; for another grant or purpose start another server.",
            synthetic=synthetic,
        )

    def _facts(self) -> list[list[str]]:
        names = (
            "user",
            "grant",
            "level",
            "purpose",
            "organisation",
            "release",
            "as_of",
            "agreement",
            "until",
        )
        facts = [[name, str(self[name]).replace("_", " ")] for name in names if self.get(name)]
        if "part2" in self:
            of_some = "part2" in self.get("with_consent", ())
            words = "of members who consented" if of_some else "included" if self["part2"] else "not included"
            facts.append(["42 CFR Part 2", words])
        fitness = self.get("fitness")
        if fitness:
            facts.append(["fitness", show.Words(describe(fitness).removeprefix("Fitness: "))])
        return facts


class Session:
    """One kernel's way to the data of one grant. Made by `wb.connect()`."""

    def __init__(self, transport: Transport):
        self._transport = transport
        self._whoami = Whoami(transport.get("/whoami"))
        show.tell_of_broker(
            insecure=bool(self._whoami.get("insecure")), notice=str(self._whoami.get("notice") or "")
        )

    @property
    def grant(self) -> str:
        """The name of the grant that this server is bound to."""
        return str(self._whoami.get("grant", ""))

    @property
    def level(self) -> str:
        """identified, limited, safe_harbor or aggregate."""
        return str(self._whoami.get("level", ""))

    @property
    def release(self) -> str:
        """The release that answers come from."""
        return str(self._whoami.get("release", ""))

    @property
    def synthetic(self) -> bool:
        """Whether the data are invented."""
        return bool(self._whoami.get("synthetic"))

    @property
    def has_rows(self) -> bool:
        """Whether this grant may see rows; an aggregate grant may only tabulate."""
        return self.level not in LEVELS_WITHOUT_ROWS

    @property
    def fitness(self) -> dict[str, Any]:
        """What the slice is fit for: precision of dates, categories removed, attribution, complete-through date."""
        return dict(self._catalogue.get("fitness") or self._whoami.get("fitness") or {})

    @property
    def verdict(self) -> str:
        """The fitness in one sentence, as it stands under every table and plot; empty for an aggregate grant."""
        return describe(self.fitness) if self.has_rows else ""

    @property
    def notice(self) -> str:
        """The notice of 42 CFR 2.32 that accompanies the answers of this grant; empty where none does."""
        return str(self._whoami.get("notice") or "")

    def whoami(self) -> Whoami:
        """User, grant, level, purpose, release and what they permit, asked anew."""
        self._whoami = Whoami(self._transport.get("/whoami"))
        return self._whoami

    def grants(self) -> list[dict[str, Any]]:
        """Every grant of this user's groups, with the reason where one is not open now."""
        return list(self._transport.get("/grants")["grants"])

    def sql(self, query: str) -> Result:
        """Runs SQL (DuckDB dialect, one SELECT) over the slice; raises what the broker refuses."""
        return Result(
            query,
            lambda: ArrowStream(self._transport.stream("/query", {"sql": query})),
            lambda: self.verdict,
            self._why_it_ended,
        )

    def _why_it_ended(self, query: str) -> str:
        """The broker's reason for an answer that broke off; empty where it knows none."""
        try:
            return str(self._transport.get(f"/queries/{query}").get("reason") or "") if query else ""
        except ClientError:
            return ""

    @property
    def tables(self) -> Tables:
        """The slice's tables: a list to look at, and `s.tables.NAME` as an Ibis table."""
        return Tables(lambda: self._tables, self._ibis_table, self._about)

    def dictionary(self, table: str) -> TableInfo:
        """Columns of one table with type and meaning, as they stand in this slice."""
        if table not in self._tables:
            raise NotInThisGrant(
                f"There is no table {table!r} in the slice of this grant.",
                hint=f"It holds: {', '.join(self._tables) or 'no tables'}.",
            )
        return self._tables[table]

    def tabulate(self, table: str, **params: object) -> Tabulation:
        """A table of the catalogue, counted over the whole population of the grant, small cells hidden.

        `s.tabulate("fum_by_county", year=2025, numerator="7d")`. Cells that stand for 1–10 people, and those from
        which they could be worked out, are hidden.
        """
        answer = self._transport.post("/tabulate", {"table": table, "params": params})
        return Tabulation(answer)

    def record(self, member: str) -> dict[str, Any]:
        """The longitudinal record of one member by id, in sections, where the grant opens the LMR API.

        Raises BrokerRefusal; a member outside the grant and nobody's id get the same one. The look-up is audited with
        the member.
        """
        return self._transport.get(f"/members/{quote(member, safe='')}/record")

    def risk(self, member: str) -> dict[str, Any]:
        """The risk tier of one member by id, where the grant opens the Risk API. Raises what `record` raises."""
        return self._transport.get(f"/members/{quote(member, safe='')}/risk")

    def break_glass(
        self,
        member: str,
        *,
        justification: str,
        reason: str = "medical_emergency",
        medical_emergency: bool = False,
        minutes: int = 15,
    ) -> dict[str, Any]:
        """Opens the record of one member for minutes, where the grant allows break-glass: `access` and `until`.

        The auditors are told at once, with the justification (20 characters or more) as typed. Part 2 records are in
        it only with `medical_emergency=True` (42 CFR 2.51). Raises BrokerRefusal, which lists the reasons there are.
        """
        return self._transport.post(
            f"/members/{quote(member, safe='')}/break-glass",
            {
                "justification": justification,
                "reason": reason,
                "medical_emergency": medical_emergency,
                "minutes": minutes,
            },
        )

    def break_glass_record(self, access: str) -> dict[str, Any]:
        """The record of an open access, until its time is up. Every look is an event. Raises BrokerRefusal."""
        return self._transport.get(f"/break-glass/{quote(access, safe='')}/record")

    def measure(self, name: str, *, year: int, visible_only: bool = False) -> MeasureResult:
        """A quality measure over this slice, event by event.

        Computed here where the slice is exact, served from the release's own results where the slice is not precise
        enough but holds them, else refused (UnfitSlice) with the tabulation that answers instead. With
        `visible_only=True` it is computed over what this grant sees, and says so.
        """
        from workbench.client.measures import run

        return run(self, name, year=year, visible_only=visible_only)

    def _ibis_table(self, name: str) -> ir.Table:
        return self._backend.table(name)

    @functools.cached_property
    def _catalogue(self) -> Mapping[str, Any]:
        return self._transport.get("/tables") if self.has_rows else {"tables": {}}

    @functools.cached_property
    def _tables(self) -> dict[str, TableInfo]:
        tables = self._catalogue["tables"]
        return {name: TableInfo.from_json(name, body, self.synthetic) for name, body in tables.items()}

    @functools.cached_property
    def _backend(self) -> BrokerBackend:
        from workbench.client.ibis_backend import BrokerBackend

        backend = BrokerBackend()
        backend.do_connect(
            self.sql,
            lambda name: {column.name: column.type for column in self.dictionary(name).columns},
            lambda: list(self._tables),
        )
        return backend

    @property
    def _about(self) -> str:
        parts = [
            "SYNTHETIC DATA" if self.synthetic else "",
            f"grant {self.grant}",
            self.level.replace("_", " "),
        ]
        return " · ".join([*(part for part in parts if part), f"release {self.release}"])

    def __repr__(self) -> str:
        return f"Session({self._about})"

    def _repr_html_(self) -> str:
        return self._whoami._repr_html_()


def connect(socket: str | Path | None = None, token: str | None = None) -> Session:
    """A session with the broker of this server.

    On the Hub nothing need be given. Raises NoToken, BrokerUnreachable, TokenRefused, or BrokerRefusal where the
    grant has ended.
    """
    show.figures_as_svg()
    if socket is not None and token is not None:
        return Session(Transport(Path(socket), token))
    return Session(Transport.from_environment(_with(socket, token)))


def _with(socket: str | Path | None, token: str | None) -> dict[str, str]:
    import os

    environment = dict(os.environ)
    if socket is not None:
        environment["WORKBENCH_BROKER"] = str(socket)
    if token is not None:
        environment["WORKBENCH_TOKEN"] = token
    return environment
