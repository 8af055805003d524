"""Which server may ask for what: one record, one socket and one token for each, fixed when it starts."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

import sqlalchemy as sa

from workbench.broker.state import State, metadata
from workbench.errors import WorkbenchError

Kind = Literal["server", "app", "report"]
KINDS: tuple[str, ...] = get_args(Kind)
CHANNELS = {"server": "notebook", "app": "apps", "report": "reports"}
"""Which channel of a grant opens which kind of server."""
LIFETIMES = {"server": timedelta(days=30), "app": timedelta(days=30), "report": timedelta(hours=1)}
"""How long a binding lasts where its maker does not say."""

binding_table = sa.Table(
    "binding",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("server", sa.String(256), nullable=False),
    sa.Column("user", sa.String(128), nullable=False),
    sa.Column("grant", sa.String(128), nullable=False),
    sa.Column("purpose", sa.String(64), nullable=False),
    sa.Column("token_sha256", sa.String(64), nullable=False),
    sa.Column("release", sa.String(128)),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("expires", sa.String(32), nullable=False),
)


class BindingRefused(WorkbenchError):
    """A binding cannot be made as asked."""

    code = "binding-refused"


class TokenRefused(WorkbenchError):
    """The token is not that of the server whose socket it came through."""

    code = "token-refused"
    http_status = 401


@dataclass(frozen=True)
class Binding:
    """One server's record: whose it is, and which grant, purpose and token it has. `expires` is UTC, ISO 8601."""

    id: str
    kind: str
    server: str
    user: str
    grant: str
    purpose: str
    token_sha256: str
    release: str | None
    created: str
    expires: str

    @property
    def over(self) -> bool:
        """Whether its time is up."""
        return datetime.now(UTC) >= datetime.fromisoformat(self.expires)

    def check(self, token: str | None) -> str:
        """The token, if it is this server's own. Raises TokenRefused."""
        if self.over:
            raise TokenRefused("This server's time at the broker is up.", hint="Stop it and start it again.")
        if not token or not hmac.compare_digest(digest(token), self.token_sha256):
            raise TokenRefused(
                "This token does not belong to this server." if token else "The request carries no token.",
                hint="A socket of the broker serves one server with its own token.",
            )
        return token


class Bindings:
    """The records, kept over a restart of the broker."""

    def __init__(self, state: State):
        self._engine = state.engine

    def add(
        self,
        *,
        kind: str,
        server: str,
        user: str,
        grant: str,
        purpose: str,
        release: str | None,
        token_sha256: str | None = None,
        expires_in: float | None = None,
    ) -> tuple[Binding, str | None]:
        """A new record; for apps and reports with a token of the broker's, which is told this once."""
        token = None
        if kind == "server":
            if not token_sha256 or len(token_sha256) != 64:
                raise BindingRefused(
                    "A server's binding needs the hash of its token.", hint="Send token_sha256."
                )
        else:
            token = secrets.token_urlsafe(32)
            token_sha256 = digest(token)
        lifetime = timedelta(seconds=expires_in) if expires_in else LIFETIMES[kind]
        now = datetime.now(UTC)
        binding = Binding(
            id=secrets.token_hex(8),
            kind=kind,
            server=server,
            user=user,
            grant=grant,
            purpose=purpose,
            token_sha256=token_sha256.lower(),
            release=release,
            created=now.isoformat(timespec="seconds"),
            expires=(now + min(lifetime, timedelta(days=90))).isoformat(timespec="seconds"),
        )
        with self._engine.begin() as connection:
            connection.execute(sa.insert(binding_table).values(**binding.__dict__))
        return binding, token

    def all(self) -> list[Binding]:
        """Every record, the oldest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(binding_table).order_by(binding_table.c.created))
            return [Binding(**row._mapping) for row in rows]

    def remove(self, id: str) -> None:
        """Forgets a record."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(binding_table).where(binding_table.c.id == id))


def digest(token: str) -> str:
    """SHA-256 of a token, as records keep it."""
    return hashlib.sha256(token.encode()).hexdigest()
