"""The gateway under traffic that no client would send: nothing breaks, nothing leaks (R4, R10).

A few hundred requests in CI; COMFY_FUZZ=100000 has it send so many.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from random import Random
from typing import Any

import aiohttp
import pytest
from yarl import URL

from tests.fuzz.mutate import Call, Mutator, recorded
from tests.server import graphs
from tests.server.conftest import SECRET
from tests.server.conftest import comfies as comfies
from tests.server.conftest import jp_server_config as jp_server_config
from tests.server.conftest import pool as pool
from tests.server.conftest import world as world
from tests.server.world import Kernel, World

REQUESTS = int(os.environ.get("COMFY_FUZZ", "600"))
SEED = int(os.environ.get("COMFY_FUZZ_SEED", "1"))
#: In everything of B's that A could get to see.
HIDDEN = "what-only-b-may-know"
#: Requests between two times that A gets rid of what it has queued.
TIDY_EVERY = 250


@pytest.fixture
def settings() -> dict[str, Any]:
    """Kernels need not say that they live for as long as a long run takes."""
    return {"lease_ttl_s": 3600.0}


class Watch:
    """What must not happen, found in what happens."""

    def __init__(self, world: World, a: Kernel, b: Kernel) -> None:
        self.world, self.a, self.b = world, a, b
        self.statuses: Counter[int] = Counter()
        self.faults: list[str] = []

    def see(self, call: Call, status: int, headers: Any, body: bytes) -> None:
        self.statuses[status] += 1
        shown = f"{call.method} {call.path!r} {call.headers} {(call.body or b'')[:300]!r}"
        # What ComfyUI itself answers with 500 is handed on.
        upstream = self.world.gpu.calls.answered_500
        if status >= 500 and status not in (501, 505) and not upstream:
            self.faults.append(f"{status} for {shown}: {body[:300]!r}")
        self.world.gpu.calls.answered_500 = 0
        told = body + repr(sorted(headers.items())).encode()
        for name, text in (("B's", HIDDEN), ("the pool's", SECRET), ("B's", self.b.credential)):
            if text.encode() in told:
                self.faults.append(f"{name} secret is told by {shown}: {body[:300]!r}")


class Talker:
    """A client's socket, opened again whenever the gateway closes it."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._stack = AsyncExitStack()
        self._socket: Any = None
        self._reading: asyncio.Task[None] | None = None
        self.opened = 0
        self.codes: Counter[int] = Counter()
        self.heard_hidden = False

    async def say(self, frame: str | bytes) -> None:
        if self._socket is None or self._socket.closed:
            await self._open()
        send = self._socket.send_str if isinstance(frame, str) else self._socket.send_bytes
        with suppress(ConnectionError):
            await send(frame)

    async def _open(self) -> None:
        await self.close()
        self._socket = (await self._stack.enter_async_context(self._kernel.socket())).socket
        self._reading = asyncio.create_task(self._read(self._socket))
        self.opened += 1

    async def _read(self, socket: Any) -> None:
        async for message in socket:
            data = message.data if isinstance(message.data, bytes) else str(message.data).encode()
            self.heard_hidden |= HIDDEN.encode() in data

    async def close(self) -> None:
        await self._stack.aclose()
        if self._reading is not None:
            await self._reading
            self.codes[self._socket.close_code] += 1


async def b_at_work(world: World) -> tuple[Kernel, list[str], dict[str, Any]]:
    """B with one task that has ended, one that runs and one that waits."""
    b = await world.kernel("b.ipynb")
    await b.lock("gpu-1")
    extra = {"extra_pnginfo": {"note": HIDDEN}, "secret": HIDDEN}
    ended = await b.prompt(graphs.picture(prefix="theirs"), extra_data=extra)
    task = await b.ended(ended)
    running = await b.prompt(graphs.steps(100_000), extra_data=extra)
    await b.task_in(running, "running")
    waiting = await b.prompt(graphs.picture(prefix=HIDDEN), extra_data=extra)
    await b.task_in(waiting, "queued")
    form = aiohttp.FormData()
    form.add_field("image", HIDDEN.encode(), filename="theirs.png")
    assert (await b.comfy("POST", "upload/image", data=form)).status == 200
    return b, [ended, running, waiting], task


async def send(world: World, kernel: Kernel, call: Call) -> tuple[int, Any, bytes]:
    base = f"{world.base}{kernel.gateway_path}"
    async with world.session.request(
        call.method,
        URL(base + call.path, encoded=True),
        headers=dict(call.headers),
        data=call.body,
        allow_redirects=False,
    ) as response:
        return response.status, response.headers, await response.read()


@pytest.mark.timeout(3600)
async def test_r4_no_traffic_breaks_the_gateway_or_shows_what_is_others(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    b, ids, task = await b_at_work(world)
    a = await world.kernel("a.ipynb")
    await a.lock("gpu-1")
    mine = await a.prompt(graphs.picture(prefix="mine"))
    names = [*ids, mine, "theirs.png", "theirs.png [input]", task["files"][0]["filename"]]
    names += [f"{names[-1]} [output]", "mine_00001_.png", "output", "input", "temp", ""]
    mutator, watch = Mutator(recorded(), names, Random(SEED)), Watch(world, a, b)
    start = time.perf_counter()
    talker = Talker(a)
    for number in range(REQUESTS):
        call = mutator.call()
        try:
            watch.see(call, *await send(world, a, call))
        except aiohttp.ClientError as error:
            watch.faults.append(f"{error!r} for {call}")
        await talker.say(mutator.frame())
        if number % TIDY_EVERY == 0:
            await a.comfy("POST", "queue", json={"clear": True})
            await a.comfy("POST", "interrupt", json={})
    await talker.close()
    print(f"{talker.opened} sockets, closed with {dict(talker.codes)}")
    print(f"{REQUESTS} requests in {time.perf_counter() - start:.0f} s: {dict(watch.statuses)}")
    assert watch.faults == []
    assert not talker.heard_hidden
    # ComfyUI itself, and with it the embedded server, raises for what is no prompt.
    ours = [x for x in caplog.records if x.name != "aiohttp.server"]
    assert [x.getMessage() for x in ours if x.exc_info] == []
    await nothing_happened_to_b(world, b, ids)


async def nothing_happened_to_b(world: World, b: Kernel, ids: list[str]) -> None:
    ended, running, waiting = ids
    tasks = {x["task_id"]: x["state"] for x in (await b.get("tasks"))["tasks"]}
    assert tasks == {ended: "succeeded", running: "running", waiting: "queued"}
    queue = await world.queue()
    assert queue[0] == running
    assert waiting in queue
    for path, body in world.gpu.calls.posts():
        assert path != "/interrupt" or (body or {}).get("prompt_id"), "a global interrupt"
        assert not (isinstance(body, dict) and body.get("clear")), (path, body)
        named = json.dumps(body)
        if path in ("/queue", "/interrupt", "/jobs/cancel", "/history"):
            assert not any(each in named for each in ids), (path, body)
    await b.comfy("POST", "queue", json={"clear": True})
    await b.cancel(running)
    assert (await b.ended(running))["state"] == "cancelled"
