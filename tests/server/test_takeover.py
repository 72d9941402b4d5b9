"""What a Jupyter server finds of others that are gone, and of itself (R6, R8, R9)."""

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest

from jupyter_comfy_lock.domain.lock import ComfyId, HolderId, LockId, Mode
from jupyter_comfy_lock.domain.pool import ComfyServer
from jupyter_comfy_lock.domain.request import Request
from jupyter_comfy_lock.domain.task import TaskId
from jupyter_comfy_lock.server.gateway.socket import TOO_SLOW
from tests.domain.things import a_snapshot, a_task
from tests.server import graphs
from tests.server.world import World, until


async def left_behind(world: World, comfy_id: str = "gpu-1") -> str:
    """A lock and a running task of a Jupyter server that was killed; return the task's id."""
    stores = world.stores
    node = await stores.nodes.join()
    holder = HolderId("gone.1")
    request = Request(
        lock_id=LockId(str(uuid4())),
        holder_id=holder,
        node_id=node,
        mode=Mode.EXCLUSIVE,
        wants=[ComfyServer(comfy_id=ComfyId(comfy_id), url=world.gpu.url)],
        name="gone.ipynb",
    )
    grant = await stores.locks.ask(request, wait=False)
    task_id = str(uuid4())
    snapshot = replace(a_snapshot("gone.1", comfy_id, grant.lock.fence), url=world.gpu.url)
    task = a_task(TaskId(task_id), holder_id=holder, node_id=node, lock=snapshot)
    await stores.tasks.register(task)
    body = {"prompt": graphs.steps(400), "prompt_id": task_id}
    async with world.session.post(f"{world.gpu.url}/prompt", json=body) as response:
        assert response.status == 200
    await stores.nodes.leave(node)
    return task_id


async def ended(world: World, task_id: str):
    found = {}

    async with world.user.events() as events:

        def over() -> bool:
            told = events.of("task") + [
                task for snapshot in events.of("snapshot") for task in snapshot["tasks"]
            ]
            found.update(
                {x["task_id"]: x for x in told if x["state"] not in ("registered", "running")}
            )
            return task_id in found

        await events.until(over)
    return found[task_id]


@pytest.mark.complaint(13)
async def test_what_a_killed_jupyter_server_left_is_released_and_cancelled(world: World):
    kernel = await world.kernel()
    task_id = await left_behind(world)
    # Whoever wants the place finds out that its holder is gone, and has it when its prompts are.
    await kernel.lock("gpu-1", "exclusive", wait=10)
    task = await ended(world, task_id)
    assert task["state"] == "cancelled"
    assert "stopped" in task["reason"]
    assert [x["name"] for x in (await world.user.get("locks"))["locks"]] == [""]
    async with world.session.get(f"{world.gpu.url}/queue") as response:
        assert (await response.json())["queue_running"] == []


async def test_a_task_whose_home_is_in_the_pool_no_more_is_lost(world: World):
    task_id = await left_behind(world, "gpu-9")
    await world.expire()
    task = await ended(world, task_id)
    assert task["state"] == "lost"
    assert "no longer in the pool" in task["reason"]


async def test_tasks_go_on_when_this_servers_own_lease_ran_out(world: World):
    kernel = await world.kernel("a.ipynb")
    await kernel.lock("gpu-1")
    task_id = await kernel.submit(graphs.steps(10))
    await kernel.task_in(task_id, "running")
    before = world.node_id
    await world.lose_the_lease()
    await world.renew()
    await world.expire()
    assert world.node_id != before
    assert (await kernel.get("locks"))["locks"] == []
    task = await kernel.ended(task_id)
    assert task["state"] == "succeeded"
    assert (await kernel.raw("GET", task["files"][0]["path"])).status == 200
    ends = [x for x in kernel.heard.states(task_id) if x == "succeeded"]
    assert ends == ["succeeded"]


async def test_of_two_processes_that_say_hello_at_once_one_is_the_kernel(world: World):
    kernel_id = f"attached-{uuid4()}"
    first = await world.kernel(kernel_id=kernel_id)
    await first.lock("gpu-1", "exclusive")
    answers = await asyncio.gather(*(world.hello(kernel_id=kernel_id) for _ in range(5)))
    assert {x.status for x in answers} == {201}
    known = world.app._registry.all()
    assert [x.kernel_id for x in known] == [kernel_id]
    working = []
    for each in answers:
        said = f"ComfyKernel {each.json()['credential']}"
        asked = await world.stranger.call("GET", "tasks", headers={"Authorization": said})
        if asked.status == 200:
            working.append(each.json()["holder"]["holder_id"])
    assert working == [known[0].holder_id]
    await until(lambda: not world.held())


@pytest.mark.trap("32-stalled-reader-stalls-everyone")
async def test_a_client_that_does_not_read_is_closed_and_not_waited_for(world: World):
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    task_id = await kernel.submit(graphs.picture())
    await kernel.ended(task_id)
    async with kernel.socket() as deaf, kernel.socket() as hears:
        await deaf.until(lambda x: x["type"] == "status")
        await hears.until(lambda x: x["type"] == "status")
        padding = "x" * 100_000
        frame = f'{{"type": "x", "data": {{"prompt_id": "{task_id}", "padding": "{padding}"}}}}'
        for _ in range(1500):
            world.app._streams._heard(kernel.holder_id, frame)
            await hears.until(lambda x: x["type"] == "x")
        assert await deaf.close_code() == TOO_SLOW
        assert len(deaf.frames) < 1500


@pytest.mark.parametrize("settings", [{"lease_ttl_s": 2.0}])
async def test_a_lease_is_renewed_for_as_long_as_the_server_lives(world: World):
    kernel = await world.kernel()
    lock = await kernel.lock("gpu-1")
    deadline = world.lease._deadline_s
    await until(lambda: world.lease._deadline_s > deadline + 2.5)
    assert (await kernel.get("locks"))["locks"] == [lock]
    assert (await kernel.comfy("GET", "queue")).status == 200
