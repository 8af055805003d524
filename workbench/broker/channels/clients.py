"""Systems outside the Hub: who they are, how they prove it, and the short-lived tokens that they ask with.

A client is bound to one grant and one purpose when it is made. Its secret is drawn by the broker, told once, and kept
as a hash; a token is kept as a hash too, in memory alone, so that a restart of the broker ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from workbench.broker.state import State, metadata
from workbench.errors import WorkbenchError

NAME = re.compile(r"[a-z][a-z0-9-]{2,62}")
DAYS, MOST_DAYS = 365, 730
TOKEN_SECONDS = 900
"""How long a bearer token lasts."""
MOST_TOKENS = 10_000
FAILURES, FAILURE_SECONDS = 5, 300.0
"""So many failed logins of one client from one address, and it waits until the first of them is so old."""
FAILURES_OF_ADDRESS = 50
"""The same for all clients of one address together, known or not."""
MOST_ADDRESSES = 10_000

client_table = sa.Table(
    "api_client",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("grant", sa.String(128), nullable=False),
    sa.Column("purpose", sa.String(64), nullable=False),
    sa.Column("salt", sa.String(64), nullable=False),
    sa.Column("secret", sa.String(128), nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("expires", sa.String(32), nullable=False),
    sa.Column("revoked", sa.String(32)),
)


class ClientRefused(WorkbenchError):
    """A client cannot be made, or there is none of this name."""

    code = "client-refused"


class LoginFailed(WorkbenchError):
    """Name and secret do not go together, or the client may not come any more: which of them is not told."""

    code = "invalid_client"
    http_status = 401


class TooManyLogins(WorkbenchError):
    """Too many failed logins."""

    code = "too-many-logins"
    http_status = 429

    def __init__(self, retry_after: int, *, first: bool):
        super().__init__(
            "There were too many failed logins.", hint=f"Try again in {retry_after} seconds at the earliest."
        )
        self.retry_after = retry_after
        self.first = first
        """Whether this is the first refusal of its kind since the last login that was tried."""


class BearerRefused(WorkbenchError):
    """The token is none of this listener's, or its time is up."""

    code = "token-refused"
    http_status = 401


@dataclass(frozen=True)
class Client:
    """One system and what it may come for. Times are UTC, ISO 8601."""

    name: str
    grant: str
    purpose: str
    created: str
    expires: str
    revoked: str | None

    @property
    def stands(self) -> bool:
        """Whether it may still come."""
        return self.revoked is None and datetime.now(UTC) < datetime.fromisoformat(self.expires)


class Clients:
    """The registered clients, their logins and their tokens."""

    def __init__(self, state: State):
        self._engine = state.engine
        self._tokens: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._failures: OrderedDict[tuple[str, str], list[float]] = OrderedDict()
        self._told: set[tuple[str, str]] = set()
        self._hashing = asyncio.Semaphore(2)
        self._nobody = (secrets.token_hex(16), _hashed("0" * 32, secrets.token_urlsafe(32)))

    def add(self, name: str, grant: str, purpose: str, *, days: int = DAYS) -> tuple[Client, str]:
        """A new client and its secret, which is told this once. Raises ClientRefused."""
        if not NAME.fullmatch(name):
            raise ClientRefused(
                "A client's name has 3 to 63 small letters, digits and hyphens, a letter first.",
                hint="For example plan-care-platform.",
            )
        if not 1 <= days <= MOST_DAYS:
            raise ClientRefused(f"A client lasts 1 to {MOST_DAYS} days.")
        secret, salt, now = secrets.token_urlsafe(32), secrets.token_hex(16), datetime.now(UTC)
        expires = (now + timedelta(days=days)).isoformat(timespec="seconds")
        client = Client(name, grant, purpose, now.isoformat(timespec="seconds"), expires, None)
        row = {**client.__dict__, "salt": salt, "secret": _hashed(salt, secret)}
        try:
            with self._engine.begin() as connection:
                connection.execute(sa.insert(client_table).values(**row))
        except sa.exc.IntegrityError:
            raise ClientRefused(
                "There is, or was, a client of this name.",
                hint="Take another name: the audit log tells clients apart by theirs.",
                code="client-known",
                http_status=409,
            ) from None
        return client, secret

    def all(self) -> list[Client]:
        """Every client that there ever was, by name."""
        columns = [client_table.c[name] for name in Client.__dataclass_fields__]
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(*columns).order_by(client_table.c.name))
            return [Client(**row._mapping) for row in rows]

    def get(self, name: str) -> Client | None:
        """The client of this name."""
        columns = [client_table.c[name] for name in Client.__dataclass_fields__]
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(*columns).where(client_table.c.name == name)).first()
        return Client(**row._mapping) if row else None

    def forget(self, name: str) -> None:
        """Takes away a client that nobody was told of, so that its name is free again."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(client_table).where(client_table.c.name == name))

    def revoke(self, name: str) -> Client:
        """Ends a client and its tokens; once ended it stays so. Raises ClientRefused."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(client_table)
                .where(client_table.c.name == name, client_table.c.revoked.is_(None))
                .values(revoked=now)
            )
        self._tokens = OrderedDict((t, (n, until)) for t, (n, until) in self._tokens.items() if n != name)
        client = self.get(name)
        if client is None:
            raise ClientRefused(
                "There is no such client.", hint="`workbench client list` names them.", http_status=404
            )
        return client

    async def login(self, name: str, secret: str, address: str) -> tuple[Client, str]:
        """The client and a token of TOKEN_SECONDS. Raises LoginFailed, TooManyLogins.

        An unknown name takes the same way and the same time as a wrong secret.
        """
        keys = ((address, name if NAME.fullmatch(name) else ""), (address, "*"))
        for key, most in zip(keys, (FAILURES, FAILURES_OF_ADDRESS), strict=True):
            self._throttle(key, most)
        tried = time.monotonic()
        for key in keys:  # counted before the slow part, so that many at once are counted, too
            self._failures.setdefault(key, []).append(tried)
            self._failures.move_to_end(key)
            self._told.discard(key)
        while len(self._failures) > MOST_ADDRESSES:
            self._failures.popitem(last=False)
        salt, kept = self._secret(name) or self._nobody
        async with self._hashing:
            given = await asyncio.to_thread(_hashed, salt, secret)
        client = self.get(name)
        if not hmac.compare_digest(given, kept) or client is None or not client.stands:
            raise LoginFailed("This client and this secret do not go together, or its time is up.")
        for key in keys:
            with contextlib.suppress(KeyError, ValueError):
                self._failures[key].remove(tried)
        token = secrets.token_urlsafe(32)
        self._tokens[_digest(token)] = (name, time.monotonic() + TOKEN_SECONDS)
        while len(self._tokens) > MOST_TOKENS:
            self._tokens.popitem(last=False)
        return client, token

    def bearer(self, token: str | None) -> Client:
        """The client of a token. Raises BearerRefused."""
        name, until = self._tokens.get(_digest(token or ""), ("", 0.0))
        client = self.get(name) if time.monotonic() < until else None
        if client is None or not client.stands:
            raise BearerRefused(
                "The request carries no token of this listener, or its time is up.",
                hint="Ask POST /oauth/token for one; tokens of the Hub are of no use here.",
            )
        return client

    def _throttle(self, key: tuple[str, str], most: int) -> None:
        now = time.monotonic()
        recent = [moment for moment in self._failures.get(key, []) if now - moment < FAILURE_SECONDS]
        if recent:
            self._failures[key] = recent
        else:
            self._failures.pop(key, None)
            self._told.discard(key)
        if len(recent) >= most:
            first = key not in self._told
            self._told.add(key)
            raise TooManyLogins(int(FAILURE_SECONDS - (now - recent[-most])) + 1, first=first)

    def _secret(self, name: str) -> tuple[str, str] | None:
        with self._engine.connect() as connection:
            row = connection.execute(
                sa.select(client_table.c.salt, client_table.c.secret).where(client_table.c.name == name)
            ).first()
        return (str(row.salt), str(row.secret)) if row else None


def _hashed(salt: str, secret: str) -> str:
    """scrypt with the parameters of RFC 7914 for interactive logins."""
    found = hashlib.scrypt(secret.encode("utf-8", "replace"), salt=bytes.fromhex(salt), n=16384, r=8, p=1)
    return found.hex()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
