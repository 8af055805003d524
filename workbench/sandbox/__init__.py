"""Runs a program in a bubblewrap sandbox without network: its own user, system call filter, limits, and few files.

`launch(Sandbox(command=[...]))` starts one; `available()` says what is missing on this machine.
"""

from workbench.sandbox.bare import VARIABLE, insecure, launch_bare
from workbench.sandbox.bwrap import (
    PYTHON,
    Limits,
    Running,
    Sandbox,
    SandboxUnavailable,
    available,
    launch,
)

__all__ = [
    "PYTHON",
    "VARIABLE",
    "Limits",
    "Running",
    "Sandbox",
    "SandboxUnavailable",
    "available",
    "insecure",
    "launch",
    "launch_bare",
]
