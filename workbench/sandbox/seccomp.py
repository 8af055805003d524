"""The sandbox's system call filter as BPF bytes for `bwrap --seccomp`, without libseccomp (x86_64 and aarch64).

Network namespaces do not cover every socket family (AF_VSOCK reaches the host of a virtual machine), so `socket()`
is limited to a list. System calls that a notebook never needs but kernel exploits do are refused with EPERM.
"""

from __future__ import annotations

import errno
import platform
import socket
import struct
from collections.abc import Iterable

from workbench.errors import WorkbenchError

FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
"""The socket families that exist inside: none of them leads out of a network namespace with loopback only."""

# name -> (x86_64, aarch64); source: the kernel's arch/x86/entry/syscalls/syscall_64.tbl and asm-generic/unistd.h
REFUSED: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setns": (308, 268),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_SOCKET = (41, 198)
_CLONE = (56, 220)
_CLONE3 = 435
_CLONE_NEWUSER = 0x10000000
_X32 = 0x40000000

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _KILL = 0x7FFF0000, 0x80000000


def _answer(number: int) -> int:
    return 0x00050000 | number


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value & 0xFFFFFFFF)


def program(families: Iterable[int] = FAMILIES) -> bytes:
    """The filter for this machine's architecture. Raises WorkbenchError on any other than x86_64 and aarch64."""
    if platform.machine() not in _ARCHITECTURES:
        raise WorkbenchError(
            "The sandbox has no system call filter for this processor.", hint="It knows x86_64 and aarch64."
        )
    column, architecture = _ARCHITECTURES[platform.machine()]
    out = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_EQUAL, architecture, 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER),
    ]
    if column == 0:
        out += [_instruction(_AT_LEAST, _X32, 0, 1), _instruction(_RETURN, _answer(errno.EPERM))]
    for numbers in REFUSED.values():
        number = numbers[column]
        if number is not None:
            out += [_instruction(_EQUAL, number, 0, 1), _instruction(_RETURN, _answer(errno.EPERM))]
    # clone3 hides its flags from a filter: glibc falls back to clone on ENOSYS
    out += [_instruction(_EQUAL, _CLONE3, 0, 1), _instruction(_RETURN, _answer(errno.ENOSYS))]
    out += [
        _instruction(_EQUAL, _CLONE[column], 0, 4),
        _instruction(_LOAD, _FIRST_ARGUMENT),
        _instruction(_ANY_BIT, _CLONE_NEWUSER, 0, 1),
        _instruction(_RETURN, _answer(errno.EPERM)),
        _instruction(_RETURN, _ALLOW),
    ]
    out += [_instruction(_EQUAL, _SOCKET[column], 1, 0), _instruction(_RETURN, _ALLOW)]
    out += [_instruction(_LOAD, _FIRST_ARGUMENT)]
    for family in families:
        out += [_instruction(_EQUAL, family, 0, 1), _instruction(_RETURN, _ALLOW)]
    # not EAFNOSUPPORT: libzmq lists the network interfaces when a kernel starts, and aborts on that answer
    out += [_instruction(_RETURN, _answer(errno.EOPNOTSUPP))]
    return b"".join(out)
