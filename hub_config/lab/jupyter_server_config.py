"""Lab's server configuration inside a sandbox; the user's own configuration files are not read."""

from hub_config.policy import HEADERS, LAB_POLICY, LabAuthorizer

c = get_config()  # type: ignore[name-defined]  # noqa: F821

c.ServerApp.authorizer_class = LabAuthorizer
c.ServerApp.tornado_settings = {"headers": {"Content-Security-Policy": LAB_POLICY, **HEADERS}}
c.ServerApp.jpserver_extensions = {
    "jupyter_lsp": False,
    "notebook_shim": False,
    "voila.server_extension": False,
}
c.ServerApp.root_dir = "/home/user"
c.KernelManager.transport = "ipc"
c.LabApp.extension_manager = "readonly"
c.LabApp.news_url = None
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
