"""Of each kind of trouble one is planted among what is well: it is found, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from jupyter_comfy_lock.domain.check_pool import Finding, Kind, Level, findings
from jupyter_comfy_lock.domain.lock import Ending, HolderId, LockEvent, Mode
from jupyter_comfy_lock.domain.pool import (
    Access,
    ComfyChange,
    ComfyStatus,
    Health,
    Maintenance,
    occupancy,
)
from jupyter_comfy_lock.domain.pool_facts import ComfySeen, Facts, QueuedPrompt
from jupyter_comfy_lock.domain.task import Task, TaskState
from tests.domain.things import a_comfy, a_draining_lock, a_lock, a_snapshot, a_task, a_waiter

NOW = 10_000.0
STORE = "store-1"
K1, K2, K3, K4 = (HolderId(f"k{n}.1") for n in (1, 2, 3, 4))


def task(task_id: str, holder: str, comfy: str, **more: Any) -> Task:
    made = a_task(task_id, holder_id=HolderId(holder), lock=a_snapshot(holder, comfy))
    return replace(made, state=TaskState.RUNNING, created_at=NOW - 30, **more)


def ours(prompt_id: str, holder: str, **more: Any) -> QueuedPrompt:
    tag = {"store_id": STORE, "holder_id": holder, "task_id": prompt_id}
    return QueuedPrompt(prompt_id=prompt_id, tag=tag, client_id="secret-client", **more)


def seen(comfy_id: str, *prompts: QueuedPrompt, **more: Any) -> ComfySeen:
    return ComfySeen(
        comfy=a_comfy(comfy_id, capacity=2),
        status=more.pop("status", ComfyStatus(health=Health.OK)),
        prompts=prompts,
        **more,
    )


LOCKS = (
    a_lock(K1, "gpu-1", granted_at=NOW - 60),
    a_draining_lock(
        K3, "gpu-1", node_id="n2", ending=Ending(event=LockEvent.RELEASED, at=NOW - 20)
    ),
    a_lock(K2, "gpu-2", granted_at=NOW - 60, mode=Mode.EXCLUSIVE),
)
TASKS = (task("t1", K1, "gpu-1"), task("t3", K3, "gpu-1", node_id="n2"))
SEEN = (seen("gpu-1", ours("t1", K1), ours("t3", K3)), seen("gpu-2"))
WELL = Facts(
    now=NOW,
    store_id=STORE,
    node_id="n1",
    seen=SEEN,
    occupied=occupancy(LOCKS, [a_waiter(K4, "gpu-1", ticket=1, since=NOW - 10)]),
    here={K1: None, K2: None, K4: None},
    nodes={"n2": None},
    pending=TASKS,
)


def held(*locks: Any, waiters: Any = (), closed: Any = None) -> Any:
    return occupancy((*LOCKS, *locks), [*WELL.occupied.waiters, *waiters], closed)


def first(status: ComfyStatus | None = None, **more: Any) -> tuple[ComfySeen, ...]:
    """The pool, its first ComfyServer as it is said to be."""
    changed = {**more, **({"status": status} if status else {})}
    return (replace(SEEN[0], **changed), SEEN[1])


DOWN = ComfyStatus(health=Health.UNREACHABLE, reason="connection refused")
LET_GO = Ending(event=LockEvent.RELEASED, at=NOW - 71)

#: What is planted, and what of it is found.
PLANTED: dict[str, tuple[dict[str, Any], set[tuple[Kind, str | None]]]] = {
    "a third one where two have room": (
        {"occupied": held(a_lock(K4, "gpu-1", fence=9))},
        {(Kind.OVER_CAPACITY, None)},
    ),
    "one beside who has it exclusively": (
        {"occupied": held(a_lock(K1, "gpu-2", fence=9))},
        {(Kind.NOT_EXCLUSIVE, None)},
    ),
    "two who have it exclusively": (
        {"occupied": held(a_lock(K1, "gpu-2", fence=9, mode=Mode.EXCLUSIVE))},
        {(Kind.NOT_EXCLUSIVE, None)},
    ),
    "a lock whose kernel has ended": (
        {"here": {K1: None, K4: None}},
        {(Kind.STALE_LOCK, K2)},
    ),
    "a lock whose kernel does not renew": (
        {"here": {**WELL.here, K2: "it has not renewed its lease for 99 s"}},
        {(Kind.STALE_LOCK, K2)},
    ),
    "a lock of a Jupyter server that is gone": (
        {
            "occupied": held(a_lock("k9.1", "gpu-3", node_id="n3")),
            "nodes": {"n2": None, "n3": "its Jupyter server was stopped"},
        },
        {(Kind.STALE_LOCK, "k9.1")},
    ),
    "a lock of a Jupyter server that nobody knows": (
        {"occupied": held(a_lock("k9.1", "gpu-3", node_id="n3"))},
        {(Kind.STALE_LOCK, "k9.1")},
    ),
    "one that drains too long, and others wait": (
        {
            "occupied": held(
                a_draining_lock(K4, "gpu-3", ending=LET_GO),
                waiters=[a_waiter("k5.1", "gpu-3", ticket=2, node_id="n2", since=NOW - 75)],
            )
        },
        {(Kind.SLOW_DRAIN, K4)},
    ),
    "one that drains too long, and nobody waits": (
        {"occupied": held(a_draining_lock(K4, "gpu-3", ending=LET_GO))},
        {(Kind.SLOW_DRAIN, K4)},
    ),
    "a task whose ComfyServer is gone from the pool": (
        {
            "occupied": held(a_lock(K4, "gpu-3")),
            "pending": (*TASKS, task("t4", K4, "gpu-3")),
        },
        {(Kind.TASK_WITHOUT_COMFY, K4)},
    ),
    "a task whose ComfyServer is at another URL now": (
        {"seen": first(comfy=replace(a_comfy("gpu-1", capacity=2), url="http://other"))},
        {(Kind.TASK_WITHOUT_COMFY, K1)},
    ),
    "a ComfyServer that does not answer": (
        {"seen": first(DOWN)},
        {
            (Kind.COMFY_DOWN, None),
            (Kind.TASK_UNREACHABLE, K1),
            (Kind.VAIN_WAIT, K4),
        },
    ),
    "a task of a kernel that is gone": (
        {"pending": (*TASKS, task("t9", "k9.1", "gpu-1"))},
        {(Kind.TASK_WITHOUT_HOLDER, "k9.1")},
    ),
    "one that does not end though it was cancelled": (
        {
            "occupied": held(
                a_draining_lock(
                    "k9.1", "gpu-3", ending=Ending(event=LockEvent.HOLDER_GONE, at=NOW - 11)
                )
            ),
            "pending": (*TASKS, task("t9", "k9.1", "gpu-3", cancel_requested=True, node_id="n2")),
            "nodes": {"n2": "its Jupyter server was stopped"},
        },
        {
            (Kind.TASK_WITHOUT_HOLDER, "k9.1"),
            (Kind.TASK_WITHOUT_HOLDER, K3),
            (Kind.TASK_WITHOUT_COMFY, "k9.1"),
        },
    ),
    "a task whose kernel holds something else": (
        {"pending": (*TASKS, task("t2", K2, "gpu-1"))},
        {(Kind.TASK_WITHOUT_LOCK, K2)},
    ),
    "a prompt of ours that nobody registered": (
        {"seen": (SEEN[0], seen("gpu-2", ours("p9", "k9.1")))},
        {(Kind.UNREGISTERED_PROMPT, "k9.1")},
    ),
    "a prompt whose task has ended": (
        {
            "seen": (SEEN[0], seen("gpu-2", ours("t9", K2))),
            "ended": (replace(task("t9", K2, "gpu-2"), state=TaskState.LOST, ended_at=5.0),),
        },
        {(Kind.PROMPT_AFTER_END, K2)},
    ),
    "clients that nobody knows": (
        {
            "seen": (
                SEEN[0],
                seen(
                    "gpu-2",
                    *(QueuedPrompt(prompt_id=f"x{n}", client_id="abcdefghijk") for n in (1, 2)),
                    QueuedPrompt(prompt_id="y", tag={"store_id": "another", "holder_id": K2}),
                ),
            )
        },
        {(Kind.FOREIGN_PROMPTS, "abcdefgh"), (Kind.FOREIGN_PROMPTS, None)},
    ),
    "one who waits for what is closed": (
        {"occupied": held(closed={"gpu-1": Maintenance(access=Access.DRAINING)})},
        {(Kind.VAIN_WAIT, K4)},
    ),
    "one who waits for what is not in the pool": (
        {"occupied": held(waiters=[a_waiter(K2, "gpu-7", ticket=2)])},
        {(Kind.VAIN_WAIT, K2)},
    ),
    "a ComfyServer whose worker is dead": (
        {"seen": first(stuck_at="t1")},
        {(Kind.WORKER_DEAD, None)},
    ),
    "a ComfyServer that was restarted": (
        {"seen": first(changes=(ComfyChange(at=NOW - 5, what="was restarted"),))},
        {(Kind.COMFY_CHANGED, None)},
    ),
}


def what(found: list[Finding]) -> set[tuple[Kind, str | None]]:
    return {(each.kind, each.holder_id) for each in found}


def test_where_all_is_well_nothing_is_found():
    assert findings(WELL) == []


@pytest.mark.parametrize(("planted", "expected"), PLANTED.values(), ids=PLANTED)
def test_what_is_planted_is_found_and_nothing_else(planted: Any, expected: Any):
    found = findings(replace(WELL, **planted))
    assert what(found) == expected
    assert len(found) == len({each.key for each in found})


def test_each_kind_is_planted_above():
    assert {kind for _, expected in PLANTED.values() for kind, _ in expected} == set(Kind)


def test_a_finding_says_what_where_since_when_and_what_to_do():
    (found,) = findings(replace(WELL, here={K1: None, K4: None}))
    assert found.to_json() == {
        "kind": "stale_lock",
        "level": "trouble",
        "what": "The lock of kernel k2.1 on gpu-2 is stale: its kernel has ended",
        "todo": "It ends by itself with its lease. To end it now: "
        'comfy.cleanup("k2.1", dry_run=True) tells what that would do, and who may.',
        "comfy_id": "gpu-2",
        "holder_id": "k2.1",
        "task_id": None,
        "since": NOW - 60,
    }


def test_trouble_comes_before_what_is_only_good_to_know():
    changed = (ComfyChange(at=NOW, what="was restarted"),)
    both = replace(WELL, seen=first(changes=changed), here={K1: None, K4: None})
    assert [each.level for each in findings(both)] == [Level.TROUBLE, Level.NOTE]


@pytest.mark.parametrize(
    ("planted", "level"),
    [
        ("one that drains too long, and others wait", Level.TROUBLE),
        ("one that drains too long, and nobody waits", Level.NOTE),
        ("clients that nobody knows", Level.NOTE),
    ],
)
def test_what_nobody_has_to_mend_is_only_noted(planted: str, level: Level):
    found = findings(replace(WELL, **PLANTED[planted][0]))
    assert {each.level for each in found} == {level}


# -- what is as it should be, though it looks like trouble --------------------------------------


def drains(let_go_at: float, waits_since: float) -> Facts:
    lock = a_draining_lock(K4, "gpu-2", ending=Ending(event=LockEvent.RELEASED, at=let_go_at))
    waiter = a_waiter("k5.1", "gpu-2", ticket=2, node_id="n2", since=waits_since)
    return replace(WELL, occupied=occupancy([LOCKS[0], LOCKS[1], lock], [waiter]))


def test_prompts_are_hurried_only_from_when_somebody_waits():
    assert what(findings(drains(NOW - 500, NOW - 71))) == {(Kind.SLOW_DRAIN, K4)}
    assert findings(drains(NOW - 500, NOW - 69)) == []
    assert findings(drains(NOW - 69, NOW - 500)) == []


def test_what_a_kernel_left_that_has_just_ended_is_given_a_moment():
    lock = a_draining_lock("k9.1", "gpu-2", ending=Ending(event=LockEvent.HOLDER_GONE, at=NOW - 9))
    left = task("t9", "k9.1", "gpu-2", cancel_requested=True)
    facts = replace(WELL, occupied=occupancy([LOCKS[0], LOCKS[1], lock]), pending=(*TASKS, left))
    assert findings(facts) == []
    assert what(findings(replace(facts, now=NOW + 2))) == {(Kind.TASK_WITHOUT_HOLDER, "k9.1")}
    not_asked = replace(facts, pending=(*TASKS, replace(left, cancel_requested=False)))
    assert what(findings(not_asked)) == {(Kind.TASK_WITHOUT_HOLDER, "k9.1")}


def test_another_jupyter_server_has_a_pool_of_its_own():
    theirs = task("t9", K3, "gpu-7", node_id="n2")
    facts = replace(
        WELL,
        occupied=held(
            a_lock(K3, "gpu-7", node_id="n2"),
            waiters=[a_waiter("k5.1", "gpu-8", ticket=2, node_id="n2")],
        ),
        pending=(*TASKS, theirs),
    )
    assert findings(facts) == []


def test_who_would_have_another_one_as_well_does_not_wait_in_vain():
    waiter = a_waiter(K4, "gpu-1", "gpu-2", ticket=1)
    closed = {"gpu-1": Maintenance(access=Access.DISABLED)}
    assert findings(replace(WELL, occupied=occupancy(LOCKS, [waiter], closed))) == []


def test_an_old_restart_is_news_only_to_who_held_it_then():
    was = (ComfyChange(at=NOW - 4000, what="was restarted"),)
    assert findings(replace(WELL, seen=first(changes=was))) == []
    before = a_lock(K1, "gpu-1", granted_at=NOW - 5000)
    facts = replace(WELL, seen=first(changes=was), occupied=occupancy([before, *LOCKS[1:]]))
    (found,) = findings(facts)
    assert found.what == "gpu-1 was restarted while kernel k1.1 held it"


def test_a_prompt_is_known_by_the_id_that_an_older_comfyui_gave_it():
    mine = replace(TASKS[0], given_id="other")
    tagged = QueuedPrompt(
        prompt_id="other", tag={"store_id": STORE, "holder_id": K1, "task_id": "t1"}
    )
    facts = replace(WELL, pending=(mine, TASKS[1]), seen=(seen("gpu-1", tagged), SEEN[1]))
    assert findings(facts) == []


# -- what a kernel may see -------------------------------------------------------------------------


def test_a_kernel_sees_nothing_of_others_tasks_and_prompts():
    """R4, R10."""
    facts = replace(
        WELL,
        pending=(*TASKS, task("t2", K2, "gpu-1"), task("t9", "k9.1", "gpu-1")),
        seen=(
            SEEN[0],
            seen(
                "gpu-2",
                ours("p9", "k9.1"),
                ours("p2", K2),
                QueuedPrompt(prompt_id="x", client_id="abcdefghijk"),
            ),
        ),
    )
    seen_by_2 = findings(facts.seen_by(K2))
    assert what(seen_by_2) == {
        (Kind.TASK_WITHOUT_LOCK, K2),
        (Kind.UNREGISTERED_PROMPT, K2),
        (Kind.FOREIGN_PROMPTS, None),
    }
    shown = str([each.to_json() for each in seen_by_2])
    for secret in ("t9", "p9", "k9", "abcdefgh", "secret-client"):
        assert secret not in shown
    assert what(findings(facts.seen_by(K4))) == {(Kind.FOREIGN_PROMPTS, None)}


def test_a_client_id_is_not_shown_whole():
    """R10: with it anybody could hear what that client hears."""
    facts = replace(WELL, **PLANTED["clients that nobody knows"][0])
    assert "abcdefghijk" not in str([each.to_json() for each in findings(facts)])
