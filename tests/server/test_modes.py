"""Shared and exclusive, one ComfyServer or the best one (R1, R3, R6)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.server import graphs
from tests.server.world import Answer, Gate, Kernel, World, eventually


@asynccontextmanager
async def hammered(*asks: Any) -> AsyncIterator[list[list[Answer]]]:
    """Call each of `asks` again and again within the block; what each was answered."""
    stop = asyncio.Event()
    answers: list[list[Answer]] = [[] for _ in asks]

    async def hammer(ask: Any, mine: list[Answer]) -> None:
        while not stop.is_set():
            mine.append(await ask())

    hammering = [asyncio.create_task(hammer(*each)) for each in zip(asks, answers, strict=True)]
    try:
        yield answers
    finally:
        stop.set()
        await asyncio.gather(*hammering)


async def more_answers(answers: list[list[Answer]], count: int = 3) -> None:
    """Wait until each was answered some more times."""
    wanted = [len(mine) + count for mine in answers]

    async def there() -> bool:
        return all(len(mine) >= n for mine, n in zip(answers, wanted, strict=True))

    await eventually(there)


def uses(kernel: Kernel) -> tuple[Any, Any]:
    """What a client of the kernel goes on doing meanwhile."""

    async def submit() -> Answer:
        return await kernel.comfy("POST", "prompt", json={"prompt": graphs.picture()})

    async def look() -> Answer:
        return await kernel.comfy("GET", "queue")

    return submit, look


async def test_an_upgrade_and_back_leave_no_moment_for_anybody_else(world: World):
    a, c = await world.kernel("a.ipynb"), await world.kernel("c.ipynb")
    await a.lock("gpu-1")
    fences = []

    async def grab() -> Answer:
        return await c.ask("gpu-1", "exclusive")

    async with hammered(grab, *uses(a)) as (grabbed, submitted, looked):
        for mode, was in [("exclusive", "shared"), ("shared", "exclusive")] * 3:
            answer = await a.ask("gpu-1", mode)
            assert answer.status == 201, answer.body
            assert (answer.json()["lock"]["mode"], answer.json()["was"]) == (mode, was)
            fences.append(answer.json()["lock"]["fence"])
            await more_answers([grabbed, submitted, looked])
    assert {answer.code for answer in grabbed} == {(409, "lock_refused")}
    assert {answer.status for answer in submitted} == {200}
    assert {answer.status for answer in looked} == {200}
    assert fences == sorted(set(fences))


async def test_an_upgrade_that_is_waited_for_leaves_no_moment_without_a_lock(world: World):
    a, b, c = [await world.kernel(f"{name}.ipynb") for name in "abc"]
    await a.lock("gpu-1")
    await b.lock("gpu-1")
    async with (
        hammered(*uses(a)) as (submitted, looked),
        a.waiting("gpu-1", "exclusive") as first,
        c.waiting("gpu-1", "exclusive") as second,
    ):
        await first.at(1)
        await second.at(2)
        await more_answers([submitted, looked])
        await b.release()
        assert (await first.last())["was"] == "shared"
        await more_answers([submitted, looked])
        assert [x["name"] for x in (await second.standings_last())["holders"]] == ["a.ipynb"]
    assert {answer.status for answer in submitted} == {200}
    assert {answer.status for answer in looked} == {200}


async def test_who_has_it_goes_before_who_has_it_not(world: World):
    a, b, c = [await world.kernel(f"{name}.ipynb") for name in "abc"]
    await a.lock("gpu-1")
    await b.lock("gpu-1")
    async with c.waiting("gpu-1", "exclusive") as early:
        await early.at(1)
        async with a.waiting("gpu-1", "exclusive") as upgrade:
            await upgrade.at(1)
            await early.at(2)
            await b.release()
            assert (await upgrade.lock())["mode"] == "exclusive"


async def test_of_two_who_wait_for_each_others_share_one_is_refused(world: World):
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    await a.lock("gpu-1")
    await b.lock("gpu-1")
    async with a.waiting("gpu-1", "exclusive") as waiting:
        await waiting.at(1)
        answer = await b.ask("gpu-1", "exclusive", wait=None)
        assert answer.code == (409, "lock_refused")
        assert [x["mode"] for x in (await b.get("locks"))["locks"]] == ["shared"]
        await b.release()
        await waiting.lock()


async def test_an_upgrade_that_is_refused_keeps_what_there_was(world: World):
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    lock = await a.lock("gpu-1")
    await b.lock("gpu-1")
    assert (await a.ask("gpu-1", "exclusive")).code == (409, "lock_refused")
    async with a.waiting("gpu-1", "exclusive", wait=0.05) as waiting:
        assert (await waiting.error())["code"] == "lock_timeout"
    assert (await a.get("locks"))["locks"] == [lock]
    await a.ended(await a.submit(graphs.picture()))


async def test_a_downgrade_lets_in_who_waits_to_share(world: World):
    a, b, c = [await world.kernel(f"{name}.ipynb") for name in "abc"]
    await a.lock("gpu-1", "exclusive")
    assert (await a.comfy("POST", "free", json={})).status == 200
    async with b.waiting("gpu-1") as shares, c.waiting("gpu-1", "exclusive") as alone:
        await shares.at(1)
        await alone.at(2)
        await a.lock("gpu-1", "shared")
        await shares.lock()
        await alone.at(1)
    assert (await a.comfy("POST", "free", json={})).code == (403, "not_yours")


async def test_what_needs_it_alone_does_not_pass_while_it_is_being_shared(world: World):
    """R6: from the moment of the grant others may share it."""
    kernel = await world.kernel()
    await kernel.lock("gpu-1", "exclusive")
    gate = Gate(world.stores.locks, "ask")
    asking = asyncio.create_task(kernel.ask("gpu-1", "shared"))
    await gate.is_reached()
    assert (await kernel.comfy("POST", "free", json={})).code == (403, "not_yours")
    gate.go.set()
    assert (await asking).json()["was"] == "exclusive"


@pytest.mark.parametrize(("had", "wants"), [("exclusive", "shared"), ("shared", "exclusive")])
async def test_a_change_of_mode_that_is_given_up_in_its_last_moment_leaves_nothing_behind(
    world: World, had: str, wants: str
):
    """R6, R7: what it replaced is over in the store, so nothing goes out under it."""
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    await a.lock("gpu-1", had)
    gate = Gate(world.stores.locks, "ask", after=True)
    async with a.waiting("gpu-1", wants) as waiting:
        await gate.is_reached()
        await waiting.close()
        await eventually(world.nobody_holds)
    assert world.held() == ()
    world.stores.locks.ask = gate.real
    await b.lock("gpu-1", "exclusive")
    answer = await a.comfy("POST", "free", json={})
    assert answer.code == (409, "stale_lock")
    assert ("POST", "/free") not in world.gpu.calls.writes()
    await a.heard.until(lambda: a.heard.of("lock")[-1]["lock"] is None)


async def test_a_renewal_in_the_middle_of_an_upgrade_loses_nothing(world: World):
    """R7: the lock that is replaced is not kept any more, and its holder still has one."""
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    gate = Gate(
        world.app._upstreams["gpu-1"], "get", after=True, only=lambda path, **_: path == "/queue"
    )
    asking = asyncio.create_task(kernel.ask("gpu-1", "exclusive"))
    await gate.is_reached()
    await world.renew()
    assert (await kernel.comfy("GET", "object_info/SaveImage")).status == 200
    await kernel.ended(await kernel.submit(graphs.picture()))
    gate.go.set()
    assert (await asking).json()["lock"]["mode"] == "exclusive"
    assert [each["reason"] for each in kernel.heard.of("lock")] == [None] * len(
        kernel.heard.of("lock")
    )
    assert (await kernel.comfy("POST", "free", json={})).status == 200


async def test_a_lock_asked_for_without_a_mode_stays_as_it_is(world: World):
    kernel = await world.kernel()
    assert (await kernel.call("POST", "locks", json={})).json()["lock"]["mode"] == "shared"
    lock = await kernel.lock("gpu-1", "exclusive")
    for body in ({}, {"mode": None}, {"comfy_id": "gpu-1"}, {"comfy_id": "gpu-1", "wait": 1}):
        answer = await kernel.call("POST", "locks", json=body)
        assert (answer.status, answer.json()["lock"]) == (200, lock)
        assert answer.json()["was"] == "exclusive"


class TestAPoolWithLabels:
    @pytest.fixture
    def pool(self, comfies):
        labels = {"gpu-1": ["sdxl"], "gpu-2": ["flux", "big"]}
        return [
            {"id": each.comfy_id, "url": each.url, "labels": labels[each.comfy_id], "capacity": 2}
            for each in comfies.values()
        ]

    async def test_no_more_share_it_than_there_are_places(self, world: World):
        a, b, c = [await world.kernel(f"{name}.ipynb") for name in "abc"]
        await a.lock("gpu-1")
        await b.lock("gpu-1")
        refused = await c.ask("gpu-1")
        assert refused.code == (409, "lock_refused")
        assert "all 2 places are held, by a.ipynb, b.ipynb" in refused.json()["message"]
        async with c.waiting("gpu-1") as waiting:
            assert len((await waiting.at(1))["holders"]) == 2
            await a.release()
            await waiting.lock()

    async def test_the_best_one_has_all_labels_that_are_asked_for(self, world: World):
        kernel = await world.kernel()
        assert (await kernel.lock(labels=["flux"]))["comfy_id"] == "gpu-2"
        # What it has does not have them: another one is chosen, and not what it has.
        assert (await kernel.lock(labels=["sdxl"]))["comfy_id"] == "gpu-1"
        assert (await kernel.lock(labels=["big", "flux"]))["comfy_id"] == "gpu-2"
        answer = await kernel.ask(labels=["sdxl", "big"])
        assert answer.code == (409, "lock_refused")
        message = answer.json()["message"]
        assert "gpu-1: has no label 'big'" in message
        assert "gpu-2: has no label 'sdxl'" in message

    async def test_labels_are_waited_for(self, world: World):
        a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
        await a.lock("gpu-2", "exclusive")
        async with b.waiting(labels=["flux"]) as waiting:
            assert (await waiting.at(1))["comfy_ids"] == ["gpu-2"]
            await a.release()
            assert (await waiting.lock())["comfy_id"] == "gpu-2"

    async def test_labels_that_the_home_of_pending_tasks_has_not_are_refused(self, world: World):
        """R3: nothing else is given silently."""
        kernel = await world.kernel()
        await kernel.lock("gpu-1")
        task_id = await kernel.submit(graphs.steps(400))
        assert (await kernel.ask(labels=["flux"])).code == (409, "server_consistency")
        assert (await kernel.lock(labels=["sdxl"]))["comfy_id"] == "gpu-1"
        await kernel.cancel(task_id)
        await kernel.ended(task_id)
        assert (await kernel.lock(labels=["flux"]))["comfy_id"] == "gpu-2"

    async def test_neither_a_dead_one_nor_a_closed_one_is_the_best(self, world: World):
        a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
        await world.set_state("gpu-1", "draining")
        assert (await a.lock())["comfy_id"] == "gpu-2"
        await world.comfies["gpu-2"].stop()
        answer = await b.ask(wait=None)
        assert answer.code == (409, "lock_refused")
        message = answer.json()["message"]
        assert "gpu-1: draining by" in message
        assert "(new GPU)" in message
        assert "gpu-2: connection refused" in message
        await world.set_state("gpu-1", "open")
        assert (await b.lock())["comfy_id"] == "gpu-1"

    async def test_who_waits_for_any_is_not_given_one_that_was_closed_meanwhile(self, world: World):
        a, b, c = [await world.kernel(f"{name}.ipynb") for name in "abc"]
        await a.lock("gpu-1", "exclusive")
        await b.lock("gpu-2", "exclusive")
        async with c.waiting() as waiting:
            await waiting.at(1)
            await world.set_state("gpu-1", "draining")
            await waiting.stands(lambda each: each["comfy_ids"] == ["gpu-2"])
            await a.release()
            await b.release()
            assert (await waiting.lock())["comfy_id"] == "gpu-2"


# -- pins ----------------------------------------------------------------------------------------


async def test_a_pin_is_what_a_kernel_gets_that_names_none(world: World):
    kernel, other = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    answer = await kernel.call("PUT", "holders/me/pin", json={"comfy_id": "gpu-2"})
    assert (answer.status, answer.json()) == (200, {"pin": "gpu-2"})
    locked = await kernel.call("POST", "locks", json={})
    assert locked.json()["chosen_by"] == "pin"
    assert locked.json()["lock"]["comfy_id"] == "gpu-2"
    await kernel.release()
    # Nothing else is taken when it is not to be had (R3), and it is what is waited for.
    await other.lock("gpu-2", "exclusive")
    assert (await kernel.ask()).json()["details"]["comfy_id"] == "gpu-2"
    async with kernel.waiting() as waiting:
        assert (await waiting.at(1))["comfy_ids"] == ["gpu-2"]
        await other.release()
        assert (await waiting.last())["chosen_by"] == "pin"
    await kernel.release()
    assert (await kernel.call("PUT", "holders/me/pin", json={"comfy_id": None})).json() == {
        "pin": None
    }
    assert (await kernel.call("POST", "locks", json={})).json()["chosen_by"] == "best"


async def test_a_pin_must_be_in_the_pool_and_is_a_kernels_own(world: World):
    kernel = await world.kernel()
    unknown = await kernel.call("PUT", "holders/me/pin", json={"comfy_id": "gpu-9"})
    assert unknown.code == (404, "unknown_comfy")
    for odd in (7, "", ["gpu-1"]):
        answer = await kernel.call("PUT", "holders/me/pin", json={"comfy_id": odd})
        assert answer.code == (400, "bad_request")
    assert (await world.user.call("PUT", "holders/me/pin", json={})).code == (403, "not_yours")
