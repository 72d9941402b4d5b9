"""The log of a task: what happened when."""

from datetime import datetime

import pytest

from jupyter_comfy_lock.kernel.task_log import Diary, TaskLog
from tests.kernel.fake_jupyter import NOW


def told(state="queued", **more):
    json = {"state": state, "comfy_id": "gpu-1", "created_at": NOW, "reason": None}
    return {**json, "progress": None, "queue": None, "error": None, "cached": False, **more}


def at(node_id, preview=0):
    return {"node_id": node_id, "node_class": f"Class{node_id}", "preview": preview}


def written(*heard):
    """What a diary says after it has heard each of these, one second after the other."""
    diary = Diary()
    for second, json in enumerate(heard, start=1):
        diary.hear(json, at=NOW + second)
    return [(line.at - NOW, line.what, line.seconds) for line in diary.lines()]


def test_a_whole_life_a_line_each():
    running = {"started_at": NOW + 3.5}
    assert written(
        told("registered"),
        told(queue={"ahead": 3, "ahead_mine": 1}),
        told(queue={"ahead": 1, "ahead_mine": 1}),
        told("running", **running, progress=at("4")),
        told("running", **running, progress=at("4", preview=1)),
        told("running", **running, progress=at("9", preview=2)),
        told("running", **running, progress=at("9", preview=2)),
        told("succeeded", **running, ended_at=NOW + 7.5, progress=at(None, preview=2)),
    ) == [
        (0, "registered for gpu-1", None),
        (2, "queued behind 3 (1 of this kernel)", None),
        (3, "queued behind 1 (all of this kernel)", None),
        (3.5, "running", None),
        (4, "node 4 (Class4)", 2),
        (6, "node 9 (Class9)", 1.5),
        (6, "2 previews", None),
        (7.5, "succeeded", 4),
    ]


def test_a_task_that_was_found_after_its_end_has_what_the_jupyter_server_knows():
    ended = {"started_at": NOW + 1, "ended_at": NOW + 3, "cached": True}
    assert written(told("succeeded", **ended), told("succeeded", **ended)) == [
        (0, "registered for gpu-1", None),
        (1, "running", None),
        (3, "succeeded (all from ComfyUI's cache)", 2),
    ]


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ({"state": "cancelled", "reason": "by its kernel"}, "cancelled: by its kernel"),
        ({"state": "cancelled", "reason": "cancelled"}, "cancelled"),
        ({"state": "lost", "reason": "gpu-1 was restarted"}, "lost: gpu-1 was restarted"),
        (
            {"state": "failed", "error": {"node_id": "3", "node_class": "K", "message": "boom\n"}},
            "failed: node 3 (K): None: boom",
        ),
    ],
)
def test_the_end_has_its_reason_and_no_seconds_if_it_never_ran(end, said):
    lines = written(told(), told(**end, ended_at=NOW + 5))
    assert lines[-1] == (5, said, None)
    assert [what for _, what, _ in lines][:2] == ["registered for gpu-1", "queued"]


def test_of_a_node_that_runs_the_seconds_are_not_known_yet():
    assert written(told("running", progress=at("4")))[-1] == (1, "node 4 (Class4)", None)


def test_it_is_a_table(jupyter, task):
    jupyter.change(task.id, state="running", started_at=NOW + 1)
    jupyter.change(task.id, state="succeeded", started_at=NOW + 1, ended_at=NOW + 3.25)
    task.wait(20)
    assert [line.what for line in task.log] == [
        "registered for gpu-1",
        "queued behind 1 (none of this kernel)",
        "running",
        "succeeded",
    ]
    clock = datetime.fromtimestamp(NOW + 3.25).strftime("%H:%M:%S.250")
    assert repr(task.log).splitlines()[-1].split() == [clock, "succeeded", "2.25"]
    assert str(task.log[-1]) == f"{clock} succeeded (2.25 s)"
    assert isinstance(task.log, TaskLog)
