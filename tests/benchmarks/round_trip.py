"""What the product costs: from submitting a tiny graph to having its picture's bytes.

    python -m tests.benchmarks.round_trip [COUNT]

Runs COUNT prompts (300 if left out) through a kernel's API, each beside one of a bare script that
talks HTTP and WebSocket to the same ComfyUI server, and beside those of other packages as their
users have them run: comfy-script directly on that server, comfy-sdk by way of comfy-api-proxy; so
that noise falls on all. The server is the embedded one, or as tests/comfy_servers.py says. How many
pictures each of them lost, the 50th and 99th percentile of the others, the ratio to the bare
script's, and the memory of the Jupyter server before and after.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from uuid import uuid4

import aiohttp
import psutil

from tests.benchmarks.figures import Report, Wanted, ms, percentile
from tests.benchmarks.peers import Peer, sdk_proxy, sdk_python
from tests.benchmarks.stage import Stage, stage
from tests.clients.install import installed_clients
from tests.comfy_servers import comfy_servers, default_kind

#: Rounds that are not counted.
WARM_UP = 10


def graph(color: int) -> dict[str, object]:
    """Three nodes that make one small picture; another color is another result."""
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": color},
        },
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {
            "class_type": "SaveImage",
            "inputs": {"images": ["2", 0], "filename_prefix": "bench"},
        },
    }


class BareScript:
    """The least a script must do: send, hear of the end, read the history, fetch the picture."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client_id = str(uuid4())

    async def __aenter__(self) -> "BareScript":
        self.session = aiohttp.ClientSession()
        self.socket = await self.session.ws_connect(f"{self.url}/ws?clientId={self.client_id}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.socket.close()
        await self.session.close()

    async def run(self, color: int) -> float | None:
        start_s = time.perf_counter()
        size = await self._run(color)
        return time.perf_counter() - start_s if size else None

    async def _run(self, color: int) -> int:
        body = {"prompt": graph(color), "client_id": self.client_id}
        async with self.session.post(f"{self.url}/prompt", json=body) as response:
            prompt_id = (await response.json())["prompt_id"]
        async for message in self.socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            said = json.loads(message.data)
            data = said["data"]
            over = said["type"] == "executing" and data["node"] is None
            if over and data["prompt_id"] == prompt_id:
                break
        async with self.session.get(f"{self.url}/history/{prompt_id}") as response:
            outputs = (await response.json())[prompt_id]["outputs"]
        async with self.session.get(f"{self.url}/view", params=outputs["3"]["images"][0]) as view:
            return len(await view.read())


async def ours(color: int) -> float | None:
    """Do the same through the kernel's API."""

    def run() -> float | None:
        import jupyter_comfy_lock as comfy

        start_s = time.perf_counter()
        task = comfy.submit(graph(color)).wait()
        size = len(task.images[0].tobytes())
        return time.perf_counter() - start_s if size else None

    return await asyncio.to_thread(run)


#: Has the graph with a color run; the seconds that it took, None when its picture was lost.
Runner = Callable[[int], Awaitable[float | None]]


async def start_peers(stack: AsyncExitStack, at: Stage) -> dict[str, Peer]:
    """The other packages, by what they are called."""
    python = sdk_python()
    proxy = {"COMFY_BASE_URL": stack.enter_context(sdk_proxy(python, at.comfy_url))}
    sdk = "with_comfy_sdk.py"
    peers = {
        "comfy-script": Peer(installed_clients().python, "with_comfy_script.py", at.comfy_url),
        "comfy-sdk, run()": Peer(python, sdk, "run", env=proxy),
        "comfy-sdk, events()": Peer(python, sdk, "events", env=proxy),
    }
    for peer in peers.values():
        await stack.enter_async_context(peer)
    return peers


async def measure(at: Stage, count: int) -> None:
    times: dict[str, list[float]] = {}
    jupyter = psutil.Process(at.server.pid)
    before = 0.0
    async with AsyncExitStack() as stack:
        bare = await stack.enter_async_context(BareScript(at.comfy_url))
        peers = await start_peers(stack, at)
        found: dict[str, Runner] = {"bare script": bare.run, "this product": ours}
        found |= {name: _of(peer) for name, peer in peers.items()}
        # Each run has a color of its own, or ComfyUI would have its picture already.
        color = 0
        for number in range(-WARM_UP, count):
            if number == 0:
                before = jupyter.memory_info().rss / 2**20
                times = {name: [] for name in found}
            for name, run in found.items():
                color += 1
                took_s = await run(color)
                if took_s is not None:
                    times.setdefault(name, []).append(took_s)
    after = jupyter.memory_info().rss / 2**20
    _show(times, count)
    for name, peer in peers.items():
        for fault, often in peer.faults.items():
            print(f"{name}, {often} times: {fault}")
    print(f"memory of the Jupyter server: {before:.0f} MiB before, {after:.0f} MiB after")


def _of(peer: Peer) -> Runner:
    return lambda color: peer.run(json.dumps(graph(color)))


def _show(times: dict[str, list[float]], count: int) -> None:
    report = Report(
        f"{count} prompts each on a ComfyUI server of the kind {default_kind()!r}",
        ("lost", "p50", "p99", "ratio", "wanted"),
    )
    bare_s = percentile(times["bare script"], 50)
    for name, took in times.items():
        figures = str(count - len(took)), ms(took, 50), ms(took, 99)
        p50 = percentile(took, 50)
        if name != "this product":
            report.add(name, *figures, f"{p50 / bare_s:.2f} x")
            continue
        report.add(name, *figures, wanted=Wanted(ratio=p50 / bare_s, limit=1.5))
        report.add("  beside 20 ms more", *[""] * 3, wanted=_more_than(bare_s, p50))
    report.show()


def _more_than(bare_s: float, p50: float) -> Wanted:
    return Wanted(ratio=(p50 - bare_s) / 0.02, limit=1)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    with comfy_servers(1) as (url,), stage(url) as at:
        asyncio.run(measure(at, count))


if __name__ == "__main__":
    main()
