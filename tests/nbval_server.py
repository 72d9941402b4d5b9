"""A pytest plugin for nbval: runs the Jupyter server that the notebooks attach to.

nbval starts its kernels outside of any Jupyter server. They find this one by COMFY_LOCK_URL
and COMFY_LOCK_TOKEN and attach to it.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.comfy_servers import comfy_servers
from tests.jupyter_servers import jupyter_server

_running = pytest.StashKey[ExitStack]()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Start two ComfyUI servers and a Jupyter server that knows them."""
    if session.config.option.collectonly:
        return
    running = session.config.stash[_running] = ExitStack()
    folder = running.enter_context(tempfile.TemporaryDirectory(prefix="nbval-"))
    # The examples show nodes that only the embedded server has.
    urls = running.enter_context(comfy_servers(2, "embedded"))
    pool = [{"id": f"gpu-{n}", "url": url} for n, url in enumerate(urls, start=1)]
    server = running.enter_context(jupyter_server(pool, folder=Path(folder)))
    # A shell inside of Jupyter would lend the kernels its own server.
    for name in [name for name in os.environ if name.startswith("JPY_")]:
        del os.environ[name]
    os.environ["COMFY_LOCK_URL"] = server.url
    os.environ["COMFY_LOCK_TOKEN"] = server.token


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop them."""
    if _running in session.config.stash:
        session.config.stash[_running].close()
