"""Waiting in line for a lock: what is shown, and what ends it."""

import math
import threading

import httpx
import numpy as np
import pytest

import jupyter_comfy_lock as comfy
from jupyter_comfy_lock.domain.errors import LockTimeout, ServerConsistencyError, UnknownHolder
from jupyter_comfy_lock.kernel import waiting
from jupyter_comfy_lock.kernel.waiting import LockWaitInterrupted, waiting_sentence


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(waiting, "PAUSE_S", 0.0)


@pytest.fixture
def taken(jupyter, session):
    """A pool of which gpu-1 is taken."""
    jupyter.taken = {"gpu-1"}
    return jupyter


def first_place_then_granted(jupyter):
    def come(line):
        jupyter.tell_waiting(line, place=2)
        jupyter.tell_waiting(line, place=1)
        jupyter.tell_waiting(line, place=1)  # the sign of life
        jupyter.grant(line)

    return come


def test_without_waiting_a_taken_comfyserver_is_refused_at_once(taken):
    with pytest.raises(comfy.LockRefused):
        comfy.lock("gpu-1")
    assert taken.wishes[0]["wait"] == 0


@pytest.mark.parametrize(
    ("wait", "sent"), [(30, 30), (None, None), (math.inf, None), (np.int64(3), 3), (0.5, 0.5)]
)
def test_the_wait_is_sent_in_seconds_and_for_ever_is_null(taken, wait, sent):
    taken.on_line = taken.grant
    comfy.lock("gpu-1", wait=wait)
    assert taken.wishes[0]["wait"] == sent


def test_a_free_comfyserver_is_got_at_once_and_nothing_is_shown(session, capsys):
    assert comfy.lock("gpu-1", wait=30).new
    assert capsys.readouterr().out == ""


def test_who_waits_is_told_each_change_once_and_then_of_the_lock(taken, capsys):
    taken.on_line = first_place_then_granted(taken)
    assert comfy.lock("gpu-1", wait=30).comfy_id == "gpu-1"
    assert capsys.readouterr().out.splitlines() == [
        "Waiting for gpu-1: held by b.ipynb since 14:02, you are number 2.",
        "Waiting for gpu-1: held by b.ipynb since 14:02, you are number 1.",
        "Locked gpu-1.",
    ]


@pytest.mark.parametrize(
    ("ids", "what"),
    [
        (["gpu-1", "gpu-2"], "Waiting for gpu-1 or gpu-2: full."),
        (["a", "b", "c", "d"], "Waiting for one of 4 ComfyServers: full."),
    ],
)
def test_who_waits_for_any_of_many_is_told_so(ids, what):
    assert waiting_sentence({"comfy_ids": ids, "why": "full"}) == what


def test_labels_are_sent_with_the_wish(jupyter, session):
    comfy.lock(labels=["flux", "big"])
    assert jupyter.wishes[0]["labels"] == ["flux", "big"]


def test_a_lock_that_was_waited_for_is_known_to_be_held(taken, session):
    taken.on_line = taken.grant
    lock = session.lock("gpu-1", wait=None)
    assert (lock.new, session.has(lock)) == (True, True)


def test_the_time_that_is_up_is_an_error_that_is_also_a_timeout(taken, capsys):
    def come(line):
        taken.tell_waiting(line)
        line.put({"error": LockTimeout(5, "b.ipynb holds it", ["gpu-1"]).to_json()})

    taken.on_line = come
    with pytest.raises(TimeoutError, match=r"Waited 5 s for gpu-1 in vain") as ended:
        comfy.lock("gpu-1", wait=5)
    assert isinstance(ended.value, comfy.LockTimeout)
    assert capsys.readouterr().out.splitlines()[-1] == "The waiting has ended."


def test_an_error_that_ended_the_wait_there_is_raised_and_nothing_is_taken_back(taken):
    error = ServerConsistencyError("k", "lock", asked="gpu-1", locked="gpu-2", pending=["t"])
    taken.on_line = lambda line: line.put({"error": error.to_json()})
    with pytest.raises(comfy.ServerConsistencyError):
        comfy.lock("gpu-1", wait=5)
    assert not [call for call in taken.calls if "requests" in call]


# -- leaving the line ---------------------------------------------------------------------------


def left_the_line(jupyter) -> bool:
    return jupyter.count(f"DELETE locks/requests/{jupyter.wishes[0]['request_id']}") == 1


def test_ctrl_c_leaves_the_line_and_closes_the_connection(taken):
    lines = []

    def come(line):
        lines.append(line)
        taken.tell_waiting(line)
        line.interrupt()

    taken.on_line = come
    with pytest.raises(LockWaitInterrupted) as ended:
        comfy.lock("gpu-1", wait=None)
    assert lines[0].closed.is_set()
    assert left_the_line(taken)
    assert ended.value._render_traceback_() == [
        "KeyboardInterrupt: the waiting ended; you left the line; nothing is locked."
    ]
    assert ended.value.__suppress_context__


def test_ctrl_c_while_another_comfyserver_is_held_says_that_it_is_held_still(taken, session):
    session.lock("gpu-2")
    taken.on_line = lambda line: line.interrupt()
    with pytest.raises(LockWaitInterrupted, match="gpu-2 is locked as before"):
        session.lock("gpu-1", wait=9)


def test_a_lock_that_was_granted_at_the_moment_of_ctrl_c_is_given_back(taken, session, monkeypatch):
    session.servers()
    taken.wait_for_call("GET events")
    heard, hold = threading.Event(), session._held.hold
    monkeypatch.setattr(session._held, "hold", lambda lock: (hold(lock), heard.set()))

    def come(line):
        taken.grant(line, silently=True)
        assert heard.wait(20)  # the events tell of the lock before the answer does
        line.interrupt()

    taken.on_line = come
    with pytest.raises(LockWaitInterrupted, match="nothing is locked"):
        session.lock("gpu-1", wait=9)
    assert taken.lock is None
    assert session.submit({}, on_lock=lambda _: None).comfy_id == "gpu-2"


def test_ctrl_c_while_the_jupyter_server_is_silent_is_not_hidden(taken):
    def come(line):
        taken.down = True
        line.interrupt()

    taken.on_line = come
    with pytest.raises(LockWaitInterrupted):
        comfy.lock("gpu-1", wait=9)


def test_whatever_else_ends_the_waiting_leaves_the_line_too(taken, session):
    def fail(_):
        raise ZeroDivisionError

    taken.on_line = taken.tell_waiting
    with pytest.raises(ZeroDivisionError):
        session.lock("gpu-1", wait=9, tell=fail)
    assert left_the_line(taken)


# -- a broken connection ------------------------------------------------------------------------


@pytest.mark.parametrize("cut", ["drop", "end", "in the middle"])
def test_a_broken_connection_is_tried_once_more_for_the_time_that_is_left(taken, cut):
    def come(line):
        if len(taken.wishes) == 2:
            taken.grant(line)
            return
        taken.tell_waiting(line)
        if cut == "in the middle":
            line.raw(b'{"lock": {"comfy')
        line.drop() if cut == "drop" else line.end()

    taken.on_line = come
    assert comfy.lock("gpu-1", wait=30).comfy_id == "gpu-1"
    assert waiting.LAST_TRY_S <= taken.wishes[1]["wait"] < 30


def test_the_wish_whose_connection_broke_is_taken_back_before_it_is_made_anew(taken):
    taken.on_line = lambda line: line.drop() if len(taken.wishes) == 1 else taken.grant(line)
    comfy.lock("gpu-1", wait=30)
    first, second = (wish["request_id"] for wish in taken.wishes)
    asked = [call for call in taken.calls if "locks" in call]
    assert asked == ["POST locks", f"DELETE locks/requests/{first}", "POST locks"]
    assert first != second


def test_a_lock_whose_news_was_lost_is_given_back_and_taken_anew(taken):
    def come(line):
        taken.grant(line, silently=True)
        line.drop()

    taken.on_line = come
    lock = comfy.lock("gpu-1", wait=30)
    assert (lock.new, taken.lock["fence"]) == (True, lock.fence)


def test_a_connection_that_breaks_twice_is_an_error_and_the_line_is_left(taken):
    taken.on_line = lambda line: line.drop()
    with pytest.raises(comfy.NoServerExtension, match="does not answer"):
        comfy.lock("gpu-1", wait=None)
    assert [wish["wait"] for wish in taken.wishes] == [None, None]
    for wish in taken.wishes:
        assert taken.count(f"DELETE locks/requests/{wish['request_id']}") == 1


def test_who_was_forgotten_in_line_says_hello_and_waits_for_the_time_that_is_left(taken):
    def come(line):
        if len(taken.wishes) == 2:
            taken.grant(line)
            return
        taken.holders = {}
        line.put({"error": UnknownHolder().to_json()})

    taken.on_line = come
    assert comfy.lock("gpu-1", wait=30).comfy_id == "gpu-1"
    first, second = taken.wishes
    assert len(taken.hellos) == 2
    assert second["wait"] < 30
    assert second["request_id"] != first["request_id"]


def test_a_wait_outlasts_the_pauses_between_two_signs_of_life(taken, monkeypatch):
    seen, answer = {}, taken._answer

    def look(request, path):
        seen[path] = request.extensions["timeout"]["read"]
        return answer(request, path)

    monkeypatch.setattr(taken, "_answer", look)
    taken.on_line = taken.grant
    comfy.lock("gpu-1", wait=None)
    assert 40 <= seen["locks"] <= 60


@pytest.mark.parametrize("status", [302, 403])
def test_a_login_page_instead_of_an_answer_is_said_to_be_no_access(taken, monkeypatch, status):
    page = httpx.Response(status, text="<html>log in</html>")
    comfy.servers()
    monkeypatch.setattr(taken, "_answer", lambda request, path: page)
    with pytest.raises(comfy.WrongCredential, match=f"HTTP {status}"):
        comfy.lock("gpu-1")


def test_other_threads_go_on_while_one_waits(taken, session):
    waits = threading.Event()
    taken.on_line = lambda line: (taken.tell_waiting(line), waits.set())
    got = []
    thread = threading.Thread(target=lambda: got.append(session.lock("gpu-1", wait=60)))
    thread.start()
    assert waits.wait(20)
    assert len(session.servers()) == 2
    taken.grant(taken.lines[0])
    thread.join(20)
    assert [each.comfy_id for each in got] == ["gpu-1"]


# -- what cannot be asked for -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "error", "why"),
    [
        ({"wait": -1}, ValueError, "wait must be a number of seconds .* not -1"),
        ({"wait": math.nan}, ValueError, "not nan"),
        ({"wait": "5"}, TypeError, "not '5'"),
        ({"wait": True}, TypeError, "not True"),
        ({"mode": "exclusiv"}, ValueError, 'mode must be "shared" or "exclusive", not \'exclusiv'),
        ({"mode": []}, ValueError, "mode must be"),
        ({"labels": "flux"}, TypeError, r"labels must be a list, such as \[\"flux\"\], not 'flux'"),
        ({"labels": 3}, TypeError, "labels must be a list"),
        ({"labels": [3]}, TypeError, "a label is text, not 3"),
        ({"comfy_id": "gpu-1", "labels": ["a"]}, ValueError, "'gpu-1' is chosen already"),
        ({"comfy_id": 7}, TypeError, "is text or None, not int"),
        ({"comfy_id": ""}, ValueError, "is not empty"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused_before_anything_is_sent(
    wish, error, why, jupyter, session
):
    with pytest.raises(error, match=why):
        comfy.lock(**wish)
    assert jupyter.calls == []


def test_an_older_server_that_tells_no_was_is_understood(jupyter, session):
    jupyter.lease = None
    assert [session.lock("gpu-1").new for _ in range(2)] == [True, False]
