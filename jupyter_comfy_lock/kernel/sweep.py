"""A sweep in the hands of a notebook: one workflow, many values, one sheet of pictures."""

import asyncio
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
)
from jupyter_comfy_lock.domain.workflow.values import close_to, shown
from jupyter_comfy_lock.kernel.api import sendable
from jupyter_comfy_lock.kernel.bad_input import checked_seconds
from jupyter_comfy_lock.kernel.contact_sheet import ContactSheet
from jupyter_comfy_lock.kernel.session import Session, current
from jupyter_comfy_lock.kernel.show import say_lock, show_sweep
from jupyter_comfy_lock.kernel.sweep_cells import Cell, Cells, SweepProgress, progress_of
from jupyter_comfy_lock.kernel.sweep_run import SweepRun
from jupyter_comfy_lock.kernel.task_wait import TIMEOUT, Lookout, Wait, in_this_loop
from jupyter_comfy_lock.kernel.views import Tasks
from jupyter_comfy_lock.kernel.workflow import Workflow
from jupyter_comfy_lock.kernel.workflow_source import Source

if TYPE_CHECKING:
    from pandas import DataFrame
    from PIL.Image import Image


class SweepStopped(ComfyLockError):
    """Not all of a sweep was sent, or it cannot go on as things are; the message says why."""

    code = "sweep_stopped"


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
        self._places = places_of(axes, workflow.prompt, session.known_specs())
        held = session.ensure_lock(say_lock)
        self._values = [
            {axis.name: axis.values[at] for axis, at in zip(axes, picked, strict=True)}
            for picked in cells_of(axes)
        ]
        self._run = SweepRun(
            session,
            self._prompts(),
            comfy_id=held.comfy_id,
            in_flight=in_flight,
            places=self._places.values(),
        )
        self._cells = [
            Cell(
                self._run,
                number,
                self._values[number],
                {axis.name: axis.labels[at] for axis, at in zip(axes, picked, strict=True)},
            )
            for number, picked in enumerate(cells_of(axes))
        ]
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
    def cancelled(self) -> bool:
        """Whether somebody wanted that nothing more is sent."""
        stop = self._run.board.stop
        return stop is not None and stop.cancelled

    @property
    def progress(self) -> SweepProgress:
        """How far it is."""
        return progress_of(self._run)

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
        self._wait(timeout).until(self._run.over)
        return self._outcome()

    def __await__(self) -> Generator[Any, None, "Sweep"]:
        """Wait in a running event loop without blocking it; see `wait` for what it raises."""
        return self._until_over().__await__()

    async def _until_over(self) -> "Sweep":
        over = asyncio.Event()
        set_over = in_this_loop(over.set)

        def wake() -> None:
            if self._run.over.is_set():
                set_over()

        stop = self._run.on_change(wake)
        wake()
        try:
            await self._wait(None).until_set(over)
        finally:
            stop()
        return self._outcome()

    def _wait(self, timeout: object) -> Wait:
        return Wait(
            Lookout(lambda: None, lambda: True),  # who sends looks after what was sent
            what=self._name(),
            goes_on=self._goes_on,
            timeout=checked_seconds(timeout, TIMEOUT),
        )

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

    def save_pictures(self, template: str = "{filename}", folder: str | Path = ".") -> list[Path]:
        """Write the files of each cell that succeeded into `folder`; return where they are.

        `template` is as of `Task.save`, so it knows the values: `"{seed}_{cfg}.{ext}"`.

        Raises:
            NotSaved: a field is unknown, or another file has a name already. What was written
                before stays.
        """
        done = [cell.task for cell in self._cells if cell.state == CellState.SUCCEEDED]
        return [path for task in done if task for path in task.save(template, folder)]

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
        return pd.DataFrame([cell.record() for cell in self._cells])

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
        for values in self._values:
            changed = self._workflow.copy()
            for name, value in values.items():
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
