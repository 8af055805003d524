"""What a release was made with: the code and the code lists, as digests."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import metadata
from pathlib import Path

from workbench.schema import code_lists, dictionary_digest, value_sets
from workbench.schema.sensitive import Category

_PACKAGE = Path(__file__).resolve().parent.parent
_PARTS = ("schema", "lib", "lake")
_NOT_RELEASE = ("lake/synthetic", "lake/deck.py")
_ENGINES = ("duckdb", "pyarrow", "ibis-framework")


@cache
def code_version() -> str:
    """Version of the program and 12 hex digits over the code, data and engines that can change a release."""
    digest = hashlib.sha256()
    for part in _PARTS:
        for path in sorted((_PACKAGE / part).rglob("*")):
            name = path.relative_to(_PACKAGE).as_posix()
            if path.suffix in {".py", ".csv", ".yaml"} and not name.startswith(_NOT_RELEASE):
                digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    for engine in _ENGINES:
        digest.update(f"{engine} {metadata.version(engine)}".encode())
    return f"{metadata.version('workbench')}+{digest.hexdigest()[:12]}"


def code_list_digests() -> dict[str, str]:
    """Name -> SHA-256 of each set of codes that a release is tagged or measured by."""
    lists = {str(category): code_lists.digest(category) for category in Category}
    return {**lists, "value_sets": value_sets.digest()}


def dictionary_version() -> str:
    """SHA-256 of the data dictionary."""
    return dictionary_digest()
