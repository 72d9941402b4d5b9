"""What `import jupyter_comfy_lock as comfy` offers, as functions of this process's session."""

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from jupyter_comfy_lock.domain.errors import InvalidWorkflow
from jupyter_comfy_lock.domain.workflow import check_api_workflow, node_error_lines
from jupyter_comfy_lock.kernel.session import current
from jupyter_comfy_lock.kernel.show import show_task
from jupyter_comfy_lock.kernel.task import Task
from jupyter_comfy_lock.kernel.views import Lock, SecretUrl, Servers, Status, Tasks

Mode = Literal["shared", "exclusive"]
Workflow = Mapping[str, Any] | str | os.PathLike[str]


class OutputsDropped(UserWarning):
    """ComfyUI refused some outputs of a workflow and runs the rest."""


def servers() -> Servers:
    """Return the ComfyServers of the pool: how they do, and who holds them since when."""
    return current().servers()


def lock(comfy_id: str | None = None, *, mode: Mode = "shared") -> Lock:
    """Lock a ComfyServer for this kernel; the same one again gives the lock there is.

    Without an id the one that the notebook is pinned to is taken, or else the best free one; a
    line says which and why.

    Raises:
        UnknownComfy, ComfyUnreachable, NotComfyUI, LockRefused, EmptyPool: nothing was locked.
        ServerConsistencyError: tasks are pending on the one that is locked now.
    """
    made = current().lock(comfy_id, mode=mode)
    if comfy_id is None:
        _say(made)
    return made


def release() -> str | None:
    """Release the lock; return the id of the ComfyServer, or None if there was no lock."""
    return current().release()


def locked_server() -> str | None:
    """Return the id of the ComfyServer that this kernel has locked, or None."""
    held = current().locked()
    return held.comfy_id if held else None


def url() -> SecretUrl:
    """Return the base URL for any other ComfyUI client: what it does, this kernel does.

    It carries this kernel's credential: anybody who has it acts for this kernel.
    """
    return current().url


def submit(workflow: Workflow, *, extra_data: Mapping[str, Any] | None = None) -> Task:
    """Send a workflow to the locked ComfyServer and return its task at once.

    `workflow` is in ComfyUI's API format: a mapping, its JSON, or the path of a .json file.
    Without a lock one is taken as by `lock()`, and a line says which.

    Raises:
        InvalidWorkflow: it is not in API format; nothing was sent.
        PromptRejected: the ComfyServer refused it; the message names each node and reason.
        StaleLock: this kernel had a lock and lost it; nothing was sent.
    """
    prompt = _sendable(check_api_workflow(_load(workflow)))
    task = current().submit(prompt, extra_data=extra_data, on_lock=_say)
    if task.dropped:
        lines = "".join(f"\n  {line}" for line in node_error_lines(task.dropped))
        outputs = ", ".join(f"node {key} ({it['class_type']})" for key, it in task.dropped.items())
        msg = f"{task.comfy_id} runs the workflow without its output {outputs}, because of:{lines}"
        warnings.warn(msg, OutputsDropped, stacklevel=2)
    show_task(task)
    return task


def tasks() -> Tasks:
    """Return this kernel's tasks, newest first."""
    return current().tasks()


def task(task_id: str) -> Task:
    """Return one of this kernel's tasks by its id.

    Raises:
        UnknownTask: this kernel has none with that id.
    """
    return current().task(task_id)


def status() -> Status:
    """Return how this kernel stands: its name, Jupyter server, lock and tasks."""
    session = current()
    return Status(
        lock=session.locked(),
        tasks=session.tasks(),
        kernel=session.kernel,
        server=session.place.url,
    )


def _say(lock: Lock) -> None:
    print(lock.sentence())  # noqa: T201 - the user did not name a ComfyServer, so we do


def _load(workflow: Workflow) -> object:
    if isinstance(workflow, str) and workflow.lstrip().startswith(("{", "[")):
        return _parsed(workflow, "The workflow")
    if not isinstance(workflow, str | os.PathLike):
        return workflow
    path = Path(workflow).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not a text file"
        msg = f"Cannot read the workflow {str(path)!r} (from {Path.cwd()}): {why}."
        raise InvalidWorkflow(msg, path=str(path)) from error
    return _parsed(text, f"The workflow {str(path)!r}")


def _parsed(text: str, what: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        msg = f"{what} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}."
        raise InvalidWorkflow(msg) from error


def _sendable(prompt: dict[str, Any]) -> dict[str, Any]:
    wrong = {
        f"{node_id}.{name}": why
        for node_id, node in prompt.items()
        for name, value in (node.get("inputs") or {}).items()
        if (why := _unsendable(value))
    }
    if wrong:
        lines = "".join(f"\n  node {where}: {why}" for where, why in wrong.items())
        msg = f"These inputs cannot be sent, because JSON has no such values:{lines}"
        raise InvalidWorkflow(msg, inputs=wrong)
    return prompt


def _unsendable(value: object) -> str | None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        return f"{type(value).__name__} ({error})"
    return None
