"""A lock that was taken away is told to the one who had it, once, whatever is called next."""

import threading
import warnings

import pytest

import jupyter_comfy_lock as comfy
from tests.kernel.test_session import PROMPT, submit

WHY = "taken away by ann at 2026-11-24 14:02: maintenance"
TOLD = rf"Your lock on gpu-1 is gone: {WHY}\."

CALLS = {
    "lock": lambda: comfy.lock("gpu-2"),
    "status": lambda: comfy.status(),
    "locked_server": lambda: comfy.locked_server,
    "servers": lambda: comfy.servers(),
}


@pytest.fixture
def heard(session, monkeypatch):
    """A set that the news of a loss is in, once the event thread has taken it in."""
    event, lose = threading.Event(), session._held.lose
    monkeypatch.setattr(session._held, "lose", lambda reason: (lose(reason), event.set()))
    return event


@pytest.fixture
def lost(jupyter, session, heard):
    """The session, after its lock on gpu-1 was taken away and it has heard so."""
    session.lock("gpu-1")
    jupyter.wait_for_call("GET events")
    jupyter.take_lock_away(WHY)
    assert heard.wait(20)
    return session


def warned(call) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(each.message) for each in caught if each.category is comfy.LockLost]


@pytest.mark.usefixtures("lost")
class TestTheNextCall:
    """The first call after the loss tells it, and no other."""

    @pytest.mark.parametrize("name", CALLS)
    def test_it_warns_once(self, name):
        with pytest.warns(comfy.LockLost, match=TOLD):
            CALLS[name]()
        assert warned(CALLS[name]) == []

    def test_the_warning_is_of_the_users_line(self):
        with pytest.warns(comfy.LockLost) as caught:
            comfy.servers()
        assert caught[0].filename == __file__

    def test_submitting_refuses_and_that_counts_as_told(self, lost):
        with pytest.raises(comfy.StaleLock, match="taken away by ann"):
            submit(lost)
        assert warned(comfy.status) == []

    def test_a_lock_that_is_refused_tells_the_loss_all_the_same(self, jupyter):
        jupyter.refuse = comfy.LockRefused("gpu-1", "full", [])
        with pytest.warns(comfy.LockLost), pytest.raises(comfy.LockRefused):
            comfy.lock("gpu-1")


def test_a_refusal_by_the_server_counts_as_told(jupyter, lost):
    jupyter.lock = {"comfy_id": "gpu-1", "fence": 1}  # so that it does not say NoLock
    jupyter.refuse = comfy.StaleLock("gpu-1", 1, WHY)
    with pytest.raises(comfy.StaleLock):
        lost.submit(PROMPT, on_lock=lambda _: None)
    jupyter.refuse, jupyter.lock = None, None
    assert warned(comfy.servers) == []


def test_a_lock_that_was_released_on_purpose_is_no_loss(jupyter, session):
    comfy.lock("gpu-1")
    comfy.release()
    assert warned(comfy.status) == []


def test_late_news_of_an_earlier_lock_is_no_loss_of_the_one_that_is_held(jupyter, session, heard):
    session.lock("gpu-1")
    jupyter.wait_for_call("GET events")
    # The server says so of a lock before this one: this one is there.
    jupyter.push("lock", {"lock": None, "reason": WHY})
    assert heard.wait(20)
    assert [warned(CALLS[name]) for name in ("status", "locked_server", "servers")] == [[]] * 3
    assert warned(lambda: comfy.lock("gpu-1")) == []


def test_a_server_that_forgot_the_kernel_is_a_loss(jupyter, session):
    session.lock("gpu-1")
    jupyter.forget()
    with pytest.warns(comfy.LockLost, match="gpu-1 is gone: the Jupyter server was restarted"):
        comfy.status()


def test_a_lock_that_drains_is_not_held_any_more(jupyter, session):
    session.lock("gpu-1")
    jupyter.lock["state"] = "draining"
    assert comfy.locked_server is None
