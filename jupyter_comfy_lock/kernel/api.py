"""What `import jupyter_comfy_lock as comfy` offers, as functions of this process's session."""

import json
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Literal, overload

from jupyter_comfy_lock.domain.errors import CannotInterrupt, InvalidWorkflow
from jupyter_comfy_lock.domain.workflow import node_error_lines
from jupyter_comfy_lock.kernel.bad_input import WrongValue, checked_seconds
from jupyter_comfy_lock.kernel.results import Result
from jupyter_comfy_lock.kernel.session import Session, current
from jupyter_comfy_lock.kernel.show import StatusLine, say_lock, show_task, tell_browser
from jupyter_comfy_lock.kernel.task import Task
from jupyter_comfy_lock.kernel.task_wait import TIMEOUT
from jupyter_comfy_lock.kernel.views import Lock, SecretUrl, Servers, Status, Tasks
from jupyter_comfy_lock.kernel.waiting import checked_id
from jupyter_comfy_lock.kernel.workflow import Workflow
from jupyter_comfy_lock.kernel.workflow_source import Source

Mode = Literal["shared", "exclusive"]


class OutputsDropped(UserWarning):
    """ComfyUI refused some outputs of a workflow and runs the rest."""


class LockLost(UserWarning):
    """This kernel's lock was taken away; the message has by whom, when and why."""


#: The comm target that the extension in the browser listens to.
PIN_TARGET = "jupyter_comfy_lock:pin"


def servers() -> Servers:
    """Return the ComfyServers of the pool: how they do, who holds them, and who waits for them."""
    session = current()
    found = session.servers()
    _warn_of_loss(session, held_now=next((each.comfy_id for each in found if each.mine), None))
    return found


def lock(
    comfy_id: str | None = None,
    *,
    mode: Mode | None = None,
    wait: float | None = 0,
    labels: Iterable[str] = (),
) -> Lock:
    """Lock a ComfyServer for this kernel; the same one again gives the lock there is.

    `mode`: "shared" with as many others as it has places for, or "exclusive". A lock that this
    kernel has there already is changed without a gap, and left as it is if no mode is given; a
    new one is shared then.

    Without an id the one that the notebook is pinned to is taken, or else the best free one that
    has all `labels`; a line says which and why. `with comfy.lock(...):` gives it back at the end
    of the block.

    `wait`: at most so many seconds in line (first come, first served), None for ever, 0 not at
    all. A line says for whom and in which place. Ctrl-C leaves the line.

    Raises:
        LockRefused: it is taken, and `wait` is 0.
        LockTimeout: it is still taken after `wait` seconds. Also a TimeoutError.
        UnknownComfy, ComfyUnreachable, NotComfyUI, ComfyClosed, EmptyPool: nothing was locked.
        ServerConsistencyError: tasks are pending on the one that is locked now.
    """
    session, line = current(), StatusLine()
    try:
        made = session.lock(comfy_id, mode=mode, wait=wait, labels=labels, tell=line.show)
    except BaseException:
        if line.text:
            line.show("The waiting has ended.")
        raise
    finally:
        _warn_of_loss(session)
    if line.text:
        line.show(made.sentence())
    elif comfy_id is None or made.foreign_prompts:
        say_lock(made)
    return made


def pin(comfy_id: str | None) -> None:
    """Have this notebook prefer a ComfyServer: `lock()` takes it. None for no preference.

    The pin is kept with the notebook when the notebook is saved; a process that no Jupyter server
    started keeps it until it ends. What is locked now stays locked.

    Raises:
        UnknownComfy: there is no such ComfyServer; nothing was changed.
        TypeError: that is no id; nothing was sent.
    """
    session = current()
    pinned = session.pin(checked_id(comfy_id))
    if session.place.kind == "managed":
        tell_browser(PIN_TARGET, {"pin": pinned})
        what, kept = "This notebook", "That is kept with the notebook when the notebook is saved."
    else:
        what, kept = "This process", "That is kept until the process ends."
    to = pinned or "no ComfyServer"
    print(f"{what} is pinned to {to}. {kept}")  # noqa: T201 - it says what will be


def release() -> str | None:
    """Release the lock; return the id of the ComfyServer, or None if there was no lock."""
    return current().release()


def locked_server() -> str | None:
    """Return the id of the ComfyServer that this kernel has locked, or None."""
    session = current()
    held = session.locked()
    _warn_of_loss(session, held_now=held.comfy_id if held else None, stacklevel=4)
    return held.comfy_id if held else None


def url() -> SecretUrl:
    """Return the base URL for any other ComfyUI client: what it does, this kernel does.

    Opened in a browser, it is ComfyUI's own web interface. It carries a key of this kernel's:
    anybody who has it uses the locked ComfyServer as this kernel, but cannot change the lock.
    """
    return current().url


@overload
def listen(port: int = 0) -> str: ...
@overload
def listen(port: None) -> None: ...
def listen(port: int | None = 0) -> str | None:
    """Have a port lead to this kernel's gateway, for clients that take no path; return its URL.

    It is on the Jupyter server's machine, reachable from there alone: `http://127.0.0.1:40123`. 0
    takes any free port; 8188 is what most clients expect. It is closed by `listen(None)`, and when
    the kernel ends. Who runs programs as this user there uses the locked ComfyServer as this kernel
    does, without a key; other users of that machine are kept out if it runs Linux.

    Raises:
        BadRequest: something else listens on that port.
    """
    return current().listen(port)


def submit(
    workflow: Source | Workflow, *, extra_data: Mapping[str, Any] | None = None, **values: Any
) -> Task:
    """Send a workflow to the locked ComfyServer and return its task at once.

    `workflow` is a `comfy.Workflow`, or anything that `comfy.Workflow.load()` takes. `values` are
    set as by `Workflow.set()`, on a copy: `comfy.submit(wf, seed=7)`. Without a lock one is taken
    as by `lock()`, and a line says which.

    Raises:
        InvalidWorkflow: it is none, or cannot be converted, or has no such value, or the value
            does not fit; nothing was sent.
        PromptRejected: the ComfyServer refused it; the message names each node and reason.
        StaleLock: this kernel had a lock and lost it; nothing was sent.
    """
    return _submit(workflow, extra_data, values)


def run(
    workflow: Source | Workflow,
    *,
    timeout: float | None = None,
    extra_data: Mapping[str, Any] | None = None,
    **values: Any,
) -> Result:
    """Submit a workflow, wait for it and return what it has made.

    Takes what `submit()` takes. Ctrl-C, and the end of `timeout` seconds, end the waiting only.

    Raises:
        TaskFailed, TaskCancelled, TaskLost: how else it ended; see `Task.wait`.
        TimeoutError: it has not ended yet; the message says how to find its task.
        InvalidWorkflow, PromptRejected, StaleLock: as `submit`.
    """
    checked_seconds(timeout, TIMEOUT)  # before anything is sent
    return _submit(workflow, extra_data, values).result(timeout)


def _submit(
    workflow: Source | Workflow, extra_data: Mapping[str, Any] | None, values: Mapping[str, Any]
) -> Task:
    loaded = workflow if isinstance(workflow, Workflow) else Workflow.load(workflow)
    if values:
        loaded = loaded.copy().set(**values)
    prompt = sendable(loaded.ready())
    task = current().submit(prompt, extra_data=extra_data, on_lock=say_lock)
    if task.dropped:
        lines = "".join(f"\n  {line}" for line in node_error_lines(task.dropped))
        outputs = ", ".join(f"node {key} ({it['class_type']})" for key, it in task.dropped.items())
        msg = f"{task.comfy_id} runs the workflow without its output {outputs}, because of:{lines}"
        warnings.warn(msg, OutputsDropped, stacklevel=3)
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


def cancel(*tasks: Task | str, all: bool = False) -> Tasks:
    """Ask for the end of tasks of this kernel and return them at once; nobody else's are touched.

    Each is a task or an id, of which a beginning is enough where it fits one task alone. `all`:
    every one that has not ended yet.

    Raises:
        UnknownTask: this kernel has no such task, or several; none was cancelled.
        CannotInterrupt: its ComfyUI is too old to stop that one without stopping others'; the
            rest was cancelled.
        ValueError: it is not said which, or it is said twice.
    """
    if all == bool(tasks):
        msg = "name the tasks to cancel, by an id or a beginning of it, or else have all cancelled"
        raise WrongValue(msg)
    mine = current().tasks()
    if all:
        chosen = [each for each in mine if not each.ended]
    else:
        chosen = [each if isinstance(each, Task) else mine.named(each) for each in tasks]
    failures = []
    for each in chosen:
        try:
            each.cancel()
        except CannotInterrupt as error:
            failures.append(error)
    if failures:
        raise failures[0]
    return Tasks(chosen)


def status() -> Status:
    """Return how this kernel stands: its name, Jupyter server, lock and tasks."""
    session = current()
    held = session.locked()
    _warn_of_loss(session, held_now=held.comfy_id if held else None)
    return Status(
        lock=held,
        tasks=session.tasks(),
        kernel=session.kernel,
        server=session.place.url,
    )


def _warn_of_loss(session: Session, *, held_now: str | None = None, stacklevel: int = 3) -> None:
    loss = session.loss(held_now=held_now)
    if loss is not None:
        warnings.warn(loss, LockLost, stacklevel=stacklevel)


def sendable(prompt: dict[str, Any]) -> dict[str, Any]:
    """Return `prompt`, if JSON can carry it.

    Raises:
        InvalidWorkflow: it names each input whose value JSON does not have.
    """
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
