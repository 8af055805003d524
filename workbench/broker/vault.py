"""The vault: which random token stands for which id, for each agreement. It never leaves the broker's state folder.

A token is 128 random bits and owes nothing to the id (45 CFR 164.514(c)). A namespace belongs to an agreement; an id
keeps its token there across releases, rebuilds and edits of the grant. The pairs lie in immutable Parquet parts below
`<state>/vault`, because a state has hundreds of millions of claims; the database says which parts count, so a part
that was half written when the process died is not seen.
"""

from __future__ import annotations

import os
import secrets
import threading
import uuid
from collections.abc import Iterable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from workbench.broker.state import State, metadata
from workbench.errors import WorkbenchError

TOKEN_BYTES = 16
BATCH = 500_000

parts = sa.Table(
    "vault_part",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("namespace", sa.String, nullable=False, index=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("file", sa.String, nullable=False, unique=True),
    sa.Column("rows", sa.BigInteger, nullable=False),
)

_SCHEMA = pa.schema([("original", pa.string()), ("token", pa.binary(TOKEN_BYTES)), ("prefix", pa.uint64())])
"""`prefix` is the first half of the token as a number: quick to sort by, in the order of the tokens."""


_COMPRESSION = {"original": "zstd", "token": "none", "prefix": "none"}
"""Random bytes do not compress."""


class VaultDamaged(WorkbenchError):
    """The database counts a part that is not there."""

    code = "vault-damaged"
    http_status = 503


class Vault:
    """The tokens of every namespace. One writer: it belongs to the holder of the state's lock."""

    def __init__(self, state: State):
        self._engine = state.engine
        self._folder = state.folder / "vault"
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._folder.chmod(0o700)
        self._writing = threading.Lock()

    def cover(self, con: duckdb.DuckDBPyConnection, namespace: str, kind: str, ids: str) -> str:
        """Sees to it that every id of a query has a token, and returns the pairs as SQL for a FROM clause.

        `ids` is a SELECT of one VARCHAR column that `con` can answer. The relation has one row per id of the
        namespace and kind: `original`, `token` (32 hexadecimal digits), `number` (the same sixteen bytes as a UUID),
        `prefix` (its first half as a number, for sorts).
        """
        with self._writing:
            known = self._relation(namespace, kind)
            missing = f"SELECT DISTINCT i.id FROM ({ids}) i(id) ANTI JOIN {known} k ON k.original = i.id WHERE i.id IS NOT NULL"
            self._add(con, namespace, kind, missing)
            return self._relation(namespace, kind)

    def pairs(self, namespace: str, kind: str) -> str:
        """The pairs that there are by now, as `cover` gives them, and none drawn. Raises `VaultDamaged`."""
        return self._relation(namespace, kind)

    def tokens(self, namespace: str, kind: str, ids: Iterable[str]) -> dict[str, str]:
        """The token of each id, made where there was none."""
        with duckdb.connect() as con:
            con.execute("CREATE TABLE ids(id VARCHAR)")
            con.register("given", pa.table({"id": pa.array(list(ids), pa.string())}))
            con.execute("INSERT INTO ids SELECT id FROM given")
            relation = self.cover(con, namespace, kind, "SELECT id FROM ids")
            rows = con.execute(
                f"SELECT DISTINCT original, token FROM {relation} SEMI JOIN ids ON id = original"
            ).fetchall()
        return dict(rows)

    def _relation(self, namespace: str, kind: str) -> str:
        query = (
            sa.select(parts.c.file)
            .where(parts.c.namespace == namespace, parts.c.kind == kind)
            .order_by(parts.c.id)
        )
        with self._engine.connect() as connection:
            files = [str(self._folder / file) for file in connection.scalars(query)]
        if not files:
            return (
                "(SELECT NULL::VARCHAR AS original, NULL::VARCHAR AS token, NULL::UUID AS number, "
                "NULL::UBIGINT AS prefix WHERE false)"
            )
        if not all(Path(file).is_file() for file in files):
            raise VaultDamaged(
                "A part of the token vault is missing: no slice with tokens can be built.",
                hint="Restore the state folder's vault from its backup; new tokens would break the agreements' old ones.",
            )
        quoted = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
        return (
            "(SELECT original, lower(hex(token)) AS token, token::UUID AS number, prefix "
            f"FROM read_parquet([{quoted}]))"
        )

    def _add(self, con: duckdb.DuckDBPyConnection, namespace: str, kind: str, missing: str) -> None:
        name = f"{uuid.uuid4().hex}.parquet"
        path = self._folder / name
        try:
            rows = _write(path, con.sql(missing).to_arrow_reader(BATCH))
            if rows:
                with self._engine.begin() as connection:
                    connection.execute(
                        parts.insert().values(namespace=namespace, kind=kind, file=name, rows=rows)
                    )
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        if not rows:
            path.unlink()


def _write(path: Path, missing: pa.RecordBatchReader) -> int:
    """Writes one part, a fresh random token beside each id; it is on the disk when this returns."""
    rows = 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as sink:
        with pq.ParquetWriter(sink, _SCHEMA, compression=_COMPRESSION, use_dictionary=False) as writer:
            for batch in missing:
                count = batch.num_rows
                rows += count
                random = secrets.token_bytes(TOKEN_BYTES * count)
                token = pa.FixedSizeBinaryArray.from_buffers(
                    pa.binary(TOKEN_BYTES), count, [None, pa.py_buffer(random)]
                )
                prefix = pa.array(np.frombuffer(random, dtype=">u8")[::2].astype(np.uint64))
                columns = [batch.column(0).cast(pa.string()), token, prefix]
                writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
        sink.flush()
        os.fsync(sink.fileno())
    return rows
