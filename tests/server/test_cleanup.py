"""Cleaning up does what it says, to whom it says, and nothing else."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from jupyter_comfy_lock.server import cleanup as module
from tests.server import graphs
from tests.server.planted import plant_lock, plant_task, tag_of
from tests.server.world import Caller, Kernel, World, eventually


@pytest.fixture
def settings() -> dict[str, Any]:
    """What is planted is not put in order by anybody else."""
    return {"lease_ttl_s": 3600.0}


async def clean(caller: Caller, **body: Any) -> dict[str, Any]:
    answer = await caller.call("POST", "cleanup", json=body)
    assert answer.status == 200, answer.body
    return dict(answer.json())


def did(cleaned: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(each["action"], each["subject"], each["result"]) for each in cleaned["steps"]]


async def at_work(world: World, name: str, comfy_id: str = "gpu-1") -> tuple[Kernel, str]:
    kernel = await world.kernel(name)
    await kernel.lock(comfy_id)
    return kernel, await kernel.submit(graphs.steps(400))


async def test_a_kernel_cleans_up_after_itself_and_nobody_else_notices(world: World):
    me, task_id = await at_work(world, "a.ipynb")
    other, theirs = await at_work(world, "b.ipynb")
    lock = (await other.get("locks"))["locks"]
    sent = len(world.gpu.calls.writes())
    dry = await clean(me, dry_run=True)
    assert [each[2] for each in did(dry)] == ["planned", "planned"]
    assert dry["dry_run"]
    assert len(world.gpu.calls.writes()) == sent
    assert len((await me.get("locks"))["locks"]) == 1
    done = await clean(me)
    assert [each["step_id"] for each in done["steps"]] == [x["step_id"] for x in dry["steps"]]
    assert [(action, result) for action, _, result in did(done)] == [
        ("release", "done"),
        ("cancel", "done"),
    ]
    assert done["steps"][1]["subject"] == task_id
    task = await me.ended(task_id)
    assert (task["state"], task["reason"]) == ("cancelled", "cleaned up by its kernel")
    assert (await me.get("locks"))["locks"] == []
    # It was its own wish: it lost nothing.
    assert (await me.call("POST", "tasks", json={"prompt": graphs.picture()})).code[1] == "no_lock"
    assert (await other.get("locks"))["locks"] == lock
    assert (await other.get(f"tasks/{theirs}"))["state"] in ("queued", "running")
    assert did(await clean(me)) == []


async def test_of_one_that_waits_the_place_in_line_is_given_up_too(world: World):
    a, b, c = [await world.kernel(f"{name}.ipynb") for name in "abc"]
    await a.lock("gpu-1", "exclusive")
    async with b.waiting("gpu-1") as second, c.waiting("gpu-1") as third:
        await second.at(1)
        await third.at(2)
        cleaned = await clean(b)
        assert [(x[0], x[2]) for x in did(cleaned)] == [("leave_line", "done")]
        await second.error()
        await third.at(1)


@pytest.mark.parametrize("by", ["holder", "kernel", "name", "part"])
async def test_the_user_cleans_up_after_a_kernel_which_is_told_by_whom(world: World, by: str):
    victim, task_id = await at_work(world, "a.ipynb")
    other, theirs = await at_work(world, "b.ipynb")
    named = {
        "holder": victim.holder_id,
        "kernel": victim.kernel_id,
        "name": "a.ipynb",
        "part": victim.kernel_id.removeprefix("attached-")[:8] + "…",
    }[by]
    dry = await clean(world.user, kernel=named, dry_run=True)
    done = await clean(world.user, kernel=named, why="night run")
    assert [x["step_id"] for x in done["steps"]] == [x["step_id"] for x in dry["steps"]]
    assert done["holders"] == [victim.holder_id]
    assert {x["result"] for x in done["steps"]} == {"done"}
    task = await victim.ended(task_id)
    assert task["state"] == "cancelled"
    said = await victim.heard.until(lambda: [x for x in victim.heard.of("lock") if not x["lock"]])
    assert f"taken away by {done['by']} at " in said[0]["reason"]
    assert said[0]["reason"].endswith(": night run")
    refused = await victim.call("POST", "tasks", json={"prompt": graphs.picture()})
    assert refused.code == (409, "stale_lock")
    assert done["by"] in refused.json()["message"]
    assert len((await other.get("locks"))["locks"]) == 1
    assert (await other.get(f"tasks/{theirs}"))["state"] in ("queued", "running")


async def test_no_kernel_cleans_up_after_another_and_is_told_who_may(world: World):
    """R10."""
    victim, task_id = await at_work(world, "a.ipynb")
    other = await world.kernel("b.ipynb")
    for kernel in (victim.holder_id, victim.kernel_id, "a.ipynb", "nobody"):
        for dry_run in (False, True):
            body = {"kernel": kernel, "dry_run": dry_run}
            refused = await other.call("POST", "cleanup", json=body)
            assert refused.code == (403, "not_yours")
            for part in ("Jupyter user", "POST comfy-lock/api/cleanup", "token"):
                assert part in refused.json()["message"]
            # Not even whether there is such a kernel.
            assert "nothing is here" not in refused.json()["message"]
    assert (await world.stranger.call("POST", "cleanup", json={})).status == 403
    await victim.task_in(task_id, "running")
    assert len((await victim.get("locks"))["locks"]) == 1
    # By any of its own names it may.
    for own in (other.holder_id, other.kernel_id, "b.ipynb", None):
        assert did(await clean(other, kernel=own)) == []


async def test_who_is_long_gone_is_cleaned_up_by_what_is_left(world: World):
    """A stale lock, a stale task, a prompt of ours that nobody knows; and nothing of others."""
    _, theirs = await at_work(world, "a.ipynb")
    lock_id = await plant_lock(world, "gone.1", "gpu-1")
    task_id = await plant_task(world, "gone.1", "gpu-1")
    ours = await world.direct(graphs.steps(400), tag_of(world, "gone.1", str(uuid4())))
    foreign = await world.direct(graphs.steps(400))
    planted = [("release", lock_id), ("cancel", task_id), ("remove", ours)]
    dry = await clean(world.user, kernel="gone.1", dry_run=True)
    assert did(dry) == [(*each, "planned") for each in planted]
    done = await clean(world.user, kernel="gone")
    assert did(done) == [(*each, "done") for each in planted]
    await eventually(lambda: queue_is(world, {theirs, foreign}))
    assert "gone.1" not in [x["holder_id"] for x in await held(world)]


async def queue_is(world: World, prompt_ids: set[str]) -> bool:
    return set(await world.queue()) == prompt_ids


async def held(world: World) -> list[dict[str, Any]]:
    return [x for x in await world.everybodys_locks() if x["state"] == "held"]


async def test_only_those_steps_are_done_that_are_wanted(world: World):
    kernel, task_id = await at_work(world, "a.ipynb")
    dry = await clean(world.user, kernel="a.ipynb", dry_run=True)
    cancel = [x["step_id"] for x in dry["steps"] if x["action"] == "cancel"]
    done = await clean(world.user, kernel="a.ipynb", only=cancel)
    assert did(done) == [("cancel", task_id, "done")]
    assert (await kernel.ended(task_id))["reason"].startswith("cleaned up by ")
    assert len((await kernel.get("locks"))["locks"]) == 1
    assert did(await clean(world.user, kernel="a.ipynb", only=[])) == []


@pytest.mark.parametrize("by", ["itself", "the user"])
async def test_what_comes_after_the_plan_is_left_alone(
    world: World, monkeypatch: pytest.MonkeyPatch, by: str
):
    """The kernel moves on between the plan and what is done: the new lock is not in the plan."""
    kernel = await world.kernel("a.ipynb")
    await kernel.lock("gpu-1")
    ended = await kernel.submit(graphs.steps(2))
    real = module._plan

    async def plan_and_move_on(*args: Any) -> Any:
        planned = await real(*args)
        await kernel.ended(ended)
        await kernel.lock("gpu-2")
        return planned

    monkeypatch.setattr(module, "_plan", plan_and_move_on)
    caller, body = (kernel, {}) if by == "itself" else (world.user, {"kernel": "a.ipynb"})
    cleaned = await clean(caller, **body)
    assert [(x[0], x[2]) for x in did(cleaned)] == [("release", "over"), ("cancel", "over")]
    (lock,) = (await kernel.get("locks"))["locks"]
    assert lock["comfy_id"] == "gpu-2"
    await kernel.ended(await kernel.submit(graphs.picture()))


async def test_a_place_in_line_that_is_a_lock_by_now_is_no_place_in_line(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    await a.lock("gpu-1", "exclusive")
    real = module._plan

    async def plan_and_let_in(*args: Any) -> Any:
        planned = await real(*args)
        await a.release()
        await waiting.lock()
        return planned

    monkeypatch.setattr(module, "_plan", plan_and_let_in)
    async with b.waiting("gpu-1") as waiting:
        await waiting.at(1)
        cleaned = await clean(world.user, kernel="b.ipynb")
        assert [(x[0], x[2]) for x in did(cleaned)] == [("leave_line", "over")]
    assert len((await b.get("locks"))["locks"]) == 1


async def test_one_step_that_fails_stops_no_other(world: World):
    kernel, task_id = await at_work(world, "a.ipynb", "gpu-2")
    homeless = await plant_task(world, kernel.holder_id, "gpu-7", created_at=0.0)
    cleaned = await clean(world.user, kernel="a.ipynb")
    results = {subject: result for _, subject, result in did(cleaned)}
    assert (results[homeless], results[task_id]) == ("failed", "done")
    (why,) = [x["why"] for x in cleaned["steps"] if x["subject"] == homeless]
    assert "gpu-7" in why


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"kernel": 7}, "kernel"),
        ({"kernel": None}, "kernel"),
        ({}, "kernel"),
        ({"kernel": "nobody.ipynb"}, "kernel"),
        ({"kernel": "a.ipynb"}, "kernel"),
        ({"kernel": "b.ipynb", "dry_run": "yes"}, "dry_run"),
        ({"kernel": "b.ipynb", "only": "x"}, "only"),
        ({"kernel": "b.ipynb", "why": 7}, "why"),
    ],
)
async def test_what_nobody_can_mean_is_refused_and_changes_nothing(world: World, body, field):
    kernels = [await world.kernel(name) for name in ("a.ipynb", "a.ipynb", "b.ipynb")]
    await kernels[2].lock("gpu-1")
    answer = await world.user.call("POST", "cleanup", json=body)
    assert answer.code == (400, "bad_request")
    assert answer.json()["details"] == {"field": field}
    assert len(await world.everybodys_locks()) == 1
