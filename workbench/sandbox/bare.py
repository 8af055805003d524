"""Starts a sandbox's program without its walls, where an operator said --insecure-no-sandbox: for invented data only.

Limits of memory and processes hold as far as rlimits reach; the program sees the host's files and network.
"""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterable

from workbench.sandbox.bwrap import Running, Sandbox

VARIABLE = "WORKBENCH_INSECURE_NO_SANDBOX"


def insecure() -> bool:
    """Whether the operator of this process gave up the workers' sandboxes."""
    return os.environ.get(VARIABLE) == "1"


def launch_bare(sandbox: Sandbox, *, pass_fds: Iterable[int] = ()) -> Running:
    """Starts the command with the sandbox's environment and nothing else of it but the limit of memory."""
    process = subprocess.Popen(
        list(sandbox.command),
        env={"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONNOUSERSITE": "1", **sandbox.env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=list(pass_fds),
        start_new_session=True,
    )
    if sandbox.limits.memory_bytes:
        most = sandbox.limits.memory_bytes
        resource.prlimit(process.pid, resource.RLIMIT_DATA, (most, most))
    return Running(process, process.pid, [], None)
