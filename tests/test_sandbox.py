"""What a sandbox keeps in and keeps out, as root and as an ordinary user. Real bubblewrap, real listeners outside."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workbench.sandbox import PYTHON, Limits, Sandbox, SandboxUnavailable, available, launch, seats
from workbench.sandbox.bwrap import start_ticks, stop

pytestmark = pytest.mark.sandbox
ROOT = Path(__file__).resolve().parent.parent
DRIVER = Path(__file__).with_name("sandbox_driver.py")
NOBODY = 65534
SYSTEM_PYTHON = Path("/usr/bin/python3")


class Mode:
    """Launches as root or as an ordinary user of this machine."""

    def __init__(self, name: str):
        self.name = name

    @property
    def command(self) -> list[str]:
        if self.name == "user" and os.geteuid() == 0:
            drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
            return [*drop, str(SYSTEM_PYTHON), str(DRIVER)]
        return [sys.executable, str(DRIVER)]

    def start(self, **spec: Any) -> subprocess.Popen[str]:
        driver = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            cwd="/",
        )
        assert driver.stdin is not None
        driver.stdin.write(json.dumps(spec))
        driver.stdin.close()
        driver.stdin = None
        return driver

    def run(self, code: str, **spec: Any) -> str:
        """Runs Python code inside; what it printed, with its exit code checked to be 0."""
        with self.start(command=["PYTHON", "-c", code], **spec) as driver:
            out, err = driver.communicate(timeout=180)
        assert driver.returncode == 0, err
        answer = json.loads(out.splitlines()[-1])
        assert answer["code"] == 0, answer
        return str(answer["said"]).strip()

    def code(self, code: str, **spec: Any) -> int:
        with self.start(command=["PYTHON", "-c", code], **spec) as driver:
            out, _ = driver.communicate(timeout=180)
        return int(json.loads(out.splitlines()[-1])["code"])


def _readable_by_others(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in path.parents)


@pytest.fixture(params=["root", "user"])
def mode(request: pytest.FixtureRequest) -> Mode:
    if request.param == "root" and os.geteuid() != 0:
        pytest.skip("needs root")
    if request.param == "user" and os.geteuid() == 0:
        if not SYSTEM_PYTHON.exists() or not _readable_by_others(DRIVER):
            pytest.skip("needs a system Python 3.11 and a checkout that others can read")
        version = subprocess.run([SYSTEM_PYTHON, "-V"], capture_output=True, text=True).stdout.split()[1]
        if tuple(map(int, version.split(".")[:2])) < (3, 11):
            pytest.skip("the system's Python is older than 3.11")
    return Mode(str(request.param))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder below /tmp that every user of the machine can reach and write to."""
    folder = Path(tempfile.mkdtemp(prefix="wb-test-", dir="/tmp"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def test_a_program_is_an_ordinary_user_without_any_capability(mode: Mode) -> None:
    said = mode.run("print(open('/proc/self/status').read())")
    status = dict(line.split(":\t", 1) for line in said.splitlines() if ":\t" in line)
    assert "0" not in status["Uid"].split() + status["Gid"].split()
    assert [status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")] == ["0" * 16] * 5
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_nothing_of_the_host_answers(mode: Mode) -> None:
    """Listeners on the host's loopback and in its abstract socket space, both real, are not reached."""
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as abstract:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        abstract.bind(f"\0wb-test-{os.getpid()}")
        abstract.listen()
        with socket.create_connection(tcp.getsockname()), socket.socket(socket.AF_UNIX) as near:
            near.connect(abstract.getsockname())
        said = mode.run(
            "import socket\n"
            "def t(family, address):\n"
            "    try:\n"
            "        s = socket.socket(family); s.settimeout(3); s.connect(address); print('reached')\n"
            "    except OSError as e: print('stopped')\n"
            f"t(socket.AF_INET, {tcp.getsockname()!r})\n"
            f"t(socket.AF_UNIX, {abstract.getsockname()!r})\n"
            "t(socket.AF_INET, ('1.1.1.1', 443))\n"
            "t(socket.AF_INET, ('169.254.169.254', 80))\n"
        )
    assert said.split() == ["stopped"] * 4


@pytest.mark.parametrize("family", [16, 17, 38, 40])  # netlink, packet, alg, vsock
def test_socket_families_that_lead_out_do_not_exist(mode: Mode, family: int) -> None:
    assert mode.code(f"import socket; socket.socket({family}, socket.SOCK_RAW)") != 0


def test_only_what_was_bound_is_there(mode: Mode, open_folder: Path) -> None:
    for name in ("shown", "hidden"):
        (open_folder / name).mkdir()
        (open_folder / name / "file").write_text(name)
    said = mode.run(
        "import os\n"
        "print(open('/data/file').read())\n"
        f"print(os.path.exists({str(open_folder)!r}), os.path.exists('/etc/shadow'), os.path.exists('/sys'))\n"
        "try: open('/data/new', 'w'); print('wrote')\n"
        "except OSError as e: print(e.strerror)\n",
        read_only={str(open_folder / "shown"): "/data"},
    )
    assert said.splitlines() == ["shown", "False False False", "Read-only file system"]


def test_a_writable_folder_and_the_home_belong_to_the_program(mode: Mode, open_folder: Path) -> None:
    for name in ("out", "home"):
        (open_folder / name).mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(open_folder / name, NOBODY, NOBODY)
    mode.run(
        "open('/out/a', 'w').write('1'); open('/home/user/b', 'w').write('2')",
        writable={str(open_folder / "out"): "/out"},
        home=str(open_folder / "home"),
    )
    assert (open_folder / "out" / "a").read_text() == "1"
    assert (open_folder / "home" / "b").read_text() == "2"


def test_the_system_cannot_be_written(mode: Mode) -> None:
    said = mode.run(
        "import os, sys, workbench\n"
        "for d in ('/', '/usr', '/etc', '/dev', '/home', sys.prefix, os.path.dirname(workbench.__file__)):\n"
        "    try: open(d + '/x', 'w'); print('wrote', d)\n"
        "    except OSError: print('stopped')\n",
        env={"PYTHONPATH": str(ROOT)},
    )
    assert set(said.split()) == {"stopped"}


def test_the_environment_is_what_was_given_and_no_more(mode: Mode) -> None:
    said = mode.run("import os, json; print(json.dumps(dict(os.environ)))", env={"TOKEN": "t1"})
    inside = json.loads(said)
    assert inside["TOKEN"] == "t1"
    assert set(inside) - {"LC_CTYPE"} <= {
        "TOKEN", "HOME", "USER", "LANG", "PATH", "TMPDIR", "PYTHONNOUSERSITE", "PYTHONDONTWRITEBYTECODE",
        "WORKBENCH_SANDBOX",
    }  # fmt: skip


def test_no_token_stands_on_a_command_line_or_in_pid_1(mode: Mode) -> None:
    secret = f"secret-{os.getpid()}"
    code = (
        "try: print(open('/proc/1/environ', 'rb').read())\nexcept OSError as e: print('closed')\n"
        "import time; time.sleep(2)"
    )
    with mode.start(command=["PYTHON", "-c", code], env={"TOKEN": secret}, announce=True) as driver:
        assert driver.stdout is not None
        pid = json.loads(driver.stdout.readline())["child_pid"]
        time.sleep(0.5)
        lines = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                lines.append(path.read_bytes())
        with contextlib.suppress(PermissionError):
            lines.append(Path(f"/proc/{pid}/environ").read_bytes())
        out, _ = driver.communicate(timeout=180)
    assert not any(secret.encode() in line for line in lines)
    assert json.loads(out)["said"].strip() == "closed"


def test_memory_processes_and_scratch_space_end_where_the_limits_say(mode: Mode) -> None:
    limits = {"memory_bytes": 300 << 20, "processes": 40, "tmp_bytes": 8 << 20}
    said = mode.run(
        "import os, subprocess\n"
        "try: x = bytearray(1 << 30); print('got memory')\n"
        "except MemoryError: print('memory')\n"
        "try: open('/tmp/x', 'wb').write(bytes(16 << 20)); print('got space')\n"
        "except OSError as e: print('space')\n"
        "started = []\n"
        "try:\n"
        "    for _ in range(80): started.append(subprocess.Popen(['sleep', '20']))\n"
        "    print('got processes')\n"
        "except OSError: print('processes')\n"
        "for p in started: p.kill()\n",
        limits=limits,
    )
    assert said.split() == ["memory", "space", "processes"]


@pytest.mark.parametrize(
    ("call", "what"),
    [
        ("c.unshare(0x10000000)", "unshare"),
        ("c.syscall(56 if m == 'x86_64' else 220, 0x10000000 | 17, 0, 0, 0, 0)", "clone"),
        ("c.syscall(435, 0, 0)", "clone3"),
        ("c.ptrace(16, 1, 0, 0)", "ptrace"),
        ("c.mount(b'none', b'/tmp', b'tmpfs', 0, None)", "mount"),
        ("c.syscall(425, 1, 0)", "io_uring"),
        ("c.setuid(0)", "setuid"),
    ],
)
def test_the_kernels_side_doors_are_closed(mode: Mode, call: str, what: str) -> None:
    code = f"import ctypes, platform; c = ctypes.CDLL(None); m = platform.machine(); print({call})"
    assert mode.run(code) == "-1", what


def test_exit_codes_and_signals_come_through(mode: Mode) -> None:
    assert mode.code("raise SystemExit(7)") == 7
    assert mode.code("import os; os.kill(os.getpid(), 9)") == 137


def test_a_port_inside_leads_to_a_bound_socket(mode: Mode, open_folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(open_folder / "s"))
        (open_folder / "s").chmod(0o666)
        listener.listen()

        def answer() -> None:
            near, _ = listener.accept()
            with near:
                near.sendall(b"hello " + near.recv(10))

        thread = threading.Thread(target=answer)
        thread.start()
        said = mode.run(
            "import socket; s = socket.create_connection(('127.0.0.1', 9099)); s.sendall(b'you'); print(s.recv(99))",
            read_only={str(open_folder): "/run/wb/it"},
            forwards={"9099": "/run/wb/it/s"},
        )
        thread.join()
    assert said == "b'hello you'"


def test_everything_inside_dies_with_its_launcher(mode: Mode) -> None:
    code = "import subprocess, time; subprocess.Popen(['sleep', '300']); time.sleep(300)"
    with mode.start(command=["PYTHON", "-c", code], announce=True) as driver:
        assert driver.stdout is not None
        told = json.loads(driver.stdout.readline())
        driver.kill()
        assert _gone(told)


def test_a_server_that_shall_outlive_its_launcher_does(mode: Mode) -> None:
    with mode.start(
        command=["PYTHON", "-c", "import time; time.sleep(300)"], announce=True, outlives_launcher=True
    ) as driver:
        assert driver.stdout is not None
        told = json.loads(driver.stdout.readline())
        driver.kill()
        driver.wait()
        time.sleep(1)
        assert start_ticks(told["child_pid"]) == told["started"]
        stop(told["child_pid"], told["started"], patience=1)
        assert _gone(told)


def _gone(told: dict[str, Any]) -> bool:
    for _ in range(600):
        if start_ticks(told["child_pid"]) != told["started"]:
            return True
        time.sleep(0.1)
    return False


def test_a_listener_made_outside_is_served_inside_without_a_path() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/s")
        listener.listen()
        code = (
            "import http.server, os\nos.chdir('/tmp')\n"
            "http.server.HTTPServer(('127.0.0.1', 8888), http.server.BaseHTTPRequestHandler).serve_forever()"
        )
        running = launch(
            Sandbox(command=[PYTHON, "-c", code], listeners={listener.fileno(): 8888}),
            stderr=subprocess.DEVNULL,
        )
        with socket.socket(socket.AF_UNIX) as near:
            near.connect(f"{folder}/s")
            near.settimeout(90)
            near.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert near.recv(100).startswith(b"HTTP/1.0 501")
        running.terminate()
        running.wait(60)


def test_descriptors_that_are_passed_keep_their_numbers() -> None:
    near, far = os.pipe()
    running = launch(
        Sandbox(command=[PYTHON, "-c", f"import os; os.write({far}, b'through')"]), pass_fds=[far]
    )
    os.close(far)
    assert os.read(near, 20) == b"through"
    os.close(near)
    assert running.wait(60) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_checkout_in_a_folder_closed_to_others_works_as_root() -> None:
    with tempfile.TemporaryDirectory(prefix="wb-closed-") as closed:  # 0700
        shutil.copytree(ROOT / "workbench" / "sandbox", f"{closed}/clone/workbench/sandbox")
        for name in ("__init__.py", "errors.py"):
            shutil.copy(ROOT / "workbench" / name, f"{closed}/clone/workbench/{name}")
        Path(f"{closed}/clone/workbench/__init__.py").write_text("")
        code = (
            "from workbench.sandbox import *\n"
            "r = launch(Sandbox(command=[PYTHON, '-c', 'import os, sys; sys.path.insert(0, sys.argv[1]); "
            f"import workbench; print(os.getuid() > 0, workbench.__file__)', '{closed}/clone']))\n"
            "raise SystemExit(r.wait())"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": f"{closed}/clone"},
            cwd="/",
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == f"True {closed}/clone/workbench/__init__.py"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_uid_0_is_refused() -> None:
    with pytest.raises(SandboxUnavailable, match="never runs as uid 0"):
        launch(Sandbox(command=["/bin/true"], uid=0))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_init_starts_nothing_while_privilege_is_left() -> None:
    near, far = os.pipe()
    os.write(far, json.dumps({"uid": None, "limits": Limits().__dict__}).encode())
    os.close(far)
    init = ROOT / "workbench" / "sandbox" / "init.py"
    done = subprocess.run(
        [sys.executable, "-I", "-S", init, str(near)], pass_fds=[near], capture_output=True, text=True
    )
    os.close(near)
    assert done.returncode == 70
    assert "uid 0" in done.stderr and "unfiltered system calls" in done.stderr


def test_without_bubblewrap_the_machine_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxUnavailable, match="apt-get install bubblewrap"):
        launch(Sandbox(command=["/bin/true"]))


def test_this_machine_can_run_sandboxes() -> None:
    available()
    assert launch(Sandbox(command=["/bin/true"])).wait(60) == 0


def test_eviction_ends_what_nobody_knows_and_keeps_what_is_known() -> None:
    with tempfile.TemporaryDirectory(prefix="wb-", dir="/tmp") as folder:
        run = Path(folder)
        servers = [launch(Sandbox(command=["/bin/sleep", "300"], outlives_launcher=True)) for _ in range(2)]
        for number, server in enumerate(servers):
            seat = seats.Seat(run, str(number))
            seat.listen().close()
            seat.take(server.child_pid, server.started)
        assert seats.evict(run, keep=frozenset({servers[0].child_pid})) == 1
        assert servers[0].alive()
        assert servers[1].wait(60) != 0
        assert seats.evict(run) == 1
        assert servers[0].wait(60) in (128 + signal.SIGTERM, 128 + signal.SIGKILL)
        assert list((run / "u").iterdir()) == []
