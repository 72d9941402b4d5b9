"""The task view under a real cell: a real kernel, a real Jupyter server, a real browser."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import nbformat
import pytest
from playwright.sync_api import Page, expect

from tests.chromium import chromium
from tests.jupyter_servers import JupyterServer, jupyter_server

TIMEOUT_MS = 60_000
RUN_ALL = "void window.jupyterapp.commands.execute('notebook:run-all-cells')"
IDLE = """window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status
          === 'idle'"""
KERNEL = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
# The kernel is busy until the task has ended: what the person sees and does must not need it.
CELL = """
import jupyter_comfy_lock as comfy
comfy.lock("gpu-2")
task = comfy.submit({workflow})
try:
    task.wait()
except comfy.ComfyLockError as error:
    print(type(error).__name__)
"""


def write_notebook(server: JupyterServer, *, steps: int, delay: float) -> None:
    # Another seed each time: what ComfyUI has in its cache shows no progress.
    seed = secrets.randbelow(2**32)
    inputs = {"steps": steps, "delay": delay, "preview": True, "seed": seed}
    images = {"images": ["1", 0], "filename_prefix": "browser"}
    workflow: dict[str, Any] = {
        "1": {"class_type": "TrSteps", "inputs": inputs},
        "2": {"class_type": "SaveImage", "inputs": images},
    }
    cell = nbformat.v4.new_code_cell(CELL.format(workflow=workflow).strip())
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, server.root / "a.ipynb")


def open_and_run(page: Page, server: JupyterServer, path: str) -> None:
    page.set_default_timeout(TIMEOUT_MS)
    page.goto(f"{server.url}{path}/a.ipynb?token={server.token}")
    page.wait_for_function(IDLE)
    page.evaluate(RUN_ALL)


@pytest.mark.parametrize(("app", "path"), [("jupyterlab", "lab/tree"), ("notebook", "notebooks")])
def test_a_cell_shows_progress_preview_and_picture(
    embedded_pool: list[dict[str, str]], app: str, path: str, tmp_path: Path
) -> None:
    with jupyter_server(embedded_pool, folder=tmp_path, app=app) as server, chromium() as browser:
        write_notebook(server, steps=20, delay=0.2)
        page = browser.new_page()
        open_and_run(page, server, path)
        view = page.locator(".jp-ComfyTask")
        expect(view.locator(".jp-ComfyTask-preview")).to_be_visible(timeout=TIMEOUT_MS)
        expect(view.locator(".jp-ComfyTask-text")).to_contain_text("gpu-2 · ")
        expect(view.get_by_role("progressbar").first).to_be_visible()
        badge = view.locator(".jp-ComfyTask-badge")
        expect(badge).to_have_text("succeeded", timeout=TIMEOUT_MS)
        expect(view.locator(".jp-ComfyTask-thumbnail img")).to_be_visible()


def test_cancel_works_while_the_cell_runs(
    embedded_pool: list[dict[str, str]], tmp_path: Path
) -> None:
    with (
        jupyter_server(embedded_pool, folder=tmp_path, app="jupyterlab") as server,
        chromium() as browser,
    ):
        write_notebook(server, steps=1000, delay=0.1)
        page = browser.new_page()
        open_and_run(page, server, "lab/tree")
        badge = page.locator(".jp-ComfyTask-badge")
        expect(badge).to_have_text("running", timeout=TIMEOUT_MS)
        page.locator(".jp-ComfyTask-cancel").click()
        expect(badge).to_have_text("cancelled", timeout=TIMEOUT_MS)
        expect(page.get_by_text("TaskCancelled")).to_be_visible()


def test_the_end_of_a_task_whose_kernel_was_restarted_is_shown(
    embedded_pool: list[dict[str, str]], tmp_path: Path
) -> None:
    with (
        jupyter_server(embedded_pool, folder=tmp_path, app="jupyterlab") as server,
        chromium() as browser,
    ):
        write_notebook(server, steps=1000, delay=0.1)
        page = browser.new_page()
        open_and_run(page, server, "lab/tree")
        badge = page.locator(".jp-ComfyTask-badge")
        expect(badge).to_have_text("running", timeout=TIMEOUT_MS)
        page.evaluate(f"{KERNEL}.restart()")
        expect(badge).to_have_text("cancelled", timeout=20_000)
        expect(page.locator(".jp-ComfyTask-text", has_text="its kernel ended")).to_be_visible()
        expect(page.locator(".jp-ComfyTask-cancel")).to_be_hidden()
