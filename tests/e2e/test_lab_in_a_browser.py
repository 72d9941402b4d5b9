"""The first notebook in JupyterLab, as a person sees it, in the light and the dark theme.

`SCREENSHOTS=folder` keeps the pictures of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.chromium import chromium
from tests.comfy_servers import comfy_servers
from tests.jupyter_servers import JupyterServer, jupyter_server

pytestmark = pytest.mark.timeout(300)

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOK = "01_first_light.ipynb"
#: Lab takes its time to load on a machine that does other things too.
TIMEOUT_MS = 60_000
LAB = "window.jupyterapp"
KERNEL_IS_IDLE = f"""{LAB}?.shell?.currentWidget?.sessionContext?.session?.kernel?.status
    === 'idle'"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[JupyterServer]:
    """JupyterLab with two embedded servers: they have the sampler that the notebook shows.

    New ones for each test: what a ComfyServer has in its cache shows no progress.
    """
    with comfy_servers(2, "embedded") as urls:
        pool = [{"id": f"gpu-{n}", "url": url} for n, url in enumerate(urls, start=1)]
        # Lab would ask on top of the notebook whether one wants to hear of news.
        settings = tmp_path / "config/lab/user-settings/@jupyterlab/apputils-extension"
        settings.mkdir(parents=True)
        (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
        with jupyter_server(pool, folder=tmp_path, app="jupyterlab") as server:
            yield server


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    """Where pictures of the page go."""
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def command(page: Page, name: str, arguments: str = "{}") -> None:
    # The promise is not returned: of running cells it would wait for all of them.
    page.evaluate(f"() => {{ {LAB}.commands.execute('{name}', {arguments}) }}")


def open_notebook(page: Page, lab: JupyterServer, *, theme: str) -> None:
    """Open a copy of the notebook that has never run, with nothing else on the screen."""
    text = (NOTEBOOKS / NOTEBOOK).read_text(encoding="utf-8")
    # Slower than for a person: a machine with other work must not miss it.
    slower = text.replace("delay=0.08", "delay=0.3")
    assert slower != text
    (lab.root / NOTEBOOK).write_text(slower, encoding="utf-8")
    page.set_default_timeout(TIMEOUT_MS)
    page.goto(f"{lab.url}lab/tree/{NOTEBOOK}?token={lab.token}")
    page.wait_for_function(KERNEL_IS_IDLE)
    command(page, "apputils:change-theme", f"{{ theme: '{theme}' }}")
    page.wait_for_selector(f"body[data-jp-theme-name='{theme}']", state="attached")
    command(page, "application:toggle-left-area")
    command(page, "notebook:clear-all-cell-outputs")


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_the_first_notebook_shows_a_picture_in_the_making_and_then_the_picture(
    lab: JupyterServer, theme: str, screenshots: Path
) -> None:
    name = theme.split()[-1].lower()
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        open_notebook(page, lab, theme=theme)
        command(page, "notebook:run-all-cells")
        view = page.locator(".jp-ComfyTask").first
        badge = view.locator(".jp-ComfyTask-badge")
        preview = view.locator(".jp-ComfyTask-preview")
        expect(badge).to_have_text("running", timeout=TIMEOUT_MS)
        expect(preview).to_be_visible()
        view.evaluate("node => node.scrollIntoView({ block: 'center' })")
        page.wait_for_function(
            "document.querySelector('.jp-ComfyTask-steps').getAttribute('aria-valuenow') >= 76"
        )
        page.screenshot(path=screenshots / f"{name}_running.png")
        expect(badge).to_have_text("succeeded", timeout=TIMEOUT_MS)
        expect(preview).to_be_hidden()
        picture = view.locator(".jp-ComfyTask-thumbnail img")
        expect(picture).to_be_visible()
        assert picture.evaluate("node => [node.naturalWidth, node.naturalHeight]") == [512, 320]
        page.wait_for_function(KERNEL_IS_IDLE)
        view.evaluate("node => node.scrollIntoView({ block: 'center' })")
        page.screenshot(path=screenshots / f"{name}_succeeded.png")
