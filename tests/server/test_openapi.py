"""The description of the REST API is valid, whole, and true: each answer is one that it names."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any
from uuid import uuid4

import jsonschema_rs
import pytest
import schemathesis
from aiohttp import web

import jupyter_comfy_lock
from jupyter_comfy_lock.domain import errors
from jupyter_comfy_lock.domain.errors import StoreUnavailable
from jupyter_comfy_lock.domain.lock import ACTIVE, Mode
from jupyter_comfy_lock.domain.pool import Access, Health
from jupyter_comfy_lock.domain.task import TaskState
from jupyter_comfy_lock.server.openapi import description
from tests.server import graphs
from tests.server.described import API, SEEN, check_answer, operations, path_of, routes
from tests.server.world import Kernel, World

#: Errors that are the kernel side's own.
NEVER_ANSWERED = {"no_server_extension", "task_failed", "task_cancelled", "task_lost"}


def schemas() -> dict[str, Any]:
    return dict(description()["components"]["schemas"])


# -- by itself -----------------------------------------------------------------------------------


def test_it_is_valid():
    schemathesis.openapi.from_dict(description()).validate()
    ids = [each.name for each in operations()]
    assert len(set(ids)) == len(ids)


def test_each_call_that_is_answered_is_described_and_no_other():
    described = {(each.method, path_of_template(each.path)) for each in operations()}
    assert described == {(method, path_of(pattern, "x")) for method, pattern in routes()}


def path_of_template(path: str) -> str:
    return "/".join("x" if part.startswith("{") else part for part in path.split("/"))


@pytest.mark.parametrize("each", operations(), ids=lambda each: each.name)
def test_what_it_gives_as_examples_it_allows(each):
    body = each.said.get("requestBody", {"content": {"application/json": {}}})
    about = body["content"]["application/json"]
    examples = [example["value"] for example in about.get("examples", {}).values()]
    assert examples or not about
    whole = {**about.get("schema", {}), "components": description()["components"]}
    for example in examples:
        jsonschema_rs.validate(whole, example)
    for parameter in each.said["parameters"]:
        jsonschema_rs.validate(parameter["schema"], parameter["example"])


def test_it_names_what_the_code_has():
    code = {
        x.code for x in errors.ComfyLockError.__subclasses__() if x.__module__ == errors.__name__
    }
    assert set(schemas()["Error"]["properties"]["code"]["enum"]) == code - NEVER_ANSWERED
    assert schemas()["Mode"]["enum"] == list(Mode)
    assert schemas()["Access"]["enum"] == list(Access)
    assert schemas()["Task"]["properties"]["state"]["enum"] == list(TaskState)
    assert schemas()["Lock"]["properties"]["state"]["enum"] == list(ACTIVE)
    assert schemas()["ComfyServer"]["properties"]["health"]["enum"] == list(Health)


def test_nobody_reads_it_before_it_is_asked_for():
    program = (
        "import jupyter_comfy_lock.server.app; from jupyter_comfy_lock.server import openapi; "
        "print(openapi.description.cache_info().currsize)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert said.stdout.split() == [b"0"]


@pytest.mark.parametrize(
    ("status", "body", "wrong"),
    [
        (200, b'{"locks": [], "waiting": [], "more": 1}', "more"),
        (200, b'{"locks": []}', "waiting"),
        (200, b'{"locks": [], "waiting": NaN}', "NaN"),
        (201, b"{}", "201"),
        (503, b'{"code": "no_lock", "message": "", "details": {}}', "store_unavailable"),
    ],
)
def test_an_answer_that_is_not_as_described_is_noticed(status: int, body: bytes, wrong: str):
    headers = {"Content-Type": "application/json"}
    with pytest.raises(AssertionError, match=wrong):
        check_answer("GET", f"{API}/locks", {}, status, headers, body)
    good = b'{"locks": [], "waiting": []}'
    with pytest.raises(AssertionError, match="text/html"):
        check_answer("GET", f"{API}/locks", {}, 200, {"Content-Type": "text/html"}, good)
    check_answer("GET", f"{API}/locks", {}, 200, headers, good)


# -- served --------------------------------------------------------------------------------------


async def test_it_is_served_to_kernels_and_the_user_with_the_address_it_has_here(world: World):
    kernel = await world.kernel()
    told = await kernel.get("openapi.json")
    assert told == await world.user.get("openapi.json")
    assert told["info"]["version"] == jupyter_comfy_lock.__version__
    (server,) = told["servers"]
    assert f"http://127.0.0.1:{world.base.split(':')[2].split('/')[0]}{server['url']}/" == (
        f"{world.base}{API}/"
    )
    assert (await world.stranger.call("GET", "openapi.json")).status == 403


# -- each answer, once ---------------------------------------------------------------------------


async def test_every_answer_that_is_described_is_given_and_is_as_described(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    """What is compared is compared where each answer comes in, in `world`."""
    SEEN.answers.clear()
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    await says_who_it_is(world, a)
    await locks_and_waits(world, a, b)
    task = await works(world, a)
    await is_refused(world, a, b, task)
    await fetches(world, a, task)
    await looks_into_it(world, a)
    await finds_the_store_away(world, a, task, monkeypatch)
    await world.gpu.stop()
    assert (await a.call("POST", "tasks", json={"prompt": graphs.picture()})).status == 502
    await world.force(b)
    assert (await b.call("DELETE", "holders/me")).status == 204
    await nobody_is_told_anything(world)
    described = {(x.name, int(status)) for x in operations() for status in x.said["responses"]}
    # A wrong setting has a test of its own: nothing else works then.
    assert sorted(each for each in described - SEEN.answers if each[1] != 500) == []


async def says_who_it_is(world: World, a: Kernel) -> None:
    who = {"kernel_id": a.kernel_id, "instance": str(uuid4())}
    for _ in range(2):
        await world.hello(kernel_id=f"attached-{who['instance']}", instance="x")
    await a.call("PUT", "holders/me/lease")
    for pin in ("gpu-1", None, "gpu-9", 7):
        await a.call("PUT", "holders/me/pin", json={"comfy_id": pin})
    for port in (0, -1):
        await a.call("PUT", "holders/me/port", json={"port": port})
    await a.call("DELETE", "holders/me/port")
    for method, path in (("GET", "openapi.json"), ("GET", "pool")):
        await a.call(method, path)


async def locks_and_waits(world: World, a: Kernel, b: Kernel) -> None:
    for body in (
        {"comfy_id": "gpu-1", "mode": "exclusive"},
        {},
        {"comfy_id": "gpu-9"},
        {"wait": -1},
    ):
        await a.call("POST", "locks", json=body)
    assert (await b.ask("gpu-1")).code == (409, "lock_refused")
    async with b.waiting("gpu-1") as waiting:
        await waiting.at(1)
        for caller in (b, world.user):
            assert len((await caller.get("locks"))["waiting"]) == 1
        assert (await world.user.get("pool"))["servers"][0]["waiting"]
        await a.release()
        await waiting.lock()
    request_id = str(uuid4())
    await a.lock("gpu-2", request_id=request_id)
    assert (await a.call("DELETE", f"locks/requests/{request_id}")).json()["released"]


async def works(world: World, a: Kernel) -> dict[str, Any]:
    """Run a task of A's on gpu-1, whose record is returned."""
    assert (await a.call("POST", "tasks", json={"prompt": graphs.picture()})).status == 409
    await a.lock("gpu-1")
    body = {"prompt": graphs.steps(10, preview=True), "task_id": str(uuid4())}
    for status in (201, 200):
        assert (await a.call("POST", "tasks", json=body)).status == status
    previewed = await a.ended(body["task_id"])
    preview = f"tasks/{previewed['task_id']}/preview"
    assert (await a.call("GET", preview)).status == 200
    assert (await a.call("GET", preview, headers={"If-None-Match": "*"})).status == 304
    task = await a.ended(await a.submit(graphs.picture()))
    failed = await a.ended(await a.submit(graphs.raises()))
    assert failed["error"]
    for path in ("openapi.json", "locks", "pool", "tasks", f"tasks/{task['task_id']}"):
        assert (await a.call("GET", path)).status == 200
        assert (await a.call("GET", path, headers={"If-None-Match": "*"})).status == 304
    await a.cancel(task["task_id"])
    return task


async def is_refused(world: World, a: Kernel, b: Kernel, task: dict[str, Any]) -> None:
    for body in ({}, {"prompt": {}, "task_id": 7}, {"prompt": {"1": {"class_type": "No"}}}):
        assert (await a.call("POST", "tasks", json=body)).status == 400
    await world.user.call("POST", "holders", json={})
    await world.user.call("POST", f"holders/{b.holder_id}/release", json={"why": 7})
    for comfy_id, state in (("gpu-2", "closed"), ("gpu-9", "open"), ("gpu-2", "open")):
        await world.user.call("PUT", f"pool/{comfy_id}/state", json={"state": state})
    await world.comfies["gpu-2"].stop()
    world.app._upstreams["gpu-2"].looked_s -= 2
    assert (await b.ask("gpu-2")).status == 502
    running = await a.submit(graphs.steps(1000))
    await a.task_in(running, "running")
    upstream = world.app._upstreams["gpu-1"]
    newest, upstream.status = upstream.status, replace(upstream.status, version="0.3.40")
    assert (await a.call("POST", f"tasks/{running}/cancel")).status == 409
    upstream.status = newest
    for path in ("/api/jobs/cancel", "/view"):
        world.gpu.faults.instead[path] = lambda: web.Response(status=401)
    assert (await a.call("POST", f"tasks/{running}/cancel")).status == 502
    assert (await a.raw("GET", task["files"][0]["path"])).status == 502
    world.gpu.faults.instead.clear()
    await a.cancel(running)
    await a.ended(running)
    for method, pattern in routes():
        if "tasks/" in pattern:
            assert (await a.call(method, path_of(pattern, "0").lstrip("/"))).status == 404


async def fetches(world: World, a: Kernel, task: dict[str, Any]) -> None:
    path = task["files"][0]["path"]
    whole = await a.raw("GET", path)
    for name, value in (
        ("Range", "bytes=0-1"),
        ("Range", "bytes=99999-"),
        ("If-None-Match", whole.headers["ETag"]),
    ):
        await a.raw("GET", path, headers={name: value})
    for method, pattern in routes():
        if "files" in pattern:
            assert (await a.call(method, f"tasks/{task['task_id']}/files/x")).status == 400


async def looks_into_it(world: World, a: Kernel) -> None:
    for path in ("holders/me/debug", "check"):
        for headers, status in (({}, 200), ({"If-None-Match": "*"}, 304)):
            assert (await a.call("GET", path, headers=headers)).status == status
    assert (await world.user.call("GET", f"holders/{a.holder_id}/debug")).status == 200
    assert (await world.user.call("GET", "holders/nobody.1/debug")).status == 400
    assert (await a.call("POST", "cleanup", json={"dry_run": True})).status == 200
    assert (await a.call("POST", "selftest", json={"name": "identity"})).status == 200


async def finds_the_store_away(
    world: World, a: Kernel, task: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> Any:
        msg = "The store is away."
        raise StoreUnavailable(msg)

    with monkeypatch.context() as patch:
        patch.setattr(world.stores.database, "transact", away)
        for method, pattern in routes():
            one = "gpu-1" if "pool" in pattern else "me" if "debug" in pattern else "0"
            path = path_of(pattern, one)
            for_user = pattern.endswith(("release", "state"))
            if for_user or "holders" not in pattern or one == "me":
                body = {"state": "open", "prompt": graphs.picture(), "mode": "exclusive"}
                caller = world.user if for_user else a
                await caller.call(method, path.lstrip("/"), json=body)


async def nobody_is_told_anything(world: World) -> None:
    form = {"Content-Type": "multipart/form-data"}
    for method, pattern in routes():
        path = path_of(pattern, "0").lstrip("/")
        assert (await world.stranger.call(method, path)).status == 403
        # A form that is none is refused to everybody.
        broken = await world.user.call(method, path, data=b"{}", headers=form)
        assert broken.code == (400, "bad_request")
        if "[^/]" in pattern:
            broken = await world.user.call(method, path_of(pattern, "%ff").lstrip("/"))
            assert broken.code == (400, "bad_request")
