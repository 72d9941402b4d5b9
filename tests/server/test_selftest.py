"""The self-test passes where all is well, and says what is broken where something is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from jupyter_comfy_lock.domain.lock import LockEvent
from jupyter_comfy_lock.domain.selftest import TRIALS
from jupyter_comfy_lock.server import check, cleanup
from jupyter_comfy_lock.server.held import HeldLocks
from jupyter_comfy_lock.server.holders import HolderRegistry
from jupyter_comfy_lock.server.locks import LockService
from jupyter_comfy_lock.server.selftest import trials
from jupyter_comfy_lock.server.tasks import Belongings, TaskService
from jupyter_comfy_lock.store.locks import LockStore
from tests.server import graphs
from tests.server.conftest import SECRET
from tests.server.world import Answer, Caller, Comfy, Gate, World, eventually, until

ALONE = pytest.mark.parametrize("places", [{"gpu-1": 4}], indirect=True)
Patch = pytest.MonkeyPatch


@pytest.fixture
def places(request: pytest.FixtureRequest) -> dict[str, int]:
    """The ComfyServers, and how many may share each."""
    return dict(getattr(request, "param", {"gpu-1": 4, "gpu-2": 4}))


@pytest.fixture
def pool(comfies: dict[str, Comfy], places: dict[str, int]) -> Any:
    return [
        {"id": each, "url": comfies[each].url, "capacity": number, "headers": {"X-Pass": SECRET}}
        for each, number in places.items()
    ]


async def selftest(caller: Caller, name: str | None = None) -> dict[str, dict[str, Any]]:
    """Run it; return what came of each trial."""
    return told(await caller.call("POST", "selftest", json={"name": name}))


def told(answer: Answer) -> dict[str, dict[str, Any]]:
    assert answer.status == 200, answer.body
    lines = [json.loads(line)["trial"] for line in answer.body.splitlines()]
    return {each["name"]: each for each in lines}


def verdicts(trials: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: each["verdict"] for name, each in trials.items()}


def holders(world: World) -> list[str]:
    return [each.name for each in world.app._registry.all()]


async def test_all_pass_and_nothing_is_left(world: World):
    kernel = await world.kernel("a.ipynb")
    lock = await kernel.lock("gpu-1")
    before = await world.history()
    for caller in (world.user, kernel):
        came = await selftest(caller)
        assert verdicts(came) == dict.fromkeys(TRIALS, "passed"), came
        assert holders(world) == ["a.ipynb"]
        assert await world.everybodys_locks() == [lock]
        assert await world.queue() == await world.queue("gpu-2") == []
        assert await world.history() == before
        assert not world.app._ports._open
    # R4: it tells a kernel nothing of others.
    assert (await kernel.get("tasks"))["tasks"] == []
    assert (await kernel.get("holders/me/debug"))["errors"] == []


async def test_one_alone_can_be_tried(world: World):
    assert verdicts(await selftest(world.user, "locks")) == {"locks": "passed"}
    answer = await world.user.call("POST", "selftest", json={"name": "everything"})
    assert answer.code == (400, "bad_request")
    assert "identity, locks, check, tasks, consistency, cleanup" in answer.json()["message"]
    assert (await world.stranger.call("POST", "selftest")).status == 403


# -- what cannot be tried -------------------------------------------------------------------------


@ALONE
async def test_with_one_comfyserver_it_shows_what_one_can_show(world: World):
    came = await selftest(world.user)
    assert verdicts(came) == dict.fromkeys(TRIALS, "passed")
    assert "gpu-1 is the only ComfyServer" in came["consistency"]["why"]


@pytest.mark.parametrize("places", [{"gpu-1": 1}], indirect=True)
async def test_with_one_place_the_second_kernel_has_none(world: World):
    came = await selftest(world.user)
    assert verdicts(came) == dict.fromkeys(TRIALS, "passed")
    assert "one free place" in came["locks"]["why"]
    assert "one free place" in came["tasks"]["why"]


@ALONE
async def test_what_is_held_exclusively_or_waited_for_is_left_alone(world: World):
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    lock = await a.lock("gpu-1", "exclusive")
    sent = len(world.gpu.calls.writes())
    expected = {**dict.fromkeys(TRIALS, "skipped"), "identity": "passed"}
    came = await selftest(world.user)
    assert verdicts(came) == expected
    assert "no ComfyServer has a free place" in came["locks"]["why"]
    await a.lock("gpu-1", "shared")
    async with b.waiting("gpu-1", "exclusive") as waiting:
        await waiting.at(1)
        assert verdicts(await selftest(world.user)) == expected
    assert len(world.gpu.calls.writes()) == sent
    assert [x["holder_id"] for x in await world.everybodys_locks()] == [lock["holder_id"]]


@ALONE
async def test_no_prompt_is_put_into_a_queue_in_which_there_are_others(world: World):
    kernel = await world.kernel("a.ipynb")
    await kernel.lock("gpu-1")
    task_id = await kernel.submit(graphs.steps(400))
    came = await selftest(world.user)
    with_prompts = dict.fromkeys(("tasks", "consistency", "cleanup"), "skipped")
    assert verdicts(came) == {**dict.fromkeys(TRIALS, "passed"), **with_prompts}
    assert "gpu-1 (1)" in came["tasks"]["why"]
    assert await world.queue() == [task_id]


# -- it is broken off -----------------------------------------------------------------------------


async def all_gone(world: World) -> bool:
    return holders(world) == [] and await world.nobody_holds()


async def test_broken_off_it_leaves_nothing(world: World):
    """As by Ctrl-C, or by `kill -9` of who has asked: the connection closes."""
    sent = Gate(world.app._services.submitter, "submit_once", after=True)
    asking = asyncio.create_task(world.user.call("POST", "selftest", json={"name": "tasks"}))
    await sent.is_reached()
    assert len(await world.everybodys_locks()) == 2
    asking.cancel()
    sent.go.set()
    await eventually(lambda: all_gone(world))
    assert await world.queue() == []
    # And the next one need not wait for it.
    assert verdicts(await selftest(world.user, "tasks")) == {"tasks": "passed"}


async def test_two_at_once_are_done_one_after_the_other(world: World):
    both = await asyncio.gather(*(selftest(world.user, "locks") for _ in range(2)))
    assert [verdicts(each) for each in both] == [{"locks": "passed"}] * 2


async def test_the_end_of_the_jupyter_server_breaks_it_off(world: World):
    sent = Gate(world.app._services.submitter, "submit_once", after=True)
    asking = asyncio.create_task(world.user.call("POST", "selftest", json={"name": "tasks"}))
    await sent.is_reached()
    await world.app._kernels.stop()
    sent.go.set()
    await until(lambda: holders(world) == [])
    asking.cancel()
    await eventually(lambda: all_gone(world))


# -- each can fail: a fault is put into the running services --------------------------------------


def everybody_is_the_first(patch: Patch) -> None:
    patch.setattr(HolderRegistry, "by_credential", lambda self, _: self.all()[0])


def keys_outlive_their_kernel(patch: Patch) -> None:
    kept: dict[str, Any] = {}
    real = HolderRegistry.by_credential

    def by_credential(self: HolderRegistry, credential: str) -> Any:
        if credential not in kept:
            kept[credential] = real(self, credential)
        return kept[credential]

    patch.setattr(HolderRegistry, "by_credential", by_credential)


def one_lock_for_all(patch: Patch) -> None:
    """The fault of which this product was born."""
    real = HeldLocks.check

    def any_lock(self: HeldLocks, holder_id: Any, name: str) -> Any:
        return next(iter(self._held.values()), None) or real(self, holder_id, name)

    patch.setattr(HeldLocks, "check", any_lock)


def to_release_is_to_release_all(patch: Patch) -> None:
    real = LockService.release

    async def release(self: LockService, holder_id: Any, event: Any, **more: Any) -> Any:
        if event is LockEvent.RELEASED:
            for lock in self._held.all():
                if lock.holder_id != holder_id:
                    await real(self, lock.holder_id, event)
        return await real(self, holder_id, event, **more)

    patch.setattr(LockService, "release", release)


def exclusive_is_not(patch: Patch) -> None:
    patch.setattr("jupyter_comfy_lock.domain.line.refusal", lambda *_: None)


def conflicts_are_not_found(patch: Patch) -> None:
    patch.setattr(trials, "findings", lambda _: [])


def trouble_is_seen_where_there_is_none(patch: Patch) -> None:
    real = check.gather

    async def gather(services: Any) -> Any:
        return replace(await real(services), here={})

    patch.setattr(check, "gather", gather)


def tasks_are_found_by_anybody(patch: Patch) -> None:
    real = TaskService.find
    patch.setattr(TaskService, "find", lambda self, task_id, _: real(self, task_id, None))


def lists_are_everybodys(patch: Patch) -> None:
    real = TaskService.newest
    patch.setattr(TaskService, "newest", lambda self, _, limit: real(self, None, limit))


def belongings_are_everybodys(patch: Patch) -> None:
    everything = Belongings()

    async def belongings(self: TaskService, _: Any) -> Belongings:
        return everything

    patch.setattr(TaskService, "belongings", belongings)


def kernels_wander(patch: Patch) -> None:
    patch.setattr(LockStore, "_stay_at_home", lambda self, c, request, servers: servers)


def a_dry_run_is_none(patch: Patch) -> None:
    real = cleanup.cleanup
    patch.setattr(
        trials,
        "cleanup",
        lambda services, order: real(services, replace(order, dry_run=False)),
    )


def all_is_cleaned_up(patch: Patch) -> None:
    real = cleanup._release

    async def release(services: Any, step: Any, order: Any) -> bool:
        for lock in services.locks._held.all():
            if lock.holder_id != step.holder_id:
                await services.locks.force(lock.holder_id, by="x", why="")
        return await real(services, step, order)

    patch.setitem(cleanup._DO, cleanup.Action.RELEASE, release)


def kernels_leave_their_locks(patch: Patch) -> None:
    async def forget(self: LockService, holder_id: Any, event: Any, **_: Any) -> None:
        return None

    patch.setattr(LockService, "release", forget)
    patch.setattr("jupyter_comfy_lock.server.selftest.actor._LEAVES_IN_S", 0.2)


@pytest.mark.parametrize(
    ("name", "fault", "said"),
    [
        ("identity", everybody_is_the_first, "takes"),
        ("identity", keys_outlive_their_kernel, "unknown_holder"),
        ("locks", one_lock_for_all, "a prompt of a kernel without a lock was not refused"),
        ("locks", to_release_is_to_release_all, "another kernel released, self-test A had lost"),
        ("check", exclusive_is_not, "an exclusive lock on gpu-1, which is shared, was not refused"),
        ("check", conflicts_are_not_found, "is not found"),
        ("check", trouble_is_seen_where_there_is_none, "trouble is found where there is none"),
        ("tasks", tasks_are_found_by_anybody, "of another kernel was not refused"),
        ("tasks", lists_are_everybodys, "is told of others' tasks"),
        ("tasks", belongings_are_everybodys, "the history of another kernel's prompt is shown"),
        ("consistency", kernels_wander, "pending"),
        ("cleanup", a_dry_run_is_none, "it was only asked what cleaning up would do"),
        ("cleanup", all_is_cleaned_up, "another kernel was cleaned up"),
        ("cleanup", kernels_leave_their_locks, "left a lock on gpu-1"),
    ],
)
async def test_it_says_what_is_broken(
    world: World, monkeypatch: Patch, name: str, fault: Callable[[Patch], None], said: str
):
    if name == "consistency":
        # The prompts are surely pending when it is asked to move.
        world.gpu.faults.history_late_s = 0.5
    with monkeypatch.context() as patch:
        fault(patch)
        came = await selftest(world.user, name)
    assert verdicts(came) == {name: "failed"}
    assert said in came[name]["why"]


async def test_each_of_the_six_has_a_fault_above():
    marks = {mark.name: mark for mark in test_it_says_what_is_broken.pytestmark}
    assert {name for name, _, _ in marks["parametrize"].args[1]} == set(TRIALS)
