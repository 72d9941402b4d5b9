from itertools import product

import pytest

from jupyter_comfy_lock.domain.lock import (
    ACTIVE,
    LETTING_GO,
    HolderId,
    IllegalTransition,
    LockEvent,
    LockState,
    Mode,
    advance,
    lock_to_json,
    refusal,
    who,
)
from tests.domain.things import a_draining_lock, a_lock

S, E = LockState, LockEvent

#: The whole life of a lock: what is not here cannot happen.
AFTER = {
    (S.WAITING, E.GRANTED): S.HELD,
    (S.WAITING, E.RELEASED): S.ENDED,
    (S.WAITING, E.HOLDER_GONE): S.ENDED,
    (S.WAITING, E.EXPIRED): S.ENDED,
    (S.WAITING, E.FORCED): S.ENDED,
    (S.WAITING, E.TIMED_OUT): S.ENDED,
    (S.WAITING, E.REFUSED): S.ENDED,
    (S.HELD, E.RELEASED): S.DRAINING,
    (S.HELD, E.HOLDER_GONE): S.DRAINING,
    (S.HELD, E.EXPIRED): S.DRAINING,
    (S.HELD, E.FORCED): S.DRAINING,
    (S.HELD, E.TIMED_OUT): S.DRAINING,
    (S.HELD, E.REFUSED): S.DRAINING,
    (S.HELD, E.REPLACED): S.ENDED,
    (S.DRAINING, E.RELEASED): S.DRAINING,
    (S.DRAINING, E.HOLDER_GONE): S.DRAINING,
    (S.DRAINING, E.EXPIRED): S.DRAINING,
    (S.DRAINING, E.FORCED): S.DRAINING,
    (S.DRAINING, E.TIMED_OUT): S.DRAINING,
    (S.DRAINING, E.REFUSED): S.DRAINING,
    (S.DRAINING, E.REPLACED): S.ENDED,
    (S.DRAINING, E.DRAINED): S.ENDED,
    (S.ENDED, E.RELEASED): S.ENDED,
    (S.ENDED, E.HOLDER_GONE): S.ENDED,
    (S.ENDED, E.EXPIRED): S.ENDED,
    (S.ENDED, E.FORCED): S.ENDED,
    (S.ENDED, E.TIMED_OUT): S.ENDED,
    (S.ENDED, E.REFUSED): S.ENDED,
    (S.ENDED, E.REPLACED): S.ENDED,
    (S.ENDED, E.DRAINED): S.ENDED,
}


@pytest.mark.parametrize(("state", "event"), list(product(S, E)))
def test_each_event_in_each_state_leads_where_the_table_says(state, event):
    after = AFTER.get((state, event))
    if after is None:
        with pytest.raises(IllegalTransition, match=f"is {state} cannot be {event}"):
            advance(state, event)
    else:
        assert advance(state, event) is after


def test_a_lock_is_held_only_by_its_turn_in_the_line():
    assert [key for key, after in AFTER.items() if after is S.HELD] == [(S.WAITING, E.GRANTED)]


def test_a_lock_that_was_held_ends_only_drained_or_replaced_by_its_holders_next():
    ways = {key for key, after in AFTER.items() if after is S.ENDED and key[0] in ACTIVE}
    assert ways == {
        (S.HELD, E.REPLACED),
        (S.DRAINING, E.REPLACED),
        (S.DRAINING, E.DRAINED),
    }


@pytest.mark.parametrize("event", sorted(LETTING_GO))
def test_letting_go_twice_is_letting_go_once(event):
    once = advance(S.HELD, event)
    assert once is S.DRAINING
    assert advance(once, event) is once


# -- room ----------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("mode", Mode)
def test_an_exclusive_lock_that_drains_is_still_alone(mode):
    draining = a_draining_lock(mode=Mode.EXCLUSIVE, name="a.ipynb")
    assert refusal(mode, 4, [draining]) == (
        "a.ipynb has let go of it, but its prompts have not left it yet"
    )


def test_a_shared_lock_that_drains_takes_up_its_place():
    draining = [a_draining_lock("k1.1"), a_lock("k2.1")]
    assert refusal(Mode.SHARED, 3, draining) is None
    assert refusal(Mode.SHARED, 2, draining) is not None
    assert refusal(Mode.EXCLUSIVE, 3, draining[:1]) is not None


def test_a_holder_that_came_back_by_another_node_takes_up_one_place():
    twice = [a_draining_lock("k1.1", name="a.ipynb"), a_lock("k1.1", name="a.ipynb")]
    assert refusal(Mode.SHARED, 2, twice) is None
    assert refusal(Mode.SHARED, 1, twice) == "all 1 places are held, by a.ipynb"


@pytest.mark.parametrize("had", Mode)
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("state", ACTIVE)
def test_a_holder_does_not_stand_in_its_own_way(had, mode, state):
    assert refusal(mode, 1, (a_lock("k1.1", mode=had, state=state),), HolderId("k1.1")) is None


def test_a_holder_is_called_by_its_notebook_or_else_by_its_kernel():
    assert who(a_lock(name="a.ipynb")) == "a.ipynb"
    assert who(a_lock("k1.1")) == "kernel k1.1"


def test_a_lock_is_shown_without_the_node_that_keeps_it():
    shown = lock_to_json(a_lock(fence=3), url="http://x", epoch=2, foreign_prompts=4)
    assert {"node_id", "lock_id"}.isdisjoint(shown)
    assert (shown["fence"], shown["epoch"], shown["mode"]) == (3, 2, "shared")
    assert (shown["state"], shown["foreign_prompts"]) == ("held", 4)
