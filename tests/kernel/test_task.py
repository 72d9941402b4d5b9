"""What a user can do with a task, and that every wait ends."""

import _thread
import asyncio
import threading

import pytest

from jupyter_comfy_lock.domain.errors import (
    NoServerExtension,
    TaskCancelled,
    TaskFailed,
    TaskLost,
)
from jupyter_comfy_lock.kernel import task_wait
from jupyter_comfy_lock.kernel.results import Progress
from jupyter_comfy_lock.kernel.task import TaskNotEnded
from tests.kernel.fake_jupyter import NOW, png

PROMPT = {"1": {"class_type": "X", "inputs": {}}}
ERROR = {
    "node_id": "3",
    "node_class": "TrRaise",
    "exception_type": "ValueError",
    "message": "boom",
    "traceback": ['  File "nodes.py", line 1, in run\n', "    raise ValueError\n"],
}


@pytest.fixture
def task(jupyter, session):
    """A task on gpu-1, with the event stream open."""
    session.lock("gpu-1")
    jupyter.wait_for_call("GET events")
    return session.submit(PROMPT, on_lock=lambda _: None)


def later(act) -> threading.Thread:
    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_a_wait_returns_the_task_when_it_has_succeeded(jupyter, task):
    ending = later(lambda: jupyter.change(task.id, state="succeeded"))
    assert task.wait(timeout=20) is task
    assert task.state == "succeeded"
    ending.join()


def test_an_end_that_overtakes_the_reply_to_the_submit_is_not_missed(jupyter, session):
    session.lock("gpu-1")
    jupyter.wait_for_call("GET events")
    heard = threading.Event()
    tell = session._book.tell
    session._book.tell = lambda json: (tell(json), heard.set())

    def end_it(task_id):
        jupyter.change(task_id, state="succeeded")
        assert heard.wait(20)

    jupyter.before_reply = end_it
    task = session.submit(PROMPT, on_lock=lambda _: None)
    assert task.ended


def test_a_failure_names_task_kernel_node_and_the_comfyservers_traceback(jupyter, task):
    jupyter.change(task.id, state="failed", error=ERROR)
    with pytest.raises(TaskFailed) as failed:
        task.wait(timeout=20)
    for fact in (task.id, "gpu-1", "a.ipynb", "node 3", "TrRaise", "ValueError: boom", "line 1"):
        assert fact in str(failed.value)
    assert task.error.message == "boom"


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("by its kernel", "was cancelled by its kernel."),
        ("by the Jupyter user", "was cancelled by the Jupyter user."),
        ("its kernel ended: it died", "was cancelled because its kernel ended: it died."),
        (
            "its Jupyter server was stopped",
            "was cancelled because its Jupyter server was stopped.",
        ),
        ("interrupted", "was cancelled because it was interrupted."),
        ("deleted from the queue", "was cancelled because it was deleted from the queue."),
        ("stopped on the ComfyServer", "was cancelled because it was stopped on the ComfyServer."),
        ("no more power", "was cancelled: no more power."),
        ("cancelled", "was cancelled."),
        (None, "was cancelled."),
    ],
)
def test_a_cancelled_task_says_why_in_a_whole_sentence(jupyter, task, reason, said):
    jupyter.change(task.id, state="cancelled", reason=reason)
    with pytest.raises(TaskCancelled) as cancelled:
        task.wait(timeout=20)
    assert f"{said} Submit it again" in str(cancelled.value)
    assert task.reason == reason


def test_a_lost_task_says_why(jupyter, task):
    jupyter.change(task.id, state="lost", reason="gpu-1 was restarted")
    with pytest.raises(TaskLost, match="gpu-1 was restarted"):
        task.wait(timeout=20)


def test_a_timeout_says_that_the_task_goes_on_and_how_far_it_is(jupyter, task):
    progress = {"nodes_done": 1, "nodes_total": 3, "node_id": "3", "node_class": "KSampler"}
    heard = threading.Event()
    task.on_change(heard.set)
    jupyter.change(task.id, state="running", progress={**progress, "value": 4, "max": 20})
    assert heard.wait(20)
    with pytest.raises(TimeoutError, match=r"1/3 nodes · KSampler \(3\) 4/20.*task\.cancel\(\)"):
        task.wait(timeout=0.01)
    assert not task.ended


def test_ctrl_c_ends_the_waiting_only_and_says_how_to_cancel(jupyter, task, monkeypatch):
    monkeypatch.setattr(task_wait, "POLL_DOWN_S", 0.02)
    monkeypatch.setattr(task._lookout, "look", _thread.interrupt_main)
    with pytest.raises(KeyboardInterrupt, match=r"goes on on gpu-1.*task\.cancel\(\)"):
        task.wait(timeout=20)
    assert jupyter.count(f"POST tasks/{task.id}/cancel") == 0


@pytest.mark.complaint(18)
@pytest.mark.asyncio
async def test_a_task_can_be_awaited_in_the_running_loop(jupyter, task):
    beats = 0

    async def heart() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0)

    beating = asyncio.create_task(heart())
    ending = later(lambda: jupyter.change(task.id, state="succeeded"))
    assert await asyncio.wait_for(_result(task), 20) is task
    beating.cancel()
    ending.join()
    assert beats > 0


@pytest.mark.asyncio
async def test_awaiting_a_failed_task_raises_as_wait_does(jupyter, task):
    jupyter.change(task.id, state="failed", error=ERROR)
    with pytest.raises(TaskFailed, match="boom"):
        await task


@pytest.mark.asyncio
async def test_to_stop_awaiting_does_not_cancel_the_task_and_says_so(jupyter, task):
    awaiting = asyncio.create_task(_result(task))
    await asyncio.sleep(0)
    awaiting.cancel()
    with pytest.raises(asyncio.CancelledError, match=r"goes on on gpu-1.*task\.cancel\(\)"):
        await awaiting
    assert task._listeners == []
    assert jupyter.count(f"POST tasks/{task.id}/cancel") == 0


@pytest.mark.asyncio
async def test_an_await_may_have_a_time_limit(task):
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(_result(task), 0.01)


async def _result(task):
    return await task


@pytest.mark.usefixtures("often")
def test_without_a_stream_a_wait_finds_the_end_by_asking(jupyter, session):
    jupyter.streams_work = False
    session.lock("gpu-1")
    task = session.submit(PROMPT, on_lock=lambda _: None)
    asking = later(lambda: jupyter.wait_for_call(f"GET tasks/{task.id}"))
    ending = later(lambda: (asking.join(), jupyter.tasks[task.id].update(state="succeeded")))
    assert task.wait(timeout=20).state == "succeeded"
    ending.join()


@pytest.mark.asyncio
@pytest.mark.usefixtures("often")
async def test_without_a_stream_an_await_finds_the_end_by_asking(jupyter, session):
    jupyter.streams_work = False
    session.lock("gpu-1")
    task = session.submit(PROMPT, on_lock=lambda _: None)
    jupyter.tasks[task.id]["state"] = "succeeded"
    assert (await asyncio.wait_for(_result(task), 20)).ended


@pytest.mark.usefixtures("often")
def test_without_a_stream_a_loop_over_the_state_ends(jupyter, session):
    jupyter.streams_work = False
    session.lock("gpu-1")
    task = session.submit(PROMPT, on_lock=lambda _: None)
    jupyter.tasks[task.id]["state"] = "succeeded"
    pause = threading.Event()
    for _ in range(1000):
        if task.state == "succeeded":
            return
        pause.wait(0.01)
    pytest.fail(task.state)


def test_a_stream_that_drops_is_opened_again_and_its_snapshot_tells_the_end(jupyter, task):
    jupyter.tasks[task.id]["state"] = "succeeded"
    jupyter.drop_streams()
    assert task.wait(timeout=20).ended
    assert jupyter.count("GET events") == 2


def test_a_bad_event_does_not_end_the_stream(jupyter, task):
    jupyter.feeds[0].raw(b"event: task\ndata: {not json\n\n")
    jupyter.change(task.id, state="succeeded")
    assert task.wait(timeout=20).ended
    assert jupyter.count("GET events") == 1


def test_a_task_that_the_restarted_server_does_not_know_is_lost(jupyter, task):
    jupyter.forget()
    with pytest.raises(TaskLost, match="does not know it any more"):
        task.wait(timeout=20)


@pytest.mark.usefixtures("often")
def test_a_wait_gives_up_on_a_server_that_stays_away(jupyter, task, monkeypatch):
    monkeypatch.setattr(task_wait, "PATIENCE_S", 0.1)
    jupyter.down = True
    jupyter.drop_streams()
    with pytest.raises(NoServerExtension, match="Cannot tell how task"):
        task.wait(timeout=20)


def test_late_news_does_not_undo_an_end(jupyter, session, task):
    old = dict(task.json, state="running")
    jupyter.change(task.id, state="succeeded")
    task.wait(timeout=20)
    session._book.tell(old)
    assert task.state == "succeeded"


def test_cancel_asks_and_returns_at_once(jupyter, task):
    task.cancel()
    assert jupyter.count(f"POST tasks/{task.id}/cancel") == 1
    assert not task.ended


def test_images_are_pil_images_fetched_once(jupyter, task):
    jupyter.add_file(task.id, "a.png", png((4, 3), "red"), "image/png")
    jupyter.add_file(task.id, "a.txt", b"text", "text/plain")
    jupyter.change(task.id, state="succeeded")
    [image] = task.wait(timeout=20).images
    assert (image.size, image.convert("RGB").getpixel((0, 0))) == ((4, 3), (255, 0, 0))
    assert task.images[0] is image
    assert jupyter.count(f"GET tasks/{task.id}/files/0") == 1
    assert [each.filename for each in task.files] == ["a.png", "a.txt"]


def test_a_file_is_saved_under_its_own_name_in_a_folder(jupyter, task, tmp_path):
    jupyter.add_file(task.id, "../a.txt", b"text", "text/plain")
    jupyter.change(task.id, state="succeeded")
    [file] = task.wait(timeout=20).files
    assert file.save(tmp_path) == tmp_path / "a.txt"
    assert (tmp_path / "a.txt").read_bytes() == b"text"


def test_images_of_a_task_that_goes_on_say_to_wait(task):
    with pytest.raises(TaskNotEnded, match=r"task\.wait\(\)"):
        _ = task.images


def test_images_of_a_failed_task_are_not_an_empty_list(jupyter, task):
    jupyter.change(task.id, state="failed", error=ERROR)
    with pytest.raises(TaskFailed):
        task.wait(timeout=20)
    with pytest.raises(TaskFailed, match="boom"):
        _ = task.images


def test_images_of_a_success_without_files_are_an_empty_list(jupyter, task):
    jupyter.change(task.id, state="succeeded")
    assert task.wait(timeout=20).images == []


def test_the_preview_is_the_newest_one_and_of_a_node(jupyter, task):
    assert task.preview is None
    jupyter.files[f"comfy-lock/api/tasks/{task.id}/preview"] = png((4, 3), "red")
    shown = {"nodes_done": 1, "nodes_total": 3, "preview": 1, "preview_node_id": "3"}
    heard = threading.Event()
    task.on_change(heard.set)
    jupyter.change(task.id, state="running", progress=shown)
    assert heard.wait(20)
    assert task.preview.size == (4, 3)
    assert task.progress.preview_node_id == "3"


def test_a_preview_that_a_new_jupyter_server_does_not_know_is_none(jupyter, task):
    jupyter.change(task.id, state="succeeded", progress={"preview": 7})
    assert task.wait(timeout=20).preview is None


def test_how_many_are_ahead_tells_ones_own(jupyter, task):
    assert (task.ahead, task.ahead_mine) == (1, 0)
    heard = threading.Event()
    task.on_change(heard.set)
    jupyter.change(task.id, queue={"ahead": 5, "ahead_mine": 3})
    assert heard.wait(20)
    assert (task.ahead, task.ahead_mine) == (5, 3)


def test_seconds_are_those_of_the_run(jupyter, task):
    assert task.seconds is None
    jupyter.change(task.id, state="succeeded", started_at=NOW, ended_at=NOW + 2.5, cached=True)
    assert task.wait(timeout=20).seconds == 2.5
    assert task.cached


def test_progress_reads_as_a_person_would_say_it():
    assert str(Progress(nodes_done=1, nodes_total=4)) == "1/4 nodes"
    running = Progress(
        nodes_done=1, nodes_total=4, node_id="3", node_class="KSampler", value=7.0, max=20.0
    )
    assert str(running) == "1/4 nodes · KSampler (3) 7/20"


def test_the_repr_is_the_same_for_each_run_of_a_notebook(jupyter, task):
    assert repr(task) == "Task(gpu-1, queued)"


def test_one_task_is_one_object_however_it_was_found(session, task):
    assert session.task(task.id) is task
    assert session.tasks()[0] is task


def test_tasks_are_newest_first(session, task):
    second = session.submit(PROMPT, on_lock=lambda _: None)
    assert [each.id for each in session.tasks()] == [second.id, task.id]
