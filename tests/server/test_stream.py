"""How what a ComfyServer says is taken in: at once, but not at the cost of others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import WSMessage, WSMsgType

from jupyter_comfy_lock.server.stream import HolderStream

FRAMES = 1000


class Flooding:
    """A ComfyServer that has said a lot before anybody could read it."""

    @asynccontextmanager
    async def socket(self, _: str) -> AsyncIterator[AsyncIterator[WSMessage]]:
        yield self._frames()

    async def _frames(self) -> AsyncIterator[WSMessage]:
        # Like a socket's: while there are more, it waits for nothing.
        for number in range(FRAMES):
            yield WSMessage(WSMsgType.TEXT, str(number), None)
        await asyncio.Event().wait()


async def test_others_have_their_turn_in_the_middle_of_a_flood():
    heard: list[Any] = []
    before: list[int] = []
    stream = HolderStream(Flooding(), heard.append, logging.getLogger())  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        while len(heard) < FRAMES:
            before.append(len(heard))
            await asyncio.sleep(0)
    await stream.close()
    assert heard == [str(number) for number in range(FRAMES)]
    taken_at_once = [b - a for a, b in zip(before, [*before[1:], FRAMES], strict=True)]
    assert max(taken_at_once) <= 20
