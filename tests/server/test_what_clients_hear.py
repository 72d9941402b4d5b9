"""What a client of ComfyUI is told through the gateway, and when (R4, R9)."""

from __future__ import annotations

import asyncio
import json
from uuid import uuid4

from tests.server import graphs
from tests.server.world import Gate, World, eventually


def left(frame) -> int | None:
    """How many prompts a status says are left to do."""
    if not isinstance(frame, dict) or frame["type"] != "status":
        return None
    return int(frame["data"]["status"]["exec_info"]["queue_remaining"])


async def test_the_last_prompt_is_counted_no_more_before_it_is_said_to_be_over(world: World):
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    async with kernel.socket() as hears:
        task_id = await kernel.prompt(graphs.picture())
        await hears.end_of(task_id)
    counts = [count for frame in hears.texts() if (count := left(frame)) is not None]
    assert 1 in counts
    assert counts[-1] == 0


async def test_a_prompt_that_ends_without_a_word_of_comfyui_is_counted_no_more(world: World):
    a, b = await world.kernel(), await world.kernel()
    await a.lock("gpu-1")
    await b.lock("gpu-1")
    running = await b.prompt(graphs.steps(400))
    await b.task_in(running, "running")
    waiting = await a.prompt(graphs.picture())
    async with a.socket() as hears:
        assert left(await hears.until(lambda frame: left(frame) is not None)) == 1
        await a.comfy("POST", "queue", json={"delete": [waiting]})
        await hears.until(lambda frame: left(frame) == 0)
    await b.cancel(running)


async def test_a_silent_socket_tells_of_the_end_that_was_found_by_looking(world: World):
    world.gpu.faults.silent = True
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    async with kernel.socket() as hears:
        task_id = await kernel.prompt(graphs.picture())
        await hears.until(lambda frame: left(frame) == 0)
        await kernel.ended(task_id)
        await hears.until(lambda frame: left(frame) == 0)


async def test_a_base_url_may_be_written_as_clients_write_it(world: World):
    """JupyterHub has "%40" in the base URL of a user "a@b", which many a client takes for "@"."""
    assert "/a%40b/" in world.base
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    kernel.base = world.base.replace("%40", "@")
    assert (await kernel.comfy("GET", "queue")).json() == {
        "queue_running": [],
        "queue_pending": [],
    }
    async with kernel.socket() as hears:
        await hears.until(lambda frame: left(frame) == 0)
    # Nothing else is there under that name.
    assert (await kernel.call("GET", "pool", described=False)).status == 404


async def nobody_looks(world: World) -> None:
    """Have the registry hear of nothing: the socket is silent, and it looks at nothing."""
    world.gpu.faults.silent = True
    await world.app._follower.stop()


async def test_an_interrupt_stops_a_prompt_whose_start_was_not_heard_of(world: World):
    await nobody_looks(world)
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    for named in (False, True):
        task_id = await kernel.prompt(graphs.steps(400))
        await eventually(world.runs, task_id)
        assert world.app._tasks.live(task_id).task.state == "queued"
        body = {"prompt_id": task_id} if named else {}
        assert (await kernel.comfy("POST", "interrupt", json=body)).status == 200

        async def stopped(task_id: str = task_id) -> bool:
            await world.app._follower.look()
            return world.app._tasks.live(task_id).task.state == "cancelled"

        await eventually(stopped)


async def test_files_can_be_had_as_soon_as_the_history_names_them(world: World):
    await nobody_looks(world)
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    for path in ("history/{}", "history"):
        task_id = await kernel.prompt(graphs.picture())

        async def entry(path: str = path, task_id: str = task_id):
            return (await kernel.comfy("GET", path.format(task_id))).json().get(task_id)

        (image,) = (await eventually(entry))["outputs"]["2"]["images"]
        query = "&".join(f"{key}={value}" for key, value in image.items())
        assert (await kernel.comfy("GET", f"view?{query}")).status == 200
        assert (await kernel.get(f"tasks/{task_id}"))["state"] == "succeeded"


async def test_what_was_dropped_is_known_though_the_history_is_read_before_the_answer(world: World):
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    answered = Gate(world.app._services.submitter, "_answered")
    prompt_id = str(uuid4())
    bad = {"3": {"class_type": "SaveImage", "inputs": {}}}
    asking = asyncio.create_task(
        kernel.prompt({**graphs.picture(), **bad}, prompt_id=prompt_id),
    )
    await answered.is_reached()

    async def entry():
        return (await kernel.comfy("GET", f"history/{prompt_id}")).json()

    await eventually(entry)
    answered.go.set()
    assert await asking == prompt_id
    task = await kernel.ended(prompt_id)
    assert (task["state"], list(task["dropped"])) == ("succeeded", ["3"])


async def test_a_flood_of_progress_closes_no_client_that_reads_and_its_newest_comes(world: World):
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    task_id = await kernel.submit(graphs.picture())
    await kernel.ended(task_id)

    def says(kind: str, **data) -> None:
        frame = {"type": kind, "data": {"prompt_id": task_id, **data}}
        world.app._streams._heard(kernel.holder_id, json.dumps(frame))

    async with kernel.socket() as hears:
        await hears.until(lambda frame: left(frame) is not None)
        # As when the Jupyter server was held up: nothing can be sent on in between.
        for step in range(5000):
            says("progress", node="1", value=step, max=5000)
            says("progress", node="2", value=step, max=5000)
        says("executing", node="3")
        await hears.until(lambda frame: frame["type"] == "executing")
    for node in "12":
        told = [x["data"] for x in hears.texts() if x["data"].get("node") == node]
        steps = [x["value"] for x in told]
        assert steps == sorted(steps)
        assert steps[-1] == 4999
