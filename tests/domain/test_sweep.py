"""Sweeps: axes that make sense, cells in order, where they lie on a sheet, and how they move."""

from itertools import count
from pathlib import PurePath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from jupyter_comfy_lock.domain.errors import InvalidWorkflow
from jupyter_comfy_lock.domain.sweep import (
    WIDEST,
    InvalidSweep,
    axes_of,
    cells_of,
    concerns_all,
    layout_of,
    places_of,
)
from jupyter_comfy_lock.domain.sweep_state import (
    FLYING,
    MISSING,
    TRANSITIONS,
    Board,
    CellState,
    SweepState,
    cell_state,
    counted,
    seconds_left,
)
from jupyter_comfy_lock.domain.task import ENDED, TaskState

PROMPT = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 1, "cfg": 7.0, "model": ["4", 0]}},
    "4": {"class_type": "Loader", "inputs": {"name": "x"}},
    "5": {"class_type": "KSampler", "inputs": {"cfg": 7.0, "steps": 9}},
}


def values(axes):
    return [
        {axis.name: axis.values[n] for axis, n in zip(axes, cell, strict=True)}
        for cell in cells_of(axes)
    ]


def test_cells_come_in_the_order_in_which_a_sheet_is_read():
    axes = axes_of({"seed": range(3), "cfg": [4, 7]})
    assert [(x["seed"], x["cfg"]) for x in values(axes)] == [
        *((0, 4), (1, 4), (2, 4)),
        *((0, 7), (1, 7), (2, 7)),
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "needs values to sweep over"),
        ({"seed": []}, "'seed' is empty"),
        ({"prompt": "a lake"}, "'prompt' is one text; for one value write prompt=['a lake']"),
        ({"prompt": b"a"}, "is one text"),
        ({"seed": 7}, "no list but one value; write [7]"),
        ({"seed": np.float64(7)}, "no list but one value"),
        ({"seed": {1, 2}}, "a set, which has no order"),
        ({"seed": {"a": 1}}, "a dict, which has no order"),
        ({"seed": [3, 4, 3]}, "has the value 3 twice, at places 1 and 3"),
        ({"cfg": [4, 4.0]}, "has the value 4.0 twice"),
        ({"seed": range(300)}, "'seed' has 300 values, and at most 256"),
        ({"seed": count()}, "'seed' has more than 256 values"),
        ({"seed": range(100), "cfg": range(3)}, "300 cells, 100 (seed) times 3 (cfg)"),
    ],
)
def test_axes_that_make_no_sweep_are_refused_with_what_is_wrong(given, said):
    with pytest.raises(InvalidSweep) as refused:
        axes_of(given)
    assert said in refused.value.message


def test_more_cells_are_a_sweep_for_who_says_how_many():
    with pytest.raises(InvalidSweep, match="max_cells=300"):
        axes_of({"seed": range(100), "cfg": range(3)})
    assert len(cells_of(axes_of({"seed": range(300)}, max_cells=300))) == 300


@pytest.mark.parametrize("bad", [0, True, "9", 1.5])
def test_the_most_cells_are_a_whole_number(bad):
    with pytest.raises(InvalidSweep, match="max_cells must be a whole number"):
        axes_of({"seed": [1]}, max_cells=bad)


def test_numbers_of_numpy_are_kept_as_plain_ones():
    (axis,) = axes_of({"cfg": np.linspace(1, 2, 3)})
    assert axis.values == (1.0, 1.5, 2.0)
    assert {type(each) for each in axis.values} == {float}
    assert axis.labels == ("1.0", "1.5", "2.0")


def test_true_and_one_are_two_values():
    assert len(axes_of({"flag": [True, 1]})[0].values) == 2


def test_labels_are_short_and_no_two_are_the_same():
    long = "a lake in the mountains at dawn, very detailed, golden light, mist, "
    pixels = np.zeros((4, 4))
    (texts,) = axes_of({"prompt": [long + "one", long + "two"]})
    assert [label[:5] for label in texts.labels] == ["1: a ", "2: a "]
    assert all(len(label) < 70 for label in texts.labels)
    (mixed,) = axes_of({"image": [PurePath("a/b.png"), pixels, "c\nd", ""]})
    assert mixed.labels == ("b.png", "picture 2", "c d", '""')


def test_arrays_are_compared_as_things_and_not_value_by_value():
    one = np.zeros((2, 2))
    assert len(axes_of({"image": [one, one.copy()]})[0].values) == 2
    with pytest.raises(InvalidSweep, match="twice"):
        axes_of({"image": [one, one]})


def test_an_axis_is_named_as_a_parameter_is_set():
    axes = axes_of({"seed": [1], "5.cfg": [4, 7]})
    assert places_of(axes, PROMPT) == {"seed": ("3", "seed"), "5.cfg": ("5", "cfg")}
    with pytest.raises(InvalidWorkflow, match="has no parameter 'sed'; did you mean 'seed'"):
        places_of(axes_of({"sed": [1]}), PROMPT)
    with pytest.raises(InvalidWorkflow, match="parameter of 2 nodes"):
        places_of(axes_of({"cfg": [1]}), PROMPT)


def test_two_axes_that_mean_the_same_parameter_are_refused():
    with pytest.raises(InvalidSweep, match=r"'seed' and '3\.seed' are the same parameter"):
        places_of(axes_of({"seed": [1], "3.seed": [2]}), PROMPT)


def test_one_axis_goes_right_and_on_below_when_it_is_long():
    layout = layout_of(axes_of({"seed": range(WIDEST + 2)}))
    first, second = layout.blocks
    assert (layout.column_axis, layout.row_axis) == ("seed", "")
    assert (first.cells, first.rows) == ((tuple(range(WIDEST)),), ())
    assert (second.columns, second.cells) == (("12", "13"), ((12, 13),))


def test_two_axes_make_a_table_and_further_ones_a_table_each():
    axes = axes_of({"seed": [1, 2], "cfg": [4, 7], "steps": [10, 20], "name": ["a"]})
    layout = layout_of(axes)
    assert [block.title for block in layout.blocks] == [
        "steps = 10, name = a",
        "steps = 20, name = a",
    ]
    assert layout.blocks[1].columns == ("1", "2")
    assert layout.blocks[1].rows == ("4", "7")
    assert layout.blocks[1].cells == ((4, 5), (6, 7))


@given(st.lists(st.integers(1, 15), min_size=1, max_size=4).filter(lambda x: np.prod(x) <= 256))
def test_each_cell_is_on_the_sheet_once_under_its_own_labels(sizes):
    axes = axes_of({f"x{n}": range(size) for n, size in enumerate(sizes)})
    cells, layout = cells_of(axes), layout_of(axes)
    seen = []
    for block in layout.blocks:
        for row, numbers in enumerate(block.cells):
            for column, number in enumerate(numbers):
                seen.append(number)
                picked = cells[number]
                assert axes[0].labels[picked[0]] == block.columns[column]
                if len(axes) > 1:
                    assert axes[1].labels[picked[1]] == block.rows[row]
                for axis, at in zip(axes[2:], picked[2:], strict=True):
                    assert f"{axis.name} = {axis.labels[at]}" in block.title.split(", ")
    assert sorted(seen) == list(range(len(cells)))


PLACES = [("3", "seed"), ("3", "cfg")]


@pytest.mark.parametrize(
    ("details", "all_of_them"),
    [
        ({"node_errors": {"3": {}}}, False),
        ({"node_errors": {"3": {}, "9": {}}}, False),
        ({"node_errors": {"9": {}}}, True),
        ({"node_errors": {}}, True),
        ({"node_id": "3"}, False),
        ({"node_id": "4"}, True),
        ({}, True),
    ],
)
def test_what_is_wrong_where_no_axis_is_is_wrong_in_every_cell(details, all_of_them):
    assert concerns_all(details, PLACES) is all_of_them


def test_a_cell_is_where_its_task_is():
    for state in TaskState:
        there = cell_state(state)
        assert (there in FLYING) is (state not in ENDED)
        assert there in TRANSITIONS[CellState.SENDING]


def test_it_is_told_how_many_are_where():
    board = Board(9, in_flight=4)
    board.take()
    board.take()
    board.move(0, CellState.SUCCEEDED)
    board.move(1, CellState.FAILED)
    board.take()
    assert counted(board.counts) == "1 of 9 done, 1 failed, 1 in flight, 6 waiting"
    board.halt("why", cancelled=False)
    assert counted(board.counts) == "1 of 9 done, 1 failed, 6 not sent, 1 in flight"


def test_the_time_left_is_that_of_those_before():
    assert seconds_left(4, 8, 20.0) == 40.0
    assert seconds_left(0, 8, 20.0) is None
    assert seconds_left(4, 0, 20.0) is None


class Sweeping(RuleBasedStateMachine):
    """Any order of what a sender, a ComfyServer and a person do."""

    COUNT, IN_FLIGHT = 7, 3

    def __init__(self):
        super().__init__()
        self.board = Board(self.COUNT, self.IN_FLIGHT)
        self.sent = [0] * self.COUNT
        self.resumed = [0] * self.COUNT
        self.stopped = False

    @rule()
    def send(self):
        cell = self.board.take()
        if cell is not None:
            assert not self.stopped
            self.sent[cell] += 1

    @precondition(lambda self: self.board.flying)
    @rule(data=st.data(), to=st.sampled_from(sorted(CellState)))
    def hear(self, data, to):
        cell = data.draw(st.sampled_from(self.board.flying))
        before = self.board.states[cell]
        moved = self.board.move(cell, to, "why")
        assert moved == (to in TRANSITIONS[before])

    @rule(cell=st.integers(0, COUNT - 1), to=st.sampled_from(sorted(CellState)))
    def news_after_the_end_changes_nothing(self, cell, to):
        before = self.board.states[cell]
        if before not in (*FLYING, CellState.WAITING):
            assert not self.board.move(cell, to)
            assert self.board.states[cell] is before

    @rule(cancelled=st.booleans())
    def halt(self, cancelled):
        if self.board.halt("because", cancelled=cancelled):
            self.stopped = True

    @rule()
    def resume(self):
        done = [x is CellState.SUCCEEDED for x in self.board.states]
        flying = self.board.flying
        for cell in self.board.again():
            assert not done[cell]
            assert cell not in flying
            self.resumed[cell] += 1
        self.stopped = False

    @invariant()
    def never_more_in_flight_than_allowed(self):
        assert len(self.board.flying) <= self.IN_FLIGHT

    @invariant()
    def each_is_sent_once_and_again_only_after_a_resume(self):
        assert all(
            sent <= 1 + resumed for sent, resumed in zip(self.sent, self.resumed, strict=True)
        )

    @invariant()
    def each_cell_is_somewhere_and_the_whole_says_so(self):
        counts = self.board.counts
        assert sum(counts.values()) == self.COUNT
        going = bool(self.board.flying) or bool(counts[CellState.WAITING])
        assert self.board.over is not going
        expected = {
            (True, False): SweepState.RUNNING,
            (True, True): SweepState.STOPPING,
        }.get((going, self.stopped))
        if expected is not None:
            assert self.board.state is expected
        elif counts[CellState.SUCCEEDED] == self.COUNT:
            assert self.board.state is SweepState.SUCCEEDED
        else:
            assert self.board.state in (
                (SweepState.CANCELLED, SweepState.STOPPED) if self.stopped else (SweepState.FAILED,)
            )

    @invariant()
    def what_was_stopped_waits_no_more(self):
        if self.stopped:
            assert not self.board.counts[CellState.WAITING]

    @invariant()
    def only_what_did_not_succeed_is_missing(self):
        assert CellState.SUCCEEDED not in MISSING


TestSweeping = Sweeping.TestCase
