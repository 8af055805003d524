"""Ibis expressions executed by the broker: compiled here to DuckDB SQL, sent as text, answered as Arrow.

The broker never sees an object of this process, only SQL, and admits it by the same gate as any other.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import ibis
import ibis.expr.operations as ops
import ibis.expr.schema as sch
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends import UrlFromPath
from ibis.backends.sql import SQLBackend
from ibis.backends.sql.compilers import DuckDBCompiler
from ibis.backends.sql.datatypes import DuckDBType
from ibis.formats.pandas import PandasData

from workbench.client.errors import MemtableRefused, ReadOnly
from workbench.client.result import Result


class BrokerBackend(SQLBackend, UrlFromPath):  # type: ignore[misc]
    """One session's tables as an Ibis backend. Reads only."""

    name = "duckdb"
    compiler = DuckDBCompiler()
    supports_python_udfs = False

    def do_connect(
        self,
        ask: Callable[[str], Result],
        columns: Callable[[str], Mapping[str, str]],
        names: Callable[[], list[str]],
    ) -> None:
        """`ask` runs SQL; `columns` gives a table's columns with DuckDB types; `names` lists the tables."""
        self._ask = ask
        self._columns = columns
        self._names = names

    def disconnect(self) -> None:
        """There is no connection to end: each query has its own."""

    @property
    def version(self) -> str:
        return "broker"

    def list_tables(self, *, like: str | None = None, database: Any = None) -> list[str]:
        return list(self._filter_with_like(self._names(), like))

    def get_schema(self, name: str, *, catalog: str | None = None, database: str | None = None) -> sch.Schema:
        return ibis.schema(
            {column: DuckDBType.from_string(type_) for column, type_ in self._columns(name).items()}
        )

    def to_pyarrow_batches(
        self,
        expr: ir.Expr,
        /,
        *,
        params: Mapping[ir.Scalar, Any] | None = None,
        limit: int | str | None = None,
        chunk_size: int = 1_000_000,
        **_: Any,
    ) -> pa.RecordBatchReader:
        """Record batches as they arrive, in the types that Ibis expects."""
        self._run_pre_execute_hooks(expr)
        table = expr.as_table()
        result = self._ask(self.compile(table, params=params, limit=limit))
        schema = table.schema().to_pyarrow()
        batches = (_conform(batch, schema) for batch in result)
        return pa.RecordBatchReader.from_batches(schema, batches)

    def execute(
        self,
        expr: ir.Expr,
        /,
        *,
        params: Mapping[ir.Scalar, Any] | None = None,
        limit: int | str | None = None,
        **_: Any,
    ) -> Any:
        """A pandas frame, series or scalar."""
        table = expr.as_table()
        with self.to_pyarrow_batches(table, params=params, limit=limit) as reader:
            frame = reader.read_all().to_pandas()
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "The 'future.infer_string' option"
            )  # ibis 12 asks pandas 3 for it
            return expr.__pandas_result__(PandasData.convert_table(frame, table.schema()))

    def _get_schema_using_query(self, query: str) -> sch.Schema:
        with self._ask(f"SELECT * FROM ({query}) AS q LIMIT 0") as result:
            return sch.Schema.from_pyarrow(result.schema)

    def _register_in_memory_table(self, op: ops.InMemoryTable) -> None:
        raise MemtableRefused(
            "A local table (ibis.memtable) cannot be part of a query: rows go from the broker to you, not back.",
            hint="Use .isin([...]) with up to a few thousand values, the table `value_set`, or join in pandas or polars.",
        )

    def _make_memtable_finalizer(self, name: str) -> None:
        return None

    def _register_udfs(self, expr: ir.Expr) -> None:
        kinds = {ops.udf.InputType.PYTHON, ops.udf.InputType.PANDAS, ops.udf.InputType.PYARROW}
        found = expr.op().find((ops.ScalarUDF, ops.AggUDF))
        if any(udf.__input_type__ in kinds for udf in found):
            raise ReadOnly(
                "Python functions do not run in the broker.",
                code="udf-refused",
                hint="Fetch the rows with .to_pandas() or .to_polars() and apply the function there.",
            )

    def create_table(self, *_: Any, **__: Any) -> ir.Table:
        """Always raises ReadOnly: a slice is read, never written."""
        raise _read_only()

    def create_view(self, *_: Any, **__: Any) -> ir.Table:
        """Always raises ReadOnly."""
        raise _read_only()

    def drop_table(self, *_: Any, **__: Any) -> None:
        """Always raises ReadOnly."""
        raise _read_only()

    def drop_view(self, *_: Any, **__: Any) -> None:
        """Always raises ReadOnly."""
        raise _read_only()

    def insert(self, *_: Any, **__: Any) -> None:
        """Always raises ReadOnly."""
        raise _read_only()

    def _create_cached_table(self, name: str, expr: ir.Table) -> ir.Table:
        raise _read_only()


def _conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    columns = [
        column if column.type == field.type else column.cast(field.type)
        for column, field in zip(batch.columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _read_only() -> ReadOnly:
    return ReadOnly(
        "The tables of a slice are read, never written.",
        hint="Keep intermediate results as Ibis expressions, or fetch them as a pandas or polars frame.",
    )
