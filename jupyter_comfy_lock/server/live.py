"""A task as it is known in memory: its record, and what is too short-lived to be stored."""

import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jupyter_comfy_lock.domain.comfy import Preview
from jupyter_comfy_lock.domain.progress import Progress, progress_of
from jupyter_comfy_lock.domain.task import Task, output_files
from jupyter_comfy_lock.domain.workflow import classes


@dataclass(slots=True)
class LiveTask:
    """One task, followed."""

    task: Task
    #: The class of each node of the prompt; empty where the prompt is not known (any more).
    classes: Mapping[str, str]
    progress: Progress
    #: The ComfyServer was asked to run it, as far as we can tell.
    sent: bool = False
    #: Its ComfyServer has said how it ended, and counts it no more.
    ending: bool = False
    #: Its ComfyServer has said that it is over.
    over: bool = False
    preview: Preview | None = None
    #: Prompts before it in the ComfyServer's queue: anybody's, and this holder's own.
    ahead: tuple[int, int] | None = None
    #: Monotonic seconds at which it was first found in neither queue nor history.
    absent_since_s: float | None = None
    #: Somebody is reading its history entry already.
    finishing: bool = False
    #: Its ComfyUI cannot stop it while it runs without stopping others' prompts.
    cannot_stop: bool = False
    #: Why it is being cancelled, for its reason.
    cancel_reason: str = "cancelled"
    #: Monotonic seconds at which its cancellation was last asked for.
    cancel_sent_s: float = float("-inf")
    #: Monotonic seconds at which its progress was last told.
    told_s: float = float("-inf")
    #: A later telling is planned.
    telling: bool = False
    #: A later writing is planned.
    saving: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the task as REST and events show it."""
        return task_to_json(self.task, self.progress.to_json(self.classes), self.ahead)


def live_of(task: Task, prompt: Mapping[str, Any]) -> LiveTask:
    """Return a task that has not begun.

    Which nodes are outputs only the ComfyServer knows; those that nobody uses come close.
    """
    used = {
        str(value[0])
        for node in prompt.values()
        for value in (node.get("inputs") or {}).values()
        if isinstance(value, list) and len(value) == 2
    }
    outputs = [node_id for node_id in prompt if node_id not in used]
    return LiveTask(task, classes(prompt), progress_of(prompt, outputs))


def task_to_json(
    task: Task, progress: dict[str, Any] | None = None, ahead: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Return a task as REST and events show it; `progress` only of one that is followed."""
    return {
        "task_id": task.task_id,
        "state": task.state.value,
        "reason": task.reason,
        "comfy_id": task.comfy_id,
        "holder_id": task.holder_id,
        "name": task.name,
        "lock": task.lock.to_json(),
        "created_at": task.created_at,
        "started_at": task.started_at,
        "ended_at": task.ended_at,
        "queue": None if ahead is None else {"ahead": ahead[0], "ahead_mine": ahead[1]},
        "progress": progress or Progress().to_json({}),
        "cached": task.cached,
        "files": files_to_json(task),
        "outputs": dict(task.outputs),
        "error": None if task.error is None else dict(task.error),
        "dropped": dict(task.dropped),
    }


def files_to_json(task: Task) -> list[dict[str, str]]:
    """Return the files of a task, each with the path from which it is fetched (R5)."""
    return [
        {
            "node_id": file.node_id,
            "kind": file.kind,
            "filename": file.filename,
            "subfolder": file.subfolder,
            "type": file.type,
            "media_type": mimetypes.guess_type(file.filename)[0] or "application/octet-stream",
            "path": f"comfy-lock/api/tasks/{task.task_id}/files/{number}",
        }
        for number, file in enumerate(output_files(task.outputs))
    ]
