"""Runs a program in a bubblewrap sandbox without network: its own user, system call filter, limits, and few files.

`launch(Sandbox(command=[...]))` starts one; `available()` says what is missing on this machine.
"""

from workbench.sandbox.bwrap import (
    PYTHON,
    Limits,
    Running,
    Sandbox,
    SandboxUnavailable,
    available,
    launch,
)

__all__ = ["PYTHON", "Limits", "Running", "Sandbox", "SandboxUnavailable", "available", "launch"]
