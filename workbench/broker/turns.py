"""Whose turn it is for a worker: the grant that holds fewest, then the one served longest ago; of its users likewise.

So a grant that floods the broker waits behind its own queries, not before everybody else's.
"""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import Literal, TypeAlias

Limit: TypeAlias = Literal["", "grant", "share of a grant", "share of a user"]
"""What keeps a query waiting though workers may be free: the grant's own limit, or that nobody holds the last one."""


class Turns:
    """What each grant and each of its users hold now, and when each was served last."""

    def __init__(self, workers: int):
        self._most = max(1, workers - 1)
        self._held: Counter[tuple[str, ...]] = Counter()
        self._served: dict[tuple[str, ...], int] = {}
        self._clock = count(1)

    def may(self, grant: str, user: str, concurrent: int) -> bool:
        """Whether one more query may start: within the grant's limit, and nobody ever holds the last worker."""
        return not self.limit(grant, user, concurrent)

    def limit(self, grant: str, user: str, concurrent: int) -> Limit:
        """Which limit they meet."""
        held = self._held
        if held[grant,] >= min(concurrent, self._most):
            return "grant" if concurrent <= self._most else "share of a grant"
        return "share of a user" if held["", user] >= self._most else ""

    def held(self, grant: str) -> int:
        """Queries of the grant that run now."""
        return self._held[grant,]

    @property
    def most(self) -> int:
        """Queries that one user, or one grant, may run at once."""
        return self._most

    def place(self, grant: str, user: str) -> tuple[int, int, int, int]:
        """The smaller, the sooner."""
        of_grant, of_user = (grant,), (grant, user)
        return (
            self._held[of_grant],
            self._served.get(of_grant, 0),
            self._held[of_user],
            self._served.get(of_user, 0),
        )

    def begin(self, grant: str, user: str) -> None:
        """One more query of theirs runs."""
        now = next(self._clock)
        for key in ((grant,), (grant, user), ("", user)):
            self._held[key] += 1
            self._served[key] = now

    def end(self, grant: str, user: str) -> None:
        """One of theirs has ended."""
        for key in ((grant,), (grant, user), ("", user)):
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]
