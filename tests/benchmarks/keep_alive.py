"""An HTTP client that costs next to nothing, so that what is measured is the server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

#: Bytes that are read at once.
_CHUNK = 2**18


class KeepAlive:
    """One connection, one request at a time."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname or "", parts.port or 80
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        said = {"Host": parts.netloc, "Accept": "*/*", **(headers or {})}
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in said.items())]
        self._request = "\r\n".join([*lines, "", ""]).encode()

    async def __aenter__(self) -> KeepAlive:
        self._reader, self._writer = await asyncio.open_connection(*self._address, limit=_CHUNK)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def get(self) -> int:
        """Ask, and return how many bytes the answer has.

        Raises:
            AssertionError: it is no success.
        """
        self._writer.write(self._request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert " 200 " in head.partition("\r\n")[0], head
        _, named, length = head.partition("\r\ncontent-length:")
        if named:
            return await self._take(int(length.partition("\r\n")[0]))
        assert "\r\ntransfer-encoding: chunked" in head, head
        total = 0
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            total += await self._take(size)
            await self._take(2)
        await self._take(2)
        return total

    async def _take(self, size: int) -> int:
        left = size
        while left:
            read = await self._reader.read(min(left, _CHUNK))
            assert read, "the connection was closed"
            left -= len(read)
        return size
