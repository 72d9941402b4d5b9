"""What the store has to be told, and was away for."""

from collections.abc import Iterable
from logging import Logger
from typing import TYPE_CHECKING

from jupyter_comfy_lock.domain.errors import StoreUnavailable
from jupyter_comfy_lock.domain.lock import HolderId, LockEvent, LockId
from jupyter_comfy_lock.server.journal import LockJournal

if TYPE_CHECKING:
    from jupyter_comfy_lock.store.locks import LockStore


class Debts:
    """Ends of locks that must come to pass, now or when the store is there again."""

    def __init__(self, store: "LockStore", journal: LockJournal, log: Logger) -> None:
        self._store = store
        self._journal = journal
        self._log = log
        #: Requests that the store has to take back.
        self._requests: set[LockId] = set()
        #: Holders that are gone, and whose locks it has to end.
        self._holders: set[HolderId] = set()
        #: Locks under which nothing more goes out.
        self._unconfirmed: set[LockId] = set()

    async def take_back(self, lock_id: LockId, event: LockEvent) -> None:
        """Take a request back, and the lock that it may have led to."""
        try:
            lock = await self._store.withdraw(lock_id, event)
        except StoreUnavailable as error:
            self._log.error("A lock is given back later: %s", error)
            self._requests.add(lock_id)
        else:
            if lock is not None:
                self._journal.released(lock, "nobody waits for it any more")

    async def confirm(self, lock_ids: Iterable[LockId]) -> None:
        """Say that nothing more goes out under these."""
        self._unconfirmed.update(lock_ids)
        if not self._unconfirmed:
            return
        try:
            await self._store.confirm(tuple(self._unconfirmed))
        except StoreUnavailable as error:
            self._log.error("Others wait longer than need be: %s", error)
        else:
            self._unconfirmed.clear()

    def owe(self, lock_id: LockId) -> None:
        """Take a request back soon."""
        self._requests.add(lock_id)

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
            await self._store.release(holder_id, LockEvent.HOLDER_GONE)
            self._holders.discard(holder_id)
        for lock_id in tuple(self._requests):
            await self._store.withdraw(lock_id, LockEvent.RELEASED)
            self._requests.discard(lock_id)
        await self.confirm(())
