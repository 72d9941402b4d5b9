"""A task: our record of one prompt. Its states, what is kept of it, and how it moves."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, NewType
from uuid import UUID

from jupyter_comfy_lock.domain.lock import ComfyId, HolderId, Mode, kernel_of

TaskId = NewType("TaskId", str)


def prompt_id(value: object) -> TaskId | None:
    """Return the id that a client wants for its prompt, if ComfyUI would take it."""
    try:
        good = isinstance(value, str) and str(UUID(value)) == value
    except ValueError:
        good = False
    return TaskId(str(value)) if good else None


class TaskState(StrEnum):
    """Where a task is. The last five are ends; a task reaches exactly one of them (R9)."""

    REGISTERED = "registered"  #: recorded here, perhaps not yet known to the ComfyServer
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  #: a node raised
    CANCELLED = "cancelled"
    REJECTED = "rejected"  #: the ComfyServer refused the prompt; nothing ran
    LOST = "lost"  #: the ComfyServer does not know it any more


#: Forward only. A running task may be first heard of as running, or even as ended: the socket and
#: the reply to `POST /prompt` race each other.
TRANSITIONS: Mapping[TaskState, frozenset[TaskState]] = {
    TaskState.REGISTERED: frozenset(TaskState) - {TaskState.REGISTERED},
    TaskState.QUEUED: frozenset(
        {
            TaskState.RUNNING,
            TaskState.SUCCEEDED,
            TaskState.FAILED,
            TaskState.CANCELLED,
            TaskState.LOST,
        }
    ),
    TaskState.RUNNING: frozenset(
        {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.LOST}
    ),
    TaskState.SUCCEEDED: frozenset(),
    TaskState.FAILED: frozenset(),
    TaskState.CANCELLED: frozenset(),
    TaskState.REJECTED: frozenset(),
    TaskState.LOST: frozenset(),
}

ENDED = frozenset(state for state, following in TRANSITIONS.items() if not following)
PENDING = frozenset(TaskState) - ENDED


def may_move(state: TaskState, to: TaskState) -> bool:
    """Whether a task in `state` can become `to`. News that comes after the end changes nothing."""
    return to in TRANSITIONS[state]


@dataclass(frozen=True, slots=True, kw_only=True)
class LockSnapshot:
    """The lock under which a task was sent; it never changes, whatever the lock does (R2, R5)."""

    comfy_id: ComfyId
    url: str
    #: The life of the ComfyUI process, counted up when it is seen to have restarted.
    epoch: int
    fence: int
    mode: Mode
    client_id: str
    holder_id: HolderId
    #: Seconds since the epoch.
    at: float

    def to_json(self) -> dict[str, Any]:
        """Return the snapshot as the store and REST keep it."""
        return {
            "comfy_id": self.comfy_id,
            "url": self.url,
            "epoch": self.epoch,
            "fence": self.fence,
            "mode": self.mode.value,
            "client_id": self.client_id,
            "holder_id": self.holder_id,
            "at": self.at,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "LockSnapshot":
        """Rebuild what `to_json` gave."""
        return cls(**{**data, "mode": Mode(data["mode"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a task ended, with what it left behind."""

    state: TaskState
    reason: str | None = None
    #: `{node id: what the node showed}`, as ComfyUI's history has it.
    outputs: Mapping[str, Any] = field(default_factory=dict)
    #: `{node_id, node_class, exception_type, message, traceback}` of a failed task.
    error: Mapping[str, Any] | None = None
    #: Every output came from ComfyUI's cache: nothing was computed.
    cached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One prompt of one holder. Its id is the prompt's, but for `given_id`."""

    task_id: TaskId
    holder_id: HolderId
    node_id: str
    lock: LockSnapshot
    state: TaskState
    created_at: float
    name: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    reason: str | None = None
    outputs: Mapping[str, Any] = field(default_factory=dict)
    error: Mapping[str, Any] | None = None
    cached: bool = False
    #: Output nodes that ComfyUI refused while it runs the rest: `{node id: its node_errors}`.
    dropped: Mapping[str, Any] = field(default_factory=dict)
    cancel_requested: bool = False
    #: The id that ComfyUI gave the prompt, where it did not take ours; None until it is known.
    given_id: str | None = None
    #: Tells the notebook that it was sent from, whichever kernel that has; "" for none.
    notebook: str = ""

    @property
    def kernel_id(self) -> str:
        """The kernel that sent it, in whichever life."""
        return kernel_of(self.holder_id)

    @property
    def prompt_id(self) -> str:
        """What the ComfyServer calls it."""
        return self.given_id or self.task_id

    @property
    def comfy_id(self) -> ComfyId:
        """The task's home address (R5)."""
        return self.lock.comfy_id

    @property
    def pending(self) -> bool:
        """Whether the task has not ended."""
        return self.state in PENDING

    def not_before(self, at: float) -> float:
        """Return `at`, or what is known to be later: the wall clock may have been set back."""
        return max(at, self.started_at or self.created_at)

    def ended(self, outcome: Outcome, *, at: float) -> "Task":
        """Return the task as it is after `outcome`; itself if it had ended already (R9)."""
        if not may_move(self.state, outcome.state):
            return self
        return replace(
            self,
            state=outcome.state,
            reason=outcome.reason,
            outputs=outcome.outputs,
            error=outcome.error,
            cached=outcome.cached,
            ended_at=self.not_before(at),
        )


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One file that a task left on its ComfyServer."""

    node_id: str
    #: The key it stood under: "images", "gifs", "audio", …
    kind: str
    filename: str
    subfolder: str
    type: str


def output_files(outputs: Mapping[str, Any]) -> list[OutputFile]:
    """Return the files named in `outputs`, in order of appearance.

    Custom nodes put all sorts of things beside files; what has no file name is no file.
    """
    return [
        OutputFile(
            node_id,
            kind,
            item["filename"],
            str(item.get("subfolder") or ""),
            str(item.get("type") or "output"),
        )
        for node_id, output in outputs.items()
        if isinstance(output, Mapping)
        for kind, items in output.items()
        if isinstance(items, list)
        for item in items
        if isinstance(item, Mapping) and isinstance(item.get("filename"), str)
    ]
