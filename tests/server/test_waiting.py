"""Waiting in line over REST: first come, first served, told how it stands, left at once (R6)."""

import asyncio
from uuid import uuid4

import pytest
from tornado.iostream import StreamClosedError

from jupyter_comfy_lock.server import lock_handlers
from tests.server import graphs
from tests.server.world import Gate, Kernel, World, eventually


async def kernels(world: World, *names: str) -> list[Kernel]:
    return [await world.kernel(f"{name}.ipynb") for name in names]


async def in_line(world: World) -> list[str]:
    """The names of those who wait, in the order in which they are told."""
    waiting = (await world.user.get("locks"))["waiting"]
    return [each["name"] for each in sorted(waiting, key=lambda each: each["place"])]


# -- what is told --------------------------------------------------------------------------------


async def test_place_holders_and_why_are_told_and_told_again_when_they_change(world: World):
    a, b, c = await kernels(world, "a", "b", "c")
    held = await a.lock("gpu-1", "exclusive")
    async with b.waiting("gpu-1", "exclusive") as second, c.waiting("gpu-1") as third:
        await second.at(1)
        assert (second.status, second.content_type) == (202, "application/x-ndjson")
        told = await third.at(2)
        assert (told["holder_id"], told["name"]) == (c.holder_id, "c.ipynb")
        assert (told["mode"], told["comfy_ids"]) == ("shared", ["gpu-1"])
        assert told["holders"] == [
            {
                "holder_id": a.holder_id,
                "name": "a.ipynb",
                "mode": "exclusive",
                "since": held["granted_at"],
                "state": "held",
            }
        ]
        assert told["why"].startswith("held by a.ipynb since ")
        assert told["why"].endswith(", you are 2nd")
        # The same to each who asks, but for others' business.
        assert (await c.get("locks"))["waiting"] == [told]
        assert await in_line(world) == ["b.ipynb", "c.ipynb"]
        (gpu, _) = (await a.get("pool"))["servers"]
        assert [(x["name"], x["place"]) for x in gpu["waiting"]] == [
            ("b.ipynb", 1),
            ("c.ipynb", 2),
        ]
        await a.release()
        assert (await second.lock())["mode"] == "exclusive"
        told = await third.stands(lambda each: each["holders"][0]["name"] == "b.ipynb")
        assert told["place"] == 1
        await b.release()
        assert (await third.last())["chosen_by"] == "name"


async def test_who_waits_is_told_again_as_a_sign_of_life(world: World, monkeypatch):
    monkeypatch.setattr(lock_handlers, "_SIGN_OF_LIFE_S", 0.02)
    a, b = await kernels(world, "a", "b")
    await a.lock("gpu-1", "exclusive")
    async with b.waiting("gpu-1") as waiting:
        await waiting.stands(lambda _: len(waiting.standings) > 3)
        assert waiting.standings == [waiting.standings[0]] * len(waiting.standings)


async def test_a_comfy_server_that_answers_late_breaks_no_wait_before_it_stands_in_line(
    world: World, monkeypatch
):
    monkeypatch.setattr(lock_handlers, "_SIGN_OF_LIFE_S", 0.02)
    kernel = await world.kernel()
    upstream = world.app._upstreams["gpu-1"]
    upstream.looked_s = float("-inf")
    gate = Gate(upstream, "look")
    asking = asyncio.create_task(kernel.ask("gpu-1", wait=None))
    await gate.is_reached()
    await asyncio.sleep(0.1)  # several signs of life have nothing to tell
    gate.go.set()
    assert (await asking).status == 201


# -- who is next ---------------------------------------------------------------------------------


async def test_those_who_wait_get_it_in_the_order_in_which_they_came(world: World):
    first, *others = await kernels(world, *"abcdef")
    await first.lock("gpu-1", "exclusive")
    got: list[str] = []

    async def wait(kernel: Kernel) -> None:
        lock = await kernel.lock("gpu-1", "exclusive", wait=None)
        got.append(lock["name"])
        await kernel.release()

    waits = []
    for place, kernel in enumerate(others, start=1):
        waits.append(asyncio.create_task(wait(kernel)))
        await eventually(lambda place=place: at_place(world, place))
    await first.release()
    await asyncio.gather(*waits)
    assert got == [f"{name}.ipynb" for name in "bcdef"]


async def at_place(world: World, place: int) -> bool:
    return len(await in_line(world)) == place


async def test_nobody_overtakes_though_there_would_be_room(world: World):
    a, b, c = await kernels(world, "a", "b", "c")
    await a.lock("gpu-1")
    async with b.waiting("gpu-1", "exclusive") as waiting:
        await waiting.at(1)
        refused = await c.ask("gpu-1")
        assert refused.code == (409, "lock_refused")
        assert "1 in line for it before you" in refused.json()["message"]


async def test_one_who_waits_for_any_gets_the_first_that_is_free(world: World):
    a, b, c = await kernels(world, "a", "b", "c")
    await a.lock("gpu-1", "exclusive")
    await b.lock("gpu-2", "exclusive")
    async with c.waiting() as waiting:
        assert set((await waiting.at(1))["comfy_ids"]) == {"gpu-1", "gpu-2"}
        await b.release()
        assert (await waiting.last())["chosen_by"] == "best"
        assert (await waiting.lock())["comfy_id"] == "gpu-2"


# -- leaving -------------------------------------------------------------------------------------


async def test_who_closes_the_connection_has_left_the_line(world: World, caplog):
    a, b, c = await kernels(world, "a", "b", "c")
    await a.lock("gpu-1", "exclusive")
    async with c.waiting("gpu-2") as got:
        await got.lock()
    async with b.waiting("gpu-1") as second:
        await second.at(1)
        async with c.waiting("gpu-1") as third:
            await third.at(2)
            await second.close()
            await third.at(1)
        await eventually(lambda: at_place(world, 0))
    assert [x["comfy_id"] for x in (await c.get("locks"))["locks"]] == ["gpu-2"]
    await a.release()
    assert [x["name"] for x in await world.everybodys_locks()] == ["c.ipynb"]
    assert [x.getMessage() for x in caplog.records if x.levelname == "ERROR"] == []


@pytest.mark.parametrize("when", ["asking", "made ready", "answered"])
async def test_a_grant_that_comes_when_the_connection_closes_is_given_back(
    world: World, when: str, monkeypatch
):
    a, b, c = await kernels(world, "a", "b", "c")
    if when != "asking":
        await a.lock("gpu-1", "exclusive")
    gates = {
        "asking": (world.stores.locks, "ask", True),
        "made ready": (world.app._upstreams["gpu-1"], "get", True),
    }
    real = lock_handlers.LocksHandler._answer_last
    if when == "answered":

        def hung_up(*_):
            raise StreamClosedError

        monkeypatch.setattr(lock_handlers.LocksHandler, "_answer_last", hung_up)
        async with b.waiting("gpu-1", "exclusive") as waiting:
            await waiting.at(1)
            await a.release()
            await eventually(world.nobody_holds)
        monkeypatch.setattr(lock_handlers.LocksHandler, "_answer_last", real)
    else:
        owner, name, after = gates[when]
        if when == "asking":
            gate = Gate(owner, name, after=after)
        async with b.waiting("gpu-1", "exclusive") as waiting:
            if when != "asking":
                await eventually(lambda: at_place(world, 1))
                gate = Gate(owner, name, after=after, only=lambda path, **_: path == "/queue")
                await a.release()
            await gate.is_reached()
            assert [x["name"] for x in await world.everybodys_locks()] == ["b.ipynb"]
            await waiting.close()
        await eventually(world.nobody_holds)
        gate.go.set()
    assert (await c.lock("gpu-1", "exclusive"))["name"] == "c.ipynb"
    assert (await b.comfy("GET", "queue")).code == (409, "no_lock")


@pytest.mark.parametrize("how", ["good-bye", "its process ends"])
async def test_a_kernel_that_ends_while_it_waits_has_left_the_line(world: World, how: str):
    """R8."""
    a, b, c = await kernels(world, "a", "b", "c")
    await a.lock("gpu-1", "exclusive")
    async with b.waiting("gpu-1") as second, c.waiting("gpu-1") as third:
        await second.at(1)
        await third.at(2)
        if how == "good-bye":
            await b.call("DELETE", "holders/me")
        else:
            await world.app._kernels.end(world.holder(b), "its process is gone")
        assert (await second.error())["code"] == "unknown_holder"
        await third.at(1)
        await a.release()
        await third.lock()


async def test_a_wait_that_is_not_wanted_is_refused_at_once(world: World):
    a, b = await kernels(world, "a", "b")
    await a.lock("gpu-1", "exclusive")
    for more in ({}, {"wait": 0}, {"wait": 0.0}):
        answer = await b.ask("gpu-1", **more)
        assert answer.code == (409, "lock_refused")
    assert await in_line(world) == []


async def test_a_wait_that_is_over_says_for_what_and_what_to_do(world: World):
    a, b = await kernels(world, "a", "b")
    await a.lock("gpu-1", "exclusive")
    async with b.waiting("gpu-1", wait=0.05) as waiting:
        error = await waiting.error()
    assert error["code"] == "lock_timeout"
    assert error["message"].startswith("Waited 0.05 s for gpu-1 in vain: held by a.ipynb since ")
    assert "nothing is locked that was not before" in error["message"]
    assert error["details"] == {"comfy_ids": ["gpu-1"], "wait_s": 0.05}
    assert await in_line(world) == []


async def test_a_wait_that_is_over_while_the_store_is_away_leaves_no_one_in_line(world: World):
    a, b, c = await kernels(world, "a", "b", "c")
    await a.lock("gpu-1", "exclusive")
    async with b.waiting("gpu-1", wait=0.3) as waiting:
        await waiting.at(1)
        async with world.store_away():
            assert (await waiting.error())["code"] in ("lock_timeout", "store_unavailable")
    await world.settle()
    assert await in_line(world) == []
    await a.release()
    await c.lock("gpu-1", "exclusive")


# -- the same request, and taking it back --------------------------------------------------------


async def test_the_same_request_asked_twice_is_one_lock(world: World):
    kernel, other = await kernels(world, "a", "b")
    request_id = str(uuid4())
    first = await kernel.ask("gpu-1", request_id=request_id)
    again = await kernel.ask("gpu-1", request_id=request_id)
    assert first.status == 201
    assert again.json()["lock"] == first.json()["lock"]
    assert (await other.ask("gpu-1", request_id=request_id)).code == (400, "bad_request")
    assert await kernel.release() == first.json()["lock"]
    # It has ended: for another lock it takes another one.
    assert (await kernel.ask("gpu-1", request_id=request_id)).code == (409, "lock_refused")


async def test_a_request_is_taken_back_whatever_became_of_it(world: World):
    a, b = await kernels(world, "a", "b")
    request_id = str(uuid4())

    async def take_back(kernel: Kernel):
        answer = await kernel.call("DELETE", f"locks/requests/{request_id}")
        assert answer.status == 200
        return answer.json()["released"]

    assert await take_back(b) is None
    held = await a.lock("gpu-1", "exclusive")
    async with b.waiting("gpu-1", request_id=request_id) as waiting:
        await waiting.at(1)
        # Whose it is, is nobody else's business (R4).
        assert await take_back(a) is None
        assert await in_line(world) == ["b.ipynb"]
        assert await take_back(b) is None
        assert (await waiting.error())["code"] == "lock_refused"
        assert await in_line(world) == []
    assert await a.release() == held
    request_id = str(uuid4())
    lock = await b.lock("gpu-1", request_id=request_id)
    assert await take_back(a) is None
    assert await take_back(b) == lock
    assert await take_back(b) is None
    assert await world.nobody_holds()


@pytest.mark.parametrize("how", ["its request", "what it holds", "the operator"])
async def test_a_lock_that_is_taken_back_while_it_is_made_ready_is_not_used(world: World, how: str):
    """R7."""
    a, b = await kernels(world, "a", "b")
    request_id = str(uuid4())
    upstream = world.app._upstreams["gpu-1"]
    gate = Gate(upstream, "get", only=lambda path, **_: path == "/queue")
    asking = asyncio.create_task(a.ask("gpu-1", "exclusive", request_id=request_id))
    await gate.is_reached()
    if how == "its request":
        await a.call("DELETE", f"locks/requests/{request_id}")
    elif how == "what it holds":
        await a.release()
    else:
        await world.force(a)
    gate.go.set()
    answer = await asking
    assert answer.code == (409, "stale_lock")
    assert world.held() == ()
    await b.lock("gpu-1", "exclusive")
    assert (await a.comfy("POST", "free")).status == 409
    assert ("POST", "/free") not in world.gpu.calls.writes()


# -- what the holder has meanwhile ---------------------------------------------------------------


async def test_the_newest_wish_of_a_kernel_counts(world: World):
    a, b, c = await kernels(world, "a", "b", "c")
    await a.lock("gpu-1", "exclusive")
    await c.lock("gpu-2", "exclusive")
    async with b.waiting("gpu-1") as old:
        await old.at(1)
        async with b.waiting("gpu-2") as new:
            assert "another request of this kernel" in (await old.error())["message"]
            await new.at(1)
            await a.release()
            await c.release()
            assert (await new.lock())["comfy_id"] == "gpu-2"
    assert [x["comfy_id"] for x in (await b.get("locks"))["locks"]] == ["gpu-2"]


async def test_a_wish_for_what_one_has_ends_the_wait_for_another(world: World):
    a, b = await kernels(world, "a", "b")
    await a.lock("gpu-1", "exclusive")
    lock = await b.lock("gpu-2")
    async with b.waiting("gpu-1") as waiting:
        await waiting.at(1)
        assert await b.lock("gpu-2") == lock
        assert (await waiting.error())["code"] == "lock_refused"
    await a.release()
    assert [x["comfy_id"] for x in (await b.get("locks"))["locks"]] == ["gpu-2"]


async def test_who_waits_keeps_what_it_has_until_its_turn_comes(world: World):
    a, b, c = await kernels(world, "a", "b", "c")
    await a.lock("gpu-1", "exclusive")
    await b.lock("gpu-2", "exclusive")
    async with b.waiting("gpu-1", "exclusive") as waiting, b.socket() as hears:
        await waiting.at(1)
        assert (await b.ended(await b.submit(graphs.picture())))["lock"]["comfy_id"] == "gpu-2"
        assert (await c.ask("gpu-2")).code == (409, "lock_refused")
        await a.release()
        assert (await waiting.last())["was"] is None
        assert await hears.close_code() == 4001
    await c.lock("gpu-2", "exclusive")
    assert (await b.ended(await b.submit(graphs.picture())))["lock"]["comfy_id"] == "gpu-1"


async def test_a_turn_that_comes_while_tasks_pend_elsewhere_is_refused(world: World):
    """R3."""
    a, b, c = await kernels(world, "a", "b", "c")
    await a.lock("gpu-1", "exclusive")
    await b.lock("gpu-2")
    async with b.waiting("gpu-1") as waiting:
        await waiting.at(1)
        task_id = await b.submit(graphs.steps(400))
        await a.release()
        error = await waiting.error()
        assert error["code"] == "lock_refused"
        assert "tasks of this kernel were pending" in error["message"]
    await c.lock("gpu-1", "exclusive")
    assert [x["comfy_id"] for x in (await b.get("locks"))["locks"]] == ["gpu-2"]
    assert (await b.get(f"tasks/{task_id}"))["state"] in ("registered", "queued", "running")
    await b.cancel(task_id)
    await b.ended(task_id)


async def test_tasks_that_pend_elsewhere_let_nobody_into_the_line(world: World):
    """R3."""
    a, b = await kernels(world, "a", "b")
    await a.lock("gpu-1", "exclusive")
    await b.lock("gpu-2")
    task_id = await b.submit(graphs.steps(400))
    assert (await b.ask("gpu-1", wait=None)).code == (409, "server_consistency")
    await b.cancel(task_id)
    await b.ended(task_id)


# -- what is not waited for ----------------------------------------------------------------------


async def test_a_ring_of_waiters_is_refused_at_once(world: World):
    a, b = await kernels(world, "a", "b")
    await a.lock("gpu-1", "exclusive")
    await b.lock("gpu-2", "exclusive")
    async with a.waiting("gpu-2") as waiting:
        await waiting.at(1)
        answer = await b.ask("gpu-1", wait=None)
        assert answer.code == (409, "lock_refused")
        assert "comfy.release()" in answer.json()["message"]
        assert await in_line(world) == ["a.ipynb"]
        await b.release()
        assert (await waiting.lock())["comfy_id"] == "gpu-2"


async def test_a_dead_comfy_server_is_not_waited_for(world: World):
    a, b = await kernels(world, "a", "b")
    await a.lock("gpu-1", "exclusive")
    await world.gpu.stop()
    world.app._upstreams["gpu-1"].looked_s = float("-inf")
    assert (await b.ask("gpu-1", wait=None)).code == (502, "comfy_unreachable")
    assert await in_line(world) == []


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
@pytest.mark.parametrize("named", [True, False])
async def test_a_comfy_server_that_died_meanwhile_is_given_to_nobody_and_holds_up_nobody(
    world: World, mode: str, named: bool
):
    """R6."""
    a, b, c, d = await kernels(world, "a", "b", "c", "d")
    await a.lock("gpu-1", "exclusive")
    await d.lock("gpu-2", "exclusive")
    comfy_id = "gpu-1" if named else None
    async with b.waiting(comfy_id, mode) as second, c.waiting(comfy_id, mode) as third:
        await second.at(1)
        await third.at(2)
        await world.gpu.stop()
        world.app._upstreams["gpu-1"].looked_s = float("-inf")
        await a.release()
        if named:
            assert (await second.error())["code"] == "comfy_unreachable"
            assert (await third.error())["code"] == "comfy_unreachable"
            assert [x["name"] for x in await world.everybodys_locks()] == ["d.ipynb"]
            return
        # What lives will do for them as well, and they wait on for that.
        await d.release()
        ends = [asyncio.ensure_future(each.last()) for each in (second, third)]
        first, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        assert first.pop().result()["lock"]["comfy_id"] == "gpu-2"
        for each in ends:
            each.cancel()


# -- the lease -----------------------------------------------------------------------------------


async def test_who_waits_on_a_lease_that_ran_out_is_told(world: World):
    a, b = await kernels(world, "a", "b")
    await a.lock("gpu-1", "exclusive")
    async with b.waiting("gpu-1") as waiting:
        await waiting.at(1)
        await world.lose_the_lease()
        await world.renew()
        assert (await waiting.error())["code"] == "store_unavailable"


async def test_a_wait_that_begins_on_a_lease_that_ran_out_is_a_wait(world: World):
    a, b = await kernels(world, "a", "b")
    await world.lose_the_lease()
    async with b.waiting("gpu-1") as waiting:
        await waiting.lock()
        async with a.waiting("gpu-1", "exclusive") as second:
            await second.at(1)
            await b.release()
            await second.lock()


@pytest.mark.complaint(2)
async def test_waiting_sends_a_comfy_server_nothing_that_changes_it(world: World):
    """R11."""
    a, b = await kernels(world, "a", "b")
    await a.lock("gpu-1", "exclusive")
    async with b.waiting("gpu-1", "exclusive") as waiting:
        await waiting.at(1)
        await a.release()
        await waiting.lock()
    await b.lock("gpu-1", "shared")
    async with a.waiting("gpu-1", "exclusive") as waiting:
        await waiting.at(1)
    await b.release()
    assert world.gpu.calls.writes() == []
    assert world.comfies["gpu-2"].calls.writes() == []
