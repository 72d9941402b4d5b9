"""Recorded exchanges with ComfyUI 0.33.0, done again.

The recordings in `traces/` were made for this project on a real ComfyUI; paths, tracebacks
and long texts are shortened. They are replayed against the embedded server, and against a
real one where there is one: `REAL_COMFYUI=1`, or `COMFY_TEST_URLS=url`.

Not here: recordings that hold no exchanges but only counts of races (25, 31), need a client
that stops reading (32), other start options (40), or a killed server (41); and those in which
two prompts of equal number and id end ComfyUI's worker thread (98, 99), which ours survives:
see `tests/embedded/test_queue.py`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from packaging.version import Version

from jupyter_comfy_lock.embedded import EmbeddedComfy
from tests.conformance.replay import Replay, shortened
from tests.embedded_trace_nodes import NODES

TRACES = sorted((Path(__file__).parent / "traces").glob("*.json"))

#: What older servers lack: since when, where, and what it is.
SINCE = (
    ("0.6.0", r"^/api(/api)?/jobs", "/api/jobs"),
    ("0.20.0", r"^/api/assets", "/api/assets"),
    ("0.33.0", r"^(/api)?/(object_info|system_stats|features|models|extensions)", "details"),
)

#: Recordings that make no sense as a whole on an older server.
NEEDS = {
    "09-jobs-api-cancel": ("0.26.0", "POST /api/jobs/{id}/cancel"),
    "10-prompt-validation": ("0.25.0", "the check of prompt_id and the error missing_node_type"),
    "24-origin-host": ("0.19.0", "the check of Sec-Fetch-Site"),
}

#: Exchanges that tell of all prompts a server ever ran.
LISTS_EVERYTHING = re.compile(r"^(/api)*/(jobs|history)(\?|$)")

#: Recordings whose answers depend on all that was sent before.
NEEDS_A_FRESH_SERVER = {
    "11-number-front-order": "explicit numbers are compared with the server's counter",
}


@dataclass(frozen=True)
class Target:
    url: str
    version: Version
    is_fresh: bool
    node_classes: frozenset[str]

    def missing(self, method: str, path: str) -> str | None:
        """Why the answer cannot be as recorded; None: it can."""
        if method == "GET" and not self.is_fresh and LISTS_EVERYTHING.match(path):
            return f"{path} not compared: it lists what others sent to this server"
        for since, pattern, what in SINCE:
            if self.version < Version(since) and re.match(pattern, path):
                return f"{path} not compared: {what} is as recorded since {since}"
        return None


@pytest_asyncio.fixture
async def target(lasting_url, tmp_path):
    if lasting_url:
        yield await describe(lasting_url, is_fresh=False)
        return
    async with EmbeddedComfy("conformance", base_directory=tmp_path, nodes=NODES) as comfy:
        yield await describe(comfy.url, is_fresh=True)


async def describe(url: str, *, is_fresh: bool) -> Target:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}/system_stats") as response:
            version = (await response.json())["system"]["comfyui_version"]
        async with session.get(f"{url}/object_info") as response:
            classes = frozenset(await response.json())
    return Target(url, Version(version), is_fresh, classes)


@pytest.mark.asyncio
@pytest.mark.parametrize("path", TRACES, ids=lambda x: x.stem)
async def test_a_server_answers_as_recorded(path, target):
    trace = json.loads(path.read_text())
    skip_what_the_server_cannot(trace, target)
    async with aiohttp.ClientSession() as session:
        replay = Replay(session, target.url, shortened(trace["events"]), target.missing)
        await replay.run()
    for reason in sorted(replay.left_out):
        print(reason)
    assert not replay.problems, "\n".join(replay.problems)


def skip_what_the_server_cannot(trace, target):
    name = trace["trace"]
    since, what = NEEDS.get(name, ("0", ""))
    if target.version < Version(since):
        pytest.skip(f"{name} needs {what}, new in {since}; this server is {target.version}")
    if name in NEEDS_A_FRESH_SERVER and not target.is_fresh:
        pytest.skip(f"{name} needs a server that has run nothing: {NEEDS_A_FRESH_SERVER[name]}")
    used = set(re.findall(r'"class_type": "(\w+)"', json.dumps(trace["events"])))
    if absent := used - target.node_classes - {"NoSuchNode"}:
        pytest.skip(f"{name} needs nodes that this server lacks: {', '.join(sorted(absent))}")


def test_there_are_recordings_to_compare_with():
    assert len(TRACES) >= 29
