"""Other ways to have a graph run on a ComfyUI server, each a process of its own.

A program in `programs` reads a line for each graph that it is to run, and writes one with the
seconds that it took to have the picture's bytes: "took SECONDS BYTES", or "failed WHY".
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.comfy_servers import leashed, wait_for
from tests.installed_once import installed_once, make_venv

_PROGRAMS = Path(__file__).with_name("programs")
_SDK = Path(__file__).with_name("sdk-requirements.txt")
#: Seconds after which a graph that takes milliseconds is given up.
GIVEN_UP_S = 20.0
_START_S = 60.0


class Peer:
    """One of them; started when it is first asked, and anew when it did not answer."""

    def __init__(
        self, python: Path, program: str, *arguments: str, env: Mapping[str, str] | None = None
    ) -> None:
        self._command: Sequence[str] = [str(python), str(_PROGRAMS / program), *arguments]
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self._process: asyncio.subprocess.Process | None = None
        #: How often each thing went wrong.
        self.faults: dict[str, int] = {}

    async def __aenter__(self) -> Peer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def run(self, graph: str) -> float | None:
        """The seconds that it took to have the bytes of the picture; None if it never had them."""
        try:
            async with asyncio.timeout(_START_S):
                await self._start()
            async with asyncio.timeout(GIVEN_UP_S):
                said = await self._answer(graph)
        except TimeoutError:
            await self._end()
            said = [f"no answer within {GIVEN_UP_S:g} s"]
        match said:
            case ["took", seconds, size] if int(size):
                return float(seconds)
        # Two that differ in an id alone are the same.
        fault = re.sub(r"[0-9a-f-]{36}", "…", " ".join(said))
        self.faults[fault] = self.faults.get(fault, 0) + 1
        return None

    async def _start(self) -> None:
        if self._process is not None:
            return
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        await self._heard("ready")

    async def _answer(self, graph: str) -> list[str]:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{graph}\n".encode())
        return await self._heard("took", "failed")

    async def _heard(self, *words: str) -> list[str]:
        assert self._process is not None
        assert self._process.stdout is not None
        # Some print what they like in between.
        while line := (await self._process.stdout.readline()).decode():
            if line.split(maxsplit=1)[:1] and line.split()[0] in words:
                return line.split()
        await self._end()
        return ["it", "ended"]

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
        if process is not None:
            await process.wait()


def sdk_python() -> Path:
    """A Python that has comfy-sdk and comfy-api-proxy; installs them once."""
    folder = installed_once(
        "sdk", lambda to: make_venv(to / "venv", _SDK) and None, of=[_SDK.read_text()]
    )
    return folder / "venv" / "bin" / "python"


@contextmanager
def sdk_proxy(python: Path, comfy_url: str) -> Iterator[str]:
    """Run comfy-api-proxy in front of a ComfyUI server; its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python.with_name("comfy-api-proxy"), "run", "--comfyui", comfy_url]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        places = {**os.environ, "HOME": folder}
        with leashed(
            [*map(str, command), "--port", str(port)], log=log, cwd=Path(folder), env=places
        ) as process:
            wait_for(lambda: _answers(url), process=process, log=log)
            yield url


def _answers(url: str) -> str | None:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        # It has nothing at its root, and says so.
        return url
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None
    return url
