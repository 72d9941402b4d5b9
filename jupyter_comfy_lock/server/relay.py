"""Copying an answer of a ComfyServer to whoever asked, as it comes."""

import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tornado.iostream import IOStream, StreamClosedError
from tornado.web import RequestHandler

if TYPE_CHECKING:
    import aiohttp

#: What goes back. Everything else (cookies, CORS, security policies) is ComfyUI's own business
#: and would act on the Jupyter server's pages.
_BACK = (
    "Content-Type",
    "Content-Length",
    "Content-Encoding",
    "Content-Disposition",
    "Content-Range",
    "Accept-Ranges",
    "ETag",
    "Last-Modified",
    "Cache-Control",
)
#: What goes there. No Host, Origin, Cookie or Authorization of the Jupyter server's (R10).
_THERE = (
    "Accept",
    "Accept-Encoding",
    "Accept-Language",
    "Content-Type",
    "If-Modified-Since",
    "If-None-Match",
    "If-Range",
    "Range",
)

#: Milliseconds.
_UNHEARD_MS = 10_000


def harmless(asked: Mapping[str, str]) -> dict[str, str]:
    """Return those headers of a call that may go on to a ComfyServer."""
    return {name: asked[name] for name in _THERE if name in asked}


def send_at_once(handler: RequestHandler) -> None:
    """Have each flush leave at once, and not wait (40 ms) until the one before is acknowledged."""
    stream = getattr(handler.request.connection, "stream", None)
    if isinstance(stream, IOStream):
        stream.set_nodelay(True)


def notice_dead_reader(handler: RequestHandler) -> None:
    """Have a connection end when what is sent stays unacknowledged: the machine there is off."""
    stream = getattr(handler.request.connection, "stream", None)
    # Linux only; elsewhere the system gives up on its own after some minutes.
    if isinstance(stream, IOStream) and hasattr(socket, "TCP_USER_TIMEOUT"):
        stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNHEARD_MS)


async def copy_answer(response: "aiohttp.ClientResponse", handler: RequestHandler) -> None:
    """Stream `response` to the client of `handler`; stop when the client is gone."""
    handler.set_status(response.status, response.reason or None)
    handler.clear_header("Content-Type")
    for name in _BACK:
        if name in response.headers:
            handler.set_header(name, response.headers[name])
    # The handler may have its own to say.
    for value in response.headers.getall("Vary", ()):
        handler.add_header("Vary", value)
    # What artists' servers make is shown on the Jupyter server's own origin: never as a page.
    handler.set_header("X-Content-Type-Options", "nosniff")
    handler.set_header("Content-Security-Policy", "sandbox")
    await copy_body(response, handler)


async def copy_body(response: "aiohttp.ClientResponse", handler: RequestHandler) -> None:
    """Stream the body of `response` to the client of `handler`, after what is written there."""
    send_at_once(handler)
    flushed = False
    try:
        if handler.request.method != "HEAD":
            async for chunk in response.content.iter_any():
                handler.write(chunk)
                await handler.flush()
                flushed = True
        if not flushed:
            # A handler may have its own idea of what it finishes with: too late for that then.
            await handler.flush()
        await handler.finish()
    except StreamClosedError:
        # Closing the answer tells the ComfyServer to stop sending.
        response.close()
