"""What a small request costs through the gateway, beside other ways to a ComfyUI server.

    python -m tests.benchmarks.relay [ROUNDS]

Asks for small things through the gateway, of an empty authenticated handler of the same Jupyter
server, through jupyter-server-proxy in it, and of the ComfyUI server itself. In each round (10 if
left out) every one of them is asked for a second, over 1 connection and over 8 at once, in turn,
so that noise falls on all. The 50th and 99th percentile of all rounds, how many a second, and the
processor time that one of them costs the Jupyter server, which hardly depends on what else runs.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

from tests.benchmarks.figures import Report, Wanted, ms, percentile
from tests.benchmarks.keep_alive import KeepAlive
from tests.benchmarks.stage import Stage, stage
from tests.comfy_servers import comfy_servers, default_kind

#: Seconds for which each is asked in each round.
_SLICE_S = 1.0
#: Rewritten by the gateway; handed on as it is.
_ASKED_THERE = ("system_stats", "features")
#: The first is answered by the gateway alone.
PATHS = ("prompt", *_ASKED_THERE)
_MOST = 1.3


async def ask(way: Callable[[], KeepAlive], connections: int, seconds: float) -> list[float]:
    """The seconds that each of many requests took, one after the other on each connection."""
    times: list[float] = []

    async def one(connection: KeepAlive) -> None:
        # A new connection is a request's worth of work.
        await connection.get()
        end_s = time.perf_counter() + seconds
        while (start_s := time.perf_counter()) < end_s:
            await connection.get()
            times.append(time.perf_counter() - start_s)

    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(way()) for _ in range(connections)]
        await asyncio.gather(*map(one, opened))
    return times


def ways(at: Stage) -> dict[str, Callable[[], KeepAlive]]:
    """All that are measured, by what they are called."""
    found: dict[str, Callable[[], KeepAlive]] = {"empty handler": at.empty}
    for path in PATHS:
        found[f"direct /{path}"] = lambda path=path: at.direct(path)
        found[f"jupyter-server-proxy /{path}"] = lambda path=path: at.through_proxy(path)
        found[f"gateway /{path}"] = lambda path=path: at.through_gateway(path)
    return found


async def measure(at: Stage, rounds: int, connections: int) -> None:
    found = ways(at)
    times: dict[str, list[float]] = {name: [] for name in found}
    cpu_s = dict.fromkeys(found, 0.0)
    for way in found.values():
        await ask(way, connections, 0.2)
    for _ in range(rounds):
        for name, way in found.items():
            before_s = at.cpu_s()
            times[name] += await ask(way, connections, _SLICE_S)
            cpu_s[name] += at.cpu_s() - before_s
    report = Report(
        f"{connections} connection(s), {rounds} rounds of {_SLICE_S:g} s each, "
        f"a ComfyUI server of the kind {default_kind()!r}",
        ("p50", "p99", "a second", "CPU", "ratio", "wanted"),
    )
    for name, took in times.items():
        a_second = f"{len(took) / rounds / _SLICE_S:.0f}"
        cpu = "" if name.startswith("direct") else f"{1000 * cpu_s[name] / len(took):.2f} ms"
        report.add(name, ms(took, 50), ms(took, 99), a_second, cpu)
    for path in PATHS:
        _judge(report, path, times)
    report.show()


def _judge(report: Report, path: str, times: dict[str, list[float]]) -> None:
    empty, direct, ours = (
        percentile(times[name], 50)
        for name in ("empty handler", f"direct /{path}", f"gateway /{path}")
    )
    nothing = [""] * 4
    wanted = Wanted(ratio=ours / empty, limit=_MOST)
    report.add(f"gateway /{path} beside the empty handler", *nothing, wanted=wanted)
    if path in _ASKED_THERE:
        # What ComfyUI takes for its answer is not the gateway's doing.
        wanted = Wanted(ratio=(ours - direct) / empty, limit=_MOST)
        report.add("  less what it takes directly", *nothing, wanted=wanted)
    proxy = times[f"jupyter-server-proxy /{path}"]
    more = len(times[f"gateway /{path}"]) / len(proxy)
    wanted = Wanted(ratio=more, limit=2, at_least=True)
    report.add("  a second, beside jupyter-server-proxy", *nothing, wanted=wanted)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with comfy_servers(1) as (url,), stage(url) as at:
        for connections in (1, 8):
            asyncio.run(measure(at, rounds, connections))


if __name__ == "__main__":
    main()
