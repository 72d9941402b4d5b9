"""The view of a task."""

import json
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import traitlets

from jupyter_comfy_lock.domain.errors import ComfyLockError
from jupyter_comfy_lock.domain.workflow.check import title_of
from jupyter_comfy_lock.domain.workflow.parameters import parameters
from jupyter_comfy_lock.kernel.client import API
from jupyter_comfy_lock.kernel.task import Task
from jupyter_comfy_lock.kernel.widgets.fallback import final_picture, last_line
from jupyter_comfy_lock.kernel.widgets.view import View, in_background, writer

#: Seconds between two previews that are sent to a page which cannot fetch them.
PREVIEW_EVERY_S = 0.2
#: Characters of a value that are shown.
_LONGEST = 4000


class TaskView(View):
    """Shows one task: nodes, progress, preview, pictures, its parameters, its end."""

    view = traitlets.Unicode("task").tag(sync=True)
    #: The task, as REST shows it.
    task = traitlets.Dict().tag(sync=True)
    #: What to call the ComfyServer.
    label = traitlets.Unicode("").tag(sync=True)
    #: The nodes that were sent, in their order: `{"id", "title", "class"}`; [] where not known.
    nodes: traitlets.List[Any] = traitlets.List().tag(sync=True)
    #: Their values: `{"node_id", "name", "value"}`, the value as text.
    parameters: traitlets.List[Any] = traitlets.List().tag(sync=True)

    def __init__(self, task: Task, **traits: Any) -> None:
        sent = task.prompt or {}
        super().__init__(
            task=dict(task.json),
            label=task.comfy_id,
            nodes=nodes_of(sent),
            parameters=parameters_of(sent),
            **traits,
        )
        self._task = task
        self._task = task
        self._previews = PreviewPush(self, task)
        self._handle: Any = None
        self._left: dict[str, str] = {}
        self._leaving = threading.Lock()
        #: Monotonic seconds at which the notebook got what is left of the task; None: not yet.
        self.left_s: float | None = None
        self._unlisten = task.on_change(lambda: writer.mark(self))
        writer.mark(self)  # what has come between the first line and the last but one

    @property
    def ended(self) -> bool:
        """Whether the task has ended."""
        return self._task.ended

    def show(self) -> None:
        """Show it under the running cell."""
        from IPython.display import display  # noqa: PLC0415 - only kernels need it

        self._handle = display(self, display_id=True)  # type: ignore[no-untyped-call]

    def write(self) -> None:
        """Show the task as it is now."""
        self.task = dict(self._task.json)
        if self.by_comm:
            self._previews.push()
        if self._task.ended:
            self._unlisten()
            if self._handle is not None:
                # A picture may take its time to come, and other views want to be written.
                in_background(self.leave, name="comfy-lock-picture")

    def leave(self, *, again: bool = False) -> None:
        """Put what is left of the task that ended into the notebook, once, or once more."""
        with self._leaving:
            if self.left_s is None:
                self._left = final_picture(self._task)
            elif not again:
                return
            if self._left or last_line(self._task):
                self._handle.update(self)
            self.left_s = time.monotonic()

    def close(self) -> None:
        """Remove the view."""
        self._unlisten()
        super().close()

    def answer(self, kind: str, content: Mapping[str, Any]) -> None:
        """Cancel the task, if that was asked for."""
        if kind == "cancel":
            try:
                self._task.cancel()
            except ComfyLockError as error:
                self.send({"kind": "refused", "id": content.get("id"), "error": error.message})

    def read(self, path: str) -> bytes:
        """Return a file or the preview of the task."""
        return read_of(self._task, path)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        return {**data, **self._left}, metadata

    def __repr__(self) -> str:
        # The text that is left where widgets do not show; the same for each run of a notebook.
        return last_line(self._task) or f"TaskView({self.label})"


class PreviewPush:
    """Sends previews to a page that cannot fetch them: it could not ask a kernel that is busy.

    As a message, which no notebook keeps.
    """

    def __init__(self, view: View, task: Task) -> None:
        self._view, self._task = view, task
        self._sent, self._sent_s = 0, float("-inf")

    def push(self) -> None:
        """Send the newest preview, if it was not sent and the last one is a while ago."""
        progress = self._task.json.get("progress")
        number = progress["preview"] if progress else 0
        now = time.monotonic()
        if self._task.ended or number <= self._sent or now - self._sent_s < PREVIEW_EVERY_S:
            return
        self._sent, self._sent_s = number, now
        with suppress(ComfyLockError):
            content = read_of(self._task, _preview_path(self._task))
            self._view.send({"kind": "preview", "task_id": self._task.id}, buffers=[content])


def read_of(task: Task, path: str) -> bytes:
    """Return the bytes at `path`, which is one of `task`'s files or its preview.

    Raises:
        ComfyLockError: it is none, or is not there any more.
    """
    if path.partition("?")[0] == _preview_path(task):
        return task.preview_bytes()
    if not any(file["path"] == path for file in task.json.get("files") or []):
        msg = f"Task {task.id} has no file at {path}."
        raise ComfyLockError(msg)
    return task.fetch(path)


def nodes_of(prompt: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the nodes of a prompt, as the view shows them."""
    return [
        {"id": node_id, "title": title_of(node), "class": str(node.get("class_type"))}
        for node_id, node in prompt.items()
    ]


def parameters_of(prompt: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the values in a prompt, as the view shows them."""
    return [
        {"node_id": each.node_id, "name": each.name, "value": _text(each.value)}
        for each in parameters(prompt)
    ]


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _preview_path(task: Task) -> str:
    return f"{API}tasks/{task.id}/preview"
