"""`workbench measures run`: a measure's rates from a slice's rows, or from the tables of an aggregate grant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.broker.operator import Operator
    from workbench.lib.measures import Measure

SYNTHETIC = "SYNTHETIC DATA"


@dataclass(frozen=True)
class Answer:
    """Rates by group, and what they are worth."""

    measure: str
    title: str
    year: int
    by: str | None
    rows: list[dict[str, Any]]
    """group (if broken down), numerator, denominator, met, rate; `hidden` where disclosure control hid the row."""
    verdict: str
    grant: str
    release: str
    synthetic: bool

    def as_json(self) -> dict[str, Any]:
        """The answer as the command prints it for machines."""
        return dict(self.__dict__)

    def text(self) -> str:
        """The answer as people read it."""
        width = max([len(str(row["group"])) for row in self.rows if "group" in row], default=0)
        lines = [SYNTHETIC] if self.synthetic else []
        lines.append(f"{self.measure} {self.year}: {self.title}")
        for row in self.rows:
            group = f"{row['group']:{width}}  " if "group" in row else ""
            if row.get("hidden"):
                lines.append(f"{group}{row['numerator']:>4}  hidden")
                continue
            rate = f"{row['met'] / row['denominator']:.1%}" if row["denominator"] else "–"
            lines.append(
                f"{group}{row['numerator']:>4}  {rate:>6}  ({row['met']:,} of {row['denominator']:,})"
            )
        return "\n".join([*lines, self.verdict, f"grant {self.grant} · release {self.release}"])


def from_rows(
    broker: Operator,
    measure: Measure,
    year: int,
    by: str | None,
    address: Mapping[str, Any],
    manifest: Mapping[str, Any],
    visible_only: bool,
) -> Answer:
    """Rates computed from the slice, or from the release's results in it. Raises UnfitSlice, UnknownBreakdown, Refused."""
    import ibis

    from workbench.lib.fitness import require
    from workbench.lib.measures import evidence
    from workbench.lib.result import MeasureResult
    from workbench.lib.tables import Tables

    schemas = {
        name: ibis.schema({c["name"]: ibis.dtype(_ibis_type(c["type"])) for c in entry["columns"]})
        for name, entry in manifest["tables"].items()
    }
    fit = require(measure, manifest["fitness"], list(schemas), visible_only=visible_only)
    t = Tables.from_backend(lambda name: ibis.table(schemas[name], name=name))
    events = (
        evidence.from_results(t, measure, year)
        if fit.kind == "derived"
        else evidence.from_claims(t, measure, year)
    )
    rows = broker.query(str(ibis.to_sql(events, dialect="duckdb")), dict(address))
    plans = _plans(broker, address) if by == "plan" and "organisation" in schemas else {}
    result = MeasureResult(measure, year, rows.table.to_pandas(), fit, rows.synthetic, plans=plans)
    rates = result.rates(by or ()).rename(columns={by: "group"} if by else {})
    listed = [
        {k: (None if v != v else v) for k, v in row.items() if k != "people"}
        for row in rates.to_dict("records")
    ]
    return Answer(
        measure.name,
        measure.title,
        year,
        by,
        [{str(k): v for k, v in row.items()} for row in listed],
        result.verdict,
        rows.grant,
        rows.release,
        rows.synthetic,
    )


def from_tables(
    broker: Operator, measure: Measure, year: int, by: str | None, address: Mapping[str, Any]
) -> Answer:
    """Rates from the catalogue of tables, small cells hidden. Raises Refused."""
    table = f"{measure.name.lower()}_by_{by or 'state'}"
    answer = broker.ask("POST", "/tabulate", {**address, "table": table, "params": {"year": year}})
    dimensions = [d["name"] if isinstance(d, dict) else d for d in answer["dimensions"]]
    groups = [d for d in dimensions if d != "numerator"]
    rows = []
    for row in answer["rows"]:
        labels = [str(row.get(f"{d}_label", row.get(d, ""))) for d in groups]
        numbers = {name: row.get(name) for name in ("numerator", "denominator", "met", "rate", "hidden")}
        rows.append({**({"group": ", ".join(labels)} if groups else {}), **numbers})
    return Answer(
        measure.name,
        measure.title,
        year,
        by,
        rows,
        str(answer.get("verdict", "")),
        str(answer.get("grant", address["grant"])),
        str(answer.get("release", "")),
        bool(answer.get("synthetic")),
    )


def _plans(broker: Operator, address: Mapping[str, Any]) -> dict[str, str]:
    rows = broker.query("select organisation_id, name from organisation where kind = 'mcp'", dict(address))
    return {row["organisation_id"]: row["name"] for row in rows.table.to_pylist()}


def _ibis_type(duckdb_type: str) -> str:
    return {
        "VARCHAR": "string",
        "INTEGER": "int32",
        "BIGINT": "int64",
        "DATE": "date",
        "BOOLEAN": "boolean",
    }.get(duckdb_type, duckdb_type.lower())
