"""All that is known of one kernel is told to itself and to the Jupyter user, without secrets."""

from __future__ import annotations

import time

import pytest

import jupyter_comfy_lock
from tests.server import graphs
from tests.server.conftest import SECRET
from tests.server.world import Kernel, World, until


async def debug(kernel: Kernel):
    return await kernel.get("holders/me/debug")


async def test_what_a_kernel_is_what_it_holds_and_what_goes_on(world: World):
    kernel = await world.kernel("a.ipynb")
    before = await debug(kernel)
    assert before["holder"]["holder_id"] == kernel.holder_id
    assert (before["lock"], before["comfy"], before["waiting"]) == (None, None, [])
    assert before["sockets"] == {"gateway": 0, "upstream": "closed", "client_id": None}
    assert before["events"] == {"streams": 1, "last_ended_s": None}
    lock = await kernel.lock("gpu-1", "exclusive")
    ended = await kernel.ended(await kernel.submit(graphs.picture()))
    pending = await kernel.submit(graphs.steps(400))
    await kernel.call("PUT", "holders/me/pin", json={"comfy_id": "gpu-2"})
    port = (await kernel.call("PUT", "holders/me/port", json={})).json()["port"]
    async with kernel.socket():
        told = await debug(kernel)
    assert told["lock"] == lock
    assert (told["comfy"]["comfy_id"], told["comfy"]["health"]) == ("gpu-1", "ok")
    assert [x["task_id"] for x in told["tasks"]["pending"]] == [pending]
    assert [x["task_id"] for x in told["tasks"]["last"]] == [ended["task_id"]]
    assert (told["pin"], told["port"]) == ("gpu-2", port)
    assert (told["sockets"]["gateway"], told["sockets"]["upstream"]) == (1, "open")
    # What the ComfyServer is told of it is what its tasks were sent under.
    assert told["sockets"]["client_id"] == ended["lock"]["client_id"]
    lease = told["lease"]
    assert 0 < lease["left_s"] < lease["ttl_s"]
    assert lease["renewed_s_ago"] < lease["ttl_s"]
    assert told["versions"]["jupyter_comfy_lock"] == jupyter_comfy_lock.__version__
    assert told["at"] == pytest.approx(time.time(), abs=60)


async def test_how_it_stands_in_line_and_that_nobody_renews(world: World):
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    await a.lock("gpu-1", "exclusive")
    async with b.waiting("gpu-1") as waiting:
        await waiting.at(1)
        (standing,) = (await debug(b))["waiting"]
        assert standing["place"] == 1
        assert (await debug(a))["waiting"] == []
    world.let_time_pass(3600)
    assert (await debug(a))["lease"]["left_s"] == 0


async def test_a_lock_that_was_lost_says_how_until_it_is_told(world: World):
    kernel = await world.kernel("a.ipynb")
    lock = await kernel.lock("gpu-1")
    await world.force(kernel, "night run")
    told = await debug(kernel)
    assert told["lock"] is None
    assert (told["lost"]["comfy_id"], told["lost"]["fence"]) == ("gpu-1", lock["fence"])
    assert "night run" in told["lost"]["why"]
    assert (await kernel.comfy("GET", "queue")).code == (409, "stale_lock")
    told = await debug(kernel)
    assert told["lost"] is None
    assert [x["code"] for x in told["errors"]] == ["lock_lost", "stale_lock"]


async def test_the_last_refusals_are_kept_of_each_kernel_alone(world: World):
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    await a.call("POST", "locks", json={"comfy_id": "gpu-9"})
    await a.call("POST", "tasks", json={"prompt": graphs.picture()})
    await a.comfy("GET", "queue")
    await a.lock("gpu-1")
    await a.comfy("POST", "free")
    await a.comfy("GET", "internal/logs")
    errors = (await debug(a))["errors"]
    assert [(x["where"], x["code"]) for x in errors] == [
        ("POST locks", "unknown_comfy"),
        ("POST tasks", "no_lock"),
        ("GET gateway /queue", "no_lock"),
        ("POST gateway /free", "not_yours"),
        ("GET gateway /internal/logs", "not_yours"),
    ]
    assert "gpu-9" in errors[0]["message"]
    assert (await debug(b))["errors"] == []
    for _ in range(20):
        await a.call("GET", "tasks/none")
    errors = (await debug(a))["errors"]
    assert len(errors) == 10
    assert {x["code"] for x in errors} == {"unknown_task"}


async def test_a_wait_in_vain_is_among_them_too(world: World):
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    await a.lock("gpu-1", "exclusive")
    await b.ask("gpu-1", wait=0.2)
    assert [x["code"] for x in (await debug(b))["errors"]] == ["lock_timeout"]


async def test_they_are_forgotten_with_their_kernel(world: World):
    kernel = await world.kernel("a.ipynb")
    await kernel.call("GET", "tasks/none")
    kept = world.app._services.refusals
    assert kept.of(kernel.holder_id)
    await kernel.call("DELETE", "holders/me")
    await until(lambda: not kept._of)


async def test_nobody_looks_into_another_kernel_but_the_user(world: World):
    """R4, R10."""
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    await a.lock("gpu-1")
    path = f"holders/{a.holder_id}/debug"
    assert (await b.call("GET", path)).code == (403, "not_yours")
    assert (await world.stranger.call("GET", path)).status == 403
    assert (await world.user.call("GET", "holders/me/debug")).code == (403, "not_yours")
    seen, own = await world.user.get(path), await a.get(path)
    assert (seen["holder"], seen["lock"]) == (own["holder"], own["lock"])
    unknown = await world.user.call("GET", "holders/nobody.1/debug")
    assert unknown.code == (400, "bad_request")
    assert a.holder_id in unknown.json()["message"]


async def test_no_secret_is_in_it(world: World):
    """R10."""
    kernel = await world.kernel("a.ipynb")
    await kernel.lock("gpu-1")
    await kernel.comfy("GET", "internal/logs")
    await kernel.comfy("GET", f"history/{kernel.gateway_key}x")
    for caller in (kernel, world.user):
        shown = str(await caller.get(f"holders/{kernel.holder_id}/debug"))
        for secret in (kernel.credential, SECRET, world.token):
            assert secret not in shown
