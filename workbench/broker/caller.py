"""Who asks, and what an admitted query gives back."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal

from workbench.broker.bindings import Binding
from workbench.broker.grants import Grant
from workbench.broker.law import NOTICE_NAME
from workbench.broker.slices import Slice

Way = Literal["notebook", "app", "report", "operator", "lmr_api", "risk_api", "feed", "tabulate"]
"""How a caller comes: from a server of one of the Hub's kinds, from the machine itself, or on a channel's listener."""
OPENS = {"notebook": "notebook", "app": "apps", "report": "reports", "operator": "notebook"}
"""The channel that a grant must open for a way, an operator's in a user's name; others are named as their channels are."""

NOTICE_HEADER = "X-Workbench-Notice"


@dataclass(frozen=True)
class Caller:
    """Who asks, under which grant, for which purpose, on which channel.

    `groups` is None for an operator of this machine who asks in no user's name; then a grant's groups and channels
    are not asked for, its time and level are. In a user's name she has that user's rights in a notebook, and `server`
    says who she is.
    """

    user: str
    grant: str
    purpose: str | None
    channel: Way
    server: str = ""
    release: str | None = None
    groups: frozenset[str] | None = None

    @classmethod
    def of(cls, binding: Binding, groups: frozenset[str]) -> Caller:
        """The caller behind a binding."""
        channel: Way = "notebook"
        if binding.kind != "server":
            channel = "app" if binding.kind == "app" else "report"
        return cls(
            binding.user, binding.grant, binding.purpose, channel, binding.server, binding.release, groups
        )

    @property
    def in_no_users_name(self) -> bool:
        """Whether an operator asks in her own name."""
        return self.channel == "operator" and self.groups is None

    @property
    def opens(self) -> str | None:
        """The channel that the grant must open; None for an operator in no user's name."""
        return None if self.in_no_users_name else OPENS.get(self.channel, self.channel)


@dataclass
class Answer:
    """One admitted query: what it is stamped with, and its bytes. Whoever takes it reads `chunks` to the end or closes it."""

    id: str
    grant: Grant
    slice: Slice
    chunks: AsyncGenerator[bytes, None]

    @property
    def headers(self) -> dict[str, str]:
        """Where the answer comes from, as HTTP headers."""
        return {"X-Query-Id": self.id, **stamps(self.grant, self.slice)}


def stamps(grant: Grant, slice: Slice) -> dict[str, str]:
    """Headers: grant, level, release, slice, whether the people are invented, and the notice of 42 CFR 2.32."""
    return {
        "X-Workbench-Grant": grant.name,
        "X-Workbench-Level": str(grant.level),
        "X-Workbench-Release": str(slice.manifest["release"]),
        "X-Workbench-Slice": slice.id,
        "X-Workbench-Synthetic": str(slice.synthetic).lower(),
        **({NOTICE_HEADER: NOTICE_NAME} if grant.notice else {}),
    }


def notice_of(grant: Grant) -> dict[str, str]:
    """`{"notice": text}` of 42 CFR 2.32, for the JSON of an answer in which Part 2 records may be; else nothing."""
    return {"notice": grant.notice} if grant.notice else {}
