"""What a task tells and leaves: its progress, its error, its files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_comfy_lock.kernel.wire import FileJson, NodeErrorJson, ProgressJson

#: Returns the bytes at a path of the Jupyter server.
Fetch = Callable[[str], bytes]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Progress:
    """How far a task is: nodes of the graph, and steps of the node that runs now."""

    nodes_done: int = 0
    nodes_total: int = 0
    node_id: str | None = None
    node_class: str | None = None
    value: float = 0.0
    max: float = 0.0
    #: Previews so far, and the node that the newest one, `task.preview`, is of.
    preview: int = 0
    preview_node_id: str | None = None

    @classmethod
    def from_json(cls, json: ProgressJson | None) -> "Progress":
        """Return the progress of the wire; nothing done where there is none."""
        told: dict[str, Any] = {**(json or {})}
        return cls(**{key: told[key] for key in cls.__slots__ if told.get(key) is not None})

    def __str__(self) -> str:
        parts = [f"{self.nodes_done}/{self.nodes_total} nodes"]
        if self.node_id is not None:
            steps = f" {self.value:g}/{self.max:g}" if self.max else ""
            parts.append(f"{self.node_class or 'node'} ({self.node_id}){steps}")
        return " · ".join(parts)

    __repr__ = __str__


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class NodeError:
    """What a node raised, with the ComfyServer's own traceback."""

    node_id: str | None
    node_class: str | None
    exception_type: str | None
    message: str
    traceback: tuple[str, ...]

    @classmethod
    def from_json(cls, json: NodeErrorJson) -> "NodeError":
        """Return the error of the wire."""
        return cls(
            node_id=json.get("node_id"),
            node_class=json.get("node_class"),
            exception_type=json.get("exception_type"),
            message=str(json.get("message") or "").strip(),
            traceback=tuple(str(line) for line in json.get("traceback") or ()),
        )

    def __str__(self) -> str:
        head = f"node {self.node_id} ({self.node_class}): {self.exception_type}: {self.message}"
        lines = "".join(self.traceback).rstrip("\n")
        return f"{head}\n{lines}" if lines else head

    __repr__ = __str__


class TaskFile:
    """One file of a task, on the ComfyServer that made it (R5)."""

    def __init__(self, fetch: Fetch, json: FileJson) -> None:
        self._fetch = fetch
        self._path = json["path"]
        self.node_id = json["node_id"]
        self.kind = json["kind"]
        self.filename = json["filename"]
        self.subfolder = json.get("subfolder") or ""
        #: "output", or "temp" for what ComfyUI deletes at its next start.
        self.type = json.get("type") or "output"
        self.media_type = json.get("media_type") or ""

    def read(self) -> bytes:
        """Return the bytes, fetched through the Jupyter server."""
        return self._fetch(self._path)

    def save(self, path: str | Path = ".") -> Path:
        """Write the file to `path`, a file name or an existing directory; return where it is."""
        target = Path(path)
        if target.is_dir():
            target /= Path(self.filename).name
        target.write_bytes(self.read())
        return target

    def __repr__(self) -> str:
        return f"TaskFile({self.filename}, node {self.node_id})"
