"""Two holders on one ComfyServer, each with an unmodified client of ComfyUI (R2, R4, R5, R7)."""

import asyncio
import json
import logging
import math
import struct
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from jupyter_comfy_lock.domain.inputs import InputFile
from jupyter_comfy_lock.domain.lock import ComfyId
from jupyter_comfy_lock.store.stores import open_stores
from tests.server import graphs
from tests.server.conftest import SECRET
from tests.server.world import Kernel, World, until

PNG = b"\x89PNG\r\n\x1a\n"


async def two(world: World) -> tuple[Kernel, Kernel]:
    """Two kernels that share gpu-1."""
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    await a.lock("gpu-1")
    await b.lock("gpu-1")
    return a, b


async def ids(kernel: Kernel, path: str) -> set[str]:
    shown = (await kernel.comfy("GET", path)).json()
    if path.endswith("queue"):
        return {item[1] for items in shown.values() for item in items}
    if path.endswith("jobs"):
        return {job["id"] for job in shown["jobs"]}
    return set(shown)


@asynccontextmanager
async def a_runs_b_waits(world: World):
    """Three prompts: A's that runs, B's and A's that wait behind it."""
    a, b = await two(world)
    running = await a.prompt(graphs.steps(400))
    await a.task_in(running, "running")
    others = await b.prompt(graphs.picture())
    waiting = await a.prompt(graphs.picture())
    yield a, b, running, others, waiting
    await a.comfy("POST", "interrupt", json={})


# -- what is seen --------------------------------------------------------------------------------


@pytest.mark.complaint(15)
@pytest.mark.parametrize("prefix", ["", "api/"])
async def test_each_sees_its_own_queue_history_and_jobs(world: World, prefix: str):
    async with a_runs_b_waits(world) as (a, b, running, others, waiting):
        assert await ids(a, f"{prefix}queue") == {running, waiting}
        assert await ids(b, f"{prefix}queue") == {others}
        assert (await a.comfy("GET", f"{prefix}prompt")).json()["exec_info"] == {
            "queue_remaining": 2
        }
        assert (await b.comfy("GET", f"{prefix}prompt")).json()["exec_info"] == {
            "queue_remaining": 1
        }
        assert await ids(a, "api/jobs") == {running, waiting}
        assert await ids(b, "api/jobs") == {others}
        await a.comfy("POST", "interrupt", json={"prompt_id": running})
        await b.ended(others)
        await a.ended(waiting)
        assert await ids(a, f"{prefix}history") == {running, waiting}
        assert await ids(b, f"{prefix}history") == {others}
        assert set((await a.comfy("GET", f"{prefix}history/{waiting}")).json()) == {waiting}
        assert (await a.comfy("GET", f"{prefix}history/{others}")).json() == {}
        assert (await a.comfy("GET", f"api/jobs/{others}")).status == 404
        assert (await a.comfy("GET", f"api/jobs/{waiting}")).json()["status"] == "completed"


async def test_history_and_jobs_are_paged_over_my_own(world: World):
    a, b = await two(world)
    mine = []
    for number in range(5):
        kernel = a if number % 2 == 0 else b
        task_id = await kernel.prompt(graphs.picture())
        await kernel.ended(task_id)
        if kernel is a:
            mine.append(task_id)
    page = (await a.comfy("GET", "history?max_items=2")).json()
    assert list(page) == mine[1:]
    assert list((await a.comfy("GET", "history?max_items=1&offset=0")).json()) == mine[:1]
    jobs = (await a.comfy("GET", "api/jobs?limit=2&offset=1&sort_order=asc")).json()
    assert [x["id"] for x in jobs["jobs"]] == mine[1:]
    assert jobs["pagination"] == {"offset": 1, "limit": 2, "total": 3, "has_more": False}


async def test_system_stats_tell_no_command_line(world: World):
    a, _ = await two(world)
    for path in ("system_stats", "api/system_stats"):
        stats = (await a.comfy("GET", path)).json()
        assert stats["system"]["argv"] == []
        assert stats["system"]["comfyui_version"] == "0.33.0"


async def test_harmless_calls_pass_and_reach_comfyui_without_the_callers_headers(world: World):
    a, _ = await two(world)
    answer = await a.comfy(
        "GET",
        "object_info/SaveImage",
        headers={"Cookie": "x=y", "Origin": "http://evil", "Sec-Fetch-Site": "cross-site"},
    )
    assert "SaveImage" in answer.json()
    seen = next(x for x in world.gpu.calls if x.path == "/object_info/SaveImage")
    assert seen.headers["X-Pass"] == SECRET
    assert not {"Cookie", "Origin", "Sec-Fetch-Site", "Authorization"} & set(seen.headers)


@pytest.mark.parametrize(
    "path",
    [
        "internal/logs",
        "api/internal/logs",
        "api/assets",
        "scripts/../queue",
        "scripts/%2e%2e/queue",
        "scripts%2F..%2Fqueue",
        "./queue",
        "api/api/jobs",
        "api/api/queue",
    ],
)
async def test_what_shows_everybodys_business_is_refused_even_to_an_exclusive_holder(
    world: World, path: str
):
    kernel = await world.kernel()
    await kernel.lock("gpu-1", "exclusive")
    answer = await kernel.comfy("GET", path)
    assert answer.code == (403, "not_yours")
    paths = [x.path for x in world.gpu.calls]
    assert set(paths) <= {"/ws", "/system_stats", "/prompt", "/queue"}
    # The grant of an exclusive lock looks at it.
    assert paths.count("/queue") == 1


@pytest.mark.parametrize("path", ["queue%3F.js", "queue%23.js", "queue#.js", "history%3F.json"])
async def test_a_disguised_path_reaches_nothing(world: World, path: str):
    async with a_runs_b_waits(world) as (a, _, _, others, _):
        host, _, rest = a.base.removeprefix("http://").partition("/")
        name, _, port = host.partition(":")
        reader, writer = await asyncio.open_connection(name, int(port))
        line = f"GET /{rest}{a.gateway_path}{path} HTTP/1.1"
        writer.write(f"{line}\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 404")
        assert others.encode() not in answer


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "free"),
        ("POST", "api/free"),
        ("PUT", "anything"),
        ("PATCH", "anything"),
        ("GET", "manager/reboot"),
    ],
)
async def test_what_concerns_everybody_needs_an_exclusive_lock(
    world: World, method: str, path: str
):
    a, b = await two(world)
    shared = await a.comfy(method, path, json={})
    assert shared.code == (403, "not_yours")
    assert "exclusive lock" in shared.json()["message"]
    assert (method, f"/{path}") not in [(x.method, x.path) for x in world.gpu.calls]
    await b.release()
    await a.lock("gpu-1", "exclusive")
    await a.comfy(method, path, json={})
    assert (method, f"/{path}") in [(x.method, x.path) for x in world.gpu.calls]


# -- what is done --------------------------------------------------------------------------------


@pytest.mark.complaint(1)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("queue", {"clear": True}),
        ("api/queue", {"clear": True}),
        ("queue", {"delete": ["mine", "others"]}),
        ("api/jobs/cancel", {"job_ids": ["mine", "others"]}),
        ("api/jobs/mine/cancel", {}),
    ],
)
async def test_what_is_taken_off_the_queue_is_mine(world: World, path: str, body):
    async with a_runs_b_waits(world) as (a, b, running, others, waiting):
        text = json.dumps([path, body]).replace("mine", waiting).replace("others", others)
        path, body = json.loads(text)
        assert (await a.comfy("POST", path, json=body)).status == 200
        assert (await a.ended(waiting))["state"] == "cancelled"
        assert await ids(b, "queue") == {others}
        assert await ids(a, "queue") == {running}
        await a.comfy("POST", "interrupt", json={"prompt_id": running})
        assert (await b.ended(others))["state"] == "succeeded"
    assert all("clear" not in x for x in world.gpu.calls.bodies("/queue"))


@pytest.mark.complaint(1)
@pytest.mark.trap("26-global-interrupt-hits-any-client")
@pytest.mark.parametrize(
    "body", ["", "{}", '{"prompt_id": null}', '{"prompt_id": "mine"}', '{"prompt_id": "others"}']
)
@pytest.mark.parametrize("path", ["interrupt", "api/interrupt"])
async def test_an_interrupt_stops_what_is_mine_and_never_what_is_not(
    world: World, path: str, body: str
):
    a, b = await two(world)
    others = await b.prompt(graphs.steps(400))
    await b.task_in(others, "running")
    waiting = await a.prompt(graphs.steps(400))
    body = body.replace("mine", waiting).replace("others", others)
    # A's prompt waits: there is nothing of A's to interrupt.
    assert (await a.comfy("POST", path, data=body)).status == 200
    assert (await b.get(f"tasks/{others}"))["state"] == "running"
    assert (await a.get(f"tasks/{waiting}"))["state"] == "queued"
    await b.comfy("POST", path, data="")
    assert (await b.ended(others))["state"] == "cancelled"
    await a.task_in(waiting, "running")
    assert (await a.comfy("POST", path, data="")).status == 200
    assert (await a.ended(waiting))["state"] == "cancelled"
    assert all(x.get("prompt_id") for x in world.gpu.calls.bodies("/interrupt"))


async def test_an_interrupt_by_name_stops_that_prompt_alone(world: World):
    a, b = await two(world)
    mine = await a.prompt(graphs.steps(400))
    await a.task_in(mine, "running")
    others = await b.prompt(graphs.picture())
    before = len(world.gpu.calls.writes())
    for prompt_id in (others, str(uuid4()), 7, [mine], ""):
        assert (await a.comfy("POST", "interrupt", json={"prompt_id": prompt_id})).status == 200
    assert len(world.gpu.calls.writes()) == before
    await a.comfy("POST", "interrupt", json={"prompt_id": mine})
    assert (await a.ended(mine))["state"] == "cancelled"
    assert (await b.ended(others))["state"] == "succeeded"


async def test_a_malformed_interrupt_is_refused_and_stops_nobody(world: World):
    a, b = await two(world)
    others = await b.prompt(graphs.steps(400))
    await b.task_in(others, "running")
    for body in ("{", "[]", '"x"'):
        assert (await a.comfy("POST", "interrupt", data=body)).status == 400
    assert (await b.get(f"tasks/{others}"))["state"] == "running"
    await b.cancel(others)
    await b.ended(others)


async def test_clearing_the_history_clears_mine(world: World):
    a, b = await two(world)
    mine, others = await a.prompt(graphs.picture()), await b.prompt(graphs.picture())
    await a.ended(mine)
    await b.ended(others)
    await a.comfy("POST", "history", json={"delete": [others]})
    assert await ids(b, "history") == {others}
    await a.comfy("POST", "history", json={"clear": True})
    assert await ids(a, "history") == set()
    assert await ids(b, "history") == {others}
    # Our own record of it stays, and so do its files.
    files = (await a.get(f"tasks/{mine}"))["files"]
    assert (await a.raw("GET", files[0]["path"])).status == 200


@pytest.mark.trap("99-duplicate-id-and-number-kills-worker")
async def test_neither_number_nor_front_overtakes_others(world: World):
    a, b = await two(world)
    running = await b.prompt(graphs.steps(400))
    await b.task_in(running, "running")
    first = await b.prompt(graphs.picture())
    for more in ({"front": True}, {"number": -5}, {"number": 0.5, "front": True}):
        await a.prompt(graphs.picture(), **more)
    sent = world.gpu.calls.bodies("/prompt")
    assert all("front" not in x and "number" not in x for x in sent)
    await b.cancel(running)
    await b.ended(first)
    history = (await _direct(world, "GET", "/history")).keys()
    assert list(history)[:2] == [running, first]


async def _direct(world: World, method: str, path: str, **options):
    """Ask gpu-1 itself."""
    async with world.session.request(method, world.gpu.url + path, **options) as response:
        return await response.json(content_type=None)


# -- submitting ----------------------------------------------------------------------------------


async def test_nothing_is_sent_without_a_lock(world: World):
    kernel = await world.kernel("a.ipynb")
    answer = await kernel.comfy("POST", "prompt", json={"prompt": graphs.picture()})
    assert answer.code == (409, "no_lock")
    assert "a.ipynb" in answer.json()["error"]["message"]
    for method, path in [("GET", "queue"), ("GET", "object_info"), ("POST", "interrupt")]:
        assert (await kernel.comfy(method, path)).code == (409, "no_lock")
    assert world.gpu.calls.writes() == []
    assert (await kernel.get("tasks"))["tasks"] == []


@pytest.mark.trap("99-duplicate-id-and-number-kills-worker")
async def test_the_clients_own_prompt_id_is_honoured_and_works_once(world: World):
    a, b = await two(world)
    prompt_id = str(uuid4())
    assert await a.prompt(graphs.picture(), prompt_id=prompt_id) == prompt_id
    assert (await a.ended(prompt_id))["state"] == "succeeded"
    for kernel in (a, b):
        answer = await kernel.comfy(
            "POST", "prompt", json={"prompt": graphs.picture(), "prompt_id": prompt_id}
        )
        assert answer.code == (400, "bad_request")
    assert len(world.gpu.calls.bodies("/prompt")) == 1


@pytest.mark.trap("17-foreign-client-id")
async def test_client_id_and_our_own_mark_cannot_be_given_by_the_client(world: World):
    a, _ = await two(world)
    mark = {"jupyter_comfy_lock": {"holder_id": "somebody", "fence": 0}, "other": 1}
    await a.prompt(graphs.picture(), client_id="stolen", extra_data=mark)
    (sent,) = world.gpu.calls.bodies("/prompt")
    assert sent["client_id"] != "stolen"
    assert sent["extra_data"]["jupyter_comfy_lock"]["holder_id"] == a.holder_id
    assert sent["extra_data"]["other"] == 1


async def test_a_refused_prompt_is_answered_as_comfyui_does(world: World):
    a, _ = await two(world)
    prompt = {"prompt": {"1": {"class_type": "SaveImage", "inputs": {}}}}
    answer = await a.comfy("POST", "prompt", json=prompt)
    direct = await _direct(world, "POST", "/prompt", json=prompt)
    assert answer.status == 400
    assert answer.json() == direct


# -- files ---------------------------------------------------------------------------------------


def view(file, **more) -> str:
    query = {"filename": file["filename"], "subfolder": file["subfolder"], "type": file["type"]}
    return "view?" + "&".join(f"{k}={v}" for k, v in {**query, **more}.items())


async def saved(kernel: Kernel, prompt) -> dict[str, str]:
    task = await kernel.ended(await kernel.prompt(prompt))
    return dict(task["files"][0])


@pytest.mark.complaint(15)
@pytest.mark.parametrize("prefix", ["", "api/"])
async def test_my_output_is_served_and_others_are_as_if_they_were_not(world: World, prefix: str):
    a, b = await two(world)
    mine, others = await saved(a, graphs.picture(prefix="a")), await saved(b, graphs.picture())
    answer = await a.comfy("GET", prefix + view(mine))
    assert (answer.status, answer.body[:8]) == (200, PNG)
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    head = await a.comfy("HEAD", prefix + view(mine))
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["Content-Length"]) == len(answer.body)
    part = await a.comfy("GET", prefix + view(mine), headers={"Range": "bytes=1-3"})
    assert (part.status, part.body) == (206, b"PNG")
    small = await a.comfy("GET", prefix + view(mine, preview="jpeg"))
    assert small.headers["Content-Type"] == "image/jpeg"
    assert (await a.comfy("GET", prefix + view(others))).status == 404


async def test_no_trick_with_the_query_shows_others_output(world: World):
    a, b = await two(world)
    others, mine = await saved(b, graphs.picture(prefix="b")), await saved(a, graphs.picture())
    name = others["filename"]
    for query in (
        f"filename={name}",
        f"filename={name}&type=temp",
        f"filename={name}%20[output]&type=input",
        f"filename={name}%20%5Boutput%5D&type=input&subfolder=",
        f"type=output&type=input&filename={name}",
        f"filename={name}&filename={mine['filename']}&type=output",
        f"filename=../output/{name}&type=input",
        f"filename={name}&subfolder=../output&type=input",
        f"filename={name}&subfolder=%2e%2e/output&type=input",
    ):
        answer = await a.comfy("GET", f"view?{query}")
        assert answer.body[:8] != PNG or query.startswith(f"filename={name}&filename="), query
        if answer.status == 200:
            own = await a.comfy("GET", view(mine))
            assert answer.body == own.body, query


async def upload(kernel: Kernel, name: str, data: bytes, path: str = "upload/image", **fields):
    form = aiohttp.FormData()
    form.add_field("image", data, filename=name)
    for key, value in fields.items():
        form.add_field(key, value)
    return await kernel.comfy("POST", path, data=form)


async def test_my_upload_overwrites_nobodys_and_nobody_else_can_read_it(world: World):
    a, b = await two(world)
    theirs = (await upload(b, "cat.png", b"theirs")).json()
    assert theirs["name"] == "cat.png"
    mine = (await upload(a, "cat.png", b"mine!", overwrite="true", type="output")).json()
    assert mine["name"] != "cat.png"
    assert mine["type"] == "input"
    query = "view?type=input&subfolder=&filename="
    assert (await b.comfy("GET", query + "cat.png")).body == b"theirs"
    assert (await a.comfy("GET", query + mine["name"].replace(" ", "%20"))).body == b"mine!"
    assert (await upload(a, "CAT.png", b"mine too")).json()["name"] == "CAT.png"
    assert (await a.comfy("GET", query + "CAT.png")).body == b"mine too"
    for trick in ("cat.png", "./cat.png", "x/cat.png", "cat.png%20[input]", "Cat.png"):
        assert (await a.comfy("GET", query + trick)).status == 404
    for folder in (".", "./", "x/.."):
        asked = await a.comfy("GET", f"view?type=input&subfolder={folder}&filename=cat.png")
        assert asked.status == 404


def loading(name: str) -> dict[str, Any]:
    """A prompt that shows a picture that is there."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


async def test_the_same_bytes_under_the_same_name_are_both_kernels(world: World):
    a, b = await two(world)
    picture = (await a.comfy("GET", view(await saved(a, graphs.picture())))).body
    for kernel in (b, a):
        assert (await upload(kernel, "cat.png", picture)).json()["name"] == "cat.png"
    for kernel in (a, b):
        assert (await kernel.comfy("GET", "view?type=input&filename=cat.png")).status == 200
        task_id = await kernel.submit(loading("cat.png"))
        assert (await kernel.ended(task_id))["state"] == "succeeded"


async def test_r4_a_prompt_loads_no_file_of_another_kernel(world: World):
    a, b = await two(world)
    theirs = await saved(b, graphs.picture(prefix="b"))
    picture = (await b.comfy("GET", view(theirs))).body
    await upload(b, "cat.png", picture)
    for name in ("cat.png", "CAT.png", "cat.png [input]", f"{theirs['filename']} [output]"):
        for answer in (
            await a.call("POST", "tasks", json={"prompt": loading(name)}),
            await a.comfy("POST", "prompt", json={"prompt": loading(name)}),
        ):
            assert answer.code == (403, "not_yours")
            assert name in answer.json()["message"]
    assert (await a.get("tasks"))["tasks"][1:] == []
    for name in ("cat.png", f"{theirs['filename']} [output]"):
        assert (await b.ended(await b.submit(loading(name))))["state"] == "succeeded"


async def test_r4_what_was_uploaded_is_private_also_after_a_restart_of_the_jupyter_server(
    world: World,
):
    a, b = await two(world)
    await upload(b, "cat.png", b"theirs")
    # Nothing of it is in this process alone.
    stores = open_stores(world.app.place, ttl_s=30.0)
    file = InputFile("", "cat.png")
    kernel_id = world.holder(a).kernel_id
    assert await stores.uploads.others(ComfyId("gpu-1"), [file], kernel_id) == {file}
    assert await stores.uploads.others(ComfyId("gpu-2"), [file], kernel_id) == set()
    mine = world.holder(b).kernel_id
    assert await stores.uploads.others(ComfyId("gpu-1"), [file], mine) == set()
    await stores.database.close()


async def test_an_upload_goes_to_a_folder_of_inputs_and_nowhere_else(world: World):
    a, b = await two(world)
    answer = await upload(b, "cat.png", b"theirs", subfolder="pets")
    assert answer.json()["subfolder"] == "pets"
    assert (await b.comfy("GET", "view?type=input&subfolder=pets&filename=cat.png")).status == 200
    assert (await a.comfy("GET", "view?type=input&subfolder=pets&filename=cat.png")).status == 404
    assert (await upload(b, "cat.png", b"x", subfolder="../output")).status >= 400


async def test_a_mask_is_for_a_picture_of_ones_own(world: World):
    a, b = await two(world)
    others, mine = await saved(b, graphs.picture(prefix="b")), await saved(a, graphs.picture())
    picture = (await a.comfy("GET", view(mine))).body
    for path in ("upload/mask", "api/upload/mask"):
        stolen = await upload(a, "m.png", picture, path, original_ref=json.dumps(others))
        assert stolen.status == 404
        odd = await upload(a, "m.png", picture, path, original_ref="[1]")
        assert odd.status == 404
    answer = await upload(a, "m.png", picture, "upload/mask", original_ref=json.dumps(mine))
    assert answer.status == 200, answer.body


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Type": "application/json"}, b"{}"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"no form at all"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--x--\r\n"),
        ({"Content-Type": "multipart/form-data"}, b"--x--\r\n"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b""),
    ],
)
async def test_an_upload_that_is_none_is_a_bad_request(world: World, headers, body):
    a, _ = await two(world)
    answer = await a.comfy("POST", "upload/image", data=body, headers=headers)
    assert answer.status == 400


async def test_a_large_upload_and_a_large_result_are_whole(world: World):
    a, _ = await two(world)
    data = bytes(range(256)) * 40_000
    name = (await upload(a, "big.bin", data)).json()["name"]
    assert (await a.comfy("GET", f"view?type=input&filename={name}")).body == data


# -- home address --------------------------------------------------------------------------------


@pytest.mark.complaint(4)
async def test_a_result_comes_from_the_server_that_made_it_wherever_the_kernel_is_now(
    world: World,
):
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    first = await kernel.ended(await kernel.submit(graphs.picture(0xFF0000, prefix="same")))
    await kernel.lock("gpu-2")
    second = await kernel.ended(await kernel.submit(graphs.picture(0x0000FF, prefix="same")))
    one, two_ = first["files"][0], second["files"][0]
    assert one["filename"] == two_["filename"]

    async def body(path: str) -> bytes:
        return (await kernel.raw("GET", path)).body

    red, blue = await body(one["path"]), await body(two_["path"])
    assert red != blue
    await kernel.release()
    assert await body(one["path"]) == red
    assert await body(two_["path"]) == blue
    for task, comfy_id in ((first, "gpu-1"), (second, "gpu-2")):
        entry = (await kernel.comfy("GET", f"history/{task['task_id']}")).json()
        assert task["lock"]["comfy_id"] == comfy_id
        assert list(entry) == [task["task_id"]]


# -- sockets -------------------------------------------------------------------------------------


@pytest.mark.trap("16-two-clients")
async def test_a_client_hears_its_own_runs_whole_and_nothing_of_others(world: World):
    a, b = await two(world)
    async with a.socket("?clientId=mine") as hears, b.socket() as other:
        first = await hears.until(lambda x: x["type"] == "status")
        assert first["data"]["sid"] == "mine"
        theirs = await b.prompt(graphs.steps(3, delay=0.02, preview=True))
        await other.end_of(theirs)
        mine = await a.prompt(graphs.steps(3, delay=0.02))
        await hears.end_of(mine)
        named = {x["data"]["prompt_id"] for x in hears.texts() if "prompt_id" in x["data"]}
        assert named == {mine}
        kinds = [x["type"] for x in hears.texts() if x["type"] != "status"]
        assert kinds[0] == "execution_start"
        assert {"execution_cached", "executing", "progress", "executed"} <= set(kinds)
        assert kinds[-2:] == ["execution_success", "executing"]
        counts = [
            x["data"]["status"]["exec_info"]["queue_remaining"]
            for x in hears.texts()
            if x["type"] == "status"
        ]
        assert max(counts) <= 1
        assert hears.binaries() == []


@pytest.mark.trap("16-two-clients")
async def test_a_broadcast_that_names_nobody_reaches_only_who_runs(world: World):
    a, b = await two(world)
    async with a.socket() as hears, b.socket() as other:
        # A's prompt is over for ComfyUI, but what came of it is not known yet when B's runs.
        world.gpu.faults.history_late_s = math.inf
        mine = await a.prompt(graphs.says("of a"))
        await hears.end_of(mine)
        theirs = await b.prompt(graphs.says("of b"))
        await other.end_of(theirs)
        assert (await a.get(f"tasks/{mine}"))["state"] == "running"
        world.gpu.faults.history_late_s = 0.0
        last = await a.prompt(graphs.picture())
        await hears.end_of(last)
        assert [b"of a" in x for x in hears.binaries()] == [True]
        assert [b"of b" in x for x in other.binaries()] == [True]


@pytest.mark.parametrize("knows", [True, False])
async def test_previews_come_in_the_form_that_the_client_knows(world: World, knows: bool):
    a, _ = await two(world)
    async with a.socket() as hears:
        if knows:
            flags = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
            await hears.socket.send_json(flags)
            await hears.until(lambda x: isinstance(x, dict) and x["type"] == "feature_flags")
        mine = await a.prompt(graphs.steps(3, delay=0.02, preview=True))
        await hears.end_of(mine)
        events = {struct.unpack(">I", x[:4])[0] for x in hears.binaries()}
        assert events == ({4} if knows else {1})
        if not knows:
            assert struct.unpack(">I", hears.binaries()[0][4:8])[0] in (1, 2)


@pytest.mark.trap("20-two-sockets-same-client-id")
async def test_many_local_sockets_are_one_to_comfyui(world: World):
    a, _ = await two(world)
    async with a.socket() as one, a.socket("?clientId=x") as other:
        mine = await a.prompt(graphs.picture())
        await one.end_of(mine)
        await other.end_of(mine)
    await until(lambda: len(world.gpu.calls.to("/ws")) == 2)  # B's too


@pytest.mark.parametrize("how", ["released", "moved", "left"])
async def test_a_socket_is_closed_when_its_lock_is_gone(world: World, how: str):
    a, _ = await two(world)
    async with a.socket() as hears:
        await hears.until(lambda x: x["type"] == "status")
        if how == "released":
            await a.release()
        elif how == "moved":
            await a.lock("gpu-2")
        else:
            await a.call("DELETE", "holders/me")
        assert await hears.close_code() == 4001


async def test_no_socket_opens_without_a_lock_and_asking_again_fills_no_log(
    world: World, caplog: pytest.LogCaptureFixture
):
    kernel = await world.kernel()
    caplog.clear()
    for left, status in ((False, 409), (True, 403)):
        if left:
            await kernel.call("DELETE", "holders/me")
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with kernel.socket():
                pass
        assert refused.value.status == status
    loud = [each.getMessage() for each in caplog.records if each.levelno > logging.DEBUG]
    assert not [each for each in loud if "/ws" in each]
    assert kernel.gateway_key not in caplog.text


# -- ends ----------------------------------------------------------------------------------------


async def test_the_credential_of_an_ended_holder_is_refused(world: World):
    a, _ = await two(world)
    await a.call("DELETE", "holders/me")
    big = b"x" * 200_000
    for method, path, body in [
        ("GET", "queue", None),
        ("POST", "prompt", b"{}"),
        ("POST", "prompt", big),
        ("POST", "upload/image", big),
    ]:
        answer = await a.comfy(method, path, data=body)
        assert answer.code == (403, "unknown_holder")
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with a.socket():
            pass
    assert refused.value.status == 403
    assert (await a.call("GET", "tasks")).code == (403, "unknown_holder")


async def test_nothing_goes_out_on_a_lease_that_may_be_over(world: World):
    a, _ = await two(world)
    async with a.socket() as hears:
        await hears.until(lambda x: x["type"] == "status")
        world.let_time_pass(1000)
        before = len(world.gpu.calls.to("/queue"))
        answer = await a.comfy("GET", "queue")
        assert answer.code == (409, "stale_lock")
        assert "could not renew" in answer.json()["message"]
        assert (await a.call("POST", "tasks", json={"prompt": graphs.picture()})).code == (
            409,
            "stale_lock",
        )
        assert world.gpu.calls.bodies("/prompt") == []
        assert len(world.gpu.calls.to("/queue")) == before
        # The next frame, whosever, finds the lease over.
        await _direct(world, "POST", "/prompt", json={"prompt": graphs.picture()})
        assert await hears.close_code() == 4001


async def test_a_lost_lease_is_told_once_and_a_new_lock_works(world: World):
    a, _ = await two(world)
    await world.lose_the_lease()
    await world.renew()
    assert (await a.comfy("GET", "queue")).code == (409, "stale_lock")
    assert (await a.comfy("GET", "queue")).code == (409, "no_lock")
    await a.heard.until(lambda: a.heard.of("lock") and a.heard.of("lock")[-1]["lock"] is None)
    await a.lock("gpu-1")
    assert (await a.comfy("GET", "queue")).status == 200


async def test_a_lock_asked_for_on_a_lease_that_is_over_is_one_that_lasts(world: World):
    kernel = await world.kernel()
    await world.lose_the_lease()
    lock = await kernel.lock("gpu-1", "exclusive")
    await world.renew()
    assert (await kernel.get("locks"))["locks"] == [lock]
    assert (await kernel.comfy("GET", "queue")).status == 200


@pytest.mark.complaint(2)
async def test_looking_and_letting_go_send_nothing_that_changes_a_server(world: World):
    a, b = await two(world)
    async with a.socket():
        for path in ("queue", "history", "api/jobs", "prompt", "object_info", "system_stats"):
            await a.comfy("GET", path)
    for path in ("pool", "locks", "tasks"):
        await a.get(path)
        await world.user.get(path)
    async with world.user.events() as events:
        await events.until(lambda: events.of("snapshot"))
    await a.lock("gpu-2")
    await a.release()
    await b.call("DELETE", "holders/me")
    await until(lambda: len(world.app._registry.all()) == 1)
    assert world.comfies["gpu-1"].calls.writes() == []
    assert world.comfies["gpu-2"].calls.writes() == []
