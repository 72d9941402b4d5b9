"""Taking a lock: which ComfyServer, in line for it if need be, and when it is ready."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from logging import Logger
from typing import TYPE_CHECKING
from uuid import uuid4

from jupyter_comfy_lock.domain.config import LeasePolicy
from jupyter_comfy_lock.domain.errors import (
    BadRequest,
    ComfyLockError,
    ComfyUnauthorized,
    ComfyUnreachable,
    ComfyUnsupported,
    EmptyPool,
    LockRefused,
    LockTimeout,
    NotComfyUI,
    StaleLock,
    StoreUnavailable,
    UnknownHolder,
)
from jupyter_comfy_lock.domain.line import reason
from jupyter_comfy_lock.domain.lock import ComfyId, HolderId, Lock, LockEvent, LockId, Mode
from jupyter_comfy_lock.domain.outcome import Grant, LeaseLost, Waiting
from jupyter_comfy_lock.domain.request import Request
from jupyter_comfy_lock.server.candidates import (
    and_the_others,
    candidates_of,
    look_unless_seen,
)
from jupyter_comfy_lock.server.debts import Debts
from jupyter_comfy_lock.server.held import Asked, HeldLocks
from jupyter_comfy_lock.server.journal import LockJournal
from jupyter_comfy_lock.server.keeper import LockKeeper
from jupyter_comfy_lock.server.lease import NodeLease
from jupyter_comfy_lock.server.ready import clear_of_others
from jupyter_comfy_lock.server.upstream import Upstream, find_upstream
from jupyter_comfy_lock.server.waiting import Line, OnMove
from jupyter_comfy_lock.server.wish import Locked, Wish

if TYPE_CHECKING:
    from jupyter_comfy_lock.store.locks import LockStore


class Acquirer:
    """Gets locks for this Jupyter server's holders."""

    def __init__(
        self,
        store: "LockStore",
        lease: NodeLease,
        held: HeldLocks,
        line: Line,
        debts: Debts,
        keeper: LockKeeper,
        upstreams: Mapping[ComfyId, Upstream],
        policy: LeasePolicy,
        journal: LockJournal,
        log: Logger,
    ) -> None:
        self._store = store
        self._lease = lease
        self._held = held
        self._line = line
        self._debts = debts
        self._keeper = keeper
        self._upstreams = upstreams
        self._policy = policy
        self._journal = journal
        self._log = log
        #: Whether a holder is still there; its end can come while it waits for a lock.
        self.is_here: Callable[[HolderId], bool] = lambda holder_id: True

    async def acquire(self, wish: Wish, on_move: OnMove = lambda standing: None) -> Locked:
        """Lock the ComfyServer that is named, else the notebook's pin, else the best one.

        Nothing else is taken when the one that was named is not to be had (R3). A holder that
        waits keeps what it has until its turn comes; when this call is cancelled, it leaves the
        line. `on_move` is told how it stands there.

        Raises:
            EmptyPool, UnknownComfy, ComfyUnreachable, NotComfyUI, ComfyClosed, LockRefused,
            LockTimeout, ServerConsistencyError: nothing changed.
        """
        current = self._held.by(wish.holder_id)
        if current is not None and wish.named in (None, current.comfy_id):
            if wish.any_mode:
                wish = replace(wish, mode=current.mode)
            # The same request again is answered as it was before: the store knows how.
            again = wish.request_id == current.lock_id
            modes = {current.mode, self._held.usable(current).mode}
            suits = modes == {wish.mode} and self._suits(current, wish)
            # Of one that waits for another, the newest wish counts: the store ends the older one.
            moves = again or self._asks(wish.holder_id)
            if suits and not moves and self._held.trusts(current):
                return Locked(lock=current, chosen_by=wish.chosen_by, had_it=True, was=current.mode)
        try:
            return await self._acquire_living(wish, on_move)
        except ComfyLockError as error:
            self._journal.refused(
                holder_id=wish.holder_id,
                name=wish.name,
                comfy_id=wish.named,
                mode=wish.mode.value,
                why=error.message,
            )
            raise

    def _asks(self, holder_id: HolderId) -> bool:
        """Whether requests of the holder are under way which will not be taken back anyway."""
        return any(
            asked.holder_id == holder_id and not self._debts.owes(lock_id)
            for lock_id, asked in self._held.asking.items()
        )

    def _suits(self, lock: Lock, wish: Wish) -> bool:
        return wish.labels <= find_upstream(self._upstreams, lock.comfy_id).comfy.labels

    async def _acquire_living(self, wish: Wish, on_move: OnMove) -> Locked:
        """Acquire, and wait on for others if any will do and the one that comes is dead."""
        if not self._upstreams:
            raise EmptyPool
        until_s = None if wish.wait_s is None else time.monotonic() + wish.wait_s
        for _ in range(len(self._upstreams)):
            try:
                return await self._acquire(wish, on_move)
            except (ComfyUnreachable, ComfyUnauthorized, ComfyUnsupported, NotComfyUI):
                # It was taken back. As another request, it is asked of those that are well.
                if wish.named:
                    raise
                if wish.waits and until_s is not None:
                    wish = replace(wish, wait_s=max(0.0, until_s - time.monotonic()))
                wish = replace(wish, request_id=None)
        return await self._acquire(wish, on_move)

    async def _acquire(self, wish: Wish, on_move: OnMove) -> Locked:
        if not self._lease.fresh:
            # A lock that rests on it could not be used.
            await self._keeper.renew()
        candidates = await candidates_of(wish, self._upstreams, self._store)
        request = Request(
            lock_id=wish.request_id or LockId(str(uuid4())),
            holder_id=wish.holder_id,
            node_id=self._lease.node_id,
            mode=wish.mode,
            wants=candidates.usable,
            name=wish.name,
        )
        if request.lock_id in self._held.asking and not self._debts.owes(request.lock_id):
            raise BadRequest(field="request_id", why="is that of a request that is under way")
        began_s = time.monotonic()
        asked = Asked(
            holder_id=request.holder_id,
            mode=request.mode,
            comfy_ids=[each.comfy_id for each in request.wants],
        )
        self._held.ask(request.lock_id, asked)
        try:
            before = self._held.by(wish.holder_id)
            grant = await self._grant(request, wish, before, on_move)
            waited_s = time.monotonic() - began_s if wish.waits else 0.0
            return await self._install(grant, request, wish, before, waited_s)
        except LockRefused as error:
            if wish.named is None and candidates.unusable:
                raise and_the_others(error, candidates.unusable) from None
            raise
        finally:
            # Also when this was cancelled twice, and nobody waits for its being taken back.
            if not self._debts.unsure(request.lock_id):
                self._held.answered(request.lock_id)

    async def _grant(
        self, request: Request, wish: Wish, before: Lock | None, on_move: OnMove
    ) -> Grant:
        """Ask, and wait if need be; who does not get it leaves nothing in the store.

        `before` is what the holder has now.
        """
        place = self._line.add(request.lock_id, wish.holder_id, on_move) if wish.waits else None
        try:
            async with asyncio.timeout(wish.wait_s if wish.waits else None):
                outcome = await self._ask(request, wait=wish.waits)
                if isinstance(outcome, Grant):
                    return outcome
                assert place is not None
                place.stands_there = True
                # Whoever is in the way may be dead.
                await self._keeper.expire()
                lock = await place.turn
                kept = before if before is not None and self._held.has(before) else None
                same = kept is not None and kept.comfy_id == lock.comfy_id
                return Grant(lock=lock, was=kept.mode if kept is not None and same else None)
        except TimeoutError:
            self._debts.begin(request.lock_id)
            raise await asyncio.shield(self._out_of_time(request, wish)) from None
        except BaseException as error:
            # Also when the caller is cancelled: a lock that nobody knows of must not stay.
            stands = place is not None and place.stands_there
            refused = isinstance(error, ComfyLockError) and not isinstance(error, StoreUnavailable)
            if stands or not refused:
                self._debts.begin(request.lock_id)
                taken_back = self._debts.take_back(request.lock_id, LockEvent.RELEASED)
                await asyncio.shield(taken_back)
            raise
        finally:
            if place is not None:
                self._line.remove(request.lock_id)
                place.close()

    async def _out_of_time(self, request: Request, wish: Wish) -> ComfyLockError:
        try:
            return await self._timed_out(request, wish.wait_s or 0.0)
        except StoreUnavailable as away:
            return away
        finally:
            # Its turn may have come after all.
            await self._debts.take_back(request.lock_id, LockEvent.TIMED_OUT)

    async def _ask(self, request: Request, *, wait: bool) -> Grant | Waiting:
        looked = False
        for _ in range(4):
            request = replace(request, node_id=self._lease.node_id)
            try:
                return await self._store.ask(request, wait=wait)
            except LeaseLost:
                # This process was stopped for a while and has not renewed since.
                if self._lease.node_id == request.node_id:
                    await self._keeper.renew()
            except LockRefused:
                if looked or not await self._keeper.expire():
                    raise
                looked = True
        msg = "This Jupyter server's lease runs out faster than it can be renewed; try again."
        raise StoreUnavailable(msg)

    async def _timed_out(self, request: Request, wait_s: float) -> LockTimeout:
        occupied = await self._store.occupancy()
        mine = next((x for x in occupied.waiters if x.lock_id == request.lock_id), None)
        why = (
            "its turn came too late"
            if mine is None
            else reason(mine, occupied.waiters, occupied.locks)
        )
        return LockTimeout(wait_s, why, [each.comfy_id for each in request.wants])

    async def _install(
        self, grant: Grant, request: Request, wish: Wish, before: Lock | None, waited_s: float
    ) -> Locked:
        """Begin to forward under a lock that was granted, instead of what the holder had."""
        lock = grant.lock
        used = grant.had_it or self._held.has(lock)
        foreign = 0
        try:
            self._refuse_if_over(lock, request.lock_id)
            if not used:
                await self._move(self._held.by(lock.holder_id), lock)
                foreign = await self._ready(lock)
                self._refuse_if_over(lock, request.lock_id)
                # What another request, granted before, has put there meanwhile.
                await self._move(self._held.by(lock.holder_id), lock)
                self._refuse_if_over(lock, request.lock_id)
        except BaseException:
            if not used:
                self._debts.begin(lock.lock_id)
                await asyncio.shield(self._give_back(lock, before))
            raise
        self._held.put(lock)
        self._debts.forgive(lock.lock_id)
        if not used:
            self._journal.granted(lock, waited_s=waited_s)
            self._held.on_change(lock.holder_id, lock, None)
        return Locked(
            lock=lock,
            chosen_by=wish.chosen_by,
            had_it=grant.had_it,
            was=grant.was,
            foreign_prompts=foreign,
        )

    async def _move(self, before: Lock | None, lock: Lock) -> None:
        """Use what the holder had no longer, now that it has another one."""
        if before is None or not self._held.has(before):
            return
        if before.comfy_id == lock.comfy_id:
            # What both modes allow goes on without a gap; the rest when it is ready.
            self._held.put(replace(lock, mode=Mode.SHARED))
            return
        self._held.stop(before, f"{lock.comfy_id} was locked instead, and given back")
        self._journal.released(before, f"moved to {lock.comfy_id}")
        await self._debts.confirm([before.lock_id])

    async def _give_back(self, lock: Lock, before: Lock | None) -> None:
        """Let go of a lock that cannot be used, and tell whoever had another one before it."""
        moved = before is not None and before.comfy_id != lock.comfy_id
        try:
            if before is not None and moved and self._held.by(before.holder_id) is None:
                self._held.lose(before, f"{lock.comfy_id} was locked instead, and given back")
            await self._debts.lose_for(lock)
        finally:
            # Whatever else fails: nobody else would give it back.
            await self._debts.take_back(lock.lock_id, LockEvent.RELEASED)

    async def _ready(self, lock: Lock) -> int:
        """Wait until what is locked exclusively is so; return the number of strangers' prompts."""
        upstream = find_upstream(self._upstreams, lock.comfy_id)
        await look_unless_seen(upstream)
        if lock.mode is not Mode.EXCLUSIVE:
            return 0
        return await clear_of_others(
            upstream,
            lock,
            self._keeper.store_id,
            within_s=self._policy.drain_timeout_s,
            log=self._log,
        )

    def _refuse_if_over(self, lock: Lock, request_id: LockId) -> None:
        if not self.is_here(lock.holder_id):
            # What it held was released before this was granted: nobody else would end it (R8).
            raise UnknownHolder
        if self._held.outdated(lock):
            why = "another request of this kernel took the place of this one"
            raise StaleLock(lock.comfy_id, lock.fence, why)
        if self._held.was_given_back(lock, request_id):
            why = "an earlier request of this kernel that had led to it was taken back"
            raise StaleLock(lock.comfy_id, lock.fence, why)
        if request_id in self._held.revoked:
            raise StaleLock(lock.comfy_id, lock.fence, self._held.revoked[request_id])
        if lock.node_id != self._lease.node_id:
            why = "the lease of this Jupyter server ran out"
            raise StaleLock(lock.comfy_id, lock.fence, why)
