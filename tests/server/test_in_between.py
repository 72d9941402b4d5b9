"""What goes wrong between two steps: a holder that ends, a store that is away, words sent twice."""

import asyncio
import json
from uuid import uuid4

import pytest
from aiohttp import web

from jupyter_comfy_lock.domain.errors import StoreUnavailable
from jupyter_comfy_lock.domain.proof import proof
from tests.server import graphs
from tests.server.world import World, until


async def test_a_holder_that_ends_while_it_waits_for_a_lock_leaves_none(world: World):
    """R8."""
    kernel, other = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    ask = world.stores.locks.ask

    async def ask_late(*args, **more):
        await kernel.call("DELETE", "holders/me")
        return await ask(*args, **more)

    world.stores.locks.ask = ask_late
    answer = await kernel.call("POST", "locks", json={"comfy_id": "gpu-1", "mode": "exclusive"})
    world.stores.locks.ask = ask
    assert answer.code == (403, "unknown_holder")
    assert (await world.user.get("locks"))["locks"] == []
    await other.lock("gpu-1", mode="exclusive")


async def test_whatever_goes_wrong_while_prompts_are_cancelled_the_lock_is_released(world: World):
    """R8."""
    kernel = await world.kernel("a.ipynb")
    await kernel.lock("gpu-1")

    async def broken(*_):
        raise ZeroDivisionError

    world.app._tasks.cancel_all = broken
    await kernel.call("DELETE", "holders/me", described=False)
    assert (await world.user.get("locks"))["locks"] == []


async def test_each_thing_that_stops_is_stopped_though_another_fails(world: World, caplog):
    stopped = asyncio.Event()
    follow, leave = world.app._follower.stop, world.app._keeper.stop

    async def broken():
        await follow()
        msg = "no store"
        raise StoreUnavailable(msg)

    async def noted():
        await leave()
        stopped.set()

    world.app._follower.stop, world.app._keeper.stop = broken, noted
    await world.app.stop_extension()
    assert stopped.is_set()
    assert "no store" in caplog.text


@pytest.mark.parametrize("path", ["queue", "/queue", "//queue", "/api/queue"])
async def test_a_base_url_and_a_path_may_be_joined_with_any_number_of_slashes(world: World, path):
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    answer = await kernel.comfy("GET", path)
    assert answer.json() == {"queue_running": [], "queue_pending": []}


async def test_a_gateway_url_without_a_slash_keeps_its_key_out_of_the_log(world: World, caplog):
    """R10."""
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    await kernel.raw("GET", kernel.gateway_path.rstrip("/"), headers={"Authorization": ""})
    assert kernel.gateway_key not in caplog.text


@pytest.mark.parametrize("errors", [["boom"], "boom", None, [None], {"a": 1}])
async def test_a_refusal_in_strange_words_is_a_refusal(world: World, errors):
    """R9."""
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    body = {"error": {"message": "no"}, "node_errors": {"3": {"errors": errors}}}
    world.gpu.faults.instead["/prompt"] = lambda: web.json_response(body, status=400)
    answer = await kernel.call("POST", "tasks", json={"prompt": graphs.picture()})
    assert answer.code == (400, "prompt_rejected")
    [task] = (await kernel.get("tasks"))["tasks"]
    assert task["state"] == "rejected"


@pytest.mark.parametrize("text", ["[" * 100_000, "<html>log in</html>", "\xff"])
@pytest.mark.parametrize(("status", "end"), [(400, "rejected"), (200, "lost")])
async def test_an_answer_that_is_no_json_has_an_end_too(world: World, text, status, end):
    """R9: also what is said to be accepted, and is not there."""
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    world.gpu.faults.instead["/prompt"] = lambda: web.Response(
        status=status, body=text.encode("latin-1"), content_type="application/json"
    )
    await kernel.call("POST", "tasks", json={"prompt": graphs.picture()})
    [task] = (await kernel.get("tasks"))["tasks"]
    assert (await kernel.ended(task["task_id"]))["state"] == end


async def test_with_tasks_pending_any_lock_is_that_of_their_server(world: World):
    """R3, without a refusal for a server that nobody named."""
    kernel = await world.kernel()
    await kernel.lock("gpu-2")
    task_id = await kernel.submit(graphs.steps())
    await kernel.release()
    assert (await kernel.lock())["comfy_id"] == "gpu-2"
    await kernel.cancel(task_id)
    await kernel.ended(task_id)


async def test_locking_without_a_name_stays_where_one_is(world: World):
    kernel = await world.kernel()
    await kernel.lock("gpu-2", mode="exclusive")
    assert (await kernel.lock())["comfy_id"] == "gpu-2"


async def test_a_task_sent_twice_at_once_is_one_task_with_one_answer(world: World):
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    body = {"task_id": str(uuid4()), "prompt": graphs.picture()}
    answers = await asyncio.gather(*(kernel.call("POST", "tasks", json=body) for _ in range(4)))
    assert {answer.status for answer in answers} <= {200, 201}
    assert {answer.json()["task_id"] for answer in answers} == {body["task_id"]}
    await kernel.ended(body["task_id"])
    assert len(world.gpu.calls.bodies("/prompt")) == 1


async def test_a_refusal_is_told_to_each_who_asks_meanwhile(world: World):
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    body = {"task_id": str(uuid4()), "prompt": {"1": {"class_type": "Nope", "inputs": {}}}}
    answers = await asyncio.gather(*(kernel.call("POST", "tasks", json=body) for _ in range(3)))
    assert {answer.code for answer in answers} == {(400, "prompt_rejected")}


async def test_a_servers_id_with_another_url_is_not_the_tasks_home(world: World):
    """R5."""
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    task_id = await kernel.submit(graphs.picture())
    await kernel.ended(task_id)
    services = world.app._services
    services.upstreams["gpu-1"].comfy, own = (
        services.upstreams["gpu-2"].comfy,
        services.upstreams["gpu-1"].comfy,
    )
    answer = await kernel.call("GET", f"tasks/{task_id}/files/0")
    assert answer.code == (502, "comfy_unreachable")
    services.upstreams["gpu-1"].comfy = own
    assert (await kernel.call("GET", f"tasks/{task_id}/files/0")).status == 200


async def test_a_clients_own_mistake_is_answered_as_comfyui_answers_it(world: World):
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    assert (await kernel.comfy("GET", "api/jobs?sort_by=bogus")).status == 400
    assert (await kernel.comfy("GET", "history?max_items=²")).status == 200
    answer = await kernel.comfy(
        "POST", "queue", data="[" * 100_000, headers={"Content-Type": "application/json"}
    )
    assert answer.status == 400


async def test_a_renamed_notebook_is_called_by_its_new_name(world: World):
    body = {
        **{"path": "old.ipynb", "name": "old.ipynb", "type": "notebook"},
        "kernel": {"name": "python3"},
    }
    session = (await world.user.raw("POST", "api/sessions", json=body)).json()
    kernel_id = session["kernel"]["id"]
    key = world.app.serverapp.kernel_manager.get_kernel(kernel_id).session.key
    holder, _ = await world.app._kernels.hello_managed(
        kernel_id, proof(key, kernel_id), instance="i"
    )
    assert holder.name == "old.ipynb"
    await world.user.raw("PATCH", f"api/sessions/{session['id']}", json={"path": "new.ipynb"})
    await world.app._kernels.rename(holder)
    assert holder.name == "new.ipynb"


async def test_the_pool_is_looked_at_when_it_is_asked_for(world: World):
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    for upstream in world.app._services.upstreams.values():
        upstream.looked_s = float("-inf")
    task_id = await kernel.submit(graphs.steps())
    await kernel.task_in(task_id, "running")
    for upstream in world.app._services.upstreams.values():
        upstream.looked_s = float("-inf")
    servers = (await world.user.get("pool"))["servers"]
    assert {each["comfy_id"]: each["queue_remaining"] for each in servers} == {
        "gpu-1": 1,
        "gpu-2": 0,
    }
    await kernel.cancel(task_id)
    await until(lambda: json.dumps(kernel.heard.states(task_id)).count("cancelled"))
