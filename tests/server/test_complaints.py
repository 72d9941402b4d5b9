"""What users of other tools complain about, as the checks that ours must pass.

Each is marked with its number; many more checks of them are among the other tests, marked alike.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from tests.comfy_servers import embedded_comfy
from tests.server import graphs
from tests.server.test_takeover import left_behind
from tests.server.world import Kernel, World, eventually

complaint, trap = pytest.mark.complaint, pytest.mark.trap

#: Seconds from the true end of a job until it is told, whatever its socket does.
POLL_S = 5.0


async def locked(world: World, name: str = "a.ipynb", comfy_id: str = "gpu-1") -> Kernel:
    kernel = await world.kernel(name)
    await kernel.lock(comfy_id)
    return kernel


def nothing_global_was_said(world: World) -> None:
    for comfy in world.comfies.values():
        assert all(body.get("prompt_id") for body in comfy.calls.bodies("/interrupt"))
        assert all(not (body or {}).get("clear") for _, body in comfy.calls.posts())


@complaint(1)
@pytest.mark.parametrize("first", ["mine", "others"])
async def test_a_cancel_ends_nothing_of_anybody_else(world: World, first: str):
    a, b = await locked(world, "a.ipynb"), await locked(world, "b.ipynb")
    order = [a, b] if first == "mine" else [b, a]
    # Mine must not end by itself, and theirs must.
    running = await order[0].submit(graphs.steps(400 if first == "mine" else 60))
    await order[0].task_in(running, "running")
    tasks: dict[Kernel, list[str]] = {a: [], b: []}
    tasks[order[0]].append(running)
    for kernel in (*order, *order):
        tasks[kernel].append(await kernel.submit(graphs.picture()))
    for each in reversed(tasks[a]):
        await a.cancel(each)
    assert {(await a.ended(each))["state"] for each in tasks[a]} == {"cancelled"}
    assert {(await b.ended(each))["state"] for each in tasks[b]} == {"succeeded"}
    nothing_global_was_said(world)


@complaint(3)
async def test_to_cancel_all_of_mine_names_mine_and_the_place_in_the_queue_is_told(world: World):
    a, b = await locked(world, "a.ipynb"), await locked(world, "b.ipynb")
    running = await b.submit(graphs.steps(400))
    await b.task_in(running, "running")
    mine = [await a.submit(graphs.picture()) for _ in range(3)]
    others = await b.submit(graphs.picture())

    def place() -> Any:
        told = [x["queue"] for x in a.heard.of("task") if x["task_id"] == mine[-1] and x["queue"]]
        return told and told[-1]

    # One ahead is not mine.
    assert await a.heard.until(place) == {"ahead": 3, "ahead_mine": 2}
    assert (await a.comfy("POST", "queue", json={"clear": True})).status == 200
    assert {(await a.ended(each))["state"] for each in mine} == {"cancelled"}
    cancelled = [body["job_ids"] for path, body in world.gpu.calls.posts() if "cancel" in path]
    assert {each for ids in cancelled for each in ids} == set(mine)
    await b.cancel(running)
    assert (await b.ended(others))["state"] == "succeeded"
    nothing_global_was_said(world)


@complaint(6)
async def test_fifty_restarts_of_a_kernel_are_fifty_client_ids(world: World):
    kernel_id, ids, prompts = f"attached-{uuid4()}", set(), []
    for _ in range(50):
        kernel = await world.kernel(kernel_id=kernel_id)
        # The prompt of the one before leaves first, where places are few.
        await kernel.lock("gpu-1", wait=10)
        prompts.append(await kernel.submit(graphs.steps(400)))
        ids.add(world.app._tasks.live(prompts[-1]).task.lock.client_id)
    assert len(ids) == 50
    assert {body["client_id"] for body in world.gpu.calls.bodies("/prompt")} == ids
    # What the earlier ones left running is told to none of the later ones.
    async with kernel.socket() as socket:
        last = await kernel.task_in(prompts[-1], "running")
        assert last["holder_id"] == f"{kernel_id}.50"
        await kernel.cancel(prompts[-1])
        await socket.end_of(prompts[-1])
        told = {x["data"]["prompt_id"] for x in socket.texts() if "prompt_id" in x["data"]}
    assert told == {prompts[-1]}
    assert [x["task_id"] for x in (await kernel.get("tasks"))["tasks"]] == [prompts[-1]]


@complaint(7)
async def test_a_job_of_three_seconds_is_told_in_time_when_no_frame_comes(world: World):
    """On gpu-1 the socket is silent after its greeting; on gpu-2 not even that comes."""
    world.gpu.faults.silent = True
    world.comfies["gpu-2"].faults.frame_delay_s = math.inf
    kernels = [await locked(world, comfy_id=comfy_id) for comfy_id in world.comfies]

    async def seconds(kernel: Kernel) -> float:
        task_id = await kernel.submit(graphs.steps(30, delay=0.1))
        began_s = time.monotonic()
        assert (await kernel.ended(task_id))["state"] == "succeeded"
        return time.monotonic() - began_s

    took = await asyncio.gather(*map(seconds, kernels))
    assert all(3.0 <= each <= 3.0 + POLL_S for each in took), took


@complaint(8)
@trap("04-cached-second-run")
async def test_the_same_prompt_fifty_times_ends_fifty_times_with_its_picture(world: World):
    kernel, prompt = await locked(world), graphs.picture()
    tasks = [await kernel.ended(await kernel.submit(prompt)) for _ in range(50)]
    assert [each["state"] for each in tasks] == ["succeeded"] * 50
    assert [each["cached"] for each in tasks] == [False] + [True] * 49
    pictures = {(await kernel.raw("GET", each["files"][0]["path"])).body for each in tasks}
    assert len(pictures) == 1
    assert pictures.pop().startswith(b"\x89PNG")


# -- 10: a ComfyServer that is killed --------------------------------------------------------------


class Mortal:
    """A ComfyServer in a process of its own."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder
        self._lives = 0
        self.url = ""
        self.start()

    def start(self) -> None:
        """Begin a life, always on the same port."""
        self._lives += 1
        port = int(self.url.rpartition(":")[2] or 0)
        folder = self._folder / str(self._lives)
        wait = self._stack.enter_context(embedded_comfy(name="mortal", folder=folder, port=port))
        self.url = wait()

    def kill(self) -> None:
        """End the process at once, and with it whatever it could say."""
        port = int(self.url.rpartition(":")[2])
        for process in psutil.Process().children(recursive=True):
            if any(
                x.status == "LISTEN" and x.laddr.port == port for x in process.net_connections()
            ):
                os.kill(process.pid, signal.SIGKILL)


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Mortal]:
    with ExitStack() as stack:
        yield Mortal(stack, tmp_path)


class TestAKilledComfyServer:
    @pytest.fixture
    def pool(self, pool: Any, mortal: Mortal) -> Any:
        return [*pool, {"id": "mortal", "url": mortal.url}]

    @complaint(10)
    @trap("41-server-death-and-restart")
    async def test_loses_its_jobs_within_fifteen_seconds_and_never_ends_them_well(
        self, world: World, mortal: Mortal
    ):
        kernel = await locked(world, comfy_id="mortal")
        before = (await kernel.get("locks"))["locks"][0]["epoch"]
        ids = [await kernel.submit(graphs.steps(1000)) for _ in range(2)]
        await kernel.task_in(ids[0], "running")
        mortal.kill()
        began_s = time.monotonic()
        await asyncio.to_thread(mortal.start)
        for each in ids:
            task = await kernel.ended(each)
            assert task["state"] == "lost"
            assert "restarted" in task["reason"]
            told = kernel.heard.states(each)
            assert told.count("lost") == 1
            assert "succeeded" not in told
        assert time.monotonic() - began_s < 15
        # The lock says so, and goes on.
        assert (await kernel.ended(await kernel.submit(graphs.picture())))["state"] == "succeeded"
        lock = (await kernel.get("locks"))["locks"][0]
        assert lock["epoch"] > before
        assert lock["granted_at"] < lock["restarted_at"] <= time.time()
        reasons = [event["reason"] for event in kernel.heard.of("lock")]
        assert "mortal was restarted" in reasons


@complaint(13)
async def test_what_a_dead_one_left_is_cleaned_up_and_nothing_else(world: World):
    """A stale lock, a stale task, and a prompt of ours that no record names."""
    b = await locked(world, "b.ipynb", "gpu-2")
    others = await b.submit(graphs.steps(400))
    await b.task_in(others, "running")
    stale_task = await left_behind(world)
    tag = {"store_id": world.app._keeper.store_id, "holder_id": "gone.1", "fence": 1}
    leftover = await world.direct(graphs.steps(400), tag)
    strangers = await world.direct(graphs.steps(5))
    listed = await world.user.get("tasks")
    assert stale_task in {x["task_id"] for x in listed["tasks"]}
    assert "gone.ipynb" in {x["name"] for x in await world.everybodys_locks()}
    assert {stale_task, leftover, strangers} == set(await world.queue())
    a = await world.kernel("a.ipynb")
    await a.lock("gpu-1", "exclusive", wait=10)

    async def gone() -> bool:
        return not {stale_task, leftover} & set(await world.queue())

    await eventually(gone)
    assert {x["name"] for x in await world.everybodys_locks()} == {"a.ipynb", "b.ipynb"}
    assert (await world.user.get(f"tasks/{stale_task}"))["state"] == "cancelled"
    assert (await b.get(f"tasks/{others}"))["state"] == "running"

    async def strangers_ended_well() -> bool:
        entry = (await world.history()).get(strangers)
        return bool(entry) and entry["status"]["status_str"] == "success"

    await eventually(strangers_ended_well)
    nothing_global_was_said(world)


@complaint(16)
async def test_who_comes_in_the_middle_is_told_how_far_it_is_and_hears_the_rest(world: World):
    """A page that is loaded again, or another one: the Jupyter server knows, not the page."""
    kernel = await locked(world)
    task_id = await kernel.submit(graphs.steps(60, delay=0.05))
    await kernel.heard.until(
        lambda: any(
            x["progress"]["value"] >= 0.4 * (x["progress"]["max"] or math.inf)
            for x in kernel.heard.of("task")
        )
    )
    async with kernel.events() as again:
        async with asyncio.timeout(2):
            await again.until(lambda: again.of("snapshot"))
        (task,) = again.of("snapshot")[0]["tasks"]
        assert task["progress"]["value"] >= 0.4 * task["progress"]["max"] > 0
        await again.until(lambda: "succeeded" in again.states(task_id))


# -- traps of ComfyUI ------------------------------------------------------------------------------


@trap("19-reconnect-after-end")
async def test_an_end_that_was_said_while_the_socket_was_away_is_found(world: World):
    kernel = await locked(world)
    task_id = await kernel.submit(graphs.steps(10))
    await kernel.task_in(task_id, "running")
    world.gpu.faults.no_sockets = True
    world.gpu.faults.cut_sockets()

    async def is_over() -> bool:
        return task_id in await world.history()

    await eventually(is_over)
    world.gpu.faults.no_sockets = False
    async with asyncio.timeout(POLL_S):
        assert (await kernel.ended(task_id))["state"] == "succeeded"


@trap("25-interrupt-race-at-start")
async def test_a_cancel_in_the_moment_of_the_start_ends_that_prompt_and_no_other(world: World):
    a, b = await locked(world, "a.ipynb"), await locked(world, "b.ipynb")
    for _ in range(10):
        mine = await a.submit(graphs.steps(200))
        others = await b.submit(graphs.picture())
        await a.cancel(mine)
        assert (await a.ended(mine))["state"] == "cancelled"
        assert (await b.ended(others))["state"] == "succeeded"
    nothing_global_was_said(world)


@trap("28-execution-blocked-is-not-terminal")
async def test_a_blocked_output_ends_no_task(world: World):
    kernel = await locked(world)
    blocker = {"class_type": "TrBlocker", "inputs": {"message": "no", "seed": 1}}
    shown = {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}
    prompt = {**graphs.steps(20), "8": blocker, "9": shown}
    task = await kernel.ended(await kernel.submit(prompt))
    assert (task["state"], task["error"]) == ("succeeded", None)
    assert [x["node_id"] for x in task["files"]] == ["2"]
    assert kernel.heard.states(task["task_id"]).count("succeeded") == 1


@trap("32-stalled-reader-stalls-everyone")
async def test_a_slow_reader_of_mine_holds_up_nobodys_news(world: World):
    """The gateway reads all that ComfyUI says at once, whatever its own clients do."""
    a, b = await locked(world, "a.ipynb"), await locked(world, "b.ipynb")
    async with a.socket() as stuck:
        transport = stuck.socket._response.connection.transport
        transport.pause_reading()
        # Some 10 MB of previews: more than the buffers on the way can hold.
        inputs = {"seed": 1, "steps": 150, "prompt": "", "width": 512, "height": 512, "delay": 0}
        sampler = {"class_type": "DemoSampler", "inputs": inputs}
        flood = await a.submit({**graphs.picture(), "1": sampler})
        quick = await b.submit(graphs.picture())
        assert (await a.ended(flood))["state"] == "succeeded"
        async with asyncio.timeout(POLL_S):
            assert (await b.ended(quick))["state"] == "succeeded"
        # To leave without waiting for an answer to the good-bye.
        transport.resume_reading()
