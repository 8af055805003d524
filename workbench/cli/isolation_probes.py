"""The attempts of `workbench isolation-report`.

Each one returns or raises OSError when it was stopped, and raises Escaped when it got somewhere.
"""

from __future__ import annotations

import errno
import http.client
import os
import socket
import stat
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import workbench
from workbench.cli import isolation_kernel as kernel
from workbench.cli.isolation_kernel import Escaped, status_of

HUB_SOCKET = Path("/run/wb/hub/hub.sock")
BROKER_SOCKET = Path("/run/wb/broker/broker.sock")
ALLOWED_SOCKETS = frozenset({HUB_SOCKET, BROKER_SOCKET})
SECONDS = 3


def inside() -> bool:
    """Whether this process runs in one of our sandboxes: the kernel's word, not only the environment's."""
    status = status_of("self")
    filtered = status.get("NoNewPrivs") == "1" and status.get("Seccomp") == "2"
    return filtered and os.environ.get("WORKBENCH_SANDBOX") == "1"


def _connect(host: str, port: int) -> None:
    with socket.create_connection((host, port), timeout=SECONDS):
        raise Escaped(f"connected to {host}:{port}")


def tcp_internet() -> None:
    _connect("1.1.1.1", 443)


def tcp_internet_v6() -> None:
    _connect("2606:4700:4700::1111", 443)


def tcp_metadata() -> None:
    _connect("169.254.169.254", 80)


def tcp_host() -> None:
    """The Hub's proxy and what else usually listens on a host's loopback."""
    stopped: OSError | None = None
    for port in (22, 80, 443, 5432, 8000, 8001, 8081):
        try:
            _connect("127.0.0.1", port)
        except OSError as error:
            stopped = error
    if stopped is not None:
        raise stopped


def udp_dns() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.settimeout(SECONDS)
        probe.sendto(b"\0\1\1\0\0\1\0\0\0\0\0\0\7example\3org\0\0\1\0\1", ("1.1.1.1", 53))
        raise Escaped("a datagram left")


def resolve() -> None:
    raise Escaped(f"resolved to {socket.getaddrinfo('example.org', 443)[0][4][0]}")


def interfaces() -> None:
    names = [line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]]
    if set(names) - {"lo"}:
        raise Escaped("interfaces: " + ", ".join(names))


def abstract_sockets() -> None:
    """Abstract sockets belong to a network namespace: none but our own tree's may be there."""
    named = [line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    foreign = [name for name in named if name.startswith("@") and not name.startswith("@/tmp/jupyter")]
    if foreign:
        raise Escaped(f"{len(foreign)} abstract sockets to connect to")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect("\0/tmp/.X11-unix/X0")
        raise Escaped("connected to the host's display")


def vsock() -> None:
    with socket.socket(40, socket.SOCK_STREAM) as probe:
        probe.settimeout(SECONDS)
        raise Escaped(f"a vsock socket exists: {probe.fileno()}")


def netlink() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0):
        raise Escaped("a netlink socket exists")


def raw_socket() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP):
        raise Escaped("a raw socket exists")


def packet_socket() -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW):
        raise Escaped("a packet socket exists")


def other_homes() -> None:
    """What the mount table says of the host's folders is not there: neither the homes beside ours nor above."""
    others = [path.name for path in Path("/home").iterdir() if path.name != "user"]
    if others:
        raise Escaped("other homes: " + ", ".join(others))
    for source in _bound_from():
        for folder in list(source.parents)[:3]:
            if folder != Path("/") and str(folder) not in _own_folders() and folder.is_dir():
                found = [path.name for path in folder.iterdir()]
                if found:
                    raise Escaped(f"the host's folder beside ours can be listed: {len(found)} entries")


def _bound_from() -> Iterator[Path]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] == "/home/user" and fields[3] != "/":
            yield Path(fields[3])


def _own_folders() -> set[str]:
    """Folders that exist inside only as the way to what is bound below them."""
    bound = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {str(parent) for path in bound for parent in Path(path).parents}


def _visible_files() -> Iterator[Path]:
    """Every file that can be seen, outside /usr, /proc, the environment and the home."""
    skip = {
        "/usr",
        "/proc",
        "/dev",
        "/home/user",
        sys.prefix,
        sys.base_prefix,
        "/etc/alternatives",
        "/etc/fonts",
    }
    for folder, names, files in os.walk("/"):
        names[:] = [name for name in names if str(Path(folder) / name) not in skip]
        for file in files:
            yield Path(folder) / file


def hub_and_broker_state() -> None:
    secret = {"jupyterhub.sqlite", "broker.sqlite", "cookie_secret", "writer.lock", "uids.json"}
    found = [path.name for path in _visible_files() if path.name in secret or path.suffix == ".sqlite"]
    if found:
        raise Escaped("found " + ", ".join(found))


def lake() -> None:
    found = [path for path in _visible_files() if path.suffix == ".parquet"]
    if found:
        raise Escaped(f"found {len(found)} data files")


def grants() -> None:
    found = [path for path in _visible_files() if path.name == "organisations.yaml"]
    if found:
        raise Escaped("found the grants")


def shadow() -> None:
    Path("/etc/shadow").read_text()
    raise Escaped("read /etc/shadow")


def other_sockets() -> None:
    found = [path for path in _visible_files() if stat.S_ISSOCK(path.lstat().st_mode)]
    foreign = [path for path in found if path not in ALLOWED_SOCKETS and not path.is_relative_to("/tmp")]
    if foreign:
        raise Escaped("found " + ", ".join(str(path) for path in foreign))


def replace_broker_socket() -> None:
    folder = BROKER_SOCKET.parent if BROKER_SOCKET.parent.is_dir() else Path("/run")
    _write(folder / uuid.uuid4().hex)


def broker_without_token() -> None:
    """The socket alone is not enough, nor is somebody else's token."""
    if not BROKER_SOCKET.exists():
        raise FileNotFoundError(errno.ENOENT, "no broker's socket here")
    for headers in ({}, {"Authorization": f"Bearer {uuid.uuid4().hex}"}):
        status = _ask(BROKER_SOCKET, "/tables", headers)
        if status < 400:
            raise Escaped(f"the broker answered {status} to a stranger")


def hub_as_others() -> None:
    """The server's own token at the Hub: neither the list of users nor new tokens for oneself."""
    token = os.environ.get("JUPYTERHUB_API_TOKEN", "")
    if not HUB_SOCKET.exists() or not token:
        raise FileNotFoundError(errno.ENOENT, "no Hub's socket or token here")
    for path in ("/hub/api/users", "/hub/api/groups", "/hub/api/services", "/hub/api/proxy"):
        status = _ask(HUB_SOCKET, path, {"Authorization": f"token {token}"})
        if status < 400:
            raise Escaped(f"the Hub answered {status} to {path}")


def _ask(path: Path, target: str, headers: dict[str, str]) -> int:
    connection = http.client.HTTPConnection("localhost", timeout=SECONDS)
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.connect(str(path))
        connection.request("GET", target, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def environment_of_init() -> None:
    text = Path("/proc/1/environ").read_bytes()
    if b"TOKEN" in text:
        raise Escaped("read a token of PID 1")


def root_of_init() -> None:
    raise Escaped(f"/proc/1/root leads to {len(list(Path('/proc/1/root').iterdir()))} entries")


def host_processes() -> None:
    command = Path("/proc/1/cmdline").read_bytes()
    if b"init.py" not in command:
        raise Escaped("PID 1 is not the sandbox's own")


def _write(path: Path) -> None:
    path.write_text("")
    path.unlink()
    raise Escaped(f"wrote into {path.parent}")


def write_system() -> None:
    stopped: OSError | None = None
    for folder in ("/", "/usr", "/etc", "/run", "/home", "/dev"):
        try:
            _write(Path(folder) / uuid.uuid4().hex)
        except OSError as error:
            stopped = error
    if stopped is not None:
        raise stopped


def write_environment() -> None:
    stopped: OSError | None = None
    for folder in (Path(sys.prefix), Path(sys.base_prefix), Path(workbench.__file__).parent):
        try:
            _write(folder / uuid.uuid4().hex)
        except OSError as error:
            stopped = error
    if stopped is not None:
        raise stopped


def shared_memory() -> None:
    rows = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    if rows:
        raise Escaped(f"{len(rows)} shared memory segments of others")


def control_groups() -> None:
    if any(Path("/sys").iterdir()):
        raise Escaped("/sys is here")


NETWORK, FILTER = "no network: own namespace with loopback only", "system call filter"
MOUNTS, USER, PIDS = (
    "not mounted in the sandbox",
    "ordinary user without capabilities",
    "own process namespace",
)
READ_ONLY = "mounted read-only"

PROBES: list[tuple[str, str, Callable[[], None]]] = [
    ("TCP to the internet", NETWORK, tcp_internet),
    ("TCP to the internet over IPv6", NETWORK, tcp_internet_v6),
    ("TCP to the cloud's metadata service", NETWORK, tcp_metadata),
    ("TCP to services of the host", NETWORK, tcp_host),
    ("UDP to a name server", NETWORK, udp_dns),
    ("resolve a host name", NETWORK, resolve),
    ("other network interfaces", NETWORK, interfaces),
    ("abstract unix sockets of the host", NETWORK, abstract_sockets),
    ("vsock to the virtual machine's host", FILTER, vsock),
    ("netlink (interfaces, routes, firewall, audit)", FILTER, netlink),
    ("raw socket", USER, raw_socket),
    ("packet socket", FILTER, packet_socket),
    ("homes of others", MOUNTS, other_homes),
    ("databases and keys of Hub and broker", MOUNTS, hub_and_broker_state),
    ("data files of the lake", MOUNTS, lake),
    ("the grants", MOUNTS, grants),
    ("/etc/shadow", MOUNTS, shadow),
    ("sockets of other servers", MOUNTS, other_sockets),
    ("put something in place of the broker", READ_ONLY, replace_broker_socket),
    ("the broker without this server's token", "the broker asks for the token", broker_without_token),
    ("the Hub as somebody else", "the token's scopes", hub_as_others),
    ("ptrace PID 1", FILTER, kernel.ptrace_init),
    ("memory of PID 1", FILTER, kernel.read_memory_of_init),
    ("tokens in the environment of PID 1", "closed to its own user", environment_of_init),
    ("file system of PID 1", "closed to its own user", root_of_init),
    ("processes of the host", PIDS, host_processes),
    ("mount a file system", FILTER, kernel.mount_something),
    ("new user namespace (unshare)", FILTER, kernel.new_user_namespace),
    ("new user namespace (clone)", FILTER, kernel.clone_user_namespace),
    ("join a namespace", FILTER, kernel.join_namespace),
    ("chroot", FILTER, kernel.change_root),
    ("setuid(0)", USER, kernel.become_root),
    ("programs with the setuid bit", "no new privileges", kernel.setuid_program),
    ("capabilities", USER, kernel.capabilities),
    ("write to the system", READ_ONLY, write_system),
    ("write to the Python environment", READ_ONLY, write_environment),
    ("kernel settings", USER, kernel.kernel_settings),
    ("devices", USER, kernel.devices),
    ("the kernel's log", FILTER, kernel.kernel_log),
    ("files by handle", FILTER, kernel.file_handles),
    ("bpf, io_uring, perf, userfaultfd, keys", FILTER, kernel.exploit_surface),
    ("shared memory of others", "own IPC namespace", shared_memory),
    ("control groups and /sys", MOUNTS, control_groups),
]
"""What is tried, what should stop it, the attempt."""
