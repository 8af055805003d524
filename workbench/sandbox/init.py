"""PID 1 of a sandbox: drops what is left of privilege, sets limits, forwards sockets, runs one command, reaps.

Standard library only and started with `-I -S`: nothing of the user's is imported before privilege is gone.
Its orders come as JSON through a file descriptor (named by the only argument), so that neither `ps` nor
/proc/1/environ shows tokens. It refuses to start the command when a capability, uid 0 or an unfiltered system call
table is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

FAILED_CLOSED = 70
_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _CLEAR_ALL = 4, 24, 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def drop_privilege(uid: int | None) -> None:
    """Empties every capability set and takes `uid` (None: the uid is already an ordinary one)."""
    if uid is not None:
        for capability in range(64):
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _libc.prctl(_PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _libc.capset(header, (ctypes.c_uint32 * 6)())
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def remaining_privilege() -> list[str]:
    """What should be gone and is not; empty when all is well."""
    with open("/proc/thread-self/status") as file:  # noqa: PTH123
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    left = [name for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb") if int(status[name], 16)]
    if "0" in status["Uid"].split() or "0" in status["Gid"].split():
        left.append("uid 0")
    if status["NoNewPrivs"].strip() != "1":
        left.append("new privileges")
    if status["Seccomp"].strip() != "2":
        left.append("unfiltered system calls")
    return left


def set_limits(limits: dict[str, int]) -> None:
    """Sets rlimits; 0 means no limit. Memory is per process here, per sandbox where the launcher has cgroups."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, what in (
        ("open_files", resource.RLIMIT_NOFILE),
        ("memory_bytes", resource.RLIMIT_DATA),
        ("cpu_seconds", resource.RLIMIT_CPU),
        ("file_bytes", resource.RLIMIT_FSIZE),
        ("processes", resource.RLIMIT_NPROC),
    ):
        wanted = limits[name]
        if wanted:
            hard = resource.getrlimit(what)[1]
            value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(what, (value, value))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("500")


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(262144):
            sink.sendall(data)
    except OSError:
        pass
    finally:
        for end, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
            with contextlib.suppress(OSError):
                end.shutdown(how)


def _relay(listener: socket.socket, dial: Callable[[], socket.socket]) -> None:
    """Each connection to `listener` is joined to one that `dial` makes."""

    def join(near: socket.socket) -> None:
        with near:
            try:
                far = dial()
            except OSError:
                return
            with far:
                back = threading.Thread(target=_pump, args=(far, near), daemon=True)
                back.start()
                _pump(near, far)
                back.join()

    def accept() -> None:
        while True:
            near, _ = listener.accept()
            threading.Thread(target=join, args=(near,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def _dial_unix(path: str) -> socket.socket:
    far = socket.socket(socket.AF_UNIX)
    try:
        far.connect(path)
    except OSError:
        far.close()
        raise
    return far


def forward(port: int, path: str) -> None:
    """Loopback TCP `port` inside leads to the unix socket `path` inside."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(64)
    _relay(listener, lambda: _dial_unix(path))


def accept_for(descriptor: int, port: int) -> None:
    """A listener made outside leads to loopback TCP `port` inside, as soon as something answers there."""
    listener = socket.socket(fileno=descriptor)

    def dial() -> socket.socket:
        deadline = time.monotonic() + 60
        while True:
            try:
                return socket.create_connection(("127.0.0.1", port))
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    _relay(listener, dial)


def watch(lifeline: int, end: Callable[[], None]) -> None:
    """Calls `end` when the launcher is gone: a pipe's end survives threads, a parent-death signal does not."""

    def wait() -> None:
        while os.read(lifeline, 1):
            pass
        end()

    threading.Thread(target=wait, daemon=True).start()


def run(orders: dict[str, Any]) -> int:
    """Starts the command and reaps every orphan until it ends; returns its exit code (128+n for signal n)."""
    child = subprocess.Popen(
        orders["command"], env=orders["env"], cwd=orders["chdir"], pass_fds=orders["pass_fds"], umask=0o077
    )
    for descriptor in orders["pass_fds"]:
        os.close(descriptor)

    def stop(*_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if orders["lifeline"] is not None:
        watch(orders["lifeline"], lambda: os._exit(FAILED_CLOSED))
    while True:
        try:
            pid, status = os.wait()
        except InterruptedError:
            continue
        if pid == child.pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def main() -> None:
    """Reads its orders, fails closed when privilege is left, then runs the command."""
    descriptor = int(sys.argv[1])
    with os.fdopen(descriptor) as file:
        orders = json.load(file)
    drop_privilege(orders["uid"])
    set_limits(orders["limits"])
    if left := remaining_privilege():
        print("sandbox: not started, still there: " + ", ".join(left), file=sys.stderr, flush=True)
        os._exit(FAILED_CLOSED)
    for port, path in orders["forwards"].items():
        forward(int(port), path)
    for listener, port in orders["listeners"].items():
        accept_for(int(listener), port)
    os._exit(run(orders))


if __name__ == "__main__":
    main()
