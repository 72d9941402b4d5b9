"""A record of the calls that reach a ComfyUI server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from aiohttp import web

from jupyter_comfy_lock.domain.comfy import loads

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Call(NamedTuple):
    """One request that reached the server."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class Calls(list[Call]):
    """All requests so far; sits before an embedded server as its outermost middleware."""

    def __init__(self) -> None:
        super().__init__()
        #: Requests that ComfyUI itself answered with 500.
        self.answered_500 = 0

    def to(self, path: str) -> list[Call]:
        """Return the calls of one path."""
        return [x for x in self if x.path == path]

    def writes(self) -> list[tuple[str, str]]:
        """Return the calls that could have changed something."""
        return [(x.method, x.path) for x in self if x.method not in ("GET", "HEAD")]

    def posts(self) -> list[tuple[str, Any]]:
        """Return path, without `/api`, and JSON of all that was posted."""
        return [(x.path.removeprefix("/api"), x.body) for x in self if x.method == "POST"]

    def bodies(self, path: str) -> list[Any]:
        """Return what was posted to `path`, with and without `/api`."""
        return [body for posted, body in self.posts() if posted == path]

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        body = None
        if request.method == "POST" and request.content_type == "application/json":
            body = loads(await request.read())
        self.append(Call(request.method, request.path, dict(request.headers), body))
        try:
            return await handler(request)
        except Exception as error:
            self.answered_500 += not isinstance(error, web.HTTPException)
            raise
