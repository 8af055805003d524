"""Launches sandboxes with bubblewrap, as root or as an ordinary user.

As root, bubblewrap binds as root (so that an interpreter or checkout in a closed folder works) and init.py drops to
an ordinary uid of its own, with no capability left. As an ordinary user, a user namespace maps the caller to uid
1000, and further user namespaces are switched off.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from workbench.errors import WorkbenchError
from workbench.sandbox import cgroups, mounts, seccomp

PYTHON = sys.executable
"""The interpreter's path, the same inside as outside."""
INSIDE_UID = 1000
"""The uid inside when an ordinary user launches."""
WORKER_UIDS = range(300_000, 365_536)
"""As root, a sandbox without a uid of its own gets a random one of these."""
MINIMUM_VERSION = (0, 8, 0)
_NAMESPACES = {"--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"}


class SandboxUnavailable(WorkbenchError):
    """This machine cannot run sandboxes as it is."""

    code = "sandbox-unavailable"
    http_status = 503


@dataclass(frozen=True)
class Limits:
    """What one sandbox may use; 0 means no limit. Memory counts per process, and in sum where root has cgroups."""

    memory_bytes: int = 0
    processes: int = 256
    open_files: int = 4096
    cpu_seconds: int = 0
    tmp_bytes: int = 1 << 30
    file_bytes: int = 0


@dataclass(frozen=True)
class Sandbox:
    """One program and all that it may see."""

    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    """The whole environment inside, on top of HOME, PATH and LANG."""
    read_only: Mapping[Path, str] = field(default_factory=dict)
    """Host path -> path inside."""
    writable: Mapping[Path, str] = field(default_factory=dict)
    """Host path -> path inside; given to the sandbox's uid when root launches."""
    uid: int | None = None
    """Host uid to drop to when root launches; None takes one of WORKER_UIDS."""
    home: Path | None = None
    """Host folder bound writable at /home/user; None: memory that goes with the sandbox."""
    forwards: Mapping[int, str] = field(default_factory=dict)
    """Loopback TCP port inside -> unix socket path inside."""
    listeners: Mapping[int, int] = field(default_factory=dict)
    """Descriptor of a listening socket of the caller -> loopback TCP port inside."""
    limits: Limits = field(default_factory=Limits)
    chdir: str = mounts.HOME
    outlives_launcher: bool = False
    """False: everything inside is killed when the launching process is gone."""


class Running:
    """A started sandbox. `process` is bubblewrap outside, `child_pid` the sandbox's PID 1 as the host sees it."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        child_pid: int,
        held: Iterable[int],
        group: cgroups.Group | None,
    ):
        self.process = process
        self.child_pid = child_pid
        self.started = start_ticks(child_pid)
        self._held = list(held)
        self._group = group

    def alive(self) -> bool:
        """Whether the program still runs."""
        return self.process.poll() is None

    def terminate(self) -> None:
        """Asks the program to end (SIGTERM)."""
        signal_sandbox(self.child_pid, self.started, signal.SIGTERM)

    def kill(self) -> None:
        """Ends everything inside at once."""
        signal_sandbox(self.child_pid, self.started, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """The program's exit code (128+n when signal n ended it). Raises subprocess.TimeoutExpired."""
        code = self.process.wait(timeout)
        self._release()
        return code

    def _release(self) -> None:
        while self._held:
            os.close(self._held.pop())
        if self._group is not None:
            self._group.remove()
            self._group = None

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self._release()


def start_ticks(pid: int) -> str | None:
    """When the process started, in clock ticks since boot: with the pid it names a process for good."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return None


def signal_sandbox(child_pid: int, started: str | None, number: int) -> bool:
    """Signals a sandbox's PID 1 if it is still the same process; whether it was."""
    if not child_pid or started is None or start_ticks(child_pid) != started:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(child_pid, number)
        return True
    return False


def available() -> None:
    """Raises SandboxUnavailable, with what to do, when this machine cannot run a sandbox."""
    _check(os.geteuid())


@functools.cache
def _check(euid: int) -> None:
    program = _bwrap()
    version = re.search(
        r"(\d+)\.(\d+)\.(\d+)", subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    )
    if version is None or tuple(map(int, version.groups())) < MINIMUM_VERSION:
        wanted = ".".join(map(str, MINIMUM_VERSION))
        raise SandboxUnavailable(
            "bubblewrap is too old.", hint=f"Install bubblewrap {wanted} or newer (Debian 12 has it)."
        )
    if euid == 0 and (closed := _closed_to_others()):
        raise SandboxUnavailable(
            f"The sandbox's user cannot read {closed}.",
            hint="Install it with umask 022, or run `chmod -R go+rX` on that folder.",
        )
    running = launch(Sandbox(command=["/bin/true"]), stderr=subprocess.PIPE)
    assert running.process.stderr is not None
    with running.process.stderr as stderr:
        said = stderr.read().decode(errors="replace")
    if running.wait(30) != 0:
        raise _could_not_start(said)


def _closed_to_others() -> str:
    for path, name in (
        (Path(sys.executable).resolve(), "the Python interpreter"),
        (Path(os.__file__), "Python's standard library"),
        (Path(__file__), "the workbench package"),
    ):
        if not path.stat().st_mode & 0o004:
            return name
    return ""


def _bwrap() -> str:
    program = shutil.which("bwrap")
    if program is None:
        raise SandboxUnavailable(
            "bubblewrap is not installed, and nothing runs outside a sandbox.",
            hint="Debian: apt-get install bubblewrap",
        )
    return program


def _could_not_start(said: str) -> SandboxUnavailable:
    if "namespace" in said or "Operation not permitted" in said or "uid map" in said:
        return SandboxUnavailable(
            "This system does not let an ordinary user make a sandbox (unprivileged user namespaces are off).",
            hint="Allow them (sysctl kernel.unprivileged_userns_clone=1, "
            "kernel.apparmor_restrict_unprivileged_userns=0) or start the workbench as root.",
        )
    return SandboxUnavailable(
        "bubblewrap could not start a sandbox.", hint="Its own message stands in the log."
    )


def launch(
    sandbox: Sandbox,
    *,
    stdin: int | IO[Any] | None = subprocess.DEVNULL,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    pass_fds: Iterable[int] = (),
) -> Running:
    """Starts the sandbox and returns when its PID 1 exists. Raises SandboxUnavailable.

    `pass_fds` reach the program under the same numbers. The command, environment and tokens travel in memory files,
    never on a command line.
    """
    root = os.geteuid() == 0
    uid = (sandbox.uid if sandbox.uid is not None else secrets.choice(WORKER_UIDS)) if root else None
    if uid == 0:
        raise SandboxUnavailable("A sandbox never runs as uid 0.")
    if root and uid is not None:
        for folder in [*sandbox.writable, *([sandbox.home] if sandbox.home else [])]:
            os.chown(folder, uid, uid)
    group = cgroups.group_for(sandbox.limits.memory_bytes, sandbox.limits.processes)
    with contextlib.ExitStack() as stack:
        passed = [*pass_fds, *sandbox.listeners]
        inherited = list(passed)

        def memory_file(content: bytes) -> int:
            descriptor = os.memfd_create("sandbox")
            stack.callback(os.close, descriptor)
            os.write(descriptor, content)
            os.lseek(descriptor, 0, os.SEEK_SET)
            inherited.append(descriptor)
            return descriptor

        lifeline_read, lifeline = (None, None) if sandbox.outlives_launcher else os.pipe()
        if lifeline_read is not None:
            stack.callback(os.close, lifeline_read)
            inherited.append(lifeline_read)
        orders = memory_file(json.dumps(_orders(sandbox, uid, lifeline_read, list(pass_fds))).encode())
        arguments = _arguments(sandbox, uid, memory_file)
        status_read, status_write = os.pipe()
        inherited.append(status_write)
        arguments += ["--json-status-fd", str(status_write)]
        gate_write = None
        if group is not None:
            gate_read, gate_write = os.pipe()
            stack.callback(os.close, gate_read)
            inherited.append(gate_read)
            arguments += ["--block-fd", str(gate_read)]
        packed = memory_file(b"".join(os.fsencode(argument) + b"\0" for argument in arguments))
        init = str(Path(__file__).with_name("init.py"))
        try:
            process = subprocess.Popen(
                [_bwrap(), "--args", str(packed), "--", PYTHON, "-I", "-S", init, str(orders)],
                env={"LANG": "C.UTF-8"},
                cwd="/",
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                pass_fds=inherited,
                start_new_session=True,
            )
        except BaseException:
            for descriptor in (lifeline, gate_write, status_read, status_write):
                if descriptor is not None:
                    os.close(descriptor)
            raise
        os.close(status_write)
        child_pid = _child_pid(status_read)
        if gate_write is not None:
            with os.fdopen(gate_write, "wb") as gate:
                if group is not None and child_pid:
                    with contextlib.suppress(OSError):
                        group.add(child_pid)
                gate.write(b"1")
    held = [status_read] if lifeline is None else [status_read, lifeline]
    running = Running(process, child_pid, held, group)
    if not child_pid:
        said = _drain(process.stderr)
        running.wait(10)
        raise _could_not_start(said)
    return running


def _child_pid(status: int) -> int:
    """The host's pid of the sandbox's PID 1; 0 when bubblewrap ended before there was one."""
    text = b""
    while b"\n" not in text:
        more = os.read(status, 4096)
        if not more:
            return 0
        text += more
    return int(json.loads(text.split(b"\n", 1)[0])["child-pid"])


def _drain(stream: IO[bytes] | None) -> str:
    return stream.read().decode(errors="replace") if stream is not None else ""


def _orders(sandbox: Sandbox, uid: int | None, lifeline: int | None, pass_fds: list[int]) -> dict[str, Any]:
    env = {
        "HOME": mounts.HOME,
        "USER": "user",
        "LANG": "C.UTF-8",
        "PATH": f"{Path(sys.prefix) / 'bin'}:/usr/local/bin:/usr/bin:/bin",
        "TMPDIR": "/tmp",
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "WORKBENCH_SANDBOX": "1",
        **sandbox.env,
    }
    return {
        "command": list(sandbox.command),
        "env": env,
        "chdir": sandbox.chdir,
        "uid": uid,
        "limits": sandbox.limits.__dict__,
        "forwards": {str(port): path for port, path in sandbox.forwards.items()},
        "listeners": {str(descriptor): port for descriptor, port in sandbox.listeners.items()},
        "pass_fds": pass_fds,
        "lifeline": lifeline,
    }


def _arguments(sandbox: Sandbox, uid: int | None, memory_file: Any) -> list[str]:
    arguments = [
        *sorted(_NAMESPACES),
        "--as-pid-1",
        "--new-session",
        "--hostname",
        "sandbox",
        "--cap-drop",
        "ALL",
    ]
    if uid is None:
        arguments += [
            "--unshare-user",
            "--disable-userns",
            "--uid",
            str(INSIDE_UID),
            "--gid",
            str(INSIDE_UID),
        ]
    else:
        arguments += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP"]
    plan = mounts.plan(
        read_only=sandbox.read_only,
        writable=sandbox.writable,
        home=sandbox.home,
        tmp_bytes=sandbox.limits.tmp_bytes,
        runtime=mounts.runtime_paths(),
    )
    arguments += plan.arguments
    for path, text in mounts.identity_files(INSIDE_UID if uid is None else uid):
        arguments += ["--perms", "0644", "--ro-bind-data", str(memory_file(text.encode())), path]
    arguments += ["--seccomp", str(memory_file(seccomp.program()))]
    return [*arguments, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/"]


def stop(child_pid: int, started: str | None, patience: float = 8.0) -> None:
    """Ends a sandbox known by pid and start time: SIGTERM, then SIGKILL after `patience` seconds."""
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        if not signal_sandbox(child_pid, started, number):
            return
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if start_ticks(child_pid) != started:
                return
            time.sleep(0.05)
