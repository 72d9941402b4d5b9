"""`comfy.cancel()`: tasks of this kernel by their ids, or all."""

import pytest

import jupyter_comfy_lock as comfy

pytestmark = pytest.mark.usefixtures("session")

WORKFLOW = {"1": {"class_type": "X", "inputs": {}}}


@pytest.fixture
def tasks(jupyter, monkeypatch):
    """Three tasks, of which the last has ended; the ids of the first two begin alike."""
    ids = iter(["aaaa1111-1", "aaaa2222-2", "bbbb3333-3"])
    monkeypatch.setattr("jupyter_comfy_lock.kernel.client.uuid4", lambda: next(ids))
    comfy.lock("gpu-1")
    made = [comfy.submit(WORKFLOW) for _ in range(3)]
    jupyter.tasks["bbbb3333-3"]["state"] = "succeeded"
    return made


def cancelled(jupyter):
    return [call.split("/")[1] for call in jupyter.calls if call.endswith("/cancel")]


def test_a_beginning_is_enough(jupyter, tasks):
    assert [each.id for each in comfy.cancel("aaaa1")] == ["aaaa1111-1"]
    assert cancelled(jupyter) == ["aaaa1111-1"]


def test_several_are_cancelled_and_a_task_is_as_good_as_its_id(jupyter, tasks):
    assert list(comfy.cancel(tasks[1], "aaaa1111-1")) == [tasks[1], tasks[0]]
    assert cancelled(jupyter) == ["aaaa2222-2", "aaaa1111-1"]


def test_all_are_those_that_have_not_ended(jupyter, tasks):
    comfy.cancel(all=True)
    assert sorted(cancelled(jupyter)) == ["aaaa1111-1", "aaaa2222-2"]


def test_all_of_none_is_none(jupyter):
    assert list(comfy.cancel(all=True)) == []


@pytest.mark.parametrize(
    ("beginning", "why"),
    [
        ("aaaa", r"'aaaa' is the beginning of 2 tasks' ids; write more:\n  gpu-1 · aaaa2222-2 · "),
        ("cc", r"This kernel has no task 'cc'\."),
        ("", r"This kernel has no task ''\."),
    ],
)
def test_what_is_no_task_cancels_none(jupyter, tasks, beginning, why):
    with pytest.raises(comfy.UnknownTask, match=why):
        comfy.cancel("aaaa1", beginning)
    assert cancelled(jupyter) == []


@pytest.mark.parametrize(
    ("arguments", "keywords", "why"),
    [
        ((), {}, "name the tasks to cancel"),
        (("aaaa1",), {"all": True}, "name the tasks to cancel"),
        ((7,), {}, r"a task is named by its id \(a str\), not int"),
    ],
)
def test_what_makes_no_sense_is_told(jupyter, tasks, arguments, keywords, why):
    with pytest.raises((TypeError, ValueError), match=why):
        comfy.cancel(*arguments, **keywords)
    assert cancelled(jupyter) == []


def test_one_that_cannot_be_stopped_keeps_no_other_from_it(jupyter, tasks, monkeypatch):
    cannot = comfy.CannotInterrupt("gpu-1", "0.3.40", ["aaaa1111-1"])

    def refuse():
        raise cannot

    monkeypatch.setattr(tasks[0], "cancel", refuse)
    with pytest.raises(comfy.CannotInterrupt, match="aaaa1111-1 cannot be stopped"):
        comfy.cancel(tasks[0], tasks[1])
    assert cancelled(jupyter) == ["aaaa2222-2"]
