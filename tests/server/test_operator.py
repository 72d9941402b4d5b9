"""What the Jupyter user does to others' locks and to ComfyServers, and how they are told."""

import time

import pytest

from tests.server import graphs
from tests.server.world import Kernel, World, eventually


async def at_work(world: World, name: str, comfy_id: str = "gpu-1") -> tuple[Kernel, str]:
    kernel = await world.kernel(name)
    await kernel.lock(comfy_id)
    task_id = await kernel.submit(graphs.steps(400))
    return kernel, task_id


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "holders/{other}/release", {"why": "mine now"}),
        ("POST", "holders/{me}/release", {"why": "x"}),
        ("PUT", "pool/gpu-1/state", {"state": "disabled", "why": "x"}),
        ("PUT", "pool/gpu-1/state", {"state": "open"}),
    ],
)
async def test_no_kernel_may_do_it(world: World, method: str, path: str, body):
    """R10."""
    kernel, other = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    lock = await other.lock("gpu-1")
    path = path.format(other=other.holder_id, me=kernel.holder_id)
    assert (await kernel.call(method, path, json=body)).code == (403, "not_yours")
    assert (await world.stranger.call(method, path, json=body)).status == 403
    assert (await other.get("locks"))["locks"] == [lock]
    assert (await world.user.get("pool"))["servers"][0]["state"] == "open"


@pytest.mark.parametrize("call", ["a task", "the gateway", "its socket"])
async def test_the_victim_is_told_who_when_and_why_on_its_next_call(world: World, call: str):
    kernel, task_id = await at_work(world, "a.ipynb")
    moment = time.strftime("%Y-%m-%d %H:%M")
    released = await world.force(kernel, "the GPU is needed")
    assert (released["comfy_id"], released["name"]) == ("gpu-1", "a.ipynb")
    said = await kernel.heard.until(lambda: [x for x in kernel.heard.of("lock") if not x["lock"]])
    assert said[0]["reason"].startswith("taken away by ")
    assert said[0]["reason"].endswith(": the GPU is needed")
    if call == "a task":
        answer = await kernel.call("POST", "tasks", json={"prompt": graphs.picture()})
    else:
        answer = await kernel.comfy("POST" if call == "the gateway" else "GET", "prompt", json={})
    assert answer.code == (409, "stale_lock")
    for part in ("taken away by ", moment[:13], "the GPU is needed", "gpu-1"):
        assert part in answer.json()["message"]
    # Its prompts are off the ComfyServer, which is somebody else's then.
    task = await kernel.ended(task_id)
    assert task["state"] == "cancelled"
    assert "taken away by" in task["reason"]
    other = await world.kernel("b.ipynb")
    await other.lock("gpu-1", "exclusive", wait=10)
    assert await world.queue() == []
    # And it may lock again, and is told of nothing then.
    await kernel.lock("gpu-2")
    assert (await kernel.comfy("GET", "queue")).status == 200


async def test_others_on_the_same_server_notice_nothing(world: World):
    """R4."""
    victim, _ = await at_work(world, "a.ipynb")
    other, task_id = await at_work(world, "b.ipynb")
    await world.force(victim)
    await other.task_in(task_id, "running")
    assert len((await other.get("locks"))["locks"]) == 1
    await other.cancel(task_id)
    await other.ended(task_id)


async def test_a_place_in_the_line_is_taken_away_too(world: World):
    a, b, c = [await world.kernel(f"{name}.ipynb") for name in "abc"]
    await a.lock("gpu-1", "exclusive")
    async with b.waiting("gpu-1") as second, c.waiting("gpu-1") as third:
        await second.at(1)
        await third.at(2)
        assert await world.force(b, "not today") is None
        error = await second.error()
        assert "taken away by " in error["message"]
        assert "not today" in error["message"]
        await third.at(1)


async def test_who_holds_nothing_loses_nothing(world: World):
    kernel = await world.kernel()
    assert await world.force(kernel) is None
    answer = await world.user.call("POST", "holders/nobody.1/release", json={})
    assert (answer.status, answer.json()) == (200, {"released": None})
    await kernel.lock("gpu-1")


# -- closing a ComfyServer -----------------------------------------------------------------------


async def test_on_one_that_is_to_be_drained_those_who_have_it_go_on_and_nobody_else_gets_it(
    world: World,
):
    a, b, c = [await world.kernel(f"{name}.ipynb") for name in "abc"]
    lock = await a.lock("gpu-1")
    async with b.waiting("gpu-1", "exclusive") as waiting:
        await waiting.at(1)
        shown = await world.set_state("gpu-1", "draining", "new GPU")
        assert (shown["state"], shown["state_why"]) == ("draining", "new GPU")
        assert shown["state_by"]
        assert shown["state_since"] == pytest.approx(time.time(), abs=60)
        error = await waiting.error()
        assert "gpu-1 is draining: new GPU" in error["message"]
    for wait in (0, None):
        refused = await c.ask("gpu-1", wait=wait)
        assert refused.code == (409, "comfy_closed")
        assert f"draining by {shown['state_by']} since 20" in refused.json()["message"]
        assert "new GPU" in refused.json()["message"]
    # What it has, it has; and no more than that.
    assert (await a.ended(await a.submit(graphs.picture())))["state"] == "succeeded"
    assert await a.lock("gpu-1") == lock
    assert (await a.ask("gpu-1", "exclusive")).code == (409, "comfy_closed")
    await a.release()
    assert (await a.ask("gpu-1")).code == (409, "comfy_closed")
    assert (await world.user.get("pool"))["servers"][0]["state"] == "draining"
    assert (await world.set_state("gpu-1", "open", ""))["state"] == "open"
    await c.lock("gpu-1")


async def test_one_that_is_disabled_is_taken_from_those_who_have_it(world: World):
    a, task_id = await at_work(world, "a.ipynb")
    b = await world.kernel("b.ipynb")
    elsewhere = await b.lock("gpu-2")
    await world.set_state("gpu-1", "disabled", "on fire")
    assert (await a.ended(task_id))["state"] == "cancelled"
    answer = await a.call("POST", "tasks", json={"prompt": graphs.picture()})
    assert answer.code == (409, "stale_lock")
    assert "gpu-1 is disabled: on fire" in answer.json()["message"]
    assert (await a.ask("gpu-1")).code == (409, "comfy_closed")
    await eventually(lambda: holders_are(world, ["b.ipynb"]))
    assert (await b.get("locks"))["locks"] == [elsewhere]
    await world.set_state("gpu-1", "open")
    await a.lock("gpu-1", "exclusive")


async def holders_are(world: World, names: list[str]) -> bool:
    return [x["name"] for x in await world.everybodys_locks()] == names


async def test_a_state_that_is_none_is_refused_and_changes_nothing(world: World):
    for body in ({}, {"state": "closed"}, {"state": None}, {"state": ["open"]}):
        answer = await world.user.call("PUT", "pool/gpu-1/state", json=body)
        assert answer.code == (400, "bad_request")
        assert answer.json()["details"] == {"field": "state"}
    unknown = await world.user.call("PUT", "pool/gpu-9/state", json={"state": "open"})
    assert unknown.code == (404, "unknown_comfy")


async def test_while_the_store_is_away_nothing_is_taken_away(world: World):
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    async with world.store_away():
        path = f"holders/{kernel.holder_id}/release"
        answer = await world.user.call("POST", path, json={"why": "x"})
        assert answer.code == (503, "store_unavailable")
        body = {"state": "disabled", "why": "x"}
        answer = await world.user.call("PUT", "pool/gpu-1/state", json=body)
        assert answer.code == (503, "store_unavailable")
        assert (await kernel.comfy("GET", "queue")).status == 200
    await kernel.ended(await kernel.submit(graphs.picture()))
