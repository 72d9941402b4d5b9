"""comfyui-autograph: takes a URL with a path for HTTP, but looks for its socket at `/ws`.

Without one it falls back on polling the history. It can neither interrupt nor clear nor list.
"""

import asyncio
from dataclasses import replace

import pytest

from tests.clients import story

PROGRAM = "with_autograph.py"


@pytest.fixture
def two(jp_asyncio_loop, world, door, clients, tmp_path):
    return jp_asyncio_loop.run_until_complete(story.two(world, door, clients, PROGRAM, tmp_path))


async def test_it_gets_its_picture(two: story.Two):
    said = await story.gets_its_picture(two)
    assert said["events"][-1] == ["completed", "history"]


async def test_it_hears_of_progress_on_a_port(world, door, clients, tmp_path):
    two = await story.two(world, door, clients, PROGRAM, tmp_path, port=True)
    said = await story.gets_its_picture(two)
    assert [kind for kind, _ in said["events"]].count("progress") >= 2
    assert said["events"][-1] == ["completed", None]


@pytest.mark.trap("17-foreign-client-id")
async def test_two_of_it_hear_their_own_though_they_use_the_same_client_id(two: story.Two):
    other = replace(two.client, url=await story.port_of(two.b), home=two.client.home / "b")
    other.home.mkdir()
    mine = replace(two.client, url=await story.port_of(two.a))
    said = await asyncio.gather(*(each.does("picture", story.picture()) for each in (mine, other)))
    for kernel, one in zip((two.a, two.b), said, strict=True):
        assert one["events"][-1] == ["completed", None]
        assert (await kernel.ended(one["prompt_id"]))["state"] == "succeeded"


async def test_it_uploads_its_own(two: story.Two):
    await story.uploads_its_own(two)


async def test_it_gets_nothing_of_others(two: story.Two):
    theirs = await two.b.ended(await two.b.prompt(story.picture(prefix="theirs")))
    assert await two.client.does("task", theirs["task_id"]) is None
