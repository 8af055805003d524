"""Attacks on what is new at the boundary: the second listener, who-saw, the auditors' terminal."""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from broker_world import BIG, PATIENCE, Bound, World, new_world, until
from channel_world import CARE, Api, Holder, write_grant
from click.testing import CliRunner
from rich.console import Console

from hub_config.oidc_authenticator import GroupsAuthenticator, ProviderSilent
from workbench.broker import connection, members_found
from workbench.broker.caller import Caller
from workbench.broker.channels import answers
from workbench.cli import program
from workbench.cli.plain import plain
from workbench.errors import WorkbenchError

pytestmark = pytest.mark.sandbox


def test_a_header_gives_a_guesser_no_new_address(served: Api) -> None:
    form = b"grant_type=client_credentials&client_id=guessed-one&client_secret=x"
    asked = [
        served.ask("POST", "/oauth/token", form, **{"X-Forwarded-For": f"10.0.0.{i}"}).status
        for i in range(7)
    ]
    assert asked == [401] * 5 + [429] * 2


def _near(served: Api) -> socket.socket:
    assert served.service.channels.address is not None
    near = socket.create_connection(served.service.channels.address)
    near.settimeout(PATIENCE)
    return near


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /whoami HTTP/1.1\r\nHost: b\r\nX: ",
        b"POST /oauth/token HTTP/1.1\r\nHost: b\r\nContent-Length: 9\r\n\r\n",
        b"GET /openapi.json HTTP/1.1\r\nHost: b\r\n\r\n",
    ],
    ids=["half a head", "half a body", "kept open"],
)
def test_a_flood_of_connections_without_a_token_keeps_no_client_out(
    served: Api, care: Holder, sent: bytes
) -> None:
    flood = []
    try:
        for _ in range(connection.MAX_CONNECTIONS + 10):
            flood.append(_near(served))
            flood[-1].sendall(sent)
        started = time.monotonic()
        assert care.ask("GET", "/whoami").status == 200
        assert time.monotonic() - started < connection.HEAD_SECONDS - 1, "not only once they were ended"
    finally:
        for near in flood:
            near.close()


def test_a_client_that_takes_every_connection_loses_its_own(served: Api, care: Holder) -> None:
    greedy = served.client("greedy-one")
    flood, kept = [], _near(served)

    def asks(near: socket.socket, holder: Holder) -> bytes:
        near.sendall(
            f"GET /whoami HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {holder.token}\r\n\r\n".encode()
        )
        return near.recv(65536)

    try:
        assert b"200 OK" in asks(kept, care)
        for _ in range(connection.MAX_CONNECTIONS + 10):
            flood.append(_near(served))
            assert b"200 OK" in asks(flood[-1], greedy)
        assert b"200 OK" in asks(kept, care)
        assert flood[0].recv(1) == b""
    finally:
        for near in [*flood, kept]:
            near.close()


def test_a_revoked_clients_open_connections_end(served: Api) -> None:
    holder = served.client("soon-revoked")
    with _near(served) as near:
        near.sendall(
            f"GET /whoami HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {holder.token}\r\n\r\n".encode()
        )
        assert b"200 OK" in near.recv(65536)
        served.world.control("DELETE", "/clients/soon-revoked")
        with contextlib.suppress(ConnectionResetError):
            assert near.recv(1) == b""


def test_a_slow_reader_gets_no_more_of_a_file_once_the_grant_is_over(
    served: Api, care: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert care.ask("GET", "/feed").status == 200
    monkeypatch.setattr(answers, "PIECE", 64)
    broker = served.service.broker
    caller = Caller("client:care-platform", CARE, "treatment", "feed", server="api")

    async def slowly() -> str:
        file = await answers.feed_file(broker, caller, "member", 0)
        await anext(file.chunks)
        write_grant(served.world, CARE, valid_until="2026-02-01")
        try:
            async for _ in file.chunks:
                pass
        except WorkbenchError as error:
            return error.code
        finally:
            write_grant(served.world, CARE)
        return "whole"

    assert served.in_the_service(slowly()) == "grant-expired"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT m FROM member m",
        "SELECT struct_pack(a := member_id) AS s FROM member",
        "SELECT min(sex) AS x, list(row(row(member_id, 1))) AS y FROM member",
        "SELECT CAST([member_id] AS VARCHAR[1]) FROM member",
        "SELECT arg_max(m, sex) FROM member m GROUP BY m.member_id",
    ],
)
def test_an_id_in_a_struct_or_array_is_an_id_in_the_answer(world: World, ana: Bound, sql: str) -> None:
    reply = ana.query(sql)
    assert reply.status == 200, reply.body

    def ended() -> list[dict[str, Any]]:
        query = reply.headers["X-Query-Id"]
        return [e for e in world.log() if e["query_id"] == query and e["event"] == "ended"]

    until(ended)
    assert ended()[0]["members"] == 3


def test_a_column_that_was_filled_with_other_texts_first_hides_no_member() -> None:
    members = ", ".join(f"('00000000{n}')" for n in range(9))
    with duckdb.connect() as con:
        con.execute(f"CREATE TABLE member AS SELECT * FROM (VALUES {members}) AS m(member_id)")
        found = members_found.Found(members_found.Members(con, "member", "member_id"))
        others = con.sql(f"SELECT 'x' || range AS text FROM range({members_found.MOST + 1})").to_arrow_table()
        for batch in (*others.to_batches(), *con.sql("FROM member").to_arrow_table().to_batches()):
            found.look(pa.record_batch([batch.column(0)], ["text"]))
        assert found.members()["capped"]


def test_words_that_others_wrote_are_no_markup_and_no_codes_on_a_terminal() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    words = "[/red] [link=https://evil.example]click[/link] [conceal]hidden \x1b]0;title\x07 \x9b2J \u202edesrever"
    console.print(plain(words))
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[/red] [link=https://evil.example]click[/link] [conceal]hidden" in said
    assert not any(sign in said for sign in ("\x1b", "\x07", "\x9b", "\u202e"))


def test_markup_in_a_justification_neither_breaks_nor_hides_a_line_of_the_review(
    served: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in served.world.environment().items():
        monkeypatch.setenv(name, value)
    said = {"user": "dr", "grant": CARE, "subject": served.service.broker.audit.subject("1")}
    served.service.broker.audit.record("break-glass", **said, reason="[/b] unconscious [conceal]patient")
    for command in (["review"], ["show", "--event", "break-glass"]):
        shown = CliRunner().invoke(program, ["audit", *command])
        assert shown.exit_code == 0, shown.output
        assert "[/b] unconscious [conceal]patient" in " ".join(shown.output.split())


def test_an_operator_signs_off_no_operators_matter_under_another_name(served: Api) -> None:
    audit = served.service.broker.audit
    audit.record("refused", user="operator:maria", grant=CARE, code="grant-closed", reason="x")
    items = served.world.control("GET", "/audit/review").json["items"]
    item = next(item["id"] for item in items if item["user"] == "operator:maria")
    for name in ("maria", "somebody-else"):
        reply = served.world.control("POST", f"/audit/review?operator={name}", {"item": item})
        assert (reply.status, reply.json["code"]) == (403, "own-matter")


def test_what_left_of_answers_that_a_restart_breaks_off_counts_for_the_day() -> None:
    with new_world() as world:
        with world.serve():
            rui = world.bind("rui", "demo-research-sh", "research")
            assert rui.query("SELECT sex FROM member").status == 200
            streams = [rui.posting(BIG) for _ in range(3)]
            for near in streams:
                near.recv(100_000)
        for near in streams:
            near.close()
        ended = world.log(event="ended")
        assert len(ended) == len(world.log(event="admitted"))
        with world.serve() as service:
            taken = service.broker.meter.taken("demo-research-sh")
        assert taken == (sum(e["rows"] for e in ended), sum(e["bytes"] for e in ended)) and taken[0] > 3


@pytest.mark.parametrize("fault", [RecursionError(), AttributeError("x"), RuntimeError("x")])
def test_a_providers_answer_that_cannot_be_read_is_silence_and_prolongs_nothing(fault: Exception) -> None:
    async def answer() -> dict[str, Any]:
        raise fault

    with pytest.raises(ProviderSilent):
        asyncio.run(GroupsAuthenticator._asked(answer()))


def test_alerts_stand_in_the_auditors_folder_at_once_however_slow_the_command_is(
    served: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORKBENCH_ALERT_COMMAND", f"sh -c 'sleep 9; touch {tmp_path}/told'")
    audit = served.service.broker.audit
    numbers = [audit.record("break-glass-read", user="dr", grant=CARE) for _ in range(4)]
    until(lambda: str(numbers[-1]) in (audit.folder / "alerts.jsonl").read_text())
    assert not (tmp_path / "told").exists(), "the command of the first still runs"
