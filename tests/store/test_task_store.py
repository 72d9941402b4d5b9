from dataclasses import replace

import pytest

from jupyter_comfy_lock.domain.errors import NoLock, TakenId
from jupyter_comfy_lock.domain.lock import HolderId, LockEvent
from jupyter_comfy_lock.domain.task import Outcome, TaskState
from tests.domain.things import a_snapshot, a_task
from tests.store.site import EXCLUSIVE, ONE, task_of

pytestmark = pytest.mark.asyncio


async def test_a_task_is_kept_as_it_was_recorded(site, node):
    task = await node.task(await node.take("k1", ONE), name="a.ipynb")
    assert await site.tasks.get(task.task_id) == task


async def test_r9_a_task_ends_with_all_that_it_left(site, node):
    task = await node.task(await node.take("k1", ONE))
    outcome = Outcome(
        state=TaskState.FAILED,
        reason="boom",
        outputs={"1": {"images": [{"filename": "ä.png"}]}},
        error={"node_id": "2", "traceback": ["a"]},
        cached=True,
    )
    ended = replace(task.ended(outcome, at=5.0), dropped={"3": {}}, cancel_requested=True)
    assert await site.tasks.save(ended)
    assert await site.tasks.get(task.task_id) == ended


@pytest.mark.parametrize("late", [TaskState.RUNNING, TaskState.LOST, TaskState.CANCELLED])
async def test_r9_nothing_changes_a_task_that_has_ended(site, node, late):
    task = await node.task(await node.take("k1", ONE))
    ended = task.ended(Outcome(state=TaskState.SUCCEEDED), at=5.0)
    assert await site.tasks.save(ended)
    assert not await site.tasks.save(replace(task, state=late, reason="late", ended_at=6.0))
    assert not await site.tasks.save(replace(ended, outputs={"1": {}}))
    assert await site.tasks.get(task.task_id) == ended


async def test_r9_of_two_ends_the_first_counts_also_when_it_ends_a_lock(site, node):
    task = await node.task(await node.take("k1", ONE, mode=EXCLUSIVE))
    await site.release("k1")
    lost, done = (
        task.ended(Outcome(state=x), at=5.0) for x in (TaskState.LOST, TaskState.SUCCEEDED)
    )
    assert await site.tasks.save(lost)
    assert not await site.tasks.save(done)
    assert await site.tasks.get(task.task_id) == lost
    assert await site.active() == []


@pytest.mark.parametrize("mark", ["\0", "\ud800"])
async def test_text_that_no_database_keeps_is_kept_without_it(site, node, mark: str):
    task = await node.task(await node.take("k1", ONE), name=f"a{mark}b")
    outcome = Outcome(state=TaskState.FAILED, reason=f"at {mark}", error={"m": mark})
    ended = task.ended(outcome, at=5.0)
    assert await site.tasks.save(ended)
    kept = await site.tasks.get(task.task_id)
    assert (kept.name, kept.reason, kept.error) == ("a\ufffdb", "at \ufffd", {"m": mark})
    assert await site.tasks.get(mark) is None


async def test_a_task_that_nobody_recorded_is_not_saved(site):
    assert not await site.tasks.save(a_task("never"))
    assert await site.tasks.get("never") is None


async def test_r2_no_task_is_recorded_without_the_lock_it_names(site, node):
    lock = await node.take("k1.1", ONE)
    never = a_task("never", lock=a_snapshot(fence=99))
    await site.release("k1.1", LockEvent.HOLDER_GONE)
    for task in (never, task_of(lock)):
        with pytest.raises(NoLock) as refused:
            await site.tasks.register(task)
        assert task.task_id in refused.value.message
        assert await site.tasks.get(task.task_id) is None


async def test_r2_no_task_is_recorded_under_another_holders_lock(site, node):
    lock = await node.take("k1.1", ONE)
    await node.take("k2.1", ONE)
    task = a_task("t1", holder_id=HolderId("k2.1"), lock=a_snapshot("k2.1", fence=lock.fence))
    with pytest.raises(NoLock):
        await site.tasks.register(task)


@pytest.mark.parametrize("how", ["released", "forced", "replaced", "expired"])
async def test_r2_no_task_is_recorded_under_a_lock_that_was_let_go_of(site, node, how):
    lock = await node.take("k1", ONE)
    await node.task(lock, "before")
    other = await site.join()
    if how == "released":
        await site.release("k1")
    elif how == "forced":
        await site.locks.force(HolderId("k1"), by="op", why="", node_id=other.node_id)
    elif how == "replaced":
        await node.take("k1", ONE, mode=EXCLUSIVE)
    else:
        await node.leave()
        await other.expire()
    with pytest.raises(NoLock):
        await node.task(lock, "after")


async def test_r2_a_lock_that_was_taken_anew_is_not_the_lock_that_a_task_names(site, node):
    old = await node.take("k1", ONE)
    await site.release("k1")
    await node.take("k1", ONE)
    with pytest.raises(NoLock):
        await node.task(old)


async def test_r2_a_place_in_line_is_no_lock(site, node):
    await node.take("k1", ONE, mode=EXCLUSIVE)
    await node.wait("k2", ONE)
    with pytest.raises(NoLock):
        await site.tasks.register(
            a_task("t1", holder_id=HolderId("k2"), lock=a_snapshot("k2", fence=0))
        )


async def test_an_id_is_used_once(site, node):
    lock = await node.take("k1", ONE)
    await node.task(lock)
    with pytest.raises(TakenId, match="prompt_id"):
        await node.task(lock, created_at=2.0)
    other = await node.take("k2", ONE)
    with pytest.raises(TakenId, match="prompt_id"):
        await node.task(other)


async def test_the_newest_tasks_come_first_and_only_the_holders_own(site, node):
    one, two = await node.take("k1", ONE), await node.take("k2", ONE)
    for number, lock in enumerate([one, two, one, two]):
        await node.task(lock, f"t{number}", created_at=float(number))
    assert [x.task_id for x in await site.tasks.newest(None, limit=3)] == ["t3", "t2", "t1"]
    assert [x.task_id for x in await site.tasks.newest(HolderId("k1"), limit=9)] == ["t2", "t0"]


async def test_what_ended_long_ago_is_tidied_away_and_nothing_else(site, node, clock):
    lock = await node.take("k1", ONE)
    old, pending = await node.task(lock, "old"), await node.task(lock, "pending")
    await site.end(old, TaskState.LOST)
    clock.pass_(29 * 24 * 3600)
    await site.end(await node.task(lock, "new"), TaskState.LOST)
    clock.pass_(2 * 24 * 3600)
    await site.tasks.tidy()
    assert {x.task_id for x in await site.tasks.newest(None, limit=9)} == {"new", pending.task_id}
    assert await site.active() == [lock]
