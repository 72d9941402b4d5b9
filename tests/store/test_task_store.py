from dataclasses import replace

import pytest

from jupyter_comfy_lock.domain.errors import BadRequest, NoLock
from jupyter_comfy_lock.domain.lock import HolderId, LockEvent
from jupyter_comfy_lock.domain.task import Outcome, TaskState
from tests.domain.things import a_comfy, a_snapshot, a_task
from tests.store.test_lock_store import take, task_under

pytestmark = pytest.mark.asyncio

ONE = a_comfy("gpu-1")


@pytest.fixture
def lock_of(locks):
    async def lock(holder="k1.1"):
        return (await take(locks, ONE, holder, await locks.join())).lock

    return lock


async def test_a_task_is_kept_as_it_was_recorded(tasks, lock_of):
    task = await task_under(tasks, await lock_of(), name="a.ipynb")
    assert await tasks.get(task.task_id) == task


async def test_a_task_ends_with_all_that_it_left(tasks, lock_of):
    task = await task_under(tasks, await lock_of())
    outcome = Outcome(
        state=TaskState.FAILED,
        reason="boom",
        outputs={"1": {"images": [{"filename": "ä.png"}]}},
        error={"node_id": "2", "traceback": ["a"]},
        cached=True,
    )
    ended = replace(task.ended(outcome, at=5.0), dropped={"3": {}}, cancel_requested=True)
    assert await tasks.save(ended)
    assert await tasks.get(task.task_id) == ended


@pytest.mark.parametrize("late", [TaskState.RUNNING, TaskState.LOST, TaskState.CANCELLED])
async def test_nothing_changes_a_task_that_has_ended(tasks, lock_of, late):
    task = await task_under(tasks, await lock_of())
    ended = task.ended(Outcome(state=TaskState.SUCCEEDED), at=5.0)
    await tasks.save(ended)
    assert not await tasks.save(replace(task, state=late, reason="late"))
    assert await tasks.get(task.task_id) == ended


async def test_no_task_is_recorded_without_the_lock_it_names(locks, tasks, lock_of):
    never = a_task("t0", lock=a_snapshot(fence=99))
    lock = await lock_of()
    others = a_task("t2", holder_id=HolderId("k2.1"), lock=a_snapshot("k2.1", "gpu-1", lock.fence))
    await locks.release(lock.holder_id, LockEvent.RELEASED)
    mine = a_task("t1", holder_id=lock.holder_id, lock=a_snapshot(fence=lock.fence))
    for task in (never, others, mine):
        with pytest.raises(NoLock) as refused:
            await tasks.register(task)
        assert task.task_id in refused.value.message
        assert await tasks.get(task.task_id) is None


async def test_a_lock_that_was_taken_anew_is_not_the_lock_that_a_task_names(locks, tasks, lock_of):
    old = await lock_of()
    await locks.release(old.holder_id, LockEvent.RELEASED)
    await lock_of()
    with pytest.raises(NoLock):
        await task_under(tasks, old)


async def test_an_id_is_used_once(tasks, lock_of):
    lock = await lock_of()
    await task_under(tasks, lock)
    with pytest.raises(BadRequest, match="prompt_id"):
        await task_under(tasks, lock)


async def test_the_newest_tasks_come_first_and_only_the_holders_own(tasks, lock_of):
    one, two = await lock_of("k1.1"), await lock_of("k2.1")
    for number, lock in enumerate([one, two, one, two]):
        await task_under(tasks, lock, f"t{number}", created_at=float(number))
    assert [x.task_id for x in await tasks.newest(None, limit=3)] == ["t3", "t2", "t1"]
    assert [x.task_id for x in await tasks.newest(HolderId("k1.1"), limit=9)] == ["t2", "t0"]


async def test_what_ended_long_ago_is_tidied_away_and_nothing_else(locks, tasks, lock_of, clock):
    lock = await lock_of()
    old, pending = await task_under(tasks, lock, "old"), await task_under(tasks, lock, "pending")
    await tasks.save(old.ended(Outcome(state=TaskState.LOST), at=clock.wall))
    clock.pass_(29 * 24 * 3600)
    new = await task_under(tasks, lock, "new")
    await tasks.save(new.ended(Outcome(state=TaskState.LOST), at=clock.wall))
    clock.pass_(2 * 24 * 3600)
    await tasks.tidy()
    assert {x.task_id for x in await tasks.newest(None, limit=9)} == {"new", pending.task_id}
    assert await locks.held() == [lock]
