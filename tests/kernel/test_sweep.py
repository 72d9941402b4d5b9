"""A sweep: what is sent when, what becomes of it, and what a notebook is told."""

import _thread
import asyncio
import io
import json
import sys
import threading
from contextlib import suppress

import numpy as np
import PIL.Image
import pytest

import jupyter_comfy_lock as comfy
from jupyter_comfy_lock.domain.errors import (
    ComfyUnreachable,
    InvalidWorkflow,
    OtherLock,
    PromptRejected,
)
from jupyter_comfy_lock.domain.sweep import InvalidSweep
from jupyter_comfy_lock.kernel import sweep_run, task_wait
from jupyter_comfy_lock.kernel.sweep import SweepStopped
from tests.kernel.fake_jupyter import png

WORKFLOW = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 0, "cfg": 7.0}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "x"}},
}
SOON_S = 20


@pytest.fixture
def locked(jupyter, session):
    """A kernel that has gpu-1 and hears of it."""
    session.lock("gpu-1")
    jupyter.wait_for_call("GET events")
    return session


class Watcher:
    """Waits for what a sweep comes to."""

    def __init__(self, sweep):
        self._sweep = sweep
        self._changed = threading.Condition()
        sweep.on_change(self._note)

    def _note(self):
        with self._changed:
            self._changed.notify_all()

    def until(self, holds):
        with self._changed:
            assert self._changed.wait_for(holds, SOON_S), self._sweep.cells


def going(jupyter, sweep):
    """The cells whose tasks have not ended by the Jupyter server's word."""
    return [
        cell
        for cell in sweep.cells
        if cell.task is not None and jupyter.tasks[cell.task_id]["state"] in ("queued", "running")
    ]


def flying(jupyter, sweep, count):
    """Wait until so many are at the ComfyServer; return their tasks' ids, oldest first."""
    Watcher(sweep).until(lambda: len(going(jupyter, sweep)) == count)
    return [cell.task_id for cell in going(jupyter, sweep)]


def finish(jupyter, task_id, state="succeeded", **fields):
    if state == "succeeded":
        jupyter.add_file(task_id, f"{task_id[:4]}.png", png((64, 40), "teal"), "image/png")
    jupyter.change(task_id, state=state, **fields)


def finish_all(jupyter, sweep):
    """Let each task succeed as it comes."""
    watcher = Watcher(sweep)
    while not sweep.ended:
        for cell in going(jupyter, sweep):
            finish(jupyter, cell.task_id)
        watcher.until(lambda: sweep.ended or going(jupyter, sweep))


def sent(jupyter):
    return [(p["3"]["inputs"]["seed"], p["3"]["inputs"]["cfg"]) for p in jupyter.prompts]


def test_each_cell_is_sent_once_and_never_more_than_allowed_are_in_flight(jupyter, locked):
    sweep = comfy.sweep(WORKFLOW, in_flight=3, seed=range(5), cfg=[4, 7])
    most = 0

    def count():
        nonlocal most
        there = sum(x["state"] in ("queued", "running") for x in jupyter.tasks.values())
        most = max(most, there)

    sweep.on_change(count)
    finish_all(jupyter, sweep)
    assert sweep.wait(SOON_S) is sweep
    assert most == 3
    assert sent(jupyter) == [(seed, cfg) for cfg in (4, 7) for seed in range(5)]
    assert repr(sweep) == "Sweep(gpu-1, 5 seed, 2 cfg: 10 of 10 done)"
    assert sweep.state == "succeeded"


def test_later_changes_to_the_workflow_do_not_concern_it(jupyter, locked):
    workflow = comfy.Workflow.load(WORKFLOW)
    sweep = comfy.sweep(workflow, in_flight=1, seed=range(3))
    workflow.set(cfg=1)
    finish_all(jupyter, sweep)
    assert {cfg for _, cfg in sent(jupyter)} == {7.0}


def test_without_a_lock_one_is_taken_and_said(jupyter, session, capsys):
    sweep = comfy.sweep(WORKFLOW, seed=range(1))
    assert sweep.comfy_id == "gpu-2"
    assert "Locked gpu-2" in capsys.readouterr().out
    finish_all(jupyter, sweep)


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"sed": [1]}, InvalidWorkflow, "no parameter 'sed'; did you mean 'seed'?"),
        ({"seed": "12"}, InvalidSweep, "is one text"),
        ({"seed": [1], "in_flight": 0}, InvalidSweep, "in_flight must be a whole number from 1"),
        ({"seed": [1], "3.seed": [2]}, InvalidSweep, "the same parameter"),
        ({"cfg": [float("nan")]}, InvalidWorkflow, "JSON has no such values"),
        ({}, InvalidSweep, "needs values to sweep over"),
    ],
)
def test_what_makes_no_sweep_is_refused_and_nothing_is_sent(jupyter, locked, given, kind, said):
    with pytest.raises(kind) as refused:
        comfy.sweep(WORKFLOW, **given)
    assert said in str(refused.value)
    assert jupyter.prompts == []


def test_a_lost_answer_is_no_second_run(jupyter, locked, monkeypatch):
    monkeypatch.setattr(sweep_run, "AGAIN_S", 0.01)
    # Twice within one submission, and twice in the next.
    jupyter.lose_replies = 4
    sweep = comfy.sweep(WORKFLOW, in_flight=1, seed=range(2))
    finish_all(jupyter, sweep)
    assert len(jupyter.tasks) == 2
    assert sweep.state == "succeeded"


def test_a_cell_that_fails_stops_no_other(jupyter, locked):
    sweep = comfy.sweep(WORKFLOW, in_flight=1, seed=range(3))
    error = {
        "node_id": "3",
        "node_class": "KSampler",
        "exception_type": "ValueError",
        "message": "boom",
    }
    finish(jupyter, flying(jupyter, sweep, 1)[0], "failed", error=error)
    finish_all(jupyter, sweep)
    assert sweep.wait(SOON_S) is sweep
    assert sweep.state == "failed"
    assert [cell.state for cell in sweep.cells] == ["failed", "succeeded", "succeeded"]
    assert sweep.cell(seed=0).why == "KSampler (node 3): ValueError: boom"


def rejection(node_id):
    return PromptRejected(f"node {node_id} is wrong", node_errors={node_id: {}}, node_id=None)


def test_a_refusal_of_one_value_stops_no_other(jupyter, locked):
    jupyter.refuse = rejection("3")
    sweep = comfy.sweep(WORKFLOW, seed=range(3))
    assert sweep.wait(SOON_S).state == "failed"
    assert [cell.state for cell in sweep.cells] == ["rejected"] * 3


def test_a_refusal_that_all_would_meet_stops_it_at_once_and_says_so(jupyter, locked):
    jupyter.refuse = rejection("9")
    sweep = comfy.sweep(WORKFLOW, seed=range(3))
    with pytest.raises(SweepStopped, match="on gpu-1 stopped: node 9 is wrong") as stopped:
        sweep.wait(SOON_S)
    assert "2 not sent" in str(stopped.value)
    assert [cell.state for cell in sweep.cells] == ["rejected", "unsent", "unsent"]
    assert jupyter.count("POST tasks") == 1


@pytest.mark.parametrize("moved", [False, True])
def test_when_the_lock_is_gone_nothing_is_sent_elsewhere(jupyter, locked, moved):
    sweep = comfy.sweep(WORKFLOW, in_flight=1, seed=range(3))
    (first,) = flying(jupyter, sweep, 1)
    jupyter.lock = {**jupyter.lock, "comfy_id": "gpu-2"} if moved else None
    finish(jupyter, first)
    with pytest.raises(SweepStopped, match=r"sweep\.resume"):
        sweep.wait(SOON_S)
    assert [cell.state for cell in sweep.cells] == ["succeeded", "unsent", "unsent"]
    assert ("has locked 'gpu-2'" in sweep.cells[1].why) is moved
    assert len(jupyter.tasks) == 1


def test_resume_makes_only_what_is_missing_and_only_there(jupyter, locked, session):
    sweep = comfy.sweep(WORKFLOW, in_flight=1, seed=range(3))
    finish(jupyter, flying(jupyter, sweep, 1)[0])
    (second,) = flying(jupyter, sweep, 1)
    jupyter.lock = None
    finish(jupyter, second, "failed")
    with pytest.raises(SweepStopped):
        sweep.wait(SOON_S)
    with pytest.raises(SweepStopped, match="needs its lock, and none is held"):
        sweep.resume()
    session.lock("gpu-2")
    with pytest.raises(SweepStopped, match="1 pictures so far were made on gpu-1, and this kernel"):
        sweep.resume()
    assert len(jupyter.tasks) == 2
    session.lock("gpu-1")
    assert sweep.resume() is sweep
    finish_all(jupyter, sweep)
    assert sweep.wait(SOON_S).state == "succeeded"
    assert [seed for seed, _ in sent(jupyter)] == [0, 1, 1, 2]
    # All is there: nothing to do.
    assert sweep.resume().state == "succeeded"


def test_resume_here_makes_the_rest_on_another_comfy_server(jupyter, locked, session):
    sweep = comfy.sweep(WORKFLOW, in_flight=1, seed=range(2))
    finish(jupyter, flying(jupyter, sweep, 1)[0])
    finish(jupyter, flying(jupyter, sweep, 1)[0], "lost")
    sweep.wait(SOON_S)
    session.lock("gpu-2")
    sweep.resume(here=True)
    finish_all(jupyter, sweep)
    assert [task.comfy_id for task in sweep.tasks] == ["gpu-1", "gpu-2"]


def test_cancel_ends_what_is_in_flight_and_sends_nothing_more(jupyter, locked):
    other = comfy.submit(WORKFLOW)
    sweep = comfy.sweep(WORKFLOW, in_flight=2, seed=range(5))
    both = flying(jupyter, sweep, 2)
    sweep.cancel()
    assert sweep.state == "stopping"
    assert all(jupyter.count(f"POST tasks/{each}/cancel") == 1 for each in both)
    assert jupyter.count(f"POST tasks/{other.id}/cancel") == 0
    for each in both:
        finish(jupyter, each, "cancelled", reason="by its kernel")
    with pytest.raises(SweepStopped, match="was cancelled"):
        sweep.wait(SOON_S)
    assert sweep.state == "cancelled"
    assert len(jupyter.tasks) == 3


def test_who_cancels_a_cell_in_a_page_means_the_sweep(jupyter, locked):
    sweep = comfy.sweep(WORKFLOW, in_flight=1, seed=range(3))
    finish(jupyter, flying(jupyter, sweep, 1)[0], "cancelled", reason="by the Jupyter user")
    with pytest.raises(SweepStopped):
        sweep.wait(SOON_S)
    assert [cell.state for cell in sweep.cells] == ["cancelled"] * 3
    assert len(jupyter.tasks) == 1


def test_who_cancels_a_task_in_the_notebook_means_that_task(jupyter, locked):
    sweep = comfy.sweep(WORKFLOW, in_flight=1, seed=range(2))
    finish(jupyter, flying(jupyter, sweep, 1)[0], "cancelled", reason="by its kernel")
    finish_all(jupyter, sweep)
    assert [cell.state for cell in sweep.cells] == ["cancelled", "succeeded"]


def test_a_server_that_stays_silent_ends_the_waiting_and_resume_asks_what_arrived(
    jupyter, locked, monkeypatch
):
    monkeypatch.setattr(sweep_run, "AGAIN_S", 0.01)
    monkeypatch.setattr(task_wait, "PATIENCE_S", 0.05)
    jupyter.lose_replies = sys.maxsize
    sweep = comfy.sweep(WORKFLOW, seed=range(2))
    with pytest.raises(SweepStopped, match="does not answer"):
        sweep.wait(SOON_S)
    assert [cell.state for cell in sweep.cells] == ["lost", "unsent"]
    (arrived,) = jupyter.tasks
    jupyter.lose_replies = 0
    sweep.resume()
    finish_all(jupyter, sweep)
    # It had arrived: that is its task, and nothing ran twice.
    assert sweep.cells[0].task_id == arrived
    assert len(jupyter.tasks) == 2


def test_tasks_are_asked_for_while_no_events_come(jupyter, session, often):
    jupyter.streams_work = False
    session.lock("gpu-1")
    sweep = comfy.sweep(WORKFLOW, in_flight=2, seed=range(3))
    finish_all(jupyter, sweep)
    assert sweep.wait(SOON_S).state == "succeeded"


def test_a_comfy_server_that_does_not_answer_stops_it(jupyter, locked):
    jupyter.refuse = ComfyUnreachable("gpu-1", "refused")
    sweep = comfy.sweep(WORKFLOW, seed=range(2))
    with pytest.raises(SweepStopped, match="'gpu-1' does not answer"):
        sweep.wait(SOON_S)
    assert [cell.state for cell in sweep.cells] == ["unsent"] * 2


def test_a_wait_ends_after_its_time_and_the_sweep_goes_on(jupyter, locked):
    sweep = comfy.sweep(WORKFLOW, in_flight=1, seed=range(2))
    flying(jupyter, sweep, 1)
    with pytest.raises(TimeoutError, match=r"not ended after 0.01 s.*sweep\.cancel\(\) ends it"):
        sweep.wait(0.01)
    assert sweep.state == "running"
    finish_all(jupyter, sweep)


def test_ctrl_c_ends_the_waiting_only(jupyter, locked, monkeypatch):
    sweep = comfy.sweep(WORKFLOW, in_flight=1, seed=range(2))
    flying(jupyter, sweep, 1)
    monkeypatch.setattr(sweep._run.over, "wait", lambda _: _thread.interrupt_main())
    with pytest.raises(KeyboardInterrupt, match=r"stopped waiting.*sweep\.cancel\(\) ends it"):
        sweep.wait(SOON_S)
    assert sweep.state == "running"
    finish_all(jupyter, sweep)


def test_it_can_be_awaited(jupyter, locked):
    sweep = comfy.sweep(WORKFLOW, in_flight=2, seed=range(3))

    async def both():
        return (await asyncio.gather(_until(sweep), asyncio.to_thread(finish_all, jupyter, sweep)))[
            0
        ]

    async def _until(sweep):
        return await sweep

    assert asyncio.run(both()) is sweep


def test_a_cell_is_found_by_its_values(jupyter, locked):
    sweep = comfy.sweep(WORKFLOW, seed=[3, 4], cfg=[4, 7])
    assert sweep.cell(seed=4, cfg=7).values == {"seed": 4, "cfg": 7}
    for values, said in (
        ({"sed": 1}, "no axis 'sed'; did you mean 'seed'?"),
        ({"seed": 9}, "no value 9. It has: 3, 4."),
        ({"seed": 3}, "2 cells have these values; say cfg too."),
    ):
        with pytest.raises(InvalidSweep, match=r".") as refused:
            sweep.cell(**values)
        assert said in refused.value.message
    finish_all(jupyter, sweep)


def done(jupyter, **axes):
    """A sweep of which the first cell has failed."""
    sweep = comfy.sweep(WORKFLOW, in_flight=1, **axes)
    finish(jupyter, flying(jupyter, sweep, 1)[0], "failed", reason="no reason at all")
    finish_all(jupyter, sweep)
    return sweep.wait(SOON_S)


def test_the_sheet_has_each_picture_and_each_failure_in_its_place(jupyter, locked):
    sweep = done(jupyter, seed=range(3), cfg=[4, 7])
    pixels = np.asarray(sweep.sheet())
    # Five pictures of 64 times 40 pixels; in the upper row the first one is missing.
    teal = (pixels == (0, 128, 128)).all(axis=2)
    assert teal.sum() == 5 * 64 * 40
    upper, lower = (row for row in np.unique(teal.sum(axis=1)) if row)
    assert (upper, lower) == (2 * 64, 3 * 64)
    asked = sum("/files/" in call for call in jupyter.calls)
    sweep.sheet()
    assert sum("/files/" in call for call in jupyter.calls) == asked == 5


def test_a_saved_sheet_tells_its_values_and_its_workflow(jupyter, locked, tmp_path):
    sweep = done(jupyter, seed=range(2), cfg=[4, 7])
    path = sweep.save(tmp_path / "new" / "sheet.png")
    told = json.loads(PIL.Image.open(path).text["comfy_sweep"])
    assert told["axes"] == {"seed": ["0", "1"], "cfg": ["4", "7"]}
    first, second, *_ = told["cells"]
    assert (first["state"], first["error"]) == ("failed", "no reason at all")
    assert (second["state"], second["seed"], second["cfg"]) == ("succeeded", "1", "4")
    assert comfy.Workflow.load(path).prompt == WORKFLOW
    with pytest.raises(comfy.ComfyLockError, match=r"ends in \.png, not 'sheet.jpg'"):
        sweep.save(tmp_path / "sheet.jpg")


def test_a_sheet_of_many_long_texts_is_drawn(jupyter, locked):
    words = "a lake in the mountains at dawn, golden light, " * 9
    sweep = comfy.sweep(
        WORKFLOW,
        filename_prefix=[words, words + "2", "x" * 200, ""],
        seed=range(2),
        cfg=[4.0, 7.5],
    )
    before = sweep.sheet()  # nothing is there yet
    finish_all(jupyter, sweep)
    assert sweep.sheet().width == before.width


def test_the_pictures_are_saved_under_their_values(jupyter, locked, tmp_path):
    sweep = done(jupyter, seed=range(3), cfg=[4, 7])
    paths = sweep.save_pictures("{cfg}/{seed}.{ext}", tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        *("4/1.png", "4/2.png", "7/0.png", "7/1.png", "7/2.png"),
    ]


def test_rows_for_pandas(jupyter, locked):
    pytest.importorskip("pandas")
    frame = done(jupyter, seed=range(2)).to_dataframe()
    assert list(frame.columns) == [
        *("seed", "state", "seconds", "task_id", "comfy_id", "error", "files"),
    ]
    assert list(frame["seed"]) == [0, 1]
    assert list(frame["state"]) == ["failed", "succeeded"]


def test_without_pandas_it_is_said_what_to_do(jupyter, locked, monkeypatch):
    sweep = done(jupyter, seed=range(2))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(comfy.ComfyLockError, match="%pip install pandas"):
        sweep.to_dataframe()


def test_the_table_of_cells_says_what_became_of_each(jupyter, locked):
    sweep = done(jupyter, seed=range(2))
    lines = repr(sweep.cells).splitlines()
    assert lines[0].split() == ["values", "state", "seconds", "files", "why"]
    assert lines[2].split() == ["seed=0", "failed", "no", "reason", "at", "all"]
    assert lines[3].split() == ["seed=1", "succeeded", "1"]
    assert len(sweep.tasks) == 2


def test_pictures_among_the_values_are_uploaded_once_each(jupyter, locked, session):
    jupyter.object_info = {
        "LoadImage": {
            "input": {"required": {"image": [["a.png"], {"image_upload": True}]}},
            "output": ["IMAGE"],
        }
    }
    load = {"1": {"class_type": "LoadImage", "inputs": {"image": "a.png", "n": 0}}}
    first, second = (PIL.Image.open(io.BytesIO(png((2, 2), each))) for each in ("red", "blue"))
    sweep = comfy.sweep(load, image=[first, second], n=range(2))
    finish_all(jupyter, sweep)
    assert len(jupyter.uploads) == 2
    assert {p["1"]["inputs"]["image"] for p in jupyter.prompts} == {"mine/there.png"}


def test_a_session_sends_to_the_named_comfy_server_or_nowhere(jupyter, locked):
    with pytest.raises(OtherLock):
        locked.send(WORKFLOW, task_id="7f5c1d4e-0000-4000-8000-000000000000", comfy_id="gpu-2")
    assert jupyter.prompts == []


def test_the_progress_tells_how_many_are_where_and_how_long_it_takes(jupyter, locked):
    sweep = comfy.sweep(WORKFLOW, in_flight=1, seed=range(3))
    assert sweep.progress.seconds_left is None
    finish(jupyter, flying(jupyter, sweep, 1)[0])
    flying(jupyter, sweep, 1)
    told = sweep.progress
    assert (told.total, told.done, told.in_flight, told.waiting) == (3, 1, 1, 1)
    assert told.seconds_left is not None
    assert str(told).startswith("1 of 3 done, 1 in flight, 1 waiting, about ")
    finish_all(jupyter, sweep)
    assert str(sweep.progress) == "3 of 3 done"


@pytest.fixture(autouse=True)
def _no_sweep_is_left(session):
    """A thread that goes on would send into the next test."""
    yield
    for thread in threading.enumerate():
        if thread.name == "comfy-lock-sweep":
            with suppress(RuntimeError):
                thread.join(2)
