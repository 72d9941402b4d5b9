"""What no caller should send: it is refused by the name of the field, and breaks nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web

from tests.server import graphs
from tests.server.test_rest import locked
from tests.server.world import World

LONG = "x" * 5000
NO_TEXT = ["a\0b", "\ud800", "two\nlines", "\x1b[2J", LONG, 7, ["a"], {"a": 1}, True]


def deep(levels: int = 600) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize("value", NO_TEXT, ids=ascii)
async def test_a_text_that_is_none_is_named_and_nothing_happens(world: World, value: Any):
    kernel, user = await locked(world), world.user
    hello = {"kernel_id": "attached-x", "instance": "x"}
    id_of_none = value if value != LONG else "attached-" + LONG
    for caller, method, path, body, field in [
        (user, "POST", "holders", {**hello, "kernel_id": id_of_none}, "kernel_id"),
        (user, "POST", "holders", {**hello, "instance": value}, "instance"),
        (user, "POST", "holders", {**hello, "name": value}, "name"),
        (user, "POST", f"holders/{kernel.holder_id}/release", {"why": value}, "why"),
        (user, "PUT", "pool/gpu-1/state", {"state": "disabled", "why": value}, "why"),
        (kernel, "PUT", "holders/me/pin", {"comfy_id": value}, "comfy_id"),
        (kernel, "POST", "locks", {"comfy_id": value}, "comfy_id"),
        (kernel, "POST", "locks", {"labels": [value]}, "labels"),
        (kernel, "POST", "locks", {"request_id": value}, "request_id"),
        (kernel, "POST", "tasks", {"prompt": {}, "task_id": value}, "task_id"),
    ]:
        answer = await caller.call(method, path, json=body)
        assert (*answer.code, answer.json()["details"]) == (400, "bad_request", {"field": field})
    assert len((await kernel.get("locks"))["locks"]) == 1
    assert (await user.get("pool"))["servers"][0]["state"] == "open"


@pytest.mark.parametrize("labels", ["", {}, 0, False, ["x"] * 101])
async def test_labels_that_are_no_list_are_not_taken_for_none(world: World, labels: Any):
    kernel = await world.kernel()
    answer = await kernel.call("POST", "locks", json={"labels": labels})
    assert answer.json()["details"] == {"field": "labels"}


@pytest.mark.parametrize("wait", ["1" + "0" * 400, "1e10", "1e400", "NaN"])
async def test_a_wait_that_no_clock_could_count_is_refused(world: World, wait: str):
    kernel = await world.kernel()
    answer = await kernel.call("POST", "locks", data=f'{{"wait": {wait}}}')
    assert (*answer.code, answer.json()["details"]) == (400, "bad_request", {"field": "wait"})


@pytest.mark.parametrize(
    "body", [b"\xff", b'{"comfy_id": "\xff"}', "{}".encode("utf-16"), b"null", b"[" * 100_000]
)
async def test_a_body_that_cannot_be_read_is_refused_and_is_no_fault_of_ours(
    world: World, body: bytes, caplog: pytest.LogCaptureFixture
):
    kernel = await world.kernel()
    answer = await kernel.call("POST", "locks", data=body)
    assert (*answer.code, answer.json()["details"]) == (400, "bad_request", {"field": "body"})
    assert [x.getMessage() for x in caplog.records if x.exc_info] == []


async def test_a_form_that_is_none_is_refused_as_everything_else(world: World):
    kernel = await world.kernel()
    headers = {"Content-Type": "multipart/form-data"}
    answer = await kernel.call("POST", "locks", data=b"{}", headers=headers)
    assert (*answer.code, answer.json()["details"]) == (400, "bad_request", {"field": "body"})


async def test_what_is_nested_too_deep_is_refused_by_the_field_it_is_in(world: World):
    kernel = await locked(world)
    good = json.dumps(graphs.picture())
    for body, field in [
        (f'{{"prompt": {{"1": {{"class_type": "X", "inputs": {{"a": {deep()}}}}}}}}}', "prompt"),
        (f'{{"prompt": {good}, "extra_data": {{"a": {deep()}}}}}', "extra_data"),
        (f'{{"prompt": {good}, "two\\nlines": {deep()}}}', "two\ufffdlines"),
    ]:
        answer = await kernel.call("POST", "tasks", data=body)
        assert (*answer.code, answer.json()["details"]) == (400, "bad_request", {"field": field})
        answer = await kernel.comfy("POST", "prompt", data=body)
        assert answer.code == (400, "bad_request")
    assert world.gpu.calls.writes() == []
    body = f'{{"prompt": {good}, "extra_data": {{"a": {deep(100)}}}}}'
    assert (await kernel.call("POST", "tasks", data=body)).status == 201


async def test_what_a_client_nests_too_deep_on_its_socket_closes_nothing(
    world: World, caplog: pytest.LogCaptureFixture
):
    kernel = await locked(world)
    async with kernel.socket() as socket:
        await socket.socket.send_str("[" * 100_000)
        await socket.socket.send_str('{"type": "feature_flags", "data": {}}')
        await socket.until(lambda frame: frame["type"] == "feature_flags")
    assert [x.getMessage() for x in caplog.records if x.exc_info] == []


@pytest.mark.parametrize("text", ["\ud800", "\0", "..", "a/b", "%"], ids=ascii)
async def test_a_workflow_with_text_that_is_none_is_refused_as_any_other(world: World, text: str):
    kernel = await locked(world)
    for prompt in (
        {"1": {"class_type": text, "inputs": {}}},
        {"1": {"class_type": "LoadImage", "inputs": {"image": f"{text}.png"}}},
        {text: {"class_type": "PreviewImage", "inputs": {}}},
    ):
        answer = await kernel.call("POST", "tasks", json={"prompt": prompt})
        assert answer.code == (400, "prompt_rejected")
        answer = await kernel.comfy("POST", "prompt", json={"prompt": prompt})
        assert answer.status == 400
    tasks = (await kernel.get("tasks"))["tasks"]
    assert [x["state"] for x in tasks] == ["rejected"] * 6


async def test_r9_a_task_that_fails_with_text_that_is_none_ends_and_is_kept(world: World):
    kernel = await locked(world)
    task = await kernel.ended(await kernel.submit(graphs.raises("\ud800 \0")))
    assert task["state"] == "failed"
    stored = await world.stores.tasks.get(task["task_id"])
    assert (stored.state, stored.error["message"]) == ("failed", "\ud800 \0")
    assert "\ufffd \ufffd" in stored.reason


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, (404, "unknown_file")),
        (401, (502, "comfy_unauthorized")),
        (307, (502, "not_comfyui")),
        (500, (502, "comfy_unreachable")),
    ],
)
async def test_a_file_is_a_file_and_not_what_else_its_server_says(world: World, status: int, code):
    kernel = await locked(world)
    task = await kernel.ended(await kernel.submit(graphs.picture()))
    world.gpu.faults.instead["/view"] = lambda: web.Response(status=status, text="a page")
    assert (await kernel.raw("GET", task["files"][0]["path"])).code == code


async def test_a_refusal_of_comfyui_is_json_also_where_it_says_nan(world: World):
    kernel = await locked(world)
    said = '{"error": {"message": "no", "extra_info": {"received": NaN}}, "node_errors": {}}'
    refusal = {"status": 400, "text": said, "content_type": "application/json"}
    world.gpu.faults.instead["/prompt"] = lambda: web.Response(**refusal)
    answer = await kernel.call("POST", "tasks", json={"prompt": graphs.picture()})
    assert answer.code == (400, "prompt_rejected")
    assert answer.json()["details"]["error"]["extra_info"] == {"received": None}


@pytest.mark.parametrize("number", ["x", "-1", "1000000", "%d9%a3", "0x0"])
async def test_a_number_of_a_file_that_is_none_is_named(world: World, number: str):
    kernel = await world.kernel()
    answer = await kernel.call("GET", f"tasks/some/files/{number}")
    assert (*answer.code, answer.json()["details"]) == (400, "bad_request", {"field": "number"})


async def test_a_path_and_a_query_that_are_no_text_are_named(world: World):
    for path, field in (("tasks/%ff", "path"), ("tasks?token=%ff", "token")):
        answer = await world.user.call("GET", path)
        assert (*answer.code, answer.json()["details"]) == (400, "bad_request", {"field": field})
