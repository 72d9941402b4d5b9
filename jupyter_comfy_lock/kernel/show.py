"""Whether, and how, a task is shown under the cell that submitted it."""

import logging
import os
import sys
from typing import Any

from jupyter_comfy_lock.kernel.task import Task

log = logging.getLogger(__name__)

#: Set to "0" to show no widgets, as in batch jobs whose outputs nobody looks at.
SWITCH = "COMFY_LOCK_WIDGETS"

_complained = False


def show_task(task: Task) -> None:
    """Show `task` under the running cell, if this is a notebook's kernel."""
    global _complained
    if not in_notebook():
        return
    # Widgets cost a third of a second at import; who has no notebook does not pay.
    from IPython.display import display  # noqa: PLC0415

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
    display(view)  # type: ignore[no-untyped-call]


def in_notebook() -> bool:
    """Whether a front end may show widgets: an IPython kernel, and nobody said no."""
    if os.environ.get(SWITCH, "").lower() in ("0", "no", "false", "off"):
        return False
    shell = _shell()
    return shell is not None and getattr(shell, "kernel", None) is not None


def _shell() -> Any:
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None
