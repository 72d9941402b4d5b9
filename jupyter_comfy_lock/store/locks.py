"""Locks and the nodes that keep them: each method is one transaction."""

from dataclasses import dataclass
from uuid import uuid4

from sqlalchemy import Connection, and_, delete, insert, or_, select, update

from jupyter_comfy_lock.domain.errors import LockRefused, ServerConsistencyError
from jupyter_comfy_lock.domain.lock import (
    HolderId,
    Lock,
    LockEvent,
    LockState,
    Mode,
    advance,
    refusal,
)
from jupyter_comfy_lock.domain.pool import ComfyServer, holder_to_json
from jupyter_comfy_lock.domain.task import Task
from jupyter_comfy_lock.store.database import Database
from jupyter_comfy_lock.store.rows import lock_of, task_of
from jupyter_comfy_lock.store.schema import locks, nodes, tasks


class LeaseLost(Exception):
    """The node's lease had ended before it was renewed: its locks are gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """What a node left behind that was not renewed in time."""

    locks: tuple[Lock, ...]
    #: Its tasks that had not ended; they are the caller's now, and nobody else's.
    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What came of asking for a lock."""

    lock: Lock
    #: The holder had this very lock already (R1).
    had_it: bool


class LockStore:
    """Locks of all holders, over all Jupyter servers that share the database.

    A lock by itself stops nobody: the gateway, which sees every request, compares fences.
    """

    def __init__(self, database: Database, *, ttl_s: float) -> None:
        self._db = database
        self._clock = database.clock
        self._ttl_us = round(ttl_s * 1_000_000)

    async def join(self) -> str:
        """Add a node, with a lease of its own, and return its id."""
        node_id = str(uuid4())
        row = {
            "node_id": node_id,
            "boot_id": self._clock.boot_id(),
            "expires_at_us": self._clock.monotonic_us() + self._ttl_us,
        }
        await self._db.run(lambda c: c.execute(insert(nodes), row))
        return node_id

    async def renew(self, node_id: str) -> frozenset[int]:
        """Renew the node's lease and return the fences of the locks that it still keeps.

        What the caller thought it held and is not among them is lost.

        Raises:
            LeaseLost: too late.
        """

        def work(c: Connection) -> frozenset[int]:
            now = self._clock.monotonic_us()
            renewed = c.execute(
                update(nodes)
                .where(nodes.c.node_id == node_id, nodes.c.expires_at_us > now)
                .values(expires_at_us=now + self._ttl_us)
            )
            if renewed.rowcount == 0:
                raise LeaseLost
            return frozenset(
                c.scalars(
                    select(locks.c.fence).where(
                        locks.c.node_id == node_id, locks.c.state == LockState.HELD
                    )
                )
            )

        return await self._db.run(work)

    async def leave(self, node_id: str) -> None:
        """End the node's lease now, so that the next one to look takes over what it left."""
        await self._db.run(lambda c: self.leave_now(c, node_id))

    def leave_now(self, c: Connection, node_id: str) -> None:
        """Do as `leave` does, in a transaction of the caller's."""
        c.execute(update(nodes).where(nodes.c.node_id == node_id).values(expires_at_us=0))

    async def expire(self, node_id: str) -> Expired:
        """End the locks of other nodes whose lease is over and hand their tasks to `node_id`.

        Of several that call this, exactly one gets each lock and task.
        """
        return await self._db.run(lambda c: self._expire(c, node_id))

    async def acquire(
        self, comfy: ComfyServer, holder_id: HolderId, *, node_id: str, mode: Mode, name: str
    ) -> Grant:
        """Give `holder_id` a lock on `comfy`, instead of the one it has.

        Of holders racing for the last place exactly one gets it. A holder that is refused keeps
        what it had.

        Raises:
            LeaseLost: the node's own lease is over: it must join again first.
            LockRefused: there is no room; says who holds it since when.
            ServerConsistencyError: the holder has tasks pending elsewhere (R3).
        """
        return await self._db.run(
            lambda c: self._acquire(c, comfy, holder_id, node_id=node_id, mode=mode, name=name)
        )

    async def release(self, holder_id: HolderId, event: LockEvent) -> Lock | None:
        """End the lock of `holder_id` and return it as it was; None if it had none."""

        def work(c: Connection) -> Lock | None:
            lock = _held_by(c, holder_id)
            if lock is not None:
                self._db.bump(c)
                self._end(c, lock, event)
            return lock

        return await self._db.run(work)

    async def held(self) -> list[Lock]:
        """Return all locks that are held, oldest first."""
        return await self._db.run(_held)

    def _acquire(
        self,
        c: Connection,
        comfy: ComfyServer,
        holder_id: HolderId,
        *,
        node_id: str,
        mode: Mode,
        name: str,
    ) -> Grant:
        fence = self._db.bump(c)
        if not self._is_alive(c, node_id):
            # Nobody would ever end a lock that rests on a lease that is over.
            raise LeaseLost
        old = _held_by(c, holder_id)
        # One that another node keeps, such as this Jupyter server before it was killed and started
        # again, ends with that node: it is not worth having.
        had = None if old is None else (old.comfy_id, old.mode, old.node_id)
        if old is not None and had == (comfy.comfy_id, mode, node_id):
            return Grant(lock=old, had_it=True)
        _refuse_to_wander(c, comfy, holder_id, name)
        others = tuple(each for each in _held(c) if each.comfy_id == comfy.comfy_id)
        why = refusal(mode, comfy.capacity, others, holder_id)
        if why is not None:
            raise LockRefused(comfy.comfy_id, why, map(holder_to_json, others))
        if old is not None:
            self._end(c, old, LockEvent.RELEASED)
        lock = Lock(
            comfy_id=comfy.comfy_id,
            holder_id=holder_id,
            node_id=node_id,
            mode=mode,
            fence=fence,
            granted_at=self._clock.wall_s(),
            name=name,
        )
        c.execute(
            insert(locks),
            {
                "comfy_id": lock.comfy_id,
                "holder_id": lock.holder_id,
                "node_id": lock.node_id,
                "mode": lock.mode.value,
                "fence": lock.fence,
                "granted_at": lock.granted_at,
                "name": lock.name,
                "state": lock.state.value,
            },
        )
        return Grant(lock=lock, had_it=False)

    def _is_alive(self, c: Connection, node_id: str) -> bool:
        now = self._clock.monotonic_us()
        alive = and_(nodes.c.node_id == node_id, nodes.c.expires_at_us > now)
        return c.scalar(select(nodes.c.node_id).where(alive)) is not None

    def _expire(self, c: Connection, node_id: str) -> Expired:
        over = or_(
            nodes.c.expires_at_us <= self._clock.monotonic_us(),
            nodes.c.boot_id != self._clock.boot_id(),
        )
        # A node whose own lease is over finds that out when it renews, and joins anew.
        others = nodes.c.node_id != node_id
        gone = list(c.scalars(select(nodes.c.node_id).where(over, others)))
        if not gone:
            return Expired(locks=(), tasks=())
        self._db.bump(c)
        ended = tuple(each for each in _held(c) if each.node_id in gone)
        for lock in ended:
            self._end(c, lock, LockEvent.EXPIRED)
        orphaned = and_(tasks.c.node_id.in_(gone), tasks.c.pending == 1)
        orphans = tuple(map(task_of, c.execute(select(tasks).where(orphaned))))
        c.execute(update(tasks).where(orphaned).values(node_id=node_id))
        c.execute(delete(nodes).where(nodes.c.node_id.in_(gone)))
        return Expired(locks=ended, tasks=orphans)

    def _end(self, c: Connection, lock: Lock, event: LockEvent) -> None:
        c.execute(
            update(locks)
            .where(locks.c.fence == lock.fence)
            .values(
                state=advance(lock, event).state.value,
                ended_at=self._clock.wall_s(),
                ended_by=event.value,
            )
        )


def _held(c: Connection) -> list[Lock]:
    rows = c.execute(select(locks).where(locks.c.state == LockState.HELD).order_by(locks.c.fence))
    return list(map(lock_of, rows))


def _held_by(c: Connection, holder_id: HolderId) -> Lock | None:
    row = c.execute(
        select(locks).where(locks.c.state == LockState.HELD, locks.c.holder_id == holder_id)
    ).one_or_none()
    return None if row is None else lock_of(row)


def _refuse_to_wander(c: Connection, comfy: ComfyServer, holder_id: HolderId, name: str) -> None:
    rows = c.execute(
        select(tasks.c.task_id, tasks.c.comfy_id).where(
            tasks.c.holder_id == holder_id,
            tasks.c.pending == 1,
            tasks.c.comfy_id != comfy.comfy_id,
        )
    ).all()
    if rows:
        raise ServerConsistencyError(
            name or holder_id,
            "lock",
            asked=comfy.comfy_id,
            locked=rows[0].comfy_id,
            pending=[row.task_id for row in rows],
        )
