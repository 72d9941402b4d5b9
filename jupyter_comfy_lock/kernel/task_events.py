"""What happens to a task, for who follows it in a loop: every state, and the newest of the rest."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from jupyter_comfy_lock.domain.task import ENDED, TaskState
from jupyter_comfy_lock.kernel.results import Progress
from jupyter_comfy_lock.kernel.task_wait import Wait, in_this_loop
from jupyter_comfy_lock.kernel.wire import TaskJson

#: Returns the task as it is known now.
Newest = Callable[[], TaskJson]
#: Has its argument called after each change; what it returns undoes that.
Listen = Callable[[Callable[[], None]], Callable[[], None]]
Kind = Literal["state", "progress", "preview", "ended"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TaskEvent:
    """Something has happened to a task: how it was then."""

    #: "state": it has moved on. "progress": it has come further, or its place in the queue is
    #: another one. "preview": `task.preview` is a new picture. "ended": the last event there is.
    kind: Kind
    state: str
    progress: Progress
    #: Seconds since the epoch.
    at: float

    def __str__(self) -> str:
        return f"{self.kind}: {self.state} · {self.progress}"

    def __repr__(self) -> str:
        return f"TaskEvent({self})"


class TaskReader:
    """What one reader has not read yet. Never more than the states of a task and two events."""

    def __init__(self, newest: Newest, wake: Callable[[], None]) -> None:
        """`wake` is called when there may be an event."""
        self._newest = newest
        self._wake = wake
        self._guard = threading.Lock()
        self._known: TaskJson | None = None
        self._states: deque[TaskEvent] = deque()
        self._preview: TaskEvent | None = None
        self._progress: TaskEvent | None = None

    def hear(self) -> None:
        """Take note of the task as it is now. Any thread may call this."""
        with self._guard:
            # Read in here: of two threads the later one must not bring the older news.
            before, now = self._known, self._newest()
            self._known = now
            if before is None or before["state"] != now["state"]:
                ended = TaskState(now["state"]) in ENDED
                self._states.append(_event("ended" if ended else "state", now, _since(now)))
            if before is not None:
                self._hear_progress(before, now)
        self._wake()

    def _hear_progress(self, before: TaskJson, now: TaskJson) -> None:
        told, tells = (Progress.from_json(each.get("progress")) for each in (before, now))
        if tells.preview > told.preview:
            self._preview = _event("preview", now, time.time())
        if tells.without_preview() != told.without_preview() or now.get("queue") != before.get(
            "queue"
        ):
            self._progress = _event("progress", now, time.time())

    def take(self) -> TaskEvent | None:
        """Return what is to be read next; None if there is nothing now."""
        with self._guard:
            if self._states:
                event = self._states.popleft()
                if event.kind == "ended":
                    # Whoever reads this has no use for how far it was before.
                    self._preview = self._progress = None
                return event
            if self._progress is not None:
                event, self._progress = self._progress, None
                return event
            event_or_none, self._preview = self._preview, None
            return event_or_none


def follow(newest: Newest, listen: Listen, wait: Wait) -> Iterator[TaskEvent]:
    """Go through what happens to a task, from how it is now on, until it has ended."""
    heard = threading.Event()
    reader = TaskReader(newest, heard.set)
    stop = listen(reader.hear)
    try:
        reader.hear()
        while True:
            heard.clear()
            while (event := reader.take()) is not None:
                yield event
                if event.kind == "ended":
                    return
            wait.until(heard)
    finally:
        stop()


async def follow_in_loop(newest: Newest, listen: Listen, wait: Wait) -> AsyncIterator[TaskEvent]:
    """Do as `follow` does, without blocking the event loop that runs."""
    heard = asyncio.Event()
    reader = TaskReader(newest, in_this_loop(heard.set))
    stop = listen(reader.hear)
    try:
        reader.hear()
        while True:
            heard.clear()
            while (event := reader.take()) is not None:
                yield event
                if event.kind == "ended":
                    return
            await wait.until_set(heard)
    finally:
        stop()


def _event(kind: Kind, json: TaskJson, at: float) -> TaskEvent:
    progress = Progress.from_json(json.get("progress"))
    return TaskEvent(kind=kind, state=json["state"], progress=progress, at=at)


def _since(json: TaskJson) -> float:
    """Return since when a task has been in its state, as far as the Jupyter server tells."""
    told = {
        TaskState.REGISTERED: json["created_at"],
        TaskState.QUEUED: None,
        TaskState.RUNNING: json.get("started_at"),
    }
    return told.get(TaskState(json["state"]), json.get("ended_at")) or time.time()
