"""Any order of calls on a lock store, against the simplest model of what it promises."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from jupyter_comfy_lock.domain.errors import LockRefused
from jupyter_comfy_lock.domain.lock import HolderId, LockEvent, Mode
from jupyter_comfy_lock.store.database import Database
from jupyter_comfy_lock.store.locks import LeaseLost, LockStore
from tests.domain.things import a_comfy
from tests.store.conftest import TTL_S, TestClock

POOL = {"gpu-1": a_comfy("gpu-1", capacity=1), "gpu-2": a_comfy("gpu-2", capacity=2)}
HOLDERS = st.sampled_from(["k1.1", "k2.1", "k3.1"])


class DirectDatabase(Database):
    """Without its thread: the machine calls one thing at a time."""

    async def run(self, work):
        return self.transact(work)


def now(coroutine):
    """Return what a coroutine that never waits returns."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    msg = "it waited"
    raise AssertionError(msg)


class Locks(RuleBasedStateMachine):
    nodes = Bundle("nodes")

    @initialize()
    def open(self):
        self.folder = tempfile.TemporaryDirectory()
        self.clock = TestClock()
        self.database = DirectDatabase(Path(self.folder.name) / "store.sqlite", self.clock)
        self.store = LockStore(self.database, ttl_s=TTL_S)
        #: holder -> (comfy_id, mode, node, fence)
        self.held: dict[str, tuple[str, Mode, str, int]] = {}
        #: node -> when its lease is over.
        self.over_at: dict[str, float] = {}
        self.highest = 0

    def teardown(self):
        if hasattr(self, "database"):
            self.database._dispose()
            self.folder.cleanup()

    def lives(self, node):
        return self.over_at.get(node, 0) > self.clock.monotonic_s

    @rule(target=nodes)
    def join(self):
        node = now(self.store.join())
        self.over_at[node] = self.clock.monotonic_s + TTL_S
        return node

    @rule(seconds=st.sampled_from([0.0, 1.0, TTL_S / 2, TTL_S]), wall=st.floats(-1e6, 1e6))
    def time_passes(self, seconds, wall):
        self.clock.monotonic_s += seconds
        # The wall clock is corrected at will.
        self.clock.wall = max(0.0, self.clock.wall + wall)

    @rule(node=nodes)
    def renew(self, node):
        mine = {fence for _, _, of, fence in self.held.values() if of == node}
        if self.lives(node):
            assert now(self.store.renew(node)) == mine
            self.over_at[node] = self.clock.monotonic_s + TTL_S
            return
        try:
            now(self.store.renew(node))
        except LeaseLost:
            return
        msg = "a lease that was over was renewed"
        raise AssertionError(msg)

    @rule(target=nodes, node=consumes(nodes))
    def leave(self, node):
        now(self.store.leave(node))
        if node in self.over_at:
            self.over_at[node] = 0
        return multiple()

    @rule(node=nodes)
    def expire(self, node):
        dead = {each for each in self.over_at if not self.lives(each) and each != node}
        expected = {x[3] for x in self.held.values() if x[2] in dead}
        assert {x.fence for x in now(self.store.expire(node)).locks} == expected
        self.held = {k: v for k, v in self.held.items() if v[2] not in dead}
        for each in dead:
            del self.over_at[each]

    @rule(
        holder=HOLDERS,
        comfy_id=st.sampled_from(sorted(POOL)),
        mode=st.sampled_from(Mode),
        node=nodes,
    )
    def acquire(self, holder, comfy_id, mode, node):
        others = [m for h, (c, m, _, _) in self.held.items() if c == comfy_id and h != holder]
        free = (
            not others
            if mode is Mode.EXCLUSIVE
            else (Mode.EXCLUSIVE not in others and len(others) < POOL[comfy_id].capacity)
        )
        had = self.held.get(holder)
        same = had is not None and had[:3] == (comfy_id, mode, node)
        asking = self.store.acquire(
            POOL[comfy_id], HolderId(holder), node_id=node, mode=mode, name=""
        )
        try:
            grant = now(asking)
        except LeaseLost:
            assert not self.lives(node)
            return
        except LockRefused:
            assert self.lives(node)
            assert not free
            return
        assert self.lives(node)
        assert free
        assert grant.had_it == same
        if not same:
            assert grant.lock.fence > self.highest
            self.highest = grant.lock.fence
        self.held[holder] = (comfy_id, mode, node, grant.lock.fence)

    @rule(holder=HOLDERS, event=st.sampled_from(LockEvent))
    def release(self, holder, event):
        released = now(self.store.release(HolderId(holder), event))
        had = self.held.pop(holder, None)
        assert (released and released.fence) == (had and had[3])

    @invariant()
    def the_store_holds_what_the_model_holds(self):
        if not hasattr(self, "store"):
            return
        locks = now(self.store.held())
        shown = {x.holder_id: (x.comfy_id, x.mode, x.node_id, x.fence) for x in locks}
        assert len(shown) == len(locks)  # R1
        assert shown == self.held
        for comfy in POOL.values():
            modes = [m for c, m, _, _ in shown.values() if c == comfy.comfy_id]
            assert len(modes) <= (1 if Mode.EXCLUSIVE in modes else comfy.capacity)


TestLocks = Locks.TestCase
TestLocks.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
