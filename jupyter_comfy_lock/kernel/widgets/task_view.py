"""The view of a task."""

from typing import Any

import traitlets

from jupyter_comfy_lock.kernel.task import Task
from jupyter_comfy_lock.kernel.widgets.view import View, writer


class TaskView(View):
    """Shows one task: progress, preview, pictures, its end."""

    view = traitlets.Unicode("task").tag(sync=True)
    #: The task, as REST shows it.
    task = traitlets.Dict().tag(sync=True)
    #: What to call the ComfyServer.
    label = traitlets.Unicode("").tag(sync=True)

    def __init__(self, task: Task, **traits: Any) -> None:
        super().__init__(task=dict(task.json), label=task.comfy_id, **traits)
        self._task = task
        self.on_msg(self._on_msg)
        self._unlisten = task.on_change(lambda: writer.mark(self))
        writer.mark(self)  # what has come between the first line and the last but one

    def write(self) -> None:
        """Show the task as it is now."""
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
