"""The JSON that the Jupyter server's REST API speaks, as types. Names are those of the wire."""

from typing import Any, NotRequired, TypedDict


class HolderJson(TypedDict):
    """This kernel, as the Jupyter server knows it."""

    holder_id: str
    kernel_id: str
    incarnation: int
    kind: str
    name: str


class LeaseJson(TypedDict):
    """How long an attached process is believed to live, and how often it has to say so."""

    ttl_s: float
    renew_every_s: float


class HelloJson(TypedDict):
    """The answer to a hello."""

    holder: HolderJson
    credential: str
    gateway_path: str
    version: str
    lease: NotRequired[LeaseJson]


class ComfyHolderJson(TypedDict):
    """One of those who hold a ComfyServer; `since` in seconds since the epoch."""

    holder_id: str
    name: str
    mode: str
    since: float
    state: NotRequired[str]


class ComfyWaiterJson(TypedDict):
    """One of those who wait for a ComfyServer; `place` counts from 1."""

    holder_id: str
    name: str
    mode: str
    since: float
    place: int


class ComfyJson(TypedDict):
    """A ComfyServer as it was last seen; `memory_free` in bytes."""

    comfy_id: str
    url: str
    labels: list[str]
    capacity: int
    health: str
    reason: str | None
    version: str | None
    device: str | None
    memory_free: int | None
    queue_remaining: int | None
    holders: list[ComfyHolderJson]
    mine: bool
    state: NotRequired[str]
    state_by: NotRequired[str | None]
    state_why: NotRequired[str | None]
    state_since: NotRequired[float | None]
    waiting: NotRequired[list[ComfyWaiterJson]]


class LockJson(TypedDict):
    """A lock; `granted_at` in seconds since the epoch."""

    comfy_id: str
    url: str
    holder_id: str
    name: str
    mode: str
    fence: int
    epoch: int
    granted_at: float
    restarted_at: NotRequired[float | None]
    state: NotRequired[str]
    foreign_prompts: NotRequired[int]


class LockedJson(TypedDict):
    """The answer to a wish for a lock; `was` is the mode in which it was held just before."""

    lock: LockJson
    chosen_by: str
    was: NotRequired[str | None]


class WishJson(TypedDict):
    """A wish for a lock; `wait` in seconds, None for ever."""

    comfy_id: str | None
    #: None: as it is held already, or else shared.
    mode: str | None
    wait: float | None
    request_id: str
    labels: NotRequired[list[str]]


class WaitingJson(TypedDict):
    """How a wish stands in line; `why` is a phrase for people."""

    request_id: str
    holder_id: str
    name: str
    mode: str
    comfy_ids: list[str]
    since: float
    place: int
    holders: list[ComfyHolderJson]
    why: str


class ProgressJson(TypedDict):
    """How far a task is, over its graph and in the node that runs now."""

    nodes_done: int
    nodes_total: int
    node_id: str | None
    node_class: str | None
    value: float
    max: float
    preview: int
    preview_node_id: str | None
    done_node_ids: NotRequired[list[str]]
    cached_node_ids: NotRequired[list[str]]


class FileJson(TypedDict):
    """One file of a task. `path` is under the Jupyter server's base URL."""

    node_id: str
    kind: str
    filename: str
    subfolder: str
    type: str
    media_type: str | None
    path: str


class NodeErrorJson(TypedDict):
    """What the ComfyServer said when a node raised."""

    node_id: str | None
    node_class: str | None
    exception_type: str | None
    message: str | None
    traceback: list[str]


class TaskJson(TypedDict):
    """A task; times in seconds since the epoch."""

    task_id: str
    state: str
    reason: str | None
    comfy_id: str
    holder_id: str
    name: NotRequired[str]
    lock: dict[str, Any]
    created_at: float
    started_at: float | None
    ended_at: float | None
    queue: dict[str, int] | None
    progress: ProgressJson | None
    cached: bool
    files: list[FileJson]
    outputs: dict[str, Any]
    error: NodeErrorJson | None
    dropped: dict[str, Any]
