"""The second listener: its own credentials and nothing of the Hub's, no SQL, no path written down, no open address."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import ipaddress
import json
import os
import socket
import ssl
import subprocess
import sys
import urllib.parse
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from broker_world import ask, until
from channel_world import CARE, NOBODY, Api, Holder, api, channel_world
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from slice_world import A

from workbench.broker.channels import clients
from workbench.broker.channels.listener import UnsafeListener, address_of
from workbench.cli.client import client as client_commands
from workbench.errors import WorkbenchError

pytestmark = pytest.mark.sandbox


def _last(served: Api, event: str) -> dict[str, Any]:
    until(lambda: any(e["event"] == event for e in served.world.log()))
    return [e for e in sorted(served.world.log(), key=lambda e: e["seq"]) if e["event"] == event][-1]


def test_a_secret_is_told_once_and_kept_as_a_hash_alone(served: Api) -> None:
    holder = served.client("hash-only")
    shown = served.world.control("GET", "/clients").body.decode()
    assert holder.secret not in shown
    engine = sa.create_engine(served.world.where.database_url)
    with engine.connect() as connection:
        stored = str(connection.execute(sa.text("SELECT * FROM api_client")).fetchall())
        stored += str(connection.execute(sa.text("SELECT * FROM audit_event")).fetchall())
    engine.dispose()
    assert "hash-only" in stored
    assert holder.secret not in stored
    assert holder.token not in stored


@pytest.mark.parametrize(
    "path", [f"/members/{A}/record", f"/members/{A}/risk", "/feed", "/feed/member", "/whoami"]
)
@pytest.mark.parametrize(
    "token", ["", "Bearer ", "Bearer nonsense", "Basic Y2FyZTp4", "Bearer " + "x" * 9000]
)
def test_without_a_token_of_the_listener_nothing_is_told(served: Api, path: str, token: str) -> None:
    reply = served.ask("GET", path, **({"Authorization": token} if token else {}))
    assert (reply.status, reply.json["code"]) == (401, "token-refused")
    assert reply.headers["WWW-Authenticate"] == "Bearer"


def test_a_token_of_the_hub_is_refused_on_the_listener_and_its_tokens_are_refused_on_sockets(
    served: Api, care: Holder
) -> None:
    server = served.world.bind("ana", CARE, "operations", token="hub-token-of-ana")
    assert server.ask("GET", f"/members/{A}/record").status == 200
    assert served.ask("GET", f"/members/{A}/record", Authorization="Bearer hub-token-of-ana").status == 401
    reply = ask(server.socket, "GET", f"/members/{A}/record", Authorization=f"Bearer {care.token}")
    assert reply.status == 401


@pytest.mark.parametrize(
    "path",
    [
        "/query",
        "/tables",
        "/tables/member",
        "/queries/x",
        "/grants",
        "/audit",
        "/bindings",
        "/clients",
        "/health",
        "/",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_listener_has_no_query_and_no_path_of_operators(care: Holder, method: str, path: str) -> None:
    reply = care.ask(method, path, {"sql": "SELECT 1"} if method == "POST" else None)
    assert reply.status in (404, 405)
    assert reply.json["code"] in ("no-such-path", "no-such-method")


def test_a_wrong_secret_and_an_unknown_name_get_one_answer_and_stand_in_the_log(served: Api) -> None:
    served.client("known-name")
    wrong, unknown = served.login("known-name", "x"), served.login("name-of-nobody", "x")
    assert wrong.status == unknown.status == 401
    assert wrong.body == unknown.body
    assert _last(served, "client-login-refused")["user"] == "client:unknown"
    assert "name-of-nobody" not in json.dumps(served.world.log())


def test_failed_logins_are_throttled_and_the_right_secret_waits_too() -> None:
    with api() as fresh:
        holder = fresh.client("guessed-at")
        replies = [fresh.login("guessed-at", f"guess {n}") for n in range(clients.FAILURES + 3)]
        assert [r.status for r in replies] == [401] * clients.FAILURES + [429] * 3
        assert 0 < int(replies[-1].headers["Retry-After"]) <= clients.FAILURE_SECONDS + 1
        assert fresh.login("guessed-at", holder.secret).status == 429
        assert holder.ask("GET", "/feed/member?part=x").status == 400, "the token from before holds"
        refused = [e for e in fresh.world.log() if e["event"] == "client-login-refused"]
        assert len(refused) == clients.FAILURES + 1, "a flood of refusals is told once"


def test_secrets_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch, served: Api) -> None:
    compared = []
    real = clients.hmac.compare_digest

    def watched(a: str, b: str) -> bool:
        compared.append((len(a), len(b)))
        return real(a, b)

    monkeypatch.setattr(clients.hmac, "compare_digest", watched)
    served.client("compared")
    served.login("nobody-at-all", "short")
    assert len(compared) == 2
    assert all(a == b == 128 for a, b in compared)


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({}, "unsupported_grant_type"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": "client_credentials"}, "invalid_request"),
        ({"grant_type": "client_credentials", "client_id": "x"}, "invalid_request"),
    ],
)
def test_a_login_that_is_no_client_credentials_grant_is_refused(
    served: Api, form: dict[str, str], code: str
) -> None:
    reply = served.ask("POST", "/oauth/token", urllib.parse.urlencode(form).encode())
    assert (reply.status, reply.json["code"]) == (400, code)


@pytest.mark.parametrize("basic", ["%%%", base64.b64encode(b"\xff\xfe:x").decode(), ""])
def test_broken_basic_credentials_are_refused(served: Api, basic: str) -> None:
    form = b"grant_type=client_credentials"
    reply = served.ask("POST", "/oauth/token", form, Authorization=f"Basic {basic}")
    assert reply.status in (400, 401)


def test_credentials_may_stand_in_the_form(served: Api, care: Holder) -> None:
    form = {"grant_type": "client_credentials", "client_id": care.name, "client_secret": care.secret}
    reply = served.ask("POST", "/oauth/token", urllib.parse.urlencode(form).encode())
    assert reply.json["token_type"] == "Bearer"
    assert reply.json["expires_in"] == 900
    assert reply.headers["Cache-Control"] == "no-store"


def test_a_token_ends_after_its_time(served: Api, care: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = served.client("short-lived")
    now = clients.time.monotonic()
    assert holder.ask("GET", "/whoami").status == 200
    monkeypatch.setattr(clients.time, "monotonic", lambda: now + clients.TOKEN_SECONDS + 5)
    assert holder.ask("GET", "/whoami").status == 401


def test_a_revoked_client_is_refused_at_once_with_the_token_that_it_has(served: Api) -> None:
    holder = served.client("to-be-revoked")
    assert holder.ask("GET", f"/members/{A}/risk").status == 200
    assert served.world.control("DELETE", "/clients/to-be-revoked").status == 200
    assert holder.ask("GET", f"/members/{A}/risk").status == 401
    assert served.login(holder.name, holder.secret).status == 401
    assert _last(served, "client-revoked")["user"] == "client:to-be-revoked"
    again = {"name": "to-be-revoked", "grant": CARE, "purpose": "treatment"}
    assert served.world.control("POST", "/clients", again).status == 409


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"grant": "no-such-grant"}, 404),
        ({"purpose": "research"}, 403),
        ({"grant": "demo-research-sh", "purpose": "research"}, None),
        ({"grant": "demo-public", "purpose": "program_administration"}, 201),
        ({"name": "Bad Name"}, 400),
        ({"name": "x"}, 400),
        ({"days": 0}, 400),
        ({"days": 100_000}, 400),
        ({"days": True}, 400),
        ({"days": "1"}, 400),
        ({"name": 7}, 400),
    ],
)
def test_a_client_is_made_only_for_a_grant_and_purpose_that_could_serve_it(
    served: Api, changes: dict[str, Any], status: int | None
) -> None:
    name = "made-" + "".join(c for c in json.dumps(changes) if c.isalnum())[:30].lower()
    reply = served.world.control(
        "POST", "/clients", {"name": name, "grant": CARE, "purpose": "treatment", **changes}
    )
    if status is not None:
        assert reply.status == status, reply.body
    made = reply.status == 201
    listed = {c["name"] for c in served.world.control("GET", "/clients").json["clients"]}
    assert (name in listed) == (made and "name" not in changes)


def test_a_clients_grant_must_open_one_of_the_listeners_channels(served: Api) -> None:
    body = {"name": "report-client", "grant": "plan-quality-sierra-vista", "purpose": "operations"}
    reply = served.world.control("POST", "/clients", body)
    assert reply.status in (400, 403, 404)
    assert "client_secret" not in reply.json


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"])
def test_without_a_certificate_no_address_but_the_loopback_is_listened_on(bind: str) -> None:
    with channel_world() as world:
        world.where = replace(world.where, api_bind=bind)
        with pytest.raises(UnsafeListener, match="loopback"), world.serve():
            pytest.fail("it listens")


@pytest.mark.parametrize(
    "bind", ["", "8010", "localhost", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:99999", ":80"]
)
def test_an_address_that_is_none_is_refused(bind: str) -> None:
    with pytest.raises(UnsafeListener):
        address_of(bind)


def test_with_a_certificate_the_listener_speaks_tls_and_nothing_else(tmp_path: Path) -> None:
    cert, key = _certificate(tmp_path)
    with channel_world() as world:
        world.where = replace(world.where, api_tls_cert=str(cert), api_tls_key=str(key))
        with world.serve() as service:
            assert service.channels.address is not None
            host, port = service.channels.address
            context = ssl.create_default_context(cafile=str(cert))
            with urllib.request.urlopen(f"https://{host}:{port}/openapi.json", context=context) as answer:
                assert json.load(answer)["openapi"] == "3.1.0"
            with socket.create_connection((host, port)) as plain:
                plain.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
                plain.settimeout(60)
                said = b""
                with contextlib.suppress(ConnectionResetError):
                    while piece := plain.recv(1000):
                        said += piece
            assert b"openapi" not in said


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of the loopback that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "broker")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(True, None), True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "cert.pem", folder / "key.pem"


def test_no_id_of_a_member_and_no_secret_reaches_the_services_output(tmp_path: Path) -> None:
    with channel_world() as world:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        output = (tmp_path / "output").open("wb")
        environment = {**os.environ, **world.environment(), "WORKBENCH_API_BIND": f"127.0.0.1:{port}"}
        process = subprocess.Popen(
            [sys.executable, "-m", "workbench.broker.service"], env=environment, stdout=output, stderr=output
        )
        try:
            until(lambda: process.poll() is not None or world.answers())
            made = world.control(
                "POST", "/clients", {"name": "logged", "grant": CARE, "purpose": "treatment"}
            )
            secret = made.json["client_secret"]
            token = _token(port, "logged", secret)
            for id in (A, NOBODY, "canary-in-a-path"):
                for path in (
                    f"/members/{id}/record",
                    f"/members/{id}/nothing",
                    f"/feed/{id}",
                    f"//{id}?x={id}",
                ):
                    _raw(port, f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n")
                _raw(port, f"GET /members/{id} HTTP/9.9\r\nHost\r\n")
                _raw(port, f"GET /\x01{id} HTTP/1.1\r\n{id}\r\n")
        finally:
            process.terminate()
            process.wait(90)
            output.close()
        written = (tmp_path / "output").read_text()
        for word in (A, NOBODY, "canary", secret, token):
            assert word not in written


def _token(port: int, name: str, secret: str) -> str:
    form = {"grant_type": "client_credentials", "client_id": name, "client_secret": secret}
    body = urllib.parse.urlencode(form).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/oauth/token", body) as answer:
        return str(json.load(answer)["access_token"])


def _raw(port: int, head: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall((head + "Connection: close\r\n\r\n").encode())
        said = b""
        while piece := connection.recv(65_536):
            said += piece
        return said


def test_the_command_line_adds_lists_and_revokes(served: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in served.world.environment().items():
        monkeypatch.setenv(name, value)
    run = CliRunner().invoke
    made = run(client_commands, ["add", "by-hand", "--grant", CARE, "--purpose", "treatment", "--json"])
    assert made.exit_code == 0, made.output
    secret = json.loads(made.output)["client_secret"]
    assert served.login("by-hand", secret).status == 200
    listed = json.loads(run(client_commands, ["list", "--json"]).output)
    assert [c["stands"] for c in listed if c["name"] == "by-hand"] == [True]
    assert secret not in run(client_commands, ["list"]).output
    assert run(client_commands, ["revoke", "by-hand"]).exit_code == 0
    assert served.login("by-hand", secret).status == 401
    refused = run(client_commands, ["revoke", "never-there"])
    assert isinstance(refused.exception, WorkbenchError)


def test_a_look_up_keeps_whom_the_client_asks_for_when_it_says_so(served: Api, care: Holder) -> None:
    def by(requester: str) -> Any:
        return served.ask(
            "GET",
            f"/members/{A}/record",
            None,
            **{"Authorization": f"Bearer {care.token}", "X-Workbench-Requester": requester},
        )

    assert care.ask("GET", f"/members/{A}/record").status == 200
    assert _last(served, "admitted")["server"] == "api"
    assert by("e.ruiz").status == 200
    assert _last(served, "admitted")["server"] == "api:e.ruiz"
    before = _last(served, "admitted")["seq"]
    assert by("x" * 101).status == 400
    assert _last(served, "admitted")["seq"] == before


def test_a_client_whose_registration_could_not_be_recorded_leaves_its_name_free() -> None:
    with channel_world() as world, world.serve():
        engine = sa.create_engine(world.where.database_url)
        with engine.begin() as connection:
            connection.execute(
                sa.text(
                    "CREATE TRIGGER full BEFORE INSERT ON audit_event BEGIN SELECT RAISE(ABORT, 'disk full'); END"
                )
            )
        asked = {"name": "second-try", "grant": CARE, "purpose": "treatment"}
        refused = world.control("POST", "/clients", asked)
        assert (refused.status, refused.json["code"]) == (503, "audit-unavailable")
        with engine.begin() as connection:
            connection.execute(sa.text("DROP TRIGGER full"))
        engine.dispose()
        assert world.control("GET", "/clients").json["clients"] == []
        assert world.control("POST", "/clients", asked).status == 201
