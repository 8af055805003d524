"""Where things are: read from the environment, with defaults below the checkout's var/ folder."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
HUB_START_SECONDS = 180.0
"""How long the Hub and its broker may take to start; whoever needs the broker meanwhile waits as long."""


@dataclass(frozen=True)
class Settings:
    """The folders that one workbench works in."""

    lake: Path
    """WORKBENCH_LAKE: releases/, slices/, published/."""
    state: Path
    """WORKBENCH_STATE: the broker's database, keys, audit checkpoints; the Hub's database; the users' homes."""
    run: Path
    """WORKBENCH_RUN: unix sockets. Short, because a socket's path may have 108 bytes."""
    grants: Path
    """WORKBENCH_GRANTS: the folder of grant YAML files."""
    reports: Path
    """WORKBENCH_REPORTS: the report catalogue."""
    database_url: str
    """WORKBENCH_DATABASE_URL: SQLAlchemy URL of the broker's state; SQLite in the state folder by default."""
    api_bind: str = ""
    """WORKBENCH_API_BIND: HOST:PORT of the listener for systems outside the Hub; empty: there is none."""
    api_tls_cert: str = ""
    """WORKBENCH_API_TLS_CERT: its certificate (PEM); without one it listens on the loopback alone."""
    api_tls_key: str = ""
    """WORKBENCH_API_TLS_KEY: the certificate's key (PEM), where it is not in the same file."""

    @property
    def up_lock(self) -> Path:
        """The file that `workbench up` locks for as long as it runs."""
        return self.state / "up.lock"


def settings() -> Settings:
    """The settings as the environment has them now."""
    var = PROJECT / "var"
    state = _folder("WORKBENCH_STATE", var / "state")
    return Settings(
        lake=_folder("WORKBENCH_LAKE", var / "lake"),
        state=state,
        run=_folder("WORKBENCH_RUN", _default_run(state)),
        grants=_folder("WORKBENCH_GRANTS", PROJECT / "grants"),
        reports=_folder("WORKBENCH_REPORTS", PROJECT / "reports"),
        database_url=os.environ.get("WORKBENCH_DATABASE_URL", f"sqlite:///{state / 'broker.sqlite'}"),
        api_bind=os.environ.get("WORKBENCH_API_BIND", ""),
        api_tls_cert=os.environ.get("WORKBENCH_API_TLS_CERT", ""),
        api_tls_key=os.environ.get("WORKBENCH_API_TLS_KEY", ""),
    )


def _folder(variable: str, default: Path) -> Path:
    value = os.environ.get(variable)
    return Path(value).absolute() if value else default


def _default_run(state: Path) -> Path:
    """A short path of its own for each state folder and each user of the machine."""
    digest = hashlib.sha256(str(state).encode()).hexdigest()[:8]
    base = Path("/run") if os.geteuid() == 0 else Path(tempfile.gettempdir())
    return base / f"wb-{os.geteuid()}-{digest}"
