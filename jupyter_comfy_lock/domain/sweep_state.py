"""Where the cells of a sweep are, and which may be sent next."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from jupyter_comfy_lock.domain.task import TaskState


class CellState(StrEnum):
    """Where a cell is: waiting, in flight as its task is, or at an end."""

    WAITING = "waiting"
    SENDING = "sending"  #: on its way under an id that it keeps; it may have arrived
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    LOST = "lost"
    UNSENT = "unsent"  #: the sweep stopped before it was sent


FLYING = frozenset({CellState.SENDING, CellState.QUEUED, CellState.RUNNING})
_ENDS = frozenset(CellState) - FLYING - {CellState.WAITING}
#: What `resume` makes.
MISSING = _ENDS - {CellState.SUCCEEDED}
_BY_TASK = _ENDS - {CellState.UNSENT}
#: The way back from an end is a resume.
TRANSITIONS: Mapping[CellState, frozenset[CellState]] = {
    CellState.WAITING: frozenset({CellState.SENDING, CellState.CANCELLED, CellState.UNSENT}),
    CellState.SENDING: (FLYING | _ENDS) - {CellState.SENDING},
    CellState.QUEUED: _BY_TASK | {CellState.RUNNING},
    CellState.RUNNING: _BY_TASK,
    CellState.SUCCEEDED: frozenset(),
    **dict.fromkeys(MISSING, frozenset({CellState.WAITING})),
}


class SweepState(StrEnum):
    """Where a sweep is."""

    RUNNING = "running"
    STOPPING = "stopping"  #: nothing more is sent; what is in flight has not ended
    SUCCEEDED = "succeeded"
    FAILED = "failed"  #: all has ended, and not every cell has succeeded
    CANCELLED = "cancelled"
    STOPPED = "stopped"  #: for a reason that every cell would have met


@dataclass(frozen=True, slots=True)
class Stop:
    """Why nothing more is sent. `cancelled`: because somebody wanted it."""

    why: str
    cancelled: bool


class Board:
    """The cells of a sweep, by number. At most `in_flight` are on the way at a time."""

    def __init__(self, count: int, in_flight: int) -> None:
        self.in_flight = in_flight
        self._states = [CellState.WAITING] * count
        self._why = [""] * count
        self.stop: Stop | None = None

    @property
    def states(self) -> tuple[CellState, ...]:
        """Where each cell is."""
        return tuple(self._states)

    def why(self, cell: int) -> str:
        """Return why a cell ended as it did."""
        return self._why[cell]

    @property
    def counts(self) -> Counter[CellState]:
        """How many cells are where."""
        return Counter(self._states)

    @property
    def over(self) -> bool:
        """Whether every cell is at an end."""
        return all(state in _ENDS for state in self._states)

    @property
    def state(self) -> SweepState:
        """Where the sweep is."""
        if not self.over:
            return SweepState.RUNNING if self.stop is None else SweepState.STOPPING
        if all(state is CellState.SUCCEEDED for state in self._states):
            return SweepState.SUCCEEDED
        if self.stop is None:
            return SweepState.FAILED
        return SweepState.CANCELLED if self.stop.cancelled else SweepState.STOPPED

    @property
    def flying(self) -> list[int]:
        """The cells that are on the way."""
        return [cell for cell, state in enumerate(self._states) if state in FLYING]

    def take(self) -> int | None:
        """Return the next cell to send, which is SENDING from now on; None: none, or not yet."""
        if self.stop is not None or len(self.flying) >= self.in_flight:
            return None
        for cell, state in enumerate(self._states):
            if state is CellState.WAITING:
                self._states[cell] = CellState.SENDING
                return cell
        return None

    def move(self, cell: int, to: CellState, why: str = "") -> bool:
        """Move a cell; say whether it did. News that comes after the end changes nothing."""
        if to not in TRANSITIONS[self._states[cell]] or to is CellState.WAITING:
            return False
        self._states[cell], self._why[cell] = to, why
        return True

    def halt(self, why: str, *, cancelled: bool) -> bool:
        """Send nothing more; say whether that is new. The first reason is the one that counts."""
        if self.stop is not None or self.over:
            return False
        self.stop = Stop(why, cancelled)
        to = CellState.CANCELLED if cancelled else CellState.UNSENT
        for cell, state in enumerate(self._states):
            if state is CellState.WAITING:
                self.move(cell, to, why)
        return True

    def again(self) -> list[int]:
        """Have all that is missing made; return which cells that are."""
        missing = [cell for cell, state in enumerate(self._states) if state in MISSING]
        for cell in missing:
            self._states[cell], self._why[cell] = CellState.WAITING, ""
        self.stop = None
        return missing


def cell_state(task_state: str) -> CellState:
    """Return where a cell is whose task is in `task_state`."""
    state = TaskState(task_state)
    return CellState.QUEUED if state is TaskState.REGISTERED else CellState(state.value)


def counted(counts: Mapping[CellState, int]) -> str:
    """Say how many cells are where: "5 of 16 done, 1 failed, 4 in flight"."""
    total = sum(counts.values())
    flying = sum(counts.get(state, 0) for state in FLYING)
    parts = [f"{counts.get(CellState.SUCCEEDED, 0)} of {total} done"]
    for state, word in (
        (CellState.FAILED, "failed"),
        (CellState.REJECTED, "rejected"),
        (CellState.LOST, "lost"),
        (CellState.CANCELLED, "cancelled"),
        (CellState.UNSENT, "not sent"),
    ):
        if counts.get(state):
            parts.append(f"{counts[state]} {word}")
    if flying:
        parts.append(f"{flying} in flight")
    if counts.get(CellState.WAITING):
        parts.append(f"{counts[CellState.WAITING]} waiting")
    return ", ".join(parts)


def seconds_left(ended: int, left: int, elapsed_s: float) -> float | None:
    """Return how long `left` cells will take if `ended` took `elapsed_s`; None: nobody knows."""
    return None if ended < 1 or left < 1 else elapsed_s / ended * left
