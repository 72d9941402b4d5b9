"""ComfyServers as the tests see them: directly, and from the middle of the line."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import httpx

#: Prompts that differ in nothing would be answered from ComfyUI's cache.
_seeds = iter(range(1, 1 << 30))


def steps_workflow(*, steps: int, delay: float, seed: int | None = None) -> dict[str, Any]:
    """A prompt that takes `steps` steps of `delay` seconds and can be stopped after each."""
    return {
        "1": {
            "class_type": "TrSteps",
            "inputs": {
                "steps": steps,
                "delay": delay,
                "preview": False,
                "seed": next(_seeds) if seed is None else seed,
            },
        },
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


def endless_workflow() -> dict[str, Any]:
    """A prompt that runs for longer than any test."""
    return steps_workflow(steps=6000, delay=0.1)


def queue(url: str) -> set[str]:
    """The ids of the prompts that the ComfyServer runs or keeps waiting, by its own word."""
    told = httpx.get(f"{url}/queue", timeout=10.0).raise_for_status().json()
    return {entry[1] for entry in (*told["queue_running"], *told["queue_pending"])}


def running(url: str) -> set[str]:
    """The ids of the prompts that the ComfyServer runs."""
    told = httpx.get(f"{url}/queue", timeout=10.0).raise_for_status().json()
    return {entry[1] for entry in told["queue_running"]}


def ended_well(url: str, prompt_id: str) -> bool:
    """Whether the prompt has succeeded, by the ComfyServer's own word."""
    told = httpx.get(f"{url}/history/{prompt_id}", timeout=10.0).raise_for_status().json()
    return bool(told.get(prompt_id, {}).get("status", {}).get("status_str") == "success")


def submit_raw(url: str, workflow: dict[str, Any]) -> str:
    """Send a prompt as any other client of the ComfyServer does; its id."""
    answer = httpx.post(f"{url}/prompt", json={"prompt": workflow, "client_id": "somebody"})
    return str(answer.raise_for_status().json()["prompt_id"])


def empty(url: str) -> None:
    """Take all prompts off the ComfyServer."""
    if left := queue(url):
        httpx.post(f"{url}/queue", json={"clear": True}).raise_for_status()
        for prompt_id in left:
            httpx.post(f"{url}/interrupt", json={"prompt_id": prompt_id}).raise_for_status()


class Line:
    """A way to a ComfyServer that knows who is on it, and can be cut.

    It stands between the Jupyter server and any ComfyServer, also one that tells nobody who is
    connected to it.
    """

    def __init__(self, url: str) -> None:
        self.comfy_url = url
        parts = urlsplit(url)
        self._home = (str(parts.hostname), int(parts.port or 80))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        #: WebSockets that are open now.
        self.sockets = 0
        #: All that was ever said to the ComfyServer.
        self.heard = bytearray()
        self.url = ""

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()
        self._do(self._listen())

    def stop(self) -> None:
        """Cut all connections and listen no more."""
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def cut(self) -> None:
        """Refuse new connections and end those there are, as if the ComfyServer had died."""
        self._do(self._cut())

    def mend(self) -> None:
        """Let connections through again, on the same port."""
        self._do(self._listen())

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        port = urlsplit(self.url).port or 0
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        caller = _Caller(self)
        self._writers.add(writer)
        try:
            there_reader, there = await asyncio.open_connection(*self._home)
            await asyncio.gather(
                _copy(reader, there, caller.said), _copy(there_reader, writer, _nothing)
            )
        except OSError:
            writer.transport.abort()
        finally:
            caller.gone()
            self._writers.discard(writer)


class _Caller:
    """Notices when a connection becomes a WebSocket, as its first request or a later one."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._socket = False

    def said(self, data: bytes) -> None:
        self._line.heard += data
        if not self._socket and data.startswith((b"GET /ws", b"GET /api/ws")):
            self._socket = True
            self._line.sockets += 1

    def gone(self) -> None:
        self._line.sockets -= self._socket


def _nothing(data: bytes) -> None:
    """Take no note."""


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, note: Callable[[bytes], None]
) -> None:
    with suppress(OSError):
        while some := await reader.read(2**16):
            note(some)
            writer.write(some)
            await writer.drain()
    # What one side has ended, the other need not keep open.
    writer.close()


@contextmanager
def line_to(url: str) -> Iterator[Line]:
    """A line to the ComfyServer at `url`."""
    line = Line(url)
    line.start()
    try:
        yield line
    finally:
        line.stop()
