"""What the product costs: from submitting a tiny graph to having its picture's bytes.

    python -m tests.benchmarks.round_trip [COUNT]

Runs COUNT prompts (300 if left out) through a kernel's API, each beside one of a bare script that
talks HTTP and WebSocket to the same ComfyUI server, so that noise falls on both. The server is the
embedded one, or as tests/comfy_servers.py says. Prints how many were lost, the 50th and 99th
percentile of both and their ratio, and the memory of the Jupyter server before and after.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import aiohttp
import psutil

from tests.comfy_servers import comfy_servers, default_kind
from tests.jupyter_servers import JupyterServer, jupyter_server

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

    async def run(self, color: int) -> int:
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


def ours(color: int) -> int:
    """Do the same through the kernel's API."""
    import jupyter_comfy_lock as comfy

    task = comfy.submit(graph(color)).wait()
    return len(task.images[0].tobytes())


def milliseconds(values: list[float]) -> str:
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]
    return f"p50 {statistics.median(ordered):6.1f} ms   p99 {p99:6.1f} ms"


def memory_mib(server: JupyterServer) -> float:
    return float(psutil.Process(server.pid).memory_info().rss / 2**20)


async def measure(url: str, server: JupyterServer, count: int) -> None:
    import jupyter_comfy_lock as comfy

    os.environ["COMFY_LOCK_URL"] = server.url
    os.environ["COMFY_LOCK_TOKEN"] = server.token
    comfy.lock("gpu-1")
    times: dict[str, list[float]] = {"bare": [], "ours": []}
    lost = 0
    before = 0.0
    async with BareScript(url) as bare:
        for number in range(-WARM_UP, count):
            if number == 0:
                before = memory_mib(server)
            color = 2 * (number + WARM_UP)
            start = time.perf_counter()
            await bare.run(color)
            middle = time.perf_counter()
            size = await asyncio.to_thread(ours, color + 1)
            end = time.perf_counter()
            if number >= 0:
                lost += size == 0
                times["bare"].append(1000 * (middle - start))
                times["ours"].append(1000 * (end - middle))
    after = memory_mib(server)
    comfy.release()
    ratio = statistics.median(times["ours"]) / statistics.median(times["bare"])
    print(f"{count} prompts on a server of the kind {default_kind()!r}: {lost} lost")
    print(f"bare script  {milliseconds(times['bare'])}")
    print(f"this product {milliseconds(times['ours'])}   {ratio:.2f} x the bare p50")
    print(f"memory of the Jupyter server: {before:.0f} MiB before, {after:.0f} MiB after")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    with tempfile.TemporaryDirectory() as folder, comfy_servers(1) as (url,):
        pool = [{"id": "gpu-1", "url": url}]
        with jupyter_server(pool, folder=Path(folder)) as server:
            asyncio.run(measure(url, server, count))


if __name__ == "__main__":
    main()
