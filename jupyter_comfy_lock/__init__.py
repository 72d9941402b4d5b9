"""Each notebook kernel gets a ComfyUI server of its own.

    import jupyter_comfy_lock as comfy

    comfy.servers()               # the pool
    comfy.lock("gpu-1")           # this kernel uses gpu-1 from now on
    comfy.run("workflow.json").images          # PIL images
    task = comfy.submit("workflow.json", seed=7)   # returns at once
    task.wait()                   # or: await task
    comfy.release()

    with comfy.lock(wait=60):     # the best one, at most a minute in line; given back at the end
        comfy.submit("workflow_api.json").wait()

`comfy.locked_server` is the id of the locked ComfyServer or None; assign an id to lock, None to
release. `comfy.pin("gpu-1")` has this notebook prefer one. `comfy.url` is a base URL for any
other ComfyUI client. Importing this asks nobody anything and loads nothing heavy; the first call
says hello to the Jupyter server.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from jupyter_comfy_lock.domain.errors import CannotInterrupt as CannotInterrupt
    from jupyter_comfy_lock.domain.errors import ComfyClosed as ComfyClosed
    from jupyter_comfy_lock.domain.errors import ComfyLockError as ComfyLockError
    from jupyter_comfy_lock.domain.errors import ComfyUnreachable as ComfyUnreachable
    from jupyter_comfy_lock.domain.errors import EmptyPool as EmptyPool
    from jupyter_comfy_lock.domain.errors import InvalidWorkflow as InvalidWorkflow
    from jupyter_comfy_lock.domain.errors import LockRefused as LockRefused
    from jupyter_comfy_lock.domain.errors import LockTimeout as LockTimeout
    from jupyter_comfy_lock.domain.errors import NoServerExtension as NoServerExtension
    from jupyter_comfy_lock.domain.errors import NotYours as NotYours
    from jupyter_comfy_lock.domain.errors import OtherLock as OtherLock
    from jupyter_comfy_lock.domain.errors import PromptRejected as PromptRejected
    from jupyter_comfy_lock.domain.errors import ServerConsistencyError as ServerConsistencyError
    from jupyter_comfy_lock.domain.errors import StaleLock as StaleLock
    from jupyter_comfy_lock.domain.errors import TaskCancelled as TaskCancelled
    from jupyter_comfy_lock.domain.errors import TaskFailed as TaskFailed
    from jupyter_comfy_lock.domain.errors import TaskLost as TaskLost
    from jupyter_comfy_lock.domain.errors import UnknownComfy as UnknownComfy
    from jupyter_comfy_lock.domain.errors import UnknownTask as UnknownTask
    from jupyter_comfy_lock.domain.errors import WrongCredential as WrongCredential
    from jupyter_comfy_lock.domain.sweep import InvalidSweep as InvalidSweep
    from jupyter_comfy_lock.kernel.api import LockLost as LockLost
    from jupyter_comfy_lock.kernel.api import OutputsDropped as OutputsDropped
    from jupyter_comfy_lock.kernel.api import cancel as cancel
    from jupyter_comfy_lock.kernel.api import listen as listen
    from jupyter_comfy_lock.kernel.api import lock as lock
    from jupyter_comfy_lock.kernel.api import pin as pin
    from jupyter_comfy_lock.kernel.api import release as release
    from jupyter_comfy_lock.kernel.api import run as run
    from jupyter_comfy_lock.kernel.api import servers as servers
    from jupyter_comfy_lock.kernel.api import status as status
    from jupyter_comfy_lock.kernel.api import submit as submit
    from jupyter_comfy_lock.kernel.api import task as task
    from jupyter_comfy_lock.kernel.api import tasks as tasks
    from jupyter_comfy_lock.kernel.inspect import check as check
    from jupyter_comfy_lock.kernel.inspect import cleanup as cleanup
    from jupyter_comfy_lock.kernel.inspect import debug as debug
    from jupyter_comfy_lock.kernel.inspect import selftest as selftest
    from jupyter_comfy_lock.kernel.results import Result as Result
    from jupyter_comfy_lock.kernel.saving import NotSaved as NotSaved
    from jupyter_comfy_lock.kernel.sweep import Sweep as Sweep
    from jupyter_comfy_lock.kernel.sweep import SweepStopped as SweepStopped
    from jupyter_comfy_lock.kernel.sweep import sweep as sweep
    from jupyter_comfy_lock.kernel.task import Task as Task
    from jupyter_comfy_lock.kernel.task import TaskNotEnded as TaskNotEnded
    from jupyter_comfy_lock.kernel.task_events import TaskEvent as TaskEvent
    from jupyter_comfy_lock.kernel.task_log import TaskLog as TaskLog
    from jupyter_comfy_lock.kernel.views import Lock as Lock
    from jupyter_comfy_lock.kernel.widgets.lock_view import LockView as LockView
    from jupyter_comfy_lock.kernel.widgets.lock_view import lock_view as lock_view
    from jupyter_comfy_lock.kernel.widgets.panel import Panel as Panel
    from jupyter_comfy_lock.kernel.widgets.panel import panel as panel
    from jupyter_comfy_lock.kernel.workflow import Workflow as Workflow

    #: The id of the ComfyServer that this kernel has locked, or None. Assign to lock or release.
    locked_server: str | None
    #: The base URL of this kernel's gateway, for any ComfyUI client.
    url: str

__version__ = "0.1.0"

_API = "jupyter_comfy_lock.kernel.api"
_ERRORS = "jupyter_comfy_lock.domain.errors"

#: Where each public name is; imported when it is first used.
_HOMES = {
    **dict.fromkeys(
        (
            "cancel",
            "listen",
            "lock",
            "pin",
            "release",
            "run",
            "servers",
            "status",
            "submit",
            "task",
            "tasks",
        ),
        _API,
    ),
    **dict.fromkeys(("LockLost", "OutputsDropped"), _API),
    **dict.fromkeys(("check", "cleanup", "debug", "selftest"), "jupyter_comfy_lock.kernel.inspect"),
    "Lock": "jupyter_comfy_lock.kernel.views",
    "NotSaved": "jupyter_comfy_lock.kernel.saving",
    "Result": "jupyter_comfy_lock.kernel.results",
    "InvalidSweep": "jupyter_comfy_lock.domain.sweep",
    **dict.fromkeys(("Sweep", "SweepStopped", "sweep"), "jupyter_comfy_lock.kernel.sweep"),
    "Task": "jupyter_comfy_lock.kernel.task",
    "TaskEvent": "jupyter_comfy_lock.kernel.task_events",
    "TaskLog": "jupyter_comfy_lock.kernel.task_log",
    "TaskNotEnded": "jupyter_comfy_lock.kernel.task",
    **dict.fromkeys(("LockView", "lock_view"), "jupyter_comfy_lock.kernel.widgets.lock_view"),
    **dict.fromkeys(("Panel", "panel"), "jupyter_comfy_lock.kernel.widgets.panel"),
    "Workflow": "jupyter_comfy_lock.kernel.workflow",
    **dict.fromkeys(
        (
            "CannotInterrupt",
            "ComfyClosed",
            "ComfyLockError",
            "ComfyUnreachable",
            "EmptyPool",
            "InvalidWorkflow",
            "LockRefused",
            "LockTimeout",
            "NoServerExtension",
            "NotYours",
            "OtherLock",
            "PromptRejected",
            "ServerConsistencyError",
            "StaleLock",
            "TaskCancelled",
            "TaskFailed",
            "TaskLost",
            "UnknownComfy",
            "UnknownTask",
            "WrongCredential",
        ),
        _ERRORS,
    ),
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise _bad_input().NoSuchAttribute(msg)
    found = getattr(importlib.import_module(home), name)
    globals()[name] = found
    return found


def _bad_input() -> ModuleType:
    return importlib.import_module("jupyter_comfy_lock.kernel.bad_input")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "locked_server", "url"})


class _Comfy(ModuleType):
    """The module itself, so that `comfy.locked_server` can be read and assigned."""

    def __setattr__(self, name: str, value: object) -> None:
        """Set what there is; a misspelt `locked_server` would seem to lock and do nothing.

        Raises:
            AttributeError: there is no such public name, or it is read-only.
        """
        if name == "url":
            msg = "comfy.url is read-only: it leads to whatever comfy.locked_server is"
            raise _bad_input().NoSuchAttribute(msg)
        known = name.startswith("_") or name in vars(self) or name in _HOMES
        # The import system sets each submodule on its package.
        if known or name == "locked_server" or isinstance(value, ModuleType):
            super().__setattr__(name, value)
            return
        msg = (
            f"module {__name__!r} has no attribute {name!r}; to lock a ComfyServer, assign its "
            "id to comfy.locked_server (None releases)"
        )
        # Without `name` and `obj`: Python would guess at another name after the one we tell.
        raise _bad_input().NoSuchAttribute(msg)

    @property
    def locked_server(self) -> str | None:
        """The id of the ComfyServer that this kernel has locked, or None."""
        from jupyter_comfy_lock.kernel.api import locked_server  # noqa: PLC0415 - as _HOMES

        return locked_server()

    @locked_server.setter
    def locked_server(self, comfy_id: object) -> None:
        from jupyter_comfy_lock.kernel.api import lock, release  # noqa: PLC0415 - as _HOMES

        if comfy_id is None:
            release()
        elif isinstance(comfy_id, str):
            lock(comfy_id)
        else:
            msg = (
                "comfy.locked_server must be the id of a ComfyServer (a str) or None, not "
                f"{type(comfy_id).__name__}"
            )
            raise _bad_input().WrongType(msg)

    @property
    def url(self) -> str:
        """The base URL of this kernel's gateway, for any ComfyUI client."""
        from jupyter_comfy_lock.kernel.api import url  # noqa: PLC0415 - as _HOMES

        return url()


sys.modules[__name__].__class__ = _Comfy


def load_ipython_extension(ipython: InteractiveShell) -> None:
    """`%load_ext jupyter_comfy_lock` gives `%comfy`."""
    from jupyter_comfy_lock.kernel.magics import load  # noqa: PLC0415 - needs IPython

    load(ipython)


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """Where Jupyter Server finds the extension."""
    # Kernels import this package too and must not pay for the server side.
    home = "jupyter_comfy_lock.server.app"
    return [{"module": home, "app": importlib.import_module(home).ComfyLock}]


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    """Where `jupyter-builder develop` finds the built Lab extension."""
    return [{"src": "labextension", "dest": "jupyter-comfy-lock"}]
