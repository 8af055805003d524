"""The plan data feed: the tables of a slice, as Parquet files with their hashes, without what the matrix keeps in."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from workbench.broker.channels import matrix
from workbench.broker.channels.record_build import WITHHELD, head, quoted
from workbench.broker.published_slice import Progress, Slice, take_over
from workbench.broker.slices import FromSlice

if TYPE_CHECKING:
    import duckdb


def build_feed(
    con: duckdb.DuckDBPyConnection, folder: Path, source: Slice, progress: Progress
) -> dict[str, Any]:
    """Writes the feed of a slice below `folder` and returns its manifest. Parts that lose nothing are the slice's own files."""
    tables: dict[str, Any] = {}
    withheld: dict[str, str] = {}
    entries = source.manifest["tables"]
    for step, (name, entry) in enumerate(entries.items()):
        progress(name, step, len(entries))
        named = {column["name"]: column.get("from", column["name"]) for column in entry["columns"]}
        open_ = set(matrix.permitted("feed", name, named.values()))
        kept = [column for column in entry["columns"] if named[column["name"]] in open_]
        if not kept:
            withheld[name] = WITHHELD
            continue
        (folder / "tables" / name).mkdir()
        for part in entry["parts"]:
            _feed_part(con, source.path / part, folder / part, None if len(kept) == len(named) else kept)
        tables[name] = {
            "grain": entry["grain"],
            "about": entry["about"],
            "rows": entry["rows"],
            "columns": [{key: column[key] for key in ("name", "type", "means")} for column in kept],
            "withheld": dict.fromkeys(
                (name for name, origin in named.items() if origin not in open_), WITHHELD
            ),
            "parts": list(entry["parts"]),
            "files": [_file(folder / part) for part in entry["parts"]],
        }
    return {**head(source, "feed"), "tables": tables, "tables_withheld": withheld}


def _feed_part(
    con: duckdb.DuckDBPyConnection, source: Path, target: Path, kept: list[dict[str, Any]] | None
) -> None:
    if kept is not None:
        listed = ", ".join(f'"{column["name"]}"' for column in kept)
        con.execute(
            f"COPY (SELECT {listed} FROM read_parquet({quoted(source)}, hive_partitioning => false)) "
            f"TO {quoted(target)} (FORMAT parquet, COMPRESSION zstd)"
        )
        return
    take_over(source, target)


def _file(path: Path) -> dict[str, Any]:
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    return {"rows": pq.read_metadata(path).num_rows, "bytes": path.stat().st_size, "sha256": digest}


ensure_feed = FromSlice("feed", build_feed)
"""The feed of a grant over a release, built when it is not there."""
