"""What this Jupyter server knows of its holders' locks, so that the store need not be asked."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from jupyter_comfy_lock.domain.errors import NoLock, StaleLock, StoreUnavailable
from jupyter_comfy_lock.domain.lock import ComfyId, HolderId, Lock, LockId, Mode
from jupyter_comfy_lock.server.lease import NodeLease

#: Told of each change: the holder, its lock now, and why it changed when it was not asked for.
OnChange = Callable[[HolderId, Lock | None, str | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request that is under way."""

    holder_id: HolderId
    mode: Mode
    #: Any of these will do.
    comfy_ids: Collection[ComfyId]


class HeldLocks:
    """The locks under which this Jupyter server forwards.

    It is trusted no longer than the lease it rests on (R7). A lock leaves it before it is let go
    of in the store, and comes into it after it was granted there, so that at no moment two Jupyter
    servers forward under locks that exclude each other.
    """

    def __init__(self, lease: NodeLease) -> None:
        self._lease = lease
        self._held: dict[HolderId, Lock] = {}
        #: The highest fence under which each holder was to forward.
        self._newest: dict[HolderId, int] = {}
        #: Why a holder's last lock was lost, until it is told.
        self._lost: dict[HolderId, tuple[Lock, str]] = {}
        #: Requests that are under way, so that news of them are no surprise; also those of which
        #: nobody knows yet what the store did with them.
        self.asking: dict[LockId, Asked] = {}
        #: Locks that are being given back, and whose they are: others may have them any moment.
        self._giving_back: dict[LockId, HolderId] = {}
        #: Those that were given back while a request of their holder was under way.
        self._not_for: dict[LockId, set[LockId]] = {}
        #: Why a lock was taken away that was granted and is not used yet.
        self.revoked: dict[LockId, str] = {}
        #: Locks that were let go of here, and may drain still.
        self.draining: set[LockId] = set()
        self.on_change: OnChange = lambda holder_id, lock, why: None

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
        if not self.trusts(lock):
            why = "this Jupyter server could not renew its lease in time"
            raise StaleLock(lock.comfy_id, lock.fence, why)
        return self.usable(lock)

    def usable(self, lock: Lock) -> Lock:
        """Return a lock in the mode in which it may be used now.

        From the moment in which a request of its holder for the same ComfyServer is granted, others
        may share it: what needs it alone must not pass while nobody knows whether it was.
        """
        for lock_id, asked in self.asking.items():
            mine = asked.holder_id == lock.holder_id and lock_id != lock.lock_id
            if mine and asked.mode is Mode.SHARED and lock.comfy_id in asked.comfy_ids:
                return replace(lock, mode=Mode.SHARED)
        return lock

    def trusts(self, lock: Lock) -> bool:
        """Whether the lease that a lock rests on is surely not over (R7).

        A new lease keeps none of the locks that rested on the one before.
        """
        return self._lease.fresh and lock.node_id == self._lease.node_id

    def asks(self, holder_id: HolderId) -> bool:
        """Whether requests of the holder are under way, which may replace what it has."""
        return any(asked.holder_id == holder_id for asked in self.asking.values())

    def ask(self, lock_id: LockId, asked: Asked) -> None:
        """Note that a request is under way."""
        self.asking[lock_id] = asked
        whose = self._giving_back.items()
        self._not_for[lock_id] = {each for each, holder in whose if holder == asked.holder_id}

    def answered(self, lock_id: LockId) -> None:
        """Note that a request is under way no more: what came of it is known."""
        for known in (self.asking, self.revoked, self._not_for):
            known.pop(lock_id, None)

    @contextmanager
    def giving_back(self, lock: Lock) -> Iterator[None]:
        """Have no request of its holder use a lock, while it is given back in the block.

        The store may find that it has just what another request wants, and be told then that it
        is given back.
        """
        self._giving_back[lock.lock_id] = lock.holder_id
        for lock_id, asked in self.asking.items():
            if asked.holder_id == lock.holder_id:
                self._not_for[lock_id].add(lock.lock_id)
        try:
            yield
        finally:
            self._giving_back.pop(lock.lock_id, None)

    def was_given_back(self, lock: Lock, request_id: LockId) -> bool:
        """Whether that was done to a lock while the request was under way."""
        return lock.lock_id in self._not_for.get(request_id, ())

    def revoke(self, lock_id: LockId, why: str) -> bool:
        """Have a lock not used that was granted and is not ready yet; whether it is such a one."""
        if lock_id in self.asking:
            self.revoked[lock_id] = why
        return lock_id in self.asking

    def revoke_all(self, holder_id: HolderId, why: str) -> None:
        """Do so with all that the holder's requests lead to that are under way."""
        for lock_id, asked in self.asking.items():
            if asked.holder_id == holder_id:
                self.revoked[lock_id] = why

    def by(self, holder_id: HolderId) -> Lock | None:
        """Return the holder's lock."""
        return self._held.get(holder_id)

    def lost_by(self, holder_id: HolderId) -> tuple[Lock, str] | None:
        """Return the lock that a holder lost and why, if it was not told yet."""
        return self._lost.get(holder_id)

    def all(self) -> tuple[Lock, ...]:
        """Return all of them."""
        return tuple(self._held.values())

    def outdated(self, lock: Lock) -> bool:
        """Whether its holder has, or had, a newer lock than that."""
        return self._newest.get(lock.holder_id, lock.fence) > lock.fence

    def has(self, lock: Lock) -> bool:
        """Whether that is its holder's lock, in whatever mode."""
        held = self._held.get(lock.holder_id)
        return held is not None and held.lock_id == lock.lock_id

    def on(self, comfy_id: ComfyId) -> list[Lock]:
        """Return the locks on one ComfyServer."""
        return [lock for lock in self._held.values() if lock.comfy_id == comfy_id]

    def put(self, lock: Lock) -> None:
        """Begin to forward under a lock, instead of the one that its holder had."""
        self._held[lock.holder_id] = lock
        self._newest[lock.holder_id] = lock.fence
        self._lost.pop(lock.holder_id, None)

    def drop(self, holder_id: HolderId) -> Lock | None:
        """Stop to forward for a holder; return the lock that it had."""
        return self._held.pop(holder_id, None)

    def go_on(self, lock: Lock | None, failure: StoreUnavailable) -> None:
        """Go on with a lock that could not be ended, if it surely was not."""
        if lock is None or lock.holder_id in self._held:
            return
        if failure.details.get("may_have_happened"):
            # Somebody else may have it by now.
            self.lose(lock, "it was being let go of when the store went away")
        else:
            self._held[lock.holder_id] = lock

    def stop(self, lock: Lock, why: str) -> None:
        """Forward nothing more under a lock, in place of which its holder is about to have another.

        Why is told if that does not come.
        """
        self._held.pop(lock.holder_id, None)
        self._lost[lock.holder_id] = (lock, why)

    def lose(self, lock: Lock, why: str) -> None:
        """Note that a holder's lock is gone without its doing; it is told on its next call."""
        self.stop(lock, why)
        self.on_change(lock.holder_id, None, why)

    def forget(self, holder_id: HolderId) -> None:
        """Forget why a holder's last lock was lost, and which it was."""
        self._lost.pop(holder_id, None)
        self._newest.pop(holder_id, None)
