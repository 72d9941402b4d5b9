"""comfyui-autograph: takes a base URL with a path for HTTP, but looks for its socket at `/ws`.

It falls back on polling the history, and can neither interrupt nor clear nor list anything.
"""

import pytest

from tests.clients import story

PROGRAM = "with_autograph.py"


@pytest.fixture
def two(jp_asyncio_loop, world, door, clients, tmp_path):
    return jp_asyncio_loop.run_until_complete(story.two(world, door, clients, PROGRAM, tmp_path))


async def test_it_gets_its_picture(two: story.Two):
    said = await story.gets_its_picture(two)
    assert said["events"][-1] == ["completed", "history"]


async def test_it_gets_nothing_of_others(two: story.Two):
    theirs = await two.b.ended(await two.b.prompt(story.picture(prefix="theirs")))
    assert await two.client.does("task", theirs["task_id"]) is None
