"""HTTP and WebSockets to ComfyServers. The only module that imports aiohttp as it is imported.

That takes a tenth of a second: it is done when the extension starts, and the Jupyter server
answers by then.
"""

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from jupyter_comfy_lock.domain.comfy import FEATURE_FLAGS
from jupyter_comfy_lock.domain.errors import ComfyUnreachable
from jupyter_comfy_lock.domain.pool import ComfyServer

_CONNECT_S = 3.0
#: Large results and slow previews take their time; five minutes of silence do not.
_SILENCE_S = 300.0
#: Seconds between pings; a socket that answers none is dead.
_HEARTBEAT_S = 10.0


class ResolverWithoutThreads(AbstractResolver):
    """Looks up host names while Python ends, when no thread can be started any more."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of `host`; blocks."""
        found = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST,
            )
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        """Do nothing: it holds nothing."""


class Transport:
    """The HTTP client for all ComfyServers; made in an event loop.

    It keeps no cookies and decompresses nothing: what it fetches is handed on as it is. It follows
    no redirect, not even of a WebSocket's handshake, where it cannot be told not to by argument.
    """

    def __init__(self, resolver: AbstractResolver | None = None) -> None:
        trace = aiohttp.TraceConfig()
        trace.on_request_redirect.append(_refuse_redirect)
        self._session = aiohttp.ClientSession(
            trace_configs=[trace],
            connector=aiohttp.TCPConnector(limit=0, resolver=resolver),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=2**18,
            skip_auto_headers=("User-Agent", "Accept-Encoding"),
        )

    def without_threads(self) -> "Transport":
        """Return another one, for while Python ends."""
        return Transport(ResolverWithoutThreads())

    async def aclose(self) -> None:
        """Close all connections."""
        await self._session.close()

    @asynccontextmanager
    async def request(
        self,
        comfy: ComfyServer,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None,
        within_s: float | None,
        **options: Any,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a request; see `Upstream.open`."""
        try:
            async with self._session.request(
                method,
                URL(comfy.url + path, encoded=True),
                headers={**(headers or {}), **comfy.headers},
                allow_redirects=False,
                timeout=_timeout(within_s),
                **options,
            ) as response:
                yield response
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            sent = not isinstance(error, aiohttp.ClientConnectorError)
            raise ComfyUnreachable(comfy.comfy_id, _why(error), sent=sent) from error

    @asynccontextmanager
    async def socket(
        self, comfy: ComfyServer, client_id: str
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Open a WebSocket; see `Upstream.socket`."""
        try:
            async with self._session.ws_connect(
                f"{comfy.url}/ws",
                params={"clientId": client_id},
                headers=comfy.headers,
                heartbeat=_HEARTBEAT_S,
                max_msg_size=0,
            ) as socket:
                await socket.send_str(FEATURE_FLAGS)
                yield socket
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ComfyUnreachable(comfy.comfy_id, _why(error)) from error


async def _refuse_redirect(*_: object) -> None:
    # The pool's headers may be secrets, and only the pool's addresses may have them (R10).
    msg = "it redirects elsewhere"
    raise aiohttp.ClientConnectionError(msg)


def _timeout(within_s: float | None) -> aiohttp.ClientTimeout:
    if within_s is None:
        return aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
    return aiohttp.ClientTimeout(total=within_s, sock_connect=_CONNECT_S)


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        refused = isinstance(error.os_error, ConnectionRefusedError)
        return "connection refused" if refused else str(error.os_error)
    return str(error) or type(error).__name__
