"""What operators decide about ComfyServers."""

import pytest

from jupyter_comfy_lock.domain.errors import ComfyClosed
from jupyter_comfy_lock.domain.lock import LockEvent, LockState
from jupyter_comfy_lock.domain.pool import Access
from jupyter_comfy_lock.store.locks import Grant, Over, Waiting
from tests.store.site import EXCLUSIVE, ONE, SHARED, TWO

pytestmark = pytest.mark.asyncio


async def test_one_that_drains_gives_no_new_locks_and_those_that_are_held_go_on(site, node):
    lock = await node.take("k1", ONE)
    assert await site.set_access(ONE, Access.DRAINING, why="new driver") == []
    with pytest.raises(ComfyClosed, match=r"draining by op since .*: new driver"):
        await node.ask("k2", ONE)
    with pytest.raises(ComfyClosed):
        await node.ask("k2", ONE, wait=True)
    assert await node.take("k1", ONE) == lock
    await node.task(lock)


async def test_one_that_drains_may_be_shared_by_who_has_it_and_not_be_had_alone(site, node):
    await node.take("k1", ONE, mode=EXCLUSIVE)
    await site.set_access(ONE, Access.DRAINING)
    assert (await node.take("k1", ONE)).mode is SHARED
    with pytest.raises(ComfyClosed):
        await node.ask("k1", ONE, mode=EXCLUSIVE)
    assert await site.held() == [("k1", "gpu-1", "shared")]


async def test_one_that_is_disabled_takes_its_locks_away_and_says_why(site, node):
    mine, other = await node.take("k1", ONE), await site.join()
    theirs = await other.take("k2", ONE)
    elsewhere = await node.take("k3", TWO)
    taken = await site.set_access(ONE, Access.DISABLED, node.node_id, why="fire")
    assert sorted(x.lock_id for x in taken) == sorted([mine.lock_id, theirs.lock_id])
    assert await site.active("held") == [elsewhere]
    over = await site.locks.outcome(mine.lock_id)
    assert (over.ending.event, over.ending.by) == (LockEvent.FORCED, "op")
    assert over.ending.why == "gpu-1 is disabled: fire"
    assert over.lock.state is LockState.ENDED
    # The other node has to confirm that it forwards nothing more.
    assert [(x.holder_id, x.state) for x in await site.active("draining")] == [
        ("k2", LockState.DRAINING)
    ]
    await site.locks.confirm([theirs.lock_id])
    assert await site.active("draining") == []


async def test_who_waits_for_one_that_is_closed_stands_in_its_line_no_longer(site, node):
    await node.take("k0", ONE, mode=EXCLUSIVE)
    await node.take("k9", TWO, mode=EXCLUSIVE)
    only = await node.wait("k1", ONE)
    either = await node.wait("k2", ONE, TWO)
    await site.set_access(ONE, Access.DRAINING, why="fire")
    over = await site.locks.outcome(only)
    assert isinstance(over, Over)
    assert (over.ending.event, over.ending.why) == (LockEvent.FORCED, "gpu-1 is draining: fire")
    waiting = await site.locks.outcome(either)
    assert isinstance(waiting, Waiting)
    assert list(waiting.waiter.wants) == ["gpu-2"]
    await site.release("k0")
    assert isinstance(await site.locks.outcome(either), Waiting)
    await site.release("k9")
    assert (await site.locks.outcome(either)).lock.comfy_id == "gpu-2"


async def test_who_leaves_a_line_because_it_is_closed_frees_those_behind_in_another(site, node):
    await node.take("k0", ONE, mode=EXCLUSIVE)
    await node.take("k9", TWO)
    await node.wait("k1", ONE, TWO, mode=EXCLUSIVE)
    behind = await node.wait("k2", TWO)
    await site.set_access(TWO, Access.DRAINING)
    assert isinstance(await site.locks.outcome(behind), Over)
    await site.set_access(TWO, Access.OPEN)
    assert (await node.take("k3", TWO)).comfy_id == "gpu-2"


async def test_a_ring_that_closing_one_makes_is_broken(site, node):
    # k1 waits for either; without gpu-1 each of the two waits for what the other has.
    three = type(ONE)(comfy_id="gpu-3", url="http://gpu-3:8188")
    await node.take("k0", ONE, mode=EXCLUSIVE)
    await node.take("k1", three, mode=EXCLUSIVE)
    await node.take("k2", TWO, mode=EXCLUSIVE)
    first = await node.wait("k1", ONE, TWO, mode=EXCLUSIVE)
    second = await node.wait("k2", three, mode=EXCLUSIVE)
    await site.set_access(ONE, Access.DRAINING)
    assert isinstance(await site.locks.outcome(first), Over)
    assert await site.in_line() == ["k2"]
    await site.release("k1")
    assert isinstance(await site.locks.outcome(second), Grant)


async def test_one_that_is_opened_again_is_to_be_had(site, node):
    await site.set_access(ONE, Access.DISABLED)
    with pytest.raises(ComfyClosed, match="disabled"):
        await node.ask("k1", ONE)
    assert (await node.take("k1", ONE, TWO)).comfy_id == "gpu-2"
    await site.set_access(ONE, Access.OPEN)
    assert (await node.take("k2", ONE, TWO)).comfy_id == "gpu-1"


async def test_what_was_decided_last_counts_and_every_jupyter_server_sees_it(site, open_database):
    for access in (Access.DRAINING, Access.DISABLED, Access.DRAINING):
        await site.set_access(ONE, access, why=access)
        seen = (await site.through(open_database()).locks.occupancy()).of(ONE.comfy_id)
        assert (seen.access, seen.by, seen.why) == (access, "op", access)
        assert seen.since == site.clock.wall


async def test_what_drains_by_itself_is_let_go_of_also_while_it_is_closed(site, node):
    task = await node.task(await node.take("k1", ONE, mode=EXCLUSIVE))
    await site.set_access(ONE, Access.DISABLED, node.node_id)
    assert [x.state for x in await site.active()] == [LockState.DRAINING]
    await site.end(task)
    assert await site.active() == []
