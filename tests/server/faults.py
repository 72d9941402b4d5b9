"""What can go wrong with a ComfyUI server, at the flick of a switch; and a record of its calls."""

from __future__ import annotations

import asyncio
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


class Faults:
    """Sits before an embedded server as its outermost middleware."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        #: `POST /prompt`s whose reply is thrown away, the prompt having been queued.
        self.lose_replies = 0
        #: `POST /prompt`s that are cut off before ComfyUI hears of them.
        self.lose_prompts = 0
        #: `POST /prompt`s that are queued and answered with 500 all the same.
        self.queued_but_500 = 0
        #: `POST /prompt`s are answered only when this is set.
        self.answers = asyncio.Event()
        self.answers.set()
        #: Sockets say nothing after their greeting.
        self.silent = False
        #: Every request is cut off.
        self.dead = False
        #: No socket opens.
        self.no_sockets = False
        #: History answers `{}` until this is set.
        self.history = asyncio.Event()
        self.history.set()
        #: `{path: what to answer instead}`.
        self.instead: dict[str, Callable[[], web.StreamResponse]] = {}
        #: Asked first for what to answer to a method and path; None: what ComfyUI does.
        self.answer: Callable[[str, str], web.StreamResponse | None] = lambda method, path: None
        #: Requests that ComfyUI itself answered with 500.
        self.answered_500 = 0
        self._sockets: list[web.Request] = []
        self.middleware = self._make_middleware()

    def writes(self) -> list[tuple[str, str]]:
        """Return the calls that could have changed something."""
        return [(x.method, x.path) for x in self.calls if x.method not in ("GET", "HEAD")]

    def posts(self) -> list[tuple[str, Any]]:
        """Return path, without `/api`, and JSON of all that was posted."""
        posts = [x for x in self.calls if x.method == "POST"]
        return [(x.path.removeprefix("/api"), x.body) for x in posts]

    def bodies(self, path: str) -> list[Any]:
        """Return what was posted to `path`, with and without `/api`."""
        return [
            x.body for x in self.calls if x.method == "POST" and x.path.removeprefix("/api") == path
        ]

    def open_sockets(self) -> list[asyncio.Transport]:
        """Return the connections of the sockets that are open."""
        found = (request.transport for request in self._sockets)
        return [each for each in found if each is not None and not each.is_closing()]

    def cut_sockets(self) -> None:
        """Break all open sockets without a good-bye."""
        sockets, self._sockets = self._sockets, []
        for request in sockets:
            if request.transport is not None:
                request.transport.abort()

    def _make_middleware(self) -> Any:
        @web.middleware
        async def faults(request: web.Request, handler: Handler) -> web.StreamResponse:
            try:
                return await self._handle(request, handler)
            except Exception as error:
                self.answered_500 += not isinstance(error, web.HTTPException)
                raise

        return faults

    async def _handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        path = request.path
        body = None
        if request.method == "POST" and request.content_type == "application/json":
            body = loads(await request.read())
        if self.dead:
            return _cut_off(request)
        self.calls.append(Call(request.method, path, dict(request.headers), body))
        if (answer := self.answer(request.method, path)) is not None:
            return answer
        if path in self.instead:
            return self.instead[path]()
        match request.method, path.removeprefix("/api"):
            case "GET", "/ws":
                return await self._socket(request, handler)
            case "POST", "/prompt":
                return await self._prompt(request, handler)
            case "GET", "/history" if not self.history.is_set():
                return web.json_response({})
        if path.startswith("/history/") and not self.history.is_set():
            return web.json_response({})
        return await handler(request)

    async def _socket(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self.no_sockets:
            return web.Response(status=503)
        self._sockets.append(request)
        if not self.silent:
            return await handler(request)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        data = {"status": {"exec_info": {"queue_remaining": 0}}, "sid": request.query["clientId"]}
        await socket.send_json({"type": "status", "data": data})
        async for _ in socket:
            pass
        return socket

    async def _prompt(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self.lose_prompts:
            self.lose_prompts -= 1
            return _cut_off(request)
        answer = await handler(request)
        await self.answers.wait()
        if self.lose_replies:
            self.lose_replies -= 1
            return _cut_off(request)
        if self.queued_but_500:
            self.queued_but_500 -= 1
            return web.Response(status=500, text="Server got itself in trouble")
        return answer


def _cut_off(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()
