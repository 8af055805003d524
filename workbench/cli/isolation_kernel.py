"""The attempts of `workbench isolation-report` on the kernel: privileges, namespaces, system calls.

Each one returns or raises OSError when it was stopped, and raises Escaped when it got somewhere.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import stat
import subprocess
from pathlib import Path

# system calls by number: x86_64, aarch64 (the kernel's tables)
_CALLS = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "clone": (56, 220),
    "io_uring_setup": (425, 425),
    "open_by_handle_at": (304, 265),
    "perf_event_open": (298, 241),
    "process_vm_readv": (310, 270),
    "ptrace": (101, 117),
    "setns": (308, 268),
    "syslog": (103, 116),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
_CLONE_NEWUSER, _SIGCHLD, _PTRACE_ATTACH = 0x10000000, 17, 16
_SYSLOG_READ_ALL = 3
_libc = ctypes.CDLL(None, use_errno=True)


class Escaped(Exception):
    """An attempt that was not stopped, with what it reached."""


def status_of(process: str) -> dict[str, str]:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _call(name: str, *arguments: object) -> int:
    """A system call by number; raises OSError."""
    number = _CALLS[name][0 if platform.machine() == "x86_64" else 1]
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def ptrace_init() -> None:
    _call("ptrace", _PTRACE_ATTACH, 1, 0, 0)
    raise Escaped("attached to PID 1")


def read_memory_of_init() -> None:
    _call("process_vm_readv", 1, 0, 0, 0, 0, 0)
    raise Escaped("read the memory of PID 1")


def mount_something() -> None:
    if _libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0:
        raise Escaped("mounted a file system")
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def new_user_namespace() -> None:
    _call("unshare", _CLONE_NEWUSER)
    raise Escaped("made a user namespace")


def clone_user_namespace() -> None:
    child = _call("clone", ctypes.c_ulong(_CLONE_NEWUSER | _SIGCHLD), 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    raise Escaped("made a process in a new user namespace")


def join_namespace() -> None:
    descriptor = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        _call("setns", descriptor, 0)
    finally:
        os.close(descriptor)
    raise Escaped("setns works")


def change_root() -> None:
    os.chroot("/tmp")
    raise Escaped("chroot works")


def become_root() -> None:
    os.setuid(0)
    raise Escaped("became uid 0")


def setuid_program() -> None:
    for program in ("/usr/bin/su", "/usr/bin/sudo", "/usr/bin/mount"):
        if Path(program).exists():
            done = subprocess.run(
                [program, *(["-c", "id -u"] if program.endswith("su") else ["-n", "id", "-u"])],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=20,
            )
            if done.returncode == 0 and done.stdout.strip() == "0":
                raise Escaped(f"{program} gave uid 0")


def capabilities() -> None:
    left = [name for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb") if int(status_of("self")[name], 16)]
    if left:
        raise Escaped("capabilities left: " + ", ".join(left))


def kernel_settings() -> None:
    with Path("/proc/sys/kernel/hostname").open("w") as file:
        file.write("escaped")
    raise Escaped("changed a kernel setting")


def devices() -> None:
    allowed = {"null", "zero", "full", "random", "urandom", "tty", "console", "ptmx"}
    for path in Path("/dev").iterdir():
        mode = path.lstat().st_mode
        if stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and path.name not in allowed):
            raise Escaped(f"the device {path.name} is here")
    os.mknod("/tmp/disk", stat.S_IFBLK | 0o600, os.makedev(8, 0))
    raise Escaped("made a block device")


def kernel_log() -> None:
    buffer = ctypes.create_string_buffer(4096)
    _call("syslog", _SYSLOG_READ_ALL, buffer, 4096)
    raise Escaped("read the kernel's log")


def file_handles() -> None:
    _call("open_by_handle_at", -100, ctypes.create_string_buffer(128), 0)
    raise Escaped("opened a file by handle")


def exploit_surface() -> None:
    """System calls that a notebook never needs and kernel exploits often do."""
    for name in ("bpf", "io_uring_setup", "perf_event_open", "userfaultfd", "add_key"):
        try:
            _call(name, 0, 0, 0, 0, 0)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOSYS):
                raise Escaped(f"{name} reached the kernel") from None
            continue
        raise Escaped(f"{name} works")
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))
