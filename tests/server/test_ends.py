"""One true end for each task, whatever goes wrong on the way (R9)."""

import asyncio
import math
from uuid import uuid4

import pytest
from aiohttp import web

from jupyter_comfy_lock.domain.errors import StoreUnavailable
from jupyter_comfy_lock.server import follow, submit
from tests.server import graphs
from tests.server.world import Kernel, World, eventually, until

#: How often is looked, and for how long, in seconds: (module, name) -> (really, in most tests).
TIMES = {
    (follow, "_LOOK_EVERY_S"): (follow._LOOK_EVERY_S, 0.2),
    (follow, "_ABSENT_S"): (follow._ABSENT_S, 0.3),
    (submit, "_SOCKET_WAIT_S"): (submit._SOCKET_WAIT_S, 0.5),
}


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for (module, name), (_, hurried) in TIMES.items():
        monkeypatch.setattr(module, name, hurried)


async def locked(world: World, **more) -> Kernel:
    kernel = await world.kernel("a.ipynb", **more)
    await kernel.lock("gpu-1")
    return kernel


async def runs(world: World, prompt_id: str) -> int:
    """How often ComfyUI ran a prompt, or will."""
    async with world.session.get(f"{world.gpu.url}/history") as response:
        done = list(await response.json())
    async with world.session.get(f"{world.gpu.url}/queue") as response:
        queue = await response.json()
    waiting = [item[1] for items in queue.values() for item in items]
    return (done + waiting).count(prompt_id)


def ends(kernel: Kernel, task_id: str) -> list[str]:
    told = kernel.heard.states(task_id)
    return [x for x in told if x not in ("registered", "queued", "running")]


# -- the good ways -------------------------------------------------------------------------------


async def test_a_run_goes_forward_and_ends_once_with_its_files(world: World):
    kernel = await locked(world)
    task_id = await kernel.submit(graphs.steps(5, delay=0.1))
    task = await kernel.ended(task_id)
    assert task["state"] == "succeeded"
    assert (task["progress"]["nodes_done"], task["progress"]["nodes_total"]) == (2, 2)
    assert task["created_at"] <= task["started_at"] <= task["ended_at"]
    assert task["files"][0]["media_type"] == "image/png"
    assert not task["cached"]
    order = ["registered", "queued", "running", "succeeded"]
    states = kernel.heard.states(task_id)
    assert states == sorted(states, key=order.index)
    assert ends(kernel, task_id) == ["succeeded"]
    progress = [x["progress"]["nodes_done"] for x in kernel.heard.of("task")]
    assert progress == sorted(progress)


async def test_a_run_that_is_wholly_cached_ends_and_says_so(world: World):
    kernel, prompt = await locked(world), graphs.picture()
    first = await kernel.ended(await kernel.submit(prompt))
    for _ in range(5):
        again = await kernel.ended(await kernel.submit(prompt))
        assert (again["state"], again["cached"]) == ("succeeded", True)
        assert again["files"][0]["filename"] == first["files"][0]["filename"]


@pytest.mark.complaint(9)
@pytest.mark.trap("31-history-race")
async def test_many_tiny_runs_are_all_there(world: World):
    kernel = await locked(world)
    ids = [await kernel.submit(graphs.picture()) for _ in range(40)]
    states = [(await kernel.ended(each))["state"] for each in ids]
    assert states == ["succeeded"] * 40
    assert all(ends(kernel, each) == ["succeeded"] for each in ids)


@pytest.mark.complaint(19)
async def test_a_node_that_raises_is_told_with_its_traceback(world: World):
    kernel = await locked(world)
    task = await kernel.ended(await kernel.submit(graphs.raises("no such luck")))
    assert task["state"] == "failed"
    error = task["error"]
    assert (error["node_id"], error["node_class"]) == ("1", "TrRaise")
    assert (error["exception_type"], error["message"]) == ("ValueError", "no such luck")
    assert any("raise_error" in line for line in error["traceback"])
    assert task["reason"] == "node 1 (TrRaise): no such luck"


@pytest.mark.complaint(19)
async def test_outputs_that_were_dropped_are_named_while_the_rest_runs(world: World):
    kernel = await locked(world)
    prompt = graphs.picture()
    prompt["9"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}}
    prompt["8"] = {"class_type": "ImageScaleBy", "inputs": {"image": ["1", 0], "scale_by": 99}}
    prompt["7"] = {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}
    del prompt["9"]["inputs"]["images"]
    task = await kernel.ended(await kernel.submit(prompt))
    assert task["state"] == "succeeded"
    assert set(task["dropped"]) == {"7", "9"}
    assert task["dropped"]["9"]["class_type"] == "SaveImage"
    assert {x["node_id"] for x in task["dropped"]["7"]["errors"]} == {"8"}
    assert task["progress"]["nodes_total"] == 2


# -- the answer to POST /prompt is lost ------------------------------------------------------------


@pytest.mark.complaint(20)
async def test_a_lost_reply_to_a_prompt_runs_it_once(world: World):
    kernel = await locked(world)
    world.gpu.faults.lose_replies = 1
    task_id = await kernel.submit(graphs.picture())
    assert (await kernel.ended(task_id))["state"] == "succeeded"
    assert await runs(world, task_id) == 1
    assert len(world.gpu.calls.bodies("/prompt")) == 1


async def test_a_prompt_that_was_cut_off_is_sent_again_and_runs_once(world: World):
    kernel = await locked(world)
    world.gpu.faults.lose_prompts = 1
    task_id = await kernel.submit(graphs.picture())
    assert (await kernel.ended(task_id))["state"] == "succeeded"
    assert await runs(world, task_id) == 1


@pytest.mark.trap("98-duplicate-id-and-number-500-but-queued")
async def test_a_prompt_that_was_queued_and_answered_with_500_runs_once(world: World):
    kernel = await locked(world)
    world.gpu.faults.queued_but_500 = 1
    task_id = await kernel.submit(graphs.picture())
    assert (await kernel.ended(task_id))["state"] == "succeeded"
    assert await runs(world, task_id) == 1


async def test_two_prompts_that_were_cut_off_twice_are_not_left_pending(world: World):
    kernel = await locked(world)
    world.gpu.faults.lose_prompts = 2
    task_id = await kernel.submit(graphs.picture())
    task = await kernel.ended(task_id)
    assert task["state"] == "lost"
    assert await runs(world, task_id) == 0


async def test_a_prompt_for_a_server_that_is_down_is_refused_and_ends(world: World):
    kernel = await locked(world)
    await world.gpu.stop()
    answer = await kernel.call("POST", "tasks", json={"prompt": graphs.picture()})
    assert answer.code == (502, "comfy_unreachable")
    (task,) = (await kernel.get("tasks"))["tasks"]
    assert task["state"] == "rejected"


@pytest.mark.parametrize("again", ["while it runs", "after its end", "after a restart"])
async def test_a_task_that_the_kernel_sends_twice_is_one(world: World, again: str):
    kernel, task_id = await locked(world), str(uuid4())
    prompt = graphs.steps(400) if again == "while it runs" else graphs.picture()
    body = {"prompt": prompt, "task_id": task_id}
    first = await kernel.call("POST", "tasks", json=body)
    assert (first.status, first.json()["task_id"]) == (201, task_id)
    if again != "while it runs":
        await kernel.ended(task_id)
    if again == "after a restart":
        world.forget_tasks()
    second = await kernel.call("POST", "tasks", json=body)
    assert (second.status, second.json()["task_id"]) == (200, task_id)
    assert len(world.gpu.calls.bodies("/prompt")) == 1
    if again != "while it runs":
        assert second.json()["state"] == "succeeded"
    await kernel.cancel(task_id)
    await kernel.ended(task_id)


async def test_the_task_id_of_another_kernel_is_nobodys_business(world: World):
    kernel, other = await locked(world), await locked(world)
    task_id = await kernel.submit(graphs.picture())
    body = {"prompt": graphs.picture(), "task_id": task_id}
    assert (await other.call("POST", "tasks", json=body)).code == (400, "bad_request")
    await kernel.ended(task_id)
    world.forget_tasks()
    refused = await other.call("POST", "tasks", json=body)
    assert refused.code == (400, "bad_request")
    assert '"task_id" is the id of an earlier prompt' in refused.json()["message"]


# -- the socket says nothing -----------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["silent", "no_sockets"])
@pytest.mark.parametrize(
    ("prompt", "state"),
    [
        (graphs.picture, "succeeded"),
        (graphs.raises, "failed"),
        (lambda: graphs.steps(3, delay=0.1), "succeeded"),
    ],
)
async def test_without_news_polling_finds_the_end(world: World, fault: str, prompt, state: str):
    setattr(world.gpu.faults, fault, True)
    kernel = await locked(world)
    task = await kernel.ended(await kernel.submit(prompt()))
    assert task["state"] == state
    assert ends(kernel, task["task_id"]) == [state]


@pytest.mark.complaint(7)
async def test_without_news_the_end_is_found_within_five_seconds(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    for (module, name), (really, _) in TIMES.items():
        monkeypatch.setattr(module, name, really)
    world.gpu.faults.silent = True
    kernel = await locked(world)
    task_id = await kernel.submit(graphs.picture())
    async with asyncio.timeout(5):
        assert (await kernel.ended(task_id))["state"] == "succeeded"


@pytest.mark.trap("18-reconnect-midrun")
async def test_a_socket_that_breaks_in_the_middle_is_opened_anew_under_another_id(world: World):
    kernel = await locked(world)
    first = await kernel.submit(graphs.steps(20))
    await kernel.task_in(first, "running")
    world.gpu.faults.cut_sockets()
    assert (await kernel.ended(first))["state"] == "succeeded"
    streams = world.app._streams
    await streams.of(kernel.holder_id).ready(5)
    second = await kernel.ended(await kernel.submit(graphs.steps(4, preview=True)))
    assert second["lock"]["client_id"] != (await kernel.get(f"tasks/{first}"))["lock"]["client_id"]
    assert second["progress"]["preview"] > 0


@pytest.mark.complaint(9)
@pytest.mark.trap("31-history-race")
async def test_a_history_that_is_late_is_waited_for(world: World):
    kernel = await locked(world)
    world.gpu.faults.history_late_s = math.inf
    task_id = await kernel.submit(graphs.picture())
    asked = f"/history/{task_id}"
    await until(lambda: len(world.gpu.calls.to(asked)) > 3)
    assert not ends(kernel, task_id)
    world.gpu.faults.history_late_s = 0.0
    assert (await kernel.ended(task_id))["state"] == "succeeded"


# -- the server goes ------------------------------------------------------------------------------


@pytest.mark.complaint(10)
@pytest.mark.trap("41-server-death-and-restart")
@pytest.mark.parametrize("count", [1, 3])
async def test_a_comfy_server_that_is_restarted_loses_what_it_had(world: World, count: int):
    kernel = await locked(world)
    ids = [await kernel.submit(graphs.steps(400)) for _ in range(count)]
    await kernel.task_in(ids[0], "running")
    await world.gpu.restart()
    for each in ids:
        task = await kernel.ended(each)
        assert task["state"] == "lost"
        assert "restarted" in task["reason"]
        assert ends(kernel, each) == ["lost"]
    new = await kernel.ended(await kernel.submit(graphs.picture()))
    assert new["state"] == "succeeded"


async def test_a_restarted_comfy_server_is_a_new_epoch(world: World):
    kernel = await locked(world)
    first = await kernel.ended(await kernel.submit(graphs.picture()))
    await world.gpu.restart()
    second = await kernel.ended(await kernel.submit(graphs.picture()))
    third = await kernel.ended(await kernel.submit(graphs.picture()))
    epochs = [x["lock"]["epoch"] for x in (first, second, third)]
    assert epochs[0] < epochs[2]
    lock = (await kernel.get("locks"))["locks"][0]
    assert lock["epoch"] == epochs[2]
    assert lock["restarted_at"] is not None
    # Who comes later has no use for the news.
    other = await world.kernel("b.ipynb")
    await other.lock("gpu-1")
    assert (await other.get("locks"))["locks"][0]["restarted_at"] is None


async def test_a_comfy_server_that_stays_silent_loses_its_tasks_in_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("jupyter_comfy_lock.server.follow._SILENT_S", 1.0)
    kernel = await locked(world)
    task_id = await kernel.submit(graphs.steps(400))
    await kernel.task_in(task_id, "running")
    await world.gpu.kill()
    task = await kernel.ended(task_id)
    assert task["state"] == "lost"
    assert "has not answered" in task["reason"]


async def test_a_comfy_server_that_becomes_something_else_does_not_keep_anybody_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("jupyter_comfy_lock.server.follow._SILENT_S", 1.0)
    kernel = await locked(world)
    task_id = await kernel.submit(graphs.steps(400))
    await kernel.task_in(task_id, "running")
    world.gpu.faults.instead["/queue"] = lambda: web.Response(status=404)
    assert (await kernel.ended(task_id))["state"] == "lost"


async def test_a_short_silence_loses_nothing(world: World):
    kernel = await locked(world)
    task_id = await kernel.submit(graphs.steps(10, delay=0.2))
    await kernel.task_in(task_id, "running")
    world.gpu.faults.instead["/queue"] = lambda: web.Response(status=500)
    world.gpu.faults.cut_sockets()
    asked = len(world.gpu.calls.to("/queue"))
    await until(lambda: len(world.gpu.calls.to("/queue")) >= asked + 2)
    assert not ends(kernel, task_id)
    del world.gpu.faults.instead["/queue"]
    assert (await kernel.ended(task_id))["state"] == "succeeded"


# -- others interfere -----------------------------------------------------------------------------


async def direct(world: World, path: str, body) -> None:
    async with world.session.post(world.gpu.url + path, json=body) as response:
        assert response.status == 200


async def test_a_queue_that_is_cleared_from_outside_loses_what_waited(world: World):
    kernel = await locked(world)
    running = await kernel.submit(graphs.steps(400))
    await kernel.task_in(running, "running")
    waiting = await kernel.submit(graphs.picture())
    await kernel.task_in(waiting, "queued")
    await direct(world, "/queue", {"clear": True})
    task = await kernel.ended(waiting)
    assert task["state"] == "lost"
    assert "emptied its queue" in task["reason"]
    assert not ends(kernel, running)
    await kernel.cancel(running)
    assert (await kernel.ended(running))["state"] == "cancelled"


async def test_an_interrupt_from_outside_cancels_what_runs_and_says_so(world: World):
    kernel = await locked(world)
    running = await kernel.submit(graphs.steps(400))
    await kernel.task_in(running, "running")
    await direct(world, "/interrupt", {})
    task = await kernel.ended(running)
    assert task["state"] == "cancelled"


# -- cancel ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["none", "silent"])
async def test_a_running_task_is_cancelled(world: World, fault: str):
    world.gpu.faults.silent = fault == "silent"
    kernel = await locked(world)
    task_id = await kernel.submit(graphs.steps(400))
    await kernel.task_in(task_id, "running")
    await kernel.cancel(task_id)
    assert (await kernel.ended(task_id))["state"] == "cancelled"
    assert ends(kernel, task_id) == ["cancelled"]


async def test_a_waiting_task_is_cancelled_and_the_running_one_is_not(world: World):
    kernel = await locked(world)
    running = await kernel.submit(graphs.steps(400))
    await kernel.task_in(running, "running")
    waiting = await kernel.submit(graphs.picture())
    await kernel.cancel(waiting)
    assert (await kernel.ended(waiting))["state"] == "cancelled"
    assert not ends(kernel, running)
    await kernel.cancel(running)
    await kernel.ended(running)


@pytest.mark.trap("29-interrupt-in-last-node")
async def test_a_cancel_that_comes_too_late_for_the_last_node_is_a_success(world: World):
    kernel = await locked(world)
    task_id = await kernel.submit(graphs.last_node_sleeps(0.6))
    await kernel.task_in(task_id, "running")
    await kernel.cancel(task_id)
    assert (await kernel.ended(task_id))["state"] in ("succeeded", "cancelled")
    assert len(ends(kernel, task_id)) == 1


async def test_cancelling_what_has_ended_changes_nothing(world: World):
    kernel = await locked(world)
    task_id = await kernel.submit(graphs.picture())
    await kernel.ended(task_id)
    posts = len(world.gpu.calls.writes())
    await kernel.cancel(task_id)
    assert (await kernel.get(f"tasks/{task_id}"))["state"] == "succeeded"
    assert len(world.gpu.calls.writes()) == posts


async def test_a_task_is_cancelled_while_it_is_being_sent(world: World):
    kernel = await locked(world)
    world.gpu.faults.hears.clear()
    sending = asyncio.create_task(kernel.submit(graphs.steps(400)))
    await until(lambda: world.gpu.calls.bodies("/prompt"))
    (task,) = (await kernel.get("tasks"))["tasks"]
    assert task["state"] == "registered"
    await kernel.cancel(task["task_id"])
    world.gpu.faults.hears.set()
    assert await sending == task["task_id"]
    assert (await kernel.ended(task["task_id"]))["state"] == "cancelled"


@pytest.mark.complaint(3)
async def test_the_place_in_the_queue_is_told_mine_and_others(world: World):
    a, b = await locked(world), await locked(world)
    running = await b.submit(graphs.steps(400))
    await b.task_in(running, "running")
    first = await a.submit(graphs.picture())
    second = await a.submit(graphs.picture())

    def placed():
        told = [x for x in a.heard.of("task") if x["task_id"] == second]
        return next((x["queue"] for x in told if x["queue"]), None)

    assert await a.heard.until(placed) == {"ahead": 2, "ahead_mine": 1}
    await b.cancel(running)
    assert (await a.ended(first))["state"] == "succeeded"
    assert (await a.ended(second))["queue"] is None


# -- the kernel goes -------------------------------------------------------------------------------


async def test_a_holder_that_leaves_takes_its_prompts_and_its_lock_with_it(world: World):
    a, b = await locked(world), await locked(world)
    running = await a.submit(graphs.steps(400))
    await a.task_in(running, "running")
    mine = await a.submit(graphs.picture())
    theirs = await b.submit(graphs.picture())
    await a.call("DELETE", "holders/me")
    assert (await b.ended(theirs))["state"] == "succeeded"
    tasks = {x["task_id"]: x for x in (await world.user.get("tasks"))["tasks"]}

    async def state_of(task_id: str) -> str:
        return str((await world.user.get(f"tasks/{task_id}"))["state"])

    async with world.user.events() as events:
        for each in (running, mine):
            if await state_of(each) not in ("cancelled",):
                await events.until(lambda each=each: "cancelled" in events.states(each))
    assert set(tasks) == {running, mine, theirs}

    async def only_b_has_one() -> bool:
        return [x["holder_id"] for x in await world.everybodys_locks()] == [b.holder_id]

    # A lock has drained a moment after the end of its last task was told.
    await eventually(only_b_has_one)


async def test_a_prompt_that_is_being_recorded_when_its_kernel_ends_is_not_sent(world: World):
    kernel = await locked(world)
    go, reached = asyncio.Event(), asyncio.Event()
    store = world.stores.tasks
    real = store.register

    async def slow(task):
        # Recorded, but the service does not know it yet.
        await real(task)
        reached.set()
        await go.wait()

    store.register = slow
    sending = asyncio.create_task(kernel.call("POST", "tasks", json={"prompt": graphs.steps(400)}))
    await asyncio.wait_for(reached.wait(), 10)
    release = world.stores.locks.release

    async def slow_release(*args, **more):
        go.set()
        assert (await sending).code == (409, "no_lock")
        return await release(*args, **more)

    world.stores.locks.release = slow_release
    assert (await kernel.call("DELETE", "holders/me")).status == 204
    assert world.gpu.calls.bodies("/prompt") == []
    (task,) = (await world.user.get("tasks"))["tasks"]
    assert task["state"] == "rejected"
    await eventually(world.nobody_holds)


async def test_a_prompt_that_is_being_sent_when_its_kernel_ends_is_taken_off(world: World):
    """R8, and R6: its lock ends with it and not before."""
    kernel = await locked(world)
    world.gpu.faults.hears.clear()
    sending = asyncio.create_task(kernel.call("POST", "tasks", json={"prompt": graphs.steps(400)}))
    await until(lambda: world.gpu.calls.bodies("/prompt"))
    assert (await kernel.call("DELETE", "holders/me")).status == 204
    (lock,) = (await world.user.get("locks"))["locks"]
    assert lock["state"] == "draining"
    world.gpu.faults.hears.set()
    task_id = (await sending).json()["task_id"]

    async def state() -> str:
        return str((await world.user.get(f"tasks/{task_id}"))["state"])

    await eventually(world.nobody_holds)
    assert await state() == "cancelled"
    assert await runs(world, task_id) <= 1
    async with world.session.get(f"{world.gpu.url}/queue") as response:
        assert await response.json() == {"queue_running": [], "queue_pending": []}


@pytest.mark.parametrize("settings", [{"lease_ttl_s": 3.0}])
async def test_the_lock_of_a_gone_holder_is_released_when_the_store_is_back(world: World):
    kernel = await locked(world)
    locks = world.stores.locks
    real = locks.release

    async def broken(*_, **__):
        msg = "disk full"
        raise StoreUnavailable(msg)

    locks.release = broken
    assert (await kernel.call("DELETE", "holders/me")).status == 204
    assert len((await world.user.get("locks"))["locks"]) == 1
    locks.release = real
    await eventually(world.nobody_holds)
