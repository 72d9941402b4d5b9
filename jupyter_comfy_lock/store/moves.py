"""How locks move from state to state in the database, within a transaction of the caller's.

The caller has taken a revision before: whoever changes locks stands in one line.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    delete,
    exists,
    insert,
    literal_column,
    or_,
    select,
    update,
)

from jupyter_comfy_lock.domain.line import Waiter, by_comfy, next_grant
from jupyter_comfy_lock.domain.lock import (
    ACTIVE,
    ComfyId,
    Ending,
    HolderId,
    Lock,
    LockEvent,
    LockId,
    LockState,
    Mode,
    advance,
)
from jupyter_comfy_lock.domain.pool import Access, ComfyServer, Occupancy
from jupyter_comfy_lock.store.database import Database
from jupyter_comfy_lock.store.rows import lock_of, maintenance_of, waiter_of
from jupyter_comfy_lock.store.schema import (
    IS_ACTIVE,
    IS_DRAINING,
    IS_PENDING,
    IS_WAITING,
    comfy_servers,
    locks,
    nodes,
    tasks,
    wants,
)

# Statements are made once: making one takes longer than SQLite takes to do it.

_OWN = (
    select(locks)
    .where(
        or_(
            locks.c.lock_id == bindparam("lock_id"),
            and_(locks.c.holder_id == bindparam("holder_id"), or_(IS_ACTIVE, IS_WAITING)),
        )
    )
    .with_for_update()
)


def _among(column: Column[Any], name: str, *, many: bool) -> ColumnElement[bool]:
    """Whether a column is one of the parameter's values: a list costs three times as much."""
    return column.in_(bindparam(name, expanding=True)) if many else column == bindparam(name)


def _seen(*, many: bool) -> Select[Any]:
    return (
        select(locks)
        .where(
            or_(
                locks.c.lock_id == bindparam("lock_id"),
                and_(locks.c.holder_id == bindparam("holder_id"), or_(IS_ACTIVE, IS_WAITING)),
                and_(IS_ACTIVE, _among(locks.c.comfy_id, "comfy_ids", many=many)),
                and_(IS_ACTIVE, _among(locks.c.url, "urls", many=many)),
            )
        )
        .order_by(locks.c.fence)
    )


def _flags(*, many: bool) -> Select[bool, bool, bool, bool]:
    return select(
        exists(nodes.c.node_id)
        .where(nodes.c.node_id == bindparam("node_id"), nodes.c.gone == literal_column("0"))
        .label("has_node"),
        exists(tasks.c.task_id)
        .where(tasks.c.holder_id == bindparam("holder_id"), IS_PENDING)
        .label("has_tasks"),
        exists(wants.c.lock_id)
        .where(_among(wants.c.comfy_id, "comfy_ids", many=many))
        .label("has_line"),
        exists(comfy_servers.c.comfy_id)
        .where(_among(comfy_servers.c.comfy_id, "comfy_ids", many=many))
        .label("is_decided"),
    )


#: For one ComfyServer, and for several.
_SEEN = _seen(many=False), _seen(many=True)
_FLAGS = _flags(many=False), _flags(many=True)
_INSERT = insert(locks)
_END = (
    update(locks)
    .where(locks.c.lock_id == bindparam("of"))
    .values(
        {
            name: bindparam(name)
            for name in ("state", "rev", "ended_at", "ended_by", "forced_by", "why", "confirmed")
        }
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """What a holder has, and what is known of one request."""

    #: The row of the request.
    request: Row[Any] | None
    active: tuple[Lock, ...]
    #: Its request that is in line.
    in_line: LockId | None

    @property
    def held(self) -> Lock | None:
        """Return its lock."""
        return next((each for each in self.active if each.state is LockState.HELD), None)

    def mode_on(self, comfy_id: ComfyId) -> Mode | None:
        """Return the mode in which it holds that ComfyServer."""
        held = self.held
        return held.mode if held is not None and held.comfy_id == comfy_id else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What most transactions need not look at more closely."""

    #: The node is there, so that what rests on it ends with it.
    has_node: bool
    #: The holder has tasks that have not ended.
    has_tasks: bool
    #: Somebody waits for one of the ComfyServers.
    has_line: bool
    #: An operator has decided something about one of them.
    is_decided: bool


class Moves:
    """Each method is a step of a transaction."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._clock = database.clock

    # -- what there is -----------------------------------------------------------------------

    def own(self, c: Connection, holder_id: HolderId, lock_id: LockId | None = None) -> Own:
        """Return what the holder has, and have nobody record a task under it meanwhile."""
        rows = c.execute(_OWN, {"holder_id": holder_id, "lock_id": lock_id or ""}).all()
        return _own(rows, holder_id, lock_id)

    def seen(
        self,
        c: Connection,
        holder_id: HolderId,
        lock_id: LockId,
        servers: Collection[ComfyServer],
    ) -> tuple[Own, list[tuple[Lock, str]]]:
        """Return the same, and the locks that take up room on `servers`, each with its URL.

        What takes up room is found by id and by URL. Nothing is kept from changing.
        """
        ids, urls = [each.comfy_id for each in servers], [each.url for each in servers]
        asked = {
            "holder_id": holder_id,
            "lock_id": lock_id,
            "comfy_ids": _one_or_many(ids),
            "urls": _one_or_many(urls),
        }
        rows = c.execute(_SEEN[len(ids) > 1], asked).all()
        there = [
            (lock_of(row), row.url)
            for row in rows
            if row.state in ACTIVE and (row.comfy_id in ids or row.url in urls)
        ]
        return _own(rows, holder_id, lock_id), there

    def flags(
        self,
        c: Connection,
        holder_id: HolderId,
        comfy_ids: Collection[ComfyId],
        node_id: str = "",
    ) -> Flags:
        """Return what else there is to look at."""
        ids = list(comfy_ids)
        asked = {"holder_id": holder_id, "comfy_ids": _one_or_many(ids), "node_id": node_id}
        row = c.execute(_FLAGS[len(ids) > 1], asked).one()
        return Flags(
            has_node=bool(row.has_node),
            has_tasks=bool(row.has_tasks),
            has_line=bool(row.has_line),
            is_decided=bool(row.is_decided),
        )

    def scene(self, c: Connection, comfy_ids: Collection[ComfyId] | None = None) -> Occupancy:
        """Return who has and who waits for those ComfyServers, or for any.

        What their waiters want besides is part of it.
        """
        found: set[ComfyId] = set(comfy_ids or ())
        while True:
            waiters = self._waiters(c, None if comfy_ids is None else found)
            wider = found.union(*(each.wants for each in waiters))
            if comfy_ids is None or wider == found:
                break
            found = wider
        active = select(locks).where(IS_ACTIVE).order_by(locks.c.fence)
        decided = select(comfy_servers)
        if comfy_ids is not None:
            active = active.where(locks.c.comfy_id.in_(found))
            decided = decided.where(comfy_servers.c.comfy_id.in_(found))
        return Occupancy(
            locks=by_comfy(map(lock_of, c.execute(active))),
            waiters=tuple(waiters),
            maintenance={ComfyId(row.comfy_id): maintenance_of(row) for row in c.execute(decided)},
        )

    def pending(self, c: Connection, holder_id: HolderId) -> list[tuple[str, ComfyId]]:
        """Return the holder's tasks that have not ended, each with its ComfyServer."""
        rows = c.execute(
            select(tasks.c.task_id, tasks.c.comfy_id).where(
                tasks.c.holder_id == holder_id, IS_PENDING
            )
        )
        return [(row.task_id, ComfyId(row.comfy_id)) for row in rows]

    # -- steps -------------------------------------------------------------------------------

    def let_go(
        self,
        c: Connection,
        lock: Lock,
        ending: Ending,
        *,
        confirmed: bool,
        has_tasks: bool | None = None,
    ) -> bool:
        """Have a lock drain; return whether it has, so that others may have its room.

        `confirmed`: its node sends nothing more under it. `has_tasks` False where it is known that
        its holder has none; looked at only after nobody could record one any more.
        """
        drained = confirmed and (
            has_tasks is False or not self._has_prompts(c, lock.holder_id, lock.comfy_id)
        )
        events = [ending.event, LockEvent.DRAINED] if drained else [ending.event]
        self._end(c, lock, events, ending, confirmed=confirmed)
        return drained

    def drain(self, c: Connection, holder_id: HolderId, comfy_id: ComfyId) -> bool:
        """End the holder's locks there that have drained; return whether there was one."""
        draining = (
            locks.c.holder_id == holder_id,
            locks.c.comfy_id == comfy_id,
            IS_DRAINING,
            locks.c.confirmed == 1,
        )
        found = list(c.scalars(select(locks.c.lock_id).where(*draining).with_for_update()))
        if not found or self._has_prompts(c, holder_id, comfy_id):
            return False
        state = advance(LockState.DRAINING, LockEvent.DRAINED)
        c.execute(update(locks).where(*draining).values(state=state.value, rev=self._db.rev(c)))
        return True

    def leave_line(self, c: Connection, lock_id: LockId, ending: Ending) -> set[ComfyId]:
        """Take a waiter out of the line; return where others may have come closer."""
        state = advance(LockState.WAITING, ending.event)
        mine = wants.c.lock_id == lock_id
        wanted = set(map(ComfyId, c.scalars(select(wants.c.comfy_id).where(mine))))
        c.execute(delete(wants).where(mine))
        self._write(c, lock_id, state, ending, confirmed=True)
        return wanted

    def take(
        self, c: Connection, waiter: Waiter, comfy: ComfyServer, rev: int, was: Mode | None
    ) -> Lock:
        """Give `comfy` to one who need not wait. What it has else, `make_way` has ended."""
        lock = Lock(
            lock_id=waiter.lock_id,
            comfy_id=comfy.comfy_id,
            holder_id=waiter.holder_id,
            node_id=waiter.node_id,
            mode=waiter.mode,
            fence=rev,
            granted_at=waiter.since,
            name=waiter.name,
        )
        granted = {
            "fence": rev,
            "comfy_id": comfy.comfy_id,
            "url": comfy.url,
            "was": was,
            "granted_at": lock.granted_at,
        }
        c.execute(_INSERT, {**_row(waiter, LockState.HELD, rev), **granted})
        return lock

    def stand_in_line(self, c: Connection, waiter: Waiter, servers: Sequence[ComfyServer]) -> None:
        """Put somebody in line for any of these."""
        c.execute(_INSERT, _row(waiter, LockState.WAITING, waiter.ticket))
        c.execute(
            insert(wants),
            [
                {
                    "lock_id": waiter.lock_id,
                    "comfy_id": comfy.comfy_id,
                    "number": number,
                    "capacity": comfy.capacity,
                    "url": comfy.url,
                }
                for number, comfy in enumerate(servers)
            ],
        )

    def make_way(self, c: Connection, own: Iterable[Lock], comfy_id: ComfyId, node_id: str) -> None:
        """End what a holder has, because it now gets `comfy_id`, on that node.

        What it had elsewhere, or on another node, drains until its node confirms that it sends
        nothing more there: that node may learn of the grant only later.
        """
        now = self._clock.wall_s()
        for lock in own:
            if lock.comfy_id == comfy_id and lock.node_id == node_id:
                replaced = Ending(event=LockEvent.REPLACED, at=now)
                self._end(c, lock, [LockEvent.REPLACED], replaced, confirmed=True)
            elif lock.state is LockState.HELD:
                ending = Ending(event=LockEvent.RELEASED, at=now)
                self.let_go(c, lock, ending, confirmed=False)

    def grant_all(self, c: Connection, comfy_ids: Iterable[ComfyId]) -> bool:
        """Grant what has become free there, and what that makes free, to those whose turn it is.

        Returns whether anybody waits or was granted anything, who has to be told.
        """
        changed = set(comfy_ids)
        told = False
        while True:
            scene = self.scene(c, changed)
            if not scene.waiters:
                return told
            told = True
            closed = {
                comfy_id
                for comfy_id, each in scene.maintenance.items()
                if each.access is not Access.OPEN
            }
            found = next_grant(scene.waiters, scene.locks, closed)
            if found is None:
                return told
            changed |= self._grant_waiter(c, *found)

    def _grant_waiter(self, c: Connection, waiter: Waiter, comfy_id: ComfyId) -> set[ComfyId]:
        # First, so that nobody records a task under what it has meanwhile.
        own = self.own(c, waiter.holder_id)
        if any(where != comfy_id for _, where in self.pending(c, waiter.holder_id)):
            now = self._clock.wall_s()
            return self.leave_line(c, waiter.lock_id, Ending(event=LockEvent.REFUSED, at=now))
        self.make_way(c, own.active, comfy_id, waiter.node_id)
        wanted = (wants.c.lock_id == waiter.lock_id, wants.c.comfy_id == comfy_id)
        url = c.scalar(select(wants.c.url).where(*wanted))
        c.execute(delete(wants).where(wants.c.lock_id == waiter.lock_id))
        fence = self._db.bump(c)
        c.execute(
            update(locks)
            .where(locks.c.lock_id == waiter.lock_id)
            .values(
                state=advance(LockState.WAITING, LockEvent.GRANTED).value,
                fence=fence,
                comfy_id=comfy_id,
                url=url,
                was=own.mode_on(comfy_id),
                granted_at=self._clock.wall_s(),
                rev=fence,
            )
        )
        return set(waiter.wants)

    def _waiters(self, c: Connection, comfy_ids: set[ComfyId] | None) -> list[Waiter]:
        waiting = select(locks, wants.c.comfy_id.label("wanted"), wants.c.capacity).join(
            wants, wants.c.lock_id == locks.c.lock_id
        )
        if comfy_ids is not None:
            in_line = select(wants.c.lock_id).where(wants.c.comfy_id.in_(comfy_ids))
            waiting = waiting.where(locks.c.lock_id.in_(in_line))
        rows = c.execute(waiting.order_by(locks.c.ticket, wants.c.number)).all()
        wanted: dict[str, dict[ComfyId, int]] = {}
        for row in rows:
            wanted.setdefault(row.lock_id, {})[ComfyId(row.wanted)] = row.capacity
        first = {row.lock_id: row for row in reversed(rows)}
        return [waiter_of(first[lock_id], mine) for lock_id, mine in wanted.items()]

    def _has_prompts(self, c: Connection, holder_id: HolderId, comfy_id: ComfyId) -> bool:
        # Whoever is ending one of these tasks is waited for; or it waits for us, and then sees that
        # the lock drains.
        return (
            c.scalar(
                select(tasks.c.task_id)
                .where(
                    tasks.c.holder_id == holder_id,
                    tasks.c.comfy_id == comfy_id,
                    IS_PENDING,
                )
                .limit(1)
                .with_for_update(read=True)
            )
            is not None
        )

    def _end(
        self,
        c: Connection,
        lock: Lock,
        events: Iterable[LockEvent],
        ending: Ending,
        *,
        confirmed: bool,
    ) -> None:
        state = lock.state
        for event in events:
            state = advance(state, event)
        self._write(c, lock.lock_id, state, ending, confirmed=confirmed)

    def _write(
        self,
        c: Connection,
        lock_id: LockId,
        state: LockState,
        ending: Ending,
        *,
        confirmed: bool,
    ) -> None:
        c.execute(
            _END,
            {
                "of": lock_id,
                "state": state.value,
                "rev": self._db.rev(c),
                "ended_at": ending.at,
                "ended_by": ending.event.value,
                "forced_by": ending.by,
                "why": ending.why,
                "confirmed": int(confirmed),
            },
        )


def _one_or_many(values: Sequence[str]) -> str | Sequence[str]:
    return values[0] if len(values) == 1 else values


def _own(rows: Sequence[Row[Any]], holder_id: HolderId, lock_id: LockId | None) -> Own:
    mine = [row for row in rows if row.holder_id == holder_id]
    waiting = (row.lock_id for row in mine if row.state == LockState.WAITING)
    return Own(
        request=next((row for row in rows if row.lock_id == lock_id), None),
        active=tuple(lock_of(row) for row in mine if row.state in ACTIVE),
        in_line=next(map(LockId, waiting), None),
    )


def _row(waiter: Waiter, state: LockState, rev: int) -> dict[str, Any]:
    return {
        "lock_id": waiter.lock_id,
        "holder_id": waiter.holder_id,
        "node_id": waiter.node_id,
        "name": waiter.name,
        "mode": waiter.mode.value,
        "state": state.value,
        "ticket": waiter.ticket,
        "requested_at": waiter.since,
        "rev": rev,
    }
