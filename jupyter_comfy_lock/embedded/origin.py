"""ComfyUI's guard against other web sites' pages: which requests to refuse."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler


def hosts_to_compare(headers: Mapping[str, str]) -> tuple[str, str, str] | None:
    """Return the server's host name, and Host and Origin in the form to compare.

    A port that one of them lacks is taken off the other. None if there is nothing to compare.
    """
    if not headers.get("Host") or not headers.get("Origin"):
        return None
    host, origin = headers["Host"].lower(), headers["Origin"].lower()
    host_parts, origin_parts = urlsplit(f"//{host}"), urlsplit(origin)
    host_name = host_parts.hostname or ""
    if origin_parts.port is None:
        host = host_name
    origin = origin_parts.netloc
    if host_parts.port is None:
        origin = origin_parts.hostname or ""
    return (host_name, host, origin) if host and origin else None


async def is_loopback(host: str) -> bool:
    """Whether every address of `host` is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)


async def is_refused(
    headers: Mapping[str, str], loopback: Callable[[str], Awaitable[bool]] = is_loopback
) -> bool:
    """Whether a request with these headers comes from another site's page.

    Origins are compared only on a loopback host: elsewhere names and proxies are legion.
    """
    if headers.get("Sec-Fetch-Site") == "cross-site":
        return True
    found = hosts_to_compare(headers)
    if found is None:
        return False
    host_name, host, origin = found
    return host != origin and await loopback(host_name)


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse with 403, answer every OPTIONS, and pass the rest on."""
    if await is_refused(request.headers):
        return web.Response(status=403)
    if request.method == "OPTIONS":
        return web.Response()
    return await handler(request)
