"""What a sandbox sees of the file system, as bubblewrap arguments: read-only system and environment, little else."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import workbench

_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = (
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/fonts",
)
HOME = "/home/user"


def runtime_paths() -> list[Path]:
    """The folders that Python and this package need: the environment, its base interpreter, our two packages."""
    package = Path(workbench.__file__).parent
    found = [Path(sys.prefix), Path(sys.base_prefix), Path(sys.base_prefix).resolve(), package]
    found += [folder for folder in (package.parent / "hub_config",) if folder.is_dir()]
    real = Path(sys.executable).resolve()
    if not any(real.is_relative_to(folder) for folder in found):
        found.append(real)
    return list(dict.fromkeys(found))


class Plan:
    """Collects mounts in order; makes each mount point's parents readable for every uid inside."""

    def __init__(self) -> None:
        self.arguments: list[str] = []
        self._covered: set[PurePosixPath] = set()

    def add(self, *arguments: str) -> None:
        """Adds bubblewrap arguments as they are."""
        self.arguments += arguments

    def bind(self, source: Path, inside: str, *, writable: bool = False) -> None:
        """Binds `source` at `inside`, after its parents with mode 0755 (bubblewrap as root makes them 0700)."""
        target = PurePosixPath(inside)
        if not self._within(target):
            for parent in reversed(target.parents):
                if str(parent) != "/":
                    self.add("--perms", "0755", "--dir", str(parent))
        self.add("--bind" if writable else "--ro-bind", str(source), inside)
        self._covered.add(target)

    def bind_once(self, source: Path) -> None:
        """Binds `source` read-only at its own path unless a folder above it is there already."""
        if not self._within(PurePosixPath(source)):
            self.bind(source, str(source))

    def _within(self, target: PurePosixPath) -> bool:
        return any(target.is_relative_to(folder) for folder in self._covered)

    def system(self, tmp_bytes: int) -> None:
        """/usr and what belongs to it, /proc, a small /dev, /tmp and /dev/shm of bounded size."""
        self.bind(Path("/usr"), "/usr")
        for name in _SYSTEM:
            folder = Path(name)
            if folder.is_symlink():
                self.add("--symlink", str(folder.readlink()), name)
                self._covered.add(PurePosixPath(name))
            elif folder.is_dir():
                self.bind(folder, name)
        self.add("--proc", "/proc", "--dev", "/dev")
        for name in ("/tmp", "/dev/shm"):
            self.add("--size", str(tmp_bytes), "--perms", "1777", "--tmpfs", name)
        self.add("--perms", "0755", "--dir", "/etc")
        for name in _ETC:
            if Path(name).exists():
                self.bind(Path(name), name)

    def home(self, folder: Path | None, tmp_bytes: int) -> None:
        """The private home: a host folder, or memory of bounded size that goes with the sandbox."""
        self.add("--perms", "0755", "--dir", "/home")
        if folder is not None:
            self.add("--bind", str(folder), HOME)
        else:
            self.add("--size", str(tmp_bytes), "--perms", "1777", "--tmpfs", HOME)


def identity_files(uid: int) -> Iterator[tuple[str, str]]:
    """The few files of /etc that name the one user inside."""
    yield "/etc/passwd", f"user:x:{uid}:{uid}::{HOME}:/bin/bash\n"
    yield "/etc/group", f"user:x:{uid}:\n"
    yield "/etc/hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n"
    yield "/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"


def plan(
    *,
    read_only: Mapping[Path, str],
    writable: Mapping[Path, str],
    home: Path | None,
    tmp_bytes: int,
    runtime: Iterable[Path],
) -> Plan:
    """All mounts of one sandbox but the data files of /etc; the root is to be made read-only after those."""
    mounts = Plan()
    mounts.system(tmp_bytes)
    mounts.home(home, tmp_bytes)
    for path in sorted(runtime, key=lambda folder: len(folder.parts)):
        mounts.bind_once(path)
    for path, inside in writable.items():
        mounts.bind(path, inside, writable=True)
    for path, inside in read_only.items():
        mounts.bind(path, inside)
    return mounts
