"""The tasks of this process: one Task object for each, as new as anything heard of it."""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from weakref import WeakValueDictionary

from jupyter_comfy_lock.kernel.task import Home, Task
from jupyter_comfy_lock.kernel.wire import TaskJson

#: News of tasks that nobody here has asked for yet: an event can overtake the reply to a submit.
UNCLAIMED = 256


class TaskBook:
    """Finds the Task object of each task. Thread-safe; forgets those that nobody keeps."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._guard = threading.RLock()
        self._tasks: WeakValueDictionary[str, Task] = WeakValueDictionary()
        self._unclaimed: OrderedDict[str, TaskJson] = OrderedDict()

    def tell(self, json: TaskJson) -> None:
        """Take news of a task in."""
        with self._guard:
            task = self._tasks.get(json["task_id"])
            if task is not None:
                task.hear(json)
                return
            self._unclaimed[json["task_id"]] = json
            self._unclaimed.move_to_end(json["task_id"])
            while len(self._unclaimed) > UNCLAIMED:
                self._unclaimed.popitem(last=False)

    def adopt(self, json: TaskJson) -> Task:
        """Return the one Task object of `json`."""
        with self._guard:
            task = self._tasks.get(json["task_id"])
            if task is None:
                task = self._tasks[json["task_id"]] = Task(self._home, json)
            else:
                task.hear(json)
            heard = self._unclaimed.pop(json["task_id"], None)
            if heard is not None:
                task.hear(heard)
            return task

    def pending_without(self, told: Iterable[str]) -> list[Task]:
        """Return the tasks that go on, except those with the ids `told`."""
        known = set(told)
        with self._guard:
            return [t for t in self._tasks.values() if not t.ended and t.id not in known]
