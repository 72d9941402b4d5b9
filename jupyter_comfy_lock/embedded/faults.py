"""What can go wrong with a ComfyUI server, each at the flick of a switch while it runs.

    comfy = EmbeddedComfy("gpu-1")
    async with comfy:
        comfy.faults.silent = True  # from now on its sockets say nothing
        ...
        comfy.faults.silent = False

A process that is killed, and started again, is `EmbeddedComfy.kill` and `restart`.
"""

from __future__ import annotations

import asyncio
import errno
import math
import os
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: What aiohttp, and so ComfyUI, says to an exception.
_TROUBLE = "500 Internal Server Error\n\nServer got itself in trouble"


class Faults:
    """The faults of one server; as it is made, there are none.

    The switches may be set at any time, those of sockets and requests in the server's event loop.
    Counts go down with each time; `math.inf` means: until it is set to something else.
    """

    def __init__(self) -> None:
        # -- POST /prompt ----------------------------------------------------------------------

        #: `POST /prompt`s whose connection breaks before ComfyUI has read them: nothing is queued.
        self.lose_prompts: float = 0
        #: `POST /prompt`s whose connection breaks when the prompt is queued: it runs, and nobody
        #: is told. The client cannot tell this from the one above.
        self.lose_replies: float = 0
        #: `POST /prompt`s that are queued and answered with 500 all the same, as ComfyUI does when
        #: another prompt of the same id and number waits (trace 98).
        self.queued_but_500: float = 0
        #: `POST /prompt`s are taken in only while this is set. ComfyUI does all in one event loop:
        #: whatever keeps that, `/object_info` for half a second, keeps them.
        self.hears = asyncio.Event()
        self.hears.set()
        #: `POST /prompt`s are answered, the prompt being queued, only while this is set: a short
        #: prompt has ended by the time its client hears that it was accepted.
        self.answers = asyncio.Event()
        self.answers.set()

        # -- any request -----------------------------------------------------------------------

        #: `{path: how often}`, without `/api`: such requests are answered with 500 and do nothing.
        #: ComfyUI does so with every exception, in plain text.
        self.fails: dict[str, float] = {}
        #: `{path: what to answer}`: such requests get another answer than ComfyUI's, as from a
        #: proxy before it that wants a password, or from what was started on its port instead.
        self.instead: dict[str, Callable[[], web.StreamResponse]] = {}
        #: Seconds from the end of a prompt until history and `/api/jobs` know of it; `math.inf`
        #: keeps them empty. ComfyUI says `execution_success` up to 20 ms before (trace 31).
        self.history_late_s: float = 0.0

        # -- sockets ---------------------------------------------------------------------------

        #: No socket opens (503), as behind a proxy that passes no upgrades. Open ones stay.
        self.no_sockets = False
        #: Sockets say nothing after their greeting. They are open and answer pings: ComfyUI has
        #: forgotten their client id, because an older socket of the same id was closed (trace 20).
        self.silent = False
        #: Seconds that each frame takes on its way; those behind it, to any client, wait: ComfyUI
        #: sends one after the other, so one slow reader holds up all others (trace 32).
        self.frame_delay_s: float = 0.0
        #: Bytes per second that a socket carries; frames behind wait likewise.
        self.bytes_per_s: float = math.inf
        self._half_open = False
        self._sockets: set[asyncio.Transport] = set()
        self._frozen: set[asyncio.Transport] = set()

        # -- the machine -----------------------------------------------------------------------

        #: Seconds by which the machine's wall clock is wrong. ComfyUI takes all times from it:
        #: those in messages, in the history, `create_time`, the `Date` of answers.
        self.clock_offset_s: float = 0.0
        #: Nothing more fits on the disk. A node that saves raises: `execution_error`. Uploads and
        #: settings are answered with 500; of an upload an empty file stays, as of ComfyUI's.
        self.disk_full = False

    # -- sockets -----------------------------------------------------------------------------

    @property
    def half_open(self) -> bool:
        """Whether sockets are half-open: those that are open now and those that open later.

        Nothing is read from them, written to them or answered any more, pings included, and
        neither side is told: a cable was pulled, or a router has forgotten the connection.
        ComfyUI sends no pings, so for hours it may not notice. Set to False it is no fault of new
        sockets any more; those that were caught stay half-open until `notice_half_open`.
        """
        return self._half_open

    @half_open.setter
    def half_open(self, on: bool) -> None:
        self._half_open = on
        if on:
            for transport in self._sockets:
                self._freeze(transport)

    def notice_half_open(self) -> None:
        """Have the server find out that half-open sockets are dead, and close its end of them.

        Of a client that has come back under the same id, ComfyUI then forgets the new socket too.
        """
        frozen, self._frozen = self._frozen, set()
        for transport in frozen:
            transport.abort()

    def write_to_sockets(self, raw: bytes) -> int:
        """Write bytes into all open sockets, whatever they are; return how many there are.

        Custom nodes send frames of their own, and some of them no good ones.
        """
        sockets = [each for each in self._sockets if not each.is_closing()]
        for transport in sockets:
            transport.write(raw)
        return len(sockets)

    def cut_sockets(self) -> None:
        """Break all open sockets without a good-bye: close code 1006, as when a process dies."""
        for transport in tuple(self._sockets):
            transport.abort()

    def _freeze(self, transport: asyncio.Transport) -> None:
        self._frozen.add(transport)
        if not transport.is_closing():
            transport.pause_reading()

    # -- what the server asks and tells ------------------------------------------------------

    def opened(self, transport: asyncio.Transport) -> None:
        """Note a socket, when it was greeted."""
        self._sockets.add(transport)
        if self._half_open:
            self._freeze(transport)

    def closed(self, transport: asyncio.Transport) -> None:
        """Forget a socket."""
        self._sockets.discard(transport)
        self._frozen.discard(transport)

    async def delay(self, size: int) -> None:
        """Take the time of a frame of `size` bytes."""
        late_s = self.frame_delay_s + size / self.bytes_per_s
        if late_s > 0:
            await asyncio.sleep(late_s)

    def swallows(self, transport: asyncio.Transport) -> bool:
        """Whether a frame for that socket reaches nobody."""
        return self.silent or transport in self._frozen

    def tells_of(self, ended_s: float) -> bool:
        """Whether the history tells of a prompt that ended at that monotonic second."""
        return time.monotonic() - ended_s >= self.history_late_s

    def wall_s(self) -> float:
        """Seconds since the epoch, as the machine believes."""
        return time.time() + self.clock_offset_s

    def check_disk(self) -> None:
        """Raise what writing to a disk that is full raises."""
        if self.disk_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def date(self, request: web.Request, response: web.StreamResponse) -> None:
        """Have an answer tell the machine's time."""
        response.headers["Date"] = formatdate(self.wall_s(), usegmt=True)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Stand before the server."""
        path = request.path.removeprefix("/api")
        if request.path in self.instead:
            return self.instead[request.path]()
        if _takes_one(self.fails, path):
            return web.Response(status=500, text=_TROUBLE)
        if path == "/ws" and self.no_sockets:
            return web.Response(status=503)
        if (request.method, path) == ("POST", "/prompt"):
            return await self._prompt(request, handler)
        return await handler(request)

    async def _prompt(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        await self.hears.wait()
        if self.lose_prompts > 0:
            self.lose_prompts -= 1
            return _cut_off(request)
        answer = await handler(request)
        await self.answers.wait()
        if self.lose_replies > 0:
            self.lose_replies -= 1
            return _cut_off(request)
        if self.queued_but_500 > 0:
            self.queued_but_500 -= 1
            return web.Response(status=500, text=_TROUBLE)
        return answer


def _takes_one(counts: dict[str, float], key: str) -> bool:
    left = counts.get(key, 0)
    if left > 0:
        counts[key] = left - 1
    return left > 0


def _cut_off(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
