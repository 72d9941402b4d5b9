import pytest

from jupyter_comfy_lock.domain.lock import HolderId, LockState, Mode
from jupyter_comfy_lock.domain.pool import (
    Access,
    ComfyStatus,
    Health,
    Maintenance,
    comfy_to_json,
    occupancy,
    ranked,
)
from tests.domain.things import a_comfy, a_draining_lock, a_lock, a_waiter

ME = HolderId("me.1")
NAMES = {f"gpu_{n}": f"gpu-{n}" for n in (1, 2, 3)}


def ok(**more):
    return ComfyStatus(health=Health.OK, **more)


def order(locks=(), waiters=(), closed=(), labels=(), used=None, pool=None, **statuses):
    status = {NAMES[key]: value for key, value in statuses.items()} or dict.fromkeys(
        NAMES.values(), ok()
    )
    decided = {each: Maintenance(access=Access.DRAINING) for each in closed}
    found = ranked(
        pool or [a_comfy(each, capacity=2) for each in NAMES.values()],
        status,
        occupancy(locks, waiters, decided),
        ME,
        frozenset(labels),
        used,
    )
    return [each.comfy_id for each in found]


# -- which one to offer first --------------------------------------------------------------------


def test_most_free_places_come_first_then_the_shortest_queue_then_the_order_of_the_pool():
    assert order() == ["gpu-1", "gpu-2", "gpu-3"]
    assert order([a_lock("x", "gpu-1")]) == ["gpu-2", "gpu-3", "gpu-1"]
    busy = {"gpu_1": ok(queue_remaining=3), "gpu_2": ok(queue_remaining=1), "gpu_3": ok()}
    assert order(**busy) == ["gpu-3", "gpu-2", "gpu-1"]
    assert order([a_lock("x", "gpu-3")], **busy) == ["gpu-2", "gpu-1", "gpu-3"]


def test_of_equals_the_one_that_was_not_used_for_longest_comes_first():
    assert order(used={"gpu-1": 7, "gpu-2": 5, "gpu-3": 6}) == ["gpu-2", "gpu-3", "gpu-1"]
    assert order(used={"gpu-1": 7}) == ["gpu-2", "gpu-3", "gpu-1"]
    short = {"gpu_1": ok(queue_remaining=0), "gpu_2": ok(queue_remaining=1)}
    assert order(used={"gpu-1": 7}, **short) == ["gpu-1", "gpu-2"]


def test_free_places_count_not_how_many_hold_it():
    pool = [a_comfy("gpu-1", capacity=1), a_comfy("gpu-2", capacity=5)]
    assert order([a_lock("x", "gpu-2"), a_lock("y", "gpu-2")], pool=pool) == ["gpu-2", "gpu-1"]


def test_who_waits_counts_like_who_is_there():
    assert order(waiters=[a_waiter("x", "gpu-1", ticket=1)]) == ["gpu-2", "gpu-3", "gpu-1"]


def test_who_has_one_is_offered_it_first_also_when_it_is_the_fullest():
    full = [a_lock(ME, "gpu-3"), a_lock("x", "gpu-3")]
    assert order(full)[0] == "gpu-3"


def test_a_full_one_comes_last_and_is_not_left_out_because_one_can_wait_for_it():
    full = [a_lock("x", "gpu-1"), a_draining_lock("y", "gpu-1")]
    assert order(full) == ["gpu-2", "gpu-3", "gpu-1"]


@pytest.mark.parametrize("health", sorted(set(Health) - {Health.OK}))
def test_only_a_healthy_one_is_offered(health):
    assert order(gpu_1=ComfyStatus(health=health), gpu_2=ok()) == ["gpu-2"]
    assert order(gpu_1=ComfyStatus(health=health)) == []


def test_only_an_open_one_is_offered():
    assert order(closed=["gpu-1"]) == ["gpu-2", "gpu-3"]
    assert order([a_lock(ME, "gpu-1")], closed=["gpu-1"]) == ["gpu-2", "gpu-3"]


def test_only_one_that_carries_all_labels_is_offered():
    pool = [
        a_comfy("gpu-1", labels=frozenset({"sdxl"})),
        a_comfy("gpu-2", labels=frozenset({"sdxl", "big", "new"})),
        a_comfy("gpu-3"),
    ]
    assert order(pool=pool, labels=["sdxl"]) == ["gpu-1", "gpu-2"]
    assert order(pool=pool, labels=["sdxl", "big"]) == ["gpu-2"]
    assert order(pool=pool, labels=["other"]) == []


def test_nothing_is_offered_from_an_empty_pool():
    assert ranked([], {}, occupancy(()), ME) == []


# -- what is shown -------------------------------------------------------------------------------


def test_a_comfy_server_is_shown_with_its_holders_and_without_its_headers():
    comfy = a_comfy(headers={"Authorization": "s3cr3t"}, labels=frozenset({"b", "a"}))
    locks = [
        a_draining_lock("k2.1", fence=2),
        a_lock(ME, fence=1, name="a.ipynb"),
        a_lock("x.1", "gpu-2"),
    ]
    shown = comfy_to_json(comfy, ok(version="0.33.0"), occupancy(locks), ME)
    assert [(each["holder_id"], each["state"]) for each in shown["holders"]] == [
        (ME, "held"),
        ("k2.1", "draining"),
    ]
    assert (shown["mine"], shown["labels"], shown["health"]) == (True, ["a", "b"], "ok")
    assert "s3cr3t" not in repr((comfy, shown))


def test_a_comfy_server_is_shown_with_its_line_the_next_one_first():
    locks = [a_lock("up.1", state=LockState.HELD)]
    waiters = [
        a_waiter("k1.1", ticket=1),
        a_waiter("up.1", ticket=2, mode=Mode.EXCLUSIVE),
        a_waiter("x.1", "gpu-2", ticket=3),
    ]
    shown = comfy_to_json(a_comfy(), ok(), occupancy(locks, waiters), None)
    assert [(each["holder_id"], each["place"]) for each in shown["waiting"]] == [
        ("up.1", 1),
        ("k1.1", 2),
    ]
    assert not shown["mine"]


def test_a_comfy_server_is_open_until_somebody_decides_otherwise_and_says_who():
    keys = ("state", "state_by", "state_why", "state_since")
    shown = comfy_to_json(a_comfy(), ok(), occupancy(()), None)
    assert [shown[key] for key in keys] == ["open", None, None, None]
    closed = {"gpu-1": Maintenance(access=Access.DISABLED, by="op", why="new driver", since=5.0)}
    shown = comfy_to_json(a_comfy(), ok(), occupancy((), (), closed), None)
    assert [shown[key] for key in keys] == ["disabled", "op", "new driver", 5.0]
