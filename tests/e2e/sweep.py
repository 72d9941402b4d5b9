"""A long run of many small jobs, as a careful program does it: `python -m tests.e2e.sweep 200`.

It goes on when its Jupyter server dies and comes back. At the end it prints which task did each
job; a job of which it does not know whether it was done is looked up and not just done again.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import jupyter_comfy_lock as comfy

#: Jobs that are on their way at the same time.
AT_ONCE = 10
T = TypeVar("T")


def prefix(job: int) -> str:
    """What the file of a job begins with."""
    return f"job-{job}-"


def workflow(job: int) -> dict[str, Any]:
    """A picture that takes a moment, and that no other job makes."""
    steps = {"steps": 2, "delay": 0.01, "preview": False, "seed": job}
    return {
        "1": {"class_type": "TrSteps", "inputs": steps},
        "2": {
            "class_type": "SaveImage",
            "inputs": {"images": ["1", 0], "filename_prefix": prefix(job)},
        },
    }


class Sweep:
    """What is to be done, on its way, and done."""

    def __init__(self, count: int) -> None:
        self.todo = deque(range(count))
        self.under_way: deque[tuple[int, comfy.Task]] = deque()
        self.known: set[str] = set()
        self.done: dict[int, str] = {}
        self.restarts = 0

    def run(self) -> None:
        comfy.lock("gpu-1")
        while self.todo or self.under_way:
            if self.todo and len(self.under_way) < AT_ONCE:
                self.submit(self.todo.popleft())
            else:
                self.wait(*self.under_way.popleft())

    def submit(self, job: int) -> None:
        try:
            task = comfy.submit(workflow(job))
        except (comfy.NoServerExtension, comfy.StaleLock):
            self.restarts += 1
            self.todo.append(job)
            persist(lambda: comfy.lock("gpu-1", wait=60))
            self.look_up()
        else:
            self.known.add(task.id)
            self.under_way.append((job, task))

    def wait(self, job: int, task: comfy.Task) -> None:
        try:
            persist(task.wait)
        except (comfy.TaskCancelled, comfy.TaskLost):
            self.todo.append(job)
        else:
            assert job not in self.done
            self.done[job] = task.id

    def look_up(self) -> None:
        """Find what was submitted without an answer; what of it was done, is."""
        for task in persist(comfy.tasks):
            if task.id in self.known:
                continue
            self.known.add(task.id)
            try:
                persist(task.wait)
            except (comfy.TaskCancelled, comfy.TaskLost, comfy.PromptRejected):
                continue
            (file,) = task.files
            job = next(x for x in self.todo if file.filename.startswith(prefix(x)))
            self.todo.remove(job)
            self.done[job] = task.id


def persist(call: Callable[[], T]) -> T:
    """Do it when the Jupyter server is there."""
    while True:
        try:
            return call()
        except comfy.NoServerExtension:
            time.sleep(0.1)


if __name__ == "__main__":
    sweep = Sweep(int(sys.argv[1]))
    sweep.run()
    print(json.dumps({"done": sweep.done, "restarts": sweep.restarts}))
