"""Work that goes on beside the requests ends when it is told to."""

import asyncio

import pytest

from tests.server.world import World


@pytest.mark.parametrize("steps", range(5))
async def test_what_listens_for_news_ends_also_when_news_come_just_then(world: World, steps: int):
    keeper, follower = world.app._keeper, world.app._follower
    for background, news in (
        (keeper._listening, world.app._line.wake),
        (follower._following, world.app._tasks.look_now),
    ):
        news.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        stopping = asyncio.ensure_future(background.stop())
        done, _ = await asyncio.wait({stopping}, timeout=3)
        assert done
