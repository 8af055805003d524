"""What a browser may do with Lab's answers, and what Lab's server does not hand out.

The Content-Security-Policy lets nothing load from or post to another host, and `sandbox` without `allow-downloads`
makes the browser refuse to save files, even such as a notebook's own script makes. What remains (navigation of the
window, the screen itself) no header can stop.
"""

from __future__ import annotations

from typing import Any

from jupyter_server.base.handlers import AuthenticatedFileHandler
from jupyter_server.files.handlers import FilesHandler
from jupyterhub.singleuser.extension import JupyterHubAuthorizer

LAB_POLICY = "; ".join(
    [
        "default-src 'self' 'unsafe-inline' 'unsafe-eval' blob: data:",
        "connect-src 'self' blob: data:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "sandbox allow-scripts allow-same-origin allow-forms allow-modals allow-popups",
    ]
)
"""Inline scripts, eval, blob: and data: are what kernels' outputs and widgets are made of; hosts are only our own."""

HUB_POLICY = "; ".join(
    [
        "default-src 'self' 'unsafe-inline'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "img-src 'self' data:",
        "font-src 'self' data:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)
"""The Hub's own pages load their scripts through requirejs."""

HEADERS = {
    "Referrer-Policy": "same-origin",
    "X-DNS-Prefetch-Control": "off",
    "X-Content-Type-Options": "nosniff",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), display-capture=()",
}

DENIED_HANDLERS = (FilesHandler, AuthenticatedFileHandler)
"""What serves /files, whichever contents manager is in use."""
DENIED_RESOURCES = frozenset({"nbconvert"})
"""Jupyter's names of what is refused whole: conversion hands a finished file to the browser."""


class LabAuthorizer(JupyterHubAuthorizer):  # type: ignore[misc]
    """The owner may do everything but take files out: no /files, no `download`, no conversion."""

    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        """Whether the request may go on."""
        if not super().is_authorized(handler, user, action, resource):
            return False
        if isinstance(handler, DENIED_HANDLERS) or resource in DENIED_RESOURCES:
            return False
        return "download" not in handler.request.arguments
