"""What the store has to be told, and was away for."""

from collections.abc import Iterable
from logging import Logger
from typing import TYPE_CHECKING

from jupyter_comfy_lock.domain.errors import StoreUnavailable
from jupyter_comfy_lock.domain.lock import HolderId, Lock, LockEvent, LockId
from jupyter_comfy_lock.server.held import HeldLocks
from jupyter_comfy_lock.server.journal import LockJournal

if TYPE_CHECKING:
    from jupyter_comfy_lock.store.locks import LockStore


class Debts:
    """Ends of locks that must come to pass, now or when the store is there again."""

    def __init__(
        self, store: "LockStore", held: HeldLocks, journal: LockJournal, log: Logger
    ) -> None:
        self._store = store
        self._held = held
        self._journal = journal
        self._log = log
        #: Requests that the store has to take back.
        self._requests: set[LockId] = set()
        #: Holders that are gone, and whose locks it has to end.
        self._holders: set[HolderId] = set()
        #: Requests that are being taken back.
        self._taking: set[LockId] = set()
        #: Locks under which nothing more goes out.
        self._unconfirmed: set[LockId] = set()

    def begin(self, lock_id: LockId) -> None:
        """Begin to take a request back: before anything is waited for, since waiting can end."""
        self.forgive(lock_id)
        self._taking.add(lock_id)

    async def take_back(self, lock_id: LockId, event: LockEvent) -> None:
        """Take a request back, and the lock that it may have led to; if need be later."""
        self.begin(lock_id)
        try:
            await self.withdraw(lock_id, event)
        except StoreUnavailable as error:
            self._log.error("A lock is given back later: %s", error)
            self._requests.add(lock_id)
        else:
            self._held.answered(lock_id)
        finally:
            self._taking.discard(lock_id)

    async def withdraw(self, lock_id: LockId, event: LockEvent) -> Lock | None:
        """Take a request back; return the lock that it had led to.

        Raises:
            StoreUnavailable: it was not, or nobody knows.
        """
        lock = await self._store.leave(lock_id, event)
        if lock is None:
            return None
        # Before the store gives it to others: nothing may go out under it, nor under what it took
        # the place of, which is held here still if whoever asked does not know of the grant.
        self._held.revoke(lock_id, "the request was taken back")
        with self._held.giving_back(lock):
            await self.lose_for(lock)
            self._log.info("A lock of %s on %s is given back", lock.holder_id, lock.comfy_id)
            return await self._store.withdraw(lock_id, event)

    async def lose_for(self, lock: Lock) -> None:
        """Lose what a holder has that was replaced by `lock`, which is given back, or is that."""
        held = self._held.by(lock.holder_id)
        if held is None or held.fence > lock.fence:
            return
        replaced = held.lock_id != lock.lock_id
        why = f"{lock.comfy_id} was locked instead, and given back" if replaced else "given back"
        self._held.lose(held, why)
        self._journal.released(held, why)
        await self.confirm([held.lock_id])

    async def confirm(self, lock_ids: Iterable[LockId]) -> None:
        """Say that nothing more goes out under these."""
        self._unconfirmed.update(lock_ids)
        if not self._unconfirmed:
            return
        told = tuple(self._unconfirmed)
        try:
            await self._store.confirm(told)
        except StoreUnavailable as error:
            self._log.error("Others wait longer than need be: %s", error)
        else:
            self._unconfirmed.difference_update(told)

    def owe(self, lock_id: LockId) -> None:
        """Take a request back soon."""
        self._requests.add(lock_id)

    def owes(self, lock_id: LockId) -> bool:
        """Whether a request is to be taken back later: nobody knows what became of it."""
        return lock_id in self._requests

    def unsure(self, lock_id: LockId) -> bool:
        """Whether a request is being taken back, or will be: until then it may be granted."""
        return lock_id in self._requests or lock_id in self._taking

    def forgive(self, lock_id: LockId) -> None:
        """Do not take a request back: it was asked again, and its lock is used."""
        self._requests.discard(lock_id)

    def owe_end(self, holder_id: HolderId, failure: StoreUnavailable) -> None:
        """End a holder's lock when the store is there again."""
        self._log.error("The lock of %s is released later: %s", holder_id, failure)
        self._holders.add(holder_id)

    async def settle(self) -> None:
        """Do what has not been done.

        Raises:
            StoreUnavailable: it is away still.
        """
        for holder_id in tuple(self._holders):
            lock = await self._store.release(holder_id, LockEvent.HOLDER_GONE)
            self._holders.discard(holder_id)
            if lock is not None:
                self._journal.released(lock, LockEvent.HOLDER_GONE.value)
        for lock_id in tuple(self._requests):
            if lock_id in self._requests:
                await self.withdraw(lock_id, LockEvent.RELEASED)
                self._requests.discard(lock_id)
                self._held.answered(lock_id)
        await self.confirm(())
