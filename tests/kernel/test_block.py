"""`with comfy.lock(...)`: what the kernel had before the block it has after it."""

import os

import pytest

import jupyter_comfy_lock as comfy
from jupyter_comfy_lock.domain.errors import LockRefused, NoServerExtension
from jupyter_comfy_lock.kernel.waiting import LockWaitInterrupted


def held(jupyter):
    return jupyter.lock and (jupyter.lock["comfy_id"], jupyter.lock["mode"])


def test_the_lock_is_given_back_at_the_end_of_the_block(jupyter, session):
    with comfy.lock("gpu-1") as lock:
        assert lock.comfy_id == "gpu-1"
        assert held(jupyter) == ("gpu-1", "shared")
    assert held(jupyter) is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, SystemExit])
def test_whatever_ends_the_block_gives_the_lock_back(jupyter, session, error):
    with pytest.raises(error), comfy.lock("gpu-1"):
        raise error
    assert held(jupyter) is None


def test_a_lock_that_was_held_before_the_block_is_kept(jupyter, session):
    comfy.lock("gpu-1")
    with comfy.lock("gpu-1"), comfy.lock("gpu-1"):
        pass
    assert held(jupyter) == ("gpu-1", "shared")


def test_a_block_in_a_block_leaves_the_lock_to_the_outer_one(jupyter, session):
    with comfy.lock("gpu-1"):
        with comfy.lock("gpu-1"):
            pass
        assert held(jupyter) == ("gpu-1", "shared")
    assert held(jupyter) is None


def test_a_lock_that_the_block_made_exclusive_is_shared_after_it(jupyter, session):
    comfy.lock("gpu-1")
    with comfy.lock("gpu-1", mode="exclusive") as lock:
        assert (lock.new, lock.was) == (False, "shared")
        assert held(jupyter) == ("gpu-1", "exclusive")
    assert held(jupyter) == ("gpu-1", "shared")


def test_a_block_that_released_by_itself_releases_nothing_else(jupyter, session):
    with comfy.lock("gpu-1"):
        comfy.release()
        comfy.lock("gpu-2")
    assert held(jupyter) == ("gpu-2", "shared")


def test_a_lock_that_was_lost_in_the_block_ends_it_silently(jupyter, session, capsys):
    with comfy.lock("gpu-1"):
        jupyter.take_lock_away("taken away by ann")
    assert jupyter.count("DELETE locks/mine") == 0
    assert capsys.readouterr().out == ""


def test_a_block_during_which_the_server_forgot_the_kernel_ends_silently(jupyter, session):
    with comfy.lock("gpu-1"):
        jupyter.forget()
    assert jupyter.count("DELETE locks/mine") == 0


def test_a_lock_that_cannot_be_given_back_does_not_hide_what_ended_the_block(jupyter, session):
    def block():
        with comfy.lock("gpu-1"):
            jupyter.down = True
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as ended:
        block()
    [note] = ended.value.__notes__
    assert note.startswith("The lock on gpu-1 could not be given back: The Jupyter server")


def test_a_lock_that_cannot_be_given_back_after_a_good_block_is_an_error(jupyter, session):
    with pytest.raises(NoServerExtension), comfy.lock("gpu-1"):
        jupyter.down = True


def test_a_second_ctrl_c_while_the_lock_is_given_back_does_not_keep_it(
    jupyter, session, monkeypatch
):
    release, presses = session.release, [KeyboardInterrupt]

    def pressed_once():
        if presses:
            raise presses.pop()
        return release()

    monkeypatch.setattr(session, "release", pressed_once)
    with pytest.raises(KeyboardInterrupt), comfy.lock("gpu-1"):
        pass
    assert held(jupyter) is None


def test_a_lock_that_is_never_got_runs_no_block(jupyter, session):
    jupyter.refuse = LockRefused("gpu-1", "b.ipynb holds it", [])
    with pytest.raises(LockRefused), comfy.lock("gpu-1"):
        raise AssertionError
    assert jupyter.count("DELETE locks/mine") == 0


def test_a_block_whose_waiting_was_interrupted_does_not_run(jupyter, session):
    jupyter.taken = {"gpu-1"}
    jupyter.on_line = lambda line: line.interrupt()
    with pytest.raises(LockWaitInterrupted), comfy.lock("gpu-1", wait=9):
        raise AssertionError


def test_a_lock_that_was_given_back_begins_no_second_block(session):
    lock = comfy.lock("gpu-1")
    with lock:
        pass
    with pytest.raises(comfy.ComfyLockError, match=r'with comfy\.lock\("gpu-1"\)'), lock:
        raise AssertionError


def test_the_end_of_the_block_in_a_fork_leaves_the_parents_lock_alone(
    jupyter, session, monkeypatch
):
    with comfy.lock("gpu-1"):
        monkeypatch.setattr(os, "getpid", lambda: -1)
    assert held(jupyter) == ("gpu-1", "shared")


def test_a_lock_is_shown_the_same_in_each_run(session):
    with comfy.lock("gpu-1") as lock:
        assert repr(lock) == "Lock(gpu-1, shared)"
