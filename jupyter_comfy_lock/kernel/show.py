"""What is shown under the running cell besides a cell's result, and whether it can be."""

import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from jupyter_comfy_lock.kernel.task import Task
from jupyter_comfy_lock.kernel.views import Lock

if TYPE_CHECKING:
    from jupyter_comfy_lock.kernel.sweep import Sweep
    from jupyter_comfy_lock.kernel.widgets import TaskView

log = logging.getLogger(__name__)

#: Set to "0" to show no widgets, as in batch jobs whose outputs nobody looks at.
SWITCH = "COMFY_LOCK_WIDGETS"

_complained = False
#: Views whose notebook has not got what is left of their task.
_open: "set[TaskView]" = set()
#: Monotonic seconds at which the running cell began.
_began_s = 0.0


def show_task(task: Task) -> None:
    """Show `task` under the running cell, if this is a notebook's kernel."""
    global _complained
    if not in_notebook():
        return
    # Widgets cost a third of a second at import; who has no notebook does not pay.
    try:
        from jupyter_comfy_lock.kernel.widgets import TaskView  # noqa: PLC0415

        view = TaskView(task)
    except (ImportError, FileNotFoundError) as error:
        if not _complained:
            _complained = True
            log.warning(
                "Tasks run, but cannot be shown: %s. Reinstall jupyter_comfy_lock; in a checkout, "
                "`pip install -e .` builds the widget.",
                error,
            )
        return
    view.show()
    _watch_cells()
    _open.add(view)


def _watch_cells() -> None:
    events = _shell().events
    for name, hook in (("pre_run_cell", _cell_begins), ("post_run_cell", _cell_ends)):
        if hook not in events.callbacks[name]:
            events.register(name, hook)


def _cell_begins(_: object) -> None:
    global _began_s
    _began_s = time.monotonic()


def _cell_ends(_: object) -> None:
    """Have the notebook get what is left of tasks that ended, while a cell still counts as running.

    Who runs notebooks without a page (nbclient, papermill) takes no output that comes between two
    cells: what came then is sent once more.
    """
    for view in tuple(_open):
        if view.ended:
            _open.discard(view)
            unheard = view.by_comm and view.left_s is not None and view.left_s < _began_s
            view.leave(again=unheard)


def show_sweep(sweep: "Sweep") -> None:
    """Show `sweep` under the running cell, if this is a notebook's kernel."""
    if not in_notebook():
        return
    from jupyter_comfy_lock.kernel.widgets.sweep_view import show  # noqa: PLC0415 - see show_task

    show(sweep)


def say_lock(lock: Lock) -> None:
    """Say which ComfyServer was locked: the user did not name one, so we do."""
    print(lock.sentence())  # noqa: T201 - this is for the user


def in_notebook() -> bool:
    """Whether a front end may show widgets: an IPython kernel, and nobody said no."""
    if os.environ.get(SWITCH, "").lower() in ("0", "no", "false", "off"):
        return False
    return in_kernel()


def in_kernel() -> bool:
    """Whether this is an IPython kernel, whoever runs it."""
    return getattr(_shell(), "kernel", None) is not None


class StatusLine:
    """One line under the running cell that changes in place; elsewhere, a line for each change."""

    def __init__(self) -> None:
        #: What was shown last; "" before that.
        self.text = ""
        self._handle: Any = None

    def show(self, text: str) -> None:
        """Show `text` instead of what was shown before."""
        if text == self.text:
            return
        self.text = text
        if not in_kernel():
            # Flushed: who looks at a log wants to know now what is waited for.
            print(text, flush=True)  # noqa: T201 - this is for the user
            return
        from IPython.display import display  # noqa: PLC0415 - only kernels need it

        bundle = {"text/plain": text}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(bundle, raw=True)


def tell_browser(target: str, data: dict[str, Any]) -> None:
    """Tell the extension in this kernel's page something, if there is one that listens."""
    try:
        from comm import create_comm  # noqa: PLC0415 - comes with ipykernel; other kernels vary
    except ImportError:
        return
    # Opening is all there is to it: the data is in the message that opens.
    create_comm(target_name=target, data=data).close()


def _shell() -> Any:
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None
