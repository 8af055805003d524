"""Logs in at an OpenID Connect provider; its groups claim alone decides who comes in and which grants are open.

Asked again while a server runs (membership.py), so that a group taken away at the provider ends it without a click.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Mapping
from typing import Any

import jwt
from oauthenticator.generic import GenericOAuthenticator
from tornado.httpclient import HTTPClientError
from tornado.web import HTTPError
from traitlets import Callable, Instance, Integer, Unicode

from hub_config.access import Access
from hub_config.identities import Identities, NameTaken, fingerprint
from hub_config.oidc import claim

REFUSALS = frozenset({400, 401, 403})
"""Statuses by which a provider says no; every other failure is silence."""
USABLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}", re.ASCII)
"""Names that can name a home. ASCII only, so that lower case is the one change that is made to them."""


class LoginRefused(HTTPError):  # type: ignore[misc]
    """A login that cannot be, with the words that the page shows."""

    def __init__(self, status: int, message: str):
        super().__init__(status, "%s", message)
        self.jupyterhub_message = message


class ProviderSilent(LoginRefused):
    """The provider gives no answer that says yes or no."""

    def __init__(self) -> None:
        super().__init__(
            503,
            "Your organisation's login does not answer. Try again in a minute; if this stays, tell your help desk.",
        )


class GroupsAuthenticator(GenericOAuthenticator):  # type: ignore[misc]
    """The provider's people, as far as their groups open anything here."""

    issuer = Unicode(config=True, help="The provider's issuer, as its tokens name it.")
    groups_claim = Unicode(
        "groups", config=True, help="The claim of groups: its name, or its path with dots."
    )
    silent_seconds = Integer(300, config=True, help="How long the last answer counts while none comes.")
    access = Instance(Access, config=True, help="Which groups open anything.")
    identities = Instance(Identities, config=True, help="Whose each name is.")
    when_ready = Callable(
        lambda _hub, _self: None, config=True, help="Called once, when the Hub can ask for handlers."
    )

    def __init__(self, **options: Any):
        super().__init__(**options)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._confirmed: dict[str, float] = {}

    def get_handlers(self, app: Any) -> list[tuple[Any, ...]]:
        """The login's pages."""
        self.when_ready(app, self)
        handlers: list[tuple[Any, ...]] = super().get_handlers(app)
        return handlers

    # who somebody is

    def user_info_to_username(self, user_info: Mapping[str, Any]) -> str:
        """The name of the claim, if it can be a name here. Raises LoginRefused; no claim goes to the log."""
        name = claim(user_info, str(self.username_claim))
        if not isinstance(name, str) or not USABLE_NAME.fullmatch(name):
            raise LoginRefused(
                403,
                f"Your account's {self.username_claim} cannot be a user name here. Names have the letters a to z, digits "
                "and . _ @ - and begin with a letter or digit.",
            )
        return name

    async def token_to_user(self, token_info: Mapping[str, Any]) -> dict[str, Any]:
        """The claims of the person whose token it is; they must be about the person that the ID token names.

        OpenID Connect Core 1.0, sections 3.1.3.7 (issuer, audience; the signature may be left to TLS, as the token
        came from the provider itself) and 5.3.2 (the same `sub`).
        """
        claims = await super().token_to_user(token_info)
        subject = claims.get("sub") if isinstance(claims, dict) else None
        if not isinstance(subject, str) or not subject:
            raise LoginRefused(403, "Your organisation's login does not say who you are.")
        if token_info.get("id_token") and self._named_in(token_info["id_token"]) != subject:
            raise LoginRefused(403, "Your organisation's login named two different people.")
        found: dict[str, Any] = claims
        return found

    def _named_in(self, id_token: str) -> str:
        unsigned: Any = {
            "verify_signature": False,
            "verify_aud": True,
            "verify_iss": True,
            "verify_exp": False,
        }
        try:
            told = jwt.decode(id_token, audience=self.client_id, issuer=self.issuer, options=unsigned)
        except jwt.PyJWTError:
            raise LoginRefused(
                403, "Your organisation's login sent a token that is not for this site."
            ) from None
        return str(told.get("sub", ""))

    async def get_user_groups(self, auth_state: Mapping[str, Any]) -> set[str]:
        """The claim's groups that open anything; others never reach the Hub."""
        told = claim(auth_state[self.user_auth_state_key], self.groups_claim)
        names = [told] if isinstance(told, str) else told if isinstance(told, list) else []
        access: Access = self.access
        return {name for name in names if isinstance(name, str)} & access.groups

    def check_allowed(self, _username: str, auth_model: Mapping[str, Any] | None) -> bool:
        """Whoever holds one group that opens something. Raises LoginRefused with who could give one."""
        if auth_model and auth_model["groups"]:
            return True
        givers = "; ".join(self.access.givers)
        raise LoginRefused(
            403,
            "You are signed in at your organisation, and none of your groups there opens anything here. "
            f"Data are opened by a grant to a group. Grants are given by: {givers or 'the people who run this site'}.",
        )

    # coming in

    async def authenticate(self, handler: Any, data: Any = None, **options: Any) -> dict[str, Any]:
        """The person who comes back from the provider. Raises LoginRefused."""
        model = await self._asked(super().authenticate(handler, data, **options), first=True)
        if not model["auth_state"].get("id_token"):
            raise LoginRefused(403, "Your organisation's login sent no ID token.")
        model["admin"] = False
        if model["groups"]:
            try:
                self.identities.claim(model["name"], self._person(model))
            except NameTaken as taken:
                raise LoginRefused(403, f"{taken.reason} {taken.hint}") from None
            self._confirmed[model["name"]] = time.monotonic()
        return model

    async def refresh_user(self, user: Any, handler: Any = None, **_: Any) -> bool | dict[str, Any]:
        """What the provider says of the person now.

        The new model; True while the provider is silent and its last answer still counts; False for one who has to
        log in again, whose groups are gone from the Hub by then.
        """
        if handler is not None and not hasattr(handler, "_token_authenticated"):
            handler._token_authenticated = False  # JupyterHub 6.1 reads this where only a token has set it
        async with self._locks[user.name]:
            model: dict[str, Any] | None = None
            try:
                model = await self._asked_again(user, handler)
            except ProviderSilent:
                since = self._confirmed.setdefault(user.name, time.monotonic())
                if time.monotonic() - since < self.silent_seconds:
                    return True
                self.log.error("The provider was silent for too long: %s loses all groups", user.name)
            if model is None or not model["groups"]:
                user.sync_groups([])
                return False
            self._confirmed[user.name] = time.monotonic()
            await user.save_auth_state(model["auth_state"])  # inside the lock: some refresh tokens work once
            return model

    async def _asked_again(self, user: Any, handler: Any) -> dict[str, Any] | None:
        """The person's model now, None where the provider says no. Raises ProviderSilent."""
        state = await user.get_auth_state()
        if not state:
            return None
        model: dict[str, Any] | None
        try:
            model = await self._asked(self._token_to_auth_model(state["token_response"]))
        except LoginRefused as refused:
            if isinstance(refused, ProviderSilent):
                raise
            model = await self._with_refresh_token(state.get("refresh_token"), handler)
        if model is None or not self.identities.holds(user.name, self._person(model)):
            return None
        model.update(name=user.name, admin=False)
        return model

    async def _with_refresh_token(self, token: str | None, handler: Any) -> dict[str, Any] | None:
        if not token:
            return None
        request = self.build_refresh_token_request_params(token)
        try:
            fresh = await self._asked(self.get_token_info(handler, request))
            fresh.setdefault("refresh_token", token)
            return await self._asked(self._token_to_auth_model(fresh))
        except ProviderSilent:
            raise
        except LoginRefused:
            return None

    def _person(self, model: Mapping[str, Any]) -> str:
        return fingerprint(self.issuer, model["auth_state"][self.user_auth_state_key]["sub"])

    @staticmethod
    async def _asked(answer: Awaitable[dict[str, Any]], *, first: bool = False) -> dict[str, Any]:
        """The provider's answer. Raises LoginRefused where it says no, ProviderSilent where it says nothing."""
        refused = LoginRefused(403, "Your organisation's login refused this. Sign in again.")
        try:
            return await answer
        except LoginRefused:
            raise
        except HTTPClientError as error:
            raise (refused if error.code in REFUSALS else ProviderSilent()) from None
        except HTTPError as error:
            if first and error.status_code == 400:  # about the browser's own request: cookies, state
                raise
            raise (refused if error.status_code == 403 else ProviderSilent()) from None
        except Exception:  # an answer that cannot be read, in whatever way, counts no longer than none
            raise ProviderSilent() from None
