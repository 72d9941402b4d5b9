"""Locks, and the line before each ComfyServer: each method is one transaction."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, func, select, update

from jupyter_comfy_lock.domain.errors import BadRequest, LockRefused, ServerConsistencyError
from jupyter_comfy_lock.domain.line import Waiter, ahead, fits, stuck
from jupyter_comfy_lock.domain.lock import (
    ComfyId,
    Ending,
    HolderId,
    Lock,
    LockEvent,
    LockId,
    LockState,
    Mode,
)
from jupyter_comfy_lock.domain.outcome import Grant, LeaseLost, News, Outcome, Over, Waiting
from jupyter_comfy_lock.domain.pool import (
    ComfyServer,
    Occupancy,
    occupancy,
)
from jupyter_comfy_lock.domain.request import (
    Request,
    open_ones,
    refuse_other_pools,
    refused,
    would_wait_for_ever,
)
from jupyter_comfy_lock.store.database import Database
from jupyter_comfy_lock.store.moves import Flags, Moves, Own
from jupyter_comfy_lock.store.rows import ending_of, lock_of
from jupyter_comfy_lock.store.schema import (
    IS_DRAINING,
    locks,
    meta,
    wants,
)


class LockStore:
    """Locks of all holders, over all Jupyter servers that share the database.

    A lock by itself stops nobody: the gateway, which sees every request, compares fences.
    """

    def __init__(self, database: Database) -> None:
        self._db = database
        self._clock = database.clock
        self._moves = Moves(database)

    # -- ask and let go ----------------------------------------------------------------------

    async def ask(self, request: Request, *, wait: bool) -> Grant | Waiting:
        """Give the holder a lock instead of the one it has, or put it in line for one.

        Of holders racing for the last place exactly one gets it, and nobody overtakes. A holder
        that is refused keeps what it had, and so does one that waits, until its turn comes. The
        same request again has the same outcome.

        Raises:
            LeaseLost: the node's own lease is over: it must join again first.
            LockRefused: there is no room (and `wait` is false), or it would wait for ever.
            ComfyClosed: an operator lets nobody have it.
            ServerConsistencyError: the holder has tasks pending elsewhere (R3).
        """
        return await self._db.run(lambda c: self._ask(c, request, wait))

    async def leave(
        self, lock_id: LockId, event: LockEvent, *, by: str = "", why: str = ""
    ) -> Lock | None:
        """Take a request out of the line; return its lock, which it keeps, if its turn had come.

        `by`, `why`: the operator who does so, and what for.
        """
        ending = Ending(event=event, at=self._clock.wall_s(), by=by, why=why)
        return await self._db.run(lambda c: self._leave(c, lock_id, ending))

    async def withdraw(self, lock_id: LockId, event: LockEvent) -> Lock | None:
        """Take a request back, whatever became of it; return the lock if it had led to one.

        For the node that asked, which forwards nothing under that lock, nor under one that it
        replaced.
        """

        def work(c: Connection) -> Lock | None:
            ending = self._ending(event)
            lock = self._leave(c, lock_id, ending)
            if lock is not None:
                self._let_go(c, lock, ending, confirmed=True)
            return lock

        return await self._db.run(_or_what_was_found_before(work))

    async def release(
        self, holder_id: HolderId, event: LockEvent, *, only: LockId | None = None
    ) -> Lock | None:
        """End the lock of `holder_id`, and its wait; return the lock as it was, None for none.

        For the node that forwards for it, which has stopped doing so. `only`: nothing but that
        lock.
        """
        ending = self._ending(event)
        return await self._db.run(
            _or_what_was_found_before(
                lambda c: self._end_all(c, holder_id, ending, confirmed=True, only=only)
            )
        )

    async def force(
        self,
        holder_id: HolderId,
        *,
        by: str,
        why: str,
        node_id: str,
        only: LockId | None = None,
    ) -> Lock | None:
        """Take the lock of `holder_id`, or its place in line, away from it.

        `only`: nothing but that lock. Others get the room when the holder's node confirms that it
        forwards nothing more; that is known already where it is `node_id`.
        """
        ending = Ending(event=LockEvent.FORCED, at=self._clock.wall_s(), by=by, why=why)
        return await self._db.run(
            _or_what_was_found_before(
                lambda c: self._end_all(
                    c, holder_id, ending, confirmed=None, node_id=node_id, only=only
                )
            )
        )

    async def confirm(self, lock_ids: Collection[LockId]) -> None:
        """Note that their node forwards nothing more under these locks."""

        def work(c: Connection) -> None:
            self._db.bump(c)
            ours = (locks.c.lock_id.in_(lock_ids), IS_DRAINING)
            rows = c.execute(select(locks).where(*ours).with_for_update()).all()
            c.execute(update(locks).where(*ours).values(confirmed=1))
            freed = {
                lock.comfy_id
                for lock in map(lock_of, rows)
                if self._moves.drain(c, lock.holder_id, lock.comfy_id)
            }
            self._changed(c, freed)

        await self._db.run(work)

    # -- look --------------------------------------------------------------------------------

    async def outcome(self, lock_id: LockId) -> Outcome | None:
        """Return what became of a request; None if there was none."""
        return await self._db.read(lambda c: self._outcome(c, lock_id))

    async def news(self, node_id: str, since_rev: int) -> News:
        """Return what has changed for the node's holders after `since_rev`."""

        def work(c: Connection) -> News:
            rev = c.scalars(select(meta.c.rev)).one()
            if rev == since_rev:
                return News(rev=rev, outcomes={})
            mine = (locks.c.node_id == node_id, locks.c.rev > since_rev)
            return News(
                rev=rev,
                outcomes={
                    LockId(row.lock_id): (HolderId(row.holder_id), found)
                    for row in c.execute(select(locks).where(*mine)).all()
                    if (found := self._outcome_of(c, row)) is not None
                },
            )

        return await self._db.read(work)

    async def occupancy(self) -> Occupancy:
        """Return who has which ComfyServer and who waits, over all Jupyter servers."""
        return await self._db.read(self._moves.scene)

    async def last_used(self) -> dict[ComfyId, int]:
        """Return the newest fence of each ComfyServer."""
        newest = select(locks.c.comfy_id, func.max(locks.c.fence)).where(
            locks.c.comfy_id.is_not(None)
        )
        return await self._db.read(
            lambda c: {
                ComfyId(comfy_id): fence
                for comfy_id, fence in c.execute(newest.group_by(locks.c.comfy_id)).all()
            }
        )

    async def store_id(self) -> str:
        """Return what tells this store from any other."""
        return await self._db.read(lambda c: c.scalars(select(meta.c.store_id)).one())

    # -- within a transaction ----------------------------------------------------------------

    def _leave(self, c: Connection, lock_id: LockId, ending: Ending) -> Lock | None:
        self._db.bump(c)
        row = c.execute(
            select(locks).where(locks.c.lock_id == lock_id).with_for_update()
        ).one_or_none()
        if row is not None and row.state == LockState.WAITING:
            self._changed(c, self._moves.leave_line(c, lock_id, ending))
        return lock_of(row) if row is not None and row.state == LockState.HELD else None

    def _ask(self, c: Connection, request: Request, wait: bool) -> Grant | Waiting:
        rev = self._db.bump(c)
        comfy_ids = [each.comfy_id for each in request.wants]
        flags = self._moves.flags(c, request.holder_id, comfy_ids, request.node_id)
        if not flags.has_node:
            # Nobody would ever end a lock that rests on a lease that is over.
            raise LeaseLost
        own, active = self._moves.seen(c, request.holder_id, request.lock_id, request.wants)
        if own.request is not None:
            if own.request.holder_id != request.holder_id:
                raise BadRequest(field="request_id", why="is that of another kernel")
            known = self._outcome_of(c, own.request)
            if isinstance(known, Grant | Waiting):
                return known
            raise LockRefused(None, "this very request was taken back before", ())
        if own.in_line is not None:
            # The newest wish of a holder is the one that counts.
            ending = self._ending(LockEvent.RELEASED)
            self._changed(c, self._moves.leave_line(c, own.in_line, ending))
            flags, rev = replace(flags, has_line=True), self._db.bump(c)
        wanted = self._stay_at_home(c, request, request.wants) if flags.has_tasks else request.wants
        held = own.held
        if (
            held is not None
            # One that another node keeps, such as this Jupyter server before it was killed and
            # started again, ends with that node: it is not worth having.
            and held.node_id == request.node_id
            and held.mode is request.mode
            and held.comfy_id in {each.comfy_id for each in wanted}
        ):
            return Grant(lock=held, had_it=True, was=held.mode)
        # By all that it wants: what it cannot have now is no other pool's.
        one_machine = self._db.backend.one_machine
        refuse_other_pools(active, request.wants, one_machine=one_machine)
        scene = self._scene(c, wanted, active, flags)
        wanted = open_ones(wanted, scene, held, request.mode)
        return self._take_or_wait(c, replace(request, wants=wanted), own, scene, rev, wait=wait)

    def _scene(
        self,
        c: Connection,
        wanted: Sequence[ComfyServer],
        active: Sequence[tuple[Lock, str]],
        flags: Flags,
    ) -> Occupancy:
        if flags.has_line or flags.is_decided:
            return self._moves.scene(c, {each.comfy_id for each in wanted})
        return occupancy(lock for lock, _ in active)

    def _take_or_wait(
        self,
        c: Connection,
        request: Request,
        own: Own,
        scene: Occupancy,
        rev: int,
        *,
        wait: bool,
    ) -> Grant | Waiting:
        waiter = Waiter(
            lock_id=request.lock_id,
            holder_id=request.holder_id,
            node_id=request.node_id,
            mode=request.mode,
            ticket=rev,
            wants={each.comfy_id: each.capacity for each in request.wants},
            name=request.name,
            since=self._clock.wall_s(),
        )
        waiters = (*scene.waiters, waiter)
        for comfy in request.wants:
            first = ahead(waiter, comfy.comfy_id, waiters, scene.locks) == 0
            if first and fits(waiter, comfy.comfy_id, scene.locks):
                return self._take(c, request, waiter, comfy, own)
        if not wait:
            raise refused(waiter, waiters, scene)
        everybody = self._moves.scene(c)
        if stuck(waiter, everybody.waiters, everybody.locks):
            raise would_wait_for_ever(waiter, everybody)
        self._moves.stand_in_line(c, waiter, request.wants)
        self._db.backend.announce(c)
        return Waiting(waiter=waiter)

    def _take(
        self, c: Connection, request: Request, waiter: Waiter, comfy: ComfyServer, own: Own
    ) -> Grant:
        if own.active:
            # Again, with nobody recording a task under it meanwhile.
            own = self._moves.own(c, waiter.holder_id)
            self._stay_at_home(c, request, [comfy])
            self._moves.make_way(c, own.active, comfy.comfy_id, waiter.node_id)
        was = own.mode_on(comfy.comfy_id)
        lock = self._moves.take(c, waiter, comfy, waiter.ticket, was)
        # Also one that drained, of an earlier life of this node.
        mine = (each for each in own.active if each.comfy_id == comfy.comfy_id)
        if any(each.mode is Mode.EXCLUSIVE for each in mine):
            # Others may share it from now on.
            self._changed(c, {comfy.comfy_id})
        return Grant(lock=lock, was=was)

    def _stay_at_home(
        self, c: Connection, request: Request, servers: Sequence[ComfyServer]
    ) -> Sequence[ComfyServer]:
        """Return those of `servers` that the holder's pending tasks allow (R3).

        Raises:
            ServerConsistencyError: they allow none.
        """
        pending = self._moves.pending(c, request.holder_id)
        homes = {comfy_id for _, comfy_id in pending}
        wanted = [each for each in servers if homes <= {each.comfy_id}]
        if not wanted:
            asked = servers[0].comfy_id
            elsewhere = [(task, where) for task, where in pending if where != asked]
            raise ServerConsistencyError(
                request.name or request.holder_id,
                "lock",
                asked=asked,
                locked=elsewhere[0][1],
                pending=[task for task, _ in elsewhere],
            )
        return wanted

    def _end_all(
        self,
        c: Connection,
        holder_id: HolderId,
        ending: Ending,
        *,
        confirmed: bool | None,
        node_id: str = "",
        only: LockId | None = None,
    ) -> Lock | None:
        """End what the holder has and waits for; `confirmed` None: where its node is `node_id`."""
        self._db.bump(c)
        own = self._moves.own(c, holder_id)
        held = own.held if own.held is not None and only in (None, own.held.lock_id) else None
        if own.in_line is not None and only is None:
            self._changed(c, self._moves.leave_line(c, own.in_line, ending), tell=True)
        if held is not None:
            sure = held.node_id == node_id if confirmed is None else confirmed
            self._let_go(c, held, ending, confirmed=sure)
        return held

    def _let_go(self, c: Connection, lock: Lock, ending: Ending, *, confirmed: bool) -> None:
        flags = self._moves.flags(c, lock.holder_id, [lock.comfy_id])
        drained = self._moves.let_go(
            c, lock, ending, confirmed=confirmed, has_tasks=flags.has_tasks
        )
        if drained and flags.has_line:
            self._moves.grant_all(c, {lock.comfy_id})
        if flags.has_line or not confirmed:
            # Those who wait see that it drains, and its node that it is lost.
            self._db.backend.announce(c)

    def _changed(
        self, c: Connection, comfy_ids: Collection[ComfyId], *, tell: bool = False
    ) -> None:
        """Grant what is free now, and tell other nodes if it concerns them."""
        if (comfy_ids and self._moves.grant_all(c, comfy_ids)) or tell:
            self._db.backend.announce(c)

    def _outcome(self, c: Connection, lock_id: LockId) -> Outcome | None:
        row = c.execute(select(locks).where(locks.c.lock_id == lock_id)).one_or_none()
        return None if row is None else self._outcome_of(c, row)

    def _outcome_of(self, c: Connection, row: Row[Any]) -> Outcome | None:
        if row.state == LockState.HELD:
            return Grant(lock=lock_of(row), was=Mode(row.was) if row.was else None)
        if row.state == LockState.WAITING:
            waiters = self._moves.scene(c, self._wanted(c, row.lock_id)).waiters
            found = next((each for each in waiters if each.lock_id == row.lock_id), None)
            return None if found is None else Waiting(waiter=found)
        ending = ending_of(row)
        if ending is None:
            return None
        return Over(ending=ending, lock=None if row.fence is None else lock_of(row))

    def _wanted(self, c: Connection, lock_id: LockId) -> set[ComfyId]:
        return set(
            map(ComfyId, c.scalars(select(wants.c.comfy_id).where(wants.c.lock_id == lock_id)))
        )

    def _ending(self, event: LockEvent) -> Ending:
        return Ending(event=event, at=self._clock.wall_s())


def _or_what_was_found_before(
    work: Callable[[Connection], Lock | None],
) -> Callable[[Connection], Lock | None]:
    """Return `work` that may run twice: when the first time's answer was lost, it still counts."""
    before: Lock | None = None

    def again(c: Connection) -> Lock | None:
        nonlocal before
        before = work(c) or before
        return before

    return again
