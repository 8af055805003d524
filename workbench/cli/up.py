"""`workbench up`: the Hub with broker and report service, and with --demo the data of the demo before it."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import click
import yaml

from workbench import sandbox
from workbench.cli.broker import insecure_option
from workbench.days import time_zone
from workbench.errors import WorkbenchError
from workbench.sandbox import seats
from workbench.settings import HUB_START_SECONDS, PROJECT, Settings, settings

START_SECONDS = HUB_START_SECONDS
REFUSED_SECONDS = 45.0
"""A service that said why it does not start, and starts neither within this, will not."""
STOP_SECONDS = 20
CONFIGURATION = PROJECT / "hub_config" / "jupyterhub_config.py"
PEOPLE = PROJECT / "hub_config" / "demo_users.yaml"
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1


class CannotStart(WorkbenchError):
    """The workbench cannot start as things are."""

    code = "cannot-start"
    http_status = 503


@click.command(
    epilog="""\b
Examples:
  workbench up --demo
  workbench up --demo --members 5000 --port 9000
  workbench up
"""
)
@click.option(
    "--demo", is_flag=True, help="First make the synthetic sources, a release and the demo's slices."
)
@click.option(
    "--members", type=click.IntRange(1), default=20_000, show_default=True, help="Members of the demo."
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Seed of the demo.")
@click.option("--ip", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Port to listen on."
)
@insecure_option
def up(demo: bool, members: int, seed: int, ip: str, port: int) -> None:
    """Start the Hub with broker and scheduler (what `make demo` runs), until Ctrl-C.

    What is there already is not made again. Ctrl-C stops everything: Hub, proxy, services and the users' servers.
    """
    here = settings()
    time_zone()
    if not sandbox.insecure():
        sandbox.available()
    with _only_one(here):
        _end_proxy(here)
        _port_is_free(ip, port)
        if demo:
            from workbench.cli.demo_data import prepare

            prepare(here, members, seed, click.echo)
        url = f"http://{ip}:{port}"
        by_itself = False
        with _ending_on_signals(), _hub(here, url) as hub:
            _wait_until_ready(hub, here, url)
            _tell(url, demo)
            hub.wait()
            by_itself = True
        if not by_itself:
            return
        raise CannotStart("The Hub ended by itself.", hint=f"Its log: {_log(here)}")


def _port_is_free(ip: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ip, port))
        except PermissionError:
            raise CannotStart(
                f"Port {port} needs more rights.", hint="Take one above 1023: --port 8000"
            ) from None
        except OSError:
            raise CannotStart(
                f"Port {port} of {ip} is taken.",
                hint="Stop what listens there, or choose another: --port 8001",
            ) from None


def _locked(lock: IO[str]) -> bool:
    """Takes the lock. A command that looks whether a workbench runs holds it for an instant."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(0.1)
        return False
    return True


@contextlib.contextmanager
def _only_one(here: Settings) -> Iterator[None]:
    """Holds the lock of this state folder's workbench."""
    try:
        here.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = here.up_lock.open("a+")
    except OSError:
        raise CannotStart(
            "The state folder cannot be written.", hint="Set WORKBENCH_STATE to a folder of yours."
        ) from None
    with lock:
        if not any(_locked(lock) for _ in range(5)):
            raise CannotStart(
                "A workbench with this state folder runs already.",
                hint="Stop that one, or set WORKBENCH_STATE to another folder.",
            )
        yield


@contextlib.contextmanager
def _ending_on_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal end the workbench as Ctrl-C does; so does SIGINT where a shell had it ignored."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _log(here: Settings) -> Path:
    return here.state / "log" / "hub.log"


@contextlib.contextmanager
def _hub(here: Settings, url: str) -> Iterator[subprocess.Popen[bytes]]:
    """The Hub; when the block ends, by Ctrl-C too, Hub, proxy, services and users' servers are gone."""
    log = _log(here)
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    click.echo("· Hub, proxy, broker and report service: starting")
    with log.open("wb") as output:
        hub = subprocess.Popen(
            [sys.executable, "-m", "jupyterhub", "-f", str(CONFIGURATION)],
            env=os.environ | _environment(here, url),
            cwd=here.state,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
    try:
        yield hub
    except KeyboardInterrupt:
        click.echo("\n· stopping")
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _stop(hub, here)


def _environment(here: Settings, url: str) -> dict[str, str]:
    return {
        "WORKBENCH_URL": url,
        "WORKBENCH_LAKE": str(here.lake),
        "WORKBENCH_STATE": str(here.state),
        "WORKBENCH_RUN": str(here.run),
        "WORKBENCH_GRANTS": str(here.grants),
        "WORKBENCH_REPORTS": str(here.reports),
        "WORKBENCH_DATABASE_URL": here.database_url,
    }


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _wait_until_ready(hub: subprocess.Popen[bytes], here: Settings, url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not (_answers(url) and _listens(here.run / "control" / "control.sock")):
        said = _said(here)
        if said:
            deadline = min(deadline, time.monotonic() + REFUSED_SECONDS)
        if hub.poll() is not None or time.monotonic() > deadline:
            raise CannotStart(said or "The Hub did not start.", hint=f"Its log: {_log(here)}")
        time.sleep(0.1)


def _said(here: Settings) -> str:
    """The last refusal of ours in the Hub's log; empty where there is none."""
    lines = _log(here).read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.partition(" ")[2] for line in reversed(lines) if line.startswith("workbench: ")), "")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/hub/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _stop(hub: subprocess.Popen[bytes], here: Settings) -> None:
    """Ends the Hub with its services, then every sandbox that it left running."""
    if hub.poll() is None:
        hub.send_signal(signal.SIGTERM)
        try:
            hub.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            hub.kill()
            hub.wait()
    _end_proxy(here)
    seats.evict(here.run)
    click.echo("· stopped")


def _end_proxy(here: Settings) -> None:
    """Ends a proxy that a Hub left behind when it broke."""
    try:
        pid = int((here.state / "hub" / "proxy.pid").read_text().split()[0])
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"configurable-http-proxy" in command and os.fsencode(here.run) in command:
            os.kill(pid, signal.SIGTERM)
            for _ in range(50):
                if not Path(f"/proc/{pid}").exists():
                    break
                time.sleep(0.1)
    except (OSError, ValueError, IndexError):
        return


def _tell(url: str, demo: bool) -> None:
    click.echo(f"\n  Workbench: {url}\n")
    if demo:
        who: dict[str, Any] = yaml.safe_load(PEOPLE.read_text(encoding="utf-8"))
        for name, about in who["users"].items():
            click.echo(f"  {name:8} {about['about']}")
        click.echo(f"\n  Password of all: {who['password']}")
    click.echo("  Ctrl-C stops everything.\n")
