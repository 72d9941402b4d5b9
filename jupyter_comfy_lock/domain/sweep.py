"""A sweep: one workflow, many values. Its axes, its cells, and how they lie on a sheet."""

import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from jupyter_comfy_lock.domain.errors import ComfyLockError
from jupyter_comfy_lock.domain.workflow.nodes import NodeSpec
from jupyter_comfy_lock.domain.workflow.parameters import find_parameter
from jupyter_comfy_lock.domain.workflow.values import shown

#: More cells are more often a slip than a wish: `max_cells` says that they are one.
MAX_CELLS = 256
#: Columns side by side on a sheet; more go on below.
WIDEST = 12
#: Characters of a label.
LONGEST_LABEL = 60


class InvalidSweep(ComfyLockError, ValueError):
    """The axes make no sweep; nothing was sent."""

    code = "invalid_sweep"
    http_status_hint = 400


@dataclass(frozen=True, slots=True)
class Axis:
    """A parameter and the values that it takes in turn."""

    #: As `Workflow.set` takes it: "seed", "3.seed", "prompt".
    name: str
    values: tuple[Any, ...]
    #: What to call each value; no two are the same.
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """A table of cells. A sheet has one, or several below each other."""

    #: The values of the third and further axes, "" where there are none.
    title: str
    #: Labels; of the rows none if there is no second axis.
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    #: The numbers of the cells, row by row.
    cells: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the cells are on a sheet: the first axis goes right, the second down."""

    column_axis: str
    #: "" where there is one axis only.
    row_axis: str
    blocks: tuple[Block, ...]


def axes_of(given: Mapping[str, object], *, max_cells: int = MAX_CELLS) -> tuple[Axis, ...]:
    """Return the axes that a person gave, if they make a sweep.

    Raises:
        InvalidSweep: there is none, one is no list, is empty or has a value twice, or the cells
            are more than `max_cells`.
    """
    if isinstance(max_cells, bool) or not isinstance(max_cells, int) or max_cells < 1:
        msg = f"max_cells must be a whole number from 1, not {max_cells!r}."
        raise InvalidSweep(msg)
    if not given:
        msg = "A sweep needs values to sweep over: comfy.sweep(workflow, seed=range(8))."
        raise InvalidSweep(msg)
    axes = tuple(_axis(name, values, max_cells) for name, values in given.items())
    count = math.prod(len(axis.values) for axis in axes)
    if count > max_cells:
        sizes = " times ".join(f"{len(axis.values)} ({axis.name})" for axis in axes)
        msg = (
            f"That are {count} cells, {sizes}, and at most {max_cells} are sent unless you say "
            f"so: max_cells={count}."
        )
        raise InvalidSweep(msg, cells=count, max_cells=max_cells)
    return axes


def cells_of(axes: Sequence[Axis]) -> list[tuple[int, ...]]:
    """Return for each cell the numbers of its values, an entry per axis, in reading order.

    The first axis goes fastest, as one reads a sheet.
    """
    turned = itertools.product(*(range(len(axis.values)) for axis in reversed(axes)))
    return [tuple(reversed(each)) for each in turned]


def places_of(
    axes: Sequence[Axis], prompt: Mapping[str, Any], specs: Mapping[str, NodeSpec] | None = None
) -> dict[str, tuple[str, str]]:
    """Return the node and the input that each axis means.

    Raises:
        InvalidWorkflow: a name means nothing or several things.
        InvalidSweep: two axes mean the same.
    """
    places: dict[str, tuple[str, str]] = {}
    for axis in axes:
        place = find_parameter(prompt, axis.name, specs)
        for other, taken in places.items():
            if taken == place:
                msg = (
                    f"The axes {other!r} and {axis.name!r} are the same parameter: input "
                    f"{place[1]!r} of node {place[0]}. Leave one out."
                )
                raise InvalidSweep(msg, axes=[other, axis.name])
        places[axis.name] = place
    return places


def layout_of(axes: Sequence[Axis]) -> Layout:
    """Return where the cells of `axes` are on a sheet."""
    first, further = axes[0], axes[2:]
    down = axes[1] if len(axes) > 1 else None
    width, height = len(first.values), len(down.values) if down else 1
    turned = itertools.product(*(range(len(axis.values)) for axis in reversed(further)))
    blocks = []
    for page, picked in enumerate(turned):
        title = ", ".join(
            f"{axis.name} = {axis.labels[n]}"
            for axis, n in zip(further, reversed(picked), strict=True)
        )
        for start in range(0, width, WIDEST):
            across = range(start, min(start + WIDEST, width))
            numbers = tuple(
                tuple((page * height + row) * width + column for column in across)
                for row in range(height)
            )
            columns = tuple(first.labels[column] for column in across)
            blocks.append(Block(title, columns, down.labels if down else (), numbers))
    return Layout(first.name, down.name if down else "", tuple(blocks))


def concerns_all(details: Mapping[str, Any], places: Iterable[tuple[str, str]]) -> bool:
    """Whether the refusal of one cell, with these details of its error, is that of every cell.

    What is wrong in a node that has an axis may be right with another value; what is wrong
    anywhere else, or with the prompt as a whole, is wrong in each cell.
    """
    named = details.get("node_errors") or ()
    blamed = {str(each) for each in named} if isinstance(named, Mapping) else set()
    if details.get("node_id") is not None:
        blamed.add(str(details["node_id"]))
    return blamed.isdisjoint(node_id for node_id, _ in places)


def _axis(name: str, given: object, max_cells: int) -> Axis:
    values = _values(name, given, max_cells)
    if not values:
        msg = f"The axis {name!r} is empty: give at least one value."
        raise InvalidSweep(msg, axis=name)
    for at, value in enumerate(values):
        for before in range(at):
            if _same(values[before], value):
                msg = (
                    f"The axis {name!r} has the value {shown(value)} twice, at places {before + 1} "
                    f"and {at + 1}: both would make the same picture."
                )
                raise InvalidSweep(msg, axis=name)
    return Axis(name, values, _labels(values))


def _values(name: str, given: object, max_cells: int) -> tuple[Any, ...]:
    if isinstance(given, str | bytes):
        msg = f"The axis {name!r} is one text; for one value write {name}=[{shown(given)}]."
        raise InvalidSweep(msg, axis=name)
    if isinstance(given, Mapping | AbstractSet):
        msg = f"The axis {name!r} is a {type(given).__name__}, which has no order: give a list."
        raise InvalidSweep(msg, axis=name)
    # A number or a picture; an array of no dimension can be iterated by its looks only.
    if not isinstance(given, Iterable) or getattr(given, "ndim", 1) == 0:
        msg = f"The axis {name!r} is no list but one value; write [{shown(given)}] for that one."
        raise InvalidSweep(msg, axis=name)
    # Not the whole of what may have no end.
    values = tuple(_plain(each) for each in itertools.islice(given, max_cells + 1))
    if len(values) > max_cells:
        try:
            many = str(len(given))  # type: ignore[arg-type]
        except TypeError:
            many = f"more than {max_cells}"
        msg = (
            f"The axis {name!r} has {many} values, and at most {max_cells} cells are sent unless "
            "you say so with max_cells=…"
        )
        raise InvalidSweep(msg, axis=name, max_cells=max_cells)
    return values


def _plain(value: Any) -> Any:
    """Return a number of NumPy's as Python's own, so that it is shown and kept as one."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    return value


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    # True is 1 to Python, and to nobody else.
    if isinstance(one, bool) is not isinstance(other, bool):
        return False
    try:
        return bool(one == other)
    except (TypeError, ValueError):  # arrays compare value by value
        return False


def _labels(values: Sequence[Any]) -> tuple[str, ...]:
    labels = [_label(value, n) for n, value in enumerate(values, start=1)]
    if len(set(labels)) == len(labels):
        return tuple(labels)
    # Long texts that begin alike.
    return tuple(f"{n}: {label}" for n, label in enumerate(labels, start=1))


def _label(value: Any, number: int) -> str:
    if isinstance(value, os.PathLike):
        text = os.path.basename(value)
    elif isinstance(value, str):
        text = " ".join(value.split()) or '""'
    elif hasattr(value, "__array_interface__"):
        text = f"picture {number}"
    else:
        text = " ".join(str(value).split())
    text = str(text)
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"
