"""Stale is refused: nothing goes out under a lock that is lost, or may be (R7)."""

import asyncio
from typing import Any

import aiohttp
import pytest

from jupyter_comfy_lock.domain.isolation import Route
from tests.server import graphs
from tests.server.recorder import Call
from tests.server.world import Answer, Gate, Kernel, World, eventually, until

STALE = (409, "stale_lock")
NO_LOCK = (409, "no_lock")


def a_form() -> aiohttp.FormData:
    form = aiohttp.FormData()
    form.add_field("image", b"picture", filename="cat.png")
    return form


#: One call for each thing that the gateway does with calls.
CALLS: dict[Route, tuple[str, str, Any]] = {
    Route.PASS: ("GET", "object_info/SaveImage", dict),
    Route.SUBMIT: ("POST", "prompt", lambda: {"json": {"prompt": graphs.picture()}}),
    Route.QUEUE_LENGTH: ("GET", "prompt", dict),
    Route.QUEUE: ("GET", "queue", dict),
    Route.QUEUE_EDIT: ("POST", "queue", lambda: {"json": {"clear": True}}),
    Route.HISTORY: ("GET", "history", dict),
    Route.HISTORY_EDIT: ("POST", "history", lambda: {"json": {"clear": True}}),
    Route.JOBS: ("GET", "api/jobs", dict),
    Route.JOBS_CANCEL: ("POST", "api/jobs/cancel", lambda: {"json": {"job_ids": []}}),
    Route.INTERRUPT: ("POST", "interrupt", lambda: {"json": {}}),
    Route.VIEW: ("GET", "view?filename=cat.png&type=input", dict),
    Route.UPLOAD: ("POST", "upload/image", lambda: {"data": a_form()}),
    Route.STATS: ("GET", "system_stats", dict),
    Route.PAGE: ("GET", "", dict),
    Route.DESK: ("GET", "settings", dict),
    Route.EXCLUSIVE: ("POST", "free", lambda: {"json": {}}),
}


async def every_kind_of_call(kernel: Kernel) -> list[Answer]:
    return [
        await kernel.comfy(method, path, **options()) for method, path, options in CALLS.values()
    ]


async def a_holder(world: World) -> Kernel:
    """A kernel that has gpu-1 alone and has run something there; nobody else looks at it."""
    await world.app._health.stop()
    kernel = await world.kernel("a.ipynb")
    await kernel.lock("gpu-1", "exclusive")
    await kernel.ended(await kernel.submit(graphs.picture()))
    return kernel


def reached(world: World) -> list[Call]:
    return list(world.gpu.calls)


def test_there_is_a_call_for_each_kind():
    assert set(CALLS) == set(Route) - {Route.NEVER}


async def test_every_kind_of_call_goes_out_while_the_lock_is_held(world: World):
    kernel = await a_holder(world)
    answers = await every_kind_of_call(kernel)
    assert {answer.status for answer in answers} <= {200, 404}


async def test_nothing_goes_out_when_the_lease_may_be_over(world: World):
    kernel = await a_holder(world)
    world.let_time_pass(1000)
    before = reached(world)
    answers = await every_kind_of_call(kernel)
    assert {answer.code for answer in answers} == {STALE}
    assert reached(world) == before
    # It renews, and nobody had given it up.
    await world.renew()
    assert (await kernel.comfy("GET", "queue")).status == 200


async def test_nothing_goes_out_when_the_lock_was_taken_away(world: World):
    kernel = await a_holder(world)
    await world.force(kernel)
    before = reached(world)
    first, *others = await every_kind_of_call(kernel)
    assert first.code == STALE
    assert {answer.code for answer in others} == {NO_LOCK}
    assert reached(world) == before


@pytest.mark.parametrize("when", ["before it is known", "while it is found out", "after"])
async def test_nothing_goes_out_when_the_lease_was_lost(world: World, when: str):
    """Not even while this Jupyter server, which has a new lease, finds out what it has lost."""
    kernel = await a_holder(world)
    await world.lose_the_lease()
    gate = Gate(world.stores.locks, "outcome")
    if when == "before it is known":
        world.let_time_pass(1000)
    renewing = asyncio.create_task(world.renew()) if when != "before it is known" else None
    if when == "while it is found out":
        await gate.is_reached()
        assert world.lease.fresh
    else:
        gate.go.set()
        if renewing is not None:
            await renewing
    before = reached(world)
    answers = await every_kind_of_call(kernel)
    assert answers[0].code == STALE
    assert {answer.code for answer in answers} <= {STALE, NO_LOCK}
    assert reached(world) == before
    gate.go.set()
    if renewing is not None:
        await renewing


async def test_a_lost_lease_that_cannot_be_got_anew_is_over(world: World):
    kernel = await a_holder(world)
    await world.lose_the_lease()
    gate = Gate(world.stores.nodes, "join")
    renewing = asyncio.create_task(world.renew())
    await gate.is_reached()
    before = reached(world)
    assert {answer.code for answer in await every_kind_of_call(kernel)} == {STALE}
    assert reached(world) == before
    gate.go.set()
    await renewing


async def test_a_lock_that_is_granted_while_the_lease_is_lost_is_not_used(world: World):
    kernel = await world.kernel()
    gate = Gate(
        world.app._upstreams["gpu-1"], "get", after=True, only=lambda path, **_: path == "/queue"
    )
    asking = asyncio.create_task(kernel.ask("gpu-1", "exclusive"))
    await gate.is_reached()
    await world.lose_the_lease()
    await world.renew()
    gate.go.set()
    assert (await asking).code == STALE
    assert world.held() == ()
    await world.expire()
    await eventually(world.nobody_holds)


@pytest.mark.parametrize("how", ["taken away", "lease lost", "disabled"])
async def test_the_socket_of_a_lost_lock_is_closed(world: World, how: str):
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    async with kernel.socket() as hears:
        await hears.until(lambda x: x["type"] == "status")
        if how == "taken away":
            await world.force(kernel)
        elif how == "disabled":
            await world.set_state("gpu-1", "disabled")
        else:
            await world.lose_the_lease()
            await world.renew()
        assert await hears.close_code() == 4001
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with kernel.socket():
            pass
    assert refused.value.status == 409


async def test_no_frame_reaches_a_socket_when_the_lease_may_be_over(world: World):
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    task_id = await kernel.submit(graphs.steps(400))
    async with kernel.socket() as hears:
        await hears.until(lambda x: x["type"] == "progress")
        world.let_time_pass(1000)
        frames = len(hears.frames)
        assert await hears.close_code() == 4001
        # What was on its way already may still arrive; nothing is added.
        assert len(hears.frames) <= frames + 3
    await world.renew()
    await kernel.cancel(task_id)
    await kernel.ended(task_id)


# -- submitting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["taken away", "lease over", "lease lost"])
async def test_a_prompt_that_is_recorded_under_a_lock_that_is_then_lost_is_not_sent(
    world: World, how: str
):
    kernel = await world.kernel("a.ipynb")
    await kernel.lock("gpu-1")
    gate = Gate(world.stores.tasks, "register", after=True)
    sending = asyncio.create_task(kernel.call("POST", "tasks", json={"prompt": graphs.picture()}))
    await gate.is_reached()
    if how == "taken away":
        await world.force(kernel)
    elif how == "lease over":
        world.let_time_pass(1000)
    else:
        await world.lose_the_lease()
        await world.renew()
    gate.go.set()
    assert (await sending).code == STALE
    assert world.gpu.calls.bodies("/prompt") == []
    (task,) = (await kernel.get("tasks"))["tasks"]
    assert task["state"] == "rejected"


async def test_a_prompt_that_was_cut_off_is_not_sent_again_when_the_lock_is_lost(world: World):
    kernel = await world.kernel("a.ipynb")
    await kernel.lock("gpu-1")

    world.gpu.faults.hears.clear()
    world.gpu.faults.lose_prompts = 1
    sending = asyncio.create_task(kernel.call("POST", "tasks", json={"prompt": graphs.picture()}))
    await until(lambda: world.gpu.calls.bodies("/prompt"))
    await world.force(kernel)
    world.gpu.faults.hears.set()
    assert (await sending).code == STALE
    assert len(world.gpu.calls.bodies("/prompt")) == 1
    (task,) = (await kernel.get("tasks"))["tasks"]
    assert task["state"] == "rejected"
    await eventually(world.nobody_holds)


async def test_a_lock_that_was_lost_elsewhere_is_found_out_when_a_prompt_is_recorded(
    world: World,
):
    kernel = await world.kernel("a.ipynb")
    await kernel.lock("gpu-1")
    await world.stores.locks.force(
        kernel.holder_id, by="somebody", why="elsewhere", node_id="another"
    )
    answer = await kernel.call("POST", "tasks", json={"prompt": graphs.picture()})
    assert answer.code in (STALE, NO_LOCK)
    assert world.gpu.calls.bodies("/prompt") == []
    # The room is others' when this Jupyter server has said that it sends nothing more.
    await eventually(world.nobody_holds)
    assert world.held() == ()


# -- the store is away ---------------------------------------------------------------------------


async def test_while_the_store_is_away_what_is_held_goes_on_and_nothing_new_begins(world: World):
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    lock = await a.lock("gpu-1")
    async with world.store_away():
        assert (await a.comfy("GET", "object_info/SaveImage")).status == 200
        for kernel, path, body in [
            (b, "locks", {"comfy_id": "gpu-2"}),
            (b, "locks", {"comfy_id": "gpu-2", "wait": 5}),
            (a, "locks", {"comfy_id": "gpu-1", "mode": "exclusive"}),
            (a, "tasks", {"prompt": graphs.picture()}),
        ]:
            answer = await kernel.call("POST", path, json=body)
            assert answer.code == (503, "store_unavailable"), (path, body)
        assert (await a.lock("gpu-1")) == lock
        refused = await a.call("DELETE", "locks/mine")
        assert refused.code == (503, "store_unavailable")
        # It was not let go of, so it goes on.
        assert (await a.comfy("GET", "queue")).status == 200
    assert world.gpu.calls.writes() == []
    assert await a.release() == lock
    await b.lock("gpu-1", "exclusive")


class TestAShortLease:
    @pytest.fixture
    def settings(self):
        return {"lease_ttl_s": 2.0}

    async def test_a_store_that_is_away_past_the_deadline_stops_everything_until_it_is_back(
        self, world: World
    ):
        kernel = await a_holder(world)
        world.renews(kernel)
        async with world.store_away():
            await until(lambda: not world.lease.fresh)
            before = reached(world)
            answers = await every_kind_of_call(kernel)
            assert {answer.code for answer in answers} == {STALE}
            assert reached(world) == before
            refused = await kernel.ask("gpu-1", "exclusive")
            assert refused.code == (503, "store_unavailable")
        # It recovers by itself: nobody else has ended it.
        await until(lambda: world.lease.fresh)
        assert (await kernel.comfy("GET", "queue")).status == 200
        await kernel.ended(await kernel.submit(graphs.picture()))

    async def test_a_lock_asked_for_after_it_is_one_that_can_be_used(self, world: World):
        kernel = await world.kernel()
        world.renews(kernel)
        lock = await kernel.lock("gpu-1", "exclusive")
        async with world.store_away():
            await until(lambda: not world.lease.fresh)
        assert await kernel.lock("gpu-1", "exclusive") == lock
        assert (await kernel.comfy("GET", "queue")).status == 200

    async def test_the_end_of_a_kernel_is_written_down_later(self, world: World):
        a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
        world.renews(a, b)
        task_id = await running(a)
        async with world.store_away():
            assert (await a.call("DELETE", "holders/me")).status == 204
            await eventually(empty_queue, world)
        async with asyncio.timeout(5):
            await b.lock("gpu-1", "exclusive", wait=None)
        task = await world.user.get(f"tasks/{task_id}")
        assert task["state"] == "cancelled"

    async def test_a_task_that_ends_meanwhile_lets_its_lock_drain_later(self, world: World):
        a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
        world.renews(a, b)
        task_id = await running(a, 10)
        async with world.store_away():
            assert (await a.ended(task_id))["state"] == "succeeded"
        await a.release()
        await b.lock("gpu-1", "exclusive", wait=10)
        assert (await world.user.get(f"tasks/{task_id}"))["state"] == "succeeded"


async def running(kernel: Kernel, steps: int = 400) -> str:
    await kernel.lock("gpu-1", "exclusive")
    task_id = await kernel.submit(graphs.steps(steps))
    await kernel.task_in(task_id, "running")
    return task_id


async def empty_queue(world: World) -> bool:
    return not await world.queue()
