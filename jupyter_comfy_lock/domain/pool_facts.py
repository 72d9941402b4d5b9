"""What is known of the whole pool at one moment, by the word of all who know a part of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jupyter_comfy_lock.domain.lock import ComfyId, HolderId, Lock
from jupyter_comfy_lock.domain.pool import ComfyChange, ComfyServer, ComfyStatus, Occupancy
from jupyter_comfy_lock.domain.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedPrompt:
    """A prompt in the queue of a ComfyServer."""

    prompt_id: str
    #: The tag that a gateway gave it; empty for one that came past all of them.
    tag: Mapping[str, Any] = field(default_factory=dict)
    #: The client id that it was sent under; "" unknown.
    client_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComfySeen:
    """A ComfyServer as it was looked at."""

    comfy: ComfyServer
    status: ComfyStatus
    #: Since when it has been as healthy as it is; seconds since the epoch.
    since: float = 0.0
    changes: tuple[ComfyChange, ...] = ()
    prompts: tuple[QueuedPrompt, ...] = ()
    #: The next prompt, where some wait and none runs; "" where that is not so.
    stuck_at: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known at one moment."""

    #: Seconds since the epoch.
    now: float
    #: Tells our prompts from those of other stores.
    store_id: str
    #: This Jupyter server among the nodes.
    node_id: str
    seen: tuple[ComfySeen, ...]
    occupied: Occupancy
    #: The holders of this Jupyter server, each with why it counts as gone; None for who is there.
    here: Mapping[HolderId, str | None] = field(default_factory=dict)
    #: Likewise all other Jupyter servers that share the store.
    nodes: Mapping[str, str | None] = field(default_factory=dict)
    #: Tasks that have not ended, of all Jupyter servers.
    pending: tuple[Task, ...] = ()
    #: Tasks that have ended, as far as prompts in the queues are theirs.
    ended: tuple[Task, ...] = ()
    drain_timeout_s: float = 60.0

    def seen_by(self, holder_id: HolderId) -> "Facts":
        """Return what a kernel may know of it: of tasks and prompts its own (R4, R10)."""
        seen = tuple(
            replace(
                each,
                prompts=tuple(
                    replace(prompt, client_id="")
                    for prompt in each.prompts
                    if not self.is_ours(prompt) or prompt.tag.get("holder_id") == holder_id
                ),
            )
            for each in self.seen
        )
        mine = tuple(task for task in self.pending if task.holder_id == holder_id)
        return replace(self, seen=seen, pending=mine)

    def is_ours(self, prompt: QueuedPrompt) -> bool:
        """Whether a gateway of this store has sent the prompt."""
        return bool(self.store_id) and prompt.tag.get("store_id") == self.store_id

    def why_gone(self, holder_id: HolderId, node_id: str) -> str | None:
        """Why a holder of that node counts as gone; None for one that is there."""
        if node_id == self.node_id:
            return self.here.get(holder_id, "its kernel has ended")
        return self.nodes.get(node_id, "its Jupyter server has left")

    def locks_of(self, holder_id: HolderId, comfy_id: ComfyId) -> list[Lock]:
        """Return what a holder has of a ComfyServer, what drains included."""
        held = self.occupied.locks.get(comfy_id, ())
        return [lock for lock in held if lock.holder_id == holder_id]
