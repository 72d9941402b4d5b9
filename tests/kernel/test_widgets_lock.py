"""The view of the lock: what it shows, and what its buttons do in the kernel."""

import threading

import pytest

from jupyter_comfy_lock.domain.errors import LockRefused
from tests.kernel.fake_jupyter import NOW

widgets = pytest.importorskip(
    "jupyter_comfy_lock.kernel.widgets",
    reason="the widget is not built",
    exc_type=FileNotFoundError,
)


@pytest.fixture
def view(jupyter, session):
    made = widgets.LockView()
    jupyter.wait_for_call("GET events")
    yield made
    made.close()


@pytest.fixture
def until(view):
    """Wait until the view shows something, by the thread that writes it."""
    changed = threading.Condition()

    def note(_):
        with changed:
            changed.notify_all()

    view.observe(note)

    def wait(shows):
        with changed:
            assert changed.wait_for(lambda: shows(view), timeout=20), view.get_state()

    return wait


def holds(comfy_id):
    return lambda view: [each["comfy_id"] for each in view.pool if each["mine"]] == [comfy_id]


def press(view, kind, **fields):
    view._handle_custom_msg({"kind": kind, "id": 1, **fields}, [])


def test_it_shows_the_pool_and_who_the_kernel_is(jupyter, view):
    assert [each["comfy_id"] for each in view.pool] == ["gpu-1", "gpu-2"]
    assert (view.holder_id, view.note, view.doing) == ("k-1.1", "", "")
    assert repr(view) == "LockView(nothing locked)"


def test_it_follows_a_lock_that_a_cell_takes(view, session, until):
    session.lock("gpu-1")
    until(holds("gpu-1"))
    assert repr(view) == "LockView(gpu-1)"


def test_a_lock_that_was_taken_away_is_told_with_the_reason(jupyter, view, session, until):
    session.lock("gpu-1")
    jupyter.take_lock_away("taken away by ann: it blocks the night run")
    until(lambda it: it.note)
    assert view.note == "The lock is gone: taken away by ann: it blocks the night run."


def test_its_button_locks_and_says_that_it_was_heard(view, until, monkeypatch):
    sent = []
    monkeypatch.setattr(view, "send", lambda content, buffers=None: sent.append(content))
    press(view, "lock", comfy_id="gpu-2", mode="exclusive")
    assert sent == [{"kind": "heard", "id": 1}]
    until(holds("gpu-2"))
    until(lambda it: it.doing == "")


def test_a_refused_switch_shows_the_reason_and_keeps_the_lock(jupyter, session, view, until):
    session.lock("gpu-1")
    until(holds("gpu-1"))
    jupyter.refuse = LockRefused("gpu-2", "b.ipynb holds it", [])
    press(view, "lock", comfy_id="gpu-2")
    until(lambda it: it.note)
    assert "b.ipynb holds it" in view.note
    assert holds("gpu-1")(view)


def test_who_waits_by_the_button_can_leave_the_line(jupyter, view, until):
    jupyter.taken = {"gpu-2"}
    began = threading.Event()
    jupyter.on_line = lambda line: (jupyter.tell_waiting(line), began.set())
    press(view, "lock", comfy_id="gpu-2", wait=True)
    assert began.wait(20)
    press(view, "look")
    until(lambda it: it.waiting)
    assert "held by b.ipynb" in view.waiting["why"]
    (line,) = jupyter.lines
    press(view, "leave")
    until(lambda it: not it.waiting)
    assert jupyter.lines == []
    line.put({"error": LockRefused("gpu-2", "the request was taken back", []).to_json()})
    until(lambda it: it.doing == "")
    assert view.note == ""


def test_release_releases_the_lock_that_was_meant_and_no_later_one(jupyter, session, view, until):
    session.lock("gpu-1")
    until(holds("gpu-1"))
    press(view, "release", comfy_id="gpu-1", since=NOW - 1)
    press(view, "release", comfy_id="gpu-2", since=NOW)
    assert jupyter.count("DELETE locks/mine") == 0
    press(view, "release", comfy_id="gpu-1", since=NOW)
    until(lambda it: not any(each["mine"] for each in it.pool))


def test_a_jupyter_server_that_is_away_is_told_of(jupyter, view, until):
    jupyter.down = True
    press(view, "look")
    until(lambda it: it.note)
    assert [each["comfy_id"] for each in view.pool] == ["gpu-1", "gpu-2"]


def test_a_closed_view_listens_no_more(session, view):
    view.close()
    assert session._held._listeners == []
