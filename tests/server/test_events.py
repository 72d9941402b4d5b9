"""The event stream: a snapshot first, then what changed, for each reader at its own pace."""

import asyncio

import pytest

from jupyter_comfy_lock.server.events import EventHub
from tests.server import graphs
from tests.server.world import World


async def test_the_snapshot_comes_first_and_numbers_rise(world: World):
    kernel = await world.kernel("a.ipynb")
    lock = await kernel.lock("gpu-1")
    task_id = await kernel.submit(graphs.picture())
    await kernel.ended(task_id)
    async with kernel.events() as events:
        await events.until(lambda: events.all)
        number, kind, snapshot = events.all[0]
        assert (number, kind) == (0, "snapshot")
        assert snapshot["holder"]["holder_id"] == kernel.holder_id
        assert snapshot["lock"] == lock
        assert [x["task_id"] for x in snapshot["tasks"]] == [task_id]
        second = await kernel.submit(graphs.picture())
        await events.until(lambda: "succeeded" in events.states(second))
        numbers = [x[0] for x in events.all]
        assert numbers == sorted(set(numbers))


async def test_a_change_of_the_lock_is_told_to_its_holder(world: World):
    kernel = await world.kernel()
    lock = await kernel.lock("gpu-1")
    await kernel.heard.until(lambda: kernel.heard.of("lock"))
    assert kernel.heard.of("lock") == [{"lock": lock, "reason": None}]
    await kernel.release()
    await kernel.heard.until(lambda: len(kernel.heard.of("lock")) == 2)
    assert kernel.heard.of("lock")[1] == {"lock": None, "reason": None}


async def test_the_user_hears_all_and_a_kernel_its_own(world: World):
    a, b = await world.kernel("a"), await world.kernel("b")
    async with world.user.events() as user:
        await user.until(lambda: user.all)
        assert user.all[0][2]["holder"] is None
        for kernel in (a, b):
            await kernel.lock("gpu-1")
            await kernel.ended(await kernel.submit(graphs.picture()))
        await user.until(lambda: len({x["holder_id"] for x in user.of("task")}) == 2)
        assert {x["holder_id"] for x in a.heard.of("task")} == {a.holder_id}
        assert {x["holder_id"] for x in b.heard.of("task")} == {b.holder_id}


async def test_the_stream_of_a_holder_ends_with_it_and_others_go_on(world: World):
    a, b = await world.kernel(), await world.kernel()
    await a.call("DELETE", "holders/me")
    await asyncio.wait_for(a.heard.ended.wait(), 5)
    await b.lock("gpu-1")
    await b.heard.until(lambda: b.heard.of("lock"))
    assert not b.heard.ended.is_set()


@pytest.mark.usefixtures("looking_often")
async def test_a_dead_server_is_told_as_a_change_of_the_pool(world: World):
    await world.kernel()
    async with world.user.events() as events:
        await events.until(lambda: events.all)
        await world.comfies["gpu-2"].stop()
        await events.until(
            lambda: events.of("pool") and events.of("pool")[-1]["servers"][1]["health"] != "ok"
        )


async def test_previews_are_counted_and_the_newest_is_served(world: World):
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    task_id = await kernel.submit(graphs.steps(4, delay=0.05, preview=True))
    task = await kernel.ended(task_id)
    assert task["progress"]["preview"] == 4
    assert task["progress"]["preview_node_id"] == "1"
    answer = await kernel.call("GET", f"tasks/{task_id}/preview")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert answer.body[:2] == b"\xff\xd8"


async def test_a_reader_that_falls_behind_gets_the_newest_state_and_delays_nobody():
    hub = EventHub()
    with hub.subscribe(None) as slow, hub.subscribe(None) as quick:
        reading = aiter(quick)
        for number in range(1000):
            hub.publish("task", "t1", {"n": number})
            event = await anext(reading)
            assert event is not None
            assert event.payload == {"n": number}
        hub.publish("task", "t2", {"n": -1})
        slow.close()
        waiting = [x async for x in slow]
    assert [x.payload["n"] for x in waiting] == [999, -1]
    assert [x.number for x in waiting] == [1000, 1001]


async def test_a_silent_stream_is_kept_open_by_comments(monkeypatch):
    monkeypatch.setattr("jupyter_comfy_lock.server.events.KEEP_ALIVE_S", 0.01)
    hub = EventHub()
    with hub.subscribe(None) as subscription:
        assert await anext(aiter(subscription)) is None
