"""Tasks: each method is one transaction."""

from sqlalchemy import Connection, delete, insert, select, update

from jupyter_comfy_lock.domain.errors import BadRequest, NoLock
from jupyter_comfy_lock.domain.lock import HolderId, LockState
from jupyter_comfy_lock.domain.task import Task, TaskId
from jupyter_comfy_lock.store.database import Database
from jupyter_comfy_lock.store.rows import changing_columns, task_columns, task_of
from jupyter_comfy_lock.store.schema import locks, tasks

#: Ended tasks are kept this long.
_KEEP_S = 30 * 24 * 3600.0


class TaskStore:
    """The record of each task, from before its prompt is sent until long after its end."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def register(self, task: Task) -> None:
        """Record a task before its prompt is sent.

        Raises:
            NoLock: the lock in the task's snapshot is not held (any more); nothing is recorded.
            BadRequest: there is a task with that id.
        """

        def work(c: Connection) -> None:
            held = c.scalar(
                select(locks.c.fence).where(
                    locks.c.fence == task.lock.fence,
                    locks.c.holder_id == task.holder_id,
                    locks.c.state == LockState.HELD,
                )
            )
            if held is None:
                raise NoLock(task.name or task.holder_id, prompt=task.task_id)
            known = select(tasks.c.task_id).where(tasks.c.task_id == task.task_id)
            if c.scalar(known) is not None:
                raise BadRequest(
                    field="prompt_id", why="is the id of an earlier prompt; leave it out"
                )
            c.execute(insert(tasks), task_columns(task))

        await self._db.run(work)

    async def save(self, task: Task) -> bool:
        """Write what changes of a task; False, and nothing written, if it had ended before (R9)."""

        def work(c: Connection) -> bool:
            written = c.execute(
                update(tasks)
                .where(tasks.c.task_id == task.task_id, tasks.c.pending == 1)
                .values(changing_columns(task))
            )
            return written.rowcount == 1

        return await self._db.run(work)

    async def get(self, task_id: TaskId) -> Task | None:
        """Return the task with that id, anybody's."""

        def work(c: Connection) -> Task | None:
            row = c.execute(select(tasks).where(tasks.c.task_id == task_id)).one_or_none()
            return None if row is None else task_of(row)

        return await self._db.run(work)

    async def newest(self, holder_id: HolderId | None, *, limit: int) -> list[Task]:
        """Return the newest tasks of a holder, or of all, newest first."""
        query = select(tasks).order_by(tasks.c.created_at.desc()).limit(limit)
        if holder_id is not None:
            query = query.where(tasks.c.holder_id == holder_id)
        return await self._db.run(lambda c: list(map(task_of, c.execute(query))))

    async def tidy(self) -> None:
        """Delete tasks that ended long ago, and locks likewise."""
        before = self._db.clock.wall_s() - _KEEP_S

        def work(c: Connection) -> None:
            c.execute(delete(tasks).where(tasks.c.pending == 0, tasks.c.ended_at < before))
            c.execute(
                delete(locks).where(locks.c.state == LockState.ENDED, locks.c.ended_at < before)
            )

        await self._db.run(work)
