"""How a task ended, in words, for who waits for it."""

from jupyter_comfy_lock.domain.errors import (
    ComfyLockError,
    PromptRejected,
    TaskCancelled,
    TaskFailed,
    TaskLost,
)
from jupyter_comfy_lock.domain.task import TaskState
from jupyter_comfy_lock.kernel.results import NodeError
from jupyter_comfy_lock.kernel.wire import TaskJson


def end_error(json: TaskJson, *, name: str, kernel: str) -> ComfyLockError | None:
    """Return what to raise for a task that has ended; None for one that has succeeded.

    `name` is what to call the task.
    """
    state, reason = TaskState(json["state"]), json.get("reason")
    facts = {"task_id": json["task_id"], "comfy_id": json["comfy_id"], "kernel": kernel}
    why = f": {reason}" if reason else ""
    if state is TaskState.SUCCEEDED:
        return None
    if state is TaskState.CANCELLED:
        msg = f"{name} was cancelled{_by(reason)}. Submit it again if you still want it."
        return TaskCancelled(msg, **facts)
    if state is TaskState.REJECTED:
        return PromptRejected(reason or f"{name} was refused; nothing ran.", **facts)
    if state is TaskState.LOST:
        msg = (
            f"{name} is lost{why}. Nobody knows how far it came; submit it again if you "
            "still want it."
        )
        return TaskLost(msg, **facts)
    error = json.get("error")
    msg = f"{name} failed{why if error is None else f' at {NodeError.from_json(error)}'}"
    return TaskFailed(msg, **facts, error=error)


def _by(reason: str | None) -> str:
    """Return what follows "was cancelled": by whom, or because of what."""
    # "cancelled" as the reason of a cancellation tells nothing more.
    if not reason or reason == TaskState.CANCELLED:
        return ""
    if reason.startswith("by "):
        return f" {reason}"
    if reason.startswith("its "):
        return f" because {reason}"
    if reason.startswith(("interrupted", "deleted ", "stopped ")):
        return f" because it was {reason}"
    return f": {reason}"
