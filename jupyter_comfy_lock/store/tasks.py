"""Tasks: each method is one transaction."""

from sqlalchemy import Connection, delete, insert, select, update

from jupyter_comfy_lock.domain.errors import NoLock, TakenId
from jupyter_comfy_lock.domain.lock import HolderId, LockState
from jupyter_comfy_lock.domain.task import Task, TaskId
from jupyter_comfy_lock.store.database import Database
from jupyter_comfy_lock.store.moves import Moves
from jupyter_comfy_lock.store.rows import changing_columns, task_columns, task_of
from jupyter_comfy_lock.store.schema import IS_ACTIVE, IS_HELD, IS_PENDING, locks, tasks

#: Ended tasks are kept this long, and ended locks for as long as anybody may ask what became of
#: them.
_KEEP_S = 30 * 24 * 3600.0
_KEEP_LOCKS_S = 24 * 3600.0


class _Draining(Exception):
    """The end of this task may end a lock."""


class TaskStore:
    """The record of each task, from before its prompt is sent until long after its end."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._moves = Moves(database)

    async def register(self, task: Task) -> None:
        """Record a task before its prompt is sent.

        Raises:
            NoLock: the lock in the task's snapshot is not held (any more); nothing is recorded.
            TakenId: there is a task with that id.
        """

        def work(c: Connection) -> None:
            known = c.execute(
                select(tasks.c.holder_id, tasks.c.created_at).where(tasks.c.task_id == task.task_id)
            ).one_or_none()
            if known == (task.holder_id, task.created_at):
                # Recorded by a first try whose answer was lost.
                return
            # Whoever wants to let go of the lock waits until the task is recorded.
            held = c.scalar(
                select(locks.c.fence)
                .where(
                    locks.c.fence == task.lock.fence,
                    locks.c.holder_id == task.holder_id,
                    IS_HELD,
                )
                .with_for_update(read=True)
            )
            if held is None:
                raise NoLock(task.name or task.holder_id, prompt=task.task_id)
            if known is not None:
                raise TakenId(field="prompt_id")
            c.execute(insert(tasks), task_columns(task))

        await self._db.run(work)

    async def save(self, task: Task) -> bool:
        """Write what changes of a task; False, and nothing written, if it had ended before (R9).

        To write the same end again is to have written it.

        With the last task of a lock that was let go of, the lock ends, and its ComfyServer is the
        next holder's.
        """

        def work(c: Connection) -> bool:
            written = self._write(c, task)
            if not task.pending:
                # Whoever is letting go of a lock of this holder has either seen this task as
                # pending, and was waited for, and then we see the lock as draining; or it waits
                # for us.
                states = select(locks.c.state).where(
                    locks.c.holder_id == task.holder_id,
                    locks.c.comfy_id == task.comfy_id,
                    IS_ACTIVE,
                )
                if LockState.DRAINING in c.scalars(states).all():
                    raise _Draining
            return written

        def work_and_drain(c: Connection) -> bool:
            self._db.bump(c)
            written = self._write(c, task)
            drained = self._moves.drain(c, task.holder_id, task.comfy_id)
            if drained and self._moves.grant_all(c, [task.comfy_id]):
                self._db.backend.announce(c)
            return written

        try:
            return await self._db.run(work)
        except _Draining:
            # Locks change in one line only, which begins with the revision.
            return await self._db.run(work_and_drain)

    def _write(self, c: Connection, task: Task) -> bool:
        written = c.execute(
            update(tasks)
            .where(tasks.c.task_id == task.task_id, IS_PENDING)
            .values(changing_columns(task))
        )
        if written.rowcount == 1:
            return True
        # A first try may have written it, whose answer was lost.
        same = (tasks.c.state == task.state.value, tasks.c.ended_at == task.ended_at)
        row = c.execute(select(tasks).where(tasks.c.task_id == task.task_id, *same)).one_or_none()
        return row is not None and task_of(row) == task

    async def get(self, task_id: TaskId) -> Task | None:
        """Return the task with that id, anybody's."""

        def work(c: Connection) -> Task | None:
            row = c.execute(select(tasks).where(tasks.c.task_id == task_id)).one_or_none()
            return None if row is None else task_of(row)

        return await self._db.read(work)

    async def newest(self, holder_id: HolderId | None, *, limit: int) -> list[Task]:
        """Return the newest tasks of a holder, or of all, newest first."""
        query = select(tasks).order_by(tasks.c.created_at.desc()).limit(limit)
        if holder_id is not None:
            query = query.where(tasks.c.holder_id == holder_id)
        return await self._db.read(lambda c: list(map(task_of, c.execute(query))))

    async def pending(self) -> list[Task]:
        """Return the tasks that have not ended, of all Jupyter servers, the oldest first."""
        query = select(tasks).where(IS_PENDING).order_by(tasks.c.created_at)
        return await self._db.read(lambda c: list(map(task_of, c.execute(query))))

    async def tidy(self) -> None:
        """Delete tasks that ended long ago, and locks likewise."""
        now_s = self._db.clock.wall_s()
        before, locks_before = now_s - _KEEP_S, now_s - _KEEP_LOCKS_S

        def work(c: Connection) -> None:
            c.execute(delete(tasks).where(tasks.c.pending == 0, tasks.c.ended_at < before))
            c.execute(
                delete(locks).where(
                    locks.c.state == LockState.ENDED, locks.c.ended_at < locks_before
                )
            )

        await self._db.run(work)
