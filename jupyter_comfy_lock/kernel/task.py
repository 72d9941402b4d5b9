"""The user's task: one prompt on one ComfyServer, to wait for, look at, cancel."""

import asyncio
import io
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from jupyter_comfy_lock.domain.errors import (
    ComfyLockError,
    NoServerExtension,
    PromptRejected,
    TaskCancelled,
    TaskFailed,
    TaskLost,
    UnknownFile,
)
from jupyter_comfy_lock.domain.task import ENDED, TaskState, may_move
from jupyter_comfy_lock.kernel.results import NodeError, Progress, TaskFile
from jupyter_comfy_lock.kernel.wire import TaskJson

if TYPE_CHECKING:
    from PIL.Image import Image

#: Seconds between two looks at a task while the event stream is down, and while it is up.
POLL_DOWN_S = 2.0
POLL_UP_S = 15.0
#: Seconds. How often an await lets its event loop see that the user pressed Ctrl-C: ipykernel's
#: interrupt does not wake the loop up.
TICK_S = 0.25
#: Seconds. A wait gives up when the Jupyter server has been away for so long.
PATIENCE_S = 60.0


class Home(Protocol):
    """What a task needs of the session that it belongs to."""

    @property
    def live(self) -> bool:
        """Whether events arrive."""

    @property
    def kernel(self) -> str:
        """What to call this kernel in a message."""

    def refresh(self, task: "Task") -> None:
        """Ask the Jupyter server for the task's newest state."""

    def cancel(self, task: "Task") -> None:
        """Ask for the task's end."""

    def fetch(self, path: str) -> bytes:
        """Return the bytes of a file."""

    def preview(self, task: "Task") -> bytes:
        """Return the bytes of the newest preview; raise UnknownFile when there is none."""


class TaskNotEnded(ComfyLockError):
    """What was asked for exists only when the task has ended."""

    code = "task_not_ended"


class WaitTimeoutError(TimeoutError):
    """The waiting ended; the task goes on."""

    def _render_traceback_(self) -> list[str]:
        return [f"TimeoutError: {self}"]


class WaitInterrupted(KeyboardInterrupt):
    """Ctrl-C ended the waiting; the task goes on."""

    def _render_traceback_(self) -> list[str]:
        return [f"KeyboardInterrupt: {self}"]


class AwaitInterruptedError(asyncio.CancelledError):
    """The awaiting was ended; the task goes on."""

    def _render_traceback_(self) -> list[str]:
        return [f"CancelledError: {self}"]


class Task:
    """One prompt on the ComfyServer it was sent to. `wait()` for it, or `await` it."""

    def __init__(self, home: Home, json: TaskJson) -> None:
        self._home = home
        self._json = json
        self._ended = threading.Event()
        self._listeners: list[Callable[[], None]] = []
        self._looked_at = time.monotonic()
        self._images: list[Image] | None = None
        #: What was sent, in ComfyUI's API format; None where another process has sent it.
        self.prompt: Mapping[str, Any] | None = None
        if self.ended:
            self._ended.set()

    # -- what it is -----------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The id of the task, and of its prompt in ComfyUI."""
        return self._json["task_id"]

    @property
    def comfy_id(self) -> str:
        """The ComfyServer that the task runs on, whatever became of the lock."""
        return self._json["comfy_id"]

    @property
    def json(self) -> TaskJson:
        """The task as the Jupyter server last told it."""
        return self._json

    @property
    def state(self) -> str:
        """Where the task is.

        Before its end registered (on its way to the ComfyServer), queued, running; after it
        succeeded, failed, cancelled, rejected (the ComfyServer refused it), lost.
        """
        self._freshen()
        return self._json["state"]

    @property
    def ended(self) -> bool:
        """Whether the task has reached its one end."""
        return TaskState(self._json["state"]) in ENDED

    @property
    def reason(self) -> str | None:
        """Why the task ended as it did."""
        return self._json.get("reason")

    @property
    def progress(self) -> Progress:
        """How far the task is."""
        self._freshen()
        return Progress.from_json(self._json.get("progress"))

    @property
    def ahead(self) -> int:
        """How many prompts the ComfyServer runs before this one, anybody's."""
        return int((self._json.get("queue") or {}).get("ahead", 0))

    @property
    def ahead_mine(self) -> int:
        """How many of those are this kernel's own."""
        return int((self._json.get("queue") or {}).get("ahead_mine", 0))

    @property
    def seconds(self) -> float | None:
        """Seconds that the task has been running, or ran; None if it never began."""
        began, over = self._json.get("started_at"), self._json.get("ended_at")
        return None if began is None else max(0.0, (over or time.time()) - began)

    @property
    def cached(self) -> bool:
        """Whether ComfyUI had every result already and computed nothing."""
        return bool(self._json.get("cached"))

    @property
    def dropped(self) -> dict[str, Any]:
        """Outputs that ComfyUI refused while it ran the rest: `{node id: its errors}`."""
        return dict(self._json.get("dropped") or {})

    @property
    def error(self) -> NodeError | None:
        """What the node raised, if one did."""
        json = self._json.get("error")
        return NodeError.from_json(json) if json else None

    # -- waiting --------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> "Task":
        """Return the task when it has succeeded; wait at most `timeout` seconds.

        Ctrl-C and a timeout end the waiting only: the task goes on.

        Raises:
            TaskFailed: a node raised; the message has the ComfyServer's traceback.
            TaskCancelled, TaskLost, PromptRejected: how else it ended.
            TimeoutError: it has not ended yet.
            NoServerExtension: the Jupyter server has been silent for 60 s.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        patience = _Patience()
        try:
            while not self._ended.wait(_at_most(POLL_DOWN_S, deadline)):
                if deadline is not None and time.monotonic() >= deadline:
                    raise self._timed_out(timeout)
                self._poll(patience)
        except KeyboardInterrupt:
            msg = f"stopped waiting. {self._goes_on()}"
            raise WaitInterrupted(msg) from None
        return self._outcome()

    def __await__(self) -> Generator[Any, None, "Task"]:
        """Wait in a running event loop without blocking it; see `wait` for what it raises."""
        return self._until_ended().__await__()

    async def _until_ended(self) -> "Task":
        loop = asyncio.get_running_loop()
        over = asyncio.Event()

        def wake() -> None:
            if self.ended:
                with suppress(RuntimeError):  # that loop is closed: nobody waits there any more
                    loop.call_soon_threadsafe(over.set)

        patience = _Patience()
        stop = self.on_change(wake)
        try:
            while not self._ended.is_set():
                try:
                    await asyncio.wait_for(over.wait(), TICK_S)
                except TimeoutError:
                    if self._is_due():
                        await asyncio.to_thread(self._poll, patience)
        except asyncio.CancelledError:
            msg = f"stopped waiting. {self._goes_on()}"
            raise AwaitInterruptedError(msg) from None
        finally:
            stop()
        return self._outcome()

    def cancel(self) -> None:
        """Ask for the end of the task and return at once; `state` tells when it has ended."""
        self._home.cancel(self)

    def _is_due(self) -> bool:
        since = time.monotonic() - self._looked_at
        return since >= (POLL_UP_S if self._home.live else POLL_DOWN_S * 0.9)

    def _poll(self, patience: "_Patience") -> None:
        if not self._is_due():
            return
        self._looked_at = time.monotonic()
        try:
            self._home.refresh(self)
        except NoServerExtension as error:
            patience.lose(self, error)
        else:
            patience.gain()

    def _freshen(self) -> None:
        """Look once in a while, so that a loop over `state` ends also when the stream is down."""
        if not self.ended and not self._home.live:
            with suppress(ComfyLockError):
                self._poll(_Patience())

    # -- results --------------------------------------------------------------------------------

    @property
    def files(self) -> list[TaskFile]:
        """The files of the task, in the order of ComfyUI's outputs.

        Raises:
            TaskNotEnded: the task is still going on.
            TaskFailed, TaskCancelled, TaskLost, PromptRejected: it ended without any file.
        """
        if not self.ended:
            msg = (
                f"{self._name()} is {self.state}: its files are there when it has ended. "
                "Wait for it first: task.wait() or `await task`."
            )
            raise TaskNotEnded(msg, task_id=self.id)
        files = [TaskFile(self._home.fetch, json) for json in self._json.get("files") or []]
        if not files:
            self._outcome()
        return files

    @property
    def images(self) -> "list[Image]":
        """The pictures of the task as PIL images, fetched once. See `files` for what it raises."""
        if self._images is None:
            # PIL costs a tenth of a second at import, and not every kernel looks at pictures.
            import PIL.Image  # noqa: PLC0415

            pictures = [f for f in self.files if f.media_type.startswith("image/")]
            self._images = [PIL.Image.open(io.BytesIO(each.read())) for each in pictures]
        return list(self._images)

    @property
    def preview(self) -> "Image | None":
        """The newest picture in the making as a PIL image; None while nothing is shown."""
        if not self.progress.preview:
            return None
        try:
            picture = self.preview_bytes()
        except UnknownFile:
            # The Jupyter server has been started again since, and keeps none.
            return None
        import PIL.Image  # noqa: PLC0415 - see `images`

        return PIL.Image.open(io.BytesIO(picture))

    def preview_bytes(self) -> bytes:
        """Return the newest preview as it came.

        Raises:
            UnknownFile: there is none, or none any more.
        """
        return self._home.preview(self)

    def fetch(self, path: str) -> bytes:
        """Return the bytes of the file of the task that is at `path` of the Jupyter server."""
        return self._home.fetch(path)

    def _outcome(self) -> "Task":
        """Return the task if it succeeded; raise how it ended otherwise."""
        state, name = TaskState(self._json["state"]), self._name()
        why = f": {self.reason}" if self.reason else ""
        facts = {"task_id": self.id, "comfy_id": self.comfy_id, "kernel": self._home.kernel}
        if state is TaskState.SUCCEEDED:
            return self
        if state is TaskState.CANCELLED:
            msg = f"{name} was cancelled{_by(self.reason)}. Submit it again if you still want it."
            raise TaskCancelled(msg, **facts)
        if state is TaskState.REJECTED:
            raise PromptRejected(self.reason or f"{name} was refused; nothing ran.", **facts)
        if state is TaskState.LOST:
            msg = (
                f"{name} is lost{why}. Nobody knows how far it came; submit it again if you "
                "still want it."
            )
            raise TaskLost(msg, **facts)
        error = self.error
        msg = f"{name} failed{why if error is None else f' at {error}'}"
        raise TaskFailed(msg, **facts, error=self._json.get("error"))

    # -- news -----------------------------------------------------------------------------------

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` after each change, on the thread that hears of it; return its undoing."""
        self._listeners.append(listener)

        def stop() -> None:
            with suppress(ValueError):
                self._listeners.remove(listener)

        return stop

    def hear(self, json: TaskJson) -> None:
        """Take the newer of what is known and `json`. The session calls this, one at a time."""
        if not _newer(self._json, json):
            return
        self._json = json
        self._looked_at = time.monotonic()
        if self.ended:
            self._ended.set()
        for listener in tuple(self._listeners):
            listener()

    # -- words ----------------------------------------------------------------------------------

    def _name(self) -> str:
        return f"Task {self.id} on {self.comfy_id} (kernel {self._home.kernel})"

    def _goes_on(self) -> str:
        return (
            f"Task {self.id} goes on on {self.comfy_id} ({self._json['state']}, "
            f"{Progress.from_json(self._json.get('progress'))}): task.wait() waits again, "
            "task.cancel() ends it."
        )

    def _timed_out(self, timeout: float | None) -> WaitTimeoutError:
        return WaitTimeoutError(f"not ended after {timeout:g} s. {self._goes_on()}")

    def __str__(self) -> str:
        return f"{self.comfy_id} · {self.id} · {self._json['state']}"

    def __repr__(self) -> str:
        # No id and no seconds: a notebook run twice shows the same text twice.
        state = self._json["state"]
        files = len(self._json.get("files") or [])
        made = f", {files} file{'s' if files != 1 else ''}" if files else ""
        return f"Task({self.comfy_id}, {state}{made})"


class _Patience:
    """How long the Jupyter server has been silent for one who waits."""

    def __init__(self) -> None:
        self._since: float | None = None

    def gain(self) -> None:
        self._since = None

    def lose(self, task: Task, error: NoServerExtension) -> None:
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since >= PATIENCE_S:
            msg = f"Cannot tell how task {task.id} on {task.comfy_id} goes on. {error.message}"
            raise NoServerExtension(msg, **error.details) from error


def _by(reason: str | None) -> str:
    """Return what follows "was cancelled": by whom, or because of what."""
    # "cancelled" as the reason of a cancellation tells nothing more.
    if not reason or reason == TaskState.CANCELLED:
        return ""
    if reason.startswith("by "):
        return f" {reason}"
    if reason.startswith("its "):
        return f" because {reason}"
    if reason.startswith(("interrupted", "deleted ", "stopped ")):
        return f" because it was {reason}"
    return f": {reason}"


def _at_most(seconds: float, deadline: float | None) -> float:
    left = seconds if deadline is None else deadline - time.monotonic()
    return max(0.0, min(seconds, left))


def _newer(old: TaskJson, new: TaskJson) -> bool:
    """Whether `new` may replace `old`: an event and a poll can overtake each other."""
    before, after = TaskState(old["state"]), TaskState(new["state"])
    return before is after or may_move(before, after)
