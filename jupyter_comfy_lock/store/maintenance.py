"""What operators decide about ComfyServers."""

from sqlalchemy import Connection, delete, insert, select

from jupyter_comfy_lock.domain.line import stuck
from jupyter_comfy_lock.domain.lock import ComfyId, Ending, Lock, LockEvent, LockId
from jupyter_comfy_lock.domain.pool import Access, Maintenance
from jupyter_comfy_lock.store.database import Database
from jupyter_comfy_lock.store.moves import Moves
from jupyter_comfy_lock.store.rows import lock_of
from jupyter_comfy_lock.store.schema import IS_HELD, comfy_servers, locks, wants


class MaintenanceStore:
    """Opens and closes ComfyServers, for all Jupyter servers that share the database."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._clock = database.clock
        self._moves = Moves(database)

    async def set_access(
        self, comfy_id: ComfyId, decided: Maintenance, *, node_id: str
    ) -> list[Lock]:
        """Open, drain or disable a ComfyServer; return the locks that this takes away.

        Who waits for a ComfyServer that is closed stands in its line no longer.
        """
        # Also those of a first try whose answer was lost.
        taken: dict[LockId, Lock] = {}

        def work(c: Connection) -> list[Lock]:
            self._db.bump(c)
            c.execute(delete(comfy_servers).where(comfy_servers.c.comfy_id == comfy_id))
            row = {
                "comfy_id": comfy_id,
                "access": decided.access.value,
                "by": decided.by,
                "why": decided.why,
                "since": decided.since or 0.0,
            }
            c.execute(insert(comfy_servers), row)
            changed = {comfy_id}
            ending = Ending(
                event=LockEvent.FORCED,
                at=self._clock.wall_s(),
                by=decided.by,
                why=f"{comfy_id} is {decided.access.value}" + (decided.why and f": {decided.why}"),
            )
            if decided.access is not Access.OPEN:
                changed |= self._clear_line(c, comfy_id, ending)
            if decided.access is Access.DISABLED:
                held = (locks.c.comfy_id == comfy_id, IS_HELD)
                rows = c.execute(select(locks).where(*held).with_for_update()).all()
                for lock in map(lock_of, rows):
                    self._moves.let_go(c, lock, ending, confirmed=lock.node_id == node_id)
                    taken[lock.lock_id] = lock
            self._moves.grant_all(c, changed)
            self._db.backend.announce(c)
            return list(taken.values())

        return await self._db.run(work)

    def _clear_line(self, c: Connection, comfy_id: ComfyId, ending: Ending) -> set[ComfyId]:
        changed: set[ComfyId] = set()
        narrowed: list[LockId] = []
        for waiter in self._moves.scene(c, {comfy_id}).waiters:
            if set(waiter.wants) == {comfy_id}:
                changed |= self._moves.leave_line(c, waiter.lock_id, ending)
            elif comfy_id in waiter.wants:
                narrowed.append(waiter.lock_id)
                mine = (wants.c.lock_id == waiter.lock_id, wants.c.comfy_id == comfy_id)
                c.execute(delete(wants).where(*mine))
        # It may have been the only way out of a ring: the newest of those leave it until it ends.
        for lock_id in reversed(narrowed):
            scene = self._moves.scene(c)
            waiter = next(each for each in scene.waiters if each.lock_id == lock_id)
            if stuck(waiter, scene.waiters, scene.locks):
                changed |= self._moves.leave_line(c, lock_id, ending)
        return changed
