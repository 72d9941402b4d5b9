"""The view of a sweep: what the page is told, how much that is, and what is left in a notebook."""

import base64
import io
import json
import threading

import PIL.Image
import pytest

import jupyter_comfy_lock as comfy
from tests.kernel.test_sweep import SOON_S, WORKFLOW, done, finish, finish_all, flying, rejection

sweep_view = pytest.importorskip(
    "jupyter_comfy_lock.kernel.widgets.sweep_view",
    reason="the widget is not built",
    exc_type=FileNotFoundError,
)


@pytest.fixture
def locked(jupyter, session):
    session.lock("gpu-1")
    jupyter.wait_for_call("GET events")
    return session


class Shown:
    """A view, and a way to wait for what it shows."""

    def __init__(self, sweep):
        self.changed = threading.Condition()
        self.view = sweep_view.SweepView(sweep)
        self.view.observe(self._note, ["states", "note"])

    def _note(self, _):
        with self.changed:
            self.changed.notify_all()

    def until(self, holds):
        with self.changed:
            assert self.changed.wait_for(lambda: holds(self.view), SOON_S), self.view.states
        return self.view


def test_the_page_is_told_where_the_cells_lie_and_how_each_is(jupyter, locked):
    sweep = comfy.sweep(WORKFLOW, in_flight=1, seed=range(3), cfg=[4, 7])
    shown = Shown(sweep)
    assert shown.view.grid == {
        "columns": "seed",
        "rows": "cfg",
        "blocks": [
            {
                "title": "",
                "columns": ["0", "1", "2"],
                "rows": ["4", "7"],
                "cells": [[0, 1, 2], [3, 4, 5]],
            }
        ],
    }
    (first,) = flying(jupyter, sweep, 1)
    progress = {"nodes_done": 1, "nodes_total": 2, "preview": 3}
    jupyter.change(first, state="running", progress=progress)
    view = shown.until(lambda view: view.states == "rwwwww")
    assert (view.tasks[:2], view.progress["0"]) == ([first, ""], progress)
    finish(jupyter, first, "failed", reason="out of memory")
    finish(jupyter, flying(jupyter, sweep, 1)[0])
    view = shown.until(lambda view: view.states.startswith("fs"))
    assert view.reasons == [["out of memory", [0]]]
    assert view.pictures[:2] == [-1, 0]
    finish_all(jupyter, sweep)
    view = shown.until(lambda view: view.states == "fsssss")
    assert (view.state, view.left, view.progress) == ("failed", "", {})


def test_a_change_of_two_hundred_cells_is_a_small_message(jupyter, locked, monkeypatch):
    jupyter.refuse = rejection("3")
    sweep = comfy.sweep(WORKFLOW, seed=range(200))
    sweep.wait(SOON_S)
    view = sweep_view.SweepView(sweep)
    state = view.get_state(["states", "tasks", "pictures", "progress", "reasons", "note", "left"])
    assert view.states == "j" * 200
    # All of it; a change of one cell's state alone is some 200 bytes.
    assert len(json.dumps(state)) < 12_000
    assert len(json.dumps(view.get_state("states"))) < 250


def test_what_stopped_it_is_said_and_what_cancelled_it_is_in_its_state(jupyter, locked):
    jupyter.refuse = rejection("9")
    sweep = comfy.sweep(WORKFLOW, seed=range(3))
    view = Shown(sweep).until(lambda view: view.states == "juu")
    assert view.note == "node 9 is wrong"


def test_its_buttons_cancel_and_resume(jupyter, locked, session):
    sweep = comfy.sweep(WORKFLOW, in_flight=1, seed=range(2))
    (first,) = flying(jupyter, sweep, 1)
    shown = Shown(sweep)
    shown.view._handle_custom_msg({"kind": "cancel"}, [])
    assert jupyter.count(f"POST tasks/{first}/cancel") == 1
    finish(jupyter, first, "cancelled", reason="by its kernel")
    view = shown.until(lambda view: view.states == "cc")
    assert view.note == ""
    session.lock("gpu-2")
    view._handle_custom_msg({"kind": "resume"}, [])
    assert "were made on gpu-1" in shown.until(lambda view: view.note).note
    session.lock("gpu-1")
    view._handle_custom_msg({"kind": "resume"}, [])
    finish_all(jupyter, sweep)
    assert shown.until(lambda view: view.states == "ss").note == ""


def test_the_notebook_is_left_the_sheet_before_whoever_waits_goes_on(jupyter, locked):
    sweep = comfy.sweep(WORKFLOW, in_flight=1, seed=range(2))
    view = sweep_view.SweepView(sweep)
    updates = []

    class Handle:
        def update(self, shown):
            updates.append((shown._repr_mimebundle_()[0], sweep._run.over.is_set()))

    view._handle = Handle()
    sweep.on_over(view.leave)
    finish_all(jupyter, sweep)
    sweep.wait(SOON_S)
    ((bundle, was_over),) = updates
    assert not was_over
    assert bundle["text/plain"] == "SweepView(gpu-1, 2 of 2 done)"
    picture = PIL.Image.open(io.BytesIO(base64.b64decode(bundle["image/jpeg"])))
    assert picture.size == sweep.sheet().size


def test_a_sheet_that_cannot_be_made_keeps_nobody_waiting(jupyter, locked):
    sweep = done(jupyter, seed=range(2))
    jupyter.files.clear()
    view = sweep_view.SweepView(sweep)
    updates = []
    view._handle = type("Handle", (), {"update": lambda _, shown: updates.append(shown)})()
    jupyter.down = True
    view.leave()
    assert updates == [view]
    assert "image/jpeg" not in view._repr_mimebundle_()[0]
