"""Each kind of trouble is planted in a running Jupyter server: all of it is found, nothing else."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web

from jupyter_comfy_lock.domain.task import TaskState
from tests.server import graphs
from tests.server.conftest import SECRET
from tests.server.planted import (
    called,
    close,
    dead_node,
    plant_lock,
    plant_task,
    tag_of,
    waits_since,
)
from tests.server.world import Caller, Comfy, Kernel, World, eventually

NOBODY, DEAD, SLOW = "nobody.1", "dead.1", "slow.1"


@pytest.fixture
def pool(comfies: dict[str, Comfy]) -> Any:
    """Two ComfyServers for two kernels each."""
    return [
        {"id": each.comfy_id, "url": each.url, "capacity": 2, "headers": {"X-Pass": SECRET}}
        for each in comfies.values()
    ]


@pytest.fixture
def settings() -> dict[str, Any]:
    """What is planted is not put in order while a test looks for it."""
    return {"lease_ttl_s": 3600.0}


async def check(caller: Caller) -> dict[str, Any]:
    return dict(await caller.get("check"))


def found(checked: dict[str, Any]) -> set[tuple[Any, ...]]:
    keys = ("kind", "comfy_id", "holder_id", "task_id")
    return {tuple(each[key] for key in keys) for each in checked["findings"]}


async def test_where_kernels_work_wait_and_end_nothing_is_found(world: World):
    a, b, c, gone = [await world.kernel(f"{name}.ipynb") for name in ("a", "b", "c", "gone")]
    await a.lock("gpu-1", "exclusive")
    await b.lock("gpu-2")
    await gone.lock("gpu-2")
    running = [await each.submit(graphs.steps(400)) for each in (a, b, gone)]
    await a.task_in(running[0], "running")
    async with c.waiting("gpu-1") as waiting:
        await waiting.at(1)
        assert (await gone.call("DELETE", "holders/me")).status == 204
        await b.release()
        checked = await check(world.user)
        assert checked["findings"] == []
        assert checked["looked_at"]["servers"] == 2
        assert checked["looked_at"]["waiting"] == 1
        assert checked["left_out"] == []


async def everything(
    world: World, c: Kernel, d: Kernel
) -> tuple[dict[str, Any], set[tuple[Any, ...]]]:
    """Plant everything that can be wrong at the same time; return who there is, and what is.

    C has gpu-2, and D waits for it; both will find that it does not answer.
    """
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    await a.lock("gpu-1")
    mine = await a.submit(graphs.steps(400))
    await a.task_in(mine, "running")
    node = await dead_node(world)
    await plant_lock(world, NOBODY, "gpu-1", mode="exclusive")
    await plant_lock(world, DEAD, "gpu-1", node_id=node)
    ended = {"state": "draining", "ended_by": "released"}
    await plant_lock(world, SLOW, "gpu-2", **ended, ended_at=time.time() - 500)
    await plant_lock(world, a.holder_id, "gpu-7", **ended, ended_at=time.time())
    tasks = {
        "without comfy": await plant_task(world, a.holder_id, "gpu-7"),
        "without holder": await plant_task(world, NOBODY, "gpu-1"),
        "without lock": await plant_task(world, b.holder_id, "gpu-1"),
        "unreachable": await plant_task(world, c.holder_id, "gpu-2"),
        "ended": await plant_task(world, NOBODY, "gpu-1", state=TaskState.LOST, ended_at=5.0),
    }
    unknown = await world.direct(graphs.steps(400), tag_of(world, NOBODY, str(uuid4())))
    after = await world.direct(graphs.steps(400), tag_of(world, NOBODY, tasks["ended"]))
    await called(world, tasks["ended"], after)
    await world.direct(graphs.steps(400))
    expected = {
        ("over_capacity", "gpu-1", None, None),
        ("not_exclusive", "gpu-1", None, None),
        ("stale_lock", "gpu-1", NOBODY, None),
        ("stale_lock", "gpu-1", DEAD, None),
        ("slow_drain", "gpu-2", SLOW, None),
        ("comfy_down", "gpu-2", None, None),
        ("vain_wait", "gpu-2", d.holder_id, None),
        ("task_without_comfy", "gpu-7", a.holder_id, tasks["without comfy"]),
        ("task_without_holder", "gpu-1", NOBODY, tasks["without holder"]),
        ("task_without_lock", "gpu-1", b.holder_id, tasks["without lock"]),
        ("task_unreachable", "gpu-2", c.holder_id, tasks["unreachable"]),
        ("unregistered_prompt", "gpu-1", NOBODY, unknown),
        ("prompt_after_end", "gpu-1", NOBODY, after),
        ("foreign_prompts", "gpu-1", None, None),
    }
    return {"b": b, "mine": mine}, expected


async def test_all_that_is_planted_is_found_at_once_and_nothing_else(world: World):
    c, d = await world.kernel("c.ipynb"), await world.kernel("d.ipynb")
    await c.lock("gpu-2")
    async with d.waiting("gpu-2", "exclusive") as waiting:
        await waiting.at(1)
        await waits_since(world, d.holder_id, time.time() - 400)
        who, expected = await everything(world, c, d)
        await world.comfies["gpu-2"].stop()
        world.app._upstreams["gpu-2"].looked_s -= 2
        sent = len(world.gpu.calls.writes())
        checked = await check(world.user)
        assert found(checked) == expected
        levels = [each["level"] for each in checked["findings"]]
        assert levels == sorted(levels, reverse=True)
        assert all(each["what"] and each["todo"] for each in checked["findings"])
        # R11, R10.
        assert len(world.gpu.calls.writes()) == sent
        assert SECRET not in str(checked)
        await a_kernel_is_told_less(world, who, expected)


async def a_kernel_is_told_less(world: World, who: Any, expected: set[tuple[Any, ...]]) -> None:
    """R4, R10: what `servers()` tells of all, and its own tasks."""
    checked = await check(who["b"])
    mine = who["b"].holder_id
    assert found(checked) == {each for each in expected if each[2] == mine or each[3] is None}
    assert any("Jupyter user sees all" in each for each in checked["left_out"])
    for task_id in {each[3] for each in expected if each[2] != mine} - {None}:
        assert task_id not in str(checked)
    assert who["mine"] not in str(checked)


async def test_a_dead_worker_is_found_by_what_stays_where_it_is(world: World):
    kernel = await world.kernel("a.ipynb")
    await kernel.lock("gpu-1")
    task_id = await kernel.submit(graphs.steps(400))
    item = [7, task_id, {}, {"jupyter_comfy_lock": tag_of(world, kernel.holder_id, task_id)}, []]
    queue = {"queue_running": [], "queue_pending": [item]}
    world.gpu.faults.instead["/queue"] = lambda: web.json_response(queue)
    for caller in (world.user, kernel):
        assert found(await check(caller)) == {("worker_dead", "gpu-1", None, task_id)}
    world.gpu.faults.instead.clear()
    assert found(await check(world.user)) == set()


async def test_a_moment_between_two_prompts_is_no_dead_worker(world: World):
    """What one look finds and the next does not is a step from one state to another."""
    queues = iter(
        [
            {"queue_running": [], "queue_pending": [[1, "p1", {}, {}, []]]},
            {"queue_running": [[1, "p1", {}, {}, []]], "queue_pending": []},
        ]
    )
    world.gpu.faults.instead["/queue"] = lambda: web.json_response(next(queues))
    (foreign,) = (await check(world.user))["findings"]
    assert foreign["kind"] == "foreign_prompts"
    assert next(queues, None) is None


async def test_a_restart_and_another_version_are_told_to_who_held_it(world: World):
    kernel = await world.kernel("a.ipynb")
    await kernel.lock("gpu-1")
    await world.gpu.kill()
    upstream = world.app._upstreams["gpu-1"]
    await upstream.look()
    assert {each[0] for each in found(await check(kernel))} == {"comfy_down"}
    await world.gpu.restart()
    upstream.status = replace(upstream.status, version="0.3.60")
    await upstream.look()
    checked = await check(kernel)
    assert found(checked) == {("comfy_changed", "gpu-1", None, None)}
    said = sorted(each["what"] for each in checked["findings"])
    assert said[0].startswith("gpu-1 runs ComfyUI ")
    assert said[0].endswith("; it was 0.3.60 while a.ipynb held it")
    assert said[1] == "gpu-1 was restarted while a.ipynb held it"
    assert all(each["since"] == pytest.approx(time.time(), abs=60) for each in checked["findings"])


async def test_who_waits_for_what_an_operator_closed_waits_in_vain(world: World):
    """The store takes such out of the line; here it has not."""
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    await a.lock("gpu-1", "exclusive")
    async with b.waiting("gpu-1") as waiting:
        await waiting.at(1)
        await close(world, "gpu-1")
        assert found(await check(world.user)) == {("vain_wait", "gpu-1", b.holder_id, None)}


async def test_a_lock_whose_kernel_is_silent_is_stale(world: World):
    kernel = await world.kernel("a.ipynb")
    await kernel.lock("gpu-1")
    world.holder(kernel).renewed_s -= 3601
    await eventually(lambda: is_stale(world, kernel.holder_id))


async def is_stale(world: World, holder_id: str) -> bool:
    """Whether it is found so, or was ended for it already, as it is within two seconds."""
    known = found(await check(world.user))
    return known == {("stale_lock", "gpu-1", holder_id, None)} or await world.nobody_holds()
