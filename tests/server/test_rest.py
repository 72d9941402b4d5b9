"""The REST API: hello, pool, locks, tasks, files, and each error with what a person needs."""

import hashlib
import hmac
import json
import re
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web

from jupyter_comfy_lock.domain.config import parse_pool
from jupyter_comfy_lock.server.kernels import proof
from tests.server import graphs
from tests.server.conftest import SECRET
from tests.server.world import ENDED, Caller, Kernel, World, eventually, until

LOCK = {
    *(
        "comfy_id",
        "url",
        "holder_id",
        "name",
        "mode",
        "fence",
        "epoch",
        "restarted_at",
        "granted_at",
        "state",
    ),
    "foreign_prompts",
}
TASK = {
    *("task_id", "state", "reason", "comfy_id", "holder_id", "name", "lock", "created_at"),
    *("started_at", "ended_at", "queue", "progress", "cached", "files", "outputs", "error"),
    "dropped",
}


async def locked(world: World, name: str = "a.ipynb") -> Kernel:
    kernel = await world.kernel(name)
    await kernel.lock("gpu-1")
    return kernel


# -- hello ---------------------------------------------------------------------------------------


async def start_kernel(world: World) -> tuple[str, bytes]:
    """Start a real kernel; return its id and session key."""
    answer = await world.user.raw("POST", "api/kernels", json={"name": "python3"})
    kernel_id = str(answer.json()["id"])
    return kernel_id, world.app.serverapp.kernel_manager.get_kernel(kernel_id).session.key


async def prove(world: World, kernel_id: str, said: str, *, named: str | None = None):
    body = {"kernel_id": kernel_id, "instance": str(uuid4())}
    headers = {"Authorization": f"ComfyKernelProof {named or kernel_id}:{said}"}
    return await world.stranger.call("POST", "holders", json=body, headers=headers)


async def test_a_kernel_of_this_server_proves_itself_by_its_session_key(world: World):
    kernel_id, key = await start_kernel(world)
    text = b"jupyter-comfy-lock/v1|" + kernel_id.encode()
    said = hmac.new(key, text, hashlib.sha256).hexdigest()
    answer = await prove(world, kernel_id, said)
    assert answer.status == 201
    hello = answer.json()
    assert hello["holder"] == {
        "holder_id": f"{kernel_id}.1",
        "kernel_id": kernel_id,
        "incarnation": 1,
        "kind": "managed",
        "name": "",
    }
    assert hello["lease"] == {"ttl_s": 30.0, "renew_every_s": 5.0}
    assert re.fullmatch(r"comfy-lock/gateway/[\w-]{43}/", hello["gateway_path"])

    # A child process of the same kernel shares its holder.
    again = await prove(world, kernel_id, said)
    assert (again.status, again.json()) == (200, hello)

    other_id, other_key = await start_kernel(world)
    for wrong in (
        await prove(world, kernel_id, said[:-1] + "x"),
        await prove(world, kernel_id, ""),
        await prove(world, kernel_id, "schlüssel"),
        await prove(world, kernel_id, proof(other_key, other_id)),
        await prove(world, kernel_id, proof(other_key, kernel_id)),
        await prove(world, kernel_id, proof(other_key, other_id), named=other_id),
        await prove(world, str(uuid4()), said),
    ):
        assert wrong.code == (403, "wrong_credential")
    # The operator's token is no proof either.
    taken = await world.hello(kernel_id=kernel_id)
    assert taken.code == (400, "bad_request")

    kernel = Kernel(world.base, world.session, hello)
    await kernel.lock("gpu-1", "exclusive")
    await world.user.raw("DELETE", f"api/kernels/{kernel_id}")
    await until(lambda: world.app._registry.of_kernel(kernel_id) is None)
    assert (await kernel.call("GET", "locks")).code == (403, "unknown_holder")
    await until(lambda: not world.held())
    assert (await world.user.get("locks"))["locks"] == []


async def test_the_same_process_says_hello_again_and_gets_the_same(world: World):
    who = {"kernel_id": f"attached-{uuid4()}", "instance": str(uuid4())}
    first, again = await world.hello("a", **who), await world.hello("a", **who)
    assert (first.status, again.status) == (201, 200)
    assert first.json() == again.json()


async def test_another_process_of_a_kernel_is_a_new_incarnation_and_the_old_one_is_over(
    world: World,
):
    kernel_id = f"attached-{uuid4()}"
    old = await world.kernel(kernel_id=kernel_id)
    await old.lock("gpu-1", "exclusive")
    await old.submit(graphs.steps(400))
    new = await world.kernel(kernel_id=kernel_id)
    assert (old.holder_id, new.holder_id) == (f"{kernel_id}.1", f"{kernel_id}.2")
    assert old.credential != new.credential
    assert (await old.call("GET", "locks")).code == (403, "unknown_holder")
    assert await new.get("locks") == {"locks": [], "waiting": []}
    # What the old one had running has to leave first.
    await new.lock("gpu-1", "exclusive", wait=10)
    await old.heard.ended.wait()


async def found_ended(kernel: Kernel, task_id: str) -> Any:
    """The task as it is when it has ended; a kernel hears nothing of its earlier lives' tasks."""
    task = await kernel.get(f"tasks/{task_id}")
    return task if task["state"] in ENDED else None


async def test_a_kernel_sees_the_tasks_of_its_earlier_lives_and_nobody_elses_does(world: World):
    kernel_id = f"attached-{uuid4()}"
    old = await world.kernel(kernel_id=kernel_id)
    await old.lock()
    done, running = await old.submit(graphs.picture()), await old.submit(graphs.steps(400))
    file = (await old.ended(done))["files"][0]
    # Ids of kernels that begin alike are of different kernels.
    for other in (f"{kernel_id}.1", f"attached-{uuid4()}"):
        stranger = await world.kernel(kernel_id=other)
        assert (await stranger.call("GET", f"tasks/{done}")).code == (404, "unknown_task")
        assert await stranger.get("tasks?earlier=true") == {"tasks": []}
    new = await world.kernel(kernel_id=kernel_id)
    assert (await new.get(f"tasks/{done}"))["state"] == "succeeded"
    assert (await new.call("GET", file["path"].removeprefix("comfy-lock/api/"))).status == 200
    assert (await eventually(found_ended, new, running))["reason"].startswith("its kernel ended")
    assert await new.get("tasks") == {"tasks": []}
    seen = (await new.get("tasks?earlier=true"))["tasks"]
    assert [each["task_id"] for each in seen] == [running, done]


async def test_a_kernel_does_not_cancel_what_an_earlier_life_left(world: World):
    kernel_id = f"attached-{uuid4()}"
    old = await world.kernel(kernel_id=kernel_id)
    await old.lock()
    task_id = await old.submit(graphs.steps(400))
    new = await world.kernel(kernel_id=kernel_id)
    await new.cancel(task_id)
    assert (await eventually(found_ended, new, task_id))["reason"].startswith("its kernel ended")


async def test_earlier_results_are_read_and_loaded_through_the_gateway_too(world: World):
    kernel_id = f"attached-{uuid4()}"
    old = await world.kernel(kernel_id=kernel_id)
    await old.lock()
    done = await old.submit(graphs.picture())
    [file] = (await old.ended(done))["files"]
    view = f"view?filename={file['filename']}&type={file['type']}&subfolder={file['subfolder']}"
    stranger = await world.kernel()
    await stranger.lock()
    assert (await stranger.comfy("GET", view)).status == 404
    new = await world.kernel(kernel_id=kernel_id)
    await new.lock()
    assert (await new.comfy("GET", view)).status == 200
    assert list((await new.comfy("GET", f"history/{done}")).json()) == [done]
    assert (await stranger.comfy("GET", f"history/{done}")).json() == {}


async def test_a_question_for_earlier_tasks_is_yes_or_no(world: World):
    kernel = await world.kernel()
    answer = await kernel.call("GET", "tasks?earlier=perhaps")
    assert answer.code == (400, "bad_request")
    assert answer.json()["details"] == {"field": "earlier"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"kernel_id": None}, "kernel_id"),
        ({"kernel_id": ""}, "kernel_id"),
        ({"kernel_id": "somebody"}, "kernel_id"),
        ({"instance": 7}, "instance"),
    ],
)
async def test_a_hello_that_is_not_understood_names_the_field(world: World, body, field: str):
    answer = await world.hello(**body)
    assert answer.code == (400, "bad_request")
    assert answer.json()["details"] == {"field": field}


@pytest.mark.parametrize("body", ["{", "[1]", '"x"', "7"])
async def test_a_body_that_is_no_json_object_is_a_bad_request(world: World, body: str):
    kernel = await world.kernel()
    for path in ("locks", "tasks"):
        assert (await kernel.call("POST", path, data=body)).code == (400, "bad_request")
    assert (await world.user.call("POST", "holders", data=body)).code == (400, "bad_request")


async def test_a_holder_leaves_once(world: World):
    kernel = await locked(world)
    assert (await kernel.call("DELETE", "holders/me")).status == 204
    assert (await kernel.call("DELETE", "holders/me")).code == (403, "unknown_holder")


# -- pool and locks ------------------------------------------------------------------------------


async def test_the_pool_tells_health_and_holders_and_what_is_mine(world: World):
    a, b = await locked(world), await world.kernel("b.ipynb")
    one, two = (await a.get("pool"))["servers"]
    assert (one["comfy_id"], two["comfy_id"]) == ("gpu-1", "gpu-2")
    assert (one["health"], one["version"], one["queue_remaining"]) == ("ok", "0.33.0", 0)
    assert [x["name"] for x in one["holders"]] == ["a.ipynb"]
    assert (one["mine"], two["mine"]) == (True, False)
    assert [x["mine"] for x in (await b.get("pool"))["servers"]] == [False, False]
    assert [x["mine"] for x in (await world.user.get("pool"))["servers"]] == [False, False]


async def test_a_lock_is_taken_once_and_shown_to_its_holder_and_the_user(world: World):
    a, b = await world.kernel("a.ipynb"), await world.kernel()
    first = await a.call("POST", "locks", json={"comfy_id": "gpu-1"})
    again = await a.call("POST", "locks", json={"comfy_id": "gpu-1"})
    assert (first.status, again.status) == (201, 200)
    lock = first.json()["lock"]
    assert again.json()["lock"] == lock
    assert set(lock) == LOCK
    assert (lock["url"], lock["mode"], lock["name"]) == (world.gpu.url, "shared", "a.ipynb")
    assert (await a.get("locks"))["locks"] == [lock]
    assert (await b.get("locks"))["locks"] == []
    assert (await world.user.get("locks"))["locks"] == [lock]
    assert await a.release() == lock
    assert await a.release() is None


async def test_without_a_name_the_best_free_one_is_chosen_and_said(world: World):
    a, b = await world.kernel(), await world.kernel()
    first = await a.call("POST", "locks", json={})
    second = await b.call("POST", "locks", json={"comfy_id": None})
    assert [x.json()["chosen_by"] for x in (first, second)] == ["best", "best"]
    assert [x.json()["lock"]["comfy_id"] for x in (first, second)] == ["gpu-1", "gpu-2"]
    named = await b.call("POST", "locks", json={"comfy_id": "gpu-1"})
    assert named.json()["chosen_by"] == "name"


async def test_a_full_pool_says_who_has_what_and_a_dead_server_why(world: World):
    a, c = await world.kernel("a.ipynb"), await world.kernel()
    await a.lock("gpu-1", "exclusive")
    await world.comfies["gpu-2"].stop()
    answer = await c.call("POST", "locks", json={})
    assert answer.code == (409, "lock_refused")
    message = answer.json()["message"]
    assert "gpu-1: a.ipynb holds it exclusively" in message
    assert "gpu-2: connection refused" in message


async def test_a_taken_server_names_its_holder_and_nothing_else_is_taken(world: World):
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    lock = await a.lock("gpu-1", "exclusive")
    answer = await b.call("POST", "locks", json={"comfy_id": "gpu-1"})
    assert answer.code == (409, "lock_refused")
    (holder,) = answer.json()["details"]["holders"]
    assert (holder["name"], holder["since"]) == ("a.ipynb", lock["granted_at"])
    assert "a.ipynb holds it exclusively (a.ipynb since 20" in answer.json()["message"]
    assert (await b.get("locks"))["locks"] == []


async def test_an_unknown_server_is_answered_with_the_known_ones(world: World):
    kernel = await world.kernel()
    answer = await kernel.call("POST", "locks", json={"comfy_id": "gpu-9"})
    assert answer.code == (404, "unknown_comfy")
    assert "Known: gpu-1, gpu-2" in answer.json()["message"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"comfy_id": 7}, "comfy_id"),
        ({"comfy_id": ""}, "comfy_id"),
        ({"comfy_id": ["gpu-1"]}, "comfy_id"),
        ({"mode": "mine"}, "mode"),
        ({"mode": []}, "mode"),
        ({"mode": ""}, "mode"),
        ({"wait": -1}, "wait"),
        ({"wait": "1"}, "wait"),
        ({"wait": True}, "wait"),
        ({"labels": "flux"}, "labels"),
        ({"labels": [7]}, "labels"),
        ({"labels": ["flux"], "comfy_id": "gpu-1"}, "labels"),
        ({"request_id": "mine"}, "request_id"),
        ({"request_id": 7}, "request_id"),
    ],
)
async def test_a_lock_that_is_not_understood_takes_nothing(world: World, body, field: str):
    kernel = await world.kernel()
    answer = await kernel.call("POST", "locks", json=body)
    assert answer.code == (400, "bad_request")
    assert answer.json()["details"] == {"field": field}
    assert (await kernel.get("locks"))["locks"] == []


async def test_an_unreachable_server_is_refused_and_what_was_held_is_kept(world: World):
    kernel = await locked(world)
    await world.comfies["gpu-2"].stop()
    # It is down for longer than a moment, but was well when it was last looked at.
    world.app._upstreams["gpu-2"].looked_s -= 2
    answer = await kernel.call("POST", "locks", json={"comfy_id": "gpu-2"})
    assert answer.code == (502, "comfy_unreachable")
    assert "'gpu-2'" in answer.json()["message"]
    assert [x["comfy_id"] for x in (await kernel.get("locks"))["locks"]] == ["gpu-1"]


@pytest.mark.parametrize(
    ("stats", "code"),
    [
        (lambda: web.Response(text="<html>It works!</html>"), "not_comfyui"),
        (lambda: web.json_response({"system": {}}), "not_comfyui"),
        (lambda: web.json_response([1]), "not_comfyui"),
        (lambda: web.Response(status=404), "not_comfyui"),
        (lambda: web.Response(status=401), "comfy_unauthorized"),
        (lambda: web.Response(status=403), "comfy_unauthorized"),
        (lambda: web.Response(status=500), "comfy_unreachable"),
        (lambda: web.Response(status=302, headers={"Location": "/x"}), "not_comfyui"),
        (lambda: web.json_response({"system": {"comfyui_version": 3.4}}), "not_comfyui"),
        (lambda: web.json_response({"system": {"comfyui_version": "0.3.32"}}), "comfy_unsupported"),
    ],
)
async def test_a_server_that_cannot_be_used_says_why(world: World, stats, code: str):
    gpu = world.comfies["gpu-2"]
    gpu.faults.instead["/system_stats"] = stats
    upstream = world.app._upstreams["gpu-2"]
    await upstream.look()
    kernel = await world.kernel()
    answer = await kernel.call("POST", "locks", json={"comfy_id": "gpu-2"})
    assert answer.code == (502, code)
    shown = (await kernel.get("pool"))["servers"][1]
    assert shown["health"] not in ("ok", "unknown")
    assert shown["reason"]
    if code == "comfy_unauthorized":
        assert "headers" in answer.json()["message"]
        assert SECRET not in answer.json()["message"]
    # It is looked at again when it is asked for.
    gpu.faults.instead.clear()
    await kernel.lock("gpu-2")


async def test_a_prompt_for_one_comfy_server_is_not_sent_to_another(world: World):
    kernel = await locked(world)
    body = {"prompt": graphs.steps(1), "comfy_id": "gpu-2"}
    answer = await kernel.call("POST", "tasks", json=body)
    assert answer.code == (409, "other_lock")
    assert answer.json()["message"] == (
        "Nothing was sent: this is for ComfyServer 'gpu-2', and kernel a.ipynb has locked 'gpu-1'."
    )
    assert (await kernel.get("tasks"))["tasks"] == []
    answer = await kernel.call("POST", "tasks", json={**body, "comfy_id": "gpu-1"})
    assert answer.json()["comfy_id"] == "gpu-1"


async def test_moving_while_tasks_pend_names_kernel_servers_and_tasks(world: World):
    kernel = await locked(world)
    task_id = await kernel.submit(graphs.steps(400))
    answer = await kernel.call("POST", "locks", json={"comfy_id": "gpu-2"})
    assert answer.code == (409, "server_consistency")
    error = answer.json()
    assert error["details"]["pending"] == [task_id]
    for part in ("a.ipynb", "gpu-1", "gpu-2", task_id):
        assert part in error["message"]
    assert [x["comfy_id"] for x in (await kernel.get("locks"))["locks"]] == ["gpu-1"]
    await kernel.cancel(task_id)
    await kernel.ended(task_id)
    await kernel.lock("gpu-2")


# -- tasks ---------------------------------------------------------------------------------------


async def test_a_task_has_all_that_is_promised_of_it(world: World):
    kernel = await locked(world)
    answer = await kernel.call("POST", "tasks", json={"prompt": graphs.picture()})
    task = answer.json()
    assert set(task) == TASK
    assert task["state"] in ("registered", "queued", "running", "succeeded")
    assert task["lock"]["holder_id"] == kernel.holder_id
    assert task["lock"]["url"] == world.gpu.url
    ended = await kernel.ended(task["task_id"])
    assert set(ended) == TASK
    assert ended["lock"] == task["lock"]
    assert (await kernel.get(f"tasks/{task['task_id']}"))["files"] == ended["files"]


async def test_without_a_lock_nothing_is_recorded_or_sent(world: World):
    kernel = await world.kernel("a.ipynb")
    answer = await kernel.call("POST", "tasks", json={"prompt": graphs.picture()})
    assert answer.code == (409, "no_lock")
    assert "a.ipynb" in answer.json()["message"]
    assert (await kernel.get("tasks"))["tasks"] == []
    assert world.gpu.calls.writes() == []


@pytest.mark.parametrize(
    "prompt", [None, [], "{}", {}, {"nodes": [], "links": []}, {"1": {}}, {"1": 7}]
)
async def test_what_is_no_workflow_is_refused_before_it_is_sent(world: World, prompt):
    kernel = await locked(world)
    answer = await kernel.call("POST", "tasks", json={"prompt": prompt})
    assert answer.code == (400, "invalid_workflow")
    assert world.gpu.calls.writes() == []


async def test_a_workflow_without_outputs_is_refused_and_the_task_ends(world: World):
    kernel = await locked(world)
    prompt = graphs.picture()
    del prompt["2"]
    answer = await kernel.call("POST", "tasks", json={"prompt": prompt})
    assert answer.code == (400, "prompt_rejected")
    assert "no outputs" in answer.json()["message"]
    task = await kernel.ended(answer.json()["details"]["task_id"])
    assert task["state"] == "rejected"


@pytest.mark.complaint(19)
async def test_wrong_nodes_are_all_named_with_class_input_and_reason(world: World):
    kernel = await locked(world)
    prompt = graphs.picture()
    prompt["1"]["inputs"]["width"] = -1
    del prompt["1"]["inputs"]["height"]
    prompt["3"] = {"class_type": "PreviewImage", "inputs": {}}
    answer = await kernel.call("POST", "tasks", json={"prompt": prompt})
    assert answer.code == (400, "prompt_rejected")
    message = answer.json()["message"]
    for part in ("node 1 (EmptyImage), input 'width'", "input 'height'", "node 3 (PreviewImage)"):
        assert part in message
    details = answer.json()["details"]
    assert set(details["node_errors"]) == {"1", "3"}
    assert details["error"]["type"] == "prompt_outputs_failed_validation"


async def test_unknown_node_classes_are_named(world: World):
    kernel = await locked(world)
    prompt = {**graphs.picture(), "7": {"class_type": "NoSuchNode", "inputs": {}}}
    prompt["8"] = {"class_type": "NorThis", "inputs": {}}
    answer = await kernel.call("POST", "tasks", json={"prompt": prompt})
    assert answer.code == (400, "prompt_rejected")
    for part in ("NoSuchNode", "NorThis", "7", "8"):
        assert part in answer.json()["message"]


@pytest.mark.parametrize(
    ("more", "field"), [({"extra_data": []}, "extra_data"), ({"task_id": "mine"}, "task_id")]
)
async def test_a_submission_that_is_not_understood_names_the_field(world: World, more, field: str):
    kernel = await locked(world)
    answer = await kernel.call("POST", "tasks", json={"prompt": graphs.picture(), **more})
    assert answer.code == (400, "bad_request")
    assert answer.json()["details"] == {"field": field}


async def test_extra_data_goes_with_the_prompt(world: World):
    kernel = await locked(world)
    body = {"prompt": graphs.picture(), "extra_data": {"extra_pnginfo": {"a": 1}}}
    await kernel.call("POST", "tasks", json=body)
    (sent,) = world.gpu.calls.bodies("/prompt")
    assert sent["extra_data"]["extra_pnginfo"] == {"a": 1}


# -- others (R4, R10) ------------------------------------------------------------------------------


@pytest.mark.complaint(15)
async def test_no_kernel_sees_or_touches_anothers_task(world: World):
    a, b = await locked(world, "a.ipynb"), await locked(world, "b.ipynb")
    task_id = await b.submit(graphs.steps(100, preview=True))
    await b.heard.until(lambda: any(x["progress"]["preview"] for x in b.heard.of("task")))
    for method, path in [
        ("GET", f"tasks/{task_id}"),
        ("POST", f"tasks/{task_id}/cancel"),
        ("GET", f"tasks/{task_id}/files/0"),
        ("GET", f"tasks/{task_id}/preview"),
    ]:
        assert (await a.call(method, path)).code == (404, "unknown_task")
    assert (await a.get("tasks"))["tasks"] == []
    assert a.heard.of("task") == []
    assert (await b.get(f"tasks/{task_id}"))["state"] == "running"

    # The Jupyter user sees both, and may end either.
    tasks = (await world.user.get("tasks"))["tasks"]
    assert [(x["task_id"], x["name"]) for x in tasks] == [(task_id, "b.ipynb")]
    preview = await world.user.call("GET", f"tasks/{task_id}/preview")
    assert preview.headers["Content-Type"] in ("image/jpeg", "image/png")
    assert (await world.user.call("POST", f"tasks/{task_id}/cancel", json={})).status == 202
    task = await b.ended(task_id)
    assert task["state"] == "cancelled"
    assert "Jupyter user" in task["reason"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "locks"), ("DELETE", "locks/mine"), ("POST", "tasks"), ("DELETE", "holders/me")],
)
async def test_the_jupyter_user_holds_nothing(world: World, method: str, path: str):
    assert (await world.user.call(method, path, json={})).code == (403, "not_yours")


async def test_a_kernel_makes_no_other_kernels(world: World):
    kernel = await world.kernel()
    body = {"kernel_id": f"attached-{uuid4()}", "instance": "x"}
    assert (await kernel.call("POST", "holders", json=body)).code == (403, "not_yours")


# -- files ---------------------------------------------------------------------------------------


async def test_a_file_is_served_whole_and_in_part_to_its_kernel_and_the_user(world: World):
    kernel = await locked(world)
    task = await kernel.ended(await kernel.submit(graphs.picture()))
    (file,) = task["files"]
    assert file["path"] == f"comfy-lock/api/tasks/{task['task_id']}/files/0"
    for caller in (kernel, world.user):
        whole = await caller.raw("GET", file["path"])
        assert (whole.status, whole.body[:4]) == (200, b"\x89PNG")
        assert whole.headers["Content-Type"] == "image/png"
        assert whole.headers["Content-Security-Policy"] == "sandbox"
        part = await caller.raw("GET", file["path"], headers={"Range": "bytes=1-3"})
        assert (part.status, part.body) == (206, b"PNG")
        assert part.headers["Content-Range"] == f"bytes 1-3/{len(whole.body)}"
        same = await caller.raw(
            "GET", file["path"], headers={"If-None-Match": whole.headers["ETag"]}
        )
        assert (same.status, same.body) == (304, b"")
    assert (await world.stranger.raw("GET", file["path"])).status == 403


async def test_a_file_that_is_not_there_is_told_so(world: World):
    kernel = await locked(world)
    task = await kernel.ended(await kernel.submit(graphs.picture()))
    path = f"tasks/{task['task_id']}"
    answer = await kernel.call("GET", f"{path}/files/1")
    assert answer.code == (404, "unknown_file")
    assert "1 file(s)" in answer.json()["message"]
    world.gpu.faults.instead["/view"] = lambda: web.Response(status=404)
    gone = await kernel.call("GET", f"{path}/files/0")
    assert gone.code == (404, "unknown_file")
    assert task["files"][0]["filename"] in gone.json()["message"]
    await world.gpu.stop()
    assert (await kernel.call("GET", f"{path}/files/0")).code == (502, "comfy_unreachable")
    assert (await kernel.call("GET", f"{path}/preview")).code == (404, "unknown_file")
    assert (await kernel.call("GET", "tasks/no-such")).code == (404, "unknown_task")


# -- secrets and addresses (R10) -------------------------------------------------------------------


async def test_no_secret_is_in_any_answer_or_in_the_log(
    world: World, caplog: pytest.LogCaptureFixture
):
    caplog.clear()
    kernel = await locked(world)
    shown = []
    task = await kernel.ended(await kernel.submit(graphs.picture()))
    callers: list[Caller] = [kernel, world.user]
    for caller in callers:
        for path in ("pool", "locks", "tasks", f"tasks/{task['task_id']}", "tasks/none"):
            answer = await caller.call("GET", path)
            shown.append(f"{answer.headers} {answer.body!r}")
    page = f"{world.base}{kernel.gateway_path}index.html"
    for path in ("queue", "history", "system_stats", "no/such/path", "view?filename=none"):
        answer = await kernel.comfy("GET", path, headers={"Referer": page})
        shown.append(f"{answer.headers} {answer.body!r}")
    key = kernel.gateway_key
    first, rest = key[0], key[1:]
    await world.stranger.raw("GET", f"comfy-lock/gateway/%{ord(first):02x}{rest}/queue")
    world.gpu.faults.instead["/system_stats"] = lambda: web.Response(status=401)
    await world.app._upstreams["gpu-1"].look()
    await world.gpu.stop()
    shown.append(repr((await kernel.comfy("GET", "queue")).body))
    shown.append(repr((await kernel.call("POST", "tasks", json={"prompt": graphs.picture()})).body))
    shown += map(json.dumps, kernel.heard.all)
    shown += map(repr, world.app._registry.all())
    shown += map(repr, parse_pool(world.app.pool))
    told = "\n".join(shown)
    logged = "\n".join(each.getMessage() for each in caplog.records)
    assert "comfy-lock/gateway/***/queue" in logged
    for secret in (SECRET, "s3cr3t", kernel.credential, key, rest):
        assert secret not in told
        assert secret not in logged


@pytest.mark.parametrize("path", ["/system_stats", "/queue", "/view", "/ws", "/prompt"])
async def test_no_redirect_takes_us_or_the_pools_headers_out_of_the_pool(world: World, path: str):
    elsewhere = world.comfies["gpu-2"]
    away = {"Location": f"{elsewhere.url}/somewhere"}
    kernel = await locked(world)
    task = await kernel.ended(await kernel.submit(graphs.picture()))
    world.gpu.faults.instead[path] = lambda: web.Response(status=307, headers=away)
    world.gpu.faults.cut_sockets()
    await world.app._upstreams["gpu-1"].look()
    await kernel.comfy("GET", path.removeprefix("/"))
    await kernel.raw("GET", task["files"][0]["path"])
    answer = await kernel.call("POST", "tasks", json={"prompt": graphs.picture()})
    assert answer.status in (201, 400, 409, 502)
    if path == "/ws":
        asked = len(world.gpu.calls.to("/ws"))
        await until(lambda: len(world.gpu.calls.to("/ws")) > asked)
    assert elsewhere.calls.to("/somewhere") == []


# -- wrong settings --------------------------------------------------------------------------------


class TestAWrongSetting:
    @pytest.fixture
    def pool(self):
        return [{"id": "gpu-1", "url": "http://x", "capacity": 0}]

    async def test_is_told_to_every_caller_by_its_key(self, world: World):
        for _ in range(2):
            answer = await world.user.call("GET", "pool")
            assert answer.code == (500, "config_error")
            assert answer.json()["details"] == {"key": "pool[0].capacity"}
        assert (await world.hello()).code == (500, "config_error")
        assert (await world.stranger.call("GET", "pool")).status == 403


class TestAnEmptyPool:
    @pytest.fixture
    def pool(self):
        return []

    async def test_is_told_with_what_to_configure(self, world: World):
        kernel = await world.kernel()
        assert (await kernel.get("pool")) == {"servers": []}
        for body in ({}, {"comfy_id": "gpu-1"}):
            answer = await kernel.call("POST", "locks", json=body)
            assert answer.code == (409, "empty_pool")
            assert "c.ComfyLock.pool" in answer.json()["message"]
