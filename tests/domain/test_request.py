import pytest

from jupyter_comfy_lock.domain.errors import ComfyClosed, LockRefused
from jupyter_comfy_lock.domain.lock import Mode
from jupyter_comfy_lock.domain.pool import Access, Maintenance, occupancy
from jupyter_comfy_lock.domain.request import (
    open_ones,
    refuse_other_pools,
    refused,
    would_wait_for_ever,
)
from tests.domain.things import a_comfy, a_draining_lock, a_lock, a_waiter

ONE, TWO = a_comfy("gpu-1"), a_comfy("gpu-2")


def closed(*comfy_ids, access=Access.DRAINING):
    decided = Maintenance(access=access, by="op", why="new driver", since=5.0)
    return occupancy((), (), dict.fromkeys(comfy_ids, decided))


# -- what an operator has closed -----------------------------------------------------------------


def test_what_is_closed_is_left_out_while_another_would_do():
    assert open_ones([ONE, TWO], closed("gpu-1"), None, Mode.SHARED) == [TWO]
    assert open_ones([ONE, TWO], closed(), None, Mode.SHARED) == [ONE, TWO]


@pytest.mark.parametrize("access", [Access.DRAINING, Access.DISABLED])
def test_where_all_are_closed_the_error_says_by_whom_and_what_for(access):
    with pytest.raises(ComfyClosed, match=f"{access} by op since .*: new driver") as refused_:
        open_ones([ONE], closed("gpu-1", access=access), None, Mode.EXCLUSIVE)
    assert refused_.value.details["state"] == access


def test_who_has_one_that_drains_may_keep_it_shared_and_not_get_it_alone():
    held = a_lock("me", "gpu-1", mode=Mode.EXCLUSIVE)
    assert open_ones([ONE], closed("gpu-1"), held, Mode.SHARED) == [ONE]
    with pytest.raises(ComfyClosed):
        open_ones([ONE], closed("gpu-1"), held, Mode.EXCLUSIVE)
    with pytest.raises(ComfyClosed):
        open_ones([TWO], closed("gpu-2"), held, Mode.SHARED)


# -- one ComfyServer, one id, one URL ------------------------------------------------------------


@pytest.mark.parametrize("one_machine", [True, False])
@pytest.mark.parametrize(
    "active", [("gpu-1", "http://elsewhere:1"), ("other-name", "http://gpu-1:8188")]
)
def test_one_comfy_server_by_two_names_is_refused_and_both_are_named(active, one_machine):
    comfy_id, url = active
    lock = a_lock("b", comfy_id, name="b.ipynb")
    with pytest.raises(LockRefused) as found:
        refuse_other_pools([(lock, url)], [ONE], one_machine=one_machine)
    for part in ("b.ipynb", repr(comfy_id), url, "same id and url"):
        assert part in found.value.message


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "[::1]"])
def test_loopback_of_another_machine_is_another_place(host):
    here = a_comfy("gpu-1")
    mine = type(here)(comfy_id="gpu-1", url=f"http://{host}:8188")
    active = [(a_lock("b", "theirs"), mine.url)]
    refuse_other_pools(active, [mine], one_machine=False)
    with pytest.raises(LockRefused):
        refuse_other_pools(active, [mine], one_machine=True)


def test_what_is_called_alike_everywhere_is_not_refused():
    refuse_other_pools([(a_lock("b", "gpu-1"), ONE.url)], [TWO, ONE], one_machine=True)


# -- why not -------------------------------------------------------------------------------------


def why_not(waiter, locks, waiters=()):
    return refused(waiter, [*waiters, waiter], occupancy(locks, waiters))


def test_a_refusal_of_one_names_its_holders_and_how_many_are_before():
    locks = [a_lock("b", name="b.ipynb", mode=Mode.EXCLUSIVE), a_lock("c", "gpu-2")]
    error = why_not(a_waiter("me", ticket=9), locks, [a_waiter("d", ticket=1)])
    assert [each["name"] for each in error.details["holders"]] == ["b.ipynb"]
    assert "b.ipynb holds it exclusively, 1 in line for it before you" in error.message


def test_a_refusal_where_there_is_room_says_that_others_are_before():
    error = why_not(a_waiter("me", ticket=9), [], [a_waiter("d", ticket=1)])
    assert "cannot be locked: 1 in line for it before you" in error.message


def test_a_refusal_of_several_says_why_of_each():
    locks = [a_lock("b", name="b.ipynb", mode=Mode.EXCLUSIVE), a_draining_lock("c", "gpu-2")]
    error = why_not(a_waiter("me", "gpu-1", "gpu-2", ticket=9, capacity=1), locks)
    assert error.details["comfy_id"] is None
    assert "gpu-1: b.ipynb holds it exclusively" in error.message
    assert "gpu-2: all 1 places are held, by kernel c" in error.message


def test_who_would_wait_for_ever_is_told_what_to_release():
    locks = [a_lock("me"), a_lock("b", name="b.ipynb")]
    first = a_waiter("b", ticket=1, mode=Mode.EXCLUSIVE)
    me = a_waiter("me", ticket=2, mode=Mode.EXCLUSIVE)
    error = would_wait_for_ever(me, occupancy(locks, [first]))
    assert "held by b.ipynb since" in error.message
    assert "comfy.release()" in error.message
