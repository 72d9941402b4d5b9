"""The view of a sweep."""

import base64
import io
import logging
from collections.abc import Mapping
from typing import Any

import traitlets

from jupyter_comfy_lock.domain.errors import ComfyLockError
from jupyter_comfy_lock.domain.sweep_state import FLYING, MISSING, CellState, counted
from jupyter_comfy_lock.kernel.sweep import Sweep
from jupyter_comfy_lock.kernel.views import ago
from jupyter_comfy_lock.kernel.widgets.view import View, writer

log = logging.getLogger(__name__)

#: A state is one letter in what the page is told: it is told of every cell, many times.
LETTERS = {
    CellState.WAITING: "w",
    CellState.SENDING: "g",
    CellState.QUEUED: "q",
    CellState.RUNNING: "r",
    CellState.SUCCEEDED: "s",
    CellState.FAILED: "f",
    CellState.CANCELLED: "c",
    CellState.REJECTED: "j",
    CellState.LOST: "l",
    CellState.UNSENT: "u",
}
#: Characters of a reason that are shown.
_LONGEST = 600


class SweepView(View):
    """Shows one sweep: a bar for all, and the pictures in a table under the axes' values.

    What the page is told with each change is small: a letter for each cell and what is new of
    those in flight. The pictures it fetches itself.
    """

    view = traitlets.Unicode("sweep").tag(sync=True)
    #: What to call the ComfyServer.
    label = traitlets.Unicode("").tag(sync=True)
    #: `{"columns": axis, "rows": axis, "blocks": [{"title", "columns", "rows", "cells"}]}`.
    grid = traitlets.Dict().tag(sync=True)
    #: Where the sweep is.
    state = traitlets.Unicode("running").tag(sync=True)
    #: How long it will take, "12 s"; "" if nobody knows.
    left = traitlets.Unicode("").tag(sync=True)
    #: A letter of `LETTERS` for each cell.
    states = traitlets.Unicode("").tag(sync=True)
    #: For each cell its task's id, "" before it is sent, and which of its files is its picture, -1
    #: for none.
    tasks: traitlets.List[Any] = traitlets.List().tag(sync=True)
    pictures: traitlets.List[Any] = traitlets.List().tag(sync=True)
    #: The progress of those that run, as REST shows it, by number.
    progress = traitlets.Dict().tag(sync=True)
    #: Why cells ended as they did: `[reason, numbers]`.
    reasons: traitlets.List[Any] = traitlets.List().tag(sync=True)
    #: Why nothing more is sent, or could not be; "" otherwise.
    note = traitlets.Unicode("").tag(sync=True)

    def __init__(self, sweep: Sweep, **traits: Any) -> None:
        layout = sweep.layout
        super().__init__(
            label=sweep.comfy_id,
            grid={
                "columns": layout.column_axis,
                "rows": layout.row_axis,
                "blocks": [
                    {
                        "title": block.title,
                        "columns": list(block.columns),
                        "rows": list(block.rows),
                        "cells": [list(row) for row in block.cells],
                    }
                    for block in layout.blocks
                ],
            },
            **traits,
        )
        self._sweep = sweep
        self._handle: Any = None
        self._left: dict[str, str] = {}
        self._refused = ""
        self._unlisten = sweep.on_change(lambda: writer.mark(self))
        self.write()

    def show(self) -> None:
        """Show it under the running cell, and leave the sheet there when all has ended."""
        from IPython.display import display  # noqa: PLC0415 - only kernels need it

        self._handle = display(self, display_id=True)  # type: ignore[no-untyped-call]
        self._sweep.on_over(self.leave)

    def write(self) -> None:
        """Show the sweep as it is now."""
        sweep = self._sweep
        cells = list(sweep.cells)
        states = [CellState(cell.state) for cell in cells]
        flying = [
            cell for cell, state in zip(cells, states, strict=True) if state in FLYING and cell.task
        ]
        left_s = sweep.progress.seconds_left
        with self.hold_sync():
            self.label, self.state = sweep.comfy_id, sweep.state
            self.left = "" if left_s is None else ago(left_s)
            self.states = "".join(LETTERS[state] for state in states)
            self.tasks = [cell.task_id or "" for cell in cells]
            self.pictures = [_picture(cell.task.json) if cell.task else -1 for cell in cells]
            self.progress = {str(x.number): x.task.json.get("progress") for x in flying if x.task}
            self.reasons = _reasons(cells, states)
            self.note = self._refused or _short(
                sweep.reason or "" if sweep.state != "cancelled" else ""
            )

    def leave(self) -> None:
        """Put the sheet into the notebook, for where widgets do not show."""
        self._left = {}
        try:
            self._left = _jpeg(self._sweep)
        except (ComfyLockError, OSError) as error:
            log.debug("No sheet is left in the notebook: %s", error)
        self._handle.update(self)

    def close(self) -> None:
        """Remove the view."""
        self._unlisten()
        super().close()

    def answer(self, kind: str, content: Mapping[str, Any]) -> None:
        """Do what a button asks for. What is refused is said in the view."""
        self._refused = ""
        try:
            if kind == "cancel":
                self._sweep.cancel()
            elif kind == "resume":
                self._sweep.go_on()
        except ComfyLockError as error:
            self._refused = error.message
        writer.mark(self)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        shown, about = super()._repr_mimebundle_(**kwargs) or ({}, {})
        return {**shown, **self._left}, about

    def __repr__(self) -> str:
        # The text that is left where widgets do not show; the same for each run of a notebook.
        return f"SweepView({self.label}, {counted(self._sweep.counts)})"


def show(sweep: Sweep) -> None:
    """Show `sweep` under the running cell."""
    SweepView(sweep).show()


def _why_stopped(sweep: Sweep) -> str:
    # Of one that was cancelled the state says it all.
    return "" if sweep.cancelled else _short(sweep.reason or "")


def _picture(task: Any) -> int:
    files = task.get("files") or []
    kinds = [str(each.get("media_type") or "").startswith("image/") for each in files]
    return kinds.index(True) if True in kinds else -1


def _reasons(cells: list[Any], states: list[CellState]) -> list[Any]:
    """Return each reason once, with the cells that it is of: most often all have the same."""
    found: dict[str, list[int]] = {}
    for cell, state in zip(cells, states, strict=True):
        if state in MISSING and cell.why:
            found.setdefault(_short(cell.why), []).append(cell.number)
    return [[why, numbers] for why, numbers in found.items()]


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _jpeg(sweep: Sweep) -> dict[str, str]:
    stream = io.BytesIO()
    sweep.sheet().save(stream, "JPEG", quality=85)
    return {"image/jpeg": base64.b64encode(stream.getvalue()).decode()}
