from __future__ import annotations

import random
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_comfy_lock.domain.line import (
    Waiter,
    ahead,
    by_comfy,
    fits,
    line,
    next_grant,
    ordinal,
    place,
    reason,
    since,
    stuck,
    waiter_to_json,
)
from jupyter_comfy_lock.domain.lock import Lock, LockState, Mode
from tests.domain.things import a_draining_lock, a_lock, a_waiter

SHARED, EXCLUSIVE = Mode.SHARED, Mode.EXCLUSIVE


def granted(waiters, locks=(), closed=()):
    """Who is next, and where."""
    found = next_grant(waiters, by_comfy(locks), closed)
    return found and (found[0].holder_id, found[1])


def names(waiters):
    return [each.holder_id for each in waiters]


# -- who is next ---------------------------------------------------------------------------------


def test_nobody_is_next_where_nobody_waits():
    assert granted([]) is None
    assert granted([], [a_lock()]) is None


def test_who_came_first_is_next():
    second, first = a_waiter("b", ticket=2), a_waiter("a", ticket=1)
    assert granted([second, first]) == ("a", "gpu-1")


def test_a_shared_waiter_does_not_overtake_an_exclusive_one_though_there_is_a_place():
    locks = [a_lock("x")]
    exclusive, shared = a_waiter("a", ticket=1, mode=EXCLUSIVE), a_waiter("b", ticket=2)
    assert fits(shared, "gpu-1", by_comfy(locks))
    assert granted([exclusive, shared], locks) is None


def test_a_shared_waiter_behind_an_exclusive_one_comes_after_it():
    exclusive, shared = a_waiter("a", ticket=1, mode=EXCLUSIVE), a_waiter("b", ticket=2)
    assert granted([exclusive, shared]) == ("a", "gpu-1")
    assert granted([shared], [a_lock("a", mode=EXCLUSIVE)]) is None
    assert granted([shared]) == ("b", "gpu-1")


def test_shared_waiters_fill_the_places_and_no_more():
    waiters = [a_waiter(f"k{n}", ticket=n, capacity=3) for n in range(4)]
    locks = []
    while (found := granted(waiters, locks)) is not None:
        locks.append(a_lock(found[0]))
        waiters = [each for each in waiters if each.holder_id != found[0]]
    assert names(locks) == ["k0", "k1", "k2"]


def test_a_lock_that_drains_keeps_its_place():
    waiter = a_waiter("b", ticket=1, mode=EXCLUSIVE)
    assert granted([waiter], [a_draining_lock("a")]) is None
    assert granted([a_waiter("b", ticket=1, capacity=1)], [a_draining_lock("a")]) is None
    assert granted([a_waiter("b", ticket=1)], [a_draining_lock("a")]) == ("b", "gpu-1")
    assert granted([a_waiter("b", ticket=1)], [a_draining_lock("a", mode=EXCLUSIVE)]) is None


def test_who_has_it_and_wants_it_alone_goes_before_those_who_have_it_not():
    stranger, upgrade = a_waiter("a", ticket=1), a_waiter("b", ticket=2, mode=EXCLUSIVE)
    locks = [a_lock("b")]
    assert names(line("gpu-1", [stranger, upgrade], by_comfy(locks))) == ["b", "a"]
    assert granted([stranger, upgrade], locks) == ("b", "gpu-1")


def test_an_upgrade_waits_for_the_others_who_share_and_lets_nobody_in_meanwhile():
    stranger = a_waiter("a", ticket=1, capacity=3)
    upgrade = a_waiter("b", ticket=2, capacity=3, mode=EXCLUSIVE)
    locks = [a_lock("b"), a_lock("c")]
    assert fits(stranger, "gpu-1", by_comfy(locks))
    assert granted([stranger, upgrade], locks) is None


def test_who_has_let_go_of_it_has_no_right_of_way():
    first, second = a_waiter("a", ticket=1, mode=EXCLUSIVE), a_waiter("b", ticket=2)
    locks = by_comfy([a_draining_lock("b")])
    assert names(line("gpu-1", [first, second], locks)) == ["a", "b"]


def test_a_downgrade_fits_and_goes_first():
    waiting, down = a_waiter("a", ticket=1), a_waiter("b", ticket=2)
    assert granted([waiting, down], [a_lock("b", mode=EXCLUSIVE)]) == ("b", "gpu-1")


def test_what_is_closed_is_given_to_nobody_and_holds_up_nobody():
    either, one = a_waiter("a", "gpu-1", "gpu-2", ticket=1), a_waiter("b", "gpu-1", ticket=2)
    assert granted([one], closed={"gpu-1"}) is None
    assert granted([either, one], closed={"gpu-1"}) == ("a", "gpu-2")


def test_who_waits_for_any_of_several_gets_the_one_it_likes_best_of_those_that_are_free():
    waiter = a_waiter("a", "gpu-1", "gpu-2", "gpu-3", ticket=1)
    others = [a_waiter("b", "gpu-3", ticket=2), a_waiter("c", "gpu-2", ticket=3)]
    taken = [a_lock("x", "gpu-1", mode=EXCLUSIVE)]
    assert granted([waiter, *others], taken) == ("a", "gpu-2")
    assert granted([*others, waiter], taken) == ("a", "gpu-2")
    assert granted([*others, waiter]) == ("a", "gpu-1")


def test_who_waits_for_any_of_several_holds_up_those_behind_it_in_each_line():
    any_of = a_waiter("a", "gpu-1", "gpu-2", ticket=1, mode=EXCLUSIVE)
    behind = [a_waiter("b", "gpu-1", ticket=2), a_waiter("c", "gpu-2", ticket=3)]
    locks = [a_lock("x", "gpu-1"), a_lock("y", "gpu-2")]
    assert granted([any_of, *behind], locks) is None
    assert granted(behind, locks) == ("b", "gpu-1")


def test_a_line_that_is_held_up_holds_up_no_other_line():
    waiters = [a_waiter("a", "gpu-1", ticket=1, mode=EXCLUSIVE), a_waiter("b", "gpu-2", ticket=2)]
    assert granted(waiters, [a_lock("x", "gpu-1")]) == ("b", "gpu-2")


# -- what one is told ----------------------------------------------------------------------------


def test_a_place_is_that_in_the_shortest_of_ones_lines():
    waiters = [
        a_waiter("a", "gpu-1", ticket=1),
        a_waiter("b", "gpu-1", ticket=2),
        me := a_waiter("me", "gpu-1", "gpu-2", ticket=3),
        a_waiter("c", "gpu-1", "gpu-2", ticket=4),
    ]
    assert [ahead(me, comfy, waiters, {}) for comfy in me.wants] == [2, 0]
    assert [place(each, waiters, {}) for each in waiters] == [1, 2, 1, 2]
    assert waiter_to_json(me, waiters, {}) == {
        "holder_id": "me",
        "name": "",
        "mode": "shared",
        "since": 0.0,
        "place": 1,
    }


NOON = datetime(2026, 11, 24, 12, 0).timestamp()
MORNING = datetime(2026, 11, 24, 9, 5).timestamp()
YESTERDAY = datetime(2026, 11, 23, 17, 30).timestamp()


def told(*locks, waiters=(), me=None):
    waiter = me or a_waiter("me", ticket=9, since=NOON)
    return reason(waiter, [*waiters, waiter], by_comfy(locks))


def test_a_reason_names_who_has_it_since_when_and_ones_place():
    lock = a_lock("b", name="b.ipynb", granted_at=MORNING, mode=EXCLUSIVE)
    assert told(lock) == "held by b.ipynb since 09:05, you are 1st"
    ahead_of_me = a_waiter("c", ticket=1)
    assert told(lock, waiters=[ahead_of_me]) == "held by b.ipynb since 09:05, you are 2nd"


def test_a_reason_says_the_day_unless_it_is_today():
    lock = a_lock("b", name="b.ipynb", granted_at=YESTERDAY)
    assert told(lock) == "held by b.ipynb since 2026-11-23 17:30, you are 1st"
    assert since(YESTERDAY, seen_at=YESTERDAY) == "17:30"


def test_a_reason_names_three_and_counts_the_rest_and_never_oneself():
    locks = [a_lock(f"k{n}", name=f"{n}.ipynb", granted_at=MORNING) for n in range(5)]
    assert told(*locks, a_lock("me", name="me.ipynb")) == (
        "held by 0.ipynb since 09:05, 1.ipynb since 09:05, 2.ipynb since 09:05 and 2 more, "
        "you are 1st"
    )


def test_a_reason_says_when_only_prompts_are_left():
    drains = a_draining_lock("b", name="b.ipynb", granted_at=MORNING)
    assert told(drains) == "held by b.ipynb since 09:05 (its prompts are leaving), you are 1st"
    assert "leaving" not in told(drains, a_lock("c", name="c.ipynb"))


def test_a_reason_without_anybody_is_the_place_alone():
    assert told() == "you are 1st"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        *((1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (10, "10th"), (11, "11th")),
        *((12, "12th"), (13, "13th"), (20, "20th"), (21, "21st"), (22, "22nd"), (23, "23rd")),
        *((101, "101st"), (111, "111th"), (112, "112th"), (113, "113th"), (123, "123rd")),
    ],
)
def test_places_are_said_as_people_say_them(number, text):
    assert ordinal(number) == text


# -- who would wait for ever ---------------------------------------------------------------------


def for_ever(waiter, waiters=(), locks=()):
    return stuck(waiter, list(waiters), by_comfy(locks))


def test_who_waits_for_somebody_that_waits_for_nothing_gets_its_turn():
    assert not for_ever(a_waiter("a", ticket=1), locks=[a_lock("b", mode=EXCLUSIVE)])
    assert not for_ever(
        a_waiter("a", "gpu-2", ticket=1, mode=EXCLUSIVE),
        locks=[a_lock("a"), a_lock("b", "gpu-2"), a_lock("c", "gpu-2")],
    )


@pytest.mark.parametrize("mode", Mode)
def test_two_who_each_want_what_the_other_has_wait_for_ever(mode):
    locks = [a_lock("a", "gpu-1", mode=EXCLUSIVE), a_lock("b", "gpu-2", mode=EXCLUSIVE)]
    first = a_waiter("a", "gpu-2", ticket=1, mode=mode)
    assert not for_ever(first, locks=locks)
    assert for_ever(a_waiter("b", "gpu-1", ticket=2, mode=mode), [first], locks)


def test_three_in_a_ring_wait_for_ever():
    locks = [a_lock(x, f"gpu-{n}", mode=EXCLUSIVE) for n, x in enumerate("abc", start=1)]
    first, second = a_waiter("a", "gpu-2", ticket=1), a_waiter("b", "gpu-3", ticket=2)
    assert not for_ever(first, locks=locks)
    assert not for_ever(second, [first], locks)
    assert for_ever(a_waiter("c", "gpu-1", ticket=3), [first, second], locks)


def test_two_who_share_and_both_want_it_alone_wait_for_ever():
    locks = [a_lock("a"), a_lock("b")]
    first = a_waiter("a", ticket=1, mode=EXCLUSIVE)
    assert not for_ever(first, locks=locks)
    assert for_ever(a_waiter("b", ticket=2, mode=EXCLUSIVE), [first], locks)


def test_a_ring_that_goes_through_a_place_in_line_is_one_too():
    # b is behind a, who wants it alone and waits for c, who waits for what b has.
    locks = [a_lock("b", "gpu-2", mode=EXCLUSIVE), a_lock("c", "gpu-1")]
    first = a_waiter("a", "gpu-1", ticket=1, mode=EXCLUSIVE)
    second = a_waiter("b", "gpu-1", ticket=2)
    assert for_ever(a_waiter("c", "gpu-2", ticket=3), [first, second], locks)


def test_where_a_place_is_left_beside_who_waits_nobody_waits_for_ever():
    locks = [a_lock("a", "gpu-1"), a_lock("b", "gpu-2", mode=EXCLUSIVE)]
    first = a_waiter("a", "gpu-2", ticket=1)
    assert not for_ever(a_waiter("b", "gpu-1", ticket=2, capacity=2), [first], locks)
    assert for_ever(a_waiter("b", "gpu-1", ticket=2, capacity=1), [first], locks)


def test_another_one_that_would_do_is_a_way_out():
    locks = [
        a_lock("a", "gpu-1", mode=EXCLUSIVE),
        a_lock("b", "gpu-2", mode=EXCLUSIVE),
        a_lock("c", "gpu-3", mode=EXCLUSIVE),
    ]
    first = a_waiter("a", "gpu-2", ticket=1)
    assert not for_ever(a_waiter("b", "gpu-1", "gpu-3", ticket=2), [first], locks)
    assert for_ever(a_waiter("b", "gpu-1", ticket=2), [first], locks)


def test_what_drains_leaves_by_itself_also_when_its_holder_waits():
    locks = [a_draining_lock("a", "gpu-1"), a_lock("b", "gpu-2", mode=EXCLUSIVE)]
    first = a_waiter("a", "gpu-2", ticket=1)
    assert not for_ever(a_waiter("b", "gpu-1", ticket=2, mode=EXCLUSIVE), [first], locks)


def test_who_has_nothing_never_waits_for_ever_itself():
    locks = [a_lock("a"), a_lock("b")]
    first = a_waiter("a", ticket=1, mode=EXCLUSIVE)
    assert not for_ever(a_waiter("c", ticket=2), [first], locks)


# -- any scene -----------------------------------------------------------------------------------

COMFYS = ["gpu-1", "gpu-2", "gpu-3"]
CAPACITY = {"gpu-1": 1, "gpu-2": 2, "gpu-3": 3}
HOLDERS = ["a", "b", "c", "d", "e", "f"]


def beside(lock: Lock, others: list[Lock]) -> bool:
    """Whether a lock may be there beside the others, by other words than the domain's."""
    there = [each for each in others if each.comfy_id == lock.comfy_id]
    if EXCLUSIVE in (lock.mode, *(each.mode for each in there)):
        return not there
    return len(there) < CAPACITY[lock.comfy_id]


@st.composite
def scenes(draw):
    """Locks as they may come to be, and who waits, in the order of tickets."""
    locks: list[Lock] = []
    for holder in HOLDERS:
        comfy = draw(st.sampled_from([None, *COMFYS]))
        if comfy is None:
            continue
        lock = a_lock(
            holder,
            comfy,
            mode=draw(st.sampled_from(Mode)),
            state=draw(st.sampled_from([LockState.HELD, LockState.HELD, LockState.DRAINING])),
        )
        if beside(lock, locks):
            locks.append(lock)
    waiters = []
    for ticket, holder in enumerate(draw(st.permutations(HOLDERS))):
        wanted = draw(st.lists(st.sampled_from(COMFYS), max_size=2, unique=True))
        if wanted:
            waiters.append(
                Waiter(
                    lock_id=f"wish of {holder}",
                    holder_id=holder,
                    node_id="n1",
                    mode=draw(st.sampled_from(Mode)),
                    ticket=ticket,
                    wants={comfy: CAPACITY[comfy] for comfy in wanted},
                )
            )
    return locks, waiters


def grant_all(locks: list[Lock], waiters: list[Waiter]) -> list[tuple[str, str]]:
    """Let in all whose turn it is, changing both lists; return who got what."""
    got = []
    while (found := next_grant(waiters, by_comfy(locks))) is not None:
        waiter, comfy = found
        locks[:] = [each for each in locks if each.holder_id != waiter.holder_id]
        lock = a_lock(waiter.holder_id, comfy, mode=waiter.mode)
        assert beside(lock, locks)
        locks.append(lock)
        waiters.remove(waiter)
        got.append((waiter.holder_id, comfy))
    return got


def standing(comfy: str, waiters: list[Waiter], locks: list[Lock]) -> list[str]:
    """The line before a ComfyServer, by other words than the domain's."""
    have = {x.holder_id for x in locks if x.comfy_id == comfy and x.state is LockState.HELD}
    there = [x for x in sorted(waiters, key=lambda x: x.ticket) if comfy in x.wants]
    return names([x for x in there if x.holder_id in have]) + names(
        [x for x in there if x.holder_id not in have]
    )


@given(scenes())
def test_whoever_is_next_is_first_in_that_line_and_fits(scene):
    locks, waiters = scene
    found = next_grant(waiters, by_comfy(locks))
    if found is not None:
        waiter, comfy = found
        assert standing(comfy, waiters, locks)[0] == waiter.holder_id
        others = [each for each in locks if each.holder_id != waiter.holder_id]
        assert beside(a_lock(waiter.holder_id, comfy, mode=waiter.mode), others)


@given(scenes())
def test_when_all_are_in_whose_turn_it_is_nobody_who_is_first_fits(scene):
    locks, waiters = scene
    grant_all(locks, waiters)
    for comfy in COMFYS:
        for first in standing(comfy, waiters, locks)[:1]:
            (waiter,) = (each for each in waiters if each.holder_id == first)
            others = [each for each in locks if each.holder_id != first]
            assert not beside(a_lock(first, comfy, mode=waiter.mode), others)


@given(scenes(), st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_if_nobody_was_let_into_a_line_that_never_ends_all_get_their_turn(scene, chance):
    locks, wishes = scene
    line_now: list[Waiter] = []
    for wish in wishes:
        if not stuck(wish, line_now, by_comfy(locks)):
            line_now.append(wish)
    until_nothing_moves(locks, line_now, chance)
    assert names(line_now) == []


@given(scenes(), st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_who_is_said_to_wait_for_ever_does(scene, chance):
    locks, wishes = scene
    line_now: list[Waiter] = []
    for wish in wishes:
        if stuck(wish, line_now, by_comfy(locks)):
            line_now.append(wish)
            until_nothing_moves(locks, line_now, chance)
            assert wish.holder_id in names(line_now)
            return
        line_now.append(wish)


def until_nothing_moves(locks: list[Lock], waiters: list[Waiter], chance: random.Random) -> None:
    """Have all who wait for nothing let go one by one, in any order, and all that drains leave."""
    while True:
        if grant_all(locks, waiters):
            continue
        able = [
            each
            for each in locks
            if each.state is LockState.DRAINING or each.holder_id not in names(waiters)
        ]
        if not able:
            return
        locks.remove(chance.choice(able))
