"""Nodes: which Jupyter servers live, and what becomes of what a dead one leaves.

No clock of one machine is compared with that of another. A node counts its renewals; each of the
others looks, and when it has seen one and the same count for as long as that node's lease lasts,
by its own clock, it ends the node, unless the count has changed in that very moment. So no step of
any clock ends a lease too early. A node whose process has ended on this very machine need not be
waited for at all.
"""

from collections.abc import Collection
from typing import Any
from uuid import uuid4

from sqlalchemy import (
    BigInteger,
    Connection,
    Row,
    bindparam,
    cast,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)

from jupyter_comfy_lock.domain.lock import ComfyId, Ending, Lock, LockEvent, LockId, LockState
from jupyter_comfy_lock.domain.outcome import Expired, LeaseLost
from jupyter_comfy_lock.store.database import Database
from jupyter_comfy_lock.store.machine import Machine
from jupyter_comfy_lock.store.moves import Moves
from jupyter_comfy_lock.store.rows import lock_of, task_of
from jupyter_comfy_lock.store.schema import (
    IS_ACTIVE,
    IS_HELD,
    IS_PENDING,
    IS_WAITING,
    locks,
    nodes,
    tasks,
)

_KNOWN = select(nodes.c.node_id).where(
    nodes.c.node_id == bindparam("node_id"), nodes.c.gone == literal_column("0")
)
#: Fences are added up by their remainder: a sum of whole ones would not fit.
_CHECK = 2**31 - 1
_HELD_CHECK = select(
    func.count(), cast(func.coalesce(func.sum(locks.c.fence % _CHECK), 0), BigInteger)
).where(locks.c.node_id == bindparam("node_id"), IS_HELD)


class NodeStore:
    """The leases of all Jupyter servers that share the database; one object for each of them."""

    def __init__(self, database: Database, *, ttl_s: float, machine: Machine | None = None) -> None:
        self._db = database
        self._clock = database.clock
        self._moves = Moves(database)
        self._ttl_s = ttl_s
        self._machine = machine or Machine()
        #: How many renewals of each node were seen, and when that was so first.
        self._seen: dict[str, tuple[int, float]] = {}

    async def join(self) -> str:
        """Add a node, with a lease of its own, and return its id."""
        node_id = str(uuid4())
        row = {
            "node_id": node_id,
            "host": self._machine.host,
            "pid": self._machine.pid,
            "ttl_s": self._ttl_s,
            "renewals": 0,
        }

        def work(c: Connection) -> str:
            if not is_known(c, node_id):
                c.execute(insert(nodes), row)
            return node_id

        return await self._db.run(work)

    async def others(self, node_id: str) -> dict[str, str | None]:
        """Return the other nodes, each with why it is gone; None for one that lives, it seems."""
        now_s = self._clock.monotonic_s()

        def why(row: Row[Any]) -> str | None:
            renewals, since_s = self._seen.get(row.node_id, (None, now_s))
            if row.gone:
                return "its Jupyter server was stopped"
            if self._machine.has_ended(row.host, row.pid):
                return "the process of its Jupyter server has ended"
            if renewals == row.renewals and now_s - since_s >= row.ttl_s:
                return f"its Jupyter server has been silent for {now_s - since_s:.0f} s"
            return None

        query = select(nodes).where(nodes.c.node_id != node_id)
        return await self._db.read(lambda c: {x.node_id: why(x) for x in c.execute(query).all()})

    async def renew(self, node_id: str, known: Collection[Lock] = ()) -> frozenset[LockId]:
        """Renew the node's lease and return the locks that it still keeps.

        What the caller thought it held and is not among them is lost: a database that was put
        back in time may have forgotten it. Where those are the `known` ones they are not read.

        Raises:
            LeaseLost: too late; others have ended the node.
        """
        expected = (len(known), sum(lock.fence % _CHECK for lock in known))

        def work(c: Connection) -> frozenset[LockId]:
            renewed = c.execute(
                update(nodes)
                .where(nodes.c.node_id == node_id, nodes.c.gone == 0)
                .values(renewals=nodes.c.renewals + 1)
            )
            if renewed.rowcount == 0:
                raise LeaseLost
            if known and tuple(c.execute(_HELD_CHECK, {"node_id": node_id}).one()) == expected:
                return frozenset(lock.lock_id for lock in known)
            held = select(locks.c.lock_id).where(locks.c.node_id == node_id, IS_HELD)
            return frozenset(map(LockId, c.scalars(held)))

        return await self._db.run(work)

    async def leave(self, node_id: str) -> None:
        """Say good-bye: the next one to look takes over what is left."""
        await self._db.run(lambda c: self.leave_now(c, node_id))

    def leave_now(self, c: Connection, node_id: str) -> None:
        """Do as `leave` does, in a transaction of the caller's."""
        c.execute(update(nodes).where(nodes.c.node_id == node_id).values(gone=1))

    async def expire(self, node_id: str) -> Expired:
        """End the locks of other nodes that are dead and hand their tasks to `node_id`.

        Of several that call this, exactly one gets each lock and task.
        """
        # Also those of a first try whose answer was lost.
        ended: dict[LockId, Lock] = {}
        return await self._db.run(lambda c: self._expire(c, node_id, ended))

    def _expire(self, c: Connection, node_id: str, ended: dict[LockId, Lock]) -> Expired:
        dead = self._dead(c, node_id)
        # Nobody can end this node from the revision on, so what it adopts has an owner.
        if dead and self._db.bump(c) and is_known(c, node_id):
            changed: set[ComfyId] = set()
            for each, renewals in dead.items():
                still = (nodes.c.node_id == each, nodes.c.renewals == renewals)
                if c.execute(delete(nodes).where(*still)).rowcount:
                    ended |= {x.lock_id: x for x in self._end(c, each, node_id, changed)}
            # Only now: what one leaves is not for another one that is dead.
            self._moves.grant_all(c, changed)
            self._db.backend.announce(c)
        mine = (tasks.c.node_id == node_id, tasks.c.adopted == 1, IS_PENDING)
        adopted = tuple(map(task_of, c.execute(select(tasks).where(*mine))))
        return Expired(locks=tuple(ended.values()), tasks=adopted)

    def _dead(self, c: Connection, node_id: str) -> dict[str, int]:
        """Return the other nodes that are dead, as far as this process can tell."""
        now_s = self._clock.monotonic_s()
        known = c.execute(select(nodes).where(nodes.c.node_id != node_id)).all()
        seen, self._seen = self._seen, {}
        dead = {}
        for row in known:
            renewals, since_s = seen.get(row.node_id, (None, now_s))
            if renewals != row.renewals:
                since_s = now_s
            self._seen[row.node_id] = (row.renewals, since_s)
            silent = now_s - since_s >= row.ttl_s
            if row.gone or silent or self._machine.has_ended(row.host, row.pid):
                dead[row.node_id] = row.renewals
        return dead

    def _end(self, c: Connection, dead: str, node_id: str, changed: set[ComfyId]) -> list[Lock]:
        """End what a dead node has; add to `changed` where others may have come closer."""
        orphaned = (tasks.c.node_id == dead, IS_PENDING)
        c.execute(update(tasks).where(*orphaned).values(node_id=node_id, adopted=1))
        ending = Ending(event=LockEvent.EXPIRED, at=self._clock.wall_s())
        waiting = select(locks.c.lock_id).where(locks.c.node_id == dead, IS_WAITING)
        for lock_id in c.scalars(waiting).all():
            changed |= self._moves.leave_line(c, LockId(lock_id), ending)
        theirs = (locks.c.node_id == dead, IS_ACTIVE)
        active = [lock_of(x) for x in c.execute(select(locks).where(*theirs).with_for_update())]
        for lock in active:
            held = lock.state is LockState.HELD
            told = ending if held or lock.ending is None else lock.ending
            if self._moves.let_go(c, lock, told, confirmed=True):
                changed.add(lock.comfy_id)
        return [lock for lock in active if lock.state is LockState.HELD]


def is_known(c: Connection, node_id: str) -> bool:
    """Whether the node is there, so that what rests on it ends with it."""
    return (
        c.scalar(select(nodes.c.node_id).where(nodes.c.node_id == node_id, nodes.c.gone == 0))
        is not None
    )
