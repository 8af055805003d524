"""Promises of the levels: what each takes away, and that nothing is served without a rule."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from types import MappingProxyType

import duckdb
import pytest

from workbench.deid import levels, zip3
from workbench.deid.levels import Action, Level, NoRule, columns_for
from workbench.schema import Column, IdentifierClass, Table, dictionary

AS_OF = "2026-01-31"


def one(query: str) -> object:
    """The single value that a query answers."""
    with duckdb.connect() as con:
        row = con.execute(query).fetchone()
    assert row is not None
    return row[0]


def value(table: str, column: str, cell: str, *, top_aged: bool = False) -> object:
    """What a Safe Harbor slice shows for one value (SQL literal) of a column."""
    [served] = [c for c in columns_for(Level.SAFE_HARBOR, table) if c.column.name == column]
    sql = levels.expression(served, as_of=AS_OF, token="'t'", top_aged=str(top_aged).lower())
    return one(f'SELECT {sql} FROM (SELECT {cell} AS "{column}") s')


def test_every_column_of_every_table_has_a_rule_at_every_level_and_each_rule_its_source() -> None:
    assert levels.uncovered() == []
    assert all(found.source for rules in levels.RULES.values() for found in rules.values())


def test_a_class_without_a_rule_is_refused_and_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = {c: r for c, r in levels.RULES[Level.LIMITED].items() if c != IdentifierClass.QUASI}
    monkeypatch.setattr(levels, "RULES", MappingProxyType({**levels.RULES, Level.LIMITED: rules}))
    column = Column("shoe_size", "INTEGER", IdentifierClass.QUASI, "x", "Size")
    table = Table("feet", "one row per foot", ("shoe_size",), "Feet", False, {"shoe_size": column})
    with pytest.raises(NoRule, match="no rule for columns of class quasi at level limited"):
        columns_for(Level.LIMITED, table)
    assert "limited: feet.shoe_size" in levels.uncovered([table])


GONE_AT_SAFE_HARBOR = {
    IdentifierClass.DIRECT,
    IdentifierClass.GEOGRAPHY,
    IdentifierClass.ORGANISATION,
    IdentifierClass.FREE_TEXT,
}


@pytest.mark.parametrize("table", dictionary())
def test_safe_harbor_has_no_day_no_place_no_organisation_and_no_text(table: str) -> None:
    served = columns_for(Level.SAFE_HARBOR, table)
    assert not {c.column.identifier_class for c in served} & GONE_AT_SAFE_HARBOR
    assert not [c.name for c in served if c.type == "DATE" or c.name.endswith("_date")]
    keys = {IdentifierClass.MEMBER_KEY, IdentifierClass.CLAIM_KEY}
    assert all(c.rule.action == Action.TOKEN for c in served if c.column.identifier_class in keys)


@pytest.mark.parametrize("table", dictionary())
def test_limited_keeps_days_and_places_but_no_direct_identifier_and_no_text(table: str) -> None:
    gone = {IdentifierClass.DIRECT, IdentifierClass.FREE_TEXT}
    kept = {c.name for c in columns_for(Level.LIMITED, table)}
    assert kept == {c.name for c in dictionary()[table].columns.values() if c.identifier_class not in gone}


def test_aggregate_serves_no_column_at_all() -> None:
    assert not [c for table in dictionary() for c in columns_for(Level.AGGREGATE, table)]


def test_tables_of_organisations_are_not_served_at_safe_harbor() -> None:
    assert [t for t in ("attribution", "organisation", "provider") if columns_for(Level.SAFE_HARBOR, t)] == []


@pytest.mark.parametrize(
    ("born", "shown"),
    [
        ("1936-02-01", 1936),  # 89 on the as-of date
        ("1936-01-31", None),  # 90 today
        ("1936-02-29", 1936),
        ("1920-05-05", None),
        ("2020-05-05", 2020),
    ],
)
def test_the_year_of_birth_is_empty_from_the_ninetieth_birthday_on(born: str, shown: int | None) -> None:
    assert value("member", "birth_date", f"DATE '{born}'") == shown


def test_an_unknown_date_of_birth_stays_unknown() -> None:
    assert value("member", "birth_date", "NULL::DATE") is None


@pytest.mark.parametrize(
    ("day", "shown"), [("2025-03-04", 2025), ("1937-01-01", 1937), ("1936-12-31", None), ("1900-01-01", None)]
)
def test_a_year_that_tells_of_an_age_over_89_is_empty(day: str, shown: int | None) -> None:
    assert value("eligibility", "start_date", f"DATE '{day}'") == shown


@pytest.mark.parametrize(
    ("age", "top_aged", "shown"),
    [(5, False, 5), (89, False, 89), (90, False, 90), (101, False, 90), (88, True, 90)],
)
def test_ninety_stands_for_ninety_and_over_in_every_row_of_such_a_person(
    age: int, top_aged: bool, shown: int
) -> None:
    assert value("member_month", "age", str(age), top_aged=top_aged) == shown


def test_a_member_month_at_safe_harbor_has_only_the_year() -> None:
    assert [c.name for c in columns_for(Level.SAFE_HARBOR, "member_month")] == [
        "member_id",
        "year",
        "aid_code",
        "age",
    ]


ZIPS = [
    ("90001", "900"),
    ("95814-1234", "958"),
    (" 95814 ", "958"),
    ("03601", "000"),  # restricted, 2000 Census
    ("20599", "000"),  # restricted, 2010 Census
    ("10001", "000"),  # populated, but not in the table: fail closed
    ("94203", "000"),  # government boxes
    ("9581", "000"),
    ("ABCDE", "000"),
    ("９５８１４", "000"),
    ("", "000"),
    (None, "000"),
]


@pytest.mark.parametrize(("zip_code", "shown"), ZIPS)
def test_a_zip_keeps_three_digits_only_where_more_than_20000_are_known_to_live(
    zip_code: str | None, shown: str
) -> None:
    literal = "NULL::VARCHAR" if zip_code is None else f"'{zip_code}'"
    assert zip3.zip3(zip_code) == shown
    assert value("member", "zip", literal) == shown


@pytest.mark.shared
def test_the_restricted_lists_are_those_of_the_censuses() -> None:
    file = Path(__file__).parents[2] / "shared" / "data" / "codes" / "restricted_zip3.json"
    if not file.exists():
        pytest.skip("../shared/data is not here")
    lists = json.loads(file.read_text())
    assert {z for name, zips in lists.items() if isinstance(zips, list) for z in zips} <= zip3.RESTRICTED
    assert not zip3.RESTRICTED & zip3.POPULATED


def test_the_ninetieth_birthday_of_a_leap_day_is_not_later_than_the_last_of_february() -> None:
    born = "DATE '1936-02-29'"
    assert one(f"SELECT {levels.birthday_90(born)}") == date(2026, 2, 28)
