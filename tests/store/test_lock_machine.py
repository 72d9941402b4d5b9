"""Any order of calls by several Jupyter servers, each checked against the model.

COMFY_LOCK_LONG=1 has it look for longer.
"""

from __future__ import annotations

import os
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, select

from jupyter_comfy_lock.domain.errors import (
    ComfyClosed,
    LockRefused,
    NoLock,
    ServerConsistencyError,
)
from jupyter_comfy_lock.domain.lock import HolderId, LockEvent, LockId, Mode
from jupyter_comfy_lock.domain.pool import Access
from jupyter_comfy_lock.domain.task import Outcome, TaskState
from jupyter_comfy_lock.store import schema
from jupyter_comfy_lock.store.database import Database
from jupyter_comfy_lock.store.locks import Grant, Waiting
from jupyter_comfy_lock.store.nodes import LeaseLost
from tests.domain.things import a_comfy, a_lock
from tests.store.model import EXCLUSIVE, Event, Has, Model, Wants
from tests.store.site import Node, Site, TestClock, task_of

POOL = {
    name: a_comfy(name, capacity=capacity)
    for name, capacity in (("gpu-1", 1), ("gpu-2", 2), ("gpu-3", 3))
}
HOLDERS = [f"k{n}" for n in range(1, 6)]
LONG = bool(os.environ.get("COMFY_LOCK_LONG"))
EXAMPLES = {
    "sqlite": (1500, 40) if LONG else (60, 30),
    "postgresql": (300, 40) if LONG else (15, 30),
}
ENDING = sorted({LockEvent.RELEASED, LockEvent.HOLDER_GONE, LockEvent.TIMED_OUT})

a_holder = st.sampled_from(HOLDERS)
a_number = st.integers(0, 10**6)
some_comfys = st.lists(st.sampled_from(sorted(POOL)), min_size=1, max_size=2, unique=True)


class DirectDatabase(Database):
    """Without its thread: the machine calls one thing at a time."""

    async def run(self, work):
        return self.transact(work)

    async def read(self, work):
        return self.transact(work, only_reads=True)


def now(coroutine: Any) -> Any:
    """Return what a coroutine that never waits returns."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    msg = "it waited"
    raise AssertionError(msg)


class Life:
    """What the model knows of a node."""

    def __init__(self, node: Node, ttl_s: float) -> None:
        self.node, self.ttl_s = node, ttl_s
        self.node_id = node.node_id
        self.there, self.gone, self.renewals = True, False, 0
        #: How many renewals of others it has seen, and since when.
        self.seen: dict[str, tuple[int, float]] = {}

    @property
    def place(self):
        return self.node.machine.host, self.node.machine.pid

    @property
    def lives(self) -> bool:
        return self.there and not self.gone


class Locks(RuleBasedStateMachine):
    """Each rule asks the store, then tells the model what was asked and what came of it."""

    database: DirectDatabase
    clock: TestClock

    @initialize()
    def begin(self):
        self.database.transact(self._empty)
        self.site = Site(self.database, self.clock)
        self.model = Model({name: each.capacity for name, each in POOL.items()})
        self.model.highest = self.database.transact(self.database.bump)
        self.lives: list[Life] = []
        #: All requests that were ever recorded.
        self.asked: list[Any] = []
        #: All locks that were ever granted, and all tasks ever recorded.
        self.granted: list[Has] = []
        self.tasks: dict[str, Any] = {}
        self.numbers = count()
        for _ in range(2):
            self.join(30.0, "here")

    def _empty(self, c):
        for each in (schema.wants, schema.locks, schema.nodes, schema.comfy_servers, schema.tasks):
            c.execute(delete(each))

    # -- what the store says -----------------------------------------------------------------

    def rows(self):
        return {
            row.lock_id: row
            for row in self.database.transact(
                lambda c: c.execute(select(schema.locks)).all(), only_reads=True
            )
        }

    def follow(self, *steps, also=()):
        """See that what the store did to those who waited follows from the steps."""
        rows = self.rows()
        events = []
        for lock_id in [*(x.lock_id for x in self.model.wants), *also]:
            row = rows.get(lock_id)
            if row is None:
                continue
            if row.fence is not None and row.fence > self.model.highest:
                events.append((row.fence, 0, Event(lock_id, row.comfy_id, row.fence)))
            elif row.ended_by == LockEvent.REFUSED:
                events.append((row.rev, 1, Event(lock_id, None, 0)))
        ordered = [event for *_, event in sorted(events, key=lambda x: x[:2])]
        before = {x.lock_id for x in self.model.has}
        self.model.follow(steps, ordered)
        self.granted += [x for x in self.model.has if x.lock_id not in before]

    def alive(self, number) -> Life:
        return self.lives[number % len(self.lives)]

    # -- nodes -------------------------------------------------------------------------------

    @precondition(lambda self: sum(x.lives for x in self.lives) < 4)
    @rule(ttl_s=st.sampled_from([5.0, 30.0]), host=st.sampled_from(["here", "there"]))
    def join(self, ttl_s, host):
        self.lives.append(Life(now(self.site.join(ttl_s, host)), ttl_s))

    @rule(
        seconds=st.sampled_from([0.0, 1.0, 5.0, 29.0, 30.0]),
        wall=st.sampled_from([0.0, 0.0, 1.0, -1e6, 1e6]),
    )
    def time_passes(self, seconds, wall):
        self.clock.now_s += seconds
        # The wall clock is corrected at will.
        self.clock.wall = max(0.0, self.clock.wall + wall)

    @rule(number=a_number)
    def renew(self, number):
        life = self.alive(number)
        if not life.lives:
            with pytest.raises(LeaseLost):
                now(life.node.renew())
            return
        assert now(life.node.renew()) == {
            x.lock_id for x in self.model.has if x.held and x.node == life.node_id
        }
        life.renewals += 1

    @rule(number=a_number, says_so=st.booleans())
    def a_node_ends(self, number, says_so):
        life = self.alive(number)
        if says_so:
            now(life.node.leave())
            life.gone = True
        else:
            self.site.ended.add(life.place)

    @rule(number=a_number)
    def expire(self, number):
        looker = self.alive(number)
        dead = []
        seen, looker.seen = looker.seen, {}
        for life in self.lives:
            if life is looker or not life.there:
                continue
            renewals, since_s = seen.get(life.node_id, (None, 0.0))
            if renewals != life.renewals:
                since_s = self.clock.now_s
            looker.seen[life.node_id] = (life.renewals, since_s)
            ended = life.place in self.site.ended and life.place[0] == looker.place[0]
            if life.gone or ended or self.clock.now_s - since_s >= life.ttl_s:
                dead.append(life)
        dead = dead if looker.lives else []
        ids = {x.node_id for x in dead}
        expected = sorted(x.lock_id for x in self.model.has if x.held and x.node in ids)
        found = now(looker.node.store.expire(looker.node_id))
        assert sorted(x.lock_id for x in found.locks) == expected
        adopted = {
            task_id
            for task_id in self.model.tasks
            if self.tasks[task_id]["node"] in ids
            or (self.tasks[task_id]["adopted"] and self.tasks[task_id]["node"] == looker.node_id)
        }
        assert {x.task_id for x in found.tasks} == adopted
        for task_id in adopted:
            self.tasks[task_id] |= {"node": looker.node_id, "adopted": True}

        def end():
            for life in dead:
                life.there = False
            self.model.wants = [x for x in self.model.wants if x.node not in ids]
            for lock in [x for x in self.model.has if x.node in ids]:
                self.model.let_go(lock, confirmed=True)

        self.follow(end)

    # -- asking ------------------------------------------------------------------------------

    def wish(self, holder, comfys, mode, number, *, wait):
        # Mostly by a node that lives.
        living = [x for x in self.lives if x.lives] or self.lives
        life = living[number % len(living)] if number % 7 else self.alive(number)
        request = life.node.request(
            holder, *(POOL[x] for x in comfys), mode=mode, request_id=f"r{next(self.numbers)}"
        )
        self._ask(life, request, comfys, wait=wait)

    # Several ways of asking, because nothing happens where nobody asks.

    @rule(holder=a_holder, comfys=some_comfys, mode=st.sampled_from(Mode), number=a_number)
    def ask(self, holder, comfys, mode, number):
        self.wish(holder, comfys, mode, number, wait=False)

    @rule(holder=a_holder, comfys=some_comfys, mode=st.sampled_from(Mode), number=a_number)
    def wait(self, holder, comfys, mode, number):
        self.wish(holder, comfys, mode, number, wait=True)

    @rule(number=a_number)
    def all_ask_for_the_same(self, number):
        comfy = sorted(POOL)[number % len(POOL)]
        for holder, mode in (
            (HOLDERS[0], "shared"),
            (HOLDERS[1], "shared"),
            (HOLDERS[2], "exclusive"),
        ):
            self.wish(holder, [comfy], Mode(mode), number + 1, wait=True)

    @precondition(lambda self: any(x.held for x in self.model.has))
    @rule(number=a_number, wait=st.booleans())
    def ask_for_what_one_has_in_the_other_mode(self, number, wait):
        held = [x for x in self.model.has if x.held]
        lock = held[number % len(held)]
        mode = Mode.EXCLUSIVE if lock.mode == Mode.SHARED else Mode.SHARED
        self.wish(lock.holder, [lock.comfy], mode, number, wait=wait)

    @precondition(lambda self: self.asked)
    @rule(number=a_number, wait=st.booleans())
    def ask_the_same_again(self, number, wait):
        life, request, comfys = self.asked[number % len(self.asked)]
        self._ask(life, request, comfys, wait=wait)

    def _ask(self, life, request, comfys, *, wait):
        model, holder, mode = self.model, request.holder_id, str(request.mode.value)
        try:
            found: Any = now(self.site.locks.ask(request, wait=wait))
        except (LeaseLost, LockRefused, ComfyClosed, ServerConsistencyError) as error:
            found = error
        if not life.lives:
            assert isinstance(found, LeaseLost)
            return self.follow()
        known = self.rows_known(request.lock_id)
        if known is not None:
            if isinstance(known, Has):
                assert isinstance(found, Grant)
                assert found.lock.fence == known.fence
            elif isinstance(known, Wants):
                assert isinstance(found, Waiting)
            else:
                assert isinstance(found, LockRefused)
                assert "taken back" in found.message
            return self.follow()
        homes = model.homes(holder)
        reachable = [x for x in comfys if homes <= {x}]
        if not reachable:
            assert isinstance(found, ServerConsistencyError)
            return self.follow()
        older, had = model.waits(holder), model.held(holder)

        def give_up_older():
            if older is not None:
                model.wants.remove(older)

        if had and (had.node, had.mode) == (life.node_id, mode) and had.comfy in reachable:
            assert isinstance(found, Grant)
            assert found.had_it
            assert (found.lock.lock_id, found.lock.fence) == (had.lock_id, had.fence)
            return self.follow(give_up_older)
        usable = [
            x
            for x in reachable
            if x not in model.closed or (had and had.comfy == x and mode != EXCLUSIVE)
        ]
        if not usable:
            assert isinstance(found, ComfyClosed)
            return self.follow()
        wish = Wants(request.lock_id, holder, mode, usable, life.node_id)
        if isinstance(found, LockRefused):
            self._was_right_to_refuse(wish, older, found, wait=wait)
            return self.follow()
        assert isinstance(found, Grant | Waiting)
        self.asked.append((life, request, comfys))
        self.follow(give_up_older, lambda: model.wants.append(wish), also=[request.lock_id])
        if isinstance(found, Waiting):
            assert wait
            assert model.waits(holder) is wish
            assert list(found.waiter.wants) == usable
            return None
        assert not found.had_it
        held = model.held(holder)
        assert held is not None
        assert (held.lock_id, held.fence) == (request.lock_id, found.lock.fence)
        was = had.mode if had and had.comfy == held.comfy else None
        assert found.was == was
        return None

    def rows_known(self, lock_id):
        """What the model knows of a request: a lock, a place, "over", or None: nothing."""
        if lock_id not in {x.lock_id for _, x, _ in self.asked}:
            return None
        there = [x for x in self.model.has if x.lock_id == lock_id and x.held]
        waiting = [x for x in self.model.wants if x.lock_id == lock_id]
        return next(iter([*there, *waiting]), "over")

    def _was_right_to_refuse(self, wish, older, error, *, wait):
        assert "taken back" not in error.message
        if older is not None:
            # What would have become of the others without it is anybody's guess.
            return
        self.model.wants.append(wish)
        if wait:
            assert self.model.never_gets_its_turn(wish.lock_id), "it could have waited"
        else:
            assert not any(self.model.may_have(x, wish) for x in wish.comfys), "there was room"
        self.model.wants.remove(wish)

    # -- letting go --------------------------------------------------------------------------

    @precondition(lambda self: self.asked)
    @rule(number=a_number, event=st.sampled_from(ENDING))
    def withdraw(self, number, event):
        lock_id = self.asked[number % len(self.asked)][1].lock_id
        lock = next((x for x in self.model.has if x.lock_id == lock_id and x.held), None)
        found = now(self.site.locks.withdraw(LockId(lock_id), event))
        assert (found and found.fence) == (lock and lock.fence)

        def let_go():
            self.model.wants = [x for x in self.model.wants if x.lock_id != lock_id]
            if lock is not None:
                self.model.let_go(lock, confirmed=True)

        self.follow(let_go)

    @rule(holder=a_holder, event=st.sampled_from(ENDING), number=st.none() | a_number)
    def release_or_force(self, holder, event, number):
        if number is None:
            found = now(self.site.locks.release(HolderId(holder), event))
            self._lets_go(holder, found, lambda lock: True)
        else:
            by = self.alive(number).node_id
            found = now(self.site.locks.force(HolderId(holder), by="op", why="", node_id=by))
            self._lets_go(holder, found, lambda lock: lock.node == by)

    def _lets_go(self, holder, found, confirmed):
        lock = self.model.held(holder)
        assert (found and found.fence) == (lock and lock.fence)

        def leave_line():
            self.model.wants = [x for x in self.model.wants if x.holder != holder]

        def let_go():
            if lock is not None:
                self.model.let_go(lock, confirmed=confirmed(lock))

        self.follow(leave_line, let_go)

    @precondition(lambda self: self.granted)
    @rule(numbers=st.lists(a_number, min_size=1, max_size=3))
    def confirm(self, numbers):
        ids = {self.granted[n % len(self.granted)].lock_id for n in numbers}
        now(self.site.locks.confirm([LockId(x) for x in ids]))

        def confirm():
            for lock in [x for x in self.model.has if x.lock_id in ids and not x.held]:
                self.model.let_go(lock, confirmed=True)

        self.follow(confirm)

    @rule(
        comfy=st.sampled_from(sorted(POOL)),
        access=st.sampled_from([Access.OPEN, Access.OPEN, *Access]),
        number=a_number,
    )
    def set_access(self, comfy, access, number):
        by = self.alive(number).node_id
        taken = now(self.site.set_access(POOL[comfy], access, by))
        held = [x for x in self.model.has if x.comfy == comfy and x.held]
        expected = held if access is Access.DISABLED else []
        assert sorted(x.fence for x in taken) == sorted(x.fence for x in expected)

        def close():
            model = self.model
            model.closed.pop(comfy, None)
            if access is Access.OPEN:
                return
            model.closed[comfy] = access
            narrowed = [x for x in model.wants if comfy in x.comfys and len(x.comfys) > 1]
            model.wants = [x for x in model.wants if x.comfys != [comfy]]
            for wish in narrowed:
                wish.comfys.remove(comfy)
            for wish in reversed(narrowed):
                if model.never_gets_its_turn(wish.lock_id):
                    model.wants.remove(wish)
            for lock in expected:
                model.let_go(lock, confirmed=lock.node == by)

        self.follow(close)

    # -- tasks -------------------------------------------------------------------------------

    @precondition(lambda self: self.granted)
    @rule(number=a_number, late=st.booleans())
    def register(self, number, late):
        held = [x for x in self.model.has if x.held]
        locks = self.granted if late or not held else held
        lock = locks[number % len(locks)]
        task_id = f"t{next(self.numbers)}"
        task = task_of(
            a_lock(lock.holder, lock.comfy, fence=lock.fence, node_id=lock.node), task_id
        )
        try:
            now(self.site.tasks.register(task))
        except NoLock:
            assert lock not in held
            return
        assert lock in held
        self.tasks[task_id] = {"task": task, "node": lock.node, "adopted": False}
        self.model.tasks[task_id] = (lock.holder, lock.comfy)

    @precondition(lambda self: self.tasks)
    @rule(number=a_number, state=st.sampled_from([TaskState.SUCCEEDED, TaskState.LOST]))
    def a_task_ends(self, number, state):
        ids = sorted(self.model.tasks) or sorted(self.tasks)
        self._end(ids[number % len(ids)], state)

    @precondition(lambda self: self.tasks)
    @rule(number=a_number)
    def news_come_late(self, number):
        ids = sorted(self.tasks)
        self._end(ids[number % len(ids)], TaskState.CANCELLED)

    def _end(self, task_id, state):
        # Each end is another one, though the clock may say the same twice: the same end again
        # counts as written.
        outcome, at = Outcome(state=state), float(next(self.numbers))
        written = now(self.site.tasks.save(self.tasks[task_id]["task"].ended(outcome, at=at)))
        assert written == (task_id in self.model.tasks), "R9"

        def end():
            found = self.model.tasks.pop(task_id, None)
            if found is not None:
                self.model.drain(*found)

        self.follow(end)

    # -- after each step ---------------------------------------------------------------------

    @invariant()
    def the_store_has_what_the_model_has(self):
        if not hasattr(self, "model"):
            return
        self.model.check()
        seen = now(self.site.locks.occupancy())
        confirmed = {x.lock_id: bool(x.confirmed) for x in self.rows().values()}
        assert sorted(
            (x.fence, x.holder_id, x.comfy_id, x.mode, x.node_id, x.state, confirmed[x.lock_id])
            for each in seen.locks.values()
            for x in each
        ) == sorted(
            (x.fence, x.holder, x.comfy, x.mode, x.node, ("draining", "held")[x.held], x.confirmed)
            for x in self.model.has
        )
        line = sorted(seen.waiters, key=lambda x: x.ticket)
        assert [(x.lock_id, x.holder_id, x.mode, list(x.wants), x.node_id) for x in line] == [
            (x.lock_id, x.holder, x.mode, x.comfys, x.node) for x in self.model.wants
        ]


@pytest.mark.timeout(3600)
def test_in_any_order_of_calls_the_store_keeps_its_promises(kind, backend, clock):
    examples, steps = EXAMPLES[kind]
    database = DirectDatabase(backend, clock)
    database.transact(lambda _: None)

    class OnThis(Locks):
        pass

    OnThis.database, OnThis.clock = database, clock
    try:
        run_state_machine_as_test(
            OnThis,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                print_blob=True,
            ),
        )
    finally:
        database.dispose()
        database._worker.shutdown()
