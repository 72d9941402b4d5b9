"""What becomes of locks and tasks under each fault of a ComfyServer or of a clock (R5, R8, R9)."""

from __future__ import annotations

import asyncio
import errno
import time
from uuid import uuid4

import aiohttp
import pytest

from jupyter_comfy_lock.domain.lock import ComfyId, HolderId, LockId, Mode
from jupyter_comfy_lock.domain.pool import ComfyServer
from jupyter_comfy_lock.domain.request import Request
from tests.server import graphs
from tests.server.world import Kernel, World, eventually, until

#: Seconds in which the end of a task must be told, whatever its socket does.
PROMISED_S = 5.0
DAY_S = 24 * 3600.0


async def locked(world: World) -> Kernel:
    kernel = await world.kernel("a.ipynb")
    await kernel.lock("gpu-1")
    return kernel


async def ended_by_its_own_word(world: World, task_id: str) -> None:
    async def is_over() -> bool:
        return task_id in await world.history()

    await eventually(is_over)


# -- sockets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("since", ["before", "while it runs"])
async def test_behind_a_half_open_socket_the_end_is_found_in_time(world: World, since: str):
    world.gpu.faults.half_open = since == "before"
    kernel = await locked(world)
    task_id = await kernel.submit(graphs.steps(10))
    if since == "while it runs":
        await kernel.task_in(task_id, "running")
        world.gpu.faults.half_open = True
    await ended_by_its_own_word(world, task_id)
    async with asyncio.timeout(PROMISED_S):
        assert (await kernel.ended(task_id))["state"] == "succeeded"


@pytest.mark.complaint(5)
@pytest.mark.trap("20-two-sockets-same-client-id")
async def test_a_half_open_socket_is_given_up_and_its_late_end_harms_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("jupyter_comfy_lock.server.transport._HEARTBEAT_S", 0.4)
    kernel = await locked(world)
    task_id = await kernel.submit(graphs.steps(80))
    await kernel.task_in(task_id, "running")
    opened = len(world.gpu.calls.to("/ws"))
    world.gpu.faults.half_open = True
    world.gpu.faults.half_open = False
    await until(lambda: len(world.gpu.calls.to("/ws")) > opened)
    assert await world.app._streams.of(kernel.holder_id).ready(PROMISED_S)
    world.gpu.faults.notice_half_open()
    await ended_by_its_own_word(world, task_id)
    async with asyncio.timeout(PROMISED_S):
        assert (await kernel.ended(task_id))["state"] == "succeeded"
    # The new socket hears: looking alone finds no steps and no previews.
    new = await kernel.ended(await kernel.submit(graphs.steps(4, preview=True)))
    assert new["progress"]["preview"] > 0


async def test_half_open_sockets_hold_up_neither_a_release_nor_the_end_of_the_server(world: World):
    a, b = await locked(world), await world.kernel("b.ipynb")
    world.gpu.faults.half_open = True
    async with asyncio.timeout(PROMISED_S):
        await a.release()
        await b.lock("gpu-1", "exclusive")
        await world.app._streams.stop()


async def test_slow_frames_delay_no_end_and_no_progress_goes_back(world: World):
    kernel = await locked(world)
    world.gpu.faults.frame_delay_s = 0.25
    task_id = await kernel.submit(graphs.steps(8, delay=0.1))
    await ended_by_its_own_word(world, task_id)
    async with asyncio.timeout(PROMISED_S):
        task = await kernel.ended(task_id)
    assert task["state"] == "succeeded"
    world.gpu.faults.frame_delay_s = 0.0
    # What came late of it came before what is told of the next one.
    await kernel.ended(await kernel.submit(graphs.steps(2)))
    told = [x for x in kernel.heard.of("task") if x["task_id"] == task_id]
    states = [x["state"] for x in told]
    assert states == sorted(states, key=["registered", "queued", "running", "succeeded"].index)
    assert states.count("succeeded") == 1
    far = [(x["progress"]["nodes_done"], x["progress"]["value"]) for x in told[:-1]]
    assert far == sorted(far)


# -- clocks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset_s", [DAY_S, -DAY_S])
async def test_a_comfy_server_whose_clock_jumps_changes_no_task(world: World, offset_s: float):
    kernel = await locked(world)
    before = time.time()
    running = await kernel.submit(graphs.steps(20))
    waiting = await kernel.submit(graphs.picture())
    await kernel.task_in(running, "running")
    world.gpu.faults.clock_offset_s = offset_s
    after = await kernel.submit(graphs.picture())
    world.gpu.faults.silent = True
    unheard = await kernel.submit(graphs.picture())
    for each in (running, waiting, after, unheard):
        task = await kernel.ended(each)
        assert (task["state"], task["reason"]) == ("succeeded", None)
        times = [before, task["created_at"], task["started_at"], task["ended_at"], time.time()]
        known = [each for each in times if each is not None]
        assert known == sorted(known)


class Wall:
    """The wall clock of the machine on which the Jupyter server runs."""

    offset_s = 0.0


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    """Step it for all code of this process, so that none can rely on it unseen."""
    made, real_s, real_ns = Wall(), time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: real_s() + made.offset_s)
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + round(made.offset_s * 1e9))
    return made


async def another_jupyter_server(world: World, comfy_id: str) -> None:
    """One that holds a lock and says nothing any more."""
    node_id = await world.stores.nodes.join()
    request = Request(
        lock_id=LockId(str(uuid4())),
        holder_id=HolderId("silent.1"),
        node_id=node_id,
        mode=Mode.EXCLUSIVE,
        wants=[ComfyServer(comfy_id=ComfyId(comfy_id), url=world.comfies[comfy_id].url)],
        name="silent.ipynb",
    )
    await world.stores.locks.ask(request, wait=False)


async def names(world: World) -> set[str]:
    return {each["name"] for each in await world.everybodys_locks()}


LEASE_S = 3.0


@pytest.mark.parametrize("settings", [{"lease_ttl_s": LEASE_S}])
@pytest.mark.parametrize("offset_s", [DAY_S, -DAY_S])
async def test_when_the_wall_clock_jumps_no_lock_is_lost_and_none_outlives_its_lease(
    world: World, wall: Wall, offset_s: float
):
    """R7, R8: leases are counted on clocks that do not jump."""
    lives = await world.kernel("lives.ipynb")
    lock = await lives.lock("gpu-1")
    vanished = Kernel(world.base, world.session, (await world.hello("vanished.ipynb")).json())
    await vanished.lock("gpu-1")
    await another_jupyter_server(world, "gpu-2")
    world.renews(lives)
    task_id = await lives.submit(graphs.steps(20))
    await lives.task_in(task_id, "running")
    await world.expire()
    began_s = time.monotonic()
    wall.offset_s = offset_s
    for _ in range(2):
        await world.renew()
        await world.expire()
    assert await names(world) == {"lives.ipynb", "vanished.ipynb", "silent.ipynb"}

    async def only_the_living() -> bool:
        await world.expire()
        return await names(world) == {"lives.ipynb"}

    await eventually(only_the_living)
    assert LEASE_S - 1 < time.monotonic() - began_s < LEASE_S + PROMISED_S
    assert (await lives.get("locks"))["locks"] == [lock]
    assert (await lives.comfy("GET", "queue")).status == 200
    task = await lives.ended(task_id)
    assert task["state"] == "succeeded"
    assert task["created_at"] <= task["started_at"] <= task["ended_at"]
    new = await world.kernel("new.ipynb")
    assert (await new.lock("gpu-2"))["fence"] > 0


# -- a full disk -----------------------------------------------------------------------------------

NO_SPACE = f"[Errno {errno.ENOSPC}] No space left on device"


@pytest.mark.parametrize("heard", [True, False])
async def test_a_full_disk_fails_the_task_with_node_and_traceback(world: World, heard: bool):
    kernel = await locked(world)
    world.gpu.faults.silent = not heard
    world.gpu.faults.disk_full = True
    task = await kernel.ended(await kernel.submit(graphs.picture()))
    assert (task["state"], task["reason"]) == ("failed", f"node 2 (SaveImage): {NO_SPACE}")
    error = task["error"]
    assert (error["node_id"], error["node_class"]) == ("2", "SaveImage")
    assert (error["exception_type"], error["message"]) == ("OSError", NO_SPACE)
    assert any("save_image" in line for line in error["traceback"])
    world.gpu.faults.disk_full = False
    assert (await kernel.ended(await kernel.submit(graphs.picture())))["state"] == "succeeded"


def a_form(content: bytes) -> aiohttp.FormData:
    form = aiohttp.FormData()
    form.add_field("image", content, filename="a.png")
    return form


async def test_an_upload_that_finds_no_room_fails_in_comfyuis_words_and_is_nobodys(world: World):
    kernel, other = await locked(world), await world.kernel("b.ipynb")
    await other.lock("gpu-1")
    world.gpu.faults.disk_full = True
    answer = await kernel.comfy("POST", "upload/image", data=a_form(b"mine"))
    assert answer.status == 500
    assert b"Server got itself in trouble" in answer.body
    world.gpu.faults.disk_full = False
    answer = await kernel.comfy("POST", "upload/image", data=a_form(b"mine"))
    name = answer.json()["name"].replace(" ", "%20")
    view = f"view?type=input&filename={name}"
    assert (await kernel.comfy("GET", view)).body == b"mine"
    assert (await other.comfy("GET", view)).status == 404
