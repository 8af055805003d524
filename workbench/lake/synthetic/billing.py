"""Visits and fills as the records that agencies send: claim lines, versions, repeats, refusals, broken records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from workbench.lake.synthetic import world
from workbench.lake.synthetic.calendar import LAST, Ints, month_of, number
from workbench.lake.synthetic.codes import DIAGNOSES, PROVIDER_KINDS, TEMPLATES
from workbench.lake.synthetic.events import PRODUCTS
from workbench.lake.synthetic.people import People
from workbench.lake.synthetic.providers import Providers
from workbench.lake.synthetic.render import days, days_where, money, records, texts, whole
from workbench.schema.value_sets import codes as value_set

CLAIMS_PER_BLOCK = 10_000_000
STATE_INDEX = len(world.PLANS)
SUBMITTERS = (*world.PLANS, world.STATE)
PAID, DENIED, VOID = 0, 1, 2
STATUS = ("01", "04", "22")
DOTTED, LOWER = 0.03, 0.01
"""Shares of claims whose diagnoses come with dots, or in lower case, as real feeds have them."""
UNKNOWN_MEMBER = "09999999Q"
"""No member has a CIN with this letter."""
BROKEN = ("bad date", "unknown member", "short row")
SHORT_FIELDS = 40
AS_OF = number(world.AS_OF)
YEAR_END = [number(type(world.LAST_DAY)(year, 12, 31)) for year in world.YEARS]


@dataclass(frozen=True)
class Sent:
    """Records of one kind of file from one block, with the submitter and year (0-2) whose file each belongs to."""

    record: pl.Series
    submitter: Ints
    year: Ints
    claims: dict[str, Ints]
    claim_ids: pl.Series
    counts: dict[str, int]


@dataclass(frozen=True)
class _Lines:
    template: list[str]
    first: Ints
    count: Ints
    revenue: list[str]
    modifier: list[str]
    charge: Ints
    procedure_first: Ints
    procedure_count: Ints
    procedures: list[str]


def _template_lines() -> _Lines:
    lines = [line for template in TEMPLATES.values() for line in template.lines]
    count = np.array([len(template.lines) for template in TEMPLATES.values()], dtype=np.int64)
    procedure_count = np.array([len(line.procedures) for line in lines], dtype=np.int64)
    return _Lines(
        template=list(TEMPLATES),
        first=np.cumsum(count) - count,
        count=count,
        revenue=[line.revenue for line in lines],
        modifier=[line.modifier for line in lines],
        charge=np.array([line.charge for line in lines], dtype=np.int64),
        procedure_first=np.cumsum(procedure_count) - procedure_count,
        procedure_count=procedure_count,
        procedures=[procedure for line in lines for procedure in line.procedures],
    )


LINES = _template_lines()
_KIND = {kind: index for index, kind in enumerate(PROVIDER_KINDS)}
_KINDS = np.array([_KIND[kind] for template in TEMPLATES.values() for kind in template.kinds])
_KIND_COUNT = np.array([len(template.kinds) for template in TEMPLATES.values()])
_KIND_FIRST = np.cumsum(_KIND_COUNT) - _KIND_COUNT
_STAY = np.array([t.bill_type[:3] in ("011", "021", "086") for t in TEMPLATES.values()])
_BY_STATE = np.array([template.state for template in TEMPLATES.values()])
_DIAGNOSIS_TEXTS = pl.Series(
    [
        *DIAGNOSES,
        *(f"{c[:3]}.{c[3:]}" if len(c) > 3 else c for c in DIAGNOSES),
        *(c.lower() for c in DIAGNOSES),
    ]
)
_BHP = [f"bhp-{code:02d}" for code in range(1, 59)]


def _copies(rng: np.random.Generator, size: int) -> tuple[Ints, Ints, Ints, dict[str, int]]:
    """(claim, version, status) of everything that is sent for `size` claims, in order of claim and version."""
    chance = rng.random(size)
    denied = rng.random(size) < world.DENIED
    superseded = chance < world.SUPERSEDED
    voided = ~superseded & (chance < world.SUPERSEDED + world.VOIDED) & ~denied
    repeated = chance > 1 - world.REPEATED
    claim = np.arange(size, dtype=np.int64)
    final = np.where(superseded, 2, 1)
    parts = (
        (claim, final, np.where(denied, DENIED, PAID)),
        (claim[superseded], np.ones(superseded.sum()), np.full(superseded.sum(), PAID)),
        (claim[voided], np.full(voided.sum(), 2), np.full(voided.sum(), VOID)),
        (claim[repeated], final[repeated], np.where(denied, DENIED, PAID)[repeated]),
    )
    joined = [np.concatenate(columns).astype(np.int64) for columns in zip(*parts, strict=True)]
    order = np.lexsort((joined[1], joined[0]))
    counts = {
        "claims": size,
        "denied": int(denied.sum()),
        "superseded": int(superseded.sum()),
        "voided": int(voided.sum()),
        "repeated": int(repeated.sum()),
    }
    return joined[0][order], joined[1][order], joined[2][order], counts


def _broken(rng: np.random.Generator, size: int) -> Ints:
    """Rows to copy and break, as many of each sort of BROKEN."""
    each = max(1, round(size * world.BROKEN_PER_100_000 / 100_000))
    return np.sort(rng.integers(0, size, each * len(BROKEN)))


def _cut(record: pl.Series) -> pl.Series:
    return (
        record.str.splitn("|", SHORT_FIELDS + 1)
        .struct.unnest()
        .select(pl.concat_str([f"field_{n}" for n in range(SHORT_FIELDS)], separator="|"))
        .to_series()
    )


def _claim_ids(prefix: str, block: int, index: Ints) -> pl.Series:
    return prefix + whole(index + block * CLAIMS_PER_BLOCK).str.zfill(12)


def medical(
    rng: np.random.Generator, block: int, people: People, providers: Providers, visits: dict[str, Ints]
) -> Sent:
    """The medical (MC) records of a block."""
    size = len(visits["row"])
    row, template = visits["row"], visits["template"]
    month = month_of(visits["day"])
    plan, county = people.plan[row, month], people.county[row, month]
    by_state = _BY_STATE[template]
    kind = _KINDS[_KIND_FIRST[template] + rng.integers(0, 1 << 30, size) % _KIND_COUNT[template]]
    provider = providers.choose(rng, kind, county)
    through = np.minimum(visits["day"] + visits["nights"], LAST)
    paid_day = np.minimum(through + rng.integers(8, 45, size), AS_OF)
    style = np.searchsorted((1 - DOTTED - LOWER, 1 - LOWER), rng.random(size), side="right")
    claim, version, status, counts = _copies(rng, size)

    claim_ids = _claim_ids("M", block, np.arange(size))
    copies = LINES.count[template[claim]]
    sent = np.repeat(np.arange(len(claim)), copies)
    line = np.arange(len(sent)) - np.repeat(np.cumsum(copies) - copies, copies)
    claim, version, status = claim[sent], version[sent], status[sent]
    extra = _broken(rng, len(claim))
    sort = np.concatenate((np.full(len(claim), -1), rng.permutation(np.arange(len(extra)) % len(BROKEN))))
    claim, version, status, line = (
        np.concatenate((column, column[extra])) for column in (claim, version, status, line)
    )
    ids = claim_ids.gather(pl.Series(claim))
    ids = pl.select(pl.when(pl.Series(sort < 0)).then(ids).otherwise("X" + ids)).to_series()

    of = LINES.first[template[claim]] + line
    choice = (claim * 7919 + line * 104_729) % LINES.procedure_count[of]
    stay = _STAY[template][claim]
    units = np.where(stay & (line == 0), np.maximum(visits["nights"][claim], 1), 1)
    noise = ((claim * 48_271 + line * 16_807 + version * 69_621) % 4_000) / 10_000 + 0.8
    charge = (LINES.charge[of] * units * noise * 100).astype(np.int64)
    allowed = np.where(status == DENIED, 0, charge * 43 // 100)
    code_place = style[claim] * len(DIAGNOSES)
    member = people.table["member_id"].gather(pl.Series(row[claim]))
    plan_text = texts(list(world.PLANS), plan[claim])
    plan_text = pl.select(
        pl.when(pl.Series(by_state[claim])).then(texts(_BHP, county[claim])).otherwise(plan_text)
    ).to_series()
    submitter = np.where(by_state, STATE_INDEX, plan)[claim]
    submitter_text = texts(list(SUBMITTERS), submitter)
    npi = providers.table["npi"].gather(pl.Series(provider[claim]))
    bad_day = pl.Series(sort == BROKEN.index("bad date"))
    first_day = days(visits["day"][claim])
    templates = list(TEMPLATES.values())
    record = records(
        "MC",
        {
            "CDLMC001": submitter_text,
            "CDLMC002": submitter_text,
            "CDLMC003": plan_text,
            "CDLMC005": ids,
            "CDLMC006": whole(line + 1),
            "CDLMC007": whole(version),
            "CDLMC010": people.table["aid_code"].gather(pl.Series(row[claim])),
            "CDLMC016": people.table["ssn"].gather(pl.Series(row[claim])),
            "CDLMC018": people.table["sex"].gather(pl.Series(row[claim])),
            "CDLMC019": days(people.birth[row[claim]]),
            "CDLMC024": days(paid_day[claim]),
            "CDLMC025": days_where(visits["day"][claim], stay),
            "CDLMC029": days_where(through[claim], stay),
            "CDLMC031": texts(["", "01", "", "03"], np.where(stay, visits["status"][claim], 0)),
            "CDLMC032": texts([t.bill_type for t in templates], template[claim]),
            "CDLMC033": texts([t.place for t in templates], template[claim]),
            "CDLMC034": texts(_DIAGNOSIS_TEXTS, np.where(stay, visits["dx1"][claim], 0)),
            "CDLMC036": "0",
            "CDLMC037": texts(_DIAGNOSIS_TEXTS, visits["dx1"][claim] + code_place),
            "CDLMC038": texts(_DIAGNOSIS_TEXTS, visits["dx2"][claim] + code_place),
            "CDLMC039": texts(_DIAGNOSIS_TEXTS, visits["dx3"][claim] + code_place),
            "CDLMC087": texts(LINES.revenue, of),
            "CDLMC088": texts(LINES.procedures, LINES.procedure_first[of] + choice),
            "CDLMC089": texts(LINES.modifier, of),
            "CDLMC093": texts(["", "HZ2ZZZZ"], visits["detox"][claim]),
            "CDLMC119": pl.select(pl.when(bad_day).then(pl.lit("20251340")).otherwise(first_day)).to_series(),
            "CDLMC120": days(through[claim]),
            "CDLMC121": whole(units),
            "CDLMC123": money(charge),
            "CDLMC125": money(allowed),
            "CDLMC131": money(allowed),
            "CDLMC135": npi,
            "CDLMC142": providers.table["taxonomy"].gather(pl.Series(provider[claim])),
            "CDLMC148": npi,
            "CDLMC157": texts(list(STATUS), status),
            "CDLMC161": _unknown_where(member, sort),
            "CDLMC899": "MC",
        },
    )
    counts |= {"lines": len(record), **{f"broken: {what}": len(extra) // len(BROKEN) for what in BROKEN}}
    year = np.searchsorted(YEAR_END, visits["day"][claim])
    return Sent(_short_where(record, sort), submitter, year, visits, claim_ids, counts)


def pharmacy(
    rng: np.random.Generator, block: int, people: People, providers: Providers, fills: dict[str, Ints]
) -> Sent:
    """The pharmacy (PC) records of a block, all sent by the state."""
    size = len(fills["row"])
    month = month_of(fills["day"])
    plan, county = (matrix[fills["row"], month] for matrix in (people.plan, people.county))
    pharmacies = providers.choose(rng, np.full(size, _KIND["pharmacy"]), county)
    prescribers = providers.choose(rng, np.full(size, _KIND["family"]), county)
    paid_day = np.minimum(fills["day"] + rng.integers(1, 15, size), AS_OF)
    claim, version, status, counts = _copies(rng, size)
    extra = _broken(rng, len(claim))
    sort = np.concatenate((np.full(len(claim), -1), rng.permutation(np.arange(len(extra)) % len(BROKEN))))
    claim, version, status = (np.concatenate((column, column[extra])) for column in (claim, version, status))
    claim_ids = _claim_ids("P", block, np.arange(size))
    ids = claim_ids.gather(pl.Series(claim))
    ids = pl.select(pl.when(pl.Series(sort < 0)).then(ids).otherwise("X" + ids)).to_series()

    ndc_of = {ingredient: ndc for ndc, ingredient in value_set("ndc_ingredient", "NDC").items()}
    product = fills["product"][claim]
    cost = np.array([drug.cost for drug in PRODUCTS], dtype=np.int64)[product] * 100
    charge = cost * (100 + (claim * 7919 + version * 31) % 40) // 100
    paid = np.where(status == DENIED, 0, cost)
    bad_day = pl.Series(sort == BROKEN.index("bad date"))
    fill_day = days(fills["day"][claim])
    member = people.table["member_id"].gather(pl.Series(fills["row"][claim]))
    record = records(
        "PC",
        {
            "CDLPC001": world.STATE,
            "CDLPC002": world.STATE,
            "CDLPC003": texts(list(world.PLANS), plan[claim]),
            "CDLPC005": ids,
            "CDLPC006": "1",
            "CDLPC007": whole(version),
            "CDLPC010": people.table["aid_code"].gather(pl.Series(fills["row"][claim])),
            "CDLPC018": people.table["sex"].gather(pl.Series(fills["row"][claim])),
            "CDLPC019": days(people.birth[fills["row"][claim]]),
            "CDLPC023": pl.select(pl.when(bad_day).then(pl.lit("20251340")).otherwise(fill_day)).to_series(),
            "CDLPC024": days(paid_day[claim]),
            "CDLPC025": texts([ndc_of[drug.ingredient] for drug in PRODUCTS], product),
            "CDLPC026": whole(fills["refill"][claim]),
            "CDLPC032": texts([f"{drug.quantity}.000" for drug in PRODUCTS], product),
            "CDLPC033": texts([str(drug.days) for drug in PRODUCTS], product),
            "CDLPC036": money(charge),
            "CDLPC037": money(paid),
            "CDLPC038": money(paid),
            "CDLPC051": providers.table["npi"].gather(pl.Series(prescribers[claim])),
            "CDLPC054": providers.table["npi"].gather(pl.Series(pharmacies[claim])),
            "CDLPC065": texts(list(STATUS), status),
            "CDLPC068": _unknown_where(member, sort),
            "CDLPC899": "PC",
        },
    )
    counts |= {"lines": len(record), **{f"broken: {what}": len(extra) // len(BROKEN) for what in BROKEN}}
    year = np.searchsorted(YEAR_END, fills["day"][claim])
    submitter = np.full(len(record), STATE_INDEX)
    return Sent(_short_where(record, sort), submitter, year, fills, claim_ids, counts)


def _unknown_where(member: pl.Series, sort: Ints) -> pl.Series:
    unknown = pl.Series(sort == BROKEN.index("unknown member"))
    return pl.select(pl.when(unknown).then(pl.lit(UNKNOWN_MEMBER)).otherwise(member)).to_series()


def _short_where(record: pl.Series, sort: Ints) -> pl.Series:
    short = pl.Series(sort == BROKEN.index("short row"))
    cut = _cut(record.filter(short))
    return record.scatter(short.arg_true(), cut)
