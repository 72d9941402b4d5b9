"""The plan of a clean-up has what a kernel has, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jupyter_comfy_lock.domain.cleanup import Action, holders_known, holders_of, plan
from jupyter_comfy_lock.domain.errors import BadRequest
from jupyter_comfy_lock.domain.lock import HolderId
from jupyter_comfy_lock.domain.pool import occupancy
from jupyter_comfy_lock.domain.pool_facts import QueuedPrompt
from tests.domain.test_check_pool import K1, K2, K3, K4, LOCKS, TASKS, WELL, ours, seen
from tests.domain.things import a_waiter

LONG = "5b0d3c1e-0d9c-4c4e-9a55-0f6f0f2f3a01"


def steps(*holders: str, facts=WELL):
    return [(each.action, each.subject) for each in plan(facts, [HolderId(x) for x in holders])]


def test_what_a_kernel_has_is_let_go_of_in_its_order():
    facts = replace(
        WELL,
        occupied=occupancy(LOCKS, [a_waiter(K1, "gpu-2", ticket=3), *WELL.occupied.waiters]),
        seen=(WELL.seen[0], seen("gpu-2", ours("p1", K1), ours("p2", K2))),
    )
    assert steps(K1, facts=facts) == [
        (Action.LEAVE_LINE, f"wish 3 of {K1}"),
        (Action.RELEASE, f"lock of {K1} on gpu-1"),
        (Action.CANCEL, "t1"),
        (Action.REMOVE, "p1"),
    ]


def test_what_was_let_go_of_is_not_released_again():
    assert steps(K3) == [(Action.CANCEL, "t3")]


def test_prompts_of_its_tasks_and_of_nobody_here_are_left_to_those():
    strange = QueuedPrompt(prompt_id="x", tag={"store_id": "another", "holder_id": K4})
    facts = replace(WELL, seen=(WELL.seen[0], seen("gpu-2", strange)))
    assert steps(K4, facts=facts) == [(Action.LEAVE_LINE, f"wish 1 of {K4}")]
    assert steps("k9.1") == []


def test_each_step_has_an_id_of_its_own_and_says_what_it_is():
    planned = plan(WELL, [K1])
    assert [each.step_id for each in planned] == [f"release:lock of {K1} on gpu-1", "cancel:t1"]
    assert [each.what for each in planned] == [
        "release the shared lock on gpu-1",
        "cancel task t1 on gpu-1",
    ]


# -- who is meant ----------------------------------------------------------------------------------

KNOWN = {
    HolderId("k1.1"): "a.ipynb",
    HolderId("k1.2"): "a.ipynb",
    HolderId(f"{LONG}.1"): "b.ipynb",
    HolderId(f"attached-{LONG[:-1]}2.1"): "run.py",
    HolderId("k4.1"): "b.ipynb",
}


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("k1.2", ["k1.2"]),
        ("k1", ["k1.1", "k1.2"]),
        ("a.ipynb", ["k1.1", "k1.2"]),
        ("run.py", [f"attached-{LONG[:-1]}2.1"]),
        ("attached-5b0d3c1e…", [f"attached-{LONG[:-1]}2.1"]),
        (f"{LONG}", [f"{LONG}.1"]),
    ],
)
def test_a_kernel_goes_by_many_names(said: str, meant: list[str]):
    assert holders_of(said, KNOWN) == meant


@pytest.mark.parametrize("said", ["b.ipynb", "5b0d3c1e"])
def test_where_several_are_meant_none_is(said: str):
    with pytest.raises(BadRequest, match="means 2 kernels: give the id of one") as refused:
        holders_of(said, KNOWN)
    assert LONG[:8] in refused.value.message


@pytest.mark.parametrize("said", ["c.ipynb", "5b0d3c1", "k1.", ""])
def test_where_nobody_is_meant_those_who_are_there_are_named(said: str):
    with pytest.raises(BadRequest, match=r"of which nothing is here.*k1\.1 \(a\.ipynb\)"):
        holders_of(said, KNOWN)


def test_who_is_long_gone_is_known_by_what_is_left():
    facts = replace(WELL, seen=(*WELL.seen, seen("gpu-3", ours("p9", "k9.1"))))
    known = holders_known(facts, {K1: "a.ipynb"})
    assert known == {K1: "a.ipynb", K2: "", K3: "", K4: "", "k9.1": ""}
    assert TASKS[0].holder_id in known
