"""Locks: take, keep, check and release them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from logging import Logger
from typing import TYPE_CHECKING, Literal

from jupyter_comfy_lock.domain.config import LeasePolicy
from jupyter_comfy_lock.domain.errors import (
    EmptyPool,
    LockRefused,
    NoLock,
    StaleLock,
    StoreUnavailable,
    UnknownComfy,
    UnknownHolder,
)
from jupyter_comfy_lock.domain.lock import ComfyId, HolderId, Lock, LockEvent, Mode
from jupyter_comfy_lock.domain.pool import best
from jupyter_comfy_lock.domain.task import Task
from jupyter_comfy_lock.server.background import Background
from jupyter_comfy_lock.server.upstream import Upstream, look_at_all
from jupyter_comfy_lock.store.locks import Grant, LeaseLost, LockStore

if TYPE_CHECKING:
    from sqlalchemy import Connection

#: Seconds for which a look at a ComfyServer is good enough to lock it.
_LOOK_AGAIN_S = 1.0

ChosenBy = Literal["name", "pin", "best"]
#: Told of each change: the holder, its lock now, and why it changed when it was not asked for.
OnChange = Callable[[HolderId, Lock | None, str | None], None]
#: Given the tasks of a node that is gone.
Adopt = Callable[[tuple[Task, ...]], Awaitable[None]]


class LockService:
    """The locks of this Jupyter server's holders.

    Decisions are the store's. This class keeps the node's lease, remembers what the store said so
    that the gateway need not ask it for each request, and trusts that memory no longer than the
    lease it rests on (R7).
    """

    def __init__(
        self,
        store: LockStore,
        upstreams: Mapping[ComfyId, Upstream],
        policy: LeasePolicy,
        log: Logger,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._upstreams = upstreams
        self._policy = policy
        self._log = log
        self._monotonic_s = monotonic_s
        self._held: dict[HolderId, Lock] = {}
        #: Why a holder's last lock was lost, until it is told.
        self._lost: dict[HolderId, tuple[Lock, str]] = {}
        #: Holders that are gone and whose locks the store has yet to end.
        self._owed: set[HolderId] = set()
        self._deadline_s = float("-inf")
        self._heartbeat = Background(self._renew_for_ever)
        self.node_id = ""
        self.on_change: OnChange = lambda holder_id, lock, why: None
        self.adopt: Adopt = _adopt_nothing
        #: Whether a holder is still there; its end can come while it waits for a lock.
        self.is_here: Callable[[HolderId], bool] = lambda holder_id: True

    async def start(self) -> None:
        """Join the store's nodes, take over what dead ones left, and begin to renew."""
        try:
            await self._join()
            await self._expire()
        except StoreUnavailable as error:
            self._log.error("No locks until the store is there: %s", error)
        self._heartbeat.start()

    async def stop(self) -> None:
        """Leave the store's nodes. What is still held ends with the node."""
        await self._heartbeat.stop()
        await self._store.leave(self.node_id)

    def leave_now(self, connection: "Connection") -> None:
        """Do as `stop` does, in a transaction of the caller's, when there is no event loop."""
        self._store.leave_now(connection, self.node_id)

    def held_by(self, holder_id: HolderId) -> Lock | None:
        """Return the holder's lock as it is known here, without asking the store."""
        return self._held.get(holder_id)

    def check(self, holder_id: HolderId, name: str) -> Lock:
        """Return the lock under which a request may go out now (R2, R7).

        Raises:
            NoLock: the holder has none.
            StaleLock: it had one and lost it, or the node's lease may be over.
        """
        lock = self._held.get(holder_id)
        if lock is None:
            if holder_id in self._lost:
                lost, why = self._lost.pop(holder_id)
                raise StaleLock(lost.comfy_id, lost.fence, why)
            raise NoLock(name or holder_id)
        if self._monotonic_s() >= self._deadline_s:
            why = "this Jupyter server could not renew its lease in time"
            raise StaleLock(lock.comfy_id, lock.fence, why)
        return lock

    async def acquire(
        self,
        holder_id: HolderId,
        *,
        name: str,
        comfy_id: ComfyId | None,
        pin: ComfyId | None,
        mode: Mode,
    ) -> tuple[Lock, bool, ChosenBy]:
        """Lock `comfy_id`, else the notebook's pin, else the best free ComfyServer.

        Returns the lock, whether the holder had it already, and what decided. Nothing else is
        taken when the one that was named is not to be had (R3).

        Raises:
            EmptyPool, UnknownComfy, ComfyUnreachable, NotComfyUI, LockRefused,
            ServerConsistencyError: nothing changed.
        """
        if not self._upstreams:
            raise EmptyPool
        wanted = comfy_id or pin
        current = self._held.get(holder_id)
        fresh = self._monotonic_s() < self._deadline_s
        if fresh and current and current.mode is mode and wanted in (None, current.comfy_id):
            return current, True, "name" if comfy_id else "pin" if pin else "best"
        if wanted is not None:
            lock, had_it = await self._acquire(self.upstream(wanted), holder_id, name, mode)
            return lock, had_it, "name" if comfy_id else "pin"
        return *await self._acquire_best(holder_id, name, mode), "best"

    async def release(self, holder_id: HolderId, event: LockEvent) -> Lock | None:
        """End the holder's lock and return it; None if there was none to end.

        Raises:
            StoreUnavailable: nothing changed; but the lock of a holder that is gone is ended as
                soon as the store is there again, without this being raised.
        """
        try:
            lock = await self._store.release(holder_id, event)
        except StoreUnavailable as error:
            if event is not LockEvent.HOLDER_GONE:
                raise
            self._log.error("The lock of %s is released later: %s", holder_id, error)
            self._owed.add(holder_id)
            lock = None
        self._lost.pop(holder_id, None)
        if self._held.pop(holder_id, None) is not None or lock is not None:
            if lock is not None:
                self._log.info("%s released %s (%s)", _label(lock), lock.comfy_id, event.value)
            why = None if event is LockEvent.RELEASED else event.value
            self.on_change(holder_id, None, why)
        return lock

    async def all_held(self) -> list[Lock]:
        """Return the locks of all holders of all Jupyter servers."""
        return await self._store.held()

    def upstream(self, comfy_id: ComfyId) -> Upstream:
        """Return the ComfyServer with that id.

        Raises:
            UnknownComfy: names those that there are.
        """
        try:
            return self._upstreams[comfy_id]
        except KeyError:
            raise UnknownComfy(comfy_id, self._upstreams) from None

    async def _acquire_best(self, holder_id: HolderId, name: str, mode: Mode) -> tuple[Lock, bool]:
        await look_at_all(self._upstreams.values())
        refused: set[ComfyId] = set()
        while True:
            locks = await self._store.held()
            comfy = best(
                (
                    each.comfy
                    for each in self._upstreams.values()
                    if each.comfy.comfy_id not in refused
                ),
                {comfy_id: each.status for comfy_id, each in self._upstreams.items()},
                locks,
                mode,
                holder_id,
            )
            if comfy is None:
                raise self._nothing_free(locks)
            try:
                return await self._acquire(self._upstreams[comfy.comfy_id], holder_id, name, mode)
            except LockRefused:
                # Somebody was faster: look at what is left.
                refused.add(comfy.comfy_id)

    async def _acquire(
        self, upstream: Upstream, holder_id: HolderId, name: str, mode: Mode
    ) -> tuple[Lock, bool]:
        old = self._monotonic_s() - upstream.looked_s > _LOOK_AGAIN_S
        if old or upstream.fault() is not None:
            await upstream.look()
        fault = upstream.fault()
        if fault is not None:
            raise fault
        grant = await self._granted(upstream, holder_id, name, mode)
        if not self.is_here(holder_id):
            # What it held was released before this was granted: nobody else would end it (R8).
            await self.release(holder_id, LockEvent.HOLDER_GONE)
            raise UnknownHolder
        self._lost.pop(holder_id, None)
        self._held[holder_id] = grant.lock
        if not grant.had_it:
            lock = grant.lock
            self._log.info("%s locked %s (fence %d)", _label(lock), lock.comfy_id, lock.fence)
            self.on_change(holder_id, lock, None)
        return grant.lock, grant.had_it

    async def _granted(
        self, upstream: Upstream, holder_id: HolderId, name: str, mode: Mode
    ) -> Grant:
        for _ in range(2):
            await self._expire()
            node_id = self.node_id
            try:
                return await self._store.acquire(
                    upstream.comfy, holder_id, node_id=node_id, mode=mode, name=name
                )
            except LeaseLost:
                # This process was stopped for a while and has not renewed since.
                if self.node_id == node_id:
                    await self._renew()
        msg = "This Jupyter server's lease runs out faster than it can be renewed; try again."
        raise StoreUnavailable(msg)

    def _nothing_free(self, locks: list[Lock]) -> LockRefused:
        reasons = []
        for comfy_id, upstream in self._upstreams.items():
            holders = [lock.name or lock.holder_id for lock in locks if lock.comfy_id == comfy_id]
            fault = upstream.fault()
            why = upstream.status.reason if fault else f"held by {', '.join(holders)}"
            reasons.append(f"{comfy_id}: {why}")
        return LockRefused(None, "; ".join(reasons), ())

    async def _join(self) -> None:
        before_s = self._monotonic_s()
        self.node_id = await self._store.join()
        self._deadline_s = before_s + self._policy.ttl_s - self._policy.margin_s

    async def _expire(self) -> None:
        expired = await self._store.expire(self.node_id)
        for lock in expired.locks:
            self._log.warning("%s lost %s: its Jupyter server is gone", _label(lock), lock.comfy_id)
        if expired.tasks:
            await self.adopt(expired.tasks)

    async def _renew_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._policy.renew_every_s)
            try:
                await self._renew()
                await self._expire()
                for holder_id in tuple(self._owed):
                    await self._store.release(holder_id, LockEvent.HOLDER_GONE)
                    self._owed.discard(holder_id)
            except StoreUnavailable as error:
                # Held locks go on until the deadline; check() refuses from then on.
                self._log.error("The lease was not renewed: %s", error)
            except Exception:  # noqa: BLE001 - logged; without this loop all locks end
                self._log.exception("The lease was not renewed")

    async def _renew(self) -> None:
        # One granted while the renewal is under way is not in its answer, and not lost.
        known = dict(self._held)
        if not self.node_id:
            await self._join()
        before_s = self._monotonic_s()
        try:
            fences = await self._store.renew(self.node_id)
        except LeaseLost:
            self._log.error("This Jupyter server's lease ran out: all its locks are gone")
            fences = frozenset()
            await self._join()
        else:
            self._deadline_s = before_s + self._policy.ttl_s - self._policy.margin_s
        for holder_id, lock in known.items():
            if lock.fence not in fences and self._held.get(holder_id) is lock:
                self._lose(holder_id, lock)

    def _lose(self, holder_id: HolderId, lock: Lock) -> None:
        why = "the lease of this Jupyter server ran out"
        del self._held[holder_id]
        self._lost[holder_id] = (lock, why)
        self.on_change(holder_id, None, why)


async def _adopt_nothing(tasks: tuple[Task, ...]) -> None:
    """Stand in until the task service is wired."""


def _label(lock: Lock) -> str:
    return f"{lock.name} (kernel {lock.holder_id})" if lock.name else f"kernel {lock.holder_id}"
