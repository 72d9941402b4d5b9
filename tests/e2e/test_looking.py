"""R11: opening, attaching, locking and releasing change nothing on a ComfyServer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
import pytest

from tests.chromium import chromium
from tests.e2e.comfy import line_to
from tests.e2e.jupyter import running_jupyter, until

IDLE = """window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status
          === 'idle'"""
LOOK = """
import jupyter_comfy_lock as comfy
comfy.servers()
comfy.lock("gpu-1")
comfy.status()
comfy.release()
"""


@pytest.mark.complaint(2)
def test_to_open_lab_to_lock_and_to_release_posts_nothing_to_comfyui(
    comfy_pool: Sequence[Mapping[str, str]], tmp_path: Path
) -> None:
    with (
        line_to(comfy_pool[0]["url"]) as line,
        running_jupyter(
            [{"id": "gpu-1", "url": line.url}], folder=tmp_path, app="jupyterlab"
        ) as jupyter,
        chromium() as browser,
    ):
        nbformat.write(nbformat.v4.new_notebook(), jupyter.server.root / "a.ipynb")
        kernel = jupyter.kernel("a.ipynb")
        page = browser.new_page()
        page.goto(f"{jupyter.server.url}lab/tree/a.ipynb?token={jupyter.server.token}")
        page.wait_for_function(IDLE, timeout=60_000)
        kernel.run(LOOK)
        until(lambda: b"GET /ws" in line.heard, within_s=5, what="the WebSocket of the lock")
        jupyter.shut_down(kernel)
        until(lambda: line.sockets == 0, within_s=5, what="its end")
    heard = bytes(line.heard)
    assert b"GET /system_stats" in heard
    for method in (b"POST /", b"PUT /", b"DELETE /", b"PATCH /"):
        assert method not in heard
