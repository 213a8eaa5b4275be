"""What the server lets in: its own pages, from this machine, of bounded size."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

__all__ = ["MOST_BYTES", "Guard"]

MOST_BYTES = 1_000_000
"""Bytes of a request: a config.json has a thousandth of it."""

_HERE = ("127.0.0.1", "localhost", "::1")
_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]

App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


class Guard:
    """An ASGI application before another: refuses foreign hosts, foreign origins and large bodies.

    A page elsewhere cannot be answered through a name that it points at this machine (the Host header), nor
    talk to it (the Origin header).
    """

    def __init__(self, app: App, most: int = MOST_BYTES) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = dict(scope.get("headers", ()))
        host = headers.get(b"host", b"").decode("latin-1")
        origin = headers.get(b"origin", b"").decode("latin-1")
        length = headers.get(b"content-length", b"0").decode("latin-1")
        if urlsplit(f"//{host}").hostname not in _HERE or (origin and urlsplit(origin).netloc != host):
            await _refuse(scope, receive, send, 403, b"This page is answered on this machine alone.")
        elif not length.isdigit() or int(length) > self.most:
            await _refuse(scope, receive, send, 413, b"At most a million bytes would do.")
        else:
            await self.app(scope, self._counted(scope, receive), _marked(send))

    def _counted(self, scope: dict[str, Any], receive: Any) -> Any:
        """Return a `receive` that ends a body beyond what was announced."""
        seen = 0

        async def limited() -> Any:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self.most:
                    return {"type": "http.disconnect"}
            return message

        return limited


def _marked(send: Any) -> Any:
    async def marked(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
        await send(message)

    return marked


async def _refuse(scope: dict[str, Any], receive: Any, send: Any, status: int, why: bytes) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": why})
