"""Pytest in a process of its own that has loaded already what takes longest to load.

It is forked from one that has imported most of what tests import, but neither the package under
test nor what imports that: this it imports itself, as a fresh process would.

(Not by multiprocessing's "forkserver": a process has one of them, and the tests of chaos have it
load the package.)
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
#: What takes long to import. Whatever is missing here is imported by each process.
LOADED = (
    *("pytest", "pytest_asyncio.plugin", "pytest_timeout", "_hypothesis_pytestplugin"),
    *("hypothesis.stateful", "sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql"),
    *("alembic.command", "psycopg", "tenacity", "psutil", "aiohttp.web", "httpx", "yaml", "yarl"),
    *("schemathesis.pytest.plugin", "nbval.plugin", "pytest_jupyter.jupyter_server"),
    *("jupyter_server.serverapp", "jupyter_client", "tornado.testing", "PIL.Image", "numpy"),
)


class Forks:
    """The process that others are forked from, one at a time; it ends with the `with`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            # -P: the working directory, where the package is whole, is nowhere to import from.
            [sys.executable, "-P", "-m", "tests.mutations.forked"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run_pytest(
        self,
        arguments: Sequence[str],
        *,
        paths: Sequence[Path],
        environment: Mapping[str, str],
        log: Path,
        within_s: float,
    ) -> int:
        """Run pytest and return its exit code, below 0 when a signal or the time ended it.

        It imports from `paths` before all other places; what it says goes to `log`.
        """
        assert self._process.stdin is not None
        job = {
            "arguments": list(arguments),
            "paths": [str(path) for path in paths],
            "environment": dict(environment),
            "log": str(log),
        }
        self._process.stdin.write(f"{json.dumps(job)}\n")
        self._process.stdin.flush()
        pid = self._told()
        watch = threading.Timer(within_s, _kill, (pid,))
        watch.start()
        try:
            return self._told()
        finally:
            watch.cancel()

    def _told(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _main() -> None:
    """Fork for each line of the input; tell the process, and when it has ended its exit code."""
    for name in LOADED:
        importlib.import_module(name)
    # Collecting garbage leaves alone what all have in common.
    gc.freeze()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            sys.exit(_run(json.loads(line)))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(job: Mapping[str, Any]) -> int:
    import pytest

    # What it starts can be ended with it.
    os.setsid()
    with open(os.devnull) as nothing, open(job["log"], "wb") as said:
        os.dup2(nothing.fileno(), 0)
        for stream in (1, 2):
            os.dup2(said.fileno(), stream)
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(ROOT)
    sys.path[:0] = job["paths"]
    return int(pytest.main(job["arguments"]))


if __name__ == "__main__":
    _main()
