"""comfy-script: takes a base URL with a path. It cannot list a queue, nor fetch by name."""

import pytest

from tests.clients import story

PROGRAM = "with_comfy_script.py"


@pytest.fixture
def two(jp_asyncio_loop, world, door, clients, tmp_path):
    return jp_asyncio_loop.run_until_complete(story.two(world, door, clients, PROGRAM, tmp_path))


async def test_it_gets_its_picture(two: story.Two):
    # Its `when_empty` waits until it hears that nothing of its own is left.
    said = await story.gets_its_picture(two)
    assert [4, 4] in said["progress"]


async def test_it_interrupts_its_own(two: story.Two):
    await story.interrupts_its_own(two)


async def test_it_stops_what_runs_for_it(two: story.Two):
    await story.stops_what_runs_for_it(two)


async def test_it_clears_its_own(two: story.Two):
    await story.clears_its_own(two)


async def test_it_stops_all_of_its_own(two: story.Two):
    """It clears the queue, then interrupts what runs: neither is B's."""
    async with story.a_runs_b_waits(two) as (running, _, waiting):
        await two.client.does("stop_all")
        for each in (running, waiting):
            assert (await two.a.ended(each))["state"] == "cancelled"
