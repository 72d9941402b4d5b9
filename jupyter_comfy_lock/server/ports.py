"""Ports that lead to one holder's gateway each, for clients that take no path: host and port only.

A port has no credential but who connects to it: programs of the user that runs this Jupyter server,
on this machine, and nobody else as far as the system tells. It is there only when its kernel asks.
"""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tornado import web
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPMessageDelegate, HTTPServerRequest
from tornado.iostream import IOStream
from tornado.netutil import bind_sockets
from tornado.routing import Router

from jupyter_comfy_lock.domain.errors import BadRequest
from jupyter_comfy_lock.domain.lock import HolderId
from jupyter_comfy_lock.server.holders import Holder

HOST = "127.0.0.1"
#: Names by which this machine knows itself.
_LOOPBACK = (HOST, "localhost")
#: Linux tells here whose each end of each connection is.
_CONNECTIONS = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))

Address = tuple[str, int]


class GatewayPorts:
    """At most one port for each holder; it is closed when the holder ends."""

    def __init__(self, web_app: web.Application, base_url: str) -> None:
        self._web_app = web_app
        self._base_url = base_url
        self._open: dict[HolderId, _Port] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def open(self, holder: Holder, number: int = 0) -> int:
        """Return the holder's port, opened if it is not; 0 is any free one.

        Raises:
            BadRequest: something else listens there, or it may not be listened on.
        """
        known = self._open.get(holder.holder_id)
        if known is not None and number in (0, known.number):
            return known.number
        prefix = f"{self._base_url}comfy-lock/gateway/{holder.gateway_key}"
        port = _Port(_Doorway(self._web_app, prefix))
        port.listen_on(number)
        self.close(holder.holder_id)
        self._open[holder.holder_id] = port
        return port.number

    def of(self, holder_id: HolderId) -> int | None:
        """Return the holder's port; None if it has none."""
        port = self._open.get(holder_id)
        return port.number if port else None

    def close(self, holder_id: HolderId) -> None:
        """Let nobody in any more. WebSockets that are open close with their lock."""
        port = self._open.pop(holder_id, None)
        if port is not None:
            port.stop()
            task = asyncio.create_task(port.close_all_connections())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def stop(self) -> None:
        """Close all ports, and wait for it."""
        for holder_id in list(self._open):
            self.close(holder_id)
        await asyncio.gather(*self._closing)


class Doors:
    """Opens the whole Jupyter server on a port of its own, for its own calls to itself.

    Its proper address may be a socket, or behind a certificate or a proxy. Who calls there has to
    say who it is as everywhere.
    """

    def __init__(self, web_app: web.Application, base_url: str) -> None:
        self._web_app = web_app
        self._base_url = base_url

    @contextmanager
    def open(self) -> Iterator[str]:
        """Return the base URL within the block."""
        port = _Port(self._web_app)
        port.listen_on(0)
        try:
            yield f"http://{HOST}:{port.number}{self._base_url}"
        finally:
            port.stop()


class _Port(HTTPServer):
    number = 0

    def listen_on(self, number: int) -> None:
        try:
            (listening,) = bind_sockets(number, HOST, family=socket.AF_INET)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            why = "is in use" if taken else f"cannot be listened on: {error.strerror}"
            raise BadRequest(field="port", why=f"{number} {why}") from error
        self.number = listening.getsockname()[1]
        self.add_socket(listening)

    def handle_stream(self, stream: IOStream, address: Address) -> None:
        if is_own(address, (HOST, self.number)):
            super().handle_stream(stream, address)
        else:
            stream.close()


class _Doorway(Router):
    """Has each request answered as if it had been made to the gateway of one holder."""

    def __init__(self, web_app: web.Application, prefix: str) -> None:
        self._web_app = web_app
        self._prefix = prefix

    def find_handler(self, request: HTTPServerRequest, **_: Any) -> HTTPMessageDelegate:
        if _is_of_another_site(request):
            refusal = {"status_code": HTTPStatus.FORBIDDEN}
            return self._web_app.get_handler_delegate(request, web.ErrorHandler, refusal)
        # Whatever follows cannot leave the gateway: it would have to change what is before it.
        request.uri = f"{self._prefix}/{(request.uri or '').lstrip('/')}"
        request.path = request.uri.partition("?")[0]
        return self._web_app.find_handler(request)


def _is_of_another_site(request: HTTPServerRequest) -> bool:
    # A page of any site can send to this port, also under a name of its own that leads here.
    host = request.headers.get("Host", "")
    origin = request.headers.get("Origin")
    return (
        host.partition(":")[0] not in _LOOPBACK
        or (origin is not None and origin != f"http://{host}")
        or request.headers.get("Sec-Fetch-Site") == "cross-site"
    )


def is_own(there: Address, here: Address, user: Callable[[], int] | None = None) -> bool:
    """Return whether the other end of a connection is this user's, or root's, or cannot be told."""
    tables = [path.read_text() for path in _CONNECTIONS if path.exists()]
    if not tables:
        # Not on Linux: other users of the machine are not kept out there.
        return True
    owner = owner_of(there, here, [line for table in tables for line in table.splitlines()])
    return owner in (0, (user or os.geteuid)())


def owner_of(there: Address, here: Address, lines: Iterable[str]) -> int | None:
    """Return the number of the user whose end `there` is, in the words of /proc/net/tcp(6)."""
    for line in lines:
        _, local, remote, *more = line.split()
        # A program that speaks IPv6 has the same address with more before it.
        if local.endswith(_as_hex(there)) and remote.endswith(_as_hex(here)):
            return int(more[4])
    return None


def _as_hex(address: Address) -> str:
    host = int.from_bytes(socket.inet_aton(address[0]), "little")
    return f"{host:08X}:{address[1]:04X}"
