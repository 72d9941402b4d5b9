"""Widgets: a view of a task that follows it by itself."""

import logging
import threading
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from jupyter_comfy_lock.kernel.client import API
from jupyter_comfy_lock.kernel.task import Task
from jupyter_comfy_lock.kernel.threads import background

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent.parent / "static"

#: Seconds between two updates of a view: a person sees no more, and front ends drop what is more.
TICK_S = 0.1

if not (STATIC / "widget.js").is_file():
    _MSG = f"{STATIC / 'widget.js'} is missing"
    raise FileNotFoundError(_MSG)


class TaskView(anywidget.AnyWidget):
    """Shows one task: progress, preview, pictures, its end. Only `writer` sets `task`."""

    _esm = STATIC / "widget.js"
    _css = STATIC / "widget.css"

    #: The task, as REST shows it.
    task = traitlets.Dict().tag(sync=True)
    #: Where the REST API is, under the Jupyter server's base URL: buttons call it, because a
    #: kernel that is busy with a cell does not hear them.
    api_path = traitlets.Unicode(API).tag(sync=True)
    #: What to call the ComfyServer.
    label = traitlets.Unicode("").tag(sync=True)

    def __init__(self, task: Task, **traits: Any) -> None:
        super().__init__(task=dict(task.json), label=task.comfy_id, **traits)
        self._task = task
        self.on_msg(self._on_msg)
        self._unlisten = task.on_change(lambda: writer.mark(self))
        writer.mark(self)  # what has come between the first line and the last but one

    def write(self) -> None:
        """Show the task as it is now; called on the writer's thread only."""
        self.task = dict(self._task.json)
        if self._task.ended:
            self._unlisten()

    def close(self) -> None:
        """Remove the view."""
        self._unlisten()
        super().close()

    def _on_msg(self, _: Any, content: Any, __: list[bytes]) -> None:
        if isinstance(content, dict) and content.get("kind") == "cancel":
            self._task.cancel()

    def __repr__(self) -> str:
        # The text that is left where widgets do not show; the same for each run of a notebook.
        return f"TaskView({self.label})"


class Writer:
    """The one thread that writes the traits of views, each at most once per tick."""

    def __init__(self, tick_s: float = TICK_S) -> None:
        self._tick_s = tick_s
        self._changed = threading.Condition()
        self._marked: set[TaskView] = set()
        self._thread: threading.Thread | None = None

    def mark(self, view: TaskView) -> None:
        """Have `view` written soon. Never blocks for long."""
        with self._changed:
            self._marked.add(view)
            if self._thread is None or not self._thread.is_alive():
                self._thread = background(self._run, name="comfy-lock-views")
                self._thread.start()
            self._changed.notify()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._marked)
                views, self._marked = self._marked, set()
            for view in views:
                try:
                    view.write()
                except Exception:  # one view whose page is gone must not end the others
                    log.exception("Could not update %r.", view)
            pause.wait(self._tick_s)


writer = Writer()
