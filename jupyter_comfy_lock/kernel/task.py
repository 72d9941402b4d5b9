"""The user's task: one prompt on one ComfyServer, to wait for, look at, cancel."""

import asyncio
import io
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from jupyter_comfy_lock.domain.errors import ComfyLockError, UnknownFile
from jupyter_comfy_lock.domain.task import ENDED, TaskState, may_move
from jupyter_comfy_lock.kernel.bad_input import checked_seconds
from jupyter_comfy_lock.kernel.results import (
    NodeError,
    Progress,
    Result,
    TaskFile,
    TaskText,
    texts_of,
)
from jupyter_comfy_lock.kernel.saving import save_outputs
from jupyter_comfy_lock.kernel.task_end import end_error
from jupyter_comfy_lock.kernel.task_events import TaskEvent, follow, follow_in_loop
from jupyter_comfy_lock.kernel.task_log import Diary, TaskLog
from jupyter_comfy_lock.kernel.task_wait import TIMEOUT, Lookout, Wait, in_this_loop
from jupyter_comfy_lock.kernel.wire import TaskJson

if TYPE_CHECKING:
    from PIL.Image import Image


class Home(Protocol):
    """What a task needs of the session that it belongs to."""

    @property
    def kernel(self) -> str:
        """What to call this kernel in a message."""

    def hears_of(self, task: "Task") -> bool:
        """Whether news of the task arrives by itself."""

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


class Task:
    """One prompt on the ComfyServer it was sent to. `wait()` for it, or `await` it.

    `async for event in task`, or `for event in task.events()`, tells what happens meanwhile.
    """

    def __init__(self, home: Home, json: TaskJson) -> None:
        self._home = home
        self._json = json
        self._ended = threading.Event()
        self._listeners: list[Callable[[], None]] = []
        self._lookout = Lookout(lambda: home.refresh(self), lambda: home.hears_of(self))
        self._images: list[Image] | None = None
        self._diary = Diary()
        self._diary.hear(json)
        #: The prompt, where it was sent from this process.
        self._prompt: Mapping[str, Any] | None = None
        if self.ended:
            self._ended.set()

    # -- what it is -----------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The id of the task, and of its prompt in ComfyUI."""
        return self._json["task_id"]

    @property
    def prompt(self) -> Mapping[str, Any] | None:
        """What was sent, in ComfyUI's API format; None where another process has sent it."""
        return self._prompt

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

    @property
    def log(self) -> TaskLog:
        """What happened to the task and when, a line each.

        It is what this process has heard since it knows the task. Of one that was found again
        after a restart, or by its id alone, that is when it was sent, began and ended, and how;
        nodes and previews that came before are not told.
        """
        return TaskLog(self._diary.lines())

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
        self._wait(timeout).until(self._ended)
        self._refuse_unless_succeeded()
        return self

    def result(self, timeout: float | None = None) -> Result:
        """Return what the task has made, when it has succeeded; waits and raises as `wait`."""
        return Result(self.wait(timeout))

    def __await__(self) -> Generator[Any, None, "Task"]:
        """Wait in a running event loop without blocking it; see `wait` for what it raises."""
        return self._until_ended().__await__()

    async def _until_ended(self) -> "Task":
        over = asyncio.Event()
        wake = in_this_loop(over.set)
        stop = self.on_change(lambda: wake() if self.ended else None)
        try:
            if not self.ended:
                await self._wait().until_set(over)
        finally:
            stop()
        self._refuse_unless_succeeded()
        return self

    def events(self, timeout: float | None = None) -> Iterator[TaskEvent]:
        """Go through what happens to the task, from how it is now on, until it has ended.

        Each state comes once, and "ended" at last, however it ended: that raises nothing. Whoever
        reads slowly gets the newest progress and preview, not all of them. Any number may read.

        Raises:
            TimeoutError: it has not ended within `timeout` seconds.
            NoServerExtension: as `wait`.
        """
        return follow(lambda: self._json, self.on_change, self._wait(timeout))

    def __aiter__(self) -> AsyncIterator[TaskEvent]:
        """Go through what happens to the task in an event loop; see `events`."""
        return follow_in_loop(lambda: self._json, self.on_change, self._wait())

    def cancel(self) -> None:
        """Ask for the end of the task and return at once; `state` tells when it has ended."""
        self._home.cancel(self)

    def _wait(self, timeout: object = None) -> Wait:
        return Wait(
            self._lookout,
            what=f"task {self.id} on {self.comfy_id}",
            goes_on=self._goes_on,
            timeout=checked_seconds(timeout, TIMEOUT),
        )

    def _freshen(self) -> None:
        """Look once in a while, so that a loop over `state` ends also when the stream is down."""
        if not self.ended and not self._home.hears_of(self):
            with suppress(ComfyLockError):
                self._lookout.look()

    # -- results --------------------------------------------------------------------------------

    @property
    def files(self) -> list[TaskFile]:
        """The files of the task, in the order of ComfyUI's outputs.

        Raises:
            TaskNotEnded: the task is still going on.
            TaskFailed, TaskCancelled, TaskLost, PromptRejected: it ended without any file.
        """
        files = [TaskFile(self._home.fetch, json) for json in self._json.get("files") or []]
        self._refuse_without(files)
        return files

    @property
    def texts(self) -> list[TaskText]:
        """What nodes have shown as text. See `files` for what it raises."""
        texts = texts_of(self._json.get("outputs") or {})
        self._refuse_without(texts or self.files)
        return texts

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

    def save(self, template: str = "{filename}", folder: str | Path = ".") -> list[Path]:
        """Write the files and texts of the task into `folder`; return where they are.

        `template` names them. Its fields are {filename}, {stem} and {ext} as ComfyUI calls the
        file, {n} (1, 2, …), {node} and {node_id} of the node that made it, {task_id}, {comfy_id},
        {date} (of the task's end; {date:%H%M} in another form), and of a task that was sent from
        this process the values of its workflow: {seed}, {cfg}, {3.seed}. "/" makes folders.

        What is there already with the same bytes is left as it is; nothing is overwritten.

        Raises:
            NotSaved: the template has another field, or another file has that name, or it cannot
                be written.
            TaskNotEnded, TaskFailed, TaskCancelled, TaskLost, PromptRejected: as `files`.
        """
        things = [
            *((each.filename, each.node_id, each.read) for each in self.files),
            *((each.filename, each.node_id, each.text.encode) for each in self.texts),
        ]
        ended = self._json.get("ended_at") or self._json["created_at"]
        facts = {"task_id": self.id, "comfy_id": self.comfy_id, "date": ended}
        return save_outputs(things, template, folder, facts=facts, prompt=self._prompt)

    def _refuse_without(self, found: list[Any]) -> None:
        if not self.ended:
            msg = (
                f"{self._name()} is {self.state}: what it makes is there when it has ended. "
                "Wait for it first: task.wait() or `await task`."
            )
            raise TaskNotEnded(msg, task_id=self.id)
        if not found:
            self._refuse_unless_succeeded()

    def _refuse_unless_succeeded(self) -> None:
        error = end_error(self._json, name=self._name(), kernel=self._home.kernel)
        if error is not None:
            raise error

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
        self._lookout.heard()
        self._diary.hear(json)
        if self.ended:
            self._ended.set()
        for listener in tuple(self._listeners):
            listener()

    def sent(self, prompt: Mapping[str, Any]) -> "Task":
        """Take note of the prompt that was sent; return the task."""
        self._prompt = prompt
        return self

    # -- words ----------------------------------------------------------------------------------

    def _name(self) -> str:
        return f"Task {self.id} on {self.comfy_id} (kernel {self._home.kernel})"

    def _goes_on(self) -> str:
        return (
            f"Task {self.id} goes on on {self.comfy_id} ({self._json['state']}, "
            f"{Progress.from_json(self._json.get('progress'))}): task.wait() waits again, "
            f'task.cancel() ends it; task = comfy.task("{self.id}") finds it.'
        )

    def __str__(self) -> str:
        return f"{self.comfy_id} · {self.id} · {self._json['state']}"

    def __repr__(self) -> str:
        # No id and no seconds: a notebook run twice shows the same text twice.
        state = self._json["state"]
        files = len(self._json.get("files") or [])
        made = f", {files} file{'s' if files != 1 else ''}" if files else ""
        return f"Task({self.comfy_id}, {state}{made})"


def _newer(old: TaskJson, new: TaskJson) -> bool:
    """Whether `new` may replace `old`: an event and a poll can overtake each other."""
    before, after = TaskState(old["state"]), TaskState(new["state"])
    return before is after or may_move(before, after)
