"""What a result of 20 MB costs through the gateway, beside other ways to a ComfyUI server.

    python -m tests.benchmarks.results [ROUNDS]

Has the ComfyUI server make a picture of noise, and fetches it through the gateway, through
jupyter-server-proxy in the same Jupyter server, and from the ComfyUI server itself, in turn: one
at a time, and four at once (20 rounds if left out). The time until all are there, and how far the
memory of the Jupyter server rises meanwhile (on Linux).
"""

import asyncio
import io
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlencode

import httpx
import numpy as np
from PIL import Image

from tests.benchmarks.figures import Report, Wanted, ms, percentile
from tests.benchmarks.keep_alive import KeepAlive
from tests.benchmarks.stage import Stage, stage
from tests.comfy_servers import comfy_servers, default_kind

#: Pixels of an edge of the picture; noise cannot be compressed.
_EDGE = 2600
#: MiB by which the Jupyter server may grow for each result that passes through it.
_FLAT_MIB = 4.0


class Peak:
    """The highest memory that a process had since `forget`."""

    def __init__(self, pid: int) -> None:
        self._folder = Path("/proc", str(pid))
        self.is_known = (self._folder / "clear_refs").exists()

    def forget(self) -> None:
        """Begin to look, from what it has now."""
        if self.is_known:
            (self._folder / "clear_refs").write_text("5")
            self._before = self._read("VmRSS")

    def rise_mib(self) -> float:
        """How far above that it has been since then."""
        return self._read("VmHWM") - self._before if self.is_known else 0.0

    def _read(self, name: str) -> float:
        lines = (self._folder / "status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def make_result(at: Stage) -> str:
    """Have a task of this kernel leave the picture; the path from which ComfyUI serves it."""
    import jupyter_comfy_lock as comfy

    noise = np.random.default_rng(1).integers(0, 256, (_EDGE, _EDGE, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "png", compress_level=0)
    answer = httpx.post(
        f"{at.gateway}upload/image", files={"image": ("noise.png", file.getvalue())}
    )
    save = {"images": ["1", 0], "filename_prefix": "noise"}
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": answer.json()["name"]}},
        "2": {"class_type": "SaveImage", "inputs": save},
    }
    (made,) = comfy.submit(graph).wait().files
    asked = {"filename": made.filename, "subfolder": made.subfolder, "type": made.type}
    return f"view?{urlencode(asked)}"


async def fetch(way: Callable[[], KeepAlive], at_once: int) -> float:
    """The seconds until as many results are there."""
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(way()) for _ in range(at_once)]
        start_s = time.perf_counter()
        sizes = await asyncio.gather(*(each.get() for each in opened))
        took_s = time.perf_counter() - start_s
    assert min(sizes) == max(sizes) > 20 * 10**6, sizes
    return took_s


async def measure(at: Stage, path: str, rounds: int, at_once: int) -> None:
    ways: dict[str, Callable[[], KeepAlive]] = {
        "direct": lambda: at.direct(path),
        "jupyter-server-proxy": lambda: at.through_proxy(path),
        "gateway": lambda: at.through_gateway(path),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    rises: dict[str, list[float]] = {name: [] for name in ways}
    peak = Peak(at.server.pid)
    for number in range(-1, rounds):
        for name, way in ways.items():
            peak.forget()
            took_s = await fetch(way, at_once)
            if number >= 0:
                times[name].append(took_s)
                rises[name].append(peak.rise_mib())
    report = Report(
        f"{at_once} result(s) of 20 MB at once, {rounds} rounds, "
        f"a ComfyUI server of the kind {default_kind()!r}",
        ("p50", "p99", "memory, at most", "ratio", "wanted"),
    )
    p50 = {name: percentile(took, 50) for name, took in times.items()}
    for name, took in times.items():
        rise = "" if name == "direct" else f"+{max(rises[name]):.1f} MiB"
        wanted = None
        if name == "gateway":
            wanted = Wanted(ratio=p50[name] / p50["direct"], limit=1.5)
        report.add(name, ms(took, 50), ms(took, 99), rise, wanted=wanted)
    beside = Wanted(ratio=p50["gateway"] / p50["jupyter-server-proxy"], limit=1)
    report.add("  beside jupyter-server-proxy", "", "", "", wanted=beside)
    if peak.is_known:
        flat = Wanted(ratio=max(rises["gateway"]) / at_once / _FLAT_MIB, limit=1)
        report.add(f"  memory beside {_FLAT_MIB:g} MiB each", "", "", "", wanted=flat)
    report.show()


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with comfy_servers(1) as (url,), stage(url) as at:
        path = make_result(at)
        for at_once in (1, 4):
            asyncio.run(measure(at, path, rounds, at_once))


if __name__ == "__main__":
    main()
