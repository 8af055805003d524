"""Decks: hand-made cases of one measure, loaded into an empty lake of their own and judged.

One member a case. Codes are normalised and claim versions settled as at a release build; then the measure's own
expression runs over the tables, exactly as it does over a release.
"""

from __future__ import annotations

import datetime as dt
import functools
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import ibis
import pyarrow as pa

from workbench.lake.deck_format import BrokenDeck, Case, Deck, DeckClaim, parse, read
from workbench.lake.versions import final_versions
from workbench.lib.measures import measure as known_measure
from workbench.lib.tables import Tables
from workbench.schema import value_sets
from workbench.schema.dictionary import dictionary

__all__ = ["BrokenDeck", "Case", "CaseResult", "Deck", "connect", "parse", "read", "run"]


@dataclass(frozen=True)
class CaseResult:
    """What one case expected and what it got."""

    case: str
    why: str
    passed: bool
    expected: str
    got: str

    def line(self) -> str:
        """The case in one line."""
        if self.passed:
            return f"ok    {self.case}  {self.why}".rstrip()
        return f"FAIL  {self.case}  {self.why} | expected: {self.expected} | got: {self.got}"


@dataclass
class _Rows:
    """Rows by dictionary table."""

    by_table: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, table: str, **row: Any) -> None:
        self.by_table[table].append(row)

    def tables(self) -> dict[str, pa.Table]:
        return {
            name: pa.Table.from_pylist(self.by_table[name], schema=table.arrow_schema)
            for name, table in dictionary().items()
            if name != "value_set"
        } | {"value_set": value_sets.rows()}


def run(decks: Sequence[Deck], settings: object | None = None) -> list[CaseResult]:
    """Loads all cases of all decks at once, runs each deck's measure, and judges each case, in the decks' order.

    Raises UnknownMeasure before anything runs.
    """
    for deck in decks:
        known_measure(deck.measure)
    counts = Counter(case.id for deck in decks for case in deck.cases)
    labels: dict[tuple[int, int], str] = {}
    seen: Counter[str] = Counter()
    rows = _Rows()
    for at, nth, case in _numbered(decks):
        seen[case.id] += 1
        labels[at, nth] = case.id if counts[case.id] == 1 else f"{case.id}#{seen[case.id]}"
    final = _final({labels[at, nth]: case.claims for at, nth, case in _numbered(decks)})
    for at, nth, case in _numbered(decks):
        _load(case, labels[at, nth], final[labels[at, nth]], rows)
    found: dict[tuple[str, int], dict[str, list[dict[str, Any]]]] = {}
    for deck in decks:
        key = (deck.measure.upper(), deck.year)
        if key not in found:
            found[key] = _events(rows.tables(), *key, settings)
    return [
        _judge(case, found[decks[at].measure.upper(), decks[at].year].get(labels[at, nth], []))
        for at, nth, case in _numbered(decks)
    ]


def _numbered(decks: Sequence[Deck]) -> Iterable[tuple[int, int, Case]]:
    return ((at, nth, case) for at, deck in enumerate(decks) for nth, case in enumerate(deck.cases))


def connect(tables: Mapping[str, pa.Table]) -> duckdb.DuckDBPyConnection:
    """An in-memory engine with the tables under their dictionary names."""
    connection = duckdb.connect()
    for name, table in tables.items():
        connection.register(f"{name}__arrow", table)
        connection.execute(f'CREATE TABLE "{name}" AS SELECT * FROM "{name}__arrow"')
    return connection


def _events(
    tables: Mapping[str, pa.Table], name: str, year: int, settings: object | None
) -> dict[str, list[dict[str, Any]]]:
    with connect(tables) as connection:
        answer = connection.sql(_query(name, year, settings)).to_arrow_table().to_pylist()
    by_member: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(answer, key=lambda r: (r["member_id"], r["event_date"])):
        by_member[row["member_id"]].append(row)
    return by_member


@functools.cache
def _query(name: str, year: int, settings: object | None) -> str:
    return str(ibis.to_sql(known_measure(name).events(Tables.unbound(), year, settings), dialect="duckdb"))


def _judge(case: Case, events: Sequence[Mapping[str, Any]]) -> CaseResult:
    wanted = Counter(_shown(e.event_date, e.numerators) for e in case.expected.events if e.denominator)
    names = {name for e in case.expected.events for name in (e.numerators or {})}
    counted = [e for e in events if e["denominator"]]
    got = Counter(_shown(e["event_date"], _numerators(e, names)) for e in counted)
    notes = [f"{e['event_date']} not counted ({e['reason']})" for e in events if not e["denominator"]]
    return CaseResult(
        case.id,
        case.why,
        wanted == got,
        "; ".join(sorted(wanted.elements())) or "no event",
        "; ".join([*sorted(got.elements()), *notes]) or "no event",
    )


def _numerators(event: Mapping[str, Any], names: Iterable[str]) -> dict[str, bool | None]:
    return {name: event.get(f"met_{name}") for name in names}


def _shown(date: dt.date, numerators: Mapping[str, bool | None] | None) -> str:
    parts = [f"{name}={'yes' if met else 'no'}" for name, met in sorted((numerators or {}).items())]
    return " ".join([date.isoformat(), *parts])


def _load(case: Case, member: str, claims: Sequence[DeckClaim], rows: _Rows) -> None:
    rows.add(
        "member",
        member_id=member,
        birth_date=case.member.birth_date,
        death_date=case.member.death_date,
        sex=case.member.sex,
    )
    for span in case.enrollment:
        rows.add(
            "eligibility",
            member_id=member,
            organisation_id=span.plan or "deck",
            county_code=span.county,
            start_date=span.start,
            end_date=span.end,
            medical=True,
            pharmacy=True,
            behavioral=True,
        )
    by_claim: dict[str, list[DeckClaim]] = defaultdict(list)
    for claim in claims:
        by_claim[claim.claim_id.strip()].append(claim)
    for claim_id, lines in by_claim.items():
        if _is_pharmacy(lines):
            for line in lines:
                _load_dispensing(f"{member}|{claim_id}|{line.line}", member, line, rows)
        else:
            _load_medical(f"{member}|{claim_id}", member, lines, rows)


def _final(claims: Mapping[str, Sequence[DeckClaim]]) -> dict[str, list[DeckClaim]]:
    """Member -> the lines that count, by the release's own rule for versions, voids and duplicates."""
    rows = [
        {
            "claim_id": f"{member}|{claim.claim_id.strip()}",
            "version": claim.version,
            "line_number": claim.line,
            "claim_status": claim.claim_status.strip().lower(),
            "member_id": member,
            "content": claim.model_dump_json(by_alias=True),
        }
        for member, own in claims.items()
        for claim in own
    ]
    final: dict[str, list[DeckClaim]] = {member: [] for member in claims}
    if not rows:
        return final
    table = pa.Table.from_pylist(rows)
    unbound = ibis.table(ibis.Schema.from_pyarrow(table.schema), name="line")
    with duckdb.connect() as connection:
        connection.register("line", table)
        query = ibis.to_sql(final_versions(unbound, order=["content"]), dialect="duckdb")
        kept = connection.sql(query).to_arrow_table().to_pylist()
    for row in sorted(kept, key=lambda r: (r["claim_id"], r["line_number"])):
        final[row["member_id"]].append(DeckClaim.model_validate_json(row["content"]))
    return final


def _is_pharmacy(lines: Sequence[DeckClaim]) -> bool:
    return any(c.ndc or c.drug for c in lines) and not any(
        _codes(c.proc) or _codes(c.rev) or c.pos or c.bill_type for c in lines
    )


def _load_dispensing(claim_id: str, member: str, line: DeckClaim, rows: _Rows) -> None:
    rows.add(
        "pharmacy_claim",
        claim_id=claim_id,
        version=line.version,
        member_id=member,
        claim_status=line.claim_status.strip().lower(),
        fill_date=line.from_date,
        ndc=_ndc(line.ndc),
        drug_name=(line.drug or "").strip().lower() or None,
        days_supply=line.days_supply,
    )


def _load_medical(claim_id: str, member: str, lines: Sequence[DeckClaim], rows: _Rows) -> None:
    statuses = [line.claim_status.strip().lower() for line in lines]
    first = min(line.from_date for line in lines)
    rows.add(
        "medical_claim",
        claim_id=claim_id,
        version=lines[0].version,
        member_id=member,
        claim_status="paid" if "paid" in statuses else "denied",
        from_date=first,
        through_date=max(line.through or line.from_date for line in lines),
        bill_type=_first(_padded(line.bill_type, 4) for line in lines),
        discharge_status=_first(_padded(line.discharge_status, 2) for line in lines),
    )
    number = itertools.count(1)
    for line in lines:
        pairs = itertools.zip_longest(_codes(line.rev), _codes(line.proc))
        for revenue, procedure in list(pairs) or [(None, None)]:
            code, modifiers = _procedure(procedure)
            rows.add(
                "medical_claim_line",
                claim_id=claim_id,
                line_number=next(number),
                member_id=member,
                from_date=line.from_date,
                through_date=line.through or line.from_date,
                place_of_service=_padded(line.pos, 2),
                revenue_code=_padded(revenue, 4),
                procedure_code=code,
                rendering_taxonomy=_first([(line.rendering_taxonomy or "").strip().upper()]),
                **{f"modifier_{n}": modifier for n, modifier in enumerate(modifiers[:4], 1)},
            )
    principal = _codes(lines[0].dx[:1])
    others = [code for line in lines for code in _codes(line.dx) if code not in principal]
    for position, code in enumerate([*principal, *dict.fromkeys(others)], 1 if principal else 2):
        rows.add(
            "diagnosis",
            claim_id=claim_id,
            member_id=member,
            role="principal" if position == 1 else "other",
            position=position,
            code_system="ICD-10-CM",
            code=code,
            from_date=first,
        )
    for position, code in enumerate(dict.fromkeys(c for line in lines for c in _codes(line.icd_proc)), 1):
        rows.add(
            "procedure",
            claim_id=claim_id,
            member_id=member,
            position=position,
            code_system="ICD-10-PCS",
            code=code,
            procedure_date=first,
        )


def _codes(codes: Iterable[str | None]) -> list[str]:
    """Codes without dots and blanks, upper case; empty ones dropped."""
    return [clean for code in codes if (clean := re.sub(r"[.\s]", "", code or "").upper())]


def _padded(code: str | None, width: int) -> str | None:
    clean = re.sub(r"[.\s]", "", code or "").upper()
    return (clean.zfill(width) if clean.isdigit() else clean) or None


def _procedure(code: str | None) -> tuple[str | None, list[str]]:
    """A procedure and the modifiers written behind it (99213-95, 99213:GT)."""
    parts = [part for part in re.split(r"[-:/,]", code or "") if part]
    if not parts:
        return None, []
    head, tail = parts[0], parts[1:]
    if len(head) == 7:
        head, tail = head[:5], [head[5:], *tail]
    return head, tail


def _ndc(code: str | None) -> str | None:
    """Eleven digits; the usual hyphenated forms are filled up to 5-4-2."""
    parts = re.split(r"-", (code or "").strip())
    if len(parts) == 3:
        parts = [parts[0].zfill(5), parts[1].zfill(4), parts[2].zfill(2)]
    return "".join(parts) or None


def _first(values: Iterable[str | None]) -> str | None:
    return next((value for value in values if value), None)
