"""ComfyUI servers for tests: the embedded one, a real one, or those that already run.

    with comfy_servers(2) as urls: ...

Which kind is meant where a test does not say, the environment decides:
`COMFY_TEST_URLS=url1,url2` uses servers that run already (nothing is started or stopped),
`REAL_COMFYUI=1` installs and starts real ones, otherwise the embedded server is used.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

#: Seconds that one server may take until it answers; the first start of a real one reads 1.5 GB.
START_S = 300.0
TESTS = Path(__file__).resolve().parent
#: What is put on the path of the servers, so that they can import `tests.…`.
ROOT = TESTS.parent


def default_kind() -> str:
    """The kind that the environment asks for: "given", "real" or "embedded"."""
    if os.environ.get("COMFY_TEST_URLS"):
        return "given"
    return "real" if os.environ.get("REAL_COMFYUI", "0") not in ("", "0") else "embedded"


def kinds_under_test() -> list[str]:
    """The kinds that end-to-end tests run on; a real one is tested beside the embedded one."""
    kind = default_kind()
    return ["embedded", "real"] if kind == "real" else [kind]


@contextmanager
def comfy_servers(
    count: int, kind: str | None = None, *, front_end: Path | None = None
) -> Iterator[list[str]]:
    """The URLs of `count` ComfyUI servers that answer, each with directories of its own.

    Those that are started serve the web interface in the folder `front_end`, if it is given.

    Raises:
        ServerDidNotStart: one ended or did not answer in time; its log is in the message.
    """
    kind = kind or default_kind()
    if kind == "given":
        yield _given(count)
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="comfy-")))
        # All are started before the first is waited for: they load side by side.
        waits = [
            stack.enter_context(
                _start(kind, name=f"test-{n}", folder=folder / str(n), front_end=front_end)
            )
            for n in range(1, count + 1)
        ]
        yield [wait() for wait in waits]


def _given(count: int) -> list[str]:
    urls = [url.strip() for url in os.environ["COMFY_TEST_URLS"].split(",") if url.strip()]
    if len(urls) < count:
        msg = f"COMFY_TEST_URLS names {len(urls)} servers, this test needs {count}"
        raise ValueError(msg)
    return [url.rstrip("/") for url in urls[:count]]


@contextmanager
def _start(
    kind: str, *, name: str, folder: Path, front_end: Path | None
) -> Iterator[Callable[[], str]]:
    if kind == "embedded":
        with embedded_comfy(name=name, folder=folder, front_end=front_end) as wait:
            yield wait
    elif kind == "real":
        from tests.real_comfyui import real_comfy

        with real_comfy(folder=folder, front_end=front_end) as wait:
            yield wait
    else:
        msg = f"no such kind of ComfyUI server: {kind!r}"
        raise ValueError(msg)


@contextmanager
def embedded_comfy(
    *, name: str, folder: Path, front_end: Path | None = None, port: int = 0
) -> Iterator[Callable[[], str]]:
    """Start an embedded server as a process; call what it yields to wait for its URL."""
    folder.mkdir(parents=True)
    command = [
        *(sys.executable, "-m", "jupyter_comfy_lock.cli", "serve"),
        *("--port", str(port), "--name", name, "--base-directory", str(folder)),
        *("--nodes", "tests.embedded_trace_nodes"),
        *(("--front-end-root", str(front_end)) if front_end else ()),
    ]
    with leashed(command, log=folder / "log", cwd=folder, env=test_environment()) as process:

        def announced() -> str | None:
            for line in (folder / "log").read_text(errors="replace").splitlines():
                if line.startswith(f"{name} http"):
                    return line.split(maxsplit=1)[1].strip()
            return None

        yield lambda: wait_for(announced, process=process, log=folder / "log")


def test_environment(*more: Path) -> dict[str, str]:
    """The environment of a process that must import `tests.…`, and what is in `more` folders."""
    paths = [str(ROOT), *map(str, more), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


test_environment.__test__ = False  # type: ignore[attr-defined]  # not a test


class ServerDidNotStart(Exception):
    """A server ended, or did not answer in time."""


@contextmanager
def leashed(
    command: Sequence[str], *, log: Path, cwd: Path, env: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` for as long as this process and the `with` live; all it says goes to `log`."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, str(TESTS / "leash.py"), *command],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=env,
            # Ctrl-C must reach the tests alone: they let go of the leash when they are done.
            start_new_session=True,
        )
    assert process.stdin is not None
    try:
        yield process
    finally:
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.wait(30)


def wait_for(
    answer: Callable[[], str | None],
    *,
    process: subprocess.Popen[bytes],
    log: Path,
    timeout_s: float = START_S,
) -> str:
    """The first answer that is not None.

    Raises:
        ServerDidNotStart: `process` ended first, or `timeout_s` went by.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        found = answer()
        if found is not None:
            return found
        if process.poll() is not None:
            reason = f"it ended with code {process.returncode}"
        elif time.monotonic() > deadline:
            reason = f"it did not answer in {timeout_s:.0f} s"
        else:
            time.sleep(0.05)
            continue
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-40:])
        msg = f"The ComfyUI server did not start: {reason}. The end of its log:\n{tail}"
        raise ServerDidNotStart(msg)


def answers(url: str) -> bool:
    """Whether a ComfyUI server answers at `url`."""
    try:
        with urllib.request.urlopen(f"{url}/system_stats", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
