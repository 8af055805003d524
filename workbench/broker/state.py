"""The broker's durable state: one database, one writer.

A killed Hub leaves its managed services running and starts new ones, so the writer holds a file lock for as long
as it lives; a second one is refused rather than let both write one audit chain.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from workbench.errors import WorkbenchError

metadata = sa.MetaData()
"""Every module of the broker that keeps state declares its tables on this."""


class StateLocked(WorkbenchError):
    """Another process writes this state."""

    code = "state-locked"
    http_status = 503


class State:
    """The open database and the writer's lock."""

    def __init__(self, url: str, folder: Path):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self._lock = (folder / "writer.lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise StateLocked(
                "The broker's state is in use by another process.",
                hint="If `workbench up` runs, go through it; else wait for the other command to end.",
            ) from None
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        self.engine = sa.create_engine(url)
        if self.engine.dialect.name == "sqlite":
            sa.event.listen(self.engine, "connect", _durable_sqlite)
        metadata.create_all(self.engine)

    def close(self) -> None:
        """Gives up the database and the lock."""
        self.engine.dispose()
        self._lock.close()


def _durable_sqlite(connection: Any, _record: Any) -> None:
    """WAL with a full sync: an audit event is on disk when its transaction has ended."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()
