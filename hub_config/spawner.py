"""Starts one user's server in a sandbox without network, bound to one grant and one purpose.

Lab for grants with the channel `notebook`, the published app for stakeholders. The choice is checked by the broker,
which records server -> (grant, purpose, token) and makes the only broker socket that this sandbox will see.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jupyterhub.spawner import Spawner
from traitlets import Bool, Instance, Integer, Unicode, default

from hub_config import places
from hub_config.access import Access
from hub_config.control import Control, Option, SpawnRefused
from hub_config.options import render
from workbench.sandbox import PYTHON, Limits, Running, Sandbox, launch, seats
from workbench.sandbox.bwrap import start_ticks, stop

PORT_INSIDE = 8888
"""Where a server that can only do TCP listens, on the sandbox's own loopback."""
POLL_SECONDS = 15
"""How often the Hub asks whether a server lives and its grant still stands."""
HUB_INSIDE = "/run/wb/hub"
BROKER_INSIDE = "/run/wb/broker"
APPS_INSIDE = "/run/wb/apps"
LAB_CONFIGURATION = Path(__file__).with_name("lab")


def unix_url(path: Path | str) -> str:
    """The URL that JupyterHub and its proxy understand for a unix socket."""
    return "http+unix://" + quote(str(path), safe="")


class BwrapSpawner(Spawner):  # type: ignore[misc]
    """One bubblewrap sandbox per server."""

    state_folder = Unicode(config=True, help="Homes, uids and logs.")
    run_folder = Unicode(config=True, help="Sockets; short, because a socket's path may have 108 bytes.")
    examples_folder = Unicode(config=True, help="Notebooks that a new home starts with.")
    apps_folder = Unicode(config=True, help="Published apps; stakeholders get the first.")
    memory_bytes = Integer(4 << 30, config=True, help="For each process, and in sum where root has cgroups.")
    processes = Integer(512, config=True, help="Processes and threads of one server and its kernels.")
    synthetic = Bool(
        False, config=True, help="Whether the lake holds invented data: then Lab's page says so."
    )
    insecure = Bool(
        False, config=True, help="Whether queries run without a sandbox: then every page says so."
    )
    access = Instance(
        Access, allow_none=True, config=True, help="Who can give a grant, for those who have none."
    )
    ready_seconds = Integer(60, config=True, help="How long a server may take until it answers.")

    @default("poll_interval")  # type: ignore[untyped-decorator]
    def _default_poll_interval(self) -> int:
        return POLL_SECONDS

    _running: Running | None = None
    _child_pid = 0
    _started: str | None = None
    _binding = ""

    # what the spawn page asks

    @property
    def control(self) -> Control:
        """The broker's control socket."""
        return Control(Path(self.run_folder) / "control" / "control.sock")

    async def options_form(self, _spawner: Spawner) -> str:
        """The user's grants as a form, or why there is nothing to choose."""
        try:
            found = await self.control.options(self.user.name, self._groups())
        except SpawnRefused as refusal:
            return render([], trouble=refusal.jupyterhub_message)
        return render(found, givers=self.access.givers if self.access else ())

    @staticmethod
    def options_from_form(form: Mapping[str, list[str]]) -> dict[str, str]:
        """`choice` holds grant and purpose of the one button that was pressed."""
        choice = (form.get("choice") or [""])[0]
        grant, _, purpose = choice.partition("|")
        return {"grant": grant, "purpose": purpose}

    @staticmethod
    def options_from_query(_query: Mapping[str, list[str]]) -> dict[str, str]:
        """A link, which another site may have made, starts nothing: grant and purpose are chosen on the form."""
        raise SpawnRefused(400, "A link starts no server. Choose a grant and a purpose here.")

    def _groups(self) -> list[str]:
        return [group.name for group in self.user.groups]

    async def _chosen(self) -> tuple[Option, str]:
        """The option and purpose that were asked for, if the broker offers them. Raises SpawnRefused."""
        wanted = str(self.user_options.get("grant") or "")
        purpose = str(self.user_options.get("purpose") or "")
        if not wanted:
            raise SpawnRefused(400, "Choose a grant and a purpose first.")
        offered = {
            option.grant: option for option in await self.control.options(self.user.name, self._groups())
        }
        option = offered.get(wanted)
        if option is None:
            raise SpawnRefused(
                403, f"There is no grant {wanted!r} among yours, or it is not open to you. Choose one below."
            )
        if not option.allowed:
            raise SpawnRefused(403, f"The grant {wanted} is not open to you: {option.reason}")
        if option.kind == "none":
            raise SpawnRefused(
                403, f"The grant {wanted} serves reports only; it opens no notebook and no app."
            )
        if purpose not in option.purposes:
            permitted = ", ".join(option.purposes)
            raise SpawnRefused(
                403, f"The grant {wanted} does not serve that purpose. It serves: {permitted}."
            )
        return option, purpose

    # start, poll, stop

    @property
    def seat(self) -> seats.Seat:
        """This server's socket and record."""
        return seats.Seat(Path(self.run_folder), str(self.orm_spawner.id))

    async def start(self) -> str:
        """Binds, starts the sandbox and returns when the server inside answers."""
        begun = time.perf_counter()
        option, purpose = await self._chosen()
        state = Path(self.state_folder)
        uid = places.uid_for(state, self.user.name, option.grant)
        home = places.home(state, self.user.name, option.grant, uid, Path(self.examples_folder))
        binding = await self.control.bind(
            self._log_name, self.user.name, option.grant, purpose, option.kind, self.api_token
        )
        self._binding = binding.id
        listener = self.seat.listen()
        try:
            sandbox = self._sandbox(
                option, purpose, home, uid, binding.folder, binding.token, listener.fileno()
            )
            passed = (listener.fileno(),) if option.kind == "server" else ()
            with self._log(option.grant) as log:
                start = partial(launch, sandbox, stdout=log, stderr=log, pass_fds=passed)
                running = await asyncio.get_running_loop().run_in_executor(None, start)
        except BaseException:
            await self._release()
            raise
        finally:
            listener.close()
        self._running, self._child_pid, self._started = running, running.child_pid, running.started
        self.seat.take(self._child_pid, self._started)
        await self._ready()
        self.log.info("Sandbox of %s ready in %.2f s", self._log_name, time.perf_counter() - begun)
        return self._connect()

    def _sandbox(
        self,
        option: Option,
        purpose: str,
        home: Path,
        uid: int | None,
        broker: Path,
        token: str | None,
        listener: int,
    ) -> Sandbox:
        run = Path(self.run_folder)
        env = self.get_env()
        env.update(WORKBENCH_GRANT=option.grant, WORKBENCH_PURPOSE=purpose)
        env.update(WORKBENCH_SYNTHETIC=str(int(self.synthetic)), WORKBENCH_INSECURE=str(int(self.insecure)))
        read_only = {run / "hub": HUB_INSIDE, broker: BROKER_INSIDE}
        if option.kind == "app":
            apps = Path(self.apps_folder)
            found = sorted(apps.glob("*.ipynb"))
            if not found:
                raise SpawnRefused(503, "No app is published here yet.")
            read_only[apps] = APPS_INSIDE
            env.update(WORKBENCH_TOKEN=token or "", JUPYTERHUB_DEFAULT_URL="/")
            program, arguments = "hub_config.voila_server", [f"{APPS_INSIDE}/{found[0].name}"]
        else:
            env.update(WORKBENCH_LISTEN_FD=str(listener))
            program, arguments = "hub_config.singleuser", []
        return Sandbox(
            command=[PYTHON, "-I", "-m", program, *arguments],
            env=env,
            read_only=read_only,
            uid=uid,
            home=home,
            listeners={} if option.kind == "server" else {listener: PORT_INSIDE},
            limits=Limits(memory_bytes=self.memory_bytes, processes=self.processes),
            outlives_launcher=True,
        )

    def get_env(self) -> dict[str, str]:
        """Only what the Hub gives its servers and what the client needs; nothing of the Hub's own environment."""
        env: dict[str, str] = {
            name: value for name, value in super().get_env().items() if name not in os.environ
        }
        env.update(
            USER=self.user.name,
            JUPYTERHUB_SERVICE_URL=f"http://127.0.0.1:{PORT_INSIDE}{self.server.base_url}",
            JUPYTER_CONFIG_PATH=str(LAB_CONFIGURATION),
            JUPYTER_RUNTIME_DIR="/tmp/jupyter",
            XDG_RUNTIME_DIR="/tmp",
            MPLCONFIGDIR="/tmp/matplotlib",
            SHELL="/bin/bash",
            WORKBENCH_BROKER=f"{BROKER_INSIDE}/broker.sock",
        )
        return env

    def _log(self, grant: str) -> Any:
        folder = Path(self.state_folder) / "log" / "servers" / self.user.name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return (folder / f"{grant}.log").open("wb")

    async def _ready(self) -> None:
        """Asks the server for an answer at short intervals, rather than the Hub's longer and longer ones."""
        deadline = time.monotonic() + self.ready_seconds
        while time.monotonic() < deadline:
            if self._running is not None and not self._running.alive():
                break
            if await self._answers(deadline - time.monotonic()):
                return
            await asyncio.sleep(0.05)
        await self.stop(now=True)
        raise SpawnRefused(500, "The server ended before it was ready. Its log tells the operators why.")

    async def _answers(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(max(seconds, 0.05)):
                reader, writer = await asyncio.open_unix_connection(str(self.seat.path))
                try:
                    writer.write(f"GET {self.server.base_url}api HTTP/1.0\r\nHost: hub\r\n\r\n".encode())
                    return (await reader.read(9)).startswith(b"HTTP/1")
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False

    def _connect(self) -> str:
        """Tells the Hub's proxy where the server is: orm.Server has no place for a unix socket."""
        url = unix_url(self.seat.path)
        if self.server is not None:
            self.server.connect_url = url
        return url

    async def get_url(self) -> str:
        """The server's address, also after a restart of the Hub."""
        self._connect()
        return str(self.server.url)

    async def poll(self) -> int | None:
        """None while the sandbox lives. One whose grant ended, or whose user left its groups, is stopped here."""
        code: int | None = 0
        if self._running is not None:
            code = self._running.process.poll()
        elif self._child_pid and start_ticks(self._child_pid) == self._started:
            code = None
        if code is None:
            reason = "" if self._groups() else "Its user has no group any more."
            if not reason and self._binding:
                reason = await self.control.ended(self._binding)
            if not reason:
                return None
            self.log.warning("%s is stopped: %s", self._log_name, reason)
            await self.stop()
            return 0
        await self._release()
        self.clear_state()
        return code

    async def stop(self, now: bool = False) -> None:
        """Ends the sandbox, its binding and its socket."""
        await asyncio.get_running_loop().run_in_executor(
            None, partial(stop, self._child_pid, self._started, patience=0.0 if now else 8.0)
        )
        if self._running is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._running.wait, 10)
        await self._release()
        self.clear_state()

    async def _release(self) -> None:
        self.seat.leave()
        if self._binding:
            binding, self._binding = self._binding, ""
            await self.control.release(binding)

    # what survives a restart of the Hub

    def get_state(self) -> dict[str, Any]:
        """The sandbox's identity and the binding's."""
        state: dict[str, Any] = super().get_state()
        if self._child_pid:
            state.update(child_pid=self._child_pid, started=self._started, binding=self._binding)
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes up a server that went on while the Hub was away."""
        super().load_state(state)
        self._child_pid = int(state.get("child_pid", 0))
        self._started = state.get("started")
        self._binding = str(state.get("binding", ""))
        if self._child_pid:
            self._connect()

    def clear_state(self) -> None:
        """The server is gone."""
        super().clear_state()
        self._running, self._child_pid, self._started, self._binding = None, 0, None, ""
