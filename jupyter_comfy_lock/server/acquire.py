"""Taking a lock: which ComfyServer, in line for it if need be, and when it is ready."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from logging import Logger
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

from jupyter_comfy_lock.domain.config import LeasePolicy
from jupyter_comfy_lock.domain.errors import (
    BadRequest,
    ComfyLockError,
    EmptyPool,
    LockRefused,
    LockTimeout,
    StaleLock,
    StoreUnavailable,
    UnknownHolder,
)
from jupyter_comfy_lock.domain.line import reason
from jupyter_comfy_lock.domain.lock import ComfyId, HolderId, Lock, LockEvent, LockId, Mode
from jupyter_comfy_lock.domain.outcome import Grant, LeaseLost, Waiting
from jupyter_comfy_lock.domain.pool import Access, ComfyServer, Occupancy, ranked
from jupyter_comfy_lock.domain.request import Request
from jupyter_comfy_lock.server.debts import Debts
from jupyter_comfy_lock.server.held import HeldLocks
from jupyter_comfy_lock.server.journal import LockJournal
from jupyter_comfy_lock.server.keeper import LockKeeper
from jupyter_comfy_lock.server.lease import NodeLease
from jupyter_comfy_lock.server.ready import clear_of_others
from jupyter_comfy_lock.server.upstream import Upstream, find_upstream, look_at_all
from jupyter_comfy_lock.server.waiting import Line, OnMove

if TYPE_CHECKING:
    from jupyter_comfy_lock.store.locks import LockStore

#: Seconds for which a look at a ComfyServer is good enough to lock it.
_LOOK_AGAIN_S = 1.0

ChosenBy = Literal["name", "pin", "best"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a holder asks for."""

    holder_id: HolderId
    #: What people call it.
    name: str
    #: The ComfyServer it names; None: the pin, or else the best one.
    comfy_id: ComfyId | None = None
    #: The ComfyServer that its notebook is pinned to.
    pin: ComfyId | None = None
    mode: Mode = Mode.SHARED
    #: Whether a lock that it has on the same ComfyServer will do in whatever mode it is.
    any_mode: bool = False
    #: For how many seconds it waits in line; None: for ever.
    wait_s: float | None = 0.0
    #: What the ComfyServer must have, when it is not named.
    labels: frozenset[str] = frozenset()
    #: The same for the same request, asked again.
    request_id: LockId | None = None

    @property
    def named(self) -> ComfyId | None:
        """The one ComfyServer that will do."""
        return self.comfy_id or (None if self.labels else self.pin)

    @property
    def waits(self) -> bool:
        """Whether it stands in line if need be."""
        return self.wait_s != 0

    @property
    def chosen_by(self) -> ChosenBy:
        """What decides which ComfyServer it is."""
        return "name" if self.comfy_id else "pin" if self.named else "best"


@dataclass(frozen=True, slots=True, kw_only=True)
class Locked:
    """What came of a wish."""

    lock: Lock
    chosen_by: ChosenBy
    had_it: bool = False
    #: The mode in which the holder had the same ComfyServer just before.
    was: Mode | None = None
    #: Prompts in the queue of a ComfyServer that is locked exclusively which came past the gateway.
    foreign_prompts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """What may be asked for."""

    usable: list[ComfyServer]
    #: Why each of the others may not.
    unusable: list[str]


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
        if not self._upstreams:
            raise EmptyPool
        current = self._held.by(wish.holder_id)
        if current is not None and wish.named in (None, current.comfy_id):
            if wish.any_mode:
                wish = replace(wish, mode=current.mode)
            # The same request again is answered as it was before: the store knows how.
            again = wish.request_id == current.lock_id
            suits = current.mode is wish.mode and self._suits(current, wish)
            if suits and not again and self._lease.fresh:
                return Locked(lock=current, chosen_by=wish.chosen_by, had_it=True, was=current.mode)
        try:
            return await self._acquire(wish, on_move)
        except ComfyLockError as error:
            self._journal.refused(
                holder_id=wish.holder_id,
                name=wish.name,
                comfy_id=wish.named,
                mode=wish.mode.value,
                why=error.message,
            )
            raise

    def _suits(self, lock: Lock, wish: Wish) -> bool:
        return wish.labels <= find_upstream(self._upstreams, lock.comfy_id).comfy.labels

    async def _acquire(self, wish: Wish, on_move: OnMove) -> Locked:
        candidates = await self._candidates(wish)
        request = Request(
            lock_id=wish.request_id or LockId(str(uuid4())),
            holder_id=wish.holder_id,
            node_id=self._lease.node_id,
            mode=wish.mode,
            wants=candidates.usable,
            name=wish.name,
        )
        if request.lock_id in self._held.asking:
            raise BadRequest(field="request_id", why="is that of a request that is under way")
        began_s = time.monotonic()
        self._held.asking.add(request.lock_id)
        try:
            grant = await self._grant(request, wish, on_move)
            waited_s = 0.0 if wish.wait_s == 0 else time.monotonic() - began_s
            return await self._install(grant, wish, waited_s)
        except LockRefused as error:
            if error.details.get("comfy_id") is None and candidates.unusable:
                why = "; ".join([str(error.details.get("why")), *candidates.unusable])
                raise LockRefused(None, why, ()) from None
            raise
        finally:
            self._held.asking.discard(request.lock_id)
            self._held.revoked.pop(request.lock_id, None)

    async def _candidates(self, wish: Wish) -> Candidates:
        if wish.named is not None:
            upstream = find_upstream(self._upstreams, wish.named)
            old = time.monotonic() - upstream.looked_s > _LOOK_AGAIN_S
            if old or upstream.fault() is not None:
                await upstream.look()
            fault = upstream.fault()
            if fault is not None:
                raise fault
            return Candidates(usable=[upstream.comfy], unusable=[])
        await look_at_all(self._upstreams.values())
        occupied, last_used = await asyncio.gather(self._store.occupancy(), self._store.last_used())
        usable = ranked(
            (each.comfy for each in self._upstreams.values()),
            {comfy_id: each.status for comfy_id, each in self._upstreams.items()},
            occupied,
            wish.holder_id,
            wish.labels,
            last_used,
        )
        unusable = [
            f"{comfy_id}: {_why_unusable(each, occupied, wish.labels)}"
            for comfy_id, each in self._upstreams.items()
            if each.comfy not in usable
        ]
        if not usable:
            raise LockRefused(None, "; ".join(unusable), ())
        return Candidates(usable=usable, unusable=unusable)

    async def _grant(self, request: Request, wish: Wish, on_move: OnMove) -> Grant:
        """Ask, and wait if need be; who does not get it leaves nothing in the store."""
        before = self._held.by(wish.holder_id)
        if before is not None and before.mode is Mode.EXCLUSIVE and wish.mode is Mode.SHARED:
            # From the moment of the grant others may share it; what needs it alone must not pass.
            self._held.share(before)
        place = self._line.add(request.lock_id, wish.holder_id, on_move) if wish.waits else None
        try:
            async with asyncio.timeout(wish.wait_s if wish.waits else None):
                outcome = await self._ask(request, wait=wish.waits)
                if isinstance(outcome, Grant):
                    return outcome
                assert place is not None
                # Whoever is in the way may be dead.
                await self._keeper.expire()
                lock = await place.turn
                held = self._held.by(wish.holder_id)
                same = held is not None and held.comfy_id == lock.comfy_id
                return Grant(lock=lock, was=held.mode if held is not None and same else None)
        except TimeoutError:
            try:
                error = await self._timed_out(request, wish.wait_s or 0.0)
            finally:
                await self._debts.take_back(request.lock_id, LockEvent.TIMED_OUT)
                self._keep(before)
            raise error from None
        except BaseException as error:
            # Also when the caller is cancelled: a lock that nobody knows of must not stay.
            if wish.waits or not isinstance(error, LockRefused):
                taking_back = self._debts.take_back(request.lock_id, LockEvent.RELEASED)
                await asyncio.shield(taking_back)
            self._keep(before)
            raise
        finally:
            if place is not None:
                self._line.remove(request.lock_id)
                place.close()

    def _keep(self, lock: Lock | None) -> None:
        """Go on as before with the lock that the holder had, unless it has it no more."""
        if lock is not None and self._held.has(lock):
            self._held.put(lock)

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

    async def _install(self, grant: Grant, wish: Wish, waited_s: float) -> Locked:
        """Begin to forward under a lock that was granted."""
        lock, holder_id = grant.lock, wish.holder_id
        before = self._held.by(holder_id)
        try:
            used = grant.had_it or self._held.has(lock)
            foreign = 0 if used else await self._ready(lock)
            self._refuse_if_over(lock)
        except BaseException:
            await asyncio.shield(self._give_back(grant, before))
            raise
        self._held.put(lock)
        if not used:
            self._journal.granted(lock, waited_s=waited_s)
            self._held.on_change(holder_id, lock, None)
        if before is not None and before.comfy_id != lock.comfy_id:
            self._journal.released(before, f"moved to {lock.comfy_id}")
            await self._debts.confirm([before.lock_id])
        return Locked(
            lock=lock,
            chosen_by=wish.chosen_by,
            had_it=grant.had_it,
            was=grant.was,
            foreign_prompts=foreign,
        )

    async def _give_back(self, grant: Grant, before: Lock | None) -> None:
        """Let go of a lock that cannot be used, and of what it was taken instead of."""
        if before is not None and not grant.had_it and self._held.has(before):
            self._held.lose(before, f"{grant.lock.comfy_id} was locked instead, and was not ready")
            await self._debts.confirm([before.lock_id])
        await self._debts.take_back(grant.lock.lock_id, LockEvent.RELEASED)

    async def _ready(self, lock: Lock) -> int:
        """Wait until what is locked exclusively is so; return the number of strangers' prompts."""
        if lock.mode is not Mode.EXCLUSIVE:
            return 0
        return await clear_of_others(
            find_upstream(self._upstreams, lock.comfy_id),
            lock,
            self._keeper.store_id,
            within_s=self._policy.drain_timeout_s,
            log=self._log,
        )

    def _refuse_if_over(self, lock: Lock) -> None:
        if not self.is_here(lock.holder_id):
            # What it held was released before this was granted: nobody else would end it (R8).
            raise UnknownHolder
        if lock.lock_id in self._held.revoked:
            raise StaleLock(lock.comfy_id, lock.fence, self._held.revoked[lock.lock_id])


def _why_unusable(upstream: Upstream, occupied: Occupancy, labels: frozenset[str]) -> str:
    missing = sorted(labels - upstream.comfy.labels)
    if missing:
        return f"has no label {' or '.join(map(repr, missing))}"
    decided = occupied.of(upstream.comfy.comfy_id)
    if upstream.fault() is None and decided.access is not Access.OPEN:
        return f"{decided.access.value} by {decided.by}" + (decided.why and f" ({decided.why})")
    return upstream.status.reason or upstream.status.health.value
