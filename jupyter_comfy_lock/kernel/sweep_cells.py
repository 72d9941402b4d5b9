"""The cells of a sweep, as its user has them, and how far all of them are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jupyter_comfy_lock.domain.sweep_state import CellState, counted, seconds_left
from jupyter_comfy_lock.kernel.sweep_run import SweepRun
from jupyter_comfy_lock.kernel.tables import Listing
from jupyter_comfy_lock.kernel.task import Task
from jupyter_comfy_lock.kernel.views import ago


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SweepProgress:
    """How many cells of a sweep are where."""

    total: int
    done: int
    #: Failed, rejected or lost.
    failed: int
    cancelled: int
    unsent: int
    in_flight: int
    waiting: int
    #: None while nobody knows.
    seconds_left: float | None
    _said: str = ""

    def __str__(self) -> str:
        return self._said

    __repr__ = __str__


def progress_of(run: SweepRun) -> SweepProgress:
    """Return how far the cells of `run` are."""
    counts = run.board.counts
    waiting, flying = counts[CellState.WAITING], len(run.board.flying)
    ended, elapsed_s = run.pace
    left_s = seconds_left(ended, waiting + flying, elapsed_s)
    left = "" if left_s is None else f", about {ago(left_s)} left"
    failed = (CellState.FAILED, CellState.REJECTED, CellState.LOST)
    return SweepProgress(
        total=sum(counts.values()),
        done=counts[CellState.SUCCEEDED],
        failed=sum(counts[each] for each in failed),
        cancelled=counts[CellState.CANCELLED],
        unsent=counts[CellState.UNSENT],
        in_flight=flying,
        waiting=waiting,
        seconds_left=left_s,
        _said=counted(counts) + left,
    )


class Cell:
    """One picture of a sweep: its values, and what became of it."""

    def __init__(
        self, run: SweepRun, number: int, values: Mapping[str, Any], labels: Mapping[str, str]
    ) -> None:
        self._run = run
        #: Its place in `sweep.cells`, from 0.
        self.number = number
        #: The value of each axis, and what to call it.
        self.values = dict(values)
        self.labels = dict(labels)

    @property
    def state(self) -> str:
        """waiting, sending, or as its task is; "unsent" when the sweep stopped before it."""
        return self._run.board.states[self.number].value

    @property
    def why(self) -> str:
        """Why it ended as it did; "" where it succeeded or goes on."""
        return self._run.board.why(self.number)

    @property
    def task(self) -> Task | None:
        """Its task; None before it is sent."""
        return self._run.task(self.number)

    @property
    def task_id(self) -> str | None:
        """The id of its task, also of one that was refused."""
        return self._run.task_id(self.number)

    def record(self) -> dict[str, Any]:
        """Return all that is known of it: a row for pandas."""
        task = self.task
        files = (task.json.get("files") or []) if task is not None else []
        return {
            **self.values,
            "state": self.state,
            "seconds": task.seconds if task is not None else None,
            "task_id": self.task_id,
            "comfy_id": task.comfy_id if task is not None else None,
            "error": self.why or None,
            "files": [each["filename"] for each in files],
        }

    def __str__(self) -> str:
        return ", ".join(f"{name}={text}" for name, text in self.labels.items())

    def __repr__(self) -> str:
        return f"Cell({self}: {self.state})"


class Cells(Listing[Cell]):
    """The cells of a sweep, in the order in which they are sent."""

    columns: ClassVar[tuple[str, ...]] = ("values", "state", "seconds", "files", "why")

    def row(self, item: Cell) -> tuple[str, ...]:
        """Return the cells of a row."""
        task = item.task
        seconds = task.seconds if task is not None else None
        files = len(task.json.get("files") or []) if task is not None else 0
        why = " ".join(item.why.split())
        return (
            str(item),
            item.state,
            "" if seconds is None else f"{seconds:.1f}",
            str(files or ""),
            why if len(why) <= 80 else f"{why[:79]}…",
        )
