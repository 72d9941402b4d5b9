"""A ComfyServer that was let go of is free when the old holder's prompts have left it (R6)."""

import asyncio

import pytest
from aiohttp import web

from jupyter_comfy_lock.server import ready
from tests.server import graphs
from tests.server.world import Kernel, World, eventually


async def running(world: World, kernel: Kernel, steps: int, mode: str = "exclusive") -> str:
    """A kernel that has gpu-1, and a prompt that runs."""
    await kernel.lock("gpu-1", mode)
    task_id = await kernel.submit(graphs.steps(steps))
    await kernel.task_in(task_id, "running")
    return task_id


async def test_the_next_one_has_it_when_the_prompts_of_the_last_are_gone_and_not_before(
    world: World,
):
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    task_id = await running(world, a, 20)
    assert (await a.release())["state"] == "held"
    (lock,) = await world.everybodys_locks()
    assert (lock["name"], lock["state"]) == ("a.ipynb", "draining")
    # To its own kernel it is gone.
    assert (await a.get("locks"))["locks"] == []
    assert (await a.comfy("GET", "queue")).code == (409, "no_lock")
    refused = await b.ask("gpu-1")
    assert (
        "a.ipynb has let go of it, but its prompts have not left it yet"
        in refused.json()["message"]
    )
    async with b.waiting("gpu-1", "exclusive") as waiting:
        told = await waiting.at(1)
        assert "(its prompts are leaving)" in told["why"]
        assert [x["state"] for x in told["holders"]] == ["draining"]
        assert (await waiting.lock())["name"] == "b.ipynb"
        assert await world.queue() == []
    # It was waited for, not cancelled.
    assert (await a.ended(task_id))["state"] == "succeeded"


async def test_one_that_drains_takes_up_a_place_and_lets_others_share(world: World):
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    task_id = await running(world, a, 400, "shared")
    await a.release()
    await b.lock("gpu-1")
    (gpu, _) = (await b.get("pool"))["servers"]
    assert {x["name"]: x["state"] for x in gpu["holders"]} == {
        "a.ipynb": "draining",
        "b.ipynb": "held",
    }
    await a.cancel(task_id)
    await a.ended(task_id)


async def test_who_let_go_may_have_it_back_at_once(world: World):
    a = await world.kernel("a.ipynb")
    task_id = await running(world, a, 400)
    first = (await a.get("locks"))["locks"][0]
    await a.release()
    again = await a.lock("gpu-1", "exclusive")
    assert again["fence"] > first["fence"]
    assert len(await world.everybodys_locks()) == 1
    await a.cancel(task_id)
    await a.ended(task_id)


class TestPatience:
    @pytest.fixture
    def settings(self):
        return {"drain_timeout_s": 0.2}

    async def test_prompts_that_others_wait_for_too_long_are_cancelled(self, world: World):
        a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
        task_id = await running(world, a, 400)
        await a.release()
        async with b.waiting("gpu-1", "exclusive") as waiting:
            await waiting.lock()
            assert await world.queue() == []
        task = await a.ended(task_id)
        assert task["state"] == "cancelled"
        assert task["reason"] == "its kernel let go of gpu-1, and others wait for it"

    async def test_prompts_that_nobody_waits_for_run_on(self, world: World):
        a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
        task_id = await running(world, a, 30)
        await a.release()
        await b.lock("gpu-2", "exclusive")
        async with a.waiting("gpu-2") as elsewhere:
            assert (await elsewhere.error())["code"] == "server_consistency"
        assert (await a.ended(task_id))["state"] == "succeeded"


async def test_the_end_of_a_kernel_cancels_at_once_for_those_who_wait(world: World):
    """R8."""
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    await running(world, a, 400)
    async with b.waiting("gpu-1", "exclusive") as waiting:
        await waiting.at(1)
        await a.call("DELETE", "holders/me")
        async with asyncio.timeout(5):
            await waiting.lock()
        assert await world.queue() == []


# -- what an exclusive lock finds ----------------------------------------------------------------


def tag(world: World, holder_id: str = "gone.1") -> dict[str, object]:
    return {"store_id": world.app._keeper.store_id, "holder_id": holder_id, "fence": 1}


@pytest.mark.complaint(13)
async def test_who_has_it_alone_is_told_when_the_leftovers_of_others_are_gone(world: World):
    kernel = await world.kernel()
    leftover = await world.direct(graphs.steps(400), tag(world))
    strangers = await world.direct(graphs.steps(400))
    of_another_store = await world.direct(graphs.picture(), {**tag(world), "store_id": "another"})
    lock = await kernel.lock("gpu-1", "exclusive")
    queue = await world.queue()
    assert leftover not in queue
    assert set(queue) == {strangers, of_another_store}
    assert lock["foreign_prompts"] == 2
    # Nobody's to cancel; and told when granted, not ever after.
    assert (await kernel.get("locks"))["locks"][0]["foreign_prompts"] == 0
    async with world.session.post(
        f"{world.gpu.url}/interrupt", json={"prompt_id": strangers}
    ) as response:
        assert response.status == 200


async def test_prompts_of_ones_own_are_neither_leftovers_nor_foreign(world: World):
    kernel = await world.kernel()
    task_id = await running(world, kernel, 400, "shared")
    lock = await kernel.lock("gpu-1", "exclusive")
    assert lock["foreign_prompts"] == 0
    assert await world.queue() == [task_id]
    await kernel.cancel(task_id)
    await kernel.ended(task_id)


async def test_a_shared_lock_does_not_look_at_the_queue(world: World):
    kernel = await world.kernel()
    leftover = await world.direct(graphs.steps(400), tag(world))
    await kernel.lock("gpu-1")
    assert world.gpu.calls.to("/queue") == []
    assert world.gpu.calls.writes() == [("POST", "/prompt")]
    async with world.session.post(
        f"{world.gpu.url}/interrupt", json={"prompt_id": leftover}
    ) as response:
        assert response.status == 200


class TestLeftoversThatStay:
    @pytest.fixture
    def settings(self, monkeypatch):
        monkeypatch.setattr(ready, "_AT_LEAST_S", 0.3)
        monkeypatch.setattr(ready, "_LOOK_EVERY_S", 0.05)
        return {"drain_timeout_s": 0.0}

    async def test_are_named_and_what_was_had_before_is_told_to_be_lost(self, world: World):
        a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
        await a.lock("gpu-2")
        leftover = await world.direct(graphs.last_node_sleeps(3), tag(world))
        await eventually(world.runs, leftover)
        answer = await a.ask("gpu-1", "exclusive")
        assert answer.code == (409, "lock_refused")
        assert f"do not end: {leftover}" in answer.json()["message"]
        await a.heard.until(lambda: a.heard.of("lock")[-1]["lock"] is None)
        assert "was locked instead, and given back" in a.heard.of("lock")[-1]["reason"]
        told = await a.comfy("GET", "queue")
        assert told.code == (409, "stale_lock")
        await eventually(world.nobody_holds)
        await b.lock("gpu-2", "exclusive")
        await b.lock("gpu-1")

    async def test_on_a_server_that_does_not_tell_its_queue_nobody_is_alone(self, world: World):
        kernel = await world.kernel()
        world.gpu.faults.instead["/queue"] = lambda: web.Response(status=500)
        assert (await kernel.ask("gpu-1", "exclusive")).code == (502, "comfy_unreachable")
        assert await world.nobody_holds()
        await kernel.lock("gpu-1")
