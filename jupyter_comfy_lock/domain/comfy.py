"""What ComfyUI says, over HTTP and its WebSocket, as values.

Layouts are those recorded from ComfyUI 0.3.75 to 0.33.0. Custom nodes add messages of their own
and newer versions more keys: what is unknown is not an error, it just means nothing to us.
"""

import json
import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jupyter_comfy_lock.domain.task import Outcome, TaskState

#: The key of `extra_data` under which a gateway says whose a prompt is.
TAG = "jupyter_comfy_lock"
#: Binary event numbers (big-endian u32 at the start of a frame).
PREVIEW = 1
TEXT = 3
PREVIEW_WITH_METADATA = 4
_IMAGE_TYPE = re.compile(r"image/[a-z0-9.+-]+")
_MEDIA_TYPES = {1: "image/jpeg", 2: "image/png"}

#: Sent first on each socket, so that previews say which prompt and node they belong to.
FEATURE_FLAGS = json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}})


@dataclass(frozen=True, slots=True)
class Status:
    """Something in the queue changed; `sid` only in the first one of a socket."""

    queue_remaining: int
    sid: str | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """The prompt left the queue."""

    prompt_id: str


@dataclass(frozen=True, slots=True)
class CachedNodes:
    """These nodes will not run: ComfyUI has their results."""

    prompt_id: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Executing:
    """This node runs now; `node` None ends the prompt, after its history was written."""

    prompt_id: str
    node: str | None


@dataclass(frozen=True, slots=True)
class StepProgress:
    """A step of one node."""

    prompt_id: str
    node: str
    value: float
    maximum: float


@dataclass(frozen=True, slots=True)
class GraphProgress:
    """All nodes that ran or run: `{node id: (state, value, max)}`, resent whole on each change."""

    prompt_id: str
    nodes: Mapping[str, tuple[str, float, float]]


@dataclass(frozen=True, slots=True)
class Executed:
    """A node has shown something: `output` is what the history will say of it."""

    prompt_id: str
    node: str
    output: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Over:
    """The prompt ended one way or another; its history has the truth, perhaps a moment later."""

    prompt_id: str


@dataclass(frozen=True, slots=True)
class Preview:
    """A picture of work in progress. Without metadata there is no saying whose it is."""

    prompt_id: str | None
    node: str | None
    media_type: str
    image: bytes


Message = (
    Status
    | Started
    | CachedNodes
    | Executing
    | StepProgress
    | GraphProgress
    | Executed
    | Over
    | Preview
)


#: Made once: `json.loads` makes one for each text, and a ComfyServer may say a lot.
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)


def loads(text: str | bytes) -> Any:
    """Return the JSON in `text`, None for what is none; never raises, whatever it is given.

    Custom nodes show NaN, which Python writes and no browser reads: it becomes None.
    """
    try:
        if isinstance(text, bytes):
            return json.loads(text, parse_constant=_DECODER.parse_constant)
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        # A few hundred brackets are no JSON that anybody means.
        return None


def mapping(value: Any) -> Mapping[str, Any]:
    """Return what should be a JSON object; an empty one for what is none."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    """Return what should be a JSON list; an empty one for what is none."""
    return value if isinstance(value, list) else []


def number(value: Any) -> float:
    """Return a number that any JSON can hold; 0 for what is none."""
    try:
        real = float(value) if isinstance(value, int | float) else 0.0
    except OverflowError:
        return 0.0
    # Python's JSON knows NaN and infinity, a browser's does not.
    return real if math.isfinite(real) else 0.0


def parse_text(text: str) -> Message | None:
    """Return what a text frame means for us, or None."""
    message = loads(text)
    if not isinstance(message, dict) or not isinstance(data := message.get("data"), dict):
        return None
    match message.get("type"), data:
        case "status", {"status": {"exec_info": {"queue_remaining": int(remaining)}}}:
            sid = data.get("sid")
            return Status(remaining, sid if isinstance(sid, str) else None)
        case "execution_start", {"prompt_id": str(prompt_id)}:
            return Started(prompt_id)
        case "execution_cached", {"prompt_id": str(prompt_id), "nodes": list(nodes)}:
            return CachedNodes(prompt_id, tuple(map(str, nodes)))
        case "executing", {"prompt_id": str(prompt_id)}:
            node = data.get("node")
            return Executing(prompt_id, None if node is None else str(node))
        case "progress", {"prompt_id": str(prompt_id), "node": str(node)}:
            return StepProgress(prompt_id, node, number(data.get("value")), number(data.get("max")))
        case "progress_state", {"prompt_id": str(prompt_id), "nodes": dict(nodes)}:
            return GraphProgress(prompt_id, _graph(nodes))
        case "executed", {"prompt_id": str(prompt_id), "node": str(node)}:
            output = data.get("output")
            return Executed(prompt_id, node, output if isinstance(output, dict) else {})
        case "execution_success" | "execution_interrupted", {"prompt_id": str(prompt_id)}:
            return Over(prompt_id)
        case "execution_error", {"prompt_id": str(prompt_id)}:
            # Sent for a blocked output too, after which the prompt goes on.
            blocked = data.get("exception_type") == "ExecutionBlocked"
            return None if blocked else Over(prompt_id)
    return None


def parse_binary(frame: bytes) -> Preview | None:
    """Return the picture in a binary frame, or None if it is not one."""
    if len(frame) < 8:
        return None
    event, word = struct.unpack_from(">II", frame)
    if event == PREVIEW:
        return Preview(None, None, _MEDIA_TYPES.get(word, "image/jpeg"), frame[8:])
    if event != PREVIEW_WITH_METADATA or len(frame) < 8 + word:
        return None
    about = loads(frame[8 : 8 + word])
    if not isinstance(about, dict):
        return None
    return Preview(
        _text(about.get("prompt_id")),
        _text(about.get("node_id")),
        _media_type(about.get("image_type")),
        frame[8 + word :],
    )


def legacy_preview(preview: Preview) -> bytes:
    """Return the frame that a client without feature flags expects for `preview`."""
    number = next((n for n, media in _MEDIA_TYPES.items() if media == preview.media_type), 1)
    return struct.pack(">II", PREVIEW, number) + preview.image


def ended_entry(history: Mapping[str, Any], prompt_id: str) -> Mapping[str, Any] | None:
    """Return the entry of an ended prompt; None if it has none, or what stands there is none."""
    entry = history.get(prompt_id)
    return entry if isinstance(entry, dict) and isinstance(entry.get("outputs"), dict) else None


def outcome(entry: Mapping[str, Any]) -> Outcome:
    """Read how a prompt ended from its entry in ComfyUI's history.

    ComfyUI writes "error" for an interrupted prompt as well as for a failed one; the messages
    tell them apart.
    """
    status = mapping(entry.get("status"))
    outputs = mapping(entry.get("outputs"))
    last = dict(_messages(status.get("messages")))
    if "execution_interrupted" in last:
        return Outcome(
            state=TaskState.CANCELLED, reason="stopped on the ComfyServer", outputs=outputs
        )
    if status.get("status_str") == "error":
        error = _error(last.get("execution_error") or {})
        reason = f"node {error['node_id']} ({error['node_class']}): {error['message']}"
        return Outcome(state=TaskState.FAILED, reason=reason, outputs=outputs, error=error)
    nodes = mapping(last.get("execution_cached")).get("nodes")
    cached = set(map(str, nodes)) if isinstance(nodes, list) else set()
    wanted = _outputs_to_execute(entry)
    return Outcome(
        state=TaskState.SUCCEEDED, outputs=outputs, cached=bool(wanted) and wanted <= cached
    )


def queue_ids(queue: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the prompt ids of `GET /queue`: running ones, then waiting ones in running order.

    ComfyUI shows its waiting list as a heap, not sorted; the first field of an item sorts it.
    """
    running = [str(item[1]) for item in _prompts(queue.get("queue_running"))]
    waiting = sorted(_prompts(queue.get("queue_pending")), key=lambda item: number(item[0]))
    return running, [str(item[1]) for item in waiting]


def prompt_of(task_id: str, prompts: Iterable[Any]) -> str | None:
    """Return the id of the prompt that was sent for a task; None if it is not among them.

    `prompts` are items of `GET /queue`, or the `prompt` of entries of `GET /history`.
    """
    return next(
        (str(item[1]) for item in _prompts(list(prompts)) if _tag(item).get("task_id") == task_id),
        None,
    )


def queue_prompts(queue: Mapping[str, Any]) -> list[Any]:
    """Return the prompts of `GET /queue`, running and waiting, in no order."""
    return [*_prompts(queue.get("queue_running")), *_prompts(queue.get("queue_pending"))]


def history_prompts(history: Mapping[str, Any]) -> list[Any]:
    """Return the prompts of `GET /history`, as items like those of the queue."""
    return [mapping(entry).get("prompt") for entry in history.values()]


def queue_tags(queue: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the prompts of `GET /queue`, running and waiting, each with the tag that we gave it.

    The tag of a prompt that did not come through a gateway is empty.
    """
    return [(str(item[1]), _tag(item)) for item in queue_prompts(queue)]


def queue_clients(queue: Mapping[str, Any]) -> dict[str, str]:
    """Return the client id under which each prompt of `GET /queue` was sent; "" unknown."""
    return {str(item[1]): _client(item) for item in queue_prompts(queue)}


def _client(item: list[Any]) -> str:
    return _text(mapping(item[3] if len(item) > 3 else None).get("client_id")) or ""


def _tag(item: list[Any]) -> Mapping[str, Any]:
    return mapping(mapping(item[3] if len(item) > 3 else None).get(TAG))


def _prompts(value: Any) -> list[list[Any]]:
    return [item for item in items(value) if isinstance(item, list) and len(item) >= 2]


def _messages(messages: Any) -> list[tuple[str, dict[str, Any]]]:
    return [
        (each[0], each[1])
        for each in _prompts(messages)
        if isinstance(each[0], str) and isinstance(each[1], dict)
    ]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _media_type(value: Any) -> str:
    # It becomes a header of ours, on the Jupyter server's origin: pictures only.
    good = isinstance(value, str) and _IMAGE_TYPE.fullmatch(value)
    return value if good else "image/jpeg"


def _outputs_to_execute(entry: Mapping[str, Any]) -> set[str]:
    prompt = entry.get("prompt")
    if isinstance(prompt, list) and len(prompt) > 4 and isinstance(prompt[4], list):
        return {str(node) for node in prompt[4]}
    return set()


def _error(data: Mapping[str, Any]) -> dict[str, Any]:
    traceback = data.get("traceback")
    return {
        "node_id": str(data.get("node_id", "?")),
        "node_class": str(data.get("node_type", "?")),
        "exception_type": str(data.get("exception_type", "?")),
        "message": str(data.get("exception_message", "no reason given")).strip(),
        "traceback": [str(line) for line in traceback] if isinstance(traceback, list) else [],
    }


def _graph(nodes: Mapping[str, Any]) -> dict[str, tuple[str, float, float]]:
    return {
        str(node): (
            str(state.get("state")),
            number(state.get("value")),
            number(state.get("max")),
        )
        for node, state in nodes.items()
        if isinstance(state, dict)
    }
