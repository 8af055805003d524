"""The SQL gate: hostile statements get nothing, honest ones pass unchanged in meaning, refusals say what to do."""

from __future__ import annotations

import io
import logging
import logging.config
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import ibis
import pytest
import sqlglot
from gate_slice import TABLES, statements, write_slice
from hypothesis import given
from hypothesis import strategies as st

from workbench.broker import gate, gate_rules
from workbench.broker.gate import GateRefusal, admit, redact
from workbench.lib.measures import MEASURES, rates
from workbench.lib.tables import Tables
from workbench.schema import dictionary

SECRET = "CANARY-8f3a-555-01-9999"
HOSTILE = [
    (group, sql) for group, texts in statements("hostile").items() for sql in texts if group != "harmless"
]
HARMLESS = statements("hostile")["harmless"]
HONEST = [sql for texts in statements("honest").values() for sql in texts]


def test_there_are_enough_statements_to_mean_something() -> None:
    assert len(HOSTILE) >= 120 and len(HONEST) >= 60


def _tables_that_the_engine_sees(sql: str) -> set[str] | None:
    """None where the engine's own lister stumbles over a statement that it can run."""
    with duckdb.connect() as con:
        try:
            return {name.lower() for name in con.get_table_names(sql)}
        except duckdb.BinderException:
            return None


@pytest.mark.parametrize(("group", "sql"), HOSTILE)
def test_a_hostile_statement_is_refused_with_words_for_the_caller(group: str, sql: str) -> None:
    with pytest.raises(GateRefusal) as caught:
        admit(sql.replace("{CANARY}", f"/srv/{SECRET}"), TABLES)
    assert caught.value.reason and caught.value.construct
    assert SECRET not in str(caught.value) and "/" not in caught.value.reason.replace("USER/GROUP", "")


@pytest.mark.parametrize("sql", [*HONEST, *HARMLESS])
def test_an_honest_statement_is_admitted_and_its_tables_are_those_that_the_engine_sees(sql: str) -> None:
    admitted = admit(sql, TABLES)
    seen = _tables_that_the_engine_sees(admitted.sql)
    assert seen is None or set(admitted.tables) == seen
    for column in admitted.columns:
        table, _, name = column.partition(".")
        assert name in TABLES[table]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    mount = write_slice(tmp_path_factory.mktemp("gate"))
    with duckdb.connect(config={"threads": 1}) as con:
        for table, parts in mount.tables.items():
            con.execute(f"CREATE VIEW \"{table}\" AS SELECT * FROM read_parquet('{mount.folder / parts[0]}')")
        yield con


def _rows(con: Any, sql: str) -> list[str]:
    return sorted(map(repr, con.sql(sql).fetchall()))


@pytest.mark.parametrize(
    "sql",
    [
        s
        for s in HONEST
        if not re.search(r"SAMPLE|LIMIT|any_value|DISTINCT ON|mode\(|arg_m|row_number|ntile", s)
    ],
)
def test_what_runs_gives_the_answer_of_what_was_written(engine: Any, sql: str) -> None:
    assert _rows(engine, admit(sql, TABLES).sql) == _rows(engine, sql)


T = {
    name: ibis.table({c.name: c.arrow_type for c in table.columns.values()}, name=name)
    for name, table in dictionary().items()
}
_D = ibis.date(2025, 1, 1)
IBIS: dict[str, Callable[[], Any]] = {
    "date literals": lambda: T["medical_claim"].filter(lambda t: t.from_date.between(_D, ibis.date(2025, 12, 31))),
    "date parts": lambda: T["medical_claim"].mutate(y=lambda t: t.from_date.year(), m=lambda t: t.from_date.month()),
    "months": lambda: T["medical_claim"].group_by(m=lambda t: t.from_date.truncate("M")).agg(n=lambda t: t.count()),
    "days between": lambda: T["medical_claim"].mutate(d=lambda t: t.through_date.delta(t.from_date, unit="day")),
    "days after": lambda: T["medical_claim"].mutate(e=lambda t: t.from_date + ibis.interval(days=30)),
    "strftime": lambda: T["medical_claim"].mutate(s=lambda t: t.from_date.strftime("%Y-%m")),
    "weekday": lambda: T["medical_claim"].mutate(w=lambda t: t.from_date.day_of_week.index(), q=lambda t: t.from_date.quarter()),
    "semi join": lambda: T["member"].semi_join(T["diagnosis"], "member_id"),
    "anti join": lambda: T["member"].anti_join(T["diagnosis"], "member_id"),
    "left join": lambda: T["member"].left_join(T["diagnosis"], "member_id").filter(lambda t: t.claim_id.isnull()),
    "asof join": lambda: T["medical_claim"].asof_join(
        T["eligibility"], on=T["medical_claim"].from_date >= T["eligibility"].start_date, predicates="member_id"),
    "window": lambda: T["medical_claim"].mutate(
        n=ibis.row_number().over(ibis.window(group_by="member_id", order_by="from_date"))),
    "qualify": lambda: T["medical_claim"].filter(
        lambda t: ibis.row_number().over(ibis.window(group_by=t.member_id, order_by=t.from_date)) == 0),
    "lag": lambda: T["medical_claim"].mutate(
        p=lambda t: t.from_date.lag().over(ibis.window(group_by=t.member_id, order_by=t.from_date))),
    "rolling": lambda: T["medical_claim_line"].mutate(
        s=lambda t: t.paid_amount.sum().over(ibis.window(preceding=3, following=0, group_by=t.member_id, order_by=t.from_date))),
    "rank": lambda: T["medical_claim_line"].mutate(r=lambda t: t.paid_amount.percent_rank(), k=lambda t: ibis.ntile(4).over(order_by=t.paid_amount)),
    "isin": lambda: T["diagnosis"].filter(lambda t: t.code.isin([f"F{i:04d}" for i in range(5000)])),
    "isin subquery": lambda: T["member"].filter(lambda t: t.member_id.isin(T["diagnosis"].member_id)),
    "cases": lambda: T["member"].mutate(s=lambda t: ibis.cases((t.sex == "F", "women"), (t.sex == "M", "men"), else_="?")),
    "filtered aggregates": lambda: T["member"].agg(f=lambda t: t.count(where=t.sex == "F"), n=lambda t: t.member_id.nunique()),
    "quantiles": lambda: T["medical_claim_line"].agg(
        m=lambda t: t.paid_amount.median(), q=lambda t: t.paid_amount.quantile(0.9), s=lambda t: t.paid_amount.std()),
    "regexp": lambda: T["diagnosis"].filter(lambda t: t.code.re_search("^F1[0-9]")).mutate(
        a=lambda t: t.code.re_extract("([A-Z])", 1), b=lambda t: t.code.re_replace("[0-9]", "#")),
    "text": lambda: T["member"].mutate(
        a=lambda t: t.last_name.upper(), b=lambda t: t.zip.left(3), c=lambda t: t.last_name.contains("a"),
        d=lambda t: t.zip.lpad(9, "0"), e=lambda t: t.last_name.length(), f=lambda t: t.last_name + t.first_name,
        g=lambda t: t.city.strip().replace("a", "b"), h=lambda t: t.zip.substr(0, 3), i=lambda t: t.last_name.startswith("A")),
    "slices of a text": lambda: T["diagnosis"].mutate(
        a=lambda t: t.code[:3], b=lambda t: t.code[1:3], c=lambda t: t.code[0]).group_by("a").agg(n=lambda t: t.count()),
    "parts of a text": lambda: T["diagnosis"].mutate(a=lambda t: t.code.split("1"), b=lambda t: t.code.re_split("[0-9]")),
    "slices of a list": lambda: T["diagnosis"].group_by("claim_id").agg(c=lambda t: t.code.collect()[1:2]),
    "numbers": lambda: T["medical_claim_line"].mutate(
        r=lambda t: (t.paid_amount / t.charge_amount.nullif(0)).round(2), c=lambda t: t.units.cast("int64") % 2, l=lambda t: ibis.greatest(t.paid_amount, t.charge_amount)),
    "fill null": lambda: T["member"].fill_null({"race": "unknown"}).drop_null(["sex"]),
    "coalesce": lambda: T["member"].mutate(x=lambda t: ibis.coalesce(t.death_date, _D)),
    "distinct": lambda: T["diagnosis"].select("member_id", "code").distinct(),
    "distinct on": lambda: T["diagnosis"].distinct(on="member_id", keep="first"),
    "union": lambda: T["member"].select("member_id").union(T["diagnosis"].select("member_id")),
    "intersect": lambda: T["member"].select("member_id").intersect(T["diagnosis"].select("member_id")),
    "top": lambda: T["diagnosis"].code.topk(10),
    "value counts": lambda: T["member"].sex.value_counts(),
    "collect": lambda: T["diagnosis"].group_by("claim_id").agg(c=lambda t: t.code.collect(), s=lambda t: t.code.group_concat(",")),
    "pivot longer": lambda: T["member"].select("member_id", "sex", "race").pivot_longer(["sex", "race"], names_to="n", values_to="v"),
    "pivot wider": lambda: T["member"].group_by("county_code").agg(
        f=lambda t: t.count(where=t.sex == "F"), m=lambda t: t.count(where=t.sex == "M")),
    "self join": lambda: T["medical_claim"].join(
        T["medical_claim"].view(), [("member_id", "member_id")], rname="b_{name}").filter(lambda t: t.b_from_date > t.from_date),
    "try cast": lambda: T["member"].mutate(z=lambda t: t.zip.try_cast("int64")),
    "bucket": lambda: T["member_month"].mutate(b=lambda t: t.age.bucket([0, 6, 18, 65, 120])),
    "sample": lambda: T["member"].sample(0.1),
    "order and limit": lambda: T["member"].order_by(ibis.desc("birth_date")).limit(10, offset=5),
    "exists": lambda: T["member"].filter(lambda t: (T["diagnosis"].member_id == t.member_id).any()),
    "mode and first": lambda: T["diagnosis"].group_by("claim_id").agg(m=lambda t: t.code.mode(), f=lambda t: t.code.first()),
}  # fmt: skip


@pytest.mark.parametrize("name", IBIS)
def test_what_ibis_writes_for_ordinary_analysis_is_admitted_and_answered(engine: Any, name: str) -> None:
    sql = str(ibis.to_sql(IBIS[name](), dialect="duckdb"))
    _answers_alike(engine, sql)


@pytest.mark.parametrize("name", MEASURES)
def test_the_librarys_own_measures_are_admitted_and_answered(engine: Any, name: str) -> None:
    measure = MEASURES[name]
    for expression in (
        measure.events(Tables.unbound(), 2025),
        rates(measure.events(Tables.unbound(), 2025), ["county_code"]),
    ):
        _answers_alike(engine, str(ibis.to_sql(expression, dialect="duckdb")))


def _answers_alike(engine: Any, sql: str) -> None:
    """What was admitted has the columns of what was asked, and as many rows."""
    asked, admitted = engine.sql(sql), engine.sql(admit(sql, TABLES).sql)
    assert (admitted.columns, admitted.types) == (asked.columns, asked.types)
    if "SAMPLE" not in sql:
        assert len(admitted.fetchall()) == len(asked.fetchall())


def test_an_in_list_of_five_thousand_codes_passes_quickly() -> None:
    codes = ", ".join(f"'F{i:05d}'" for i in range(5000))
    started = time.process_time()
    admitted = admit(
        f"SELECT count(*) FROM diagnosis WHERE code IN ({codes})", TABLES, mark=lambda text: "#x"
    )
    assert time.process_time() - started < 4
    assert "[5000]" in admitted.normalised and "F00001" not in admitted.normalised


BOMBS = {
    "brackets": "SELECT " + "(" * 100_000 + "1" + ")" * 100_000,
    "brackets under the cap of characters": "SELECT " + "(" * 5_000 + "1" + ")" * 5_000,
    "or": "SELECT 1 FROM member WHERE " + " OR ".join(["sex = 'F'"] * 8_000),
    "plus": "SELECT 1" + "+1" * 9_000,
    "minus": "SELECT " + "- " * 9_000 + "1",
    "not": "SELECT " + "NOT " * 9_000 + "true",
    "case": "SELECT " + "CASE WHEN 1=1 THEN " * 2_000 + "1" + " END" * 2_000,
    "union": " UNION ALL ".join(["SELECT 1"] * 3_000),
    "subqueries": "SELECT * FROM (" * 500 + "SELECT 1" + ")" * 500,
    "joins": "SELECT 1 FROM member m0 " + " ".join(f"JOIN member m{i} ON true" for i in range(1, 2_000)),
    "casts": "SELECT 1" + "::INT" * 9_000,
    "lists": "SELECT " + "[" * 5_000 + "]" * 5_000,
    "length": "SELECT '" + "x" * 1_000_000 + "'",
    "tokens": "SELECT " + ",".join(["1"] * 60_000),
    "dots": "SELECT a" + ".a" * 9_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_costs_anything(name: str) -> None:
    started = time.process_time()
    with pytest.raises(GateRefusal):
        admit(BOMBS[name], TABLES)
    assert time.process_time() - started < 4


@pytest.mark.parametrize(
    ("sql", "code", "says"),
    [
        ("SELECT * FROM membr", "unknown-table", "Did you mean member?"),
        ("SELECT countycode FROM member", "unknown-column", "county_code"),
        ("SELECT m.birthdate FROM member m", "unknown-column", "birth_date"),
        ("SELECT x.sex FROM member m", "unknown-column", "There is: m."),
        ("SELECT code FROM member", "unknown-column", "It is a column of diagnosis"),
        ("SELECT * FROM read_csv('x')", "sql-refused", "Read the slice's tables by their names"),
        ("SELECT * FROM range(10)", "sql-refused", "member_month"),
        ("DESCRIBE member", "sql-refused", "Look at s.tables"),
        ("SHOW TABLES", "sql-refused", "Look at s.tables"),
        ("FROM (DESCRIBE member)", "sql-refused", "Look at s.tables"),
        ("SUMMARIZE member", "sql-refused", "approx_count_distinct"),
        ("EXPLAIN SELECT 1", "sql-refused", "run the query itself"),
        ("LOAD spatial", "sql-refused", "takes no extension"),
        ("CALL pragma_version()", "sql-refused", "Look at s.tables"),
        ("PRAGMA database_list", "sql-refused", "Settings are the broker's"),
        (
            "SELECT json_object('a', 1)",
            "sql-refused",
            "The function json_object is not admitted. The slice holds",
        ),
        ("SELECT [x FOR x IN [1]]", "sql-refused", "A list comprehension is not admitted. Reshape"),
        ("SELECT * FROM member AT (VERSION => 1)", "sql-refused", "Ask for another release"),
        ("SELECT to_char(1, '9')", "sql-refused", "strftime"),
        ("SELECT width_bucket(1, 2, 3, 4)", "sql-refused", "CASE"),
        ("SELECT make_interval(1)", "sql-refused", "to_days(n)"),
        ("SELECT factorial(3)", "sql-refused", "product"),
        ("SELECT map {'a': 1}", "sql-refused", "The function map is not admitted. Use a struct"),
        ("SELECT repeat(code, 2) FROM diagnosis", "sql-refused", "concat(x, x)"),
        (
            "SELECT list_filter([1], LAMBDA x : x > 0)",
            "sql-refused",
            "The function list_filter is not admitted. Use UNNEST",
        ),
        ("SELECT string_split_regex(code, role) FROM diagnosis", "sql-refused", "literal text"),
        ("PIVOT member ON sex USING count(*)", "sql-refused", "PIVOT"),
        ("SELECT * FROM member PIVOT (count(*) FOR sex IN ('F'))", "sql-refused", "FILTER (WHERE"),
        ("SELECT list_transform([1], x -> x)", "sql-refused", "UNNEST"),
        ("SELECT medan(paid_amount) FROM medical_claim_line", "sql-refused", "median"),
        (
            "WITH RECURSIVE r AS (SELECT 1 UNION ALL SELECT 1 FROM r) SELECT * FROM r",
            "sql-refused",
            "WITH RECURSIVE",
        ),
        ("SELECT 1; SELECT 2", "sql-refused", "One statement at a time"),
        ("SELECT regexp_matches(code, role) FROM diagnosis", "sql-refused", "literal"),
        ("SELECT * FROM main.member", "sql-refused", "Write the table's name alone"),
        ("SELECT ? FROM member", "sql-refused", "Write the value into the statement"),
    ],
)
def test_a_refusal_names_the_construct_and_what_to_use_instead(sql: str, code: str, says: str) -> None:
    with pytest.raises(GateRefusal) as caught:
        admit(sql, TABLES)
    assert caught.value.code == code and says in str(caught.value)


@pytest.mark.parametrize(
    "sql",
    [
        f'SELECT * FROM "{SECRET}"',
        f'SELECT "{SECRET}" FROM member',
        f"SELECT sex FROM member WHERE ssn = '{SECRET}' AND getenv('{SECRET}') = '{SECRET}'",
        f'SELECT "{SECRET}".sex FROM member',
        f'SELECT sex::"{SECRET}" FROM member',
        f"SELECT sex FROM member WHERE '{SECRET}",
        f'SELECT sex FROM member m WHERE m."{SECRET}" = 1',
        "SELECT p555019999 FROM member",
        "SELECT sex FROM t900551234",
    ],
)
def test_a_refusal_and_the_log_never_repeat_what_may_be_a_value(
    sql: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(GateRefusal) as caught:
        admit(sql, TABLES)
    for text in (str(caught.value), caught.value.construct, caplog.text, redact(sql, TABLES, lambda _: "#")):
        assert SECRET not in text and "p555019999" not in text and "t900551234" not in text


NAMELESS = [
    'SELECT count(*) FROM member WHERE last_name = "Garcia"',
    'SELECT count(*) FROM member m WHERE m.last_name = m."Garcia"',
    "SELECT count(*) FROM member WHERE last_name = Garcia",
    "SELECT garcia.sex FROM member",
    "SELECT garcia.* FROM member AS m",
    'SELECT "Garcia"."Garcia" FROM member AS "Garcia"',
    "SELECT nothing FROM member AS garcia",
    "SELECT * FROM Garcia",
    'SELECT * FROM "Garcia"',
    "SELECT * FROM garcia(1)",
    "SELECT garcia(1)",
    "SELECT 1::garcia",
    "SELECT CAST(1 AS garcia)",
    "WITH pg_garcia AS (SELECT 1) SELECT * FROM pg_garcia",
    "SELECT garcia.public.upper('a')",
    "SELECT * FROM garcia.member",
    "SELECT sex COLLATE garcia FROM member",
    "SELECT $garcia",
    "SELECT @garcia",
    "SELECT sex FROM member WINDOW garcia AS (ORDER BY sex) QUALIFY rank() OVER pg_garcia",
    "GARCIA member",
    "garcia",
    "CALL garcia(1)",
    "PRAGMA garcia",
    "LOAD garcia",
    "SHOW garcia",
    "SET garcia = 1",
    "EXPLAIN garcia",
    "GRANT garcia TO garcia",
    "SELECT 1 AS garcia; SELECT 2 AS garcia",
    "SELECT 1 /* garcia */ FROM nothing -- garcia",
]


@pytest.mark.parametrize(
    "sql", [*NAMELESS, *(sql.replace("Garcia", "Lee") for sql in NAMELESS if "Garcia" in sql)]
)
def test_what_is_recorded_of_a_refusal_has_no_name_that_only_the_caller_wrote(sql: str) -> None:
    with pytest.raises(GateRefusal) as caught:
        admit(sql, TABLES)
    for text in (caught.value.recorded, caught.value.construct, redact(sql, TABLES, lambda _: "#")):
        assert "garcia" not in text.lower() and "lee" not in text.lower(), text
    assert caught.value.recorded


def test_a_text_in_double_quotes_is_told_about_quotes_and_the_caller_sees_what_she_wrote() -> None:
    with pytest.raises(GateRefusal) as caught:
        admit('SELECT count(*) FROM member WHERE last_name = "Garcia"', TABLES)
    assert caught.value.reason == "There is no column Garcia in member."
    assert caught.value.recorded == "There is no such column in member."
    assert "Texts take single quotes" in caught.value.hint


def test_a_refused_function_of_the_engine_is_named_in_the_log() -> None:
    with pytest.raises(GateRefusal) as caught:
        admit("SELECT * FROM member, read_text('/x')", TABLES)
    assert caught.value.recorded == "The table function read_text is not admitted."


def test_the_kept_statement_has_no_literal_and_no_name_of_the_callers() -> None:
    sql = "SELECT sex AS jane_doe, 'Jane Doe' FROM member WHERE birth_date = DATE '1970-01-02' AND ssn IN ('1', '2')"
    kept = admit(sql, TABLES, mark=lambda text: f"#{len(text)}").normalised
    assert kept == (
        "select sex as name:#8 , #8 from member where birth_date = date #10 and ssn in ( #1, #1 )"
    )


def test_sqlglots_own_log_stays_silent(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.config.dictConfig(
        {"version": 1, "disable_existing_loggers": False}
    )  # as any library may do later
    logging.getLogger().addHandler(handler)
    try:
        for _, sql in HOSTILE:
            with pytest.raises(GateRefusal):
                admit(sql, TABLES)
    finally:
        logging.getLogger().removeHandler(handler)
    said = capsys.readouterr()
    assert stream.getvalue() == said.out == said.err == ""


def test_every_name_of_the_rules_exists_in_the_parsers_that_are_installed() -> None:
    assert {name for name in gate_rules.SYNTAX if not hasattr(sqlglot.exp, name)} == set()
    with duckdb.connect() as con:
        known = {
            row[0] for row in con.execute("SELECT DISTINCT function_name FROM duckdb_functions()").fetchall()
        }
    by_grammar = {
        "<>",
        "==",
        "coalesce",
        "current_timestamp",
        "grouping",
        "grouping_id",
        "ifnull",
        "isnotnull",
        "isnull",
        "not",
    }
    assert gate_rules.FUNCTIONS - known - by_grammar == set()


def test_no_admitted_function_reads_a_file_a_setting_or_the_catalog() -> None:
    leads = (
        "read_",
        "duckdb_",
        "pragma_",
        "pg_",
        "current_setting",
        "getenv",
        "parquet_",
        "sniff_",
        "query",
        "stats",
    )
    assert [name for name in gate_rules.FUNCTIONS if name.startswith(leads)] == []


_PIECES = st.sampled_from(
    ["member", "m", "(SELECT 1)", "sqlite_master", "main.member", "read_text('/x')", "'/etc/passwd'", "duckdb_tables()",
     "WITH m AS (", "SELECT", "*", "FROM", ",", ")", "(", "JOIN", "ON true", "UNION ALL", "WHERE", "sex", "AS", "m.sex",
     "member m", "LATERAL", "VALUES (1)", "EXISTS", ";", "WITH sqlite_master AS (SELECT 1)", "IN"]
)  # fmt: skip


@given(st.lists(_PIECES, min_size=1, max_size=14))
def test_whatever_is_admitted_reads_nothing_but_the_slices_tables(pieces: list[str]) -> None:
    try:
        admitted = admit("SELECT * FROM " + " ".join(pieces), TABLES)
    except GateRefusal:
        return
    assert (_tables_that_the_engine_sees(admitted.sql) or set()) <= set(TABLES)
    assert "/" not in admitted.sql and "duckdb_tables" not in admitted.sql


def test_an_empty_slice_admits_no_table() -> None:
    with pytest.raises(GateRefusal):
        admit("SELECT * FROM member", {})
    assert admit("SELECT 1 AS a", {}).tables == ()


def test_columns_are_reported_through_stars_aliases_and_with_clauses() -> None:
    admitted = admit(
        "WITH d AS (SELECT * EXCLUDE (code) FROM diagnosis) SELECT m.sex FROM member m JOIN d USING (member_id)",
        TABLES,
    )
    assert "diagnosis.role" in admitted.columns and "diagnosis.code" not in admitted.columns
    assert {"member.sex", "member.member_id"} <= set(admitted.columns)
    assert gate.admit("SELECT member FROM member", TABLES).columns == tuple(
        sorted(f"member.{c}" for c in TABLES["member"])
    )


def test_the_page_of_the_broker_lists_exactly_the_functions_that_are_admitted() -> None:
    page = (Path(__file__).parent.parent / "docs" / "broker.md").read_text()
    listed = page.split("<!-- functions -->")[1].split("<!-- /functions -->")[0]
    assert set(re.findall(r"`([a-z0-9_]+)`", listed)) == gate_rules.FUNCTIONS - gate_rules.OPERATORS
