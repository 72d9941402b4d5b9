"""A ComfyUI whose sockets say anything: tasks stay true, and nobody hears what is others' (R4, R9).

A thousand frames in CI; COMFY_FUZZ=100000 has it say so many.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import struct
import time
from collections import Counter
from random import Random

import pytest

from tests.fuzz.mutate import Mutator, recorded_frames, with_no_numbers
from tests.fuzz.test_gateway import settings as settings
from tests.server import graphs
from tests.server.conftest import comfies as comfies
from tests.server.conftest import jp_server_config as jp_server_config
from tests.server.conftest import pool as pool
from tests.server.conftest import world as world
from tests.server.world import Comfy, Kernel, World

FRAMES = int(os.environ.get("COMFY_FUZZ", "1000"))
SEED = int(os.environ.get("COMFY_FUZZ_SEED", "1"))
#: Frames between two times at which it is seen whether all is as it was.
LOOK_EVERY = 200
#: Of so many frames one is no frame, or no text: the connection is lost by it.
BROKEN_ONE_IN = 100
TEXT, BINARY = 1, 2
#: One of each kernel.
SOCKETS = 2


def frame(opcode: int, payload: bytes) -> bytes:
    """Return a frame as a server writes it (RFC 6455): whole, and not masked."""
    if len(payload) < 126:
        return struct.pack(">BB", 0x80 | opcode, len(payload)) + payload
    if len(payload) < 2**16:
        return struct.pack(">BBH", 0x80 | opcode, 126, len(payload)) + payload
    return struct.pack(">BBQ", 0x80 | opcode, 127, len(payload)) + payload


class Babbler:
    """Writes what it likes into all sockets of a ComfyUI server."""

    def __init__(self, comfy: Comfy, names: list[str], random: Random) -> None:
        self._comfy = comfy
        self._names = names
        self._random = random
        self._mutator = Mutator([], names, random)
        self._seeds = recorded_frames()
        self.said: Counter[str] = Counter()

    async def say(self, world: World) -> None:
        kind, written = self._one()
        self.said[kind] += 1
        self._comfy.faults.write_to_sockets(written)
        # Both ends are in this process: they are given time to read, and to connect again.
        if self.said.total() % 20 == 0:
            await world.user.get("tasks")
        while self._comfy.faults.write_to_sockets(b"") < SOCKETS or kind == "broken":
            kind = ""
            await world.user.get("tasks")

    def _one(self) -> tuple[str, bytes]:
        random = self._random
        if random.randrange(BROKEN_ONE_IN) == 0:
            junk = random.randbytes(random.randint(2, 300))
            return "broken", random.choice([junk, frame(TEXT, b"\xff" + junk)])
        if random.random() < 0.3:
            return "binary", frame(BINARY, self._binary())
        text = self._text()
        if random.random() < 0.2:
            text = text[: random.randint(0, len(text))]
        return "text", frame(TEXT, text.encode(errors="replace"))

    def _text(self) -> str:
        said = json.loads(self._named(self._random.choice(self._seeds)))
        for _ in range(self._random.randint(0, 3)):
            said = self._mutator.value(said)
        text = json.dumps(said)
        if self._random.random() < 0.1:
            text = with_no_numbers(text, self._random)
        return text

    def _named(self, text: str) -> str:
        """Have a recorded frame be about one of the prompts that there are now."""
        said = json.loads(text)
        if isinstance(data := said.get("data"), dict) and "prompt_id" in data:
            data["prompt_id"] = self._random.choice(self._names)
        return json.dumps(said)

    def _binary(self) -> bytes:
        random = self._random
        about = json.dumps(
            {
                "node_id": "1",
                "prompt_id": random.choice(self._names),
                "image_type": random.choice(["image/png", "image/jpeg", "text/html", 7]),
            }
        ).encode()
        picture = random.randbytes(random.randint(0, 200))
        whole = random.choice(
            [
                struct.pack(">II", 1, random.choice([1, 2, 2**32 - 1])) + picture,
                struct.pack(">II", 4, len(about)) + about + picture,
                struct.pack(">II", 4, random.choice([0, 3, 2**31])) + about + picture,
                struct.pack(">I", random.randint(0, 9)) + picture,
                picture,
            ]
        )
        return whole[: random.randint(0, len(whole))] if random.random() < 0.2 else whole


class Listener:
    """A client of A's that hears all; its socket is opened again when it is closed."""

    def __init__(self, others: list[str]) -> None:
        self._others = others
        self.heard = 0
        self.wrong: list[str] = []

    async def listen(self, kernel: Kernel) -> None:
        while True:
            async with kernel.socket("?clientId=x") as socket:
                async for message in socket.socket:
                    self.heard += 1
                    self._see(message.data)

    def _see(self, data: str | bytes) -> None:
        if isinstance(data, bytes):
            # One that says whose it is says so in this place.
            size = int.from_bytes(data[4:8]) if data[:4] == struct.pack(">I", 4) else 0
            data = data[8 : 8 + size].decode(errors="replace") if size < len(data) else ""
        try:
            said = json.loads(data)
        except ValueError:
            return
        about = said.get("data", said) if isinstance(said, dict) else {}
        if isinstance(about, dict) and about.get("prompt_id") in self._others:
            self.wrong.append(str(data)[:300])


def no_number(name: str) -> float:
    msg = f"{name} is no JSON"
    raise AssertionError(msg)


def as_a_browser_reads(kernel: Kernel) -> None:
    """See that what a kernel was told can be read by others than Python."""
    for _, _, payload in kernel.heard.all:
        json.loads(json.dumps(payload), parse_constant=no_number)
    del kernel.heard.all[:-1]


async def babble(world: World, babbler: Babbler, kernels: list[Kernel]) -> None:
    """Say so many frames, and see that no task ends of it."""
    for number in range(1, FRAMES + 1):
        await babbler.say(world)
        if number % LOOK_EVERY == 0:
            # A ComfyUI is believed that a prompt has begun; that it has ended is looked up.
            tasks = (await world.user.get("tasks"))["tasks"]
            assert {x["state"] for x in tasks} <= {"queued", "running"}
            for kernel in kernels:
                as_a_browser_reads(kernel)


@pytest.mark.timeout(3600)
async def test_r9_whatever_a_socket_says_tasks_stay_true(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    await a.lock("gpu-1")
    await b.lock("gpu-1")
    running = await a.prompt(graphs.steps(100_000))
    await a.task_in(running, "running")
    waiting = await a.prompt(graphs.picture(prefix="mine"))
    theirs = await b.prompt(graphs.picture(prefix="theirs"))
    await b.task_in(theirs, "queued")
    names = [running, waiting, theirs, "nobody's", "1", "2"]
    babbler = Babbler(world.gpu, names, Random(SEED))
    listener = Listener([theirs, "nobody's"])
    listening = asyncio.create_task(listener.listen(a))
    start = time.perf_counter()
    try:
        await babble(world, babbler, [a, b])
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    seconds = time.perf_counter() - start
    print(f"{FRAMES} frames in {seconds:.0f} s: {dict(babbler.said)}; {listener.heard} passed on")
    assert listener.heard > FRAMES / 20
    assert listener.wrong == []
    ours = [x for x in caplog.records if x.name != "aiohttp.server"]
    assert [x.getMessage() for x in ours if x.exc_info] == []
    # The sockets hear again what is so, and each task comes to its own end.
    await a.cancel(running)
    ends = [await a.ended(running), await a.ended(waiting), await b.ended(theirs)]
    assert [each["state"] for each in ends] == ["cancelled", "succeeded", "succeeded"]
    assert [len(each["files"]) for each in ends] == [0, 1, 1]
