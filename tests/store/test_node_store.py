"""Leases: who is taken for dead, when, and what becomes of what it leaves."""

import asyncio
import os
import subprocess
import sys

import pytest
from sqlalchemy import select

from jupyter_comfy_lock.domain.lock import HolderId, LockEvent, LockState
from jupyter_comfy_lock.domain.task import TaskState
from jupyter_comfy_lock.store import schema
from jupyter_comfy_lock.store.locks import Grant, Over
from jupyter_comfy_lock.store.machine import Machine, boot_id
from jupyter_comfy_lock.store.nodes import LeaseLost, NodeStore
from tests.store.site import EXCLUSIVE, ONE, TTL_S, TWO, TestClock

pytestmark = pytest.mark.asyncio


async def nodes_in(database):
    return set(
        await database.run(lambda c: c.execute(select(schema.nodes.c.node_id)).scalars().all())
    )


# -- renewals ------------------------------------------------------------------------------------


async def test_a_renewal_returns_what_is_still_held(site, node):
    one, two = await node.take("k1", ONE), await node.take("k2", ONE)
    await node.wait("k3", ONE)
    other = await site.join()
    await other.take("k4", TWO)
    assert await node.renew() == {one.lock_id, two.lock_id}
    await site.locks.force(HolderId("k1"), by="op", why="", node_id=other.node_id)
    await site.locks.withdraw(two.lock_id, LockEvent.RELEASED)
    assert await node.renew() == {
        x.lock_id for x in await site.active("held") if x.holder_id == "k3"
    }


async def test_a_node_that_others_have_ended_cannot_renew(site, node, clock):
    looker = await site.join()
    await node.take("k1", ONE)
    await looker.expire()
    clock.pass_(TTL_S)
    assert await looker.expire() == (["k1"], [])
    with pytest.raises(LeaseLost):
        await node.renew()
    with pytest.raises(LeaseLost):
        await node.ask("k1", ONE)
    assert await site.active() == []


async def test_a_node_that_has_left_cannot_renew(node):
    await node.leave()
    with pytest.raises(LeaseLost):
        await node.renew()


async def test_a_renewal_that_comes_late_and_nobody_noticed_keeps_the_locks(site, node, clock):
    looker = await site.join()
    lock = await node.take("k1", ONE)
    await looker.expire()
    clock.pass_(100 * TTL_S)
    assert await node.renew() == {lock.lock_id}
    assert await looker.expire() == ([], [])
    assert await site.active() == [lock]


# -- who is dead ---------------------------------------------------------------------------------


async def test_a_node_is_ended_when_its_renewals_stood_still_for_its_lease_and_not_earlier(
    site, node, clock
):
    looker = await site.join()
    await node.take("k1", ONE)
    clock.pass_(1000 * TTL_S)
    assert await looker.expire() == ([], []), "a first look says nothing about how long"
    clock.pass_(TTL_S - 0.001)
    assert await looker.expire() == ([], [])
    clock.pass_(0.001)
    assert await looker.expire() == (["k1"], [])


async def test_each_renewal_begins_a_new_lease_for_those_who_look(site, node, clock):
    looker = await site.join()
    await node.take("k1", ONE)
    await looker.expire()
    for _ in range(4):
        clock.pass_(TTL_S - 1)
        await node.renew()
        assert await looker.expire() == ([], [])
    clock.pass_(TTL_S - 1)
    assert await looker.expire() == ([], [])
    clock.pass_(1)
    assert await looker.expire() == (["k1"], [])


async def test_no_step_of_the_wall_clock_ends_or_saves_a_lease(site, node, clock):
    looker = await site.join()
    await node.take("k1", ONE)
    await looker.expire()
    clock.wall += 10 * 365 * 24 * 3600
    assert await looker.expire() == ([], [])
    clock.now_s += TTL_S
    clock.wall -= 20 * 365 * 24 * 3600
    assert await looker.expire() == (["k1"], [])


@pytest.mark.parametrize(("theirs", "mine"), [(5.0, 500.0), (500.0, 5.0)])
async def test_the_lease_of_the_dead_node_counts_and_not_that_of_who_looks(
    site, clock, theirs, mine
):
    dead, looker = await site.join(ttl_s=theirs), await site.join(ttl_s=mine)
    await dead.take("k1", ONE)
    await looker.expire()
    clock.pass_(theirs - 0.1)
    assert await looker.expire() == ([], [])
    clock.pass_(0.1)
    assert await looker.expire() == (["k1"], [])


async def test_a_renewal_between_the_look_and_the_end_saves_the_node(site, node, clock):
    looker = await site.join()
    lock = await node.take("k1", ONE)
    await looker.expire()
    clock.pass_(TTL_S)
    dead = site.database.transact(lambda c: looker.store._dead(c, looker.node_id))
    assert list(dead) == [node.node_id]
    await node.renew()
    looker.store._dead = lambda *_: dead
    assert await looker.expire() == ([], [])
    assert await site.active() == [lock]
    assert await node.renew() == {lock.lock_id}


async def test_a_process_that_has_ended_on_the_same_machine_need_not_be_waited_for(site):
    dead, looker = await site.join(host="here"), await site.join(host="here")
    await dead.take("k1", ONE)
    assert await looker.expire() == ([], [])
    site.ended.add(("here", dead.machine.pid))
    assert await looker.expire() == (["k1"], [])


async def test_of_a_process_elsewhere_its_end_cannot_be_seen(site, clock):
    dead, looker = await site.join(host="there"), await site.join(host="here")
    await dead.take("k1", ONE)
    site.ended.add(("there", dead.machine.pid))
    assert await looker.expire() == ([], [])
    clock.pass_(TTL_S)
    assert await looker.expire() == (["k1"], [])


async def test_what_a_node_leaves_is_taken_over_at_once(site):
    gone, node = await site.join(), await site.join()
    await gone.take("k1", ONE, mode=EXCLUSIVE)
    await gone.leave()
    assert await node.expire() == (["k1"], [])
    assert (await node.take("k2", ONE, mode=EXCLUSIVE)).comfy_id == "gpu-1"


async def test_a_node_does_not_bury_itself(site, node, clock):
    await node.take("k1", ONE)
    await node.expire()
    clock.pass_(10 * TTL_S)
    assert await node.expire() == ([], [])
    assert len(await site.active()) == 1


async def test_the_lock_of_a_living_node_is_left_alone(site, clock):
    living, dead, looker = await site.join(), await site.join(), await site.join()
    await living.take("k1", ONE)
    await dead.take("k2", ONE)
    await looker.expire()
    clock.pass_(TTL_S - 1)
    await living.renew()
    clock.pass_(1)
    assert await looker.expire() == (["k2"], [])
    assert await site.held() == [("k1", "gpu-1", "shared")]


async def test_a_node_that_was_ended_itself_ends_nobody(site, database, clock):
    first, late = await site.join(), await site.join()
    await first.take("k1", ONE)
    await first.expire()
    await late.expire()
    clock.pass_(TTL_S)
    await late.leave()
    assert await late.expire() == ([], [])
    assert first.node_id in await nodes_in(database)


async def test_nothing_is_kept_of_a_node_that_was_ended(site, node, database):
    gone = await site.join()
    await gone.leave()
    await node.expire()
    assert await nodes_in(database) == {node.node_id}
    assert set(node.store._seen) <= {gone.node_id}
    await node.expire()
    assert node.store._seen == {}


# -- what it leaves ------------------------------------------------------------------------------


async def test_what_a_dead_node_left_goes_to_exactly_one_that_looks(
    site, node, clock, open_database
):
    lock = await node.take("k1", ONE, mode=EXCLUSIVE)
    await node.task(lock, "pending")
    await site.end(await node.task(lock, "done"))
    lookers = [await site.through(open_database()).join() for _ in range(4)]
    await asyncio.gather(*(each.expire() for each in lookers))
    await node.leave()
    found = await asyncio.gather(*(each.expire() for each in lookers))
    assert sorted(found) == [([], []), ([], []), ([], []), (["k1"], ["pending"])]
    heir = lookers[found.index((["k1"], ["pending"]))]
    kept = await site.tasks.get("pending")
    assert kept is not None
    assert kept.node_id == heir.node_id
    assert kept.state is TaskState.REGISTERED


async def test_adopted_tasks_are_told_of_until_they_have_ended(site, node):
    await node.task(await node.take("k1", ONE))
    heir = await site.join()
    await node.leave()
    assert await heir.expire() == (["k1"], ["t1"])
    assert await heir.expire() == ([], ["t1"])
    task = await site.tasks.get("t1")
    await site.end(task, TaskState.LOST)
    assert await heir.expire() == ([], [])


async def test_adopted_tasks_of_a_dead_heir_have_another_heir(site, node):
    await node.task(await node.take("k1", ONE))
    first, second = await site.join(), await site.join()
    await node.leave()
    await first.expire()
    await first.leave()
    assert await second.expire() == ([], ["t1"])


async def test_a_nodes_own_tasks_are_not_adopted_ones(node):
    await node.task(await node.take("k1", ONE))
    assert await node.expire() == ([], [])


async def test_r6_the_next_gets_the_server_of_a_dead_node_when_its_prompts_have_ended(site, node):
    await node.task(await node.take("k1", ONE, mode=EXCLUSIVE))
    heir = await site.join()
    waiting = await heir.wait("k2", ONE)
    await node.leave()
    assert await heir.expire() == (["k1"], ["t1"])
    assert [x.state for x in await site.active()] == [LockState.DRAINING]
    await site.end(await site.tasks.get("t1"), TaskState.CANCELLED)
    assert isinstance(await site.locks.outcome(waiting), Grant)


async def test_r6_the_next_gets_the_idle_server_of_a_dead_node_at_once(site, node):
    await node.take("k1", ONE, mode=EXCLUSIVE)
    heir = await site.join()
    waiting = await heir.wait("k2", ONE)
    await node.leave()
    await heir.expire()
    assert isinstance(await site.locks.outcome(waiting), Grant)


async def test_r6_who_waited_on_a_dead_node_leaves_the_line(site, node):
    gone = await site.join()
    await node.take("k0", ONE)
    dead = await gone.wait("k1", ONE, mode=EXCLUSIVE)
    behind = await node.wait("k2", ONE)
    await gone.leave()
    await node.expire()
    over = await site.locks.outcome(dead)
    assert isinstance(over, Over)
    assert over.ending.event is LockEvent.EXPIRED
    assert isinstance(await site.locks.outcome(behind), Grant)
    assert await site.in_line() == []


async def test_r6_several_dead_nodes_end_at_once_and_nobody_dead_is_left_with_anything(site, node):
    dead = [await site.join() for _ in range(3)]
    await dead[0].take("k0", ONE, mode=EXCLUSIVE)
    await dead[1].wait("k1", ONE, mode=EXCLUSIVE)
    await dead[2].wait("k2", ONE, mode=EXCLUSIVE)
    waiting = await node.wait("k3", ONE, mode=EXCLUSIVE)
    for each in dead:
        await each.leave()
    await node.expire()
    assert isinstance(await site.locks.outcome(waiting), Grant)
    assert await site.held() == [("k3", "gpu-1", "exclusive")]


async def test_r6_what_one_dead_node_leaves_is_not_for_another(site, node):
    dead = [await site.join() for _ in range(2)]
    ids = []
    for one, other in ((0, 1), (1, 0)):
        comfy = (ONE, TWO)[one]
        await dead[one].take(f"k{one}", comfy, mode=EXCLUSIVE)
        ids.append(await dead[other].wait(f"w{one}", comfy))
    for each in dead:
        await each.leave()
    await node.expire()
    for each in ids:
        assert (await site.locks.outcome(each)).lock is None


async def test_what_a_lock_was_taken_away_for_is_remembered_when_its_node_dies(site, node):
    gone = await site.join()
    lock = await gone.take("k1", ONE)
    await site.locks.force(HolderId("k1"), by="op", why="urgent", node_id=node.node_id)
    await gone.leave()
    await node.expire()
    over = await site.locks.outcome(lock.lock_id)
    assert (over.ending.event, over.ending.why) == (LockEvent.FORCED, "urgent")
    assert over.lock.state is LockState.ENDED


# -- the real machine and its clock --------------------------------------------------------------


async def test_a_process_of_this_machine_is_seen_to_run_and_to_have_ended():
    mine = Machine()
    assert not mine.has_ended(mine.host, mine.pid)
    command = [sys.executable, "-c", "input()"]
    child = await asyncio.to_thread(subprocess.Popen, command, stdin=subprocess.PIPE)
    assert not mine.has_ended(mine.host, child.pid)
    child.kill()
    await asyncio.to_thread(os.waitid, os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert mine.has_ended(mine.host, child.pid), "a zombie has ended too"
    child.communicate()
    assert mine.has_ended(mine.host, child.pid)
    assert not mine.has_ended("elsewhere", child.pid)


async def test_the_host_is_the_same_for_two_processes_and_tells_the_boot():
    code = "from jupyter_comfy_lock.store.machine import Machine; print(Machine().host)"
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
    )
    shown, _ = await other.communicate()
    assert shown.decode().strip() == Machine().host
    assert boot_id() in Machine().host


async def test_a_node_says_where_it_runs(database):
    store = NodeStore(database, ttl_s=7.5)
    node_id = await store.join()
    row = await database.run(lambda c: c.execute(select(schema.nodes)).one())
    mine = Machine()
    assert (row.node_id, row.host, row.pid, row.ttl_s) == (node_id, mine.host, mine.pid, 7.5)
    assert (row.renewals, row.gone) == (0, 0)


async def test_the_clock_of_the_tests_is_like_the_real_one():
    clock = TestClock()
    assert clock.wall_us() == clock.wall_s() * 1_000_000
