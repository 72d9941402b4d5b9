"""A script with nothing but urllib and websocket-client, as ComfyUI's own example is."""

import pytest

from tests.clients import story

PROGRAM = "with_websocket_client.py"


@pytest.fixture
def two(jp_asyncio_loop, world, door, clients, tmp_path):
    return jp_asyncio_loop.run_until_complete(story.two(world, door, clients, PROGRAM, tmp_path))


async def test_it_gets_its_picture(two: story.Two):
    said = await story.gets_its_picture(two)
    kinds = [message["type"] for message in said["seen"]]
    assert kinds.count("progress") >= 2
    assert "executed" in kinds
    # The last one says how much is left to do, as ComfyUI does before it says that all is over.
    left = [x["data"]["status"]["exec_info"] for x in said["seen"] if x["type"] == "status"]
    assert left[-1] == {"queue_remaining": 0}


async def test_it_sees_its_own(two: story.Two):
    await story.sees_its_own(two)


async def test_it_interrupts_its_own(two: story.Two):
    await story.interrupts_its_own(two)


async def test_it_stops_what_runs_for_it(two: story.Two):
    await story.stops_what_runs_for_it(two)


async def test_it_clears_its_own(two: story.Two):
    await story.clears_its_own(two)
