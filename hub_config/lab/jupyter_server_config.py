"""Lab's server configuration inside a sandbox; the user's own configuration files are not read."""

import os
from pathlib import Path

import hub_config
from hub_config.lab_page import mark, marked_templates
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
os.environ["PYTHONSTARTUP"] = str(
    Path(hub_config.__file__).parent / "lab" / "kernel_start.py"
)  # kernels inherit it
if said := mark(
    synthetic=os.environ.get("WORKBENCH_SYNTHETIC") == "1",
    insecure=os.environ.get("WORKBENCH_INSECURE") == "1",
):
    c.LabApp.templates_dir = str(marked_templates(said))
