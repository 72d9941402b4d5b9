"""A sweep in the hands of a notebook: one workflow, many values, one sheet of pictures."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from jupyter_comfy_lock.domain.errors import ComfyLockError
from jupyter_comfy_lock.domain.sweep import (
    MAX_CELLS,
    Axis,
    InvalidSweep,
    Layout,
    axes_of,
    cells_of,
    layout_of,
    places_of,
)
from jupyter_comfy_lock.domain.sweep_state import (
    MISSING,
    CellState,
    SweepState,
    counted,
    seconds_left,
)
from jupyter_comfy_lock.domain.workflow.values import close_to, shown
from jupyter_comfy_lock.kernel.api import sendable
from jupyter_comfy_lock.kernel.contact_sheet import ContactSheet
from jupyter_comfy_lock.kernel.session import Session, current
from jupyter_comfy_lock.kernel.show import say_lock, show_sweep
from jupyter_comfy_lock.kernel.sweep_run import SweepRun
from jupyter_comfy_lock.kernel.tables import Listing
from jupyter_comfy_lock.kernel.task import (
    POLL_DOWN_S,
    TICK_S,
    AwaitInterruptedError,
    Task,
    WaitInterrupted,
    WaitTimeoutError,
    at_most,
)
from jupyter_comfy_lock.kernel.views import Tasks, ago
from jupyter_comfy_lock.kernel.workflow import Workflow
from jupyter_comfy_lock.kernel.workflow_source import Source

if TYPE_CHECKING:
    from pandas import DataFrame
    from PIL.Image import Image


class SweepStopped(ComfyLockError):
    """Not all of a sweep was sent, or it cannot go on as things are; the message says why."""

    code = "sweep_stopped"


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


class Cell:
    """One picture of a sweep: its values, and what became of it."""

    def __init__(self, sweep: "Sweep", number: int, values: Mapping[str, Any]) -> None:
        self._sweep = sweep
        #: Its place in `sweep.cells`, from 0.
        self.number = number
        #: The value of each axis.
        self.values = dict(values)

    @property
    def state(self) -> str:
        """waiting, sending, or as its task is; "unsent" when the sweep stopped before it."""
        return self._sweep._run.board.states[self.number].value

    @property
    def why(self) -> str:
        """Why it ended as it did; "" where it succeeded or goes on."""
        return self._sweep._run.board.why(self.number)

    @property
    def task(self) -> Task | None:
        """Its task; None before it is sent."""
        return self._sweep._run.task(self.number)

    @property
    def task_id(self) -> str | None:
        """The id of its task, also of one that was refused."""
        return self._sweep._run.task_id(self.number)

    @property
    def label(self) -> str:
        """Its values in a line: "seed=3, cfg=7"."""
        return ", ".join(f"{name}={text}" for name, text in self.labels.items())

    @property
    def labels(self) -> dict[str, str]:
        """What to call the value of each axis."""
        picked = self._sweep._picked[self.number]
        return {
            axis.name: axis.labels[at] for axis, at in zip(self._sweep.axes, picked, strict=True)
        }

    def __repr__(self) -> str:
        return f"Cell({self.label}: {self.state})"


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
            item.label,
            item.state,
            "" if seconds is None else f"{seconds:.1f}",
            str(files or ""),
            why if len(why) <= 80 else f"{why[:79]}…",
        )


class Sweep:
    """One workflow with each combination of some values, on the ComfyServer locked at the start.

    `comfy.sweep()` makes it. It goes on by itself, also while the kernel is busy; later changes to
    the workflow or the lock do not concern it.
    """

    def __init__(
        self, session: Session, workflow: Workflow, axes: tuple[Axis, ...], *, in_flight: int
    ) -> None:
        self.axes = axes
        self._session = session
        self._workflow = workflow.copy()
        self._picked = cells_of(axes)
        self._places = places_of(axes, workflow.prompt, session.known_specs())
        held = session.ensure_lock(say_lock)
        self._cells = [
            Cell(self, number, {a.name: a.values[at] for a, at in zip(axes, picked, strict=True)})
            for number, picked in enumerate(self._picked)
        ]
        self._run = SweepRun(
            session,
            self._prompts(),
            comfy_id=held.comfy_id,
            in_flight=in_flight,
            places=self._places.values(),
        )
        self._sheet = ContactSheet(self)

    # -- what it is -----------------------------------------------------------------------------

    @property
    def comfy_id(self) -> str:
        """The ComfyServer that it is sent to."""
        return self._run.comfy_id

    @property
    def state(self) -> str:
        """Where it is.

        running, stopping (nothing more is sent), succeeded, failed (not every cell succeeded),
        cancelled, stopped (for a reason that every cell would have met).
        """
        return self._run.board.state.value

    @property
    def ended(self) -> bool:
        """Whether no cell waits or is in flight."""
        return self._run.board.over

    @property
    def reason(self) -> str | None:
        """Why not all was sent; None if it was, or is being sent."""
        stop = self._run.board.stop
        if stop is None:
            return None
        return "it was cancelled" if stop.cancelled else stop.why

    @property
    def progress(self) -> SweepProgress:
        """How far it is."""
        counts = self._run.board.counts
        waiting = counts[CellState.WAITING]
        flying = len(self._run.board.flying)
        ended, elapsed_s = self._run.pace
        left_s = seconds_left(ended, waiting + flying, elapsed_s)
        said = counted(counts)
        if left_s is not None:
            said += f", about {ago(left_s)} left"
        return SweepProgress(
            total=len(self._cells),
            done=counts[CellState.SUCCEEDED],
            failed=sum(
                counts[each] for each in (CellState.FAILED, CellState.REJECTED, CellState.LOST)
            ),
            cancelled=counts[CellState.CANCELLED],
            unsent=counts[CellState.UNSENT],
            in_flight=flying,
            waiting=waiting,
            seconds_left=left_s,
            _said=said,
        )

    @property
    def counts(self) -> Counter[CellState]:
        """How many cells are where."""
        return self._run.board.counts

    @property
    def cells(self) -> Cells:
        """The cells as a table, in the order in which they are sent."""
        return Cells(self._cells)

    @property
    def tasks(self) -> Tasks:
        """The tasks that there are by now, in the order of the cells."""
        return Tasks([task for cell in self._cells if (task := cell.task) is not None])

    @property
    def layout(self) -> Layout:
        """Where the cells are on the sheet."""
        return layout_of(self.axes)

    def cell(self, **values: Any) -> Cell:
        """Return the cell with these values: `sweep.cell(seed=3, cfg=7)`.

        An axis of one value may be left out.

        Raises:
            InvalidSweep: an axis or a value is not of this sweep, or several cells have these.
        """
        names = [axis.name for axis in self.axes]
        found = self._cells
        for name, value in values.items():
            axis = next((each for each in self.axes if each.name == name), None)
            if axis is None:
                hint = close_to(name, names) or f". Its axes: {', '.join(names)}."
                msg = f"This sweep has no axis {name!r}{hint}"
                raise InvalidSweep(msg, axes=names)
            fitting = [each for each in found if _equal(each.values[name], value)]
            if not fitting:
                there = ", ".join(axis.labels)
                msg = f"The axis {name!r} has no value {shown(value)}. It has: {there}."
                raise InvalidSweep(msg, axis=name)
            found = fitting
        if len(found) > 1:
            missing = ", ".join(x.name for x in self.axes if x.name not in values)
            msg = f"{len(found)} cells have these values; say {missing} too."
            raise InvalidSweep(msg, axes=names)
        return found[0]

    # -- waiting --------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> "Sweep":
        """Return the sweep when every cell has ended; wait at most `timeout` seconds.

        Cells that failed raise nothing: they are shown in place, and `cells` has the reasons.
        Ctrl-C and a timeout end the waiting only.

        Raises:
            SweepStopped: it was cancelled, or stopped for a reason that every cell would have met.
            TimeoutError: it has not ended yet.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            # In slices: a Ctrl-C that another thread got is seen when one ends.
            while not self._run.over.wait(at_most(POLL_DOWN_S, deadline)):
                if deadline is not None and time.monotonic() >= deadline:
                    msg = f"not ended after {timeout:g} s. {self._goes_on()}"
                    raise WaitTimeoutError(msg)
        except KeyboardInterrupt:
            msg = f"stopped waiting. {self._goes_on()}"
            raise WaitInterrupted(msg) from None
        return self._outcome()

    def __await__(self) -> Generator[Any, None, "Sweep"]:
        """Wait in a running event loop without blocking it; see `wait` for what it raises."""
        return self._until_over().__await__()

    async def _until_over(self) -> "Sweep":
        loop = asyncio.get_running_loop()
        over = asyncio.Event()

        def wake() -> None:
            if self._run.over.is_set():
                with suppress(RuntimeError):  # that loop is closed: nobody waits there any more
                    loop.call_soon_threadsafe(over.set)

        stop = self._run.on_change(wake)
        wake()
        try:
            while not over.is_set():
                # In ticks, as a task is awaited: ipykernel's interrupt does not wake the loop up.
                with suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), TICK_S)
        except asyncio.CancelledError:
            msg = f"stopped waiting. {self._goes_on()}"
            raise AwaitInterruptedError(msg) from None
        finally:
            stop()
        return self._outcome()

    def cancel(self) -> None:
        """Ask for the end of what is in flight, and send nothing more. Other tasks go on.

        Raises:
            ComfyLockError: a task could not be cancelled; the others were.
        """
        self._run.cancel()

    def resume(self, *, here: bool = False) -> "Sweep":
        """Make what is missing: cells that failed, were cancelled, lost, refused or not sent.

        It goes on where the other pictures were made. `here=True` makes the missing ones on the
        ComfyServer that this kernel has locked now, whichever that is.

        Raises:
            SweepStopped: that ComfyServer is not locked; nothing was sent.
        """
        if self.go_on(here=here):
            show_sweep(self)
        return self

    def go_on(self, *, here: bool = False) -> bool:
        """Resume without showing it anew; return whether there is anything to make."""
        if not any(state in MISSING for state in self._run.board.states):
            return False
        held = self._session.locked()
        if held is None or (held.comfy_id != self.comfy_id and not here):
            raise self._elsewhere(held.comfy_id if held else None)
        # Pictures that belong to the workflow are where it was sent to first.
        prompts = self._prompts() if held.comfy_id != self.comfy_id else None
        self._run.resume(prompts, held.comfy_id)
        return True

    # -- what came of it ------------------------------------------------------------------------

    def sheet(self) -> "Image":
        """Return one picture of all cells, with the axes' values; failures are drawn in place."""
        return self._sheet.draw()

    def save(self, path: str | Path) -> Path:
        """Write the sheet to `path`, as PNG with the values of each cell in it; return where it is.

        It carries the workflow too: `comfy.Workflow.load()` takes it.
        """
        return self._sheet.save(Path(path).expanduser())

    def to_dataframe(self) -> "DataFrame":
        """Return a row per cell: the axes, state, seconds, task_id, comfy_id, error, files.

        Raises:
            ComfyLockError: pandas is not installed.
        """
        try:
            import pandas as pd  # noqa: PLC0415 - only who wants one needs it
        except ImportError as error:
            msg = (
                "to_dataframe() needs pandas, which this kernel's Python does not have: `%pip "
                "install pandas`. sweep.cells shows the same as a table."
            )
            raise ComfyLockError(msg) from error
        rows = [self.record(cell) for cell in self._cells]
        return pd.DataFrame(rows)

    def record(self, cell: Cell) -> dict[str, Any]:
        """Return all that is known of a cell, as plain values but for those of the axes."""
        task = cell.task
        files = (task.json.get("files") or []) if task is not None else []
        return {
            **cell.values,
            "state": cell.state,
            "seconds": task.seconds if task is not None else None,
            "task_id": cell.task_id,
            "comfy_id": task.comfy_id if task is not None else None,
            "error": cell.why or None,
            "files": [each["filename"] for each in files],
        }

    @property
    def prompt(self) -> dict[str, Any]:
        """The workflow as it was at the start, without the axes' values, in API format."""
        return self._workflow.prompt

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` after each change, on the thread that hears of it; return its undoing."""
        return self._run.on_change(listener)

    def on_over(self, ender: Callable[[], None]) -> None:
        """Call `ender` when every cell has ended, before whoever waits is told."""
        self._run.on_over(ender)

    def start(self) -> None:
        """Send the cells. Returns at once."""
        self._run.start()

    # -- words ----------------------------------------------------------------------------------

    def _prompts(self) -> list[dict[str, Any]]:
        """Return what to send for each cell; pictures among the values are uploaded, each once."""
        made = []
        for cell in self._cells:
            changed = self._workflow.copy()
            for name, value in cell.values.items():
                node_id, input_name = self._places[name]
                changed._set(node_id, input_name, value)
            made.append(sendable(changed.ready()))
        return made

    def _outcome(self) -> "Sweep":
        state = self._run.board.state
        if state not in (SweepState.CANCELLED, SweepState.STOPPED):
            return self
        how = "was cancelled." if state is SweepState.CANCELLED else f"stopped: {self.reason}"
        msg = f"{self._name()} {how}\n{self.progress}. sweep.resume() makes what is missing."
        raise SweepStopped(msg, comfy_id=self.comfy_id, reason=self.reason)

    def _elsewhere(self, locked: str | None) -> SweepStopped:
        states = self._run.board.states
        missing = sum(state in MISSING for state in states)
        there = f'comfy.lock("{self.comfy_id}") and sweep.resume() make the missing {missing} there'
        if locked is None:
            msg = f"Nothing was sent: {self._name()} needs its lock, and none is held. {there}."
        else:
            msg = (
                f"Nothing was sent: the {len(states) - missing} pictures so far were made on "
                f"{self.comfy_id}, and this kernel has locked {locked} now. {there}; "
                f"sweep.resume(here=True) makes them on {locked}."
            )
        return SweepStopped(msg, comfy_id=self.comfy_id, locked=locked)

    def _name(self) -> str:
        return f"The sweep over {' and '.join(axis.name for axis in self.axes)} on {self.comfy_id}"

    def _goes_on(self) -> str:
        return (
            f"{self._name()} goes on ({self.progress}): sweep.wait() waits again, sweep.cancel() "
            "ends it."
        )

    def __len__(self) -> int:
        return len(self._cells)

    def __repr__(self) -> str:
        # No ids and no seconds: a notebook run twice shows the same text twice.
        axes = ", ".join(f"{len(axis.values)} {axis.name}" for axis in self.axes)
        return f"Sweep({self.comfy_id}, {axes}: {counted(self.counts)})"


def sweep(
    workflow: Source | Workflow,
    /,
    *,
    in_flight: int = 4,
    max_cells: int = MAX_CELLS,
    **axes: Any,
) -> Sweep:
    """Run a workflow with each combination of some values; show the pictures as they come.

    `comfy.sweep(wf, seed=range(8), cfg=[4, 7])` makes 16. Axes are named as for `Workflow.set`;
    the first goes to the right on the sheet, the second down. It returns at once: `wait()` or
    `await` it. At most `in_flight` are at the ComfyServer at a time, so that others who share it
    get their turn. Without a lock one is taken as by `lock()`, and a line says which.

    Raises:
        InvalidSweep: the axes make no sweep, or more than `max_cells` cells; nothing was sent.
        InvalidWorkflow: a name means nothing or several things, or a value does not fit.
        StaleLock: this kernel had a lock and lost it; nothing was sent.
    """
    if isinstance(in_flight, bool) or not isinstance(in_flight, int) or in_flight < 1:
        msg = f"in_flight must be a whole number from 1, not {in_flight!r}."
        raise InvalidSweep(msg)
    checked = axes_of(axes, max_cells=max_cells)
    loaded = workflow if isinstance(workflow, Workflow) else Workflow.load(workflow)
    made = Sweep(current(), loaded, checked, in_flight=in_flight)
    show_sweep(made)
    made.start()
    return made


def _equal(one: Any, other: Any) -> bool:
    if one is other:
        return True
    with suppress(TypeError, ValueError):  # arrays compare value by value
        return bool(one == other)
    return False
