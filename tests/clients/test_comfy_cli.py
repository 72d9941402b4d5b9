"""comfy-cli: takes a host and a port, and no path, so it needs a port.

It cancels a job by its id: takes it off the queue, and then interrupts whatever runs if that is
the job. It clears nothing.
"""

import pytest

from tests.clients import story

PROGRAM = "with_comfy_cli.py"


@pytest.fixture
def two(jp_asyncio_loop, world, door, clients, tmp_path):
    making = story.two(world, door, clients, PROGRAM, tmp_path, port=True)
    return jp_asyncio_loop.run_until_complete(making)


async def test_it_gets_its_picture(two: story.Two):
    said = await story.gets_its_picture(two)
    assert said["events"].count("progress") >= 2
    assert "executed" in said["events"]


async def test_it_sees_and_cancels_its_own(two: story.Two):
    async with story.b_runs_a_waits(two) as (others, waiting):
        assert sorted(await two.client.does("queue")) == sorted(waiting)
        assert await two.client.does("cancel", waiting[0])
        assert not await two.client.does("cancel", others)
        assert not await two.client.does("download", others)
    assert (await two.a.ended(waiting[0]))["state"] == "cancelled"
    assert (await two.a.ended(waiting[1]))["state"] == "succeeded"


async def test_it_uploads_its_own(two: story.Two):
    await story.uploads_its_own(two)


async def test_it_stops_what_runs_for_it(two: story.Two):
    async with story.a_runs_b_waits(two) as (running, _, waiting):
        assert await two.client.does("cancel", running)
        assert (await two.a.ended(running))["state"] == "cancelled"
        assert (await two.a.ended(waiting))["state"] == "succeeded"
