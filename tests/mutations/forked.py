"""Pytest in a process of its own that has loaded already what takes longest to load.

Such a process is forked from one that has imported all that tests import, and nothing that imports
the package under test: this it imports itself, as a fresh one would.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path

import pytest

#: What takes long to import. Whatever is missing here is imported by each process.
LOADED = (
    *("pytest", "pytest_asyncio.plugin", "pytest_timeout", "_hypothesis_pytestplugin"),
    *("hypothesis.stateful", "sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql"),
    *("alembic.command", "psycopg", "tenacity", "psutil", "aiohttp.web", "httpx", "yaml", "yarl"),
    *("schemathesis.pytest.plugin", "nbval.plugin", "pytest_jupyter.jupyter_server"),
    *("jupyter_server.serverapp", "jupyter_client", "tornado.testing", "PIL.Image", "numpy"),
)
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(list(LOADED))
#: Starting one looks after the others too, which two threads must not do at the same time.
_ONE_AT_A_TIME = threading.Lock()


def run_pytest(
    arguments: Sequence[str],
    *,
    paths: Sequence[Path],
    cwd: Path,
    environment: Mapping[str, str],
    log: Path,
    within_s: float,
) -> int:
    """Run pytest and return its exit code, below 0 when a signal or the time ended it.

    It imports from `paths` before all other places; what it says goes to `log`.
    """
    process = _FORKS.Process(
        target=_run,
        args=(list(arguments), [str(path) for path in paths], cwd, dict(environment), log),
    )
    with _ONE_AT_A_TIME:
        process.start()
    ended = wait([process.sentinel], within_s)
    with _ONE_AT_A_TIME:
        if not ended and process.pid is not None:
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode is not None
        return process.exitcode


def _run(
    arguments: list[str], paths: list[str], cwd: Path, environment: dict[str, str], log: Path
) -> None:
    # Collecting garbage leaves alone what was there before.
    gc.freeze()
    # What it starts can be ended with it.
    os.setsid()
    with log.open("wb") as said:
        for stream in (1, 2):
            os.dup2(said.fileno(), stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = paths
    sys.exit(pytest.main(arguments))
