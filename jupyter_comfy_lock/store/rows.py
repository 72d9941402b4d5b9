"""Records to rows and back."""

from typing import Any

from sqlalchemy import Row

from jupyter_comfy_lock.domain.line import Waiter
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
from jupyter_comfy_lock.domain.pool import Access, Maintenance
from jupyter_comfy_lock.domain.task import LockSnapshot, Task, TaskId, TaskState


def lock_of(row: Row[Any]) -> Lock:
    """Return the lock in `row`, which was granted."""
    return Lock(
        lock_id=LockId(row.lock_id),
        comfy_id=ComfyId(row.comfy_id),
        holder_id=HolderId(row.holder_id),
        node_id=row.node_id,
        mode=Mode(row.mode),
        fence=row.fence,
        granted_at=row.granted_at,
        name=row.name,
        state=LockState(row.state),
        ending=ending_of(row),
    )


def ending_of(row: Row[Any]) -> Ending | None:
    """Return how the lock, or the wait, in `row` was let go of."""
    if row.ended_by is None:
        return None
    return Ending(
        event=LockEvent(row.ended_by), at=row.ended_at or 0.0, by=row.forced_by, why=row.why
    )


def waiter_of(row: Row[Any], wanted: dict[ComfyId, int]) -> Waiter:
    """Return the waiter in `row`, which wants those ComfyServers, by their capacity."""
    return Waiter(
        lock_id=LockId(row.lock_id),
        holder_id=HolderId(row.holder_id),
        node_id=row.node_id,
        mode=Mode(row.mode),
        ticket=row.ticket,
        wants=wanted,
        name=row.name,
        since=row.requested_at,
    )


def maintenance_of(row: Row[Any]) -> Maintenance:
    """Return what an operator has decided."""
    return Maintenance(access=Access(row.access), by=row.by, why=row.why, since=row.since)


def task_of(row: Row[Any]) -> Task:
    """Return the task in `row`."""
    return Task(
        task_id=TaskId(row.task_id),
        holder_id=HolderId(row.holder_id),
        node_id=row.node_id,
        lock=LockSnapshot.from_json(row.lock),
        state=TaskState(row.state),
        created_at=row.created_at,
        name=row.name,
        started_at=row.started_at,
        ended_at=row.ended_at,
        reason=row.reason,
        outputs=row.outputs,
        error=row.error,
        cached=bool(row.cached),
        dropped=row.dropped,
        cancel_requested=bool(row.cancel_requested),
        given_id=row.given_id,
        notebook=row.notebook,
    )


def changing_columns(task: Task) -> dict[str, Any]:
    """Return the columns of `task` that change during its life."""
    return {
        "state": task.state.value,
        "pending": int(task.pending),
        "cancel_requested": int(task.cancel_requested),
        "started_at": task.started_at,
        "ended_at": task.ended_at,
        "reason": task.reason,
        "outputs": dict(task.outputs),
        "error": dict(task.error) if task.error else None,
        "cached": int(task.cached),
        "dropped": dict(task.dropped),
        "given_id": task.given_id,
    }


def task_columns(task: Task) -> dict[str, Any]:
    """Return all columns of a new task."""
    return {
        "task_id": task.task_id,
        "holder_id": task.holder_id,
        "node_id": task.node_id,
        "comfy_id": task.comfy_id,
        "name": task.name,
        "lock": task.lock.to_json(),
        "created_at": task.created_at,
        "kernel_id": task.kernel_id,
        "notebook": task.notebook,
        **changing_columns(task),
    }
