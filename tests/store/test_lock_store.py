import asyncio
import itertools
import multiprocessing
from pathlib import Path

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from jupyter_comfy_lock.domain.errors import LockRefused, ServerConsistencyError
from jupyter_comfy_lock.domain.lock import HolderId, LockEvent, Mode
from jupyter_comfy_lock.domain.task import Outcome, TaskState
from jupyter_comfy_lock.store import schema
from jupyter_comfy_lock.store.database import Database
from jupyter_comfy_lock.store.locks import LeaseLost, LockStore
from tests.domain.things import a_comfy, a_snapshot, a_task
from tests.store.conftest import TTL_S

pytestmark = pytest.mark.asyncio

ONE, TWO = a_comfy("gpu-1", capacity=2), a_comfy("gpu-2", capacity=2)


async def take(locks, comfy, holder, node, mode=Mode.SHARED, name=""):
    return await locks.acquire(comfy, HolderId(holder), node_id=node, mode=mode, name=name)


async def held(locks):
    return [(x.holder_id, x.comfy_id, x.mode.value) for x in await locks.held()]


async def task_under(tasks, lock, task_id="t1", **more):
    snapshot = a_snapshot(lock.holder_id, lock.comfy_id, lock.fence)
    task = a_task(task_id, holder_id=lock.holder_id, node_id=lock.node_id, lock=snapshot, **more)
    await tasks.register(task)
    return task


# -- R1 ------------------------------------------------------------------------------------------


async def test_locking_the_same_server_again_returns_the_same_lock(locks):
    node = await locks.join()
    first = await take(locks, ONE, "k1.1", node)
    again = await take(locks, ONE, "k1.1", node)
    assert (first.had_it, again.had_it) == (False, True)
    assert again.lock == first.lock


async def test_a_holder_that_moves_leaves_what_it_had(locks):
    node = await locks.join()
    await take(locks, ONE, "k1.1", node)
    await take(locks, TWO, "k1.1", node)
    assert await held(locks) == [("k1.1", "gpu-2", "shared")]


async def test_another_mode_is_another_lock_on_the_same_server(locks):
    node = await locks.join()
    first = (await take(locks, ONE, "k1.1", node)).lock
    grant = await take(locks, ONE, "k1.1", node, Mode.EXCLUSIVE)
    assert grant.lock.fence > first.fence
    assert not grant.had_it
    assert await held(locks) == [("k1.1", "gpu-1", "exclusive")]


async def test_the_database_itself_refuses_a_second_lock_of_one_holder(locks, database):
    node = await locks.join()
    lock = (await take(locks, ONE, "k1.1", node)).lock
    second = {
        "fence": lock.fence + 1,
        "comfy_id": "gpu-2",
        "holder_id": "k1.1",
        "node_id": node,
        "mode": "shared",
        "state": "held",
        "name": "",
        "granted_at": 0.0,
    }
    with pytest.raises(Exception, match="UNIQUE constraint failed") as refused:
        await database.run(lambda c: c.execute(insert(schema.locks), second))
    assert isinstance(refused.value.__cause__, IntegrityError)
    assert len(await locks.held()) == 1


# -- who wins ------------------------------------------------------------------------------------


async def test_an_exclusive_lock_is_alone_and_a_refusal_says_who_has_it_since_when(locks, clock):
    node = await locks.join()
    await take(locks, ONE, "k1.1", node, Mode.EXCLUSIVE, name="a.ipynb")
    for mode in Mode:
        with pytest.raises(LockRefused) as refused:
            await take(locks, ONE, "k2.1", node, mode)
        (holder,) = refused.value.details["holders"]
        assert (holder["name"], holder["since"]) == ("a.ipynb", clock.wall)
        assert "a.ipynb holds it exclusively" in refused.value.message


async def test_no_more_share_a_server_than_it_has_places(locks):
    node = await locks.join()
    await take(locks, ONE, "k1.1", node)
    await take(locks, ONE, "k2.1", node)
    with pytest.raises(LockRefused, match="all 2 places"):
        await take(locks, ONE, "k3.1", node)
    with pytest.raises(LockRefused):
        await take(locks, ONE, "k1.1", node, Mode.EXCLUSIVE)


async def test_a_refused_holder_keeps_what_it_had(locks):
    node = await locks.join()
    await take(locks, TWO, "k1.1", node, Mode.EXCLUSIVE)
    had = (await take(locks, ONE, "k2.1", node)).lock
    with pytest.raises(LockRefused):
        await take(locks, TWO, "k2.1", node)
    assert had in await locks.held()
    assert (await take(locks, ONE, "k2.1", node)).lock == had


@pytest.mark.parametrize("mode", Mode)
async def test_of_many_racing_threads_no_more_win_than_there_is_room_for(path, clock, mode):
    databases = [Database(path, clock) for _ in range(6)]
    stores = [LockStore(each, ttl_s=TTL_S) for each in databases]
    node = await stores[0].join()
    found = await asyncio.gather(
        *(take(store, ONE, f"k{n}.1", node, mode) for n, store in enumerate(stores)),
        return_exceptions=True,
    )
    won = [each for each in found if not isinstance(each, LockRefused)]
    assert len(won) == (1 if mode is Mode.EXCLUSIVE else ONE.capacity)
    assert await held(stores[3]) == [
        (x.lock.holder_id, "gpu-1", mode.value) for x in sorted(won, key=lambda x: x.lock.fence)
    ]
    for each in databases:
        await each.close()


def race(path: Path, node: str, name: str, start, results) -> None:
    """Try again and again for the exclusive lock, in a process of its own."""

    async def run() -> None:
        database = Database(path)
        locks = LockStore(database, ttl_s=60.0)
        start.wait()
        for _ in range(25):
            try:
                lock = (await take(locks, ONE, name, node, Mode.EXCLUSIVE)).lock
            except LockRefused:
                continue
            alone = await held(locks) == [(name, "gpu-1", "exclusive")]
            results.put((lock.fence, alone))
            await locks.release(HolderId(name), LockEvent.RELEASED)
        results.put(None)
        await database.close()

    asyncio.run(run())


async def test_of_two_racing_processes_one_has_the_exclusive_lock_at_a_time(path):
    database = Database(path)
    node = await LockStore(database, ttl_s=60.0).join()
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=race, args=(path, node, f"k{n}.1", start, results)) for n in (1, 2)
    ]
    for each in processes:
        each.start()
    grants, ended = [], 0
    while ended < 2:
        found = await asyncio.to_thread(results.get, True, 60)
        if found is None:
            ended += 1
        else:
            grants.append(found)
    for each in processes:
        await asyncio.to_thread(each.join, 30)
    assert grants
    assert all(alone for _, alone in grants)
    fences = [fence for fence, _ in grants]
    assert len(set(fences)) == len(fences)
    await database.close()


# -- fences --------------------------------------------------------------------------------------


@pytest.mark.parametrize("step_s", [0.0, -3600.0, 0.000001, 5.0])
async def test_fences_rise_whatever_the_clock_does(locks, clock, step_s):
    node = await locks.join()
    fences = []
    for number in range(5):
        fences.append((await take(locks, ONE, f"k{number}.1", node)).lock.fence)
        await locks.release(HolderId(f"k{number}.1"), LockEvent.RELEASED)
        clock.wall += step_s
    assert all(a < b for a, b in itertools.pairwise(fences))


async def test_an_older_copy_of_the_file_gives_no_fence_twice(locks, clock, path, database):
    node = await locks.join()
    first = (await take(locks, ONE, "k1.1", node)).lock.fence
    await database.run(lambda c: c.exec_driver_sql("UPDATE meta SET rev = 1"))
    clock.pass_(1)
    assert (await take(locks, ONE, "k2.1", node)).lock.fence > first


# -- R3 ------------------------------------------------------------------------------------------


async def test_a_holder_with_pending_tasks_cannot_move_and_is_told_which(locks, tasks):
    node = await locks.join()
    lock = (await take(locks, ONE, "k1.1", node, name="a.ipynb")).lock
    task = await task_under(tasks, lock)
    with pytest.raises(ServerConsistencyError) as refused:
        await take(locks, TWO, "k1.1", node, name="a.ipynb")
    details = refused.value.details
    assert (details["asked"], details["locked"], details["pending"]) == ("gpu-2", "gpu-1", ["t1"])
    assert "a.ipynb" in refused.value.message
    assert await locks.held() == [lock]
    await tasks.save(task.ended(Outcome(state=TaskState.SUCCEEDED), at=2.0))
    assert (await take(locks, TWO, "k1.1", node)).lock.comfy_id == "gpu-2"


async def test_a_released_lock_does_not_let_pending_tasks_be_left_behind(locks, tasks):
    node = await locks.join()
    await task_under(tasks, (await take(locks, ONE, "k1.1", node)).lock)
    await locks.release(HolderId("k1.1"), LockEvent.RELEASED)
    with pytest.raises(ServerConsistencyError):
        await take(locks, TWO, "k1.1", node)
    assert (await take(locks, ONE, "k1.1", node)).lock.comfy_id == "gpu-1"


async def test_others_pending_tasks_keep_nobody(locks, tasks):
    node = await locks.join()
    await task_under(tasks, (await take(locks, ONE, "k1.1", node)).lock)
    await take(locks, ONE, "k2.1", node)
    assert (await take(locks, TWO, "k2.1", node)).lock.comfy_id == "gpu-2"


# -- release -------------------------------------------------------------------------------------


async def test_a_lock_is_released_once_and_again_is_nothing(locks):
    node = await locks.join()
    lock = (await take(locks, ONE, "k1.1", node)).lock
    assert await locks.release(HolderId("k1.1"), LockEvent.RELEASED) == lock
    assert await locks.release(HolderId("k1.1"), LockEvent.HOLDER_GONE) is None
    assert await locks.held() == []


async def test_a_release_touches_nobody_elses(locks):
    node = await locks.join()
    await take(locks, ONE, "k1.1", node)
    await take(locks, ONE, "k1.2", node)
    await locks.release(HolderId("k1.1"), LockEvent.RELEASED)
    assert await held(locks) == [("k1.2", "gpu-1", "shared")]
    assert await locks.release(HolderId("k9.1"), LockEvent.RELEASED) is None


async def test_a_lock_remembers_when_and_why_it_ended(locks, database, clock):
    node = await locks.join()
    await take(locks, ONE, "k1.1", node)
    clock.pass_(7)
    await locks.release(HolderId("k1.1"), LockEvent.HOLDER_GONE)
    row = await database.run(lambda c: c.execute(select(schema.locks)).one())
    assert (row.state, row.ended_by, row.ended_at) == ("ended", "holder_gone", clock.wall)


# -- leases --------------------------------------------------------------------------------------


async def test_a_renewal_returns_what_is_still_held(locks):
    node = await locks.join()
    one = (await take(locks, ONE, "k1.1", node)).lock
    two = (await take(locks, ONE, "k2.1", node)).lock
    assert await locks.renew(node) == {one.fence, two.fence}
    await locks.release(HolderId("k1.1"), LockEvent.RELEASED)
    assert await locks.renew(node) == {two.fence}


async def test_a_lease_lasts_for_its_ttl_from_each_renewal(locks, clock):
    node = await locks.join()
    for _ in range(3):
        clock.pass_(TTL_S - 0.001)
        await locks.renew(node)
    clock.pass_(TTL_S)
    with pytest.raises(LeaseLost):
        await locks.renew(node)


async def test_a_corrected_wall_clock_ends_no_lease(locks, clock):
    node = await locks.join()
    clock.wall += 10 * 365 * 24 * 3600
    assert await locks.renew(node) == frozenset()


async def test_a_node_that_leaves_cannot_renew(locks):
    node = await locks.join()
    await locks.leave(node)
    with pytest.raises(LeaseLost):
        await locks.renew(node)


async def test_nothing_is_granted_on_a_lease_that_is_over(locks, clock):
    node = await locks.join()
    clock.pass_(TTL_S)
    for who in (node, "never-joined", ""):
        with pytest.raises(LeaseLost):
            await take(locks, ONE, "k1.1", who)
    assert await locks.held() == []


async def test_a_holder_that_comes_back_on_another_node_gets_a_lock_of_that_node(locks, clock):
    killed = await locks.join()
    old = (await take(locks, ONE, "attached-1.1", killed, Mode.EXCLUSIVE)).lock
    node = await locks.join()
    grant = await take(locks, ONE, "attached-1.1", node, Mode.EXCLUSIVE)
    assert (grant.had_it, grant.lock.node_id) == (False, node)
    assert grant.lock.fence > old.fence
    clock.pass_(TTL_S - 1)
    await locks.renew(node)
    clock.pass_(2)
    assert (await locks.expire(node)).locks == ()
    assert await locks.renew(node) == {grant.lock.fence}


async def test_what_a_dead_node_left_goes_to_exactly_one_that_looks(locks, tasks, clock, database):
    dead, fresh = await locks.join(), ""
    lock = (await take(locks, ONE, "k1.1", dead, Mode.EXCLUSIVE)).lock
    await task_under(tasks, lock, "pending")
    done = await task_under(tasks, lock, "done")
    await tasks.save(done.ended(Outcome(state=TaskState.SUCCEEDED), at=2.0))
    clock.pass_(TTL_S)
    lookers = [await locks.join() for _ in range(4)]
    found = await asyncio.gather(*(locks.expire(each) for each in lookers))
    with_locks = [x for x in found if x.locks]
    assert [[y.fence for y in x.locks] for x in with_locks] == [[lock.fence]]
    assert [[y.task_id for y in x.tasks] for x in found if x.tasks] == [["pending"]]
    fresh = lookers[found.index(with_locks[0])]
    kept = await tasks.get("pending")
    assert kept is not None
    assert kept.node_id == fresh
    assert await locks.held() == []


async def test_the_lock_of_a_living_node_is_left_alone(locks, clock):
    living, dead = await locks.join(), await locks.join()
    await take(locks, ONE, "k1.1", living)
    await take(locks, ONE, "k2.1", dead)
    clock.pass_(TTL_S - 1)
    await locks.renew(living)
    clock.pass_(1)
    looker = await locks.join()
    assert [x.holder_id for x in (await locks.expire(looker)).locks] == ["k2.1"]
    assert await held(locks) == [("k1.1", "gpu-1", "shared")]


async def test_a_node_does_not_bury_itself(locks, clock):
    node = await locks.join()
    await take(locks, ONE, "k1.1", node)
    clock.pass_(TTL_S)
    assert (await locks.expire(node)).locks == ()
    again = await locks.join()
    assert [x.holder_id for x in (await locks.expire(again)).locks] == ["k1.1"]


async def test_a_lease_of_another_boot_is_over_whatever_its_numbers_say(locks, clock):
    before = await locks.join()
    await take(locks, ONE, "k1.1", before)
    clock.boot, clock.monotonic_s = "boot-2", 5.0
    node = await locks.join()
    assert [x.holder_id for x in (await locks.expire(node)).locks] == ["k1.1"]


async def test_a_node_that_leaves_is_taken_over_at_once(locks):
    gone, node = await locks.join(), await locks.join()
    await take(locks, ONE, "k1.1", gone, Mode.EXCLUSIVE)
    await locks.leave(gone)
    assert len((await locks.expire(node)).locks) == 1
    assert (await take(locks, ONE, "k2.1", node, Mode.EXCLUSIVE)).lock.comfy_id == "gpu-1"
