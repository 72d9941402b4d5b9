"""What the store promises of locks and lines, by the number of the rule."""

import asyncio
import itertools

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import DBAPIError

from jupyter_comfy_lock.domain.errors import (
    BadRequest,
    LockRefused,
    ServerConsistencyError,
)
from jupyter_comfy_lock.domain.lock import HolderId, LockEvent, LockId, LockState
from jupyter_comfy_lock.store import schema
from jupyter_comfy_lock.store.locks import Grant, Over, Waiting
from jupyter_comfy_lock.store.nodes import LeaseLost
from tests.domain.things import a_comfy
from tests.store.site import EXCLUSIVE, ONE, SHARED, THREE, TWO, fences

pytestmark = pytest.mark.asyncio


async def outcome(site, lock_id):
    return await site.locks.outcome(lock_id)


# -- R1 ------------------------------------------------------------------------------------------


async def test_r1_locking_the_same_server_again_returns_the_same_lock(node, site):
    first = await node.ask("k1", ONE)
    again = await node.ask("k1", ONE)
    assert (first.had_it, again.had_it) == (False, True)
    assert again.lock == first.lock
    assert await site.held() == [("k1", "gpu-1", "shared")]


async def test_r1_any_of_several_is_what_one_has_already(node):
    had = await node.take("k1", TWO)
    assert await node.take("k1", ONE, TWO) == had


async def test_r1_a_holder_that_moves_leaves_what_it_had(node, site):
    await node.take("k1", ONE)
    moved = await node.ask("k1", TWO)
    assert (moved.had_it, moved.was) == (False, None)
    assert await site.held() == [("k1", "gpu-2", "shared")]


@pytest.mark.parametrize(("had", "wanted"), [(SHARED, EXCLUSIVE), (EXCLUSIVE, SHARED)])
async def test_r1_another_mode_is_another_lock_on_the_same_server(node, site, had, wanted):
    first = await node.take("k1", ONE, mode=had)
    grant = await node.ask("k1", ONE, mode=wanted)
    assert grant.lock.fence > first.fence
    assert (grant.had_it, grant.was) == (False, had)
    assert await site.held() == [("k1", "gpu-1", wanted)]
    assert len(await site.active()) == 1


async def test_r1_the_database_itself_refuses_a_second_lock_of_one_holder(node, site, database):
    lock = await node.take("k1", ONE)
    second = {
        **dict.fromkeys(("name", "forced_by", "why"), ""),
        **dict.fromkeys(("granted_at", "requested_at"), 0.0),
        **dict.fromkeys(("ticket", "fence", "rev"), lock.fence + 1),
        "lock_id": "another",
        "holder_id": "k1",
        "node_id": node.node_id,
        "mode": "shared",
        "state": "held",
        "comfy_id": "gpu-2",
        "url": TWO.url,
    }
    with pytest.raises(Exception, match=r"(?i)unique constraint") as refused:
        await database.run(lambda c: c.execute(insert(schema.locks), second))
    assert isinstance(refused.value.__cause__, DBAPIError)
    assert len(await site.held()) == 1


# -- R6: who may be beside whom ------------------------------------------------------------------


async def test_r6_an_exclusive_lock_is_alone_and_a_refusal_says_who_has_it_since_when(node, clock):
    await node.take("k1", ONE, mode=EXCLUSIVE, name="a.ipynb")
    for mode in (SHARED, EXCLUSIVE):
        with pytest.raises(LockRefused) as refused:
            await node.ask("k2", ONE, mode=mode)
        (holder,) = refused.value.details["holders"]
        assert (holder["name"], holder["since"]) == ("a.ipynb", clock.wall)
        assert "a.ipynb holds it exclusively" in refused.value.message


async def test_r6_no_more_share_a_server_than_it_has_places(node):
    await node.take("k1", ONE)
    await node.take("k2", ONE)
    with pytest.raises(LockRefused, match="all 2 places"):
        await node.ask("k3", ONE)
    with pytest.raises(LockRefused):
        await node.ask("k1", ONE, mode=EXCLUSIVE)


async def test_r6_a_refused_holder_keeps_what_it_had(node, site):
    await node.take("k1", TWO, mode=EXCLUSIVE)
    had = await node.take("k2", ONE)
    with pytest.raises(LockRefused):
        await node.ask("k2", TWO)
    assert had in await site.active()
    assert await node.take("k2", ONE) == had


async def test_r6_of_several_that_would_do_the_first_with_room_is_taken(node):
    await node.take("k1", ONE, mode=EXCLUSIVE)
    assert (await node.take("k2", ONE, TWO, THREE)).comfy_id == "gpu-2"


# -- R6: the line --------------------------------------------------------------------------------


async def test_r6_first_come_first_served(node, site):
    await node.take("k0", ONE, mode=EXCLUSIVE)
    for holder in ("k1", "k2", "k3"):
        await node.wait(holder, ONE, mode=EXCLUSIVE)
    order = []
    for _ in range(3):
        ((holder, *_),) = await site.held()
        await site.release(holder)
        order.append((await site.held())[0][0])
    assert order == ["k1", "k2", "k3"]


async def test_r6_who_does_not_wait_does_not_overtake_though_there_is_a_place(node, site):
    await node.take("k0", ONE)
    await node.wait("k1", ONE, mode=EXCLUSIVE)
    with pytest.raises(LockRefused, match="1 in line for it before you"):
        await node.ask("k2", ONE)
    assert await site.held() == [("k0", "gpu-1", "shared")]


async def test_r6_a_shared_waiter_does_not_overtake_an_exclusive_one(node, site):
    await node.take("k0", ONE)
    await node.wait("k1", ONE, mode=EXCLUSIVE)
    await node.wait("k2", ONE)
    assert await site.in_line() == ["k1", "k2"]
    await site.release("k0")
    assert await site.held() == [("k1", "gpu-1", "exclusive")]
    await site.release("k1")
    assert await site.held() == [("k2", "gpu-1", "shared")]


async def test_r6_all_shared_waiters_that_have_room_come_in_at_once(node, site):
    await node.take("k0", ONE, mode=EXCLUSIVE)
    for holder in ("k1", "k2", "k3"):
        await node.wait(holder, ONE)
    await site.release("k0")
    assert [x[0] for x in await site.held()] == ["k1", "k2"]
    assert await site.in_line() == ["k3"]


async def test_r6_who_waits_keeps_what_it_has_until_its_turn(node, site):
    await node.take("k1", ONE, mode=EXCLUSIVE)
    await node.take("k2", TWO)
    await node.wait("k2", ONE)
    assert ("k2", "gpu-2", "shared") in await site.held()
    await site.release("k1")
    assert await site.held() == [("k2", "gpu-1", "shared")]


async def test_r6_who_goes_away_holds_up_nobody(node, site):
    await node.take("k0", ONE)
    leaving = await node.wait("k1", ONE, mode=EXCLUSIVE)
    behind = await node.wait("k2", ONE)
    await site.locks.withdraw(leaving, LockEvent.TIMED_OUT)
    assert isinstance(await outcome(site, behind), Grant)
    over = await outcome(site, leaving)
    assert isinstance(over, Over)
    assert (over.ending.event, over.lock) == (LockEvent.TIMED_OUT, None)


async def test_r6_who_waits_for_any_of_several_gets_the_first_that_is_free(node, site):
    await node.take("k1", ONE, mode=EXCLUSIVE)
    await node.take("k2", TWO, mode=EXCLUSIVE)
    either = await node.wait("k3", ONE, TWO)
    behind = await node.wait("k4", TWO, mode=EXCLUSIVE)
    await site.release("k2")
    grant = await outcome(site, either)
    assert isinstance(grant, Grant)
    assert grant.lock.comfy_id == "gpu-2"
    await site.release("k3")
    assert (await outcome(site, behind)).lock.comfy_id == "gpu-2"
    await site.release("k1")
    assert await site.in_line() == []


async def test_r6_a_way_out_of_one_line_frees_those_behind_in_the_other(node, site):
    await node.take("k1", ONE)
    await node.take("k2", TWO)
    await node.wait("k3", ONE, TWO, mode=EXCLUSIVE)
    await node.wait("k4", ONE)
    await node.wait("k5", TWO)
    await site.release("k2")
    assert await site.held() == [
        ("k1", "gpu-1", "shared"),
        ("k3", "gpu-2", "exclusive"),
        ("k4", "gpu-1", "shared"),
    ]
    assert await site.in_line() == ["k5"]


async def test_r6_an_upgrade_waits_for_the_others_and_lets_nobody_in_meanwhile(node, site):
    await node.take("k1", ONE)
    await node.take("k2", ONE)
    await node.wait("k3", ONE)
    up = await node.wait("k1", ONE, mode=EXCLUSIVE)
    await site.release("k2")
    assert await site.held() == [("k1", "gpu-1", "exclusive")]
    assert isinstance(await outcome(site, up), Grant)
    await site.release("k1")
    assert await site.held() == [("k3", "gpu-1", "shared")]


async def test_r6_an_upgrade_of_the_only_holder_overtakes_who_cannot_get_in_anyway(node, site):
    await node.take("k1", ONE)
    await node.wait("k2", ONE, mode=EXCLUSIVE)
    grant = await node.ask("k1", ONE, mode=EXCLUSIVE)
    assert isinstance(grant, Grant)
    assert await site.in_line() == ["k2"]


async def test_r6_a_downgrade_lets_others_in(node, site):
    await node.take("k1", ONE, mode=EXCLUSIVE)
    await node.wait("k2", ONE)
    grant = await node.ask("k1", ONE)
    assert (grant.was, grant.lock.mode) == (EXCLUSIVE, SHARED)
    assert await site.held() == [("k1", "gpu-1", "shared"), ("k2", "gpu-1", "shared")]


async def test_r6_who_would_wait_for_ever_is_not_let_into_the_line(node, site):
    await node.take("k1", ONE, mode=EXCLUSIVE)
    await node.take("k2", TWO, mode=EXCLUSIVE)
    await node.wait("k1", TWO)
    with pytest.raises(LockRefused, match="nobody would ever get on"):
        await node.ask("k2", ONE, wait=True)
    assert await site.in_line() == ["k1"]
    assert len(await site.held()) == 2


async def test_r6_two_who_share_cannot_both_wait_to_have_it_alone(node, site):
    await node.take("k1", ONE)
    await node.take("k2", ONE)
    await node.wait("k1", ONE, mode=EXCLUSIVE)
    with pytest.raises(LockRefused, match="nobody would ever get on"):
        await node.ask("k2", ONE, mode=EXCLUSIVE, wait=True)
    await site.release("k2")
    assert await site.held() == [("k1", "gpu-1", "exclusive")]


async def test_r6_a_newer_wish_of_the_same_holder_takes_the_place_of_the_older(node, site):
    await node.take("k0", ONE, mode=EXCLUSIVE)
    older = await node.wait("k1", ONE)
    await node.wait("k2", ONE)
    newer = await node.wait("k1", ONE, mode=EXCLUSIVE)
    assert await site.in_line() == ["k2", "k1"]
    assert isinstance(await outcome(site, older), Over)
    assert isinstance(await outcome(site, newer), Waiting)


async def test_r6_a_newer_wish_that_is_had_at_once_ends_the_wait_for_the_older(node, site):
    await node.take("k0", ONE)
    await node.wait("k1", ONE, mode=EXCLUSIVE)
    behind = await node.wait("k2", ONE)
    await node.take("k1", TWO)
    assert isinstance(await outcome(site, behind), Grant)
    assert await site.in_line() == []


async def test_r6_a_newer_wish_that_is_refused_leaves_the_older_in_its_place(node, site):
    await node.take("k0", ONE, mode=EXCLUSIVE)
    await node.take("k9", TWO, mode=EXCLUSIVE)
    older = await node.wait("k1", ONE)
    await node.wait("k2", ONE)
    with pytest.raises(LockRefused):
        await node.ask("k1", TWO)
    assert await site.in_line() == ["k1", "k2"]
    await site.release("k0")
    assert isinstance(await outcome(site, older), Grant)


async def test_r6_the_line_is_the_same_seen_from_every_jupyter_server(site, node, open_database):
    other = await site.through(open_database()).join()
    await node.take("k0", ONE, mode=EXCLUSIVE)
    await other.wait("k1", ONE, mode=EXCLUSIVE)
    await node.wait("k2", ONE)
    await site.release("k0")
    assert await other.site.held() == [("k1", "gpu-1", "exclusive")]
    await other.site.release("k1")
    assert await site.held() == [("k2", "gpu-1", "shared")]


# -- R6: draining --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [SHARED, EXCLUSIVE])
async def test_r6_the_next_one_gets_it_exactly_when_the_last_prompt_has_ended(node, site, mode):
    lock = await node.take("k1", ONE, mode=mode)
    tasks = [await node.task(lock, f"t{n}") for n in range(3)]
    waiting = await node.wait("k2", ONE, mode=EXCLUSIVE)
    await site.release("k1")
    for task in tasks:
        assert isinstance(await outcome(site, waiting), Waiting)
        assert [x.state for x in await site.active()] == [LockState.DRAINING]
        with pytest.raises(LockRefused):
            await node.ask("k3", ONE, mode=EXCLUSIVE)
        assert await site.end(task)
    assert await site.held() == [("k2", "gpu-1", "exclusive")]
    assert len(await site.active()) == 1


async def test_r6_news_of_a_task_that_goes_on_ends_nothing(node, site):
    task = await node.task(await node.take("k1", ONE, mode=EXCLUSIVE))
    await node.wait("k2", ONE)
    await site.release("k1")
    await site.tasks.save(task)
    assert await site.held() == []


async def test_r6_prompts_elsewhere_and_of_others_keep_nobody_out(node, site):
    await node.task(await node.take("k1", ONE), "mine")
    await node.take("k2", ONE)
    await site.release("k2")
    assert await site.held() == [("k1", "gpu-1", "shared")]
    assert len(await site.active()) == 1


async def test_r6_what_one_has_drained_is_free_though_another_has_prompts_there(node, site):
    mine = await node.task(await node.take("k1", ONE), "mine")
    await node.task(await node.take("k2", ONE), "others")
    waiting = await node.wait("k3", ONE)
    await site.release("k1")
    await site.release("k2")
    await site.end(mine)
    assert isinstance(await outcome(site, waiting), Grant)
    assert [(x.holder_id, x.state) for x in await site.active()] == [
        ("k2", LockState.DRAINING),
        ("k3", LockState.HELD),
    ]


async def test_r6_a_holder_that_comes_back_to_what_it_drains_has_it_at_once(node, site):
    await node.task(await node.take("k1", ONE))
    await site.release("k1")
    await node.take("k1", ONE, mode=EXCLUSIVE)
    assert await site.held() == [("k1", "gpu-1", "exclusive")]
    assert len(await site.active()) == 1


async def test_r6_who_has_come_back_drains_again_for_its_older_prompts(node, site):
    task = await node.task(await node.take("k1", ONE))
    await site.release("k1")
    await node.take("k1", ONE)
    await site.release("k1")
    assert [x.state for x in await site.active()] == [LockState.DRAINING]
    await site.end(task)
    assert await site.active() == []


async def test_r6_a_forced_lock_of_another_node_waits_until_that_one_confirms(site):
    theirs, mine = await site.join(), await site.join()
    lock = await theirs.take("k1", ONE, mode=EXCLUSIVE)
    waiting = await mine.wait("k2", ONE)
    forced = await site.locks.force(HolderId("k1"), by="op", why="urgent", node_id=mine.node_id)
    assert forced == lock
    assert isinstance(await outcome(site, waiting), Waiting)
    over = await outcome(site, lock.lock_id)
    assert (over.ending.event, over.ending.by, over.ending.why) == (
        LockEvent.FORCED,
        "op",
        "urgent",
    )
    assert over.lock.state is LockState.DRAINING
    await site.locks.confirm([lock.lock_id])
    assert isinstance(await outcome(site, waiting), Grant)


async def test_r6_a_forced_lock_of_ones_own_node_is_free_at_once(node, site):
    await node.take("k1", ONE, mode=EXCLUSIVE)
    waiting = await node.wait("k2", ONE)
    await site.locks.force(HolderId("k1"), by="op", why="", node_id=node.node_id)
    assert isinstance(await outcome(site, waiting), Grant)


async def test_r6_a_forced_lock_waits_for_both_its_prompts_and_its_node(site):
    theirs, mine = await site.join(), await site.join()
    lock = await theirs.take("k1", ONE, mode=EXCLUSIVE)
    first = await theirs.task(lock)
    waiting = await mine.wait("k2", ONE)
    await site.locks.force(HolderId("k1"), by="op", why="", node_id=mine.node_id)
    await site.end(first)
    assert isinstance(await outcome(site, waiting), Waiting)
    await site.locks.confirm([lock.lock_id])
    assert isinstance(await outcome(site, waiting), Grant)


async def test_r6_a_confirmed_lock_waits_for_its_prompts(site):
    theirs, mine = await site.join(), await site.join()
    lock = await theirs.take("k1", ONE, mode=EXCLUSIVE)
    task = await theirs.task(lock)
    waiting = await mine.wait("k2", ONE)
    await site.locks.force(HolderId("k1"), by="op", why="", node_id=mine.node_id)
    await site.locks.confirm([lock.lock_id])
    assert isinstance(await outcome(site, waiting), Waiting)
    await site.end(task)
    assert isinstance(await outcome(site, waiting), Grant)


async def test_r6_a_forced_lock_is_free_when_the_node_that_should_confirm_has_ended(site):
    theirs, mine = await site.join(), await site.join()
    await theirs.take("k1", ONE, mode=EXCLUSIVE)
    waiting = await mine.wait("k2", ONE)
    await site.locks.force(HolderId("k1"), by="op", why="x", node_id=mine.node_id)
    await theirs.leave()
    assert await mine.expire() == ([], [])
    assert isinstance(await outcome(site, waiting), Grant)


async def test_r6_force_takes_a_place_in_line_too(node, site):
    await node.take("k0", ONE)
    waiting = await node.wait("k1", ONE, mode=EXCLUSIVE)
    behind = await node.wait("k2", ONE)
    assert await site.locks.force(HolderId("k1"), by="op", why="x", node_id="another") is None
    over = await outcome(site, waiting)
    assert (over.ending.event, over.ending.by) == (LockEvent.FORCED, "op")
    assert isinstance(await outcome(site, behind), Grant)


async def test_r6_what_a_holder_has_moved_away_from_is_free_when_its_node_confirms(node, site):
    left = await node.take("k1", ONE, mode=EXCLUSIVE)
    waiting = await node.wait("k2", ONE)
    await node.take("k1", TWO)
    assert isinstance(await outcome(site, waiting), Waiting)
    await site.locks.confirm([left.lock_id])
    assert isinstance(await outcome(site, waiting), Grant)


async def test_r6_to_confirm_what_is_held_takes_nothing_away(node, site):
    lock = await node.take("k1", ONE)
    await site.locks.confirm([lock.lock_id, LockId("unknown")])
    assert await site.held() == [("k1", "gpu-1", "shared")]


async def test_r6_what_another_node_may_still_use_is_not_free_by_coming_back_to_it(site):
    old, new = await site.join(), await site.join()
    lock = await old.take("k1", ONE, mode=EXCLUSIVE)
    await new.take("k1", ONE, mode=EXCLUSIVE)
    waiting = await new.wait("k2", ONE)
    await site.release("k1")
    assert isinstance(await outcome(site, waiting), Waiting)
    await site.locks.confirm([lock.lock_id])
    assert isinstance(await outcome(site, waiting), Grant)


async def test_r6_coming_back_to_a_node_that_had_it_exclusively_lets_others_in(site):
    first, second = await site.join(), await site.join()
    await first.take("k1", TWO, mode=EXCLUSIVE)
    await second.take("k1", TWO)
    waiting = await second.wait("k2", TWO)
    # What was exclusive on this node ends, as nothing goes out under it any more.
    await first.take("k1", TWO)
    assert isinstance(await outcome(site, waiting), Grant)


# -- R3 ------------------------------------------------------------------------------------------


async def test_r3_a_holder_with_pending_tasks_cannot_move_and_is_told_which(node, site):
    lock = await node.take("k1", ONE, name="a.ipynb")
    task = await node.task(lock)
    with pytest.raises(ServerConsistencyError) as refused:
        await node.ask("k1", TWO, name="a.ipynb", wait=True)
    details = refused.value.details
    assert (details["asked"], details["locked"], details["pending"]) == ("gpu-2", "gpu-1", ["t1"])
    assert "a.ipynb" in refused.value.message
    assert await site.active() == [lock]
    await site.end(task)
    assert (await node.take("k1", TWO)).comfy_id == "gpu-2"


async def test_r3_of_several_that_would_do_only_the_home_of_pending_tasks_does(node, site):
    await node.task(await node.take("k1", TWO))
    await site.release("k1")
    assert (await node.take("k1", ONE, TWO)).comfy_id == "gpu-2"


async def test_r3_what_a_holder_cannot_have_now_is_not_taken_for_another_pools(node, site):
    await node.take("k9", TWO)
    await node.task(await node.take("k1", ONE))
    await site.release("k1")
    assert (await node.take("k1", ONE, TWO)).comfy_id == "gpu-1"


async def test_r3_a_released_lock_does_not_let_pending_tasks_be_left_behind(node, site):
    await node.task(await node.take("k1", ONE))
    await site.release("k1")
    with pytest.raises(ServerConsistencyError):
        await node.ask("k1", TWO)
    assert (await node.take("k1", ONE)).comfy_id == "gpu-1"


async def test_r3_others_pending_tasks_keep_nobody(node):
    await node.task(await node.take("k1", ONE))
    await node.take("k2", ONE)
    assert (await node.take("k2", TWO)).comfy_id == "gpu-2"


async def test_r3_who_has_sent_something_while_it_waited_is_refused_at_its_turn(node, site):
    had = await node.take("k1", ONE)
    await node.take("k9", TWO, mode=EXCLUSIVE)
    waiting = await node.wait("k1", TWO, mode=EXCLUSIVE)
    behind = await node.wait("k2", TWO)
    await node.task(had)
    await site.release("k9")
    over = await outcome(site, waiting)
    assert (over.ending.event, over.lock) == (LockEvent.REFUSED, None)
    assert had in await site.active("held")
    assert isinstance(await outcome(site, behind), Grant)


async def test_r3_tasks_on_the_same_server_keep_nobody_from_having_it_alone(node, site):
    await node.task(await node.take("k1", ONE))
    await node.take("k2", ONE)
    up = await node.wait("k1", ONE, mode=EXCLUSIVE)
    await site.release("k2")
    assert isinstance(await outcome(site, up), Grant)


# -- R7 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step_s", [0.0, -3600.0, 0.000001, 5.0])
async def test_r7_fences_rise_whatever_the_clock_does(node, site, clock, step_s):
    found = []
    for number in range(4):
        found.append((await node.take(f"k{number}", ONE, mode=EXCLUSIVE)).fence)
        waiting = await node.wait(f"w{number}", ONE, mode=EXCLUSIVE)
        clock.wall += step_s
        await site.release(f"k{number}")
        found.append((await outcome(site, waiting)).lock.fence)
        await site.release(f"w{number}")
    assert all(a < b for a, b in itertools.pairwise(found))


async def test_r7_a_fence_is_that_of_the_grant_and_not_of_the_request(node, site):
    await node.take("k1", ONE, mode=EXCLUSIVE)
    waiting = await node.wait("k2", ONE)
    later = await node.take("k3", TWO)
    await site.release("k1")
    assert (await outcome(site, waiting)).lock.fence > later.fence


async def test_r7_those_who_come_in_together_have_fences_of_their_own(node, site):
    await node.take("k1", ONE, mode=EXCLUSIVE)
    await node.wait("k2", ONE)
    await node.wait("k3", ONE)
    await site.release("k1")
    found = fences(await site.active())
    assert len(set(found)) == 2


async def test_r7_an_older_copy_of_the_store_gives_no_fence_twice(node, site, clock, database):
    first = (await node.take("k1", ONE)).fence
    await database.run(lambda c: c.exec_driver_sql("UPDATE meta SET rev = 1"))
    clock.pass_(1)
    assert (await node.take("k2", ONE)).fence > first


# -- release and withdraw ------------------------------------------------------------------------


async def test_a_lock_is_released_once_and_again_is_nothing(node, site):
    lock = await node.take("k1", ONE)
    assert await site.release("k1") == lock
    assert await site.release("k1", LockEvent.HOLDER_GONE) is None
    assert await site.active() == []


async def test_a_release_touches_nobody_elses(node, site):
    await node.take("k1.1", ONE)
    await node.take("k1.2", ONE)
    await node.take("k0", THREE, mode=EXCLUSIVE)
    await node.wait("k1.2", THREE)
    await site.release("k1.1")
    assert ("k1.2", "gpu-1", "shared") in await site.held()
    assert await site.in_line() == ["k1.2"]
    assert await site.release("k9") is None


async def test_the_end_of_a_holder_ends_its_wait_and_what_it_has(node, site):
    await node.take("k1", ONE)
    await node.take("k9", TWO, mode=EXCLUSIVE)
    await node.wait("k1", TWO)
    await node.wait("k2", ONE, mode=EXCLUSIVE)
    await site.release("k1", LockEvent.HOLDER_GONE)
    assert await site.in_line() == []
    assert ("k2", "gpu-1", "exclusive") in await site.held()


async def test_a_lock_remembers_when_and_why_it_ended(node, site, clock):
    lock = await node.take("k1", ONE)
    clock.pass_(7)
    await site.release("k1", LockEvent.HOLDER_GONE)
    over = await outcome(site, lock.lock_id)
    assert (over.ending.event, over.ending.at) == (LockEvent.HOLDER_GONE, clock.wall)
    assert over.lock.state is LockState.ENDED


async def test_a_request_is_taken_back_whatever_became_of_it(node, site):
    held = await node.take("k1", ONE, mode=EXCLUSIVE)
    waiting = await node.wait("k2", ONE)
    last = await node.wait("k3", ONE, mode=EXCLUSIVE)
    assert await site.locks.withdraw(waiting, LockEvent.RELEASED) is None
    assert await site.in_line() == ["k3"]
    assert await site.locks.withdraw(held.lock_id, LockEvent.RELEASED) == held
    assert isinstance(await outcome(site, last), Grant)
    assert await site.locks.withdraw(held.lock_id, LockEvent.RELEASED) is None
    assert await site.locks.withdraw(LockId("never"), LockEvent.RELEASED) is None
    assert await site.held() == [("k3", "gpu-1", "exclusive")]


async def test_a_request_that_is_taken_back_late_takes_no_newer_lock_away(node, site):
    older = await node.take("k1", ONE)
    newer = await node.take("k1", ONE, mode=EXCLUSIVE)
    assert await site.locks.withdraw(older.lock_id, LockEvent.RELEASED) is None
    assert await site.active() == [newer]


async def test_a_request_that_was_taken_back_leads_to_nothing_any_more(node, site):
    lock = await node.take("k1", ONE)
    await site.locks.withdraw(lock.lock_id, LockEvent.RELEASED)
    with pytest.raises(LockRefused, match="taken back"):
        await node.ask("k1", ONE, request_id=lock.lock_id)
    assert await site.active() == []


async def test_the_same_request_again_is_the_same_lock_and_stands_where_it_stood(node, site):
    lock = await node.take("k1", ONE, mode=EXCLUSIVE)
    assert await node.take("k1", ONE, mode=EXCLUSIVE, request_id=lock.lock_id) == lock
    first = await node.wait("k2", ONE)
    await node.wait("k3", ONE)
    assert await node.wait("k2", ONE, request_id=first) == first
    assert await site.in_line() == ["k2", "k3"]


async def test_a_request_of_another_holder_is_not_answered_with_its_lock(node, site):
    lock = await node.take("k1", ONE)
    with pytest.raises(BadRequest, match="request_id"):
        await node.ask("k2", ONE, request_id=lock.lock_id)
    assert await site.held() == [("k1", "gpu-1", "shared")]


async def test_what_a_holder_had_before_is_known_also_when_its_turn_came_later(node, site):
    await node.take("k1", ONE)
    await node.take("k2", ONE)
    up = await node.wait("k1", ONE, mode=EXCLUSIVE)
    await site.release("k2")
    grant = await outcome(site, up)
    assert (grant.lock.mode, grant.was) == (EXCLUSIVE, SHARED)


async def test_what_a_holder_had_before_is_known_also_when_it_asks_again(node):
    await node.take("k1", ONE)
    first = await node.ask("k1", ONE, mode=EXCLUSIVE, request_id="the same")
    assert await node.ask("k1", ONE, mode=EXCLUSIVE, request_id="the same") == first
    assert first.was == SHARED


# -- on which lease it rests ---------------------------------------------------------------------


async def test_nothing_is_granted_on_a_lease_that_is_over(site, node):
    gone = await site.join()
    await gone.leave()
    for each in (gone.node_id, "never-joined", ""):
        request = gone.request("k1", ONE)
        for wait in (True, False):
            with pytest.raises(LeaseLost):
                await site.locks.ask(
                    type(request)(
                        lock_id=request.lock_id,
                        holder_id=request.holder_id,
                        node_id=each,
                        mode=SHARED,
                        wants=[ONE],
                    ),
                    wait=wait,
                )
    assert await site.active() == []


async def test_a_holder_that_comes_back_on_another_node_gets_a_lock_of_that_node(site, clock):
    killed = await site.join()
    old = await killed.take("attached-1.1", ONE, mode=EXCLUSIVE)
    node = await site.join()
    grant = await node.ask("attached-1.1", ONE, mode=EXCLUSIVE)
    assert (grant.had_it, grant.lock.node_id) == (False, node.node_id)
    assert grant.lock.fence > old.fence
    await killed.leave()
    assert await node.expire() == ([], [])
    assert await node.renew() == {grant.lock.lock_id}
    assert await site.active() == [grant.lock]


# -- one ComfyServer, one id, one URL ------------------------------------------------------------


async def test_one_comfy_server_by_two_urls_is_locked_once(node, kind):
    await node.take("k1", ONE, name="a.ipynb")
    elsewhere = type(ONE)(comfy_id=ONE.comfy_id, url="http://elsewhere:1")
    with pytest.raises(LockRefused, match="same id and url") as refused:
        await node.ask("k2", elsewhere)
    assert "a.ipynb" in refused.value.message


async def test_one_comfy_server_by_two_ids_is_locked_once(node):
    await node.take("k1", ONE)
    alias = type(ONE)(comfy_id="alias", url=ONE.url)
    with pytest.raises(LockRefused, match="same id and url"):
        await node.ask("k2", alias)


async def test_loopback_of_another_machine_is_another_comfy_server(node, site, kind):
    mine, theirs = (type(ONE)(comfy_id=x, url="http://127.0.0.1:8188") for x in ("mine", "theirs"))
    await node.take("k1", theirs, mode=EXCLUSIVE)
    if kind == "postgresql":
        assert (await node.take("k2", mine, mode=EXCLUSIVE)).comfy_id == "mine"
    else:
        with pytest.raises(LockRefused, match="same id and url"):
            await node.ask("k2", mine, mode=EXCLUSIVE)


async def test_a_lock_that_has_ended_forbids_no_other_url(node, site):
    await node.take("k1", ONE)
    await site.release("k1")
    await node.take("k2", type(ONE)(comfy_id=ONE.comfy_id, url="http://elsewhere:1"))


# -- news ----------------------------------------------------------------------------------------


async def test_news_tell_a_node_what_became_of_its_requests_and_nothing_of_others(site, node):
    other = await site.join()
    mine = await node.take("k1", ONE, mode=EXCLUSIVE)
    theirs = await other.wait("k2", ONE)
    news = await site.locks.news(node.node_id, 0)
    assert {k: (who, type(x)) for k, (who, x) in news.outcomes.items()} == {
        mine.lock_id: ("k1", Grant)
    }
    assert (await site.locks.news(node.node_id, news.rev)).outcomes == {}
    await site.locks.force(HolderId("k1"), by="op", why="x", node_id=other.node_id)
    lost = await site.locks.news(node.node_id, news.rev)
    ((who, over),) = lost.outcomes.values()
    assert (who, over.ending.by, over.lock.state) == ("k1", "op", LockState.DRAINING)
    before = await site.locks.news(other.node_id, 0)
    await site.locks.confirm([mine.lock_id])
    granted = await site.locks.news(other.node_id, before.rev)
    assert list(granted.outcomes) == [theirs]
    assert isinstance(granted.outcomes[theirs][1], Grant)


async def test_news_tell_of_each_change_once_whatever_happens_in_between(site, node):
    rev, told = 0, []
    for number in range(4):
        await node.take(f"k{number}", ONE, THREE, TWO)
        news = await site.locks.news(node.node_id, rev)
        told += [who for who, _ in news.outcomes.values()]
        rev = news.rev
    assert told == ["k0", "k1", "k2", "k3"]


async def test_the_newest_fence_of_each_server_tells_when_it_was_used_last(node, site):
    assert await site.locks.last_used() == {}
    one = await node.take("k1", ONE)
    await site.release("k1")
    two = await node.take("k1", TWO)
    again = await node.take("k2", TWO)
    assert await site.locks.last_used() == {"gpu-1": one.fence, "gpu-2": again.fence}
    assert again.fence > two.fence
    await node.wait("k3", TWO, mode=EXCLUSIVE)
    assert set(await site.locks.last_used()) == {"gpu-1", "gpu-2"}


async def test_a_store_has_an_id_of_its_own_for_all_who_use_it(site, open_database):
    mine = await site.locks.store_id()
    assert mine
    assert await site.through(open_database()).locks.store_id() == mine


async def test_what_ended_longer_than_a_day_ago_is_tidied_away_and_nothing_else(
    node, site, clock, database
):
    held = await node.take("k1", ONE)
    task = await node.task(held, "pending")
    await site.release("k1")
    await node.take("k2", TWO)
    await node.take("k3", TWO)
    await node.wait("k4", TWO, mode=EXCLUSIVE)
    await site.release("k3")
    clock.pass_(24 * 3600 + 1)
    await site.tasks.tidy()
    rows = await database.run(lambda c: c.execute(select(schema.locks.c.state)).scalars().all())
    assert sorted(rows) == ["draining", "held", "waiting"]
    assert (await site.tasks.get("pending")) == task
    assert await site.in_line() == ["k4"]


# -- races ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [SHARED, EXCLUSIVE])
async def test_of_many_racing_threads_no_more_win_than_there_is_room_for(
    site, node, open_database, mode
):
    sites = [site.through(open_database()) for _ in range(5)]
    found = await asyncio.gather(
        *(
            each.locks.ask(node.request(f"k{n}", ONE, mode=mode), wait=False)
            for n, each in enumerate(sites)
        ),
        return_exceptions=True,
    )
    won = [each for each in found if not isinstance(each, LockRefused)]
    assert len(won) == (1 if mode is EXCLUSIVE else ONE.capacity)
    assert await site.held() == [
        (x.lock.holder_id, "gpu-1", mode) for x in sorted(won, key=lambda x: x.lock.fence)
    ]


async def test_of_many_who_wait_each_gets_it_alone_in_its_turn(site, node, open_database):
    sites = [site.through(open_database()) for _ in range(4)]
    await node.take("first", ONE, mode=EXCLUSIVE)
    asked = [node.request(f"k{n}", ONE, mode=EXCLUSIVE) for n in range(12)]
    waiting = await asyncio.gather(
        *(sites[n % 4].locks.ask(each, wait=True) for n, each in enumerate(asked))
    )
    order = [x.waiter.holder_id for x in sorted(waiting, key=lambda x: x.waiter.ticket)]
    got = []
    for _ in asked:
        ((holder, *_),) = await site.held()
        await sites[len(got) % 4].release(holder)
        ((holder, *_),) = await site.held()
        got.append(holder)
    assert got == order


async def test_more_servers_than_one_wants_change_nothing(node):
    many = [a_comfy(f"gpu-{n}", capacity=1) for n in range(40)]
    for n, each in enumerate(many):
        assert (await node.take(f"k{n}", *many)).comfy_id == each.comfy_id
    with pytest.raises(LockRefused) as refused:
        await node.ask("k99", *many)
    assert refused.value.details["comfy_id"] is None
