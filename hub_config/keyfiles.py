"""Secrets in files that only their owner may read; none is taken from the environment."""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path

from workbench.errors import WorkbenchError

_KEY = re.compile(r"[0-9a-f]{64}")


class UnsafeSecret(WorkbenchError):
    """A file of secrets is missing, empty, broken or open to others."""

    code = "unsafe-secret"
    http_status = 503


def read_secret(file: Path, name: str) -> str:
    """The text of a secret's file without the white space around it. `name` says whose file it is. Raises UnsafeSecret."""
    try:
        with file.open(encoding="utf-8") as handle:
            if stat.S_IMODE(os.fstat(handle.fileno()).st_mode) & 0o077:
                raise UnsafeSecret(
                    f"The file of {name} can be read by others.",
                    hint="Give it to the Hub's user alone: chmod 600.",
                )
            text = handle.read().strip()
    except (OSError, UnicodeDecodeError):
        raise UnsafeSecret(
            f"The file of {name} cannot be read.", hint="Make it, with mode 600, for the Hub's user."
        ) from None
    if not text:
        raise UnsafeSecret(f"The file of {name} is empty.", hint="Write the secret into it.")
    return text


def keys_of(file: Path) -> list[bytes]:
    """The keys of a key file, one 64-digit hexadecimal line each, made on first use. Raises UnsafeSecret.

    The first key encrypts, the others still decrypt: put a new line on top to change the key.
    """
    name = "the key for stored logins"
    if not file.exists():
        new = file.with_suffix(".new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as handle:
            handle.write(secrets.token_hex(32) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        new.rename(file)
    lines = read_secret(file, name).split()
    if not all(_KEY.fullmatch(line) for line in lines):
        raise UnsafeSecret(
            f"The file of {name} holds something else than keys.",
            hint="A key is a line of 64 hexadecimal digits. Without the old file everybody logs in again.",
        )
    return [bytes.fromhex(line) for line in lines]
