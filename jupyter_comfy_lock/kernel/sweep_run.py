"""Sending the cells of a sweep: a few at a time, each once, on a thread of their own."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, Protocol
from uuid import uuid4

from jupyter_comfy_lock.domain.errors import (
    BadRequest,
    ComfyLockError,
    ComfyUnreachable,
    NoLock,
    NoServerExtension,
    OtherLock,
    StaleLock,
    StoreUnavailable,
    WrongCredential,
)
from jupyter_comfy_lock.domain.sweep import concerns_all
from jupyter_comfy_lock.domain.sweep_state import Board, CellState, cell_state
from jupyter_comfy_lock.kernel import task_wait
from jupyter_comfy_lock.kernel.client import is_silence
from jupyter_comfy_lock.kernel.task import Task
from jupyter_comfy_lock.kernel.threads import background

log = logging.getLogger(__name__)

#: Seconds between two tries to send to a Jupyter server that does not answer.
AGAIN_S = 1.0
#: How a task ends that was cancelled in a page: by the button of a view, or in the sidebar.
BY_USER = "by the Jupyter user"
_BEFORE_SENT = "before it was sent"

#: After these nothing was sent, for a reason that has to do with no prompt.
_NOT_SENT = (
    *(NoLock, StaleLock, OtherLock, NoServerExtension, WrongCredential),
    *(ComfyUnreachable, StoreUnavailable),
)


class Home(Protocol):
    """What a sweep needs of the session that it belongs to."""

    @property
    def live(self) -> bool:
        """Whether events arrive."""

    def send(self, prompt: dict[str, Any], *, task_id: str, comfy_id: str) -> Task:
        """Send a prompt under an id, to that ComfyServer or nowhere."""

    def task(self, task_id: str) -> Task:
        """Return a task of this kernel's."""

    def refresh(self, task: Task) -> None:
        """Ask for a task's newest state."""

    def cancel(self, task: Task) -> None:
        """Ask for a task's end."""


class SweepRun:
    """Sends prompts to one ComfyServer and hears how they end. Thread-safe.

    A thread of its own sends, so that it goes on while the kernel is busy with a cell, and ends
    when all has ended. It never sends to another ComfyServer than `comfy_id` (R3).
    """

    def __init__(
        self,
        home: Home,
        prompts: Sequence[dict[str, Any]],
        *,
        comfy_id: str,
        in_flight: int,
        places: Collection[tuple[str, str]],
    ) -> None:
        self.comfy_id = comfy_id
        self.over = threading.Event()
        self._home = home
        self._prompts = list(prompts)
        self._places = places
        self._board = Board(len(prompts), in_flight)
        self._tasks: list[Task | None] = [None] * len(prompts)
        #: Each cell's task id, made before it is sent.
        self._ids: list[str | None] = [None] * len(prompts)
        #: Cells of which nobody knows whether they arrived: they keep their id.
        self._unsure: set[int] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._cancelling = False
        self._listeners: list[Callable[[], None]] = []
        self._enders: list[Callable[[], None]] = []
        self._looked_at = self._heard_at = time.monotonic()
        self._began: float = time.monotonic()
        self._ended_before = 0

    # -- what there is to see -------------------------------------------------------------------

    @property
    def board(self) -> Board:
        """The cells. Others than this look only."""
        return self._board

    def task(self, cell: int) -> Task | None:
        """Return the newest task of a cell; None while there is none."""
        return self._tasks[cell]

    def task_id(self, cell: int) -> str | None:
        """Return the id under which a cell was sent last."""
        return self._ids[cell]

    @property
    def pace(self) -> tuple[int, float]:
        """How many cells have ended since the start or the last resume, in how many seconds."""
        flying = len(self._board.flying) + self._board.counts[CellState.WAITING]
        ended = len(self._prompts) - flying - self._ended_before
        return ended, time.monotonic() - self._began

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` after each change, on the thread that hears of it; return its undoing."""
        self._listeners.append(listener)

        def stop() -> None:
            with suppress(ValueError):
                self._listeners.remove(listener)

        return stop

    def on_over(self, ender: Callable[[], None]) -> None:
        """Call `ender` when all has ended, before whoever waits is told; on the sending thread."""
        self._enders.append(ender)

    # -- what can be done -----------------------------------------------------------------------

    def start(self) -> None:
        """Send what waits. Returns at once."""
        with self._changed:
            self._began = self._heard_at = time.monotonic()
            waiting = self._board.counts[CellState.WAITING]
            self._ended_before = len(self._prompts) - waiting - len(self._board.flying)
            self.over.clear()
            if self._thread is None:
                self._thread = background(self._drive, name="comfy-lock-sweep")
                self._thread.start()
            self._changed.notify_all()

    def resume(self, prompts: Sequence[dict[str, Any]] | None, comfy_id: str) -> list[int]:
        """Make what is missing, on `comfy_id`; return which cells that are. New `prompts` if given.

        A cell of which nobody knows whether it arrived is sent under the id that it had: if it
        did, that is its task.
        """
        with self._changed:
            missing = self._board.again()
            if comfy_id != self.comfy_id:
                self._unsure.clear()
            self.comfy_id, self._cancelling = comfy_id, False
            if prompts is not None:
                self._prompts = list(prompts)
            for cell in missing:
                self._tasks[cell] = None
                if cell not in self._unsure:
                    self._ids[cell] = None
        if missing:
            self.start()
            self._tell()
        return missing

    def cancel(self) -> None:
        """End what is in flight, and send nothing more.

        Raises:
            ComfyLockError: one could not be cancelled; the others were.
        """
        with self._changed:
            self._cancelling = True
            self._board.halt(_BEFORE_SENT, cancelled=True)
            going = [task for cell in self._board.flying if (task := self._tasks[cell])]
            self._changed.notify_all()
        self._tell()
        failure: ComfyLockError | None = None
        for task in going:
            try:
                self._home.cancel(task)
            except ComfyLockError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    # -- the thread -----------------------------------------------------------------------------

    def _drive(self) -> None:
        while True:
            with self._changed:
                if self._board.over:
                    self._thread = None
                    break
                cell = self._board.take()
                if cell is None:
                    self._changed.wait(task_wait.POLL_DOWN_S)
            try:
                if cell is None:
                    self._look()
                else:
                    self._send(cell)
            except Exception as error:  # the sweep has to end, whatever is wrong
                log.exception("A sweep was stopped.")
                self._stop(cell, CellState.LOST, f"{type(error).__name__}: {error}")
        for ender in tuple(self._enders):
            try:
                ender()
            except Exception:  # what is shown at the end must not keep whoever waits for it
                log.exception("The end of a sweep could not be shown.")
        with self._changed:
            if self._thread is None:  # not resumed meanwhile
                self.over.set()
        self._tell()

    def _send(self, cell: int) -> None:
        task_id = self._ids[cell] = self._ids[cell] or str(uuid4())
        began = time.monotonic()
        self._tell()
        while True:
            try:
                task = self._home.send(self._prompts[cell], task_id=task_id, comfy_id=self.comfy_id)
            except ComfyLockError as error:
                if not is_silence(error):
                    self._refused(cell, error)
                    return
                # It may have arrived. Under its id it can be sent again without a second run.
                self._unsure.add(cell)
                if self._cancelling or time.monotonic() - began >= task_wait.PATIENCE_S:
                    self._stop(cell, CellState.LOST, error.message)
                    return
            else:
                self._adopt(cell, task)
                return
            with self._changed:
                self._changed.wait_for(lambda: self._cancelling, AGAIN_S)

    def _adopt(self, cell: int, task: Task) -> None:
        with self._changed:
            self._tasks[cell] = task
            self._unsure.discard(cell)
        task.on_change(lambda: self._hear(cell, task))
        self._hear(cell, task)
        if self._cancelling and not task.ended:
            with suppress(ComfyLockError):
                self._home.cancel(task)

    def _refused(self, cell: int, error: ComfyLockError) -> None:
        if isinstance(error, BadRequest) and error.details.get("field") == "task_id":
            self._found(cell)
        elif isinstance(error, _NOT_SENT):
            # What is unsure stays so: the try that nobody heard of may have arrived.
            state = CellState.LOST if cell in self._unsure else CellState.UNSENT
            self._stop(cell, state, error.message)
        elif concerns_all(error.details, self._places):
            self._stop(cell, CellState.REJECTED, error.message)
        else:
            self._end(cell, CellState.REJECTED, error.message)

    def _found(self, cell: int) -> None:
        """Take what became of a cell that arrived before this kernel was made known anew."""
        try:
            task = self._home.task(str(self._ids[cell]))
        except ComfyLockError as error:
            self._unsure.discard(cell)
            self._end(cell, CellState.LOST, error.message)
        else:
            self._adopt(cell, task)

    def _look(self) -> None:
        """Ask how the tasks stand, where no event tells, and now and then where they should."""
        now = time.monotonic()
        every_s = task_wait.POLL_UP_S if self._home.live else task_wait.POLL_DOWN_S * 0.9
        if now - self._looked_at < every_s:
            return
        self._looked_at = now
        for cell in self._board.flying:
            task = self._tasks[cell]
            if task is None or task.ended:
                continue
            try:
                self._home.refresh(task)
                self._heard_at = now
            except NoServerExtension as error:
                if now - self._heard_at >= task_wait.PATIENCE_S:
                    self._unsure.add(cell)
                    self._stop(cell, CellState.LOST, error.message)

    # -- changes --------------------------------------------------------------------------------

    def _hear(self, cell: int, task: Task) -> None:
        with self._changed:
            if self._tasks[cell] is not task:
                return  # of a try before a resume
            moved = self._board.move(cell, cell_state(task.json["state"]), _why(task))
            if moved:
                self._heard_at = time.monotonic()
            if moved and task.ended:
                if task.reason == BY_USER:
                    # Whoever presses Cancel in a page means the sweep: the kernel does not hear
                    # the page itself while it is busy with a cell.
                    self._board.halt(f"{_BEFORE_SENT}, {BY_USER}", cancelled=True)
                self._changed.notify_all()
        self._tell()

    def _end(self, cell: int, state: CellState, why: str) -> None:
        with self._changed:
            self._board.move(cell, state, why)
            self._changed.notify_all()
        self._tell()

    def _stop(self, cell: int | None, state: CellState, why: str) -> None:
        """End a cell, and with it all that has not been sent."""
        with self._changed:
            self._board.halt(why, cancelled=False)
        for each in self._board.flying if cell is None else [cell]:
            self._end(each, state, why)

    def _tell(self) -> None:
        for listener in tuple(self._listeners):
            listener()


def _why(task: Task) -> str:
    error = task.error
    if error is None:
        return task.reason or ""
    kind = (error.exception_type or "").rpartition(".")[2]
    return f"{error.node_class} (node {error.node_id}): {kind}: {error.message}"
