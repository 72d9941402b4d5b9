"""Older ComfyUIs: no ids from us, no stop but of whatever runs. Nobody is hurt (R4, R9)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from jupyter_comfy_lock.domain.pool import ComfyStatus
from tests.server import graphs
from tests.server.world import Comfy, Kernel, World, eventually

OLDEST, TAKES_IDS, INTERRUPTS_ONE, NEWEST = "0.3.33", "0.3.45", "0.3.57", "0.33.0"
EACH = [OLDEST, TAKES_IDS, INTERRUPTS_ONE, NEWEST]
#: Those that can only stop whatever runs.
BLUNT = [OLDEST, TAKES_IDS]


@pytest.fixture
def version() -> str:
    return OLDEST


@pytest.fixture
def comfies(jp_asyncio_loop: asyncio.AbstractEventLoop, version: str) -> Iterator[dict[str, Comfy]]:
    """One ComfyUI server of that version."""
    comfy = Comfy("gpu-1", version=version)
    jp_asyncio_loop.run_until_complete(comfy.start())
    yield {"gpu-1": comfy}
    jp_asyncio_loop.run_until_complete(comfy.stop())


async def two(world: World) -> tuple[Kernel, Kernel]:
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    await a.lock("gpu-1")
    await b.lock("gpu-1")
    return a, b


def interrupts(world: World) -> list[Any]:
    return world.gpu.calls.bodies("/interrupt")


@pytest.mark.parametrize("version", EACH)
async def test_a_task_runs_and_counts_its_nodes(world: World, version: str):
    a = await world.kernel("a.ipynb")
    assert (await a.lock("gpu-1"))["comfy_id"] == "gpu-1"
    task_id = await a.submit(graphs.steps(40, delay=0.02))
    running = await a.task_in(task_id, "running")
    assert running["progress"]["nodes_total"] == 2
    ended = await a.ended(task_id)
    assert (ended["state"], ended["progress"]["nodes_done"]) == ("succeeded", 2)
    assert len(ended["files"]) == 1
    picture = await a.call("GET", ended["files"][0]["path"].removeprefix("comfy-lock/api/"))
    assert picture.body.startswith(b"\x89PNG")


@pytest.mark.parametrize("version", EACH)
async def test_an_unmodified_client_follows_its_prompt_by_the_id_in_the_answer(
    world: World, version: str
):
    a, b = await two(world)
    async with a.socket() as socket:
        prompt_id = await a.prompt(graphs.picture())
        await socket.end_of(prompt_id)
    history = (await a.comfy("GET", f"history/{prompt_id}")).json()
    assert history[prompt_id]["outputs"]["2"]["images"]
    assert list((await a.comfy("GET", "history")).json()) == [prompt_id]
    assert (await b.comfy("GET", f"history/{prompt_id}")).json() == {}
    assert (await b.comfy("GET", "history")).json() == {}
    (task,) = (await a.get("tasks"))["tasks"]
    assert task["state"] == "succeeded"
    assert (task["task_id"] == prompt_id) is (version != OLDEST)


async def test_news_that_overtake_the_name_of_a_prompt_reach_its_client(world: World):
    a = await world.kernel("a.ipynb")
    await a.lock("gpu-1")
    world.gpu.faults.answers.clear()
    async with a.socket() as socket:
        asking = asyncio.ensure_future(a.prompt(graphs.picture()))
        await eventually(world.history)
        assert not asking.done()
        world.gpu.faults.answers.set()
        prompt_id = await asking
        await socket.end_of(prompt_id)
        kinds = [x["type"] for x in socket.texts() if x["data"].get("prompt_id") == prompt_id]
    assert kinds[0] == "execution_start"
    assert "executed" in kinds


@pytest.mark.parametrize("version", EACH)
@pytest.mark.parametrize("fault", ["lose_replies", "queued_but_500"])
async def test_a_lost_answer_leads_to_one_run(world: World, version: str, fault: str):
    a = await world.kernel("a.ipynb")
    await a.lock("gpu-1")
    setattr(world.gpu.faults, fault, 1)
    task_id = await a.submit(graphs.picture())
    assert (await a.ended(task_id))["state"] == "succeeded"
    assert len(await world.history()) == 1


@pytest.mark.parametrize("version", EACH)
async def test_a_cancelled_prompt_that_waits_never_runs(world: World, version: str):
    a, b = await two(world)
    running = await b.submit(graphs.steps(40, delay=0.02))
    await b.task_in(running, "running")
    waiting = await a.submit(graphs.picture())
    await a.task_in(waiting, "queued")
    await a.cancel(waiting)
    assert (await a.ended(waiting))["state"] == "cancelled"
    assert (await b.ended(running))["state"] == "succeeded"
    assert len(await world.history()) == 1
    if version in BLUNT:
        assert interrupts(world) == []


@pytest.mark.parametrize("version", EACH)
async def test_under_an_exclusive_lock_what_runs_is_stopped(world: World, version: str):
    a = await world.kernel("a.ipynb")
    await a.lock("gpu-1", "exclusive")
    running, next_one = await a.submit(graphs.steps(400)), await a.submit(graphs.picture())
    await a.task_in(running, "running")
    await a.cancel(running)
    assert (await a.ended(running))["state"] == "cancelled"
    assert (await a.ended(next_one))["state"] == "succeeded"


@pytest.mark.parametrize("version", BLUNT)
async def test_under_a_shared_lock_it_is_refused_to_stop_what_runs(world: World, version: str):
    a, b = await two(world)
    running = await a.submit(graphs.steps(30, delay=0.02))
    others = await b.submit(graphs.picture())
    await a.task_in(running, "running")
    answer = await a.call("POST", f"tasks/{running}/cancel")
    assert answer.code == (409, "cannot_interrupt")
    message = answer.json()["message"]
    for told in (running, "gpu-1", version, "exclusively"):
        assert told in message
    assert (await a.ended(running))["state"] == "succeeded"
    assert (await b.ended(others))["state"] == "succeeded"
    assert interrupts(world) == []


@pytest.mark.parametrize("version", BLUNT)
async def test_an_unmodified_client_is_refused_likewise(world: World, version: str):
    a, b = await two(world)
    running = await a.prompt(graphs.steps(30, delay=0.02))
    await eventually(world.runs, running)
    others = await b.submit(graphs.picture())
    refused = [
        await a.comfy("POST", "interrupt", json=body) for body in ({}, {"prompt_id": running})
    ]
    assert {x.code for x in refused} <= {(409, "cannot_interrupt"), (200, "")}
    assert (409, "cannot_interrupt") in {x.code for x in refused}
    assert (await b.ended(others))["state"] == "succeeded"
    assert interrupts(world) == []


@pytest.mark.parametrize("version", BLUNT)
async def test_a_lock_that_was_exclusive_and_is_shared_stops_nothing(world: World, version: str):
    a = await world.kernel("a.ipynb")
    await a.lock("gpu-1", "exclusive")
    running = await a.submit(graphs.steps(30, delay=0.02))
    await a.task_in(running, "running")
    await a.lock("gpu-1", "shared")
    answer = await a.call("POST", f"tasks/{running}/cancel")
    assert answer.code == (409, "cannot_interrupt")
    assert (await a.ended(running))["state"] == "succeeded"
    assert interrupts(world) == []


@pytest.mark.parametrize(
    ("mode", "steps", "state"), [("exclusive", 400, "cancelled"), ("shared", 40, "succeeded")]
)
async def test_the_end_of_a_kernel_takes_off_what_can_be(
    world: World, mode: str, steps: int, state: str
):
    a = await world.kernel("a.ipynb")
    await a.lock("gpu-1", mode)
    running = await a.submit(graphs.steps(steps, delay=0.02))
    waiting = await a.submit(graphs.picture())
    await a.task_in(running, "running")
    assert (await a.call("DELETE", "holders/me")).status == 204
    assert await ends(world, running) == state
    assert await ends(world, waiting) == "cancelled"
    assert await world.queue() == []
    b = await world.kernel("b.ipynb")
    await b.lock("gpu-1", "exclusive")


async def ends(world: World, task_id: str) -> str:
    """How a task ends, as the Jupyter user sees it."""

    async def ended() -> str:
        task = await world.user.get(f"tasks/{task_id}")
        return str(task["state"]) if task["ended_at"] is not None else ""

    return str(await eventually(ended))


async def test_a_task_taken_over_is_found_by_the_tag_of_its_prompt(world: World):
    a = await world.kernel("a.ipynb")
    await a.lock("gpu-1", "exclusive")
    world.gpu.faults.lose_replies = 2
    task_id = await a.submit(graphs.steps(400))
    task = await a.task_in(task_id, "running")
    assert task["task_id"] not in await world.queue()
    await a.cancel(task_id)
    assert (await a.ended(task_id))["state"] == "cancelled"


@pytest.mark.parametrize("version", EACH)
async def test_one_that_was_never_looked_at_is_before_anything_is_stopped_there(
    world: World, version: str
):
    a = await world.kernel("a.ipynb")
    await a.lock("gpu-1", "exclusive")
    running = await a.submit(graphs.steps(400))
    await a.task_in(running, "running")
    upstream = world.app._upstreams["gpu-1"]
    upstream.status = ComfyStatus()
    await a.cancel(running)
    assert (await a.ended(running))["state"] == "cancelled"
    assert upstream.status.version == version
