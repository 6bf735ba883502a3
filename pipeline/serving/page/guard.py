"""Closes those of Gradio's routes that the page does not use.

Some fetch addresses on behalf of whoever asks, others call the page's functions by name.
"""

from __future__ import annotations

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self'",
        "media-src 'self' blob:",
        "font-src 'self'",
        "connect-src 'self' blob:",
        "manifest-src 'self'",
        "base-uri 'self'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""The strictest policy that the page works under.

Gradio writes its settings into a script of the page, styles into elements, and makes functions
of the templates of its HTML component; its recorder reads and plays blobs.
"""

_PREFIX = "/gradio_api/"
_OPEN = (
    "upload", "upload_progress", "queue/join", "queue/data", "heartbeat/", "cancel", "reset",
    "startup-events", "theme.css",
)  # fmt: skip
_FILES = "file=/"  # an absolute path: never an address
_CLOSED = ("/login", "/logout", "/monitoring", "/config", "/svelte/", "/deep_link")


def is_open(path: str) -> bool:
    """Whether a path is none of Gradio's, or one that the page uses."""
    if not path.startswith(_PREFIX):
        return not path.startswith(_CLOSED)
    rest = path.removeprefix(_PREFIX)
    return rest.startswith(_FILES) or any(
        rest == name or (name.endswith("/") and rest.startswith(name)) for name in _OPEN
    )


class OnlyThePage:
    """ASGI middleware that knows no other path of Gradio's than those that the page uses."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not is_open(scope["path"]):
            await PlainTextResponse("Not Found", 404)(scope, receive, send)
        else:
            await self._app(scope, receive, send)
