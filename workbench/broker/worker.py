"""The process that reads one slice. It runs inside the sandbox and has nothing but the slice's folder.

In the mode `query` it runs SQL that the gate admitted, on an engine that is locked: no file but the slice's, no
extension, no setting. In the mode `tabulate` it runs the broker's own tabulations and takes no SQL at all; in the mode
`record` it looks up one member at a time.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import sys
import threading
import time
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.broker import frames
from workbench.broker.members_found import Found, Members

if TYPE_CHECKING:
    import duckdb

    from workbench.broker.channels.record_store import RecordStore

SLICE = "/slice"
SPILL = "/tmp/spill"
"""Where the engine puts what does not fit into its memory: the sandbox's own tmpfs, which nobody else sees."""
CHANNEL = "WORKBENCH_CHANNEL"
"""Names the descriptor of the socket to the broker."""
BATCH_ROWS = 262_144
"""Rows of one Arrow batch; smaller ones cost time per batch, larger ones memory."""


class Worker:
    """One slice, one channel, one job at a time."""

    def __init__(self, channel: socket.socket):
        self._channel = channel
        self._jobs: queue.SimpleQueue[tuple[bytes, bytes] | None] = queue.SimpleQueue()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._store: RecordStore | None = None
        self._of_slice: Members | None = None
        self._cancelled = threading.Event()
        self._folder = Path(SLICE)

    def serve(self) -> None:
        """Reads orders until the broker is gone. Orders are read while a job runs, so that it can be cancelled."""
        kind, payload = frames.receive(self._channel)
        if kind != frames.OPEN:
            return
        order = json.loads(payload)
        self._folder = Path(order["folder"])
        try:
            if order["mode"] == "query":
                self._connection = _engine(self._folder, order)
            elif order["mode"] == "record":
                from workbench.broker.channels.record_store import RecordStore

                self._store = RecordStore([self._folder / part for part in order["tables"]["record"]])
            else:
                from workbench.broker import tabulate  # noqa: F401  (so that the first request does not pay for it)
        except Exception as error:
            detail = f"{type(error).__name__}: {error}"  # no row has been read: for the broker's log, never for a caller
            frames.send_json(self._channel, frames.ERROR, {"detail": detail})
            return
        threading.Thread(target=self._work, args=(order["mode"],), daemon=True).start()
        frames.send_json(self._channel, frames.READY, {})
        while True:
            try:
                kind, payload = frames.receive(self._channel)
            except frames.ChannelGone:
                return
            if kind == frames.PING:
                frames.send_json(self._channel, frames.HERE, {})
            elif kind == frames.CANCEL:
                self._cancelled.set()
                if self._connection is not None:
                    self._connection.interrupt()
            else:
                self._cancelled.clear()
                self._jobs.put((kind, payload))

    def _work(self, mode: str) -> None:
        while (job := self._jobs.get()) is not None:
            kind, payload = job
            try:
                if kind == frames.QUERY and mode == "query":
                    self._query(json.loads(payload))
                elif kind == frames.TABULATE and mode == "tabulate":
                    self._tabulate(json.loads(payload))
                elif kind == frames.LOOKUP and mode == "record":
                    self._lookup(json.loads(payload))
                else:
                    raise RuntimeError("an order of the other mode")
            except frames.ChannelGone:
                os._exit(0)
            except BaseException as error:
                self._fail(error)

    def _query(self, order: dict[str, Any]) -> None:
        assert self._connection is not None
        started = time.perf_counter()
        rows = sent = 0
        found = Found(self._members(*order["members"])) if order.get("members") else None
        reader = self._connection.sql(order["sql"]).to_arrow_reader(BATCH_ROWS)
        try:
            first = next(reader, None)  # what fails at once fails before the first byte
            head = reader.schema.serialize()
            frames.send(self._channel, frames.ARROW, head, first.num_rows if first else 0)
            sent += head.size
            for batch in chain([first] if first else [], reader):
                if self._cancelled.is_set():
                    raise KeyboardInterrupt
                body = batch.serialize()
                frames.send(self._channel, frames.ARROW, body, 0 if batch is first else batch.num_rows)
                rows += batch.num_rows
                sent += body.size
                if found is not None:
                    found.look(batch)
        finally:
            reader.close()
        frames.send(self._channel, frames.ARROW, frames.END_OF_STREAM)
        summary = {"rows": rows, "bytes": sent + len(frames.END_OF_STREAM), "ms": _since(started)}
        members = found.members() if found is not None else {}
        frames.send_json(self._channel, frames.DONE, summary | members)

    def _members(self, table: str, column: str) -> Members:
        assert self._connection is not None
        if self._of_slice is None:
            self._of_slice = Members(self._connection, table, column)
        return self._of_slice

    def _tabulate(self, spec: dict[str, Any]) -> None:
        from workbench.broker import tabulate

        started = time.perf_counter()
        answer = tabulate.compute(self._folder, spec)
        frames.send_json(self._channel, frames.DONE, {"answer": answer, "ms": _since(started)})

    def _lookup(self, order: dict[str, Any]) -> None:
        assert self._store is not None
        found = self._store.lookup(order["member"], order["column"])
        frames.send_json(self._channel, frames.DONE, {"found": found})

    def _fail(self, error: BaseException) -> None:
        """Answers with the error's code and words; a worker that is not sound after it says `spent`, and ends."""
        from workbench.broker.engine_errors import explain, spends
        from workbench.errors import WorkbenchError

        spent = False
        if isinstance(error, KeyboardInterrupt):
            said: dict[str, Any] = {"code": "cancelled", "reason": "The query was cancelled.", "hint": ""}
        elif isinstance(error, WorkbenchError):
            said = {**error.as_json(), "status": error.http_status}
        else:
            spent = spends(error) or not self._sound()
            said = {**explain(error), "spent": spent}
        frames.send_json(self._channel, frames.ERROR, said)
        if spent:
            os._exit(0)

    def _sound(self) -> bool:
        """Whether the engine still runs anything at all: after a fatal error it refuses every statement."""
        if self._connection is None:
            return True
        try:
            self._connection.execute("SELECT 1").fetchall()
        except Exception:
            return False
        return True


def _engine(folder: Path, order: dict[str, Any]) -> duckdb.DuckDBPyConnection:
    """An engine with one view per table of the slice, locked."""
    import duckdb
    import pyarrow as pa  # noqa: F401  (loaded before the first query)

    connection = duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "python_enable_replacements": "false",
            "memory_limit": f"{order['memory_bytes']}B",
            "threads": str(order["threads"]),
            "max_expression_depth": "1000",
            "temp_directory": order["spill"],
            "max_temp_directory_size": f"{order['spill_bytes']}B",
        },
    )
    for table, parts in order["tables"].items():
        files = ", ".join(_quoted(str(folder / part), "'") for part in parts)
        connection.execute(
            f"CREATE VIEW {_quoted(table, chr(34))} AS "
            f"SELECT * FROM read_parquet([{files}], hive_partitioning => false)"
        )
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(f"SET allowed_directories = [{_quoted(f'{folder}/', chr(39))}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _quoted(text: str, sign: str) -> str:
    return sign + text.replace(sign, sign * 2) + sign


def _since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)


def main() -> None:
    """Serves the broker at the other end of the inherited socket."""
    descriptor = int(os.environ[CHANNEL])
    sys.setswitchinterval(0.001)
    with socket.socket(fileno=descriptor) as channel:
        channel.setblocking(True)
        Worker(channel).serve()
    os._exit(0)


if __name__ == "__main__":
    main()
