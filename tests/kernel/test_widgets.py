"""The view of a task: what it is told, by whom, how often, and when it cannot be shown."""

import logging
import threading
from types import SimpleNamespace

import pytest

import jupyter_comfy_lock as comfy
from jupyter_comfy_lock.kernel import show

widgets = pytest.importorskip(
    "jupyter_comfy_lock.kernel.widgets",
    reason="the widget is not built",
    exc_type=FileNotFoundError,
)

WORKFLOW = {"1": {"class_type": "X", "inputs": {}}}


@pytest.fixture
def task(jupyter, session):
    session.lock("gpu-1")
    jupyter.wait_for_call("GET events")
    return comfy.submit(WORKFLOW)


@pytest.fixture
def seen():
    """Each state of a view's `task`, with the thread that set it; `seen.wait(state)` waits."""

    class Seen(list):
        changed = threading.Condition()

        def watch(self, view):
            view.observe(self._note, "task")
            return view

        def _note(self, change):
            with self.changed:
                self.append((change["new"], threading.current_thread().name))
                self.changed.notify_all()

        def wait(self, state):
            with self.changed:
                assert self.changed.wait_for(
                    lambda: self and self[-1][0]["state"] == state, timeout=20
                )

    return Seen()


@pytest.mark.complaint(17)
def test_a_view_follows_its_task_to_the_end_on_one_thread(jupyter, task, seen):
    view = seen.watch(widgets.TaskView(task))
    jupyter.change(task.id, state="running")
    seen.wait("running")
    jupyter.change(task.id, state="succeeded")
    seen.wait("succeeded")
    assert {thread for _, thread in seen} == {"comfy-lock-views"}
    assert (view.label, view.api_path) == ("gpu-1", "comfy-lock/api/")


def test_many_changes_are_few_updates_and_the_last_one_is_shown(jupyter, task, seen):
    seen.watch(widgets.TaskView(task))
    progress = {"nodes_done": 0, "nodes_total": 1, "node_id": "1", "max": 500}
    for value in range(500):
        jupyter.change(task.id, state="running", progress={**progress, "value": value})
    jupyter.change(task.id, state="succeeded")
    task.wait(timeout=20)
    seen.wait("succeeded")
    assert len(seen) < 50


def test_a_view_of_a_task_that_has_ended_listens_no_more(jupyter, task, seen):
    seen.watch(widgets.TaskView(task))
    jupyter.change(task.id, state="succeeded")
    seen.wait("succeeded")
    jupyter.wait_for_call("GET events")
    assert task._listeners == []


def test_the_message_of_the_cancel_button_cancels(jupyter, task):
    view = widgets.TaskView(task)
    view._handle_custom_msg({"kind": "cancel"}, [])
    assert jupyter.count(f"POST tasks/{task.id}/cancel") == 1


def test_the_text_left_in_a_saved_notebook_is_the_same_for_each_run(task):
    assert repr(widgets.TaskView(task)) == "TaskView(gpu-1)"


def test_no_view_is_made_outside_of_a_notebook(task, monkeypatch):
    monkeypatch.setattr(widgets, "TaskView", None)
    show.show_task(task)


def test_no_view_is_made_where_the_environment_says_no(monkeypatch):
    monkeypatch.setattr(show, "_shell", lambda: SimpleNamespace(kernel=object()))
    assert show.in_notebook()
    monkeypatch.setenv(show.SWITCH, "0")
    assert not show.in_notebook()


def test_a_widget_that_was_not_built_is_told_once_and_the_task_runs(
    jupyter, session, monkeypatch, caplog
):
    def missing(_):
        msg = "static/widget.js is missing"
        raise FileNotFoundError(msg)

    monkeypatch.setattr(widgets, "TaskView", missing)
    monkeypatch.setattr(show, "_shell", lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setattr(show, "_complained", False)
    with caplog.at_level(logging.WARNING):
        tasks = [comfy.submit(WORKFLOW) for _ in range(2)]
    assert all(each.id in jupyter.tasks for each in tasks)
    assert caplog.text.count("widget.js is missing") == 1
