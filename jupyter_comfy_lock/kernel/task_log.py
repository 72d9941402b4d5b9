"""The log of a task: what happened to it, a line each."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import ClassVar

from jupyter_comfy_lock.domain.task import ENDED, TaskState
from jupyter_comfy_lock.kernel.results import NodeError, Progress
from jupyter_comfy_lock.kernel.tables import Listing
from jupyter_comfy_lock.kernel.wire import TaskJson


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One thing that happened; `at` in seconds since the epoch."""

    at: float
    what: str
    #: How long it took, where that is known.
    seconds: float | None = None

    def __str__(self) -> str:
        took = "" if self.seconds is None else f" ({self.seconds:.2f} s)"
        return f"{_clock(self.at)} {self.what}{took}"


class TaskLog(Listing[LogLine]):
    """What happened to a task, in order."""

    columns: ClassVar[tuple[str, ...]] = ("at", "what", "seconds")
    nothing: ClassVar[str] = "Nothing is known of this task."

    def row(self, item: LogLine) -> tuple[str, ...]:
        """Return the cells of a line."""
        return (_clock(item.at), item.what, "" if item.seconds is None else f"{item.seconds:.2f}")


class Diary:
    """Writes down what is heard of a task. One thread at a time."""

    def __init__(self) -> None:
        self._lines: list[LogLine] = []
        self._state: TaskState | None = None
        self._place: str | None = None
        self._node: str | None = None
        #: The number of the line of that node.
        self._node_line = 0
        #: How many previews there were, and when the newest came.
        self._previews: tuple[int, float] = (0, 0.0)

    def hear(self, json: TaskJson, *, at: float | None = None) -> None:
        """Take note of a task as it is, `at` seconds since the epoch; left out: now."""
        now = time.time() if at is None else at
        state, progress = TaskState(json["state"]), Progress.from_json(json.get("progress"))
        if self._state is None:
            self._write(json["created_at"], f"registered for {json['comfy_id']}")
        self._hear_queue(state, json, now)
        began = json.get("started_at")
        if began is not None and self._state in (None, TaskState.REGISTERED, TaskState.QUEUED):
            self._write(began, "running")
        elif state is TaskState.RUNNING and self._state is not state:
            self._write(now, "running")
        if progress.preview > self._previews[0]:
            self._previews = (progress.preview, now)
        if state in ENDED:
            if self._state not in ENDED:
                self._hear_end(state, json, json.get("ended_at") or now)
        elif progress.node_id != self._node:
            self._hear_node(progress, now)
        self._state = state

    def lines(self) -> Sequence[LogLine]:
        """Return what has been written so far."""
        count, at = self._previews
        shown = list(self._lines)
        if count:
            last = len(shown) - (self._state in ENDED)
            shown.insert(last, LogLine(at=at, what=f"{count} preview{'s' * (count > 1)}"))
        return shown

    def _write(self, at: float, what: str, seconds: float | None = None) -> None:
        self._lines.append(LogLine(at=at, what=what, seconds=seconds))

    def _hear_queue(self, state: TaskState, json: TaskJson, now: float) -> None:
        if state is not TaskState.QUEUED:
            return
        place = _place(json.get("queue"))
        if place != self._place:
            self._place = place
            self._write(now, place)

    def _hear_node(self, progress: Progress, now: float) -> None:
        self._end_node(now)
        self._node = progress.node_id
        if progress.node_id is not None:
            self._node_line = len(self._lines)
            self._write(now, f"node {progress.node_id} ({progress.node_class or 'unknown'})")

    def _end_node(self, now: float) -> None:
        if self._node is None:
            return
        self._node, line = None, self._lines[self._node_line]
        self._lines[self._node_line] = replace(line, seconds=max(0.0, now - line.at))

    def _hear_end(self, state: TaskState, json: TaskJson, ended: float) -> None:
        self._end_node(ended)
        began, error = json.get("started_at"), json.get("error")
        why = json.get("reason") or ""
        if error:
            why = NodeError.from_json(error).headline
        cached = " (all from ComfyUI's cache)" if json.get("cached") else ""
        what = f"{state.value}{cached}" + (f": {why}" if why and why != state.value else "")
        self._write(ended, what, None if began is None else max(0.0, ended - began))


def _place(queue: dict[str, int] | None) -> str:
    if not queue:
        return "queued"
    ahead, mine = queue.get("ahead", 0), queue.get("ahead_mine", 0)
    if not ahead:
        return "queued, next"
    whose = "all" if mine == ahead else str(mine) if mine else "none"
    return f"queued behind {ahead} ({whose} of this kernel)"


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at).strftime("%H:%M:%S.%f")[:-3]
