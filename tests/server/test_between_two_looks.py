"""What other Jupyter servers, or the store, do between two looks of this one (R6, R7)."""

import asyncio
from contextlib import suppress

from jupyter_comfy_lock.domain.errors import StoreUnavailable
from jupyter_comfy_lock.domain.lock import LockId
from tests.server import graphs
from tests.server.world import Gate, World, eventually


async def test_a_turn_that_comes_and_is_taken_away_at_once_holds_up_nobody(world: World):
    a, b, c = [await world.kernel(f"{name}.ipynb") for name in "abc"]
    await a.lock("gpu-1", "exclusive")
    async with b.waiting("gpu-1", "exclusive") as waiting:
        await waiting.at(1)
        news = Gate(world.stores.locks, "news")
        await news.is_reached()
        await a.release()
        # By the hand of another Jupyter server, before this one has heard of the grant.
        taken = await world.stores.locks.force(
            b.holder_id, by="somebody", why="elsewhere", node_id="another"
        )
        assert taken.name == "b.ipynb"
        news.go.set()
        assert "taken away by somebody" in (await waiting.error())["message"]
    await c.lock("gpu-1", "exclusive", wait=10)
    assert [x["name"] for x in await world.everybodys_locks()] == ["c.ipynb"]


async def test_what_is_forced_elsewhere_is_confirmed_here_and_its_prompts_are_taken_off(
    world: World,
):
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    await a.lock("gpu-1", "exclusive")
    task_id = await a.submit(graphs.steps(400))
    await world.stores.locks.force(a.holder_id, by="somebody", why="elsewhere", node_id="another")
    async with b.waiting("gpu-1", "exclusive") as waiting:
        await waiting.lock()
        assert await world.queue() == []
    task = await a.ended(task_id)
    assert "taken away by somebody" in task["reason"]
    told = await a.comfy("GET", "queue")
    assert told.code == (409, "stale_lock")
    assert "elsewhere" in told.json()["message"]


async def test_a_grant_of_which_nobody_knows_is_given_back(world: World):
    """Its answer was lost: the store was cut off, and whoever asked has gone on."""
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    locks = world.stores.locks
    ask, withdraw = locks.ask, locks.leave

    async def cut_off(*args, **more):
        await ask(*args, **more)
        raise StoreUnavailable("cut off", may_have_happened=True)  # noqa: EM101

    async def away(*_, **__):
        raise StoreUnavailable("away")  # noqa: EM101

    locks.ask, locks.leave = cut_off, away
    assert (await a.ask("gpu-1", "exclusive")).code == (503, "store_unavailable")
    locks.ask, locks.leave = ask, withdraw
    assert [x["name"] for x in await world.everybodys_locks()] == ["a.ipynb"]
    await world.settle()
    assert await world.nobody_holds()
    assert world.held() == ()
    await b.lock("gpu-1", "exclusive")


async def test_what_could_not_be_confirmed_is_confirmed_later_whatever_else_was(world: World):
    debts, store = world.app._debts, world.stores.locks
    real, told = store.confirm, []
    first = Gate(store, "confirm")
    confirming = asyncio.create_task(debts.confirm([LockId("one")]))
    await first.is_reached()

    async def away(_):
        raise StoreUnavailable("away")  # noqa: EM101

    store.confirm = away
    with suppress(StoreUnavailable):
        await debts.confirm([LockId("two")])
    first.go.set()
    await confirming

    async def noted(lock_ids):
        told.extend(lock_ids)
        await real(lock_ids)

    store.confirm = noted
    await debts.settle()
    assert told == ["two"]


async def test_a_release_whose_answer_was_lost_is_a_loss_and_done_again(world: World):
    """Somebody else may have it by now (R7)."""
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    await a.lock("gpu-1", "exclusive")
    release = world.stores.locks.release

    async def cut_off(*args, **more):
        await release(*args, **more)
        raise StoreUnavailable("cut off", may_have_happened=True)  # noqa: EM101

    world.stores.locks.release = cut_off
    assert (await a.call("DELETE", "locks/mine")).code == (503, "store_unavailable")
    world.stores.locks.release = release
    await b.lock("gpu-1", "exclusive")
    assert (await a.comfy("POST", "free", json={})).code == (409, "stale_lock")
    await world.settle()
    assert [x["name"] for x in await world.everybodys_locks()] == ["b.ipynb"]


async def test_a_jupyter_server_that_starts_without_its_store_works_when_it_is_there(
    world: World,
):
    kernel = await world.kernel()
    await world.app._keeper.stop()
    world.lease.node_id = ""
    async with world.store_away():
        await world.app._keeper.start()
        assert (await kernel.ask("gpu-1")).code == (503, "store_unavailable")
    lock = await kernel.lock("gpu-1")
    assert (await kernel.get("locks"))["locks"] == [lock]
    assert (await kernel.comfy("GET", "queue")).status == 200
    await eventually(lambda: is_held(world))


async def is_held(world: World) -> bool:
    return len(world.held()) == 1
