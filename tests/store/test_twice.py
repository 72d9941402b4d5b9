"""A transaction whose answer was lost is done once, and its caller is told what it did."""

import pytest

from jupyter_comfy_lock.domain.errors import LockRefused, NoLock
from jupyter_comfy_lock.domain.lock import HolderId, LockEvent
from jupyter_comfy_lock.domain.pool import Access
from jupyter_comfy_lock.domain.task import Outcome, TaskState
from jupyter_comfy_lock.store.database import Database
from jupyter_comfy_lock.store.locks import Grant
from tests.store.conftest import postgres_server
from tests.store.site import EXCLUSIVE, ONE, TTL_S, TWO, Site, task_of

pytestmark = pytest.mark.asyncio


class TwiceDatabase(Database):
    """Loses the answer of each transaction once, and does it again."""

    def _once(self, work, only_reads):
        if not only_reads:
            super()._once(work, only_reads)
        return super()._once(work, only_reads)


class Cutting:
    """Cuts the connection when the next transaction has been committed."""

    def __init__(self, proxy):
        self._proxy = proxy

    def __enter__(self):
        self._proxy.cut_after_commit()

    def __exit__(self, *failed):
        if failed[0] is None:
            self._proxy.await_cut()


class OnceMore:
    """Nothing: each transaction is done twice."""

    def __enter__(self):
        pass

    def __exit__(self, *_):
        pass


@pytest.fixture(params=["sqlite-twice", "postgresql-twice", "postgresql-cut"])
def how(request):
    return request.param


@pytest.fixture
def kind(how):
    return how.partition("-")[0]


@pytest.fixture
def site(how, backend, clock, request):
    """A site whose answers get lost, within `lost()`."""
    if how.endswith("twice"):
        database = TwiceDatabase(backend, clock)
        lost = OnceMore
    else:
        proxy = request.getfixturevalue("postgres_proxy")
        url = request.getfixturevalue("common_postgres_url")
        database = Database(postgres_server(proxy.through(url)), clock)
        lost = lambda: Cutting(proxy)  # noqa: E731
    made = Site(database, clock)
    made.lost = lost
    database.transact(lambda _: None)
    yield made
    database.dispose()
    database._worker.shutdown()


async def test_asking_gives_one_lock(site):
    node = await site.join()
    await node.take("k1", ONE)
    with site.lost():
        grant = await node.ask("k1", ONE, mode=EXCLUSIVE)
    assert (grant.was, grant.had_it) == ("shared", False)
    assert await site.active() == [grant.lock]


async def test_asking_to_wait_takes_one_place_in_line(site):
    node = await site.join()
    await node.take("k0", ONE, mode=EXCLUSIVE)
    with site.lost():
        first = await node.wait("k1", ONE)
    await node.wait("k2", ONE)
    assert await site.in_line() == ["k1", "k2"]
    await site.release("k0")
    assert isinstance(await site.locks.outcome(first), Grant)


async def test_a_refusal_stays_one(site):
    node = await site.join()
    await node.take("k0", ONE, mode=EXCLUSIVE)
    with pytest.raises(LockRefused):
        await node.ask("k1", ONE)
    assert len(await site.active()) == 1


async def test_withdrawing_returns_the_lock_that_it_ended(site):
    node = await site.join()
    lock = await node.take("k1", ONE)
    with site.lost():
        assert await site.locks.withdraw(lock.lock_id, LockEvent.RELEASED) == lock
    assert await site.active() == []


async def test_releasing_returns_the_lock_that_it_ended_and_lets_in_one_waiter(site):
    node = await site.join()
    lock = await node.take("k1", ONE, mode=EXCLUSIVE)
    await node.wait("k2", ONE, mode=EXCLUSIVE)
    await node.wait("k3", ONE, mode=EXCLUSIVE)
    with site.lost():
        assert await site.release("k1") == lock
    assert await site.held() == [("k2", "gpu-1", "exclusive")]
    assert await site.in_line() == ["k3"]


async def test_forcing_returns_the_lock_that_it_took_away(site):
    node = await site.join()
    lock = await node.take("k1", ONE)
    with site.lost():
        forced = await site.locks.force(HolderId("k1"), by="op", why="x", node_id=node.node_id)
    assert forced == lock
    assert await site.active() == []


async def test_confirming_lets_in_one_waiter(site):
    node, other = await site.join(), await site.join()
    lock = await other.take("k1", ONE, mode=EXCLUSIVE)
    await node.wait("k2", ONE, mode=EXCLUSIVE)
    await site.locks.force(HolderId("k1"), by="op", why="x", node_id=node.node_id)
    with site.lost():
        await site.locks.confirm([lock.lock_id])
    assert await site.held() == [("k2", "gpu-1", "exclusive")]


async def test_closing_returns_the_locks_that_it_took_away(site):
    node = await site.join()
    lock = await node.take("k1", ONE)
    with site.lost():
        assert await site.set_access(ONE, Access.DISABLED, node.node_id) == [lock]
    assert await site.active() == []


async def test_a_task_is_recorded_once(site):
    node = await site.join()
    lock = await node.take("k1", ONE)
    with site.lost():
        task = await node.task(lock)
    assert await site.tasks.newest(None, limit=9) == [task]


async def test_a_task_that_was_recorded_is_so_although_the_lock_was_let_go_of_meanwhile(site):
    # Its first answer was lost; whoever sends it looks at the lock again.
    node = await site.join()
    lock = await node.take("k1", ONE)
    task = await node.task(lock)
    await site.release("k1")
    await site.tasks.register(task)
    with pytest.raises(NoLock):
        await site.tasks.register(task_of(lock, "another"))


@pytest.mark.parametrize("drains", [False, True])
async def test_whoever_has_ended_a_task_is_told_so(site, drains):
    node = await site.join()
    task = await node.task(await node.take("k1", ONE, mode=EXCLUSIVE))
    await node.wait("k2", ONE, mode=EXCLUSIVE)
    if drains:
        await site.release("k1")
    ended = task.ended(Outcome(state=TaskState.FAILED, error={"a": [1]}), at=2.5)
    with site.lost():
        assert await site.tasks.save(ended)
    assert not await site.tasks.save(task.ended(Outcome(state=TaskState.LOST), at=3.5))
    assert await site.tasks.get(task.task_id) == ended
    assert [x[0] for x in await site.held()] == (["k2"] if drains else ["k1"])


async def test_expiring_gives_the_tasks_of_the_dead_to_who_did_it(site, clock):
    dead, node = await site.join(), await site.join()
    await dead.task(await dead.take("k1", ONE, mode=EXCLUSIVE))
    await dead.take("k2", TWO, mode=EXCLUSIVE)
    waiting = await node.wait("k3", TWO)
    await node.expire()
    clock.pass_(TTL_S)
    with site.lost():
        holders, tasks = await node.expire()
    assert (sorted(holders), tasks) == (["k1", "k2"], ["t1"])
    assert isinstance(await site.locks.outcome(waiting), Grant)
    assert [x[0] for x in await site.held()] == ["k3"]


async def test_joining_and_renewing_and_leaving_twice_is_doing_it_once(site):
    with site.lost():
        node = await site.join()
    lock = await node.take("k1", ONE)
    with site.lost():
        assert await node.renew() == {lock.lock_id}
    other = await site.join()
    with site.lost():
        await node.leave()
    assert await other.expire() == (["k1"], [])
