from __future__ import annotations

import threading

import pytest

from jupyter_comfy_lock.embedded.faults import Faults
from jupyter_comfy_lock.embedded.queue import MAX_HISTORY, Job, Outcome, PromptQueue

DONE = Outcome("success", [], {}, {})


def job(number, prompt_id="id"):
    return Job(number, prompt_id, {"n": {"odd": number}}, {}, [])


@pytest.fixture
def changes():
    return []


@pytest.fixture
def queue(changes):
    return PromptQueue(lambda: changes.append(1), Faults())


def take_all(queue):
    taken = []
    while queue.remaining():
        taken.append(queue.take())
        queue.finish(taken[-1], DONE)
    return taken


def test_the_lowest_number_runs_first(queue):
    for number in (1, 2, -3, -4, -5.0, 0.5):
        queue.put(job(number, str(number)))
    assert [x.number for x in take_all(queue)] == [-5.0, -4, -3, 0.5, 1, 2]


def test_equal_number_and_id_end_no_worker(queue):
    for _ in range(3):
        queue.put(job(7))
    assert len(take_all(queue)) == 3
    assert len(queue.history()) == 1


def test_put_take_and_finish_each_make_one_status(queue, changes):
    queue.put(job(1))
    taken = queue.take()
    queue.finish(taken, DONE)
    assert len(changes) == 3


def test_deleting_touches_waiting_prompts_only(queue):
    queue.put(job(1, "running"))
    queue.put(job(2, "waiting"))
    queue.take()
    assert queue.delete("waiting")
    assert not queue.delete("running")
    assert not queue.delete("unknown")
    assert queue.remaining() == 1


def test_an_interrupt_of_an_idle_server_does_not_hit_the_next_prompt(queue):
    queue.interrupt()
    queue.put(job(1))
    queue.take()
    assert not queue.take_interrupt()


def test_a_targeted_interrupt_hits_the_running_prompt_only(queue):
    queue.put(job(1, "a"))
    queue.put(job(2, "b"))
    queue.take()
    assert not queue.interrupt("b")
    assert not queue.take_interrupt()
    assert queue.interrupt("a")
    assert queue.take_interrupt()
    assert not queue.take_interrupt()


def test_history_can_be_paged(queue):
    for number in range(5):
        queue.put(job(number, str(number)))
    take_all(queue)
    assert list(queue.history(2)) == ["3", "4"]
    assert list(queue.history(2, 0)) == ["0", "1"]
    assert list(queue.history(offset=3)) == ["3", "4"]
    assert list(queue.history(0)) == []


def test_a_repeated_id_overwrites_its_history(queue):
    for number in (1, 2):
        queue.put(job(number))
    take_all(queue)
    assert queue.history_of("id")["prompt"][0] == 2


def test_the_oldest_history_goes_first(queue):
    for number in range(MAX_HISTORY + 5):
        queue.put(job(number, str(number)))
        queue.finish(queue.take(), DONE)
    assert len(queue.history()) == MAX_HISTORY + 1
    assert queue.history_of("0") is None


def test_taking_ends_when_the_queue_closes(queue):
    taken = []
    waiting = threading.Thread(target=lambda: taken.append(queue.take()))
    waiting.start()
    queue.close()
    waiting.join(5)
    assert taken == [None]
    assert queue.closed
