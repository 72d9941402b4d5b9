"""Keeps locks for as long as this Jupyter server lives, and hears what others do to them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from logging import Logger
from typing import TYPE_CHECKING

from jupyter_comfy_lock.domain.config import LeasePolicy
from jupyter_comfy_lock.domain.errors import StoreUnavailable
from jupyter_comfy_lock.domain.lock import (
    ComfyId,
    Ending,
    HolderId,
    Lock,
    LockEvent,
    LockId,
    LockState,
)
from jupyter_comfy_lock.domain.outcome import Grant, Outcome, Over
from jupyter_comfy_lock.domain.pool import Occupancy
from jupyter_comfy_lock.domain.task import Task
from jupyter_comfy_lock.server.background import Background
from jupyter_comfy_lock.server.debts import Debts
from jupyter_comfy_lock.server.held import HeldLocks
from jupyter_comfy_lock.server.journal import LockJournal
from jupyter_comfy_lock.server.lease import NodeLease
from jupyter_comfy_lock.server.waiting import Line, taken_away

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from jupyter_comfy_lock.store.locks import LockStore

#: Seconds between two looks for what other Jupyter servers have changed, when nobody waits.
_NEWS_EVERY_S = 1.0

#: Given the tasks of a node that is gone.
Adopt = Callable[[tuple[Task, ...]], Awaitable[None]]
#: Cancels a holder's prompts on a ComfyServer, for a reason.
Cancel = Callable[[HolderId, ComfyId, str], None]


class LockKeeper:
    """Renews the lease of this node, ends what dead nodes left, and takes in the store's news."""

    def __init__(
        self,
        store: "LockStore",
        lease: NodeLease,
        held: HeldLocks,
        line: Line,
        debts: Debts,
        policy: LeasePolicy,
        journal: LockJournal,
        log: Logger,
    ) -> None:
        self._store = store
        self._lease = lease
        self._held = held
        self._line = line
        self._debts = debts
        self._policy = policy
        self._journal = journal
        self._log = log
        #: The revision up to which news were taken in, and as which node.
        self._rev = 0
        self._heard_as = ""
        #: Since which monotonic second others wait for a lock that drains.
        self._blocking_since_s: dict[LockId, float] = {}
        self._heartbeat = Background(self._renew_for_ever)
        self._listening = Background(self._hear_for_ever)
        #: Tells this store's prompts from those of any other.
        self.store_id = ""
        self.cancel: Cancel = lambda holder_id, comfy_id, why: None
        self.adopt: Adopt = _adopt_nothing

    @property
    def node_id(self) -> str:
        """This Jupyter server among the store's nodes."""
        return self._lease.node_id

    @property
    def lease_left_s(self) -> float:
        """Seconds until the gateway refuses what rests on the lease, if it is not renewed."""
        return self._lease.left_s

    async def start(self) -> None:
        """Join the store's nodes, take over what dead ones left, and begin to renew."""
        try:
            await self._lease.join()
            self._heard_as = self.node_id
            self.store_id = await self._store.store_id()
            await self.expire()
        except StoreUnavailable as error:
            self._log.error("No locks until the store is there: %s", error)
        self._heartbeat.start()
        self._listening.start()

    async def stop(self) -> None:
        """Leave the store's nodes. What is still held ends with the node."""
        await self._listening.stop()
        await self._heartbeat.stop()
        await self._lease.leave()

    def leave_now(self, connection: "Connection") -> None:
        """Do as `stop` does, in a transaction of the caller's, when there is no event loop."""
        self._lease.leave_now(connection)

    # -- keep --------------------------------------------------------------------------------

    async def renew(self) -> None:
        """Renew the lease; what does not rest on it any more is lost.

        Raises:
            StoreUnavailable: it was not renewed.
        """
        # One granted while the renewal is under way is not in its answer, and not lost.
        known = self._held.all()
        kept = await self._lease.renew(known)
        if self.node_id != self._heard_as:
            self._rev, self._heard_as = 0, self.node_id
            self._line.all_over(Ending(event=LockEvent.EXPIRED, at=time.time()))
        for lock in known:
            if lock.lock_id not in kept and self._held.has(lock):
                await self._not_kept(lock)
        if not self.store_id:
            self.store_id = await self._store.store_id()

    async def _not_kept(self, lock: Lock) -> None:
        outcome: Outcome | None = None
        try:
            outcome = await self._store.outcome(lock.lock_id)
        except StoreUnavailable as error:
            self._log.error("Why %s is not held any more is not known: %s", lock.comfy_id, error)
        if self._held.has(lock) and not self._is_replaced(lock.holder_id, outcome):
            self._held.lose(lock, _why_lost(outcome))
            await self._debts.confirm([lock.lock_id])

    def _is_replaced(self, holder_id: HolderId, outcome: Outcome | None) -> bool:
        """Whether a request that is under way has led to another lock instead of that one."""
        replaced = (LockEvent.RELEASED, LockEvent.REPLACED)
        over = isinstance(outcome, Over) and outcome.ending.event in replaced
        return over and self._held.asks(holder_id)

    async def expire(self) -> bool:
        """End what dead nodes left; whether there was anything.

        Raises:
            StoreUnavailable: nothing was ended.
        """
        expired = await self._lease.expire()
        for lock in expired.locks:
            self._journal.expired(lock, "its Jupyter server is gone")
        if expired.tasks:
            await self.adopt(expired.tasks)
        return bool(expired.locks)

    async def _renew_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._policy.renew_every_s)
            try:
                await self.renew()
                await self.expire()
                await self._debts.settle()
            except StoreUnavailable as error:
                # Held locks go on until the deadline; check() refuses from then on.
                self._log.error("The lease was not renewed: %s", error)
            except Exception:  # noqa: BLE001 - logged; without this loop all locks end
                self._log.exception("The lease was not renewed")

    # -- hear --------------------------------------------------------------------------------

    async def hear(self) -> None:
        """Take in what the store has changed for holders of this Jupyter server.

        Raises:
            StoreUnavailable: there are no news.
        """
        node_id = self.node_id
        news = await self._store.news(node_id, self._rev)
        if node_id != self.node_id:
            return
        changed, self._rev = news.rev != self._rev, news.rev
        stopped = [
            lock_id
            for lock_id, (holder_id, outcome) in news.outcomes.items()
            if self._heard(lock_id, holder_id, outcome)
        ]
        await self._debts.confirm(stopped)
        if (self._line and changed) or self._held.draining:
            occupied = await self._store.occupancy()
            self._line.tell(occupied)
            self._hurry(occupied)

    async def _hear_for_ever(self) -> None:
        while True:
            # Not `wait_for`: before Python 3.12 it may swallow the cancellation that ends this.
            with suppress(TimeoutError):
                async with asyncio.timeout(_NEWS_EVERY_S):
                    await self._line.wake.wait()
            self._line.wake.clear()
            try:
                await self.hear()
            except StoreUnavailable as error:
                self._log.warning("No news from other Jupyter servers: %s", error)
            except Exception:  # noqa: BLE001 - logged; who waits hears nothing without this loop
                self._log.exception("News from other Jupyter servers was not understood")

    def _heard(self, lock_id: LockId, holder_id: HolderId, outcome: Outcome) -> bool:
        """Take in what became of a request; whether to confirm that nothing goes out under it."""
        if isinstance(outcome, Grant):
            waits = self._line.granted(outcome.lock)
            if not waits and lock_id not in self._held.asking and not self._held.has(outcome.lock):
                # Its answer was lost, and whoever asked has gone on.
                self._debts.owe(lock_id)
        if not isinstance(outcome, Over):
            return False
        self._line.over(lock_id, outcome.ending)
        forced = outcome.ending.event is LockEvent.FORCED
        lock = outcome.lock
        if lock is None:
            return False
        if self._held.has(lock):
            if self._is_replaced(holder_id, outcome):
                # Whoever asked for the other one stops to use this one, and says so.
                return False
            if forced or outcome.ending.event is LockEvent.RELEASED:
                self._held.lose(lock, _why_lost(outcome))
        if forced:
            self._held.revoke(lock_id, _why_lost(outcome))
            self.cancel(holder_id, lock.comfy_id, f"its lock was {_why_lost(outcome)}")
        return lock.state is LockState.DRAINING

    def _hurry(self, occupied: Occupancy) -> None:
        """Cancel the prompts of locks that drain too slowly while others wait (R6)."""
        now_s = time.monotonic()
        mine = {
            lock.lock_id: lock
            for locks in occupied.locks.values()
            for lock in locks
            if lock.node_id == self.node_id and lock.state is LockState.DRAINING
        }
        self._held.draining &= mine.keys()
        wanted = {comfy_id for waiter in occupied.waiters for comfy_id in waiter.wants}
        blocking = [lock for lock in mine.values() if lock.comfy_id in wanted]
        self._blocking_since_s = {
            lock.lock_id: self._blocking_since_s.get(lock.lock_id, now_s) for lock in blocking
        }
        for lock in blocking:
            if now_s - self._blocking_since_s[lock.lock_id] >= self._policy.drain_timeout_s:
                why = f"its kernel let go of {lock.comfy_id}, and others wait for it"
                self.cancel(lock.holder_id, lock.comfy_id, why)


async def _adopt_nothing(tasks: tuple[Task, ...]) -> None:
    """Stand in until the task service is wired."""


def _why_lost(outcome: Outcome | None) -> str:
    if not isinstance(outcome, Over):
        return "the store does not know it any more"
    if outcome.ending.event is LockEvent.FORCED:
        return taken_away(outcome.ending)
    if outcome.ending.event is LockEvent.RELEASED:
        return "it was given back"
    return "the lease of this Jupyter server ran out"
