"""The prompts of one server: waiting, running and finished."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jupyter_comfy_lock.embedded.faults import Faults

MAX_HISTORY = 10_000


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt that was accepted."""

    number: int | float
    prompt_id: str
    prompt: dict[str, dict[str, Any]]
    #: As the client sent it, with `client_id` and `create_time` (ms) added.
    extra_data: dict[str, Any]
    outputs: list[str]

    @property
    def client_id(self) -> Any:
        """Whose events these are; None: everybody's progress, nobody's results."""
        return self.extra_data.get("client_id")

    def as_listed(self) -> list[Any]:
        """Return the five-part list of `/queue` and `/history`."""
        return [self.number, self.prompt_id, self.prompt, self.extra_data, self.outputs]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a prompt ended."""

    #: "success" or "error"; an interrupted prompt is an "error" too.
    status: str
    #: The lasting events, each `[event, data]`.
    messages: list[list[Any]]
    outputs: dict[str, Any]
    meta: dict[str, Any]

    def as_history(self, job: Job) -> dict[str, Any]:
        """Return the entry of `/history`."""
        status = {
            "status_str": self.status,
            "completed": self.status == "success",
            "messages": self.messages,
        }
        return {
            "prompt": job.as_listed(),
            "outputs": self.outputs,
            "status": status,
            "meta": self.meta,
        }


@dataclass(frozen=True, slots=True)
class _Ended:
    entry: dict[str, Any]
    #: Monotonic seconds.
    at_s: float


@dataclass(order=True, slots=True)
class _Place:
    # ComfyUI goes on to compare the prompts themselves when number and id are equal, which
    # ends its worker thread for good. `arrival` is where we are better.
    number: float
    prompt_id: str
    arrival: int
    job: Job = field(compare=False)


class PromptQueue:
    """A heap of waiting prompts, the running one, and the history. Safe from any thread.

    `on_change` is called, with the lock held, after everything that clients are told of by
    a `status` event; it must not block.
    """

    def __init__(self, on_change: Callable[[], None], faults: Faults) -> None:
        self._on_change = on_change
        self._faults = faults
        self._lock = threading.RLock()
        self._filled = threading.Condition(self._lock)
        self._waiting: list[_Place] = []
        self._running: Job | None = None
        self._history: dict[str, _Ended] = {}
        self._arrivals = 0
        self._closed = False
        self._interrupt = False
        self._free_memory = False

    def put(self, job: Job) -> None:
        """Add a prompt."""
        with self._lock:
            place = _Place(float(job.number), job.prompt_id, self._arrivals, job)
            self._arrivals += 1
            heapq.heappush(self._waiting, place)
            self._on_change()
            self._filled.notify_all()

    def take(self) -> Job | None:
        """Wait for work and make it the running prompt.

        None means: no prompt, but look at `free_memory_asked` and `closed`.
        """
        with self._filled:
            while not (self._waiting or self._closed or self._free_memory):
                self._filled.wait()
            if self._closed or self._free_memory:
                return None
            self._running = heapq.heappop(self._waiting).job
            # An interrupt of an idle server does not hit the next prompt.
            self._interrupt = False
            self._on_change()
            return self._running

    def finish(self, job: Job, outcome: Outcome) -> None:
        """Write the history of the running prompt and let the next one run."""
        with self._lock:
            if len(self._history) > MAX_HISTORY:
                self._history.pop(next(iter(self._history)))
            self._history.pop(job.prompt_id, None)
            self._history[job.prompt_id] = _Ended(outcome.as_history(job), time.monotonic())
            self._running = None
            self._on_change()

    def remaining(self) -> int:
        """How many prompts wait or run."""
        with self._lock:
            return len(self._waiting) + (self._running is not None)

    def running(self) -> list[Job]:
        """The running prompt, if any."""
        with self._lock:
            return [self._running] if self._running else []

    def waiting(self) -> list[Job]:
        """The waiting prompts in heap order, as ComfyUI lists them: not in running order."""
        with self._lock:
            return [place.job for place in self._waiting]

    def delete(self, prompt_id: str) -> bool:
        """Remove the first waiting prompt of that id; False if none waits."""
        with self._lock:
            for index, place in enumerate(self._waiting):
                if place.prompt_id == prompt_id:
                    del self._waiting[index]
                    heapq.heapify(self._waiting)
                    self._on_change()
                    if not self._waiting:
                        self._on_change()  # ComfyUI says it twice when it deletes the last one
                    return True
            return False

    def clear(self) -> None:
        """Remove all waiting prompts."""
        with self._lock:
            self._waiting.clear()
            self._on_change()

    def interrupt(self, prompt_id: str | None = None) -> bool:
        """Ask the running prompt to stop, if it is `prompt_id` or that is None."""
        with self._lock:
            hit = prompt_id is None or (
                self._running is not None and self._running.prompt_id == prompt_id
            )
            self._interrupt = self._interrupt or hit
            return hit

    def take_interrupt(self) -> bool:
        """Whether somebody asked to stop; asking is over then."""
        with self._lock:
            asked, self._interrupt = self._interrupt, False
            return asked

    def ask_to_free_memory(self) -> None:
        """Have the worker forget node results before the next prompt."""
        with self._lock:
            self._free_memory = True
            self._filled.notify_all()

    def free_memory_asked(self) -> bool:
        """Whether results should be forgotten; asking is over then."""
        with self._lock:
            asked, self._free_memory = self._free_memory, False
            return asked

    def close(self) -> None:
        """Interrupt what runs and let nothing start any more."""
        with self._lock:
            self._closed = self._interrupt = True
            self._filled.notify_all()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def history(self, max_items: int | None = None, offset: int = -1) -> dict[str, Any]:
        """Return `max_items` entries from `offset`; a negative offset means the newest."""
        with self._lock:
            ids = [x for x, ended in self._history.items() if self._is_told(ended)]
            if max_items is not None:
                start = offset if offset >= 0 else max(0, len(ids) - max_items)
                ids = ids[start : start + max_items]
            elif offset > 0:
                ids = ids[offset:]
            return {x: self._history[x].entry for x in ids}

    def history_of(self, prompt_id: str) -> Mapping[str, Any] | None:
        """Return the entry of a finished prompt."""
        with self._lock:
            ended = self._history.get(prompt_id)
            return ended.entry if ended and self._is_told(ended) else None

    def _is_told(self, ended: _Ended) -> bool:
        return self._faults.tells_of(ended.at_s)

    def forget(self, prompt_id: str) -> None:
        """Remove a history entry, if there is one."""
        with self._lock:
            self._history.pop(prompt_id, None)

    def forget_all(self) -> None:
        """Empty the history."""
        with self._lock:
            self._history.clear()
