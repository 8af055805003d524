"""Whose turn it is for a worker: the grant that holds fewest, then the one served longest ago; of its users likewise.

So a grant that floods the broker waits behind its own queries, not before everybody else's.
"""

from __future__ import annotations

from collections import Counter
from itertools import count


class Turns:
    """What each grant and each of its users hold now, and when each was served last."""

    def __init__(self, workers: int):
        self._most = max(1, workers - 1)
        self._held: Counter[tuple[str, ...]] = Counter()
        self._served: dict[tuple[str, ...], int] = {}
        self._clock = count(1)

    def may(self, grant: str, user: str, concurrent: int) -> bool:
        """Whether one more query may start: within the grant's limit, and nobody ever holds the last worker."""
        held = self._held
        return held[grant,] < min(concurrent, self._most) and held["", user] < self._most

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
