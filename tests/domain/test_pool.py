import pytest

from jupyter_comfy_lock.domain.lock import HolderId, Mode
from jupyter_comfy_lock.domain.pool import (
    ComfyStatus,
    Health,
    best,
    comfy_to_json,
    version_number,
)
from tests.domain.things import a_comfy, a_lock

ME = HolderId("me.1")


def ok(**more):
    return ComfyStatus(health=Health.OK, **more)


def choice(locks=(), mode=Mode.SHARED, **statuses):
    names = {f"gpu_{n}": f"gpu-{n}" for n in (1, 2, 3)}
    status = {names[key]: value for key, value in statuses.items()}
    found = best([a_comfy(f"gpu-{n}", capacity=2) for n in (1, 2, 3)], status, locks, mode, ME)
    return found and found.comfy_id


def test_fewest_holders_come_first_then_the_shortest_queue_then_the_order_of_the_pool():
    assert choice(gpu_1=ok(), gpu_2=ok(), gpu_3=ok()) == "gpu-1"
    assert choice(gpu_1=ok(queue_remaining=3), gpu_2=ok(queue_remaining=1)) == "gpu-2"
    held = [a_lock("k1.1", "gpu-1")]
    assert choice(held, gpu_1=ok(), gpu_2=ok(queue_remaining=9)) == "gpu-2"


@pytest.mark.parametrize("health", sorted(set(Health) - {Health.OK}))
def test_only_a_healthy_one_is_offered(health):
    assert choice(gpu_1=ComfyStatus(health=health), gpu_2=ok()) == "gpu-2"
    assert choice(gpu_1=ComfyStatus(health=health)) is None


def test_a_full_one_is_not_offered_except_to_who_has_a_place_there():
    full = [a_lock("k1.1"), a_lock("k2.1")]
    assert choice(full, gpu_1=ok()) is None
    assert choice([a_lock("k1.1"), a_lock(ME)], gpu_1=ok()) == "gpu-1"


def test_an_exclusive_lock_is_offered_only_where_nobody_is():
    held = [a_lock("k1.1", "gpu-1")]
    assert choice(held, Mode.EXCLUSIVE, gpu_1=ok(), gpu_2=ok()) == "gpu-2"
    assert choice(held, Mode.EXCLUSIVE, gpu_1=ok()) is None


def test_nothing_is_offered_from_an_empty_pool():
    assert best([], {}, [], Mode.SHARED, ME) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0.33.0", (0, 33, 0)),
        ("v0.3.75-4-gabc", (0, 3, 75)),
        ("0.3.57", (0, 3, 57)),
        ("0.4.x", (0, 4)),
        ("nightly", ()),
        ("", ()),
        (None, ()),
    ],
)
def test_a_version_is_a_row_of_numbers(text, number):
    assert version_number(text) == number


def test_a_comfy_server_is_shown_with_its_holders_and_without_its_headers():
    comfy = a_comfy(headers={"Authorization": "s3cr3t"}, labels=frozenset({"b", "a"}))
    locks = [a_lock("k2.1", fence=2), a_lock(ME, fence=1, name="a.ipynb"), a_lock("x.1", "gpu-2")]
    shown = comfy_to_json(comfy, ok(version="0.33.0"), locks, ME)
    assert [each["holder_id"] for each in shown["holders"]] == [ME, "k2.1"]
    assert (shown["mine"], shown["labels"], shown["health"]) == (True, ["a", "b"], "ok")
    assert "s3cr3t" not in repr((comfy, shown))
