"""A ComfyUI, or a proxy before it, that answers anything: each call has a clear end (R9, R10).

A few hundred answers in CI; COMFY_FUZZ=20000 has it give so many.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from aiohttp import web

from tests.fuzz.mutate import Mutator, first_part, recorded_answers, with_no_numbers
from tests.fuzz.test_gateway import settings as settings
from tests.server import graphs
from tests.server.conftest import SECRET
from tests.server.conftest import jp_server_config as jp_server_config
from tests.server.conftest import pool as pool
from tests.server.conftest import world as world
from tests.server.world import Answer, Comfy, Kernel, World

ANSWERS = int(os.environ.get("COMFY_FUZZ", "400"))
SEED = int(os.environ.get("COMFY_FUZZ_SEED", "1"))
#: Where nobody must be sent (R10).
AWAY = "http://127.0.0.1:9/"
#: What the product reads of a ComfyUI.
READ = ("queue", "history", "prompt", "system_stats", "jobs", "view", "object_info", "upload")
#: What a ComfyUI that cannot be understood may be called.
FAULTS = {
    "comfy_unreachable", "comfy_unauthorized", "comfy_unsupported", "not_comfyui",
    "prompt_rejected", "unknown_file", "lock_refused", "no_lock",
}  # fmt: skip


class Liar:
    """Answers one request out of some with what ComfyUI would not say, while it lies."""

    def __init__(self) -> None:
        self._random = Random(SEED)
        self._recorded = recorded_answers()
        self._mutator = Mutator([], [""], self._random)
        self.said: Counter[str] = Counter()
        #: Bodies of what was answered and is no success.
        self.refusals: set[bytes] = set()
        self.lies = False

    def about(self, names: list[str]) -> None:
        """Lie from now on, about these among others."""
        self._mutator = Mutator([], names, self._random)
        self.lies = True

    @web.middleware
    async def middleware(self, request: web.Request, handler: Any) -> web.StreamResponse:
        first = first_part(request.path)
        if not self.lies or first not in READ or self._random.random() < 0.5:
            answer: web.StreamResponse = await handler(request)
            return answer
        self.said[f"{request.method} {first}"] += 1
        body = self._body(first)
        status = self._random.choice([200] * 12 + [204, 302, 400, 401, 403, 404, 413, 500, 502])
        if status != 200:
            self.refusals.add(body)
        return web.Response(
            status=status,
            body=body,
            headers={"Location": AWAY},
            content_type=self._random.choice(["application/json"] * 3 + ["text/html", "x/y"]),
        )

    def _body(self, first: str) -> bytes:
        random = self._random
        match random.randrange(8):
            case 0:
                return random.randbytes(random.randint(0, 300))
            case 1:
                return b"<html><body>Please log in" + random.randbytes(9)
            case 2:
                return b"[" * 100_000
        seeds = self._recorded.get(first) or [{}]
        said = random.choice(seeds)
        for _ in range(random.randint(1, 3)):
            said = self._mutator.value(said)
        text = json.dumps(said)
        if random.random() < 0.2:
            text = with_no_numbers(text, random)
        return text.encode(errors="surrogatepass")


@pytest.fixture
def liar() -> Liar:
    """What stands before gpu-1."""
    return Liar()


@pytest.fixture
def comfies(jp_asyncio_loop: asyncio.AbstractEventLoop, liar: Liar) -> Iterator[dict[str, Comfy]]:
    """One ComfyUI server."""
    comfy = Comfy("gpu-1", middlewares=[liar.middleware])
    jp_asyncio_loop.run_until_complete(comfy.start())
    yield {"gpu-1": comfy}
    jp_asyncio_loop.run_until_complete(comfy.stop())


async def one_of_all(kernel: Kernel, ended: dict[str, Any], random: Random) -> tuple[str, Answer]:
    """Do one of the things that need the ComfyServer; what it was, and the answer."""
    file = ended["files"][0]
    view = f"view?filename={file['filename']}&subfolder={file['subfolder']}&type={file['type']}"
    path = random.choice(
        [
            "GET queue", "GET history", f"GET history/{ended['task_id']}", "GET prompt",
            "GET api/jobs", "GET system_stats", "GET object_info", f"GET {view}", "POST queue",
            "POST prompt", "GET /pool", f"GET /tasks/{ended['task_id']}/files/0", "POST /tasks",
            "POST /locks",
        ]
    )  # fmt: skip
    method, _, rest = path.partition(" ")
    body: dict[str, Any] = {}
    if rest in ("prompt", "/tasks"):
        body = {"prompt": graphs.picture()}
    elif rest == "/locks":
        body = {"comfy_id": "gpu-1", "mode": random.choice(["shared", "exclusive"])}
    elif rest == "queue":
        body = {"delete": ["nobody's"]}
    options: dict[str, Any] = {"json": body} if method == "POST" else {}
    if rest.startswith("/"):
        return path, await kernel.call(method, rest[1:], **options)
    return path, await kernel.comfy(method, rest, **options)


def fault_of(what: str, answer: Answer, liar: Liar) -> str | None:
    """What is wrong with an answer, if something is."""
    shown = f"{answer.status} for {what}: {answer.body[:300]!r}"
    if SECRET.encode() in answer.body:
        return f"a secret in {shown}"
    if AWAY in repr(sorted(answer.headers.items())):
        return f"leads away from the pool: {shown}"
    # A client of ComfyUI hears of a refusal in ComfyUI's own words.
    if answer.status < 500 or answer.body in liar.refusals:
        return None
    try:
        code = answer.json()["code"]
    except (ValueError, KeyError, TypeError):
        return shown
    return None if code in FAULTS and answer.status in (502, 503, 504) else shown


@pytest.mark.timeout(3600)
async def test_r9_whatever_a_comfyserver_answers_each_call_ends_clearly(
    world: World, liar: Liar, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    random = Random(SEED)
    a = await world.kernel("a.ipynb")
    await a.lock("gpu-1")
    ended = await a.ended(await a.prompt(graphs.picture(prefix="mine")))
    running = await a.prompt(graphs.steps(100_000))
    await a.task_in(running, "running")
    liar.about([running, ended["task_id"], "nobody's", "1"])
    wrong: list[str] = []
    statuses: Counter[int] = Counter()
    for _ in range(ANSWERS):
        what, answer = await one_of_all(a, ended, random)
        statuses[answer.status] += 1
        if fault := fault_of(what, answer, liar):
            wrong.append(fault)
    liar.lies = False
    print(f"{ANSWERS} calls: {dict(statuses)}; lies: {dict(liar.said)}")
    assert wrong == []
    ours = [x for x in caplog.records if x.name != "aiohttp.server"]
    assert [(x.getMessage(), x.exc_text) for x in ours if x.exc_info] == []
    # Whatever was thought meanwhile: what is asked now is true.
    assert (await a.lock("gpu-1"))["comfy_id"] == "gpu-1"
    last = await a.prompt(graphs.picture(prefix="last"))
    await a.cancel(running)
    assert (await a.ended(last))["state"] == "succeeded"
