"""@saintno/comfyui-sdk, under Node: takes a base URL with a path."""

import pytest

from tests.clients import story

PROGRAM = "with_saintno_sdk.mjs"


@pytest.fixture
def two(jp_asyncio_loop, world, door, clients, tmp_path):
    return jp_asyncio_loop.run_until_complete(story.two(world, door, clients, PROGRAM, tmp_path))


async def test_it_gets_its_picture(two: story.Two):
    said = await story.gets_its_picture(two)
    assert [4, 4] in said["progress"]


async def test_it_sees_its_own(two: story.Two):
    await story.sees_its_own(two)


async def test_it_interrupts_its_own(two: story.Two):
    await story.interrupts_its_own(two)


async def test_it_uploads_its_own(two: story.Two):
    await story.uploads_its_own(two)


async def test_it_stops_what_runs_for_it(two: story.Two):
    await story.stops_what_runs_for_it(two)


async def test_it_clears_its_own(two: story.Two):
    await story.clears_its_own(two)
