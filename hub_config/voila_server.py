"""One published app: standalone Voila behind the Hub's OAuth, inside the viewer's sandbox.

`python -m hub_config.voila_server APP.ipynb`, started by the spawner. The viewer reads the page and moves its
widgets; she cannot run code, see the source, list files or kernels, or open a terminal, and her browser is told to
load from and send to this host only. Each server serves one viewer's grant, so kernels are heated before a page is
asked for.
"""

from __future__ import annotations

import ctypes
import os
import sys
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PR_SET_DUMPABLE = 4
TEMPLATES = Path(__file__).parent / "voila_template"
DEFAULT_PORT = 8888

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "sandbox allow-scripts allow-same-origin allow-forms",
    ]
)
"""Voila's own modules need inline scripts and eval; no source names another host, so nothing goes there. The sandbox
leaves out downloads, new windows and leaving the page."""

NOTHING_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
NO_SUCH_PAGE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>No such page · Workbench</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
body { margin: 0; background: #f4f6f8; color: #1e293b; font: 17px/1.5 "Segoe UI", system-ui, "DejaVu Sans", sans-serif; }
main { max-width: 34em; margin: 12vh auto 0; padding: 0 20px; } h1 { color: #0f2a43; font-size: 26px; } a { color: #0b6e75; }
</style></head><body><main><h1>There is no such page</h1><p>This address shows one app and nothing else.</p>
<p><a href="BASE">Open the app</a> · <a href="/hub/home">Home</a></p></main></body></html>"""

MESSAGES = ["comm_open", "comm_close", "comm_msg", "comm_info_request", "kernel_info_request"]
"""What a browser may send to a kernel: widget traffic. Execute, inspect, complete, history, debug and shutdown are
dropped."""

REFILL_SECONDS = 3
"""The next kernel is heated when the page that took the last one has been drawn: both at once slow each other down."""

DROPPED_HANDLERS = (
    "/voila/files/",
    "/voila/query/",
    "/voila/execution/",
    "/voila/api/contents",
    "/voila/tree",
)
KERNEL_SECRETS = (
    "JUPYTERHUB_API_TOKEN",
    "JPY_API_TOKEN",
    "JUPYTERHUB_OAUTH_ACCESS_SCOPES",
    "JUPYTERHUB_CLIENT_ID",
)


def hide_this_process() -> None:
    """Closes /proc/<pid>/environ and the memory of this process to kernels of the same uid."""
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def options(app: Path) -> list[str]:
    """Voila's arguments for one app."""
    address = urlsplit(os.environ.get("JUPYTERHUB_SERVICE_URL", ""))
    return [
        str(app),
        "--no-browser",
        f"--Voila.base_url={os.environ.get('JUPYTERHUB_SERVICE_PREFIX', '/')}",
        "--Voila.ip=127.0.0.1",
        f"--Voila.port={address.port or DEFAULT_PORT}",
        "--Voila.port_retries=0",
        "--VoilaConfiguration.template=workbench",
        "--VoilaConfiguration.allow_template_override=NO",
        "--VoilaConfiguration.allow_theme_override=NO",
        "--VoilaConfiguration.strip_sources=True",
        "--VoilaConfiguration.show_tracebacks=False",
        "--VoilaConfiguration.preheat_kernel=True",
        "--VoilaConfiguration.default_pool_size=1",
        f"--VoilaKernelManager.fill_delay={REFILL_SECONDS}",
        f"--VoilaConfiguration.resources={{'insecure': {os.environ.get('WORKBENCH_INSECURE') == '1'}}}",
        "--VoilaConfiguration.extension_denylist=['jupyterlab_pygments']",
        "--VoilaExecutor.cell_error_instruction=Reload the page; if this stays, tell the people who run this site.",
        "--KernelManager.transport=ipc",
        "--MappingKernelManager.cull_idle_timeout=600",
        "--MappingKernelManager.cull_interval=60",
    ]


def server_class() -> Any:
    """Voila with the Hub's identity and what a viewer may do. Built late: importing Voila costs a second."""
    from jupyterhub.services.auth import HubOAuth
    from jupyterhub.singleuser.extension import JupyterHubAuthorizer, JupyterHubIdentityProvider
    from tornado.web import RequestHandler
    from traitlets import default
    from voila.app import Voila

    class ViewerAuthorizer(JupyterHubAuthorizer):  # type: ignore[misc]
        """Viewers reach the websocket and the state of a kernel whose id their page told them, and nothing else."""

        def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
            if not super().is_authorized(handler, user, action, resource):
                return False
            if resource != "kernels" or not handler.path_kwargs.get("kernel_id"):
                return False
            return action in {"execute", "read"}

    class HubIdentity(JupyterHubIdentityProvider):  # type: ignore[misc]
        """The Hub's identity, with the base URL before its handlers, where Voila does not put it."""

        @default("hub_auth")  # type: ignore[untyped-decorator]
        def _hub_auth_of_the_app(self) -> Any:
            return self.parent.hub_auth

        def get_handlers(self) -> list[tuple[Any, ...]]:
            base = os.environ["JUPYTERHUB_SERVICE_PREFIX"].rstrip("/")
            return [(base + handler[0], *handler[1:]) for handler in super().get_handlers()]

    class NoSuchPage(RequestHandler):  # type: ignore[misc]
        """What answers where nothing is: the way to the app, in words; its address without the last slash leads there."""

        def prepare(self) -> None:
            base = str(self.settings["base_url"])
            self.set_header("Content-Security-Policy", NOTHING_POLICY)
            if self.request.path == base.rstrip("/"):
                self.redirect(base)
                return
            self.set_status(404)
            self.finish(NO_SUCH_PAGE.replace("BASE", escape(base, quote=True)))

    class App(Voila):  # type: ignore[misc]
        """One app under one grant."""

        def initialize(self, argv: list[str] | None = None) -> None:
            super().initialize(argv)
            self.voila_configuration.page_config_hook = page_config

        def init_settings(self) -> dict[str, Any]:
            self.identity_provider_class = HubIdentity
            self.authorizer_class = ViewerAuthorizer
            self.hub_auth = HubOAuth(parent=self)
            keep_from_kernels(self.hub_auth)  # before the first kernel is heated, which the next line does
            settings: dict[str, Any] = super().init_settings()
            self.kernel_manager.allowed_message_types = MESSAGES
            settings["xsrf_cookies"] = False  # jupyter_server checks by itself, as in jupyterhub-singleuser
            settings["headers"] = {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin"}
            settings["login_url"] = None
            settings["default_handler_class"] = NoSuchPage
            self.identity_provider.token_generated = False
            return settings

        def init_handlers(self) -> list[Any]:
            handlers = [
                h for h in super().init_handlers() if not any(path in h[0] for path in DROPPED_HANDLERS)
            ]
            page = handlers.pop()  # Voila's answers to every other path, too, by leading to files
            return [*handlers, (f"{self.server_url.rstrip('/')}/()", *page[1:])]

    return App


def page_config(config: dict[str, Any], **_: Any) -> dict[str, Any]:
    """The page's settings, with MathJax (which Voila would fetch from another host) pointed at a place of ours."""
    config["fullMathjaxUrl"] = config["fullStaticUrl"] + "/no-mathjax.js"
    config["mathjaxConfig"] = "none"
    return config


def keep_from_kernels(hub_auth: Any) -> None:
    """Takes this server's own credentials out of the environment that kernels inherit."""
    for name in ("api_token", "oauth_client_id", "api_url", "access_scopes"):
        getattr(hub_auth, name)  # read from the environment now, while it is there
    for name in KERNEL_SECRETS:
        os.environ.pop(name, None)


def main() -> None:
    """Serves the app until it is stopped."""
    hide_this_process()
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]  # an optional check that costs 1.5 s at import
    os.environ["JUPYTER_PATH"] = os.pathsep.join(
        filter(None, [str(TEMPLATES), os.environ.get("JUPYTER_PATH")])
    )
    app = Path(sys.argv[1]).absolute()
    server = server_class()
    server.config_file_paths.default_value = []
    server.launch_instance(argv=options(app))


if __name__ == "__main__":
    main()
