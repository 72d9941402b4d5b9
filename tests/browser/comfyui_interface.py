"""ComfyUI's own web interface in a browser, as a person uses it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect

from jupyter_comfy_lock.embedded.front_end import installed_front_end

TIMEOUT_MS = 60_000


def front_end_with(script: Path, *, folder: Path) -> Path:
    """A copy in `folder` of the installed web interface that also loads `script`."""
    installed = installed_front_end()
    assert installed is not None, "comfyui-frontend-package is missing"
    # Half of it is source maps, which nobody asks for.
    shutil.copytree(installed, folder, ignore=shutil.ignore_patterns("*.map"))
    planted = folder / "extensions" / "planted" / script.name
    planted.parent.mkdir()
    shutil.copy(script, planted)
    return folder


class Interface:
    """The page of one kernel's ComfyServer; it must be the kernel's first."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        page.set_default_timeout(TIMEOUT_MS)
        expect.set_options(timeout=TIMEOUT_MS)
        page.goto(url)
        # Whoever comes for the first time is shown templates.
        templates = page.get_by_role("dialog")
        expect(templates).to_be_visible()
        page.keyboard.press("Escape")
        expect(templates).to_be_hidden()

    def button(self, name: str) -> Locator:
        """The button of that name."""
        return self.page.get_by_role("button", name=name, exact=True)

    def load(self, workflow: dict[str, Any]) -> None:
        """Open a workflow in API format, as a dropped file is opened."""
        self.page.evaluate("workflow => window.app.loadApiJson(workflow, 'tested')", workflow)
        expect(self.page.get_by_text("tested", exact=True).first).to_be_visible()

    def run(self) -> None:
        """Press the button that runs the workflow."""
        self.button("Run").click()

    def active(self, number: int) -> None:
        """Wait until so many jobs are said to wait or run."""
        expect(self.page.get_by_role("button", name=f"{number} active")).to_be_visible()

    def show_jobs(self) -> None:
        """Open the list of jobs."""
        self.page.get_by_role("button", name="Expand job queue").click()
        expect(self.button("Clear queued")).to_be_visible()

    def picture_width(self, node_type: str) -> int:
        """The width of the picture that a node shows, as soon as it shows one."""
        width = self.page.wait_for_function(
            "type => app.graph.nodes.find(node => node.type === type)?.imgs?.[0]?.naturalWidth",
            arg=node_type,
        )
        return int(width.json_value())
