"""Settings and files of ComfyUI's web interface: each holder has its own (R4)."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from jupyter_comfy_lock.domain import desk
from tests.server.world import Kernel, World

WRITES = {"POST", "PUT", "DELETE", "PATCH"}


async def two(world: World) -> tuple[Kernel, Kernel]:
    """Two kernels that share gpu-1."""
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    await a.lock("gpu-1")
    await b.lock("gpu-1")
    return a, b


async def shown(kernel: Kernel, path: str) -> Any:
    answer = await kernel.comfy("GET", path)
    assert answer.status == 200, answer.body
    return answer.json()


@pytest.mark.parametrize("prefix", ["", "api/"])
async def test_what_one_sets_is_set_for_nobody_else(world: World, prefix: str):
    a, b = await two(world)
    world.gpu.faults.instead["/settings"] = lambda: web.json_response({"theme": "light", "x": 1})
    assert (await a.comfy("POST", f"{prefix}settings/theme", json="dark")).status == 200
    assert (await a.comfy("POST", f"{prefix}settings", json={"y": [2]})).status == 200
    # On top of what the ComfyServer's own users have set.
    assert await shown(a, f"{prefix}settings") == {"theme": "dark", "x": 1, "y": [2]}
    assert await shown(a, f"{prefix}settings/theme") == "dark"
    assert await shown(a, f"{prefix}settings/none") is None
    assert await shown(b, f"{prefix}settings") == {"theme": "light", "x": 1}
    assert not WRITES & {call.method for call in world.gpu.calls}


async def test_a_comfyserver_without_settings_for_us_does_no_harm(world: World):
    a, _ = await two(world)
    world.gpu.faults.instead["/settings"] = lambda: web.Response(status=401)
    await a.comfy("POST", "settings/theme", json="dark")
    assert await shown(a, "settings") == {"theme": "dark"}
    assert await shown(a, "users") == {"storage": "server", "migrated": True}


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
async def test_files_are_written_read_listed_moved_and_deleted(world: World, mode: str):
    a = await world.kernel("a.ipynb")
    await a.lock("gpu-1", mode)
    about = (await a.comfy("POST", "userdata/workflows%2Fa.json?full_info=true", data=b"{}")).json()
    assert (about["path"], about["size"]) == ("workflows/a.json", 2)
    answer = await a.comfy("POST", "api/userdata/workflows%2Fd%2Fb.json", data=b"[]")
    assert answer.json() == "workflows/d/b.json"
    read = await a.comfy("GET", "userdata/workflows%2Fa.json")
    assert (read.body, read.headers["Content-Type"]) == (b"{}", "application/json")

    assert await shown(a, "userdata?dir=workflows") == ["a.json"]
    assert await shown(a, "userdata?dir=workflows&recurse=true&split=true") == [
        ["a.json", "a.json"],
        ["d/b.json", "d", "b.json"],
    ]
    listed = await shown(a, "userdata?dir=workflows&recurse=true&full_info=true")
    assert listed == [{**about, "path": "a.json"}, {**listed[1], "path": "d/b.json", "size": 2}]
    tree = await shown(a, "v2/userdata?path=workflows")
    assert [(x["name"], x["path"], x["type"]) for x in tree] == [
        ("d", "workflows/d", "directory"),
        ("a.json", "workflows/a.json", "file"),
        ("b.json", "workflows/d/b.json", "file"),
    ]

    moved = "userdata/workflows%2Fa.json/move/workflows%2Fd%2Fb.json"
    assert (await a.comfy("POST", f"{moved}?overwrite=false")).status == 409
    assert (await a.comfy("POST", moved)).json() == "workflows/d/b.json"
    assert (await a.comfy("GET", "userdata/workflows%2Fd%2Fb.json")).body == b"{}"
    assert (await a.comfy("DELETE", "userdata/workflows%2Fd%2Fb.json")).status == 204
    assert await shown(a, "v2/userdata") == []
    assert not [call for call in world.gpu.calls if "userdata" in call.path]


async def test_nobody_sees_or_changes_anothers_files(world: World):
    a, b = await two(world)
    await a.comfy("POST", "userdata/mine.json", data=b"1")
    assert (await b.comfy("GET", "userdata/mine.json")).status == 404
    assert (await b.comfy("DELETE", "userdata/mine.json")).status == 404
    await b.comfy("POST", "userdata/mine.json", data=b"2")
    assert (await a.comfy("GET", "userdata/mine.json")).body == b"1"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "userdata", 400),
        ("GET", "userdata/none.css", 404),
        ("POST", "userdata/none/move/other", 404),
        ("POST", "userdata/there?overwrite=false", 409),
        ("POST", "userdata/a/b", 404),
        ("POST", "users", 404),
        ("POST", "userdata/..%2F..%2Fetc", 403),
        ("PUT", "settings", 404),
    ],
)
async def test_what_makes_no_sense_is_refused(world: World, method: str, path: str, status: int):
    a, _ = await two(world)
    await a.comfy("POST", "userdata/there", data=b"")
    assert (await a.comfy(method, path, json={})).status == status


async def test_a_desk_holds_so_much_and_no_more(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(desk.Desk.__init__, "__defaults__", (100,))
    a, _ = await two(world)
    assert (await a.comfy("POST", "userdata/a", data=b"x" * 90)).status == 200
    assert (await a.comfy("POST", "userdata/b", data=b"x" * 90)).status == 413
    assert (await a.comfy("POST", "settings", json={"x": "y" * 90})).status == 413
    assert (await a.comfy("GET", "userdata/b")).status == 404


async def test_a_desk_needs_a_lock_like_everything_else(world: World):
    """R2."""
    kernel = await world.kernel()
    for method, path in [("GET", "settings"), ("GET", "users"), ("POST", "userdata/a")]:
        assert (await kernel.comfy(method, path)).code == (409, "no_lock")
