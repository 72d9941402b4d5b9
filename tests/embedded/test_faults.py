"""Each fault that can be switched on, as a plain client of ComfyUI sees it."""

from __future__ import annotations

import asyncio
import errno
import math
import time
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from uuid import uuid4

import aiohttp
import pytest
from aiohttp import web

from jupyter_comfy_lock.embedded import EmbeddedComfy, Faults
from tests.embedded.client import client_of, node, picture, save, steps
from tests.embedded_trace_nodes import NODES
from tests.server.world import eventually

pytestmark = pytest.mark.asyncio

DAY_S = 24 * 3600


@pytest.fixture
def faults(comfy):
    return comfy.faults


def tiny(color=1):
    return {"1": picture(color), "2": save("1")}


async def ended(client, prompt_id):
    """Ask for the history, without any help of the socket, until the prompt is in it."""

    async def entry():
        return (await client.get(f"/history/{prompt_id}"))[1].get(prompt_id)

    return await eventually(entry)


async def nothing_comes(client, within_s=0.3):
    """Whether the socket says nothing for so long; a fault has no other sign."""
    with pytest.raises(TimeoutError):
        await client.ws.receive(timeout=within_s)
    return True


async def pong(client):
    """Send a ping and wait for its answer, which can be told from all that a server says."""
    reads = asyncio.create_task(client.ws.receive(timeout=0.5))
    await client.ws.ping(b"?")
    try:
        return (await reads).type is aiohttp.WSMsgType.PONG
    except TimeoutError:
        return False


@asynccontextmanager
async def pinging(url):
    """A client that is shown the answers to its pings."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}/ws?clientId={uuid4()}", autoping=False) as ws,
    ):
        client = type("Pinging", (), {"ws": ws, "session": session})()
        assert (await ws.receive_json())["type"] == "status"
        yield client


# -- POST /prompt ----------------------------------------------------------------------------------


async def test_a_lost_prompt_is_not_queued_and_a_lost_reply_is(client, faults):
    for fault, runs in (("lose_prompts", 0), ("lose_replies", 1)):
        setattr(faults, fault, 1)
        prompt_id = str(uuid4())
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.submit(tiny(), prompt_id=prompt_id)
        if runs:
            assert (await ended(client, prompt_id))["status"]["completed"]
        _, queue = await client.get("/queue")
        assert queue == {"queue_running": [], "queue_pending": []}
        assert len((await client.get("/history"))[1]) == runs
        assert getattr(faults, fault) == 0


async def test_a_prompt_can_be_queued_and_answered_with_500(client, faults):
    faults.queued_but_500 = 1
    prompt_id = str(uuid4())
    status, text = await client.post("/prompt", {"prompt": tiny(), "prompt_id": prompt_id})
    assert (status, text[:3]) == (500, b"500")
    assert (await ended(client, prompt_id))["status"]["completed"]
    assert await client.submit(tiny())


async def test_prompts_can_be_kept_before_they_are_queued_and_before_they_are_answered(
    client, faults
):
    faults.hears.clear()
    faults.answers.clear()
    prompt_id = str(uuid4())
    sending = asyncio.create_task(client.submit(tiny(), prompt_id=prompt_id))
    assert await nothing_comes(client)
    faults.hears.set()
    assert (await ended(client, prompt_id))["status"]["completed"]
    assert not sending.done()
    faults.answers.set()
    assert await sending == prompt_id


# -- any request -----------------------------------------------------------------------------------


async def test_a_path_fails_as_often_as_is_said_or_until_it_is_switched_off(client, faults):
    faults.fails = {"/queue": 2, "/system_stats": math.inf}
    assert [(await client.get(x))[0] for x in ("/queue", "/api/queue", "/queue")] == [500, 500, 200]
    assert {(await client.get("/system_stats"))[0] for _ in range(5)} == {500}
    del faults.fails["/system_stats"]
    assert (await client.get("/system_stats"))[0] == 200


async def test_something_else_can_answer_at_a_path(client, faults):
    faults.instead["/queue"] = lambda: web.Response(status=401, text="password?")
    assert await client.get("/queue") == (401, b"password?")
    faults.instead.clear()
    assert (await client.get("/queue"))[0] == 200


async def test_history_and_jobs_are_late_by_seconds_or_until_released(client, faults):
    faults.history_late_s = math.inf
    prompt_id = await client.submit(tiny())
    await client.until("executing", node=None, prompt_id=prompt_id)
    assert await client.get(f"/history/{prompt_id}") == (200, {})
    assert await client.get("/history") == (200, {})
    assert (await client.get(f"/api/jobs/{prompt_id}"))[0] == 404
    faults.history_late_s = 0.3
    late = await client.submit(tiny(2))
    await client.until("executing", node=None, prompt_id=late)
    began_s = time.monotonic()
    assert await client.get(f"/history/{late}") == (200, {})
    await ended(client, late)
    assert 0.2 < time.monotonic() - began_s < 5
    assert len((await client.get("/history"))[1]) == 2


# -- sockets ---------------------------------------------------------------------------------------


async def test_a_refused_socket_leaves_the_open_ones_alone(comfy, client, faults):
    faults.no_sockets = True
    with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
        async with client_of(comfy.url):
            pass
    entry, _ = await client.run(tiny())
    assert entry["status"]["completed"]
    faults.no_sockets = False
    async with client_of(comfy.url):
        pass


async def test_a_silent_socket_greets_and_answers_pings_and_says_nothing(comfy, client, faults):
    faults.silent = True
    await ended(client, await client.submit(tiny()))
    assert await nothing_comes(client)
    async with pinging(comfy.url) as other:
        assert await pong(other)
    # What was not said is not said later; what is new, is.
    faults.silent = False
    _, heard = await client.run(tiny(2))
    assert [x["type"] for x in heard].count("execution_success") == 1


async def test_a_half_open_socket_answers_nothing_and_ends_when_the_server_notices(comfy, faults):
    async with pinging(comfy.url) as before:
        assert await pong(before)
        faults.half_open = True
        async with pinging(comfy.url) as during:
            faults.half_open = False
            async with client_of(comfy.url) as after:
                for caught in (before, during):
                    assert not await pong(caught)
                    assert not caught.ws.closed
                # `status` is for everybody.
                await after.run(tiny())
                for caught in (before, during):
                    assert await nothing_comes(caught, 0.1)
                faults.notice_half_open()
                for caught in (before, during):
                    assert (await caught.ws.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSED
                await after.run(tiny(2))


async def test_a_client_that_came_back_is_forgotten_when_its_half_open_socket_ends(comfy, faults):
    async with client_of(comfy.url, "same") as _:
        faults.half_open = True
        faults.half_open = False
        async with client_of(comfy.url, "same") as again:
            await again.run(tiny())
            faults.notice_half_open()
            async with client_of(comfy.url) as other:
                await ended(other, await other.submit(tiny(2)))
            assert await nothing_comes(again)


@pytest.mark.parametrize(
    ("fault", "value", "at_least_s"), [("frame_delay_s", 0.05, 0.4), ("bytes_per_s", 4000, 0.2)]
)
async def test_frames_on_a_slow_socket_come_late_and_in_order(
    comfy, client, faults, fault, value, at_least_s
):
    async with client_of(comfy.url) as other:
        setattr(faults, fault, value)
        began_s = time.monotonic()
        prompt_id = await client.submit({"1": steps(3), "2": save("1")})
        # By the history it has ended long before its news arrive.
        await ended(client, prompt_id)
        known_s = time.monotonic() - began_s
        # Others wait behind it: what they are told last comes as late.
        idle = {"status": {"exec_info": {"queue_remaining": 0}}}
        await other.until("status", **idle)
        assert time.monotonic() - began_s > max(at_least_s, known_s)
        await client.until("executing", node=None, prompt_id=prompt_id)
        values = [x["data"]["value"] for x in client.heard if x["type"] == "progress"]
        assert values == sorted(values)
        setattr(faults, fault, getattr(Faults(), fault))
        await client.run(tiny(2))


async def test_cut_sockets_end_without_a_good_bye(comfy, client, faults):
    faults.cut_sockets()
    message = await client.ws.receive(timeout=5)
    assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
    assert client.ws.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE
    async with client_of(comfy.url) as other:
        await other.run(tiny())


# -- the machine -----------------------------------------------------------------------------------


@pytest.mark.parametrize("offset_s", [DAY_S, -DAY_S])
async def test_a_clock_that_jumps_changes_all_times_that_are_told(client, faults, offset_s):
    prompt_id = await client.submit({"1": steps(100, 0.01), "2": save("1")})
    started = await client.until("execution_start", prompt_id=prompt_id)
    faults.clock_offset_s = offset_s
    over = await client.until("execution_success", prompt_id=prompt_id)
    assert over["timestamp"] - started["timestamp"] == pytest.approx(offset_s * 1000, abs=60_000)
    entry = await ended(client, await client.submit(tiny(2)))
    times = [data["timestamp"] / 1000 for _, data in entry["status"]["messages"]]
    times.append(entry["prompt"][3]["create_time"] / 1000)
    async with client.session.get(f"{client.url}/prompt") as response:
        times.append(parsedate_to_datetime(response.headers["Date"]).timestamp())
    assert times == pytest.approx([time.time() + offset_s] * len(times), abs=60)


@pytest.mark.parametrize("class_type", ["SaveImage", "PreviewImage"])
async def test_a_full_disk_fails_what_is_saved_with_a_traceback(client, faults, class_type):
    faults.disk_full = True
    inputs = {"filename_prefix": "x"} if class_type == "SaveImage" else {}
    output = node(class_type, images=["1", 0], **inputs)
    entry, heard = await client.run({"1": picture(), "2": output})
    error = next(x["data"] for x in heard if x["type"] == "execution_error")
    assert (error["node_id"], error["node_type"]) == ("2", class_type)
    assert error["exception_type"] == "OSError"
    assert error["exception_message"] == f"[Errno {errno.ENOSPC}] No space left on device\n"
    assert any("_write" in line for line in error["traceback"])
    assert entry["status"]["status_str"] == "error"
    faults.disk_full = False
    entry, _ = await client.run({"1": picture(), "2": output})
    assert await client.file(entry, "2")


async def test_a_full_disk_fails_uploads_and_settings_with_500(client, faults):
    def form():
        data = aiohttp.FormData()
        data.add_field("image", b"some bytes", filename="a.png")
        return data

    await client.post("/settings", {"theme": "light"})
    faults.disk_full = True
    for path, body in (
        ("/upload/image", {"data": form()}),
        ("/settings", {"json": {"theme": "dark"}}),
        ("/settings/theme", {"json": "dark"}),
    ):
        status, text = await client.post(path, **body)
        assert (status, b"Server got itself in trouble" in text) == (500, True)
    assert await client.get("/settings") == (200, {"theme": "light"})
    assert await client.get("/view?filename=a.png&type=input") == (200, b"")
    faults.disk_full = False
    assert (await client.post("/upload/image", data=form()))[1]["name"] == "a (1).png"
    assert (await client.post("/settings/theme", "dark"))[0] == 200


# -- the process -----------------------------------------------------------------------------------


async def test_of_a_killed_server_nothing_more_is_heard(comfy, client):
    await client.submit({"1": steps(1000), "2": save("1")})
    await client.until("progress")
    slow = asyncio.create_task(client.get("/object_info"))
    comfy.faults.hears.clear()
    sending = asyncio.create_task(client.submit(tiny()))
    await slow
    await comfy.kill()
    with pytest.raises(aiohttp.ClientConnectionError):
        await sending
    with pytest.raises(AssertionError, match="closed before"):
        await client.until("execution_interrupted")
    assert client.ws.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE
    with pytest.raises(aiohttp.ClientConnectorError):
        await client.get("/prompt")


@pytest.mark.parametrize("own_directory", [False, True])
async def test_a_restarted_server_has_its_port_and_files_and_nothing_else(tmp_path, own_directory):
    where = {"base_directory": tmp_path} if own_directory else {}
    async with EmbeddedComfy(nodes=NODES, **where) as comfy:
        url = comfy.url
        async with client_of(url) as client:
            entry, _ = await client.run(tiny())
            await client.submit({"1": steps(1000), "2": save("1")})
            await client.until("progress")
            await comfy.restart()
        assert comfy.url == url
        async with client_of(url) as client:
            assert await client.get("/history") == (200, {})
            assert (await client.get("/prompt"))[1] == {"exec_info": {"queue_remaining": 0}}
            assert await client.file(entry, "2")
            _, answer = await client.post("/prompt", {"prompt": tiny()})
            assert answer["number"] == 0


async def test_faults_of_one_server_are_not_anothers():
    faults = Faults()
    faults.no_sockets = True
    async with EmbeddedComfy(faults=faults) as broken, EmbeddedComfy() as well:
        assert broken.faults is faults
        async with client_of(well.url) as client:
            await client.run(tiny())
        with pytest.raises(aiohttp.WSServerHandshakeError):
            async with client_of(broken.url):
                pass
