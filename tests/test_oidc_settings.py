"""What the login at a provider needs: every setting that is missing or unsafe is named, and the Hub does not start."""

from __future__ import annotations

import http.server
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_fixture import free_port

from hub_config.identities import Identities, NameTaken, fingerprint
from hub_config.keyfiles import UnsafeSecret, keys_of, read_secret
from hub_config.oidc import LoginHalfConfigured, ProviderUnknown, claim, provider

PUBLIC = "https://workbench.example.gov"
ENDPOINTS = {
    "WORKBENCH_OIDC_AUTHORIZE_URL": "https://login.example.gov/authorize",
    "WORKBENCH_OIDC_TOKEN_URL": "https://login.example.gov/token",
    "WORKBENCH_OIDC_USERINFO_URL": "https://login.example.gov/userinfo",
}


@pytest.fixture
def said(tmp_path: Path) -> dict[str, str]:
    """Settings that are whole."""
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text("s3cret\n")
    return {
        "WORKBENCH_OIDC_ISSUER": "https://login.example.gov",
        "WORKBENCH_OIDC_CLIENT_ID": "workbench",
        "WORKBENCH_OIDC_CLIENT_SECRET_FILE": str(secret),
        **ENDPOINTS,
    }


class Described(http.server.BaseHTTPRequestHandler):
    """A provider that describes itself as the test says."""

    status = 200
    document: object = None

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Location", "https://elsewhere.example/.well-known/openid-configuration")
        self.end_headers()
        self.wfile.write(json.dumps(self.document).encode())

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def issuer() -> Iterator[tuple[str, type[Described]]]:
    handler = type("Described", (Described,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()


def test_whole_settings_need_no_question_to_the_provider(said: dict[str, str]) -> None:
    found = provider(said, PUBLIC)
    assert (found.authorize_url, found.client_secret) == ("https://login.example.gov/authorize", "s3cret")
    assert found.callback_url == f"{PUBLIC}/hub/oauth_callback"
    assert (found.username_claim, found.groups_claim) == ("preferred_username", "groups")
    assert "s3cret" not in str({**said})


@pytest.mark.parametrize(
    "missing", ["WORKBENCH_OIDC_ISSUER", "WORKBENCH_OIDC_CLIENT_ID", "WORKBENCH_OIDC_CLIENT_SECRET_FILE"]
)
def test_a_missing_setting_is_named(said: dict[str, str], missing: str) -> None:
    del said[missing]
    with pytest.raises(LoginHalfConfigured) as refusal:
        provider(said, PUBLIC)
    assert missing in refusal.value.reason


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORKBENCH_OIDC_ISSUER", "http://login.example.gov"),
        ("WORKBENCH_OIDC_ISSUER", "login.example.gov"),
        ("WORKBENCH_OIDC_TOKEN_URL", "http://login.example.gov/token"),
        ("WORKBENCH_OIDC_TOKEN_URL", "http://127.0.0.1.example.gov/token"),
        ("WORKBENCH_OIDC_USERINFO_URL", "ftp://login.example.gov/userinfo"),
        ("WORKBENCH_OIDC_AUTHORIZE_URL", "https://user:word@login.example.gov/authorize"),
        ("WORKBENCH_OIDC_CALLBACK_URL", "http://workbench.example.gov/hub/oauth_callback"),
        ("WORKBENCH_OIDC_REFRESH_SECONDS", "3600"),
        ("WORKBENCH_OIDC_REFRESH_SECONDS", "00"),
        ("WORKBENCH_OIDC_REFRESH_SECONDS", "-5"),
        ("WORKBENCH_OIDC_REFRESH_SECONDS", "soon"),
        ("WORKBENCH_OIDC_SILENT_SECONDS", "1e9"),
        ("WORKBENCH_OIDC_SCOPES", "profile email"),
    ],
)
def test_a_setting_that_is_not_safe_is_refused_by_its_name(
    said: dict[str, str], name: str, value: str
) -> None:
    with pytest.raises(LoginHalfConfigured) as refusal:
        provider(said | {name: value}, PUBLIC)
    assert name in refusal.value.reason
    assert value not in refusal.value.reason + refusal.value.hint


def test_the_secret_comes_from_a_file_that_nobody_else_can_read(said: dict[str, str]) -> None:
    file = Path(said["WORKBENCH_OIDC_CLIENT_SECRET_FILE"])
    for mode in (0o640, 0o604, 0o622):
        file.chmod(mode)
        with pytest.raises(UnsafeSecret, match="can be read by others"):
            provider(said, PUBLIC)
    file.chmod(0o600)
    file.write_text(" \n")
    with pytest.raises(UnsafeSecret, match="is empty"):
        provider(said, PUBLIC)
    file.unlink()
    with pytest.raises(UnsafeSecret, match="WORKBENCH_OIDC_CLIENT_SECRET_FILE cannot be read") as refusal:
        provider(said, PUBLIC)
    assert str(file) not in refusal.value.reason + refusal.value.hint


def test_endpoints_come_from_the_issuers_own_description(
    said: dict[str, str], issuer: tuple[str, type[Described]]
) -> None:
    url, handler = issuer
    handler.document = {
        "issuer": url,
        "authorization_endpoint": f"{url}/a",
        "token_endpoint": f"{url}/t",
        "userinfo_endpoint": f"{url}/u",
    }
    whole = {name: value for name, value in said.items() if name not in ENDPOINTS} | {
        "WORKBENCH_OIDC_ISSUER": url
    }
    assert provider(whole, PUBLIC).token_url == f"{url}/t" and provider(whole, PUBLIC).basic
    assert provider(whole | {"WORKBENCH_OIDC_TOKEN_URL": f"{url}/ours"}, PUBLIC).token_url == f"{url}/ours"
    handler.document["token_endpoint_auth_methods_supported"] = ["client_secret_post"]
    assert not provider(whole, PUBLIC).basic


@pytest.mark.parametrize(
    ("status", "document"),
    [
        (200, {"issuer": "https://another.example", "token_endpoint": "https://another.example/t"}),
        (200, ["issuer"]),
        (302, {}),
        (404, {}),
        (500, {}),
    ],
)
def test_a_description_of_another_issuer_or_from_another_host_is_not_taken(
    said: dict[str, str], issuer: tuple[str, type[Described]], status: int, document: object
) -> None:
    url, handler = issuer
    handler.status, handler.document = status, document
    whole = {name: value for name, value in said.items() if name not in ENDPOINTS} | {
        "WORKBENCH_OIDC_ISSUER": url
    }
    with pytest.raises(ProviderUnknown):
        provider(whole, PUBLIC)


def test_an_endpoint_without_encryption_is_not_taken_from_a_description_either(
    said: dict[str, str], issuer: tuple[str, type[Described]]
) -> None:
    url, handler = issuer
    handler.document = {
        "issuer": url,
        "authorization_endpoint": f"{url}/a",
        "token_endpoint": "http://login.example.gov/t",
        "userinfo_endpoint": f"{url}/u",
    }
    whole = {name: value for name, value in said.items() if name not in ENDPOINTS} | {
        "WORKBENCH_OIDC_ISSUER": url
    }
    with pytest.raises(LoginHalfConfigured, match="WORKBENCH_OIDC_TOKEN_URL"):
        provider(whole, PUBLIC)


@pytest.mark.parametrize(
    ("claims", "name", "found"),
    [
        ({"groups": ["a"]}, "groups", ["a"]),
        ({"realm_access": {"roles": ["a"]}}, "realm_access.roles", ["a"]),
        ({"https://site.example/groups": ["a"]}, "https://site.example/groups", ["a"]),
        ({"groups": ["a"]}, "groups.a", None),
        ({}, "groups", None),
    ],
)
def test_a_claim_is_found_by_its_name_or_its_path(
    claims: dict[str, object], name: str, found: object
) -> None:
    assert claim(claims, name) == found


def test_the_key_of_stored_logins_is_made_once_for_the_hub_alone_and_can_be_changed(tmp_path: Path) -> None:
    file = tmp_path / "auth_state.key"
    (first,) = keys_of(file)
    assert keys_of(file) == [first] and len(first) == 32
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text("ab" * 32 + "\n" + first.hex() + "\n")
    assert keys_of(file) == [bytes.fromhex("ab" * 32), first]
    file.write_text("not a key")
    with pytest.raises(UnsafeSecret, match="something else than keys"):
        keys_of(file)
    file.chmod(0o644)
    with pytest.raises(UnsafeSecret, match="can be read by others"):
        keys_of(file)
    with pytest.raises(UnsafeSecret, match="cannot be read"):
        read_secret(tmp_path, "a folder")


def test_a_name_belongs_to_one_person_over_restarts(tmp_path: Path) -> None:
    file = tmp_path / "identities.json"
    ana, other = fingerprint("https://a.example", "1"), fingerprint("https://b.example", "1")
    assert ana != other
    Identities(file).claim("ana", ana)
    Identities(file).claim("ana", ana)
    assert Identities(file).holds("ana", ana) and not Identities(file).holds("ana", other)
    with pytest.raises(NameTaken):
        Identities(file).claim("ana", other)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"WORKBENCH_AUTH": "oidc"}, "WORKBENCH_OIDC_ISSUER, WORKBENCH_OIDC_CLIENT_ID"),
        ({"WORKBENCH_AUTH": "saml"}, "It can be: demo, oidc"),
    ],
)
def test_the_workbench_refuses_to_start_and_names_what_is_missing_without_a_stack_trace(
    tmp_path: Path, environment: dict[str, str], words: str
) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WORKBENCH_")}
    folders = {
        "WORKBENCH_STATE": str(tmp_path / "s"),
        "WORKBENCH_RUN": str(tmp_path / "r"),
        "WORKBENCH_LAKE": str(tmp_path),
    }
    ended = subprocess.run(
        [str(Path(sys.prefix) / "bin" / "workbench"), "up", "--port", str(free_port())],
        env=kept | folders | environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert ended.returncode != 0
    assert words in ended.stderr and "Traceback" not in ended.stderr
    assert "Traceback" not in (tmp_path / "s" / "log" / "hub.log").read_text()
