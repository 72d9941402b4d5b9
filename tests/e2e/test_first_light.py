"""The whole path: two notebooks, two ComfyServers, pictures, and what is refused on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.comfy import endless_workflow, running, steps_workflow
from tests.e2e.jupyter import CellFailed, Jupyter, Kernel, running_jupyter, until

pytestmark = pytest.mark.timeout(300)

RED, BLUE = (255, 0, 0), (0, 0, 255)
TINY_PROMPTS = 300


@dataclass(frozen=True)
class Place:
    """A Jupyter server with two ComfyServers, and two notebooks."""

    jupyter: Jupyter
    urls: Mapping[str, str]
    one: Kernel
    two: Kernel


@pytest.fixture(scope="module")
def the_place(
    comfy_pool: Sequence[Mapping[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    with running_jupyter(comfy_pool, folder=tmp_path_factory.mktemp("jupyter")) as jupyter:
        one, two = jupyter.kernel("one.ipynb"), jupyter.kernel("two.ipynb")
        for kernel in (one, two):
            kernel.run("import jupyter_comfy_lock as comfy")
        urls = {comfy["id"]: comfy["url"] for comfy in comfy_pool}
        yield Place(jupyter, urls, one, two)


@pytest.fixture
def place(the_place: Place) -> Iterator[Place]:
    """The place, and no task or lock is left in it afterwards."""
    yield the_place
    for kernel in (the_place.one, the_place.two):
        kernel.run("for each in comfy.tasks():\n    each.ended or each.cancel()\ncomfy.release()")
    until(
        lambda: all(task["ended_at"] for task in the_place.jupyter.get("tasks")["tasks"]),
        within_s=20,
        what="the end of all tasks",
    )


def picture(colour: tuple[int, int, int], *, width: int = 64) -> dict[str, Any]:
    """A prompt that makes a picture in one colour out of its opposite."""
    red, green, blue = (255 - part for part in colour)
    size = {"width": width, "height": 32, "batch_size": 1}
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"color": red << 16 | green << 8 | blue, **size},
        },
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "e2e"}},
    }


def submit(kernel: Kernel, workflow: Mapping[str, Any]) -> str:
    kernel.run(f"task = comfy.submit({workflow!r})")
    return str(kernel.ask("task.id"))


def refusal(kernel: Kernel, code: str) -> str:
    """What a cell that must not succeed says."""
    with pytest.raises(CellFailed) as caught:
        kernel.run(code)
    return str(caught.value)


LOOK = "[[*image.size, *image.convert('RGB').getpixel((5, 5))] for image in task.images]"


@pytest.mark.complaint(18)
def test_two_notebooks_use_two_comfy_servers_at_the_same_time(place: Place) -> None:
    wanted = [(place.one, "gpu-1", RED), (place.two, "gpu-2", BLUE)]
    long = []
    for kernel, comfy_id, _ in wanted:
        kernel.run(f"comfy.lock({comfy_id!r})")
        long.append(submit(kernel, endless_workflow()))
    until(
        lambda: [running(url) for url in place.urls.values()] == [{each} for each in long],
        within_s=20,
        what="a running prompt on each of two ComfyServers",
    )
    assert {lock["comfy_id"]: lock["name"] for lock in place.jupyter.locks()} == {
        "gpu-1": "one.ipynb",
        "gpu-2": "two.ipynb",
    }
    for kernel, comfy_id, colour in wanted:
        kernel.run("task.cancel()")
        assert "TaskCancelled" in refusal(kernel, "task.wait(20)")
        submit(kernel, picture(colour))
        # One waits and blocks, the other awaits.
        kernel.run("task.wait(30)" if kernel is place.one else "await task")
        assert kernel.ask(LOOK) == [[64, 32, *colour]]
        assert kernel.ask("task.comfy_id") == comfy_id
        kernel.run("assert {each.comfy_id for each in comfy.tasks()} == {task.comfy_id}")


@pytest.mark.complaint(1)
def test_cancelling_stops_my_task_and_not_my_neighbours(place: Place) -> None:
    for kernel in (place.one, place.two):
        kernel.run("comfy.lock('gpu-1')")
    mine = submit(place.one, endless_workflow())
    submit(place.two, steps_workflow(steps=3, delay=0.1))
    until(lambda: mine in running(place.urls["gpu-1"]), within_s=20, what="a running prompt")
    assert "UnknownTask" in refusal(place.two, f"comfy.task({mine!r})")
    place.one.run("task.cancel()")
    assert place.two.ask("str(task.wait(20).state)") == "succeeded"
    assert "TaskCancelled" in refusal(place.one, "await task")


def test_assigning_the_locked_server_locks_and_releases(place: Place) -> None:
    place.one.run("comfy.locked_server = 'gpu-2'")
    assert [lock["comfy_id"] for lock in place.jupyter.locks()] == ["gpu-2"]
    assert place.one.ask("comfy.locked_server") == "gpu-2"
    place.one.run("comfy.locked_server = None")
    assert place.jupyter.locks() == []
    assert place.one.ask("comfy.locked_server") is None
    said = refusal(place.one, "comfy.locked_server = 'gpu-9'")
    assert "gpu-9" in said
    assert "gpu-1, gpu-2" in said


def test_submitting_without_a_lock_takes_the_best_free_comfy_server_and_says_which(
    place: Place,
) -> None:
    place.two.run("comfy.lock('gpu-1', mode='exclusive')")
    said = place.one.run(f"task = comfy.submit({picture(RED)!r})").text
    assert "Locked gpu-2, the best free ComfyServer." in said
    assert place.one.ask("task.wait(30).comfy_id") == "gpu-2"
    refused = refusal(place.one, "comfy.lock('gpu-1')")
    assert "LockRefused" in refused
    assert "two.ipynb" in refused


@pytest.mark.complaint(4)
def test_a_kernel_with_pending_tasks_cannot_move_and_afterwards_it_can(place: Place) -> None:
    place.one.run("comfy.lock('gpu-1')")
    submit(place.one, picture(RED, width=72))
    place.one.run("old = task.wait(30)")
    pending = submit(place.one, endless_workflow())
    said = refusal(place.one, "comfy.lock('gpu-2')")
    assert "ServerConsistencyError" in said
    for fact in ("one.ipynb", "gpu-1", "gpu-2", pending):
        assert fact in said
    place.one.run("task.cancel()")
    assert "TaskCancelled" in refusal(place.one, "task.wait(20)")
    place.one.run("comfy.lock('gpu-2'); task = old; task._images = None")
    # R5: the picture is fetched from where it was made.
    assert place.one.ask(LOOK) == [[72, 32, *RED]]
    assert place.one.ask("[task.comfy_id, comfy.locked_server]") == ["gpu-1", "gpu-2"]


@pytest.mark.complaint(17)
def test_what_tasks_of_earlier_cells_do_is_put_out_in_no_later_one(place: Place) -> None:
    place.one.run("comfy.lock('gpu-1')")
    for name in ("first", "second"):
        place.one.run(f"{name} = comfy.submit({steps_workflow(steps=10, delay=0.1)!r})")
    third = place.one.run("print('third'); second.wait(30); first.wait(30)\nprint('is over')")
    assert (third.text, third.displays) == ("third\nis over\n", [])


#: What ComfyUI's own example of a client does, in a few lines.
BARE_CLIENT = """
import aiohttp, httpx, io, json, uuid
from PIL import Image

async def bare(base, prompt):
    client_id = str(uuid.uuid4())
    told = []
    async with aiohttp.ClientSession() as session, httpx.AsyncClient(base_url=base) as http:
        async with session.ws_connect(f"{base}ws?clientId={client_id}") as ws:
            sent = await http.post("prompt", json={"prompt": prompt, "client_id": client_id})
            prompt_id = sent.raise_for_status().json()["prompt_id"]
            async for message in ws:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    continue
                said = json.loads(message.data)
                told.append(said["type"])
                data = said.get("data", {})
                if said["type"] == "executing" and data.get("node") is None:
                    if data.get("prompt_id") == prompt_id:
                        break
        history = (await http.get(f"history/{prompt_id}")).json()[prompt_id]
        file = history["outputs"]["3"]["images"][0]
        image = Image.open(io.BytesIO((await http.get("view", params=file)).content))
        return {"told": told, "pixel": image.convert("RGB").getpixel((5, 5)), "id": prompt_id}

result = await bare(comfy.url, %r)
"""


def test_any_comfyui_client_works_through_the_url_of_the_kernel(place: Place) -> None:
    place.one.run("comfy.lock('gpu-2')")
    place.one.run(BARE_CLIENT % picture(BLUE, width=80))
    result = place.one.ask("result")
    assert tuple(result["pixel"]) == BLUE
    assert {"status", "execution_start", "executing", "executed"} <= set(result["told"])
    # It is a task like any other.
    task = place.jupyter.task(result["id"])
    assert (task["state"], task["comfy_id"], task["name"]) == ("succeeded", "gpu-2", "one.ipynb")
    assert place.one.ask("comfy.task(result['id']).wait(5).images[0].size") == [80, 32]


def test_the_magics_do_what_the_functions_do(place: Place) -> None:
    place.one.run("%load_ext jupyter_comfy_lock")
    (place.jupyter.server.root / "red.json").write_text(json.dumps(picture(RED)))
    assert "gpu-1" in place.one.run("%comfy servers").text
    assert "Lock(gpu-2, shared)" in place.one.run("%comfy lock gpu-2").text
    assert "gpu-2 (shared" in place.one.run("%comfy status").text
    width = place.one.ask("get_ipython().run_line_magic('comfy', 'run red.json').images[0].width")
    assert width == 64
    assert "Result(gpu-2, 1 picture)" in place.one.run("%comfy run red.json").text
    line = "x = %comfy run red.json wi"
    reply = place.one.client.complete(line, reply=True, timeout=30)["content"]
    assert (reply["matches"], reply["cursor_start"]) == (["width="], len(line) - 2)
    assert "Released gpu-2." in place.one.run("%comfy release").text
    assert place.jupyter.locks() == []


TINY = """
import time
seconds = []
for number in range({count}):
    # ComfyUI cuts fractions off, so that a part of a colour may come back one less.
    green, blue = number // 16 * 10, number % 16 * 10
    workflow = {workflow!r}
    workflow["1"]["inputs"]["color"] = green << 8 | blue
    began = time.perf_counter()
    task = comfy.submit(workflow)
    pixel = task.wait(60).images[0].convert("RGB").getpixel((0, 0))
    seconds.append(time.perf_counter() - began)
    assert pixel[0] == 0 and 0 <= green - pixel[1] <= 1 and 0 <= blue - pixel[2] <= 1, number
seconds.sort()
"""
TINY_WORKFLOW = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "tiny"}},
}


@pytest.mark.complaint(9)
def test_of_many_tiny_prompts_in_a_row_none_is_lost(
    place: Place, comfy_kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place.one.run("import os; os.environ['COMFY_LOCK_WIDGETS'] = '0'; comfy.lock('gpu-1')")
    try:
        place.one.run(TINY.format(count=TINY_PROMPTS, workflow=TINY_WORKFLOW), timeout_s=240)
    finally:
        place.one.run("del os.environ['COMFY_LOCK_WIDGETS']")
    p50, p99 = place.one.ask("[seconds[len(seconds) // 2], seconds[int(len(seconds) * 0.99)]]")
    with capsys.disabled():
        print(f"\n{TINY_PROMPTS} tiny prompts ({comfy_kind}): p50 {p50:.3f} s, p99 {p99:.3f} s")
