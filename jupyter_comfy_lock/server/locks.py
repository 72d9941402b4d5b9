"""Locks: look at them, let go of them, take them away."""

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from jupyter_comfy_lock.domain.errors import (
    LockRefused,
    NoLock,
    StoreUnavailable,
    UnknownHolder,
)
from jupyter_comfy_lock.domain.lock import ComfyId, Ending, HolderId, Lock, LockEvent, LockId
from jupyter_comfy_lock.domain.outcome import Grant, Waiting
from jupyter_comfy_lock.domain.pool import Access, Maintenance, Occupancy
from jupyter_comfy_lock.server.debts import Debts
from jupyter_comfy_lock.server.held import HeldLocks
from jupyter_comfy_lock.server.journal import LockJournal
from jupyter_comfy_lock.server.keeper import LockKeeper
from jupyter_comfy_lock.server.upstream import Upstream, find_upstream
from jupyter_comfy_lock.server.waiting import Line, taken_away

if TYPE_CHECKING:
    from jupyter_comfy_lock.store.locks import LockStore
    from jupyter_comfy_lock.store.maintenance import MaintenanceStore


class LockService:
    """The locks of this Jupyter server's holders. What is decided, the store decides."""

    def __init__(
        self,
        store: "LockStore",
        maintenance: "MaintenanceStore",
        held: HeldLocks,
        line: Line,
        debts: Debts,
        keeper: LockKeeper,
        upstreams: Mapping[ComfyId, Upstream],
        journal: LockJournal,
    ) -> None:
        self._store = store
        self._maintenance = maintenance
        self._held = held
        self._line = line
        self._debts = debts
        self._keeper = keeper
        self._upstreams = upstreams
        self._journal = journal

    @property
    def node_id(self) -> str:
        """This Jupyter server among the store's nodes."""
        return self._keeper.node_id

    @property
    def store_id(self) -> str:
        """Tells this store's prompts from those of any other; "" while it has been away."""
        return self._keeper.store_id

    @property
    def lease_left_s(self) -> float:
        """Seconds until the gateway refuses everybody, if the lease is not renewed."""
        return self._keeper.lease_left_s

    def lost_by(self, holder_id: HolderId) -> tuple[Lock, str] | None:
        """Return the lock that a holder lost and why, if it was not told yet."""
        return self._held.lost_by(holder_id)

    def held_by(self, holder_id: HolderId) -> Lock | None:
        """Return the holder's lock as it is known here, without asking the store."""
        return self._held.by(holder_id)

    def check(self, holder_id: HolderId, name: str) -> Lock:
        """Return the lock under which a request may go out now (R2, R7).

        Raises:
            NoLock: the holder has none.
            StaleLock: it had one and lost it, or the node's lease may be over.
        """
        return self._held.check(holder_id, name)

    async def newer(self, lock: Lock, name: str) -> Lock:
        """Return what the holder has instead of a lock that the store does not know any more.

        Raises:
            NoLock, StaleLock: nothing, or another ComfyServer.
        """
        await self._keeper.hear()
        # Whoever waited for the other one is given a moment to use it.
        await asyncio.sleep(0)
        newer = self._held.check(lock.holder_id, name)
        if newer.lock_id == lock.lock_id or newer.comfy_id != lock.comfy_id:
            raise NoLock(name or lock.holder_id)
        return newer

    async def occupancy(self) -> Occupancy:
        """Return who has and who waits for which ComfyServer, over all Jupyter servers."""
        return await self._store.occupancy()

    def upstream(self, comfy_id: ComfyId) -> Upstream:
        """Return the ComfyServer with that id.

        Raises:
            UnknownComfy: names those that there are.
        """
        return find_upstream(self._upstreams, comfy_id)

    async def release(
        self, holder_id: HolderId, event: LockEvent, *, only: LockId | None = None
    ) -> Lock | None:
        """End the holder's lock, and its wait; return the lock, None if there was none to end.

        `only`: nothing but that lock, if the holder has it still.

        Raises:
            StoreUnavailable: nothing changed; but the lock of a holder that is gone is ended as
                soon as the store is there again, without this being raised.
        """
        held = self._held.by(holder_id)
        if only is not None and (held is None or held.lock_id != only):
            return None
        held = self._held.drop(holder_id)
        if only is None:
            # The store may grant something meanwhile, and end it with the rest: it must not be
            # used.
            self._held.revoke_all(holder_id, "it was released")
        try:
            lock = await self._store.release(holder_id, event, only=only)
        except StoreUnavailable as error:
            if event is LockEvent.RELEASED:
                self._not_ended(held, error)
                raise
            self._debts.owe_end(holder_id, error)
            lock = None
        gone = event is not LockEvent.RELEASED
        over = UnknownHolder() if gone else LockRefused(None, "the kernel released it", ())
        if only is None:
            self._line.end(holder_id, over)
        self._held.forget(holder_id)
        if lock is not None:
            self._held.draining.add(lock.lock_id)
            unused = self._held.revoke(lock.lock_id, "it was released")
            if held is not None or not unused:
                self._journal.released(lock, event.value)
        if held is not None or lock is not None:
            self._held.on_change(holder_id, None, event.value if gone else None)
        return lock

    async def withdraw(self, holder_id: HolderId, request_id: LockId) -> Lock | None:
        """Take a request of the holder's back; return the lock if it had led to one."""
        held = self._held.by(holder_id)
        if held is not None and held.lock_id == request_id:
            return await self.release(holder_id, LockEvent.RELEASED)
        outcome = await self._store.outcome(request_id)
        if isinstance(outcome, Waiting):
            owner = outcome.waiter.holder_id
        elif isinstance(outcome, Grant):
            owner = outcome.lock.holder_id
        else:
            return None
        if owner != holder_id:
            return None
        self._line.over(request_id, Ending(event=LockEvent.RELEASED, at=time.time()))
        self._held.revoke(request_id, "the request was taken back")
        return await self._debts.withdraw(request_id, LockEvent.RELEASED)

    async def leave_line(self, request_id: LockId, *, by: str = "", why: str = "") -> bool:
        """Take a request out of the line, whoever's it is; False if it stands in none any more.

        One whose turn has come keeps its lock. `by`: the operator who takes it out.
        """
        waits = {each.lock_id for each in (await self._store.occupancy()).waiters}
        event = LockEvent.FORCED if by else LockEvent.RELEASED
        lock = await self._store.leave(request_id, event, by=by, why=why)
        self._line.wake.set()
        return lock is None and request_id in waits

    async def force(
        self, holder_id: HolderId, *, by: str, why: str, only: LockId | None = None
    ) -> Lock | None:
        """Take a holder's lock, or its place in line, away; of whichever Jupyter server it is.

        `only`: nothing but that lock.
        """
        held = self._held.by(holder_id)
        held = self._held.drop(holder_id) if held and only in (None, held.lock_id) else None
        # What a request under way leads to may be in use before this returns: news will confirm it.
        sure = "" if self._held.asks(holder_id) else self.node_id
        try:
            lock = await self._store.force(holder_id, by=by, why=why, node_id=sure, only=only)
        except StoreUnavailable as error:
            self._not_ended(held, error)
            raise
        if lock is not None:
            self._journal.forced(lock, by=by, why=why)
            self._taken(held, lock, by=by, why=why)
        elif held is not None:
            self._held.lose(held, "the store did not know it any more")
        self._line.wake.set()
        return lock

    async def set_access(self, comfy_id: ComfyId, decided: Maintenance) -> list[Lock]:
        """Open, drain or disable a ComfyServer; return the locks that this takes away."""
        held: dict[HolderId, Lock] = {}
        if decided.access is Access.DISABLED:
            held = {lock.holder_id: lock for lock in self._held.on(comfy_id)}
            for holder_id in held:
                self._held.drop(holder_id)
        # As in `force`.
        sure = "" if self._held.asking else self.node_id
        try:
            taken = await self._maintenance.set_access(comfy_id, decided, node_id=sure)
        except StoreUnavailable as error:
            for lock in held.values():
                self._not_ended(lock, error)
            raise
        why = f"{comfy_id} is {decided.access.value}" + (decided.why and f": {decided.why}")
        for lock in taken:
            self._journal.forced(lock, by=decided.by, why=why)
            self._taken(held.get(lock.holder_id), lock, by=decided.by, why=why)
        self._line.wake.set()
        return taken

    def _taken(self, held: Lock | None, lock: Lock, *, by: str, why: str) -> None:
        """Do here what follows when a lock of this Jupyter server was taken away."""
        if lock.node_id != self.node_id:
            return
        ending = Ending(event=LockEvent.FORCED, at=time.time(), by=by, why=why)
        told = taken_away(ending)
        if held is not None:
            self._held.lose(held, told)
        self._held.revoke(lock.lock_id, told)
        self._keeper.cancel(lock.holder_id, lock.comfy_id, f"its lock was {told}")

    def _not_ended(self, held: Lock | None, failure: StoreUnavailable) -> None:
        if held is not None and failure.details.get("may_have_happened"):
            self._journal.released(held, "it was being let go of when the store went away")
            self._debts.owe(held.lock_id)
        self._held.go_on(held, failure)
