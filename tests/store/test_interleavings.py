"""Two transactions on PostgreSQL, the first stopped before each of its statements in turn.

SQLite lets in one writer at a time; PostgreSQL lets a task be recorded, or end, while locks change.
In whatever order they meet: no lock drains for ever, nobody gets a ComfyServer while prompts of
the one before are on it, and no holder has tasks in two places.
"""

from __future__ import annotations

import asyncio
import threading
from itertools import count

import pytest
from sqlalchemy import event

from jupyter_comfy_lock.domain.errors import LockRefused, NoLock, ServerConsistencyError
from jupyter_comfy_lock.domain.lock import HolderId, LockState
from jupyter_comfy_lock.domain.task import TaskState
from jupyter_comfy_lock.store.locks import Grant
from tests.domain.things import a_comfy
from tests.store.site import EXCLUSIVE, SHARED, Site, task_of

pytestmark = pytest.mark.asyncio

WAIT_S = 2.0


@pytest.fixture
def kind():
    return "postgresql"


class Stops:
    """Has the transactions of one database stop before a statement; a commit counts as one."""

    def __init__(self, database):
        database.transact(lambda _: None)
        event.listen(database._engine, "before_cursor_execute", self._before)
        event.listen(database._engine, "commit", self._before)
        self._left = None
        self.reached, self.go = threading.Event(), threading.Event()

    def at(self, number):
        self._left = number
        self.reached, self.go = threading.Event(), threading.Event()

    def _before(self, *_):
        if self._left is None:
            return
        if self._left == 0:
            self._left = None
            self.reached.set()
            self.go.wait(WAIT_S)
        else:
            self._left -= 1


class Scene:
    """k1 has a ComfyServer alone and perhaps a task there; k2 is in line behind it."""

    def __init__(self, number, first, second):
        self.one, self.two = (a_comfy(f"gpu-{number}-{x}", capacity=2) for x in ("one", "two"))
        self.k1, self.k2, self.k9 = (f"k{n}-{number}" for n in (1, 2, 9))
        self.ids = [f"t{n}-{number}" for n in (1, 2)]
        self.first, self.second = first, second

    async def set(self, site: Site, *, pending: bool):
        self.node, self.dead = await site.join(), await site.join()
        home = self.dead if "expire" in (self.first, self.second) else self.node
        self.home = home
        self.lock = await home.take(self.k1, self.one, mode=EXCLUSIVE)
        self.task = await home.task(self.lock, self.ids[0]) if pending else None
        self.waiting = await self.node.wait(self.k2, self.one, mode=EXCLUSIVE)
        if "turn" in (self.first, self.second):
            await self.node.take(self.k9, self.two, mode=EXCLUSIVE)
            await home.wait(self.k1, self.two, mode=EXCLUSIVE)
        if home is self.dead:
            await self.dead.leave()

    # -- what happens at once

    async def register(self, site):
        await site.tasks.register(task_of(self.lock, self.ids[1]))

    async def end(self, site):
        await site.end(self.task)

    async def release(self, site):
        await site.release(self.k1)

    async def force(self, site):
        await site.locks.force(HolderId(self.k1), by="op", why="", node_id="another")
        await site.locks.confirm([self.lock.lock_id])

    async def change_mode(self, site):
        wish = self.home.request(self.k1, self.one, mode=SHARED)
        await site.locks.ask(wish, wait=False)

    async def move(self, site):
        await site.locks.ask(self.home.request(self.k1, self.two), wait=False)

    async def turn(self, site):
        await site.release(self.k9)

    async def expire(self, site):
        self.node.store._db = site.database
        await self.node.store.expire(self.node.node_id)

    # -- what must hold

    async def check(self, site):
        tasks = [x for x in [await site.tasks.get(each) for each in self.ids] if x and x.pending]
        mine = [x for x in await site.active() if x.holder_id == self.k1]
        if any(x.holder_id == self.k2 for x in await site.active("held")):
            assert tasks == [], "k2 has it while prompts of k1 are on it"
        if tasks:
            assert self.one.comfy_id in [x.comfy_id for x in mine], "prompts keep no room"
        if any(x.comfy_id == self.two.comfy_id for x in mine):
            assert tasks == [], "k1 has moved and left tasks behind"
        await site.release(self.k1)
        if {"move", "turn"} & {self.first, self.second}:
            # Its node hears of it, and forwards nothing more where it was before.
            await site.locks.confirm([x.lock_id for x in mine])
        for task in tasks:
            assert await site.end(task, TaskState.LOST)
        left = [x for x in await site.active() if x.holder_id == self.k1]
        assert left == [], "it drains for ever"
        assert isinstance(await site.locks.outcome(self.waiting), Grant)
        await site.release(self.k2)
        await site.release(self.k9)
        assert not any(x.state is LockState.DRAINING for x in await site.active())


def both_ways(changing, others):
    pairs = [(a, b) for a in changing for b in others]
    return [*pairs, *((b, a) for a, b in pairs)]


WITH_A_TASK = [
    *both_ways(["register", "end"], ["release", "force", "change_mode", "expire"]),
    *(("register", "end"), ("end", "register"), ("end", "end")),
]
WITHOUT = both_ways(["register"], ["release", "move", "turn", "change_mode", "expire"])


async def until_it_waits_or_is_done(running, postgres):
    """Return when PostgreSQL has the transaction wait for another, or it is over."""
    for _ in range(200):
        done, _ = await asyncio.wait({running}, timeout=0.005)
        if done:
            return
        (waits,) = await asyncio.to_thread(
            postgres.execute,
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'",
        )
        if waits != (0,):
            return


@pytest.mark.parametrize(
    ("pending", "first", "second"),
    [*((True, *pair) for pair in WITH_A_TASK), *((False, *pair) for pair in WITHOUT)],
)
async def test_however_two_transactions_meet_all_is_well_in_the_end(
    site, open_database, postgres, pending, first, second
):
    one, other = site.through(open_database()), site.through(open_database())
    stops = Stops(one.database)
    numbers = count()
    while True:
        number = next(numbers)
        scene = Scene(number, first, second)
        await scene.set(site, pending=pending)
        stops.at(number)
        running = asyncio.ensure_future(getattr(scene, first)(one))
        await asyncio.to_thread(wait_for_either, stops.reached, running)
        stopped = stops.reached.is_set()
        beside = asyncio.ensure_future(getattr(scene, second)(other))
        await until_it_waits_or_is_done(beside, postgres)
        stops.go.set()
        for each in await asyncio.gather(running, beside, return_exceptions=True):
            assert each is None or isinstance(each, LockRefused | NoLock | ServerConsistencyError)
        stops.at(10**6)
        await scene.check(site)
        if not stopped:
            break
    assert number >= 2


def wait_for_either(reached, running):
    while not reached.wait(0.002) and not running.done():
        pass
