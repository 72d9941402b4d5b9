import pytest

from jupyter_comfy_lock.domain.lock import (
    TRANSITIONS,
    HolderId,
    LockEvent,
    LockState,
    Mode,
    advance,
    lock_to_json,
    refusal,
)
from tests.domain.things import a_lock


@pytest.mark.parametrize("state", LockState)
@pytest.mark.parametrize("event", LockEvent)
def test_whatever_happens_to_a_lock_it_is_over_and_stays_over(state, event):
    assert TRANSITIONS[state][event] is LockState.ENDED
    assert advance(a_lock(state=state), event).state is LockState.ENDED


def test_a_lock_that_ends_is_the_same_in_all_else():
    lock = a_lock(fence=7, name="a.ipynb")
    ended = advance(lock, LockEvent.RELEASED)
    assert (ended.fence, ended.holder_id, ended.name) == (7, lock.holder_id, "a.ipynb")
    assert lock.state is LockState.HELD


def test_a_shared_lock_fits_beside_shared_ones_up_to_the_capacity():
    two = (a_lock("k1.1", name="a.ipynb"), a_lock("k2.1"))
    assert refusal(Mode.SHARED, 3, two) is None
    assert refusal(Mode.SHARED, 2, two) == "all 2 places are held, by a.ipynb, kernel k2.1"


def test_an_exclusive_lock_fits_beside_nobody():
    assert refusal(Mode.EXCLUSIVE, 4, ()) is None
    assert refusal(Mode.EXCLUSIVE, 4, (a_lock(),)) == (
        "an exclusive lock was asked for and it is held by kernel k1.1"
    )


@pytest.mark.parametrize("mode", Mode)
def test_nobody_fits_beside_an_exclusive_lock(mode):
    others = (a_lock("k2.1"), a_lock("k1.1", mode=Mode.EXCLUSIVE, name="a.ipynb"))
    assert refusal(mode, 4, others) == "a.ipynb holds it exclusively"


@pytest.mark.parametrize("had", Mode)
@pytest.mark.parametrize("mode", Mode)
def test_a_holder_does_not_stand_in_its_own_way(had, mode):
    assert refusal(mode, 1, (a_lock("k1.1", mode=had),), HolderId("k1.1")) is None


def test_a_lock_is_shown_without_the_node_that_keeps_it():
    shown = lock_to_json(a_lock(fence=3), url="http://x", epoch=2)
    assert "node_id" not in shown
    assert (shown["fence"], shown["epoch"], shown["mode"]) == (3, 2, "shared")
