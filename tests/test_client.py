"""Promises of the client: rows as asked, nothing incomplete, refusals that say what to do."""

from __future__ import annotations

import datetime
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import client_world
import ibis
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import workbench as wb
from workbench.client import BrokerBusy, BrokerRefusal, BrokerUnreachable, NoToken, ResultCutOff, TokenRefused
from workbench.client.errors import MemtableRefused, NotInThisGrant, ReadOnly
from workbench.client.result import END_OF_STREAM
from workbench.client.session import Session

pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="module")
def world() -> Iterator[client_world.World]:
    with client_world.world() as running:
        yield running


@pytest.fixture(scope="module")
def connect(world: client_world.World) -> Callable[[str], Session]:
    sessions: dict[str, Session] = {}

    def connect(grant: str) -> Session:
        if grant not in sessions:
            seat = world.seat(grant)
            sessions[grant] = wb.connect(seat.socket, seat.token)
        return sessions[grant]

    return connect


@pytest.fixture(scope="module")
def ana(connect: Callable[[str], Session]) -> Session:
    return connect(client_world.ANA)


@pytest.fixture(scope="module")
def rui(connect: Callable[[str], Session]) -> Session:
    return connect(client_world.RUI_SH)


def test_rows_reach_pandas_polars_and_arrow_alike(ana: Session) -> None:
    result = ana.sql("select member_id, birth_date, race from member order by member_id")
    assert result.arrow().num_rows == 200
    assert result.columns == ["member_id", "birth_date", "race"]
    frame = result.pandas()
    assert pd.api.types.is_datetime64_any_dtype(frame["birth_date"])
    assert frame["member_id"].tolist() == result.polars()["member_id"].to_list()
    assert result.arrow().schema.field("birth_date").type == pa.date32()


def test_a_measure_names_plans_and_not_their_ids(ana: Session) -> None:
    rates = ana.measure("FUM", year=2025, visible_only=True).rates("plan")
    assert set(rates["plan"]) == {"Sierra Vista Health Plan"}


def test_whoami_shows_the_whole_verdict(ana: Session) -> None:
    ana.sql("select 1 from member limit 1").arrow()
    shown = ana.whoami()._repr_html_()
    assert ana.fitness["complete_through"] in shown
    assert "…" not in shown


def test_money_stays_exact(ana: Session) -> None:
    amount = ana.sql("select sum(paid_amount) as paid from medical_claim_line").arrow()["paid"][0].as_py()
    lines = ana.sql("select count(*) as n from medical_claim_line").arrow()["n"][0].as_py()
    assert str(amount) == f"{lines * 12.5:.2f}"


def test_a_result_streams_in_batches_and_can_be_read_again(ana: Session) -> None:
    result = ana.sql("select a.member_id from member a, member b, member c limit 600000")
    batches = [batch.num_rows for batch in result]
    assert sum(batches) == 600_000
    assert len(batches) > 1
    assert result.reader().read_all().num_rows == 600_000


def test_a_result_shows_first_rows_grant_level_and_synthetic_mark(ana: Session) -> None:
    result = ana.sql("select member_id, race from member order by member_id")
    for text in (result._repr_html_(), repr(result)):
        assert "200 rows, first 10 shown" in text
        assert "SYNTHETIC DATA" in text
        assert "demo-analyst" in text
        assert "identified" in text
        assert "00000000A" in text
        assert "00000020A" not in text
    assert "part2" in result._repr_html_()


def test_html_of_a_result_is_escaped(ana: Session) -> None:
    html = ana.sql("select '<script>alert(1)</script>' as \"<b>\" from member limit 1")._repr_html_()
    assert "<script>" not in html
    assert "&lt;b&gt;" in html


def test_tables_list_what_the_slice_holds_and_complete_by_tab(ana: Session, rui: Session) -> None:
    assert {"member", "medical_claim", "measure_event"} <= set(ana.tables)
    assert "member" in dir(ana.tables)
    assert "one row per member" in repr(ana.tables)
    assert "last_name" in ana.tables.member.columns
    assert "last_name" not in rui.tables.member.columns
    assert "birth_year" in rui.tables.member.columns
    assert "Date of birth" in repr(ana.dictionary("member"))


def test_an_ibis_expression_gives_what_the_same_sql_gives(ana: Session) -> None:
    member = ana.tables.member
    by_race = member.group_by("race").agg(n=member.count()).order_by("race")
    sql = ana.sql("select race, count(*) as n from member group by race order by race").pandas()
    pd.testing.assert_frame_equal(by_race.to_pandas(), sql)
    assert by_race.to_polars().equals(pl.from_pandas(sql))
    assert by_race.to_pyarrow().column("n").to_pylist() == sql["n"].tolist()
    assert member.count().execute() == 200


def test_ibis_windows_dates_and_batches_work_through_the_broker(ana: Session) -> None:
    claim = ana.tables.medical_claim
    first = claim.mutate(place=ibis.row_number().over(group_by="member_id", order_by="from_date"))
    first = first.filter(first.place == 0, first.from_date >= ibis.date(2025, 3, 1))
    with first.to_pyarrow_batches() as reader:
        rows = sum(batch.num_rows for batch in reader)
    assert rows == ana.sql("select count(distinct member_id) as n from medical_claim").arrow()["n"][0].as_py()
    assert claim.from_date.min().execute() >= pd.Timestamp(client_world.VISIT)
    codes = [f"F{n}" for n in range(5000)]
    assert ana.tables.diagnosis.filter(ibis._.code.isin(codes)).count().execute() > 0


def test_an_interactive_ibis_table_shows_its_first_rows(
    ana: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ibis.options, "interactive", True)
    assert "00000000A" in repr(ana.tables.member.order_by("member_id").select("member_id"))


def test_local_tables_python_functions_and_writing_are_refused_with_a_reason(ana: Session) -> None:
    member = ana.tables.member
    local = ibis.memtable(pa.table({"member_id": ["00000000A"]}))
    with pytest.raises(MemtableRefused, match="isin"):
        member.semi_join(local, "member_id").execute()

    @ibis.udf.scalar.python
    def twice(x: int) -> int:
        return 2 * x

    with pytest.raises(ReadOnly, match="to_pandas"):
        member.select(n=twice(member.birth_date.year().cast("int64"))).execute()
    with pytest.raises(ReadOnly):
        member.get_backend().create_table("mine", member)


def test_a_refusal_is_typed_and_says_what_to_use_instead(ana: Session, world: client_world.World) -> None:
    with pytest.raises(BrokerRefusal) as refusal:
        ana.sql("select * from read_parquet('x.parquet')")
    assert refusal.value.code
    assert refusal.value.hint
    with pytest.raises(BrokerRefusal, match=r"nope.*There is") as refusal:
        ana.sql("select nope from member")
    assert str(world.where.lake) not in str(refusal.value)
    with pytest.raises(NotInThisGrant, match="Did you mean 'member'"):
        _ = ana.tables.membr
    assert "Refused" in refusal.value._repr_html_()
    assert not any("Traceback" in line for line in refusal.value._render_traceback_())


def test_an_aggregate_grant_tabulates_and_has_no_rows(connect: Callable[[str], Session]) -> None:
    pat = connect(client_world.PAT)
    assert list(pat.tables) == []
    with pytest.raises(BrokerRefusal, match="tabulate"):
        pat.sql("select count(*) from member")


def test_a_tabulation_hides_small_cells_and_says_so(connect: Callable[[str], Session]) -> None:
    table = connect(client_world.PAT).tabulate("fum_by_county", year=2025, numerator="7d")
    frame = table.frame.set_index("county")
    assert frame.loc["02", "hidden"]
    assert pd.isna(frame.loc["02", "denominator"])
    assert pd.isna(frame.loc["02", "rate"])
    shown = frame[~frame["hidden"] & (frame["denominator"] > 0)]
    assert (shown["rate"] == shown["met"] / shown["denominator"]).all()
    everybody = table.total()
    assert everybody is not None
    assert (everybody["denominator"], everybody["met"]) == (133, 55)
    for text in (repr(table), table._repr_html_()):
        assert table.mark in text
        assert "SYNTHETIC DATA" in text
        assert "De-Identification Guidelines" in text
    assert "SYNTHETIC DATA" in table.svg()


def test_months_are_drawn_as_lines_and_two_dimensions_as_bars(connect: Callable[[str], Session]) -> None:
    pat = connect(client_world.PAT)
    months = pat.tabulate("fum_by_month", year=2025)
    assert months.numerators == ["7d", "30d"]
    assert "within 30 days" in months.svg()
    both = pat.tabulate("members_by_plan_race", year=2025)
    phone = both.svg(width="phone")
    assert "Golden Poppy" in phone
    assert "Hispanic or Latino" in phone


def test_unknown_tables_and_years_are_refused_with_what_there_is(connect: Callable[[str], Session]) -> None:
    pat = connect(client_world.PAT)
    with pytest.raises(BrokerRefusal, match="fum_by_county"):
        pat.tabulate("fum_by_planet", year=2025)
    with pytest.raises(BrokerRefusal, match="2025"):
        pat.tabulate("fum_by_county", year=1999)


def test_a_measure_is_refused_where_claims_were_taken_out(ana: Session) -> None:
    with pytest.raises(wb.WorkbenchError, match="tabulate") as refusal:
        ana.measure("FUM", year=2025)
    assert refusal.value.code == "unfit-slice"
    with pytest.raises(wb.WorkbenchError, match="FUM"):
        ana.measure("FUN", year=2025)


def test_visible_only_computes_in_the_slice_and_stamps_it(ana: Session) -> None:
    result = ana.measure("FUM", year=2025, visible_only=True)
    assert "VISIBLE CLAIMS ONLY" in result.verdict
    assert "VISIBLE CLAIMS ONLY" in result._repr_html_()
    assert "SYNTHETIC DATA" in result._repr_html_()
    rates = result.rates().set_index("numerator")
    ours = ana.sql("select count(distinct event_id) as n from measure_event").arrow()["n"][0].as_py()
    met = (
        ana.sql("select count(*) as n from measure_event where met and numerator = '7d'")
        .arrow()["n"][0]
        .as_py()
    )
    assert (rates.loc["7d", "denominator"], rates.loc["7d", "met"]) == (ours, met)
    assert set(result.rates("race")["race"]) <= {"White", "Hispanic or Latino", "Asian"}


def test_where_dates_are_years_the_releases_own_results_are_served(rui: Session) -> None:
    result = rui.measure("FUM", year=2025)
    assert result.fit.kind == "derived"
    rates = result.rates().set_index("numerator")
    assert (rates.loc["7d", "denominator"], rates.loc["7d", "met"]) == (133, 55)
    assert (rates.loc["30d", "denominator"], rates.loc["30d", "met"]) == (133, 81)


def test_whoami_says_who_under_which_grant_at_which_level(ana: Session) -> None:
    me = ana.whoami()
    assert (me["user"], me["grant"], me["level"], me["purpose"]) == (
        "ana",
        "demo-analyst",
        "identified",
        "operations",
    )
    assert "SYNTHETIC DATA" in me._repr_html_()
    assert "part2" in ana.fitness["categories_removed"]
    assert {g["grant"] for g in ana.grants() if g["allowed"]} == {"demo-analyst", "plan-quality-sierra-vista"}


def test_another_servers_token_is_refused(world: client_world.World) -> None:
    rui, pat = world.seat(client_world.RUI_LDS), world.seat(client_world.PAT)
    with pytest.raises(TokenRefused, match="does not belong to this server"):
        wb.connect(rui.socket, pat.token)


def test_no_token_and_no_broker_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WORKBENCH_TOKEN", "JUPYTERHUB_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NoToken, match="Hub"):
        wb.connect()
    with pytest.raises(BrokerUnreachable, match="restarting"):
        wb.connect(tmp_path / "gone.sock", "x")


def test_importing_workbench_costs_nothing_until_a_name_is_used() -> None:
    heavy = ("pandas", "pyarrow", "ibis", "polars", "matplotlib", "duckdb", "IPython")
    script = (
        f"import sys, workbench; print([m for m in {heavy!r} if m in sys.modules]); print(workbench.connect)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("[]\n<function connect")


def test_connecting_and_sql_need_neither_ibis_nor_matplotlib_nor_pandas(world: client_world.World) -> None:
    seat = world.seat(client_world.ANA)
    script = (
        "import sys, workbench as wb; s = wb.connect(); s.sql('select 1 as x from member limit 1').arrow(); s.tables; "
        "print([m for m in ('ibis', 'matplotlib', 'pandas') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={**seat.environment}
    )
    assert run.stdout == "[]\n"


class _Peer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A peer on a unix socket that answers each request with the next of its answers: faults on demand."""

    daemon_threads = True

    def __init__(self, path: Path, answers: list[tuple[int, dict[str, str], bytes]]):
        self.answers = answers
        super().__init__(str(path), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Peer

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, headers, body = (
            self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        )
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    do_GET = do_POST = _answer  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def address_string(self) -> str:
        return "peer"


WHOAMI = (200, {}, b'{"user": "ana", "grant": "g", "level": "identified", "release": "r", "synthetic": true}')


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Callable[..., Session]]:
    peers: list[_Peer] = []

    def peer(*answers: tuple[int, dict[str, str], bytes]) -> Session:
        path = tmp_path / f"{len(peers)}.sock"
        server = _Peer(path, [WHOAMI, *answers])
        peers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return wb.connect(path, "token")

    yield peer
    for server in peers:
        server.shutdown()
        server.server_close()


def _stream(rows: int) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({"n": list(range(rows)), "d": [datetime.date(2025, 1, 1)] * rows})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param(lambda whole: whole[: -len(END_OF_STREAM)], id="end mark missing"),
        pytest.param(lambda whole: whole[: len(whole) // 2], id="inside a batch"),
        pytest.param(lambda whole: b"", id="nothing at all"),
        pytest.param(lambda whole: whole + b"more", id="bytes after the end"),
    ],
)
def test_an_incomplete_answer_is_never_handed_out(
    peer: Callable[..., Session], cut: Callable[[bytes], bytes]
) -> None:
    whole = _stream(1000)
    assert peer((200, {}, whole)).sql("select 1").arrow().num_rows == 1000
    with pytest.raises(ResultCutOff, match="not complete"):
        peer((200, {}, cut(whole))).sql("select 1").arrow()


def test_a_connection_that_breaks_mid_answer_is_a_cut_off_result(peer: Callable[..., Session]) -> None:
    whole = _stream(1000)
    answer = (200, {"Content-Length": str(len(whole))}, whole[:-200])
    with pytest.raises(ResultCutOff):
        peer(answer).sql("select 1").arrow()


def test_a_cut_off_answer_tells_the_brokers_reason(peer: Callable[..., Session]) -> None:
    reason = (
        200,
        {},
        b'{"query": "q1", "state": "failed", "reason": "The query took longer than 60 seconds."}',
    )
    session = peer((200, {"X-Query-Id": "q1"}, _stream(1000)[:-8]), reason)
    with pytest.raises(ResultCutOff, match="longer than 60 seconds"):
        session.sql("select 1").arrow()


def test_a_slice_that_is_being_built_is_waited_for(peer: Callable[..., Session]) -> None:
    body = (
        b'{"code": "slice-building", "reason": "r", "hint": "h", "progress": {"step": "member", "done": 0.5}}'
    )
    building = (202, {"Retry-After": "0"}, body)
    session = peer(building, building, (200, {}, _stream(3)))
    assert session.sql("select 1").arrow().num_rows == 3


def test_a_busy_broker_is_asked_again_and_then_named(peer: Callable[..., Session]) -> None:
    busy = (429, {"Retry-After": "0"}, b'{"code": "busy", "reason": "Too many queries.", "hint": "Wait."}')
    assert peer(busy, busy, (200, {}, _stream(3))).sql("select 1").arrow().num_rows == 3
    with pytest.raises(BrokerBusy, match="Too many") as refusal:
        peer(busy).sql("select 1")
    assert refusal.value.retry_after == 0
    long = (429, {"Retry-After": "120"}, busy[2])
    with pytest.raises(BrokerBusy) as refusal:
        peer(long).sql("select 1")
    assert refusal.value.retry_after == 120


def test_a_fault_of_the_broker_shows_its_code_even_without_json(peer: Callable[..., Session]) -> None:
    with pytest.raises(wb.WorkbenchError) as failure:
        peer((502, {}, b"<html>Bad Gateway</html>")).sql("select 1")
    assert failure.value.http_status == 502
    assert "html" not in str(failure.value)
