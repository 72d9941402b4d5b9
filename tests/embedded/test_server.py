"""Starting, stopping, and the routes that no recording covers."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import signal
import subprocess
import sys
import time

import aiohttp
import pytest
from aiohttp import web
from PIL import Image

from jupyter_comfy_lock.embedded import EmbeddedComfy, load_nodes
from tests.comfy_servers import ROOT
from tests.embedded.client import client_of, node, picture, save, steps
from tests.embedded_trace_nodes import NODES

pytestmark = pytest.mark.asyncio


def upload(content, name="a.png", **fields):
    form = aiohttp.FormData(fields)
    form.add_field("image", content, filename=name)
    return {"data": form}


def png(colour, mode="RGB"):
    buffer = io.BytesIO()
    Image.new(mode, (4, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


async def test_it_says_what_it_is(client):
    _, stats = await client.get("/system_stats")
    assert stats["system"]["comfyui_version"] == "0.33.0"
    assert stats["system"]["embedded_server"]["implementation"] == "jupyter_comfy_lock"
    status, page = await client.get("/")
    assert status == 200
    assert "it is not ComfyUI" in page.decode()


async def test_the_page_shows_names_as_text(tmp_path):
    async with EmbeddedComfy("<script>x") as comfy, client_of(comfy.url) as client:
        _, page = await client.get("/")
    assert b"<script>" not in page
    assert b"&lt;script&gt;x" in page


async def test_every_node_is_described(client):
    _, info = await client.get("/object_info")
    assert {"DemoSampler", "ImageBlend", "TrSteps"} <= info.keys()
    assert info["DemoSampler"]["display_name"] == "Demo Sampler (no model)"
    for described in info.values():
        for group, names in described["input_order"].items():
            assert names == list(described["input"][group])


async def test_an_upload_can_be_chosen_at_once(client):
    await client.post("/upload/image", **upload(png((1, 2, 3)), "new.png"))
    _, info = await client.get("/object_info/LoadImage")
    assert info["LoadImage"]["input"]["required"]["image"][0] == ["new.png"]


@pytest.mark.parametrize("subfolder", ["/etc", "..", "a/../.."])
async def test_an_upload_must_stay_in_its_folder(client, subfolder):
    status, _ = await client.post("/upload/image", **upload(b"x", subfolder=subfolder))
    assert status == 400


async def test_a_mask_upload_takes_its_alpha_from_the_drawing(client):
    await client.post("/upload/image", **upload(png((9, 9, 9)), "base.png"))
    reference = json.dumps({"filename": "base.png", "type": "input"})
    drawing = upload(png((0, 0, 0, 40), "RGBA"), "masked.png", original_ref=reference)
    status, answer = await client.post("/upload/mask", **drawing)
    assert (status, answer["name"]) == (200, "masked.png")
    _, content = await client.get("/view?filename=masked.png&type=input")
    with Image.open(io.BytesIO(content)) as image:
        assert image.getpixel((0, 0)) == (9, 9, 9, 40)


@pytest.mark.parametrize("name", ["x.svg", "x.html", "x.js", "x.xml"])
async def test_what_a_browser_would_run_is_only_offered_to_be_saved(client, name):
    await client.post("/upload/image", **upload(b"<script>1</script>", name))
    async with client.session.get(f"{client.url}/view?filename={name}&type=input") as response:
        assert response.headers["Content-Disposition"] == f'attachment; filename="{name}"'
        assert response.content_type == "application/octet-stream"


async def test_a_file_that_did_not_change_is_not_sent_again(client):
    entry, _ = await client.run({"1": picture(), "2": save("1")})
    where = {"params": entry["outputs"]["2"]["images"][0]}
    async with client.session.get(f"{client.url}/view", **where) as response:
        etag = response.headers["Etag"]
    status, _ = await client.get("/view", headers={"If-None-Match": etag}, **where)
    assert status == 304


async def test_settings_last_as_long_as_the_server(client):
    await client.post("/settings", {"a": 1})
    await client.post("/api/settings/b", [2])
    assert await client.get("/settings") == (200, {"a": 1, "b": [2]})
    assert await client.get("/settings/b") == (200, [2])


async def test_too_large_a_body_is_refused():
    async with EmbeddedComfy(max_body_bytes=1000) as comfy, client_of(comfy.url) as client:
        status, text = await client.post("/prompt", {"prompt": "x" * 2000})
        assert status == 413
        assert b"1000" in text
        assert (await client.get("/features"))[1]["max_upload_size"] == 1000


async def test_middlewares_see_every_request():
    seen = []

    @web.middleware
    async def watch(request, handler):
        seen.append(request.path)
        if request.path == "/queue":
            return web.Response(status=503)
        return await handler(request)

    async with EmbeddedComfy(middlewares=[watch]) as comfy, client_of(comfy.url) as client:
        status, _ = await client.get("/queue")
        assert status == 503
        assert (await client.get("/prompt"))[0] == 200
    assert seen == ["/ws", "/queue", "/prompt"]


async def test_previews_are_gone_when_the_server_stops_and_saved_pictures_stay(tmp_path):
    async with EmbeddedComfy(base_directory=tmp_path) as comfy, client_of(comfy.url) as client:
        preview = node("PreviewImage", images=["1", 0])
        await client.run({"1": picture(), "2": save("1"), "3": preview})
        assert len(list((tmp_path / "temp").iterdir())) == 1
    assert not (tmp_path / "temp").exists()
    assert len(list((tmp_path / "output").iterdir())) == 1


async def test_stopping_interrupts_what_runs_and_closes_sockets():
    async with contextlib.AsyncExitStack() as stack:
        comfy = EmbeddedComfy(nodes=NODES)
        await comfy.start()
        client = await stack.enter_async_context(client_of(comfy.url))
        await client.submit({"1": steps(100_000, 0.01), "2": save("1")})
        await client.until("progress")
        started = time.monotonic()
        await comfy.stop()
        assert time.monotonic() - started < 4
        with pytest.raises(AssertionError, match="closed before"):
            await client.until("never")
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.get("/prompt")


async def test_a_stopped_server_can_start_again():
    comfy = EmbeddedComfy()
    for _ in range(2):
        async with comfy, client_of(comfy.url) as client:
            entry, _ = await client.run({"1": picture(), "2": save("1")})
            assert entry["status"]["completed"]


async def test_a_taken_port_is_an_error_and_leaves_nothing_behind(comfy):
    other = EmbeddedComfy(port=comfy.port)
    with pytest.raises(OSError, match="address already in use"):
        await other.start()
    await other.stop()


async def test_a_client_that_does_not_read_does_not_hold_up_the_end():
    async with EmbeddedComfy(nodes=NODES) as comfy:
        reader, writer = await asyncio.open_connection(comfy.host, comfy.port)
        writer.write(
            b"GET /ws?clientId=deaf HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        reader._transport.pause_reading()
        async with aiohttp.ClientSession() as session:
            # Some 10 MB of previews: more than the buffers on the way can hold.
            size = {"width": 512, "height": 512, "delay": 0}
            sampler = node("DemoSampler", seed=1, steps=150, prompt="", **size)
            body = {"prompt": {"1": sampler, "2": save("1")}, "client_id": "deaf"}
            async with session.post(f"{comfy.url}/prompt", json=body) as response:
                prompt_id = (await response.json())["prompt_id"]
            async with asyncio.timeout(20):
                history = {}
                while not history:  # no event can be waited for: the client is deaf
                    await asyncio.sleep(0.05)
                    async with session.get(f"{comfy.url}/history/{prompt_id}") as response:
                        history = await response.json()
        started = time.monotonic()
    assert time.monotonic() - started < 4
    writer.close()


async def test_a_module_without_nodes_is_named():
    with pytest.raises(ImportError, match=r"'json' has no NODES"):
        load_nodes(["json"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_serve_announces_itself_and_ends_on_a_signal(tmp_path, number):
    code = (
        "from jupyter_comfy_lock.embedded import serve\n"
        "serve('gpu-1', '127.0.0.1', 0, 'base', ['tests.embedded_trace_nodes'])"
    )
    process = subprocess.Popen(  # noqa: ASYNC220 - short, and the test is about the process
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        text=True,
    )
    name, url = (await asyncio.to_thread(process.stdout.readline)).split()
    assert name == "gpu-1"
    async with client_of(url) as client:
        assert "TrSteps" in (await client.get("/object_info"))[1]
        process.send_signal(number)
        rest = await asyncio.to_thread(process.communicate, timeout=10)
    assert (process.returncode, rest) == (0, ("", ""))
    assert (tmp_path / "base" / "output").is_dir()
    assert not (tmp_path / "base" / "temp").exists()
