"""A sweep in JupyterLab, as a person sees it: while it runs, with failures, done, and saved.

`SCREENSHOTS=folder` keeps the pictures of it.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from playwright.sync_api import Page, expect

from tests.chromium import chromium
from tests.comfy_servers import comfy_servers
from tests.e2e.jupyter import until
from tests.e2e.test_lab_in_a_browser import KERNEL_IS_IDLE, TIMEOUT_MS, command
from tests.jupyter_servers import JupyterServer, jupyter_server

pytestmark = pytest.mark.timeout(300)

NOTEBOOK = "sweep.ipynb"
METADATA = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
#: The second row leads out of the output folder, which a ComfyServer finds when it saves.
SWEEP = """
import jupyter_comfy_lock as comfy
comfy.lock("gpu-1")
scene = {"prompt": "a lake in the mountains at dawn", "width": 320, "height": 192, "steps": 8}
workflow = {
    "scene": {"class_type": "DemoSampler", "inputs": {**scene, "delay": 0.1, "seed": 0}},
    "save": {"class_type": "SaveImage", "inputs": {"images": ["scene", 0], "filename_prefix": ""}},
}
sweep = comfy.sweep(
    workflow, in_flight=2, seed=range(4), filename_prefix=["lake", "../../lake"]
)
"""
WAIT = """
from contextlib import suppress
with suppress(comfy.SweepStopped):
    sweep.wait()
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[JupyterServer]:
    with comfy_servers(1, "embedded") as (url,):
        settings = tmp_path / "config/lab/user-settings/@jupyterlab/apputils-extension"
        settings.mkdir(parents=True)
        (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
        pool = [{"id": "gpu-1", "url": url}]
        with jupyter_server(pool, folder=tmp_path, app="jupyterlab") as server:
            yield server


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def open_lab(page: Page, lab: JupyterServer) -> None:
    cells = [nbformat.v4.new_code_cell(each.strip()) for each in (SWEEP, WAIT)]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=METADATA)
    nbformat.write(notebook, lab.root / NOTEBOOK)
    page.set_default_timeout(TIMEOUT_MS)
    page.goto(f"{lab.url}lab/tree/{NOTEBOOK}?token={lab.token}")
    page.wait_for_function(KERNEL_IS_IDLE)
    command(page, "application:toggle-left-area")


def in_theme(page: Page, name: str, picture: Path) -> None:
    command(page, "apputils:change-theme", f"{{ theme: 'JupyterLab {name}' }}")
    page.wait_for_selector(f"body[data-jp-theme-name='JupyterLab {name}']", state="attached")
    page.screenshot(path=picture)


def left_in(file: Path) -> dict[str, Any]:
    """What the first cell's output shows where there are no widgets."""
    text = file.read_text()
    if not text.rstrip().endswith("}"):
        return {}  # it is being written
    (cell, _) = json.loads(text)["cells"]
    return {kind: data for each in cell["outputs"] for kind, data in each["data"].items()}


def test_the_sheet_fills_while_the_kernel_is_busy_and_its_buttons_work(
    lab: JupyterServer, screenshots: Path
) -> None:
    expect.set_options(timeout=TIMEOUT_MS)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        open_lab(page, lab)
        command(page, "notebook:run-all-cells")
        view = page.locator(".jp-ComfySweep")
        badge = view.locator(".jp-ComfySweep-badge")
        pictures = view.locator(".jp-ComfySweep-picture img")
        expect(view.locator("td.jp-ComfySweep-cell")).to_have_count(8)
        expect(pictures.first).to_be_visible()
        expect(view.locator(".jp-ComfySweep-preview").first).to_be_visible()
        page.screenshot(path=screenshots / "light_running.png")
        # The kernel waits in a cell, so it does not hear the page.
        view.get_by_role("button", name="Cancel").click()
        expect(badge).to_have_text("cancelled")
        page.screenshot(path=screenshots / "light_cancelled.png")
        page.wait_for_function(KERNEL_IS_IDLE)
        view.get_by_role("button", name="Resume").click()
        expect(badge).to_have_text("running")
        expect(badge).to_have_text("failed")
        expect(view.get_by_role("status")).to_have_text("4 of 8 done, 4 failed")
        expect(pictures).to_have_count(4)
        expect(view.locator("[data-state=failed] .jp-ComfySweep-word")).to_have_count(4)
        in_theme(page, "Dark", screenshots / "dark_done.png")
        in_theme(page, "Light", screenshots / "light_done.png")
        view.get_by_role("button", name="seed = 3, filename_prefix = lake").click()
        expect(page.get_by_role("dialog")).to_be_visible()
        page.screenshot(path=screenshots / "light_zoom.png")
        page.keyboard.press("Escape")
        # For where widgets do not show.
        file = lab.root / NOTEBOOK
        command(page, "docmanager:save")
        until(lambda: "image/jpeg" in left_in(file), within_s=20, what="the sheet in the notebook")
        left = left_in(file)
        assert left["text/plain"] == ["SweepView(gpu-1, 4 of 8 done, 4 failed)"]
        (screenshots / "sheet.jpg").write_bytes(base64.b64decode(left["image/jpeg"]))
        page.reload()
        expect(view.get_by_role("status")).to_have_text("4 of 8 done, 4 failed")
        expect(pictures).to_have_count(4)
