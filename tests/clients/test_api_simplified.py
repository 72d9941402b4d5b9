"""comfy-api-simplified: takes a URL and drops its path, so it needs a port. It clears nothing."""

import pytest

from tests.clients import story

PROGRAM = "with_api_simplified.py"


@pytest.fixture
def two(jp_asyncio_loop, world, door, clients, tmp_path):
    making = story.two(world, door, clients, PROGRAM, tmp_path, port=True)
    return jp_asyncio_loop.run_until_complete(making)


async def test_it_gets_its_picture(two: story.Two):
    await story.gets_its_picture(two)


async def test_it_sees_its_own(two: story.Two):
    await story.sees_its_own(two)


async def test_it_interrupts_its_own(two: story.Two):
    await story.interrupts_its_own(two)


async def test_it_uploads_its_own(two: story.Two):
    await story.uploads_its_own(two)


async def test_it_stops_what_runs_for_it(two: story.Two):
    await story.stops_what_runs_for_it(two)


async def test_a_url_with_a_path_is_not_for_it(world, door, clients, tmp_path):
    """When this fails, it has learnt what `comfy.listen()` is there for."""
    two = await story.two(world, door, clients, PROGRAM, tmp_path)
    assert await two.client.does("system") is None
