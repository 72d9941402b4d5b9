"""Who follows a task in a loop gets each state once, the newest of the rest, and the end."""

import _thread
import asyncio
import threading

import pytest

from jupyter_comfy_lock.domain.errors import NoServerExtension
from jupyter_comfy_lock.kernel import task_wait
from jupyter_comfy_lock.kernel.task_events import TaskReader
from tests.kernel.fake_jupyter import NOW

HALF = {"nodes_done": 1, "nodes_total": 2}


def kinds(events):
    return [(each.kind, each.state) for each in events]


async def all_of(task):
    return [event async for event in task]


def told(state="queued", **more):
    json = {"state": state, "created_at": NOW, "started_at": None, "ended_at": None}
    return {**json, "progress": None, "queue": None, **more}


class Story:
    """What is known of a task, chapter by chapter, and a reader of it."""

    def __init__(self):
        self.json = told()
        self.woken = 0
        self.reader = TaskReader(lambda: self.json, self._wake)
        self.reader.hear()

    def _wake(self):
        self.woken += 1

    def tell(self, *chapters):
        for self.json in chapters:
            self.reader.hear()

    def read(self):
        return list(iter(self.reader.take, None))


def test_the_state_as_it_is_comes_first():
    assert kinds(Story().read()) == [("state", "queued")]


def test_a_slow_reader_gets_every_state_and_of_the_progress_the_newest():
    story = Story()
    steps = [told("running", progress={**HALF, "value": float(n)}) for n in range(500)]
    story.tell(told("registered"), *steps)
    events = story.read()
    assert kinds(events) == [
        ("state", "queued"),
        ("state", "registered"),
        ("state", "running"),
        ("progress", "running"),
    ]
    assert events[-1].progress.value == 499
    assert story.woken == 502


def test_a_preview_is_news_of_its_own_and_only_the_newest_is_told():
    story = Story()
    story.read()
    story.tell(*(told("running", progress={**HALF, "preview": n}) for n in range(1, 9)))
    events = story.read()
    assert [each.kind for each in events] == ["state", "progress", "preview"]
    assert events[-1].progress.preview == 8
    story.tell(told("running", progress={**HALF, "preview": 9}))
    assert [each.kind for each in story.read()] == ["preview"]


def test_another_place_in_the_queue_is_progress():
    story = Story()
    story.read()
    story.tell(told(queue={"ahead": 2}), told(queue={"ahead": 1}))
    assert [each.kind for each in story.read()] == ["progress"]
    story.tell(told(queue={"ahead": 1}))
    assert story.read() == []


def test_after_the_end_there_is_nothing_to_read():
    story = Story()
    story.tell(told("running", progress={**HALF, "preview": 1}), told("succeeded", ended_at=NOW))
    events = story.read()
    assert kinds(events) == [("state", "queued"), ("state", "running"), ("ended", "succeeded")]
    assert events[-1].at == NOW


def test_the_moment_of_a_state_is_that_of_the_jupyter_server():
    story = Story()
    story.tell(told("running", started_at=NOW + 1), told("failed", ended_at=NOW + 2))
    assert [each.at for each in story.read()][1:] == [NOW + 1, NOW + 2]


def test_a_loop_over_events_ends_with_the_task_and_raises_nothing_of_its_end(jupyter, task):
    seen = []
    for event in task.events(timeout=20):
        seen.append(event)
        if event.state == "queued":
            jupyter.change(task.id, state="running", started_at=NOW)
        elif event.kind == "state":
            jupyter.change(task.id, state="failed", reason="boom")
    assert kinds(seen) == [("state", "queued"), ("state", "running"), ("ended", "failed")]
    assert task._listeners == []
    assert kinds(task.events()) == [("ended", "failed")]
    assert str(seen[-1]) == "ended: failed · 0/0 nodes"


def test_a_loop_that_is_left_listens_no_more(task):
    for _ in task.events(timeout=20):
        break
    assert task._listeners == []


def test_several_readers_on_several_threads_and_in_a_loop_hear_the_same(jupyter, task):
    started, heard = threading.Barrier(4), []

    def read():
        events = task.events(timeout=20)
        first = next(events)
        started.wait(20)
        heard.append([first, *events])

    async def read_in_a_loop():
        events = aiter(task)
        first = await anext(events)
        await asyncio.to_thread(started.wait, 20)
        heard.append([first, *[each async for each in events]])

    threads = [threading.Thread(target=read) for _ in range(2)]
    threads.append(threading.Thread(target=asyncio.run, args=(read_in_a_loop(),)))
    for thread in threads:
        thread.start()
    started.wait(20)
    jupyter.change(task.id, state="running", started_at=NOW)
    jupyter.change(task.id, state="succeeded", ended_at=NOW)
    for thread in threads:
        thread.join(20)
    story = [("state", "queued"), ("state", "running"), ("ended", "succeeded")]
    assert [kinds(each) for each in heard] == [story] * 3


@pytest.mark.asyncio
async def test_an_event_loop_is_not_blocked_by_who_follows_a_task(jupyter, task):
    events = aiter(task)
    assert (await anext(events)).state == "queued"
    following = asyncio.create_task(anext(events))
    # The change is made by this very loop, while the other one of its tasks waits.
    asyncio.get_running_loop().call_soon(lambda: jupyter.change(task.id, state="succeeded"))
    assert (await asyncio.wait_for(following, 20)).kind == "ended"
    assert [each async for each in events] == []
    assert task._listeners == []


@pytest.mark.usefixtures("often")
def test_without_a_stream_the_events_end_by_asking(jupyter, session):
    jupyter.streams_work = False
    session.lock("gpu-1")
    task = session.submit({"1": {"class_type": "X"}}, on_lock=lambda _: None)
    events = task.events(timeout=20)
    next(events)
    jupyter.tasks[task.id]["state"] = "succeeded"
    assert kinds(events)[-1] == ("ended", "succeeded")


@pytest.mark.asyncio
@pytest.mark.usefixtures("often")
async def test_without_a_stream_the_events_end_by_asking_in_a_loop_too(jupyter, session):
    jupyter.streams_work = False
    session.lock("gpu-1")
    task = session.submit({"1": {"class_type": "X"}}, on_lock=lambda _: None)
    jupyter.tasks[task.id]["state"] = "succeeded"
    assert kinds(await asyncio.wait_for(all_of(task), 20))[-1] == ("ended", "succeeded")


def test_a_task_that_the_jupyter_server_forgets_has_ended(jupyter, task):
    seen = []
    for event in task.events(timeout=20):
        seen.append(event)
        if event.kind == "state":
            jupyter.forget()
    assert kinds(seen) == [("state", "queued"), ("ended", "lost")]


def test_a_timeout_ends_the_loop_and_not_the_task(task):
    events = task.events(timeout=0.01)
    next(events)
    with pytest.raises(TimeoutError, match=r"goes on on gpu-1.*task\.cancel\(\)"):
        next(events)
    assert not task.ended


def test_ctrl_c_ends_the_loop_and_says_how_to_cancel(jupyter, task, monkeypatch):
    monkeypatch.setattr(task_wait, "POLL_DOWN_S", 0.02)
    monkeypatch.setattr(task._lookout, "look", _thread.interrupt_main)
    events = task.events(timeout=20)
    next(events)
    with pytest.raises(KeyboardInterrupt, match=r"stopped waiting.*task\.cancel\(\)"):
        next(events)
    assert jupyter.count(f"POST tasks/{task.id}/cancel") == 0
    assert task._listeners == []


@pytest.mark.usefixtures("often")
def test_the_events_end_when_the_jupyter_server_stays_away(jupyter, task, monkeypatch):
    monkeypatch.setattr(task_wait, "PATIENCE_S", 0.1)
    jupyter.down = True
    jupyter.drop_streams()
    with pytest.raises(NoServerExtension, match="Cannot tell how task"):
        list(task.events(timeout=20))
