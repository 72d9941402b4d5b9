"""A TCP proxy before PostgreSQL that fails when a test says so.

    with TcpProxy("127.0.0.1", postgres.port) as proxy:
        connection = psycopg.connect(proxy.through(url))
        proxy.cut_after_commit()
        ...  # commits, and is never told
        proxy.await_cut()

It runs in a thread of its own. What a method promises holds when it returns.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from enum import Enum
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

T = TypeVar("T")

#: Requests for encryption, which would hide the messages; each is answered with "no".
ENCRYPT = {80877103, 80877104}
#: A statement of its own; the word within a text or a name is none.
COMMIT = re.compile(rb"(?:^|;)\s*(?:COMMIT|END)\b", re.IGNORECASE)
#: What a COMMIT is answered with: done, undone, or an error.
DECIDED = (b"CCOMMIT", b"CROLLBACK", b"E")
CONTROL_S = 10.0


class Fault(Enum):
    """What happens to the next COMMIT."""

    CUT_BEFORE = "before"  #: the server never sees it
    CUT_AFTER = "after"  #: the server does it, and its client is not told


class TcpProxy:
    """Passes connections on to `host` and `port`, until it is told to fail them."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self.port = 0
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[Any]] = set()

    def __enter__(self) -> TcpProxy:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen on a free port of 127.0.0.1."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="tcp-proxy", daemon=True
        )
        self._thread.start()
        self._do(self._begin())

    def stop(self) -> None:
        """Cut what is left, and listen no more."""
        self._do(self._refuse())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CONTROL_S)
        self._loop.close()

    def through(self, url: str) -> str:
        """`url`, led through the proxy."""
        parts = urlsplit(url)
        user, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{self.port}"))

    def cut_before_commit(self) -> None:
        """Cut the next connection that commits, before the server sees it."""
        self._do(self._arm(Fault.CUT_BEFORE))

    def cut_after_commit(self) -> None:
        """Cut the next connection that commits, when it is done and before it is told."""
        self._do(self._arm(Fault.CUT_AFTER))

    def await_cut(self, timeout_s: float = CONTROL_S) -> None:
        """Wait until the cut that was ordered last was made."""
        if not self._wire.was_cut.wait(timeout_s):
            msg = f"nothing was committed through the proxy in {timeout_s} s"
            raise TimeoutError(msg)

    def silence(self) -> None:
        """Pass nothing on, neither data nor ends. Connections stay open, new ones too."""
        self._do(self._silence())

    def refuse(self) -> None:
        """Cut all connections, and refuse new ones."""
        self._do(self._refuse())

    def resume(self) -> None:
        """Pass on again, first what was held back. No cut is ordered any more."""
        self._do(self._resume())

    # In the proxy's thread

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CONTROL_S)

    async def _begin(self) -> None:
        self._wire = _Wire()
        await self._listen()

    async def _listen(self) -> None:
        # Later on the port that it had, which the URLs name.
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _arm(self, fault: Fault) -> None:
        self._wire.armed = fault
        self._wire.was_cut.clear()

    async def _silence(self) -> None:
        self._wire.flowing.clear()

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        relays = list(self._relays)
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)

    async def _resume(self) -> None:
        self._wire.armed = None
        self._wire.flowing.set()
        if self._server is None:
            await self._listen()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:
            # It was accepted just before `refuse`.
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        try:
            await _Relay(self._wire, reader, writer).run(self._upstream)
        finally:
            self._relays.discard(task)


class _Wire:
    """What all connections of a proxy share."""

    def __init__(self) -> None:
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.armed: Fault | None = None
        self.was_cut = threading.Event()

    def take_armed(self) -> Fault | None:
        armed, self.armed = self.armed, None
        return armed


class _CutNow(Exception):
    """The connection meets the fault that was ordered."""


class _Relay:
    """A connection from a client, and the one to the server that belongs to it."""

    def __init__(
        self, wire: _Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._wire = wire
        self._from_client, self._to_client = reader, writer
        self._writers = [writer]
        #: A COMMIT was passed on whose answer must not be.
        self._swallows = False
        self._prepared_commits: set[bytes] = set()

    async def run(self, upstream: tuple[str, int]) -> None:
        """Pass on until either side ends or the connection is cut, by a fault or by cancelling."""
        try:
            await self._pass_on(upstream)
            await self._wire.flowing.wait()
            for writer in self._writers:
                writer.close()
        except asyncio.CancelledError:
            self._cut()
        except _CutNow:
            self._cut()
            self._wire.was_cut.set()

    async def _pass_on(self, upstream: tuple[str, int]) -> None:
        await self._wire.flowing.wait()
        try:
            from_server, to_server = await asyncio.open_connection(*upstream)
        except OSError:
            return
        self._writers.append(to_server)
        pumps = {
            asyncio.ensure_future(self._requests(to_server)),
            asyncio.ensure_future(self._answers(from_server)),
        }
        try:
            ended, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in ended:
                # These two say that a side has ended.
                with suppress(OSError, asyncio.IncompleteReadError):
                    pump.result()
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _requests(self, to_server: asyncio.StreamWriter) -> None:
        await self._send(to_server, await self._greeting())
        while True:
            kind = await self._from_client.readexactly(1)
            body = await _body(self._from_client)
            # Before a fault is looked for: one may be ordered while nothing flows.
            await self._wire.flowing.wait()
            if self._commits(kind, body):
                fault = self._wire.take_armed()
                if fault is Fault.CUT_BEFORE:
                    raise _CutNow
                self._swallows = self._swallows or fault is Fault.CUT_AFTER
            await self._send(to_server, kind + body)

    async def _greeting(self) -> bytes:
        while True:
            body = await _body(self._from_client)
            if int.from_bytes(body[4:8]) not in ENCRYPT:
                return body
            await self._send(self._to_client, b"N")

    def _commits(self, kind: bytes, body: bytes) -> bool:
        text = body[4:]
        if kind == b"Q":
            return COMMIT.search(text) is not None
        if kind == b"P":
            name, query, *_ = text.split(b"\0")
            self._prepared_commits.discard(name)
            if COMMIT.search(query):
                self._prepared_commits.add(name)
        # Bound, a prepared statement is about to be run: portal, then statement.
        return kind == b"B" and text.split(b"\0")[1] in self._prepared_commits

    async def _answers(self, from_server: asyncio.StreamReader) -> None:
        while True:
            kind = await from_server.readexactly(1)
            body = await _body(from_server)
            if not self._swallows:
                await self._send(self._to_client, kind + body)
            elif (kind + body[4:]).startswith(DECIDED):
                raise _CutNow

    async def _send(self, writer: asyncio.StreamWriter, message: bytes) -> None:
        await self._wire.flowing.wait()
        writer.write(message)
        await writer.drain()

    def _cut(self) -> None:
        for writer in self._writers:
            # No goodbye: the other side sees its connection reset.
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            writer.transport.abort()


async def _body(reader: asyncio.StreamReader) -> bytes:
    """The rest of a message: its length, which counts itself, and what is behind it."""
    length = await reader.readexactly(4)
    return length + await reader.readexactly(int.from_bytes(length) - 4)
