"""How a flood of progress from a ComfyUI server delays others in the same Jupyter server.

    python -m tests.benchmarks.progress [ROUNDS]

A program plays a ComfyUI server that runs a prompt of this kernel. Small things are asked of the
Jupyter server 200 times a second: for two seconds while the prompt says nothing, then while it
sends 5,000 messages of its progress a second, then while a client listens to them through the
gateway as well, and so on for so many rounds (10 if left out). The 50th and 99th percentile of
each, how many messages came, how many events a subscriber of the event stream gets, and for how
much of the time the Jupyter server kept a processor busy.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.benchmarks.figures import Report, Wanted, ms, percentile
from tests.benchmarks.keep_alive import KeepAlive
from tests.benchmarks.stage import Stage, stage
from tests.comfy_servers import leashed, test_environment, wait_for

_RATE = 5000
_SLICE_S = 2.0
#: Seconds between two requests.
_PAUSE_S = 0.005
#: Events for each task that a person can make use of, a second.
_EVENTS = 20


@contextmanager
def flood() -> Iterator[str]:
    """Run the program that plays ComfyUI; its URL."""
    command = [sys.executable, "-m", "tests.benchmarks.flood"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with leashed(command, log=log, cwd=Path(folder), env=test_environment()) as process:

            def announced() -> str | None:
                lines = log.read_text().splitlines()
                return lines[0] if lines and lines[0].startswith("http") else None

            yield wait_for(announced, process=process, log=log)


class Subscriber:
    """Counts the events of tasks that the Jupyter user is told of."""

    def __init__(self, at: Stage) -> None:
        self._at = at
        self.events = 0

    async def listen(self, session: aiohttp.ClientSession) -> None:
        url = f"{self._at.server.url}comfy-lock/api/events"
        async with session.get(url, headers=self._at.token) as response:
            async for line in response.content:
                self.events += line == b"event: task\n"


async def ask(connection: KeepAlive, seconds: float) -> list[float]:
    """The seconds that each of the requests took that were made at a steady pace."""
    times: list[float] = []
    end_s = time.perf_counter() + seconds
    while (start_s := time.perf_counter()) < end_s:
        await connection.get()
        took_s = time.perf_counter() - start_s
        times.append(took_s)
        await asyncio.sleep(max(0.0, _PAUSE_S - took_s))
    return times


class Measured:
    """What came of one way to disturb the Jupyter server."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.asked = asked
        self.times: list[float] = []
        self.seconds = 0.0
        self.sent = 0
        self.heard = 0
        self.events = 0
        self.cpu_s = 0.0


async def measure(at: Stage, rounds: int) -> None:
    socket = at.gateway.replace("http", "ws") + "ws"
    ways = {
        "a silent prompt": Measured({"rate": 0, "listen": None}),
        "a flood": Measured({"rate": _RATE, "listen": None}),
        "a flood, and a client that hears it": Measured({"rate": _RATE, "listen": socket}),
    }
    subscriber = Subscriber(at)
    async with aiohttp.ClientSession() as session, at.empty() as empty:
        listening = asyncio.create_task(subscriber.listen(session))
        for number in range(-1, rounds):
            for each in ways.values():
                await _tell(session, at, each.asked)
                await ask(empty, _SLICE_S / 4)
                before = await _tell(session, at, {})
                events, cpu_s, start_s = subscriber.events, at.cpu_s(), time.perf_counter()
                times = await ask(empty, _SLICE_S)
                took_s = time.perf_counter() - start_s
                after = await _tell(session, at, {})
                if number >= 0:
                    each.times += times
                    each.seconds += took_s
                    each.cpu_s += at.cpu_s() - cpu_s
                    each.sent += after["sent"] - before["sent"]
                    each.heard += after["heard"] - before["heard"]
                    each.events += subscriber.events - events
        await _tell(session, at, {"rate": 0, "listen": None})
        listening.cancel()
    _show(ways, rounds)


async def _tell(session: aiohttp.ClientSession, at: Stage, asked: dict[str, Any]) -> dict[str, int]:
    async with session.put(f"{at.comfy_url}/flood", json=asked) as response:
        return dict(await response.json())


def _show(ways: dict[str, Measured], rounds: int) -> None:
    report = Report(
        f"{1 / _PAUSE_S:g} requests a second, {rounds} rounds of {_SLICE_S:g} s each",
        ("p50", "p99", "sent/s", "heard/s", "events/s", "CPU", "ratio", "wanted"),
    )
    silent = ways["a silent prompt"]
    for name, each in ways.items():
        a_second = (f"{count / each.seconds:.0f}" for count in (each.sent, each.heard, each.events))
        wanted = None
        if each is not silent:
            ratio = percentile(each.times, 99) / percentile(silent.times, 99)
            wanted = Wanted(ratio=ratio, limit=2)
        busy = f"{100 * each.cpu_s / each.seconds:.0f} %"
        report.add(name, ms(each.times, 50), ms(each.times, 99), *a_second, busy, wanted=wanted)
        if each is not silent:
            few = Wanted(ratio=each.events / each.seconds / _EVENTS, limit=1)
            report.add(f"  events beside {_EVENTS} a second", *[""] * 6, wanted=few)
    report.show()


def main() -> None:
    import jupyter_comfy_lock as comfy

    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with flood() as url, stage(url) as at:
        task = comfy.submit({"1": {"class_type": "Flood", "inputs": {}}})
        asyncio.run(measure(at, rounds))
        task.cancel()


if __name__ == "__main__":
    main()
