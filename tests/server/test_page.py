"""ComfyUI's own web interface through the gateway, as a browser is told to treat it (R10)."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from tests.server.world import Answer, Kernel, World

PAGE = '<!doctype html><html lang="en"><head><title>ComfyUI</title></head></html>'
POLICY = "Content-Security-Policy"
ALLOWED = "Access-Control-Allow-Origin"
#: What a browser says of a page without an origin.
NOBODY = {"Origin": "null"}


async def kernel_with_page(world: World, page: str = PAGE, **more: Any) -> Kernel:
    """A kernel that has locked a ComfyServer with this page."""
    more = {"content_type": "text/html", **more}
    for path in ("/", "/index.html"):
        world.gpu.faults.instead[path] = lambda: web.Response(text=page, **more)
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    return kernel


@pytest.mark.parametrize("path", ["", "index.html", "?x=y", "/"])
async def test_the_page_runs_scripts_without_the_jupyter_servers_origin(world: World, path: str):
    kernel = await kernel_with_page(world)
    answer = await kernel.comfy("GET", path)
    sandbox, frames = answer.headers[POLICY].split("; ")
    assert sandbox.split() == [
        *("sandbox", "allow-scripts", "allow-forms", "allow-modals", "allow-popups"),
        "allow-downloads",
    ]
    assert frames == "frame-ancestors 'self'"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    # Our script is before all others, and the page is whole.
    before, script, after = answer.body.decode().partition("</script>\n")
    assert before.startswith("<!doctype html>\n<script>\n")
    assert "localStorage" in before
    assert (script, after) == ("</script>\n", PAGE)


async def test_only_the_page_runs_scripts(world: World):
    kernel = await kernel_with_page(world)
    world.gpu.faults.instead["/extensions/a/page.html"] = lambda: web.Response(
        text=PAGE, content_type="text/html"
    )
    for path in ("extensions/a/page.html", "object_info/SaveImage", "queue", "internal/logs"):
        answer = await kernel.comfy("GET", path)
        assert answer.headers[POLICY] == "sandbox", path
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert b"localStorage" not in answer.body


@pytest.mark.parametrize(
    "answer",
    [
        {"content_type": "text/plain"},
        {"status": 500},
        {"headers": {"Content-Encoding": "compress"}},
    ],
)
async def test_what_is_no_page_is_passed_on_and_runs_nothing(world: World, answer: dict[str, Any]):
    kernel = await kernel_with_page(world, "<script>1</script>", **answer)
    got = await kernel.comfy("GET", "", headers={"Accept-Encoding": "compress"})
    assert got.headers[POLICY] == "sandbox"
    assert got.body == b"<script>1</script>"


async def test_nothing_of_the_browsers_call_for_the_page_reaches_comfyui(world: World):
    kernel = await kernel_with_page(world)
    await kernel.comfy("GET", "", headers={"If-None-Match": "x", "Range": "bytes=0-1"})
    seen = next(x for x in world.gpu.calls if x.path == "/")
    assert not {"If-None-Match", "Range", "Accept-Encoding"} & set(seen.headers)


async def test_without_its_last_slash_the_url_leads_to_the_one_that_has_it(world: World):
    kernel = await kernel_with_page(world)
    answer = await kernel.raw("GET", kernel.gateway_path.rstrip("/") + "?a=b")
    assert answer.status == 302
    assert answer.headers["Location"] == f"{kernel.gateway_key}/?a=b"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "object_info/SaveImage", 200),
        ("GET", "queue", 200),
        ("GET", "settings", 200),
        ("POST", "prompt", 400),
        ("GET", "internal/logs", 403),
        ("GET", "no/such/thing", 403),
        ("GET", "view?filename=none.png", 404),
        ("OPTIONS", "prompt", 204),
    ],
)
async def test_a_page_without_origin_may_read_answers_and_refusals(
    world: World, method: str, path: str, status: int
):
    kernel = await kernel_with_page(world)
    answer = await kernel.comfy(method, path, headers=NOBODY)
    assert (answer.status, answer.headers[ALLOWED]) == (status, "null")
    assert "Origin" in answer.headers.getall("Vary")
    # No cookie goes with it, so nobody is let in by one.
    assert "Access-Control-Allow-Credentials" not in answer.headers


async def test_a_lost_lock_is_told_to_the_page_too(world: World):
    kernel = await kernel_with_page(world)
    await kernel.release()
    answer = await kernel.comfy("GET", "queue", headers=NOBODY)
    assert answer.code == (409, "no_lock")
    assert answer.headers[ALLOWED] == "null"


@pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost", "NULL", ""])
async def test_a_page_with_an_origin_may_read_nothing(world: World, origin: str):
    kernel = await kernel_with_page(world)
    for method, path in [("GET", "queue"), ("GET", ""), ("OPTIONS", "prompt")]:
        answer = await kernel.comfy(method, path, headers={"Origin": origin})
        assert ALLOWED not in answer.headers


async def test_whoever_does_not_know_the_key_is_told_nothing(world: World):
    kernel = await kernel_with_page(world)
    for method, path in [("GET", ""), ("GET", "/queue"), ("OPTIONS", "/prompt"), ("POST", "/x")]:
        guess = kernel.gateway_key[:-1] + "?"
        url = f"comfy-lock/gateway/{guess[:-1]}{path}"
        answer = await world.stranger.raw(method, url, headers=NOBODY)
        assert answer.status == 403
        assert ALLOWED not in answer.headers
        assert answer.headers[POLICY] == "sandbox"


async def test_what_comfyui_allows_other_sites_is_not_passed_on(world: World):
    kernel = await kernel_with_page(world)
    theirs = {ALLOWED: "*", "Access-Control-Allow-Credentials": "true", "Vary": "Cookie"}
    world.gpu.faults.instead["/models"] = lambda: web.json_response([], headers=theirs)
    answer: Answer = await kernel.comfy("GET", "models", headers={"Origin": "http://evil.example"})
    assert answer.json() == []
    assert answer.headers.getall("Vary") == ["Origin", "Cookie"]
    assert not {ALLOWED, "Access-Control-Allow-Credentials"} & set(answer.headers)
