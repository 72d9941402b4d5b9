"""What a task tells and leaves: its progress, its error, its files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_comfy_lock.kernel.wire import FileJson, NodeErrorJson, ProgressJson

if TYPE_CHECKING:
    from PIL.Image import Image

    from jupyter_comfy_lock.kernel.task import Task

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

    def without_preview(self) -> "Progress":
        """Return the progress as if no preview had been shown."""
        return replace(self, preview=0, preview_node_id=None)

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

    @property
    def headline(self) -> str:
        """Node and message, without the traceback."""
        return f"node {self.node_id} ({self.node_class}): {self.exception_type}: {self.message}"

    def __str__(self) -> str:
        lines = "".join(self.traceback).rstrip("\n")
        return f"{self.headline}\n{lines}" if lines else self.headline

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


@dataclass(frozen=True, slots=True)
class TaskText:
    """A text that a node has shown as its output."""

    node_id: str
    #: A name for it as a file.
    filename: str
    text: str


def texts_of(outputs: Mapping[str, Any]) -> list[TaskText]:
    """Return the texts among `outputs`, as ComfyUI's history has them."""
    found = []
    for node_id, output in outputs.items():
        kinds = output.items() if isinstance(output, Mapping) else ()
        for kind, items in kinds:
            texts = [x for x in items if isinstance(x, str)] if isinstance(items, list) else []
            for number, text in enumerate(texts, start=1):
                which = f"_{number}" if len(texts) > 1 else ""
                found.append(TaskText(node_id, f"{kind}_{node_id}{which}.txt", text))
    return found


class Result:
    """What a task has made: pictures, other files, texts. It stays where it was made (R5)."""

    def __init__(self, task: "Task") -> None:
        self.task = task

    @property
    def images(self) -> "list[Image]":
        """The pictures as PIL images, fetched once."""
        return self.task.images

    @property
    def files(self) -> list[TaskFile]:
        """The files, pictures among them, in the order of ComfyUI's outputs."""
        return self.task.files

    @property
    def texts(self) -> list[str]:
        """What nodes have shown as text."""
        return [each.text for each in self.task.texts]

    @property
    def seconds(self) -> float | None:
        """Seconds that the task ran; None if it never began."""
        return self.task.seconds

    @property
    def cached(self) -> bool:
        """Whether ComfyUI had every result already and computed nothing."""
        return self.task.cached

    def save(self, template: str = "{filename}", folder: str | Path = ".") -> list[Path]:
        """Write all of it into `folder`; see `Task.save`."""
        return self.task.save(template, folder)

    def __repr__(self) -> str:
        # The pictures are in the view above it, and the text is the same for each run.
        pictures = sum(each.media_type.startswith("image/") for each in self.files)
        parts = [
            _many(pictures, "picture"),
            _many(len(self.files) - pictures, "other file" if pictures else "file"),
            _many(len(self.texts), "text"),
        ]
        made = ", ".join(filter(None, parts)) or "nothing to show"
        return f"Result({self.task.comfy_id}, {made})"


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}" if count else ""
