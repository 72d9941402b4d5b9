"""A pin is kept with its notebook: told by a cell, saved by the person, by nobody else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from playwright.sync_api import Page, expect

from tests.chromium import chromium
from tests.jupyter_servers import JupyterServer, jupyter_server

pytestmark = pytest.mark.timeout(300)

TIMEOUT_MS = 60_000
PANEL = "window.jupyterapp.shell.currentWidget"
KERNEL = f"{PANEL}.sessionContext.session.kernel"
IDLE = """window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status
          === 'idle'"""
IS_DIRTY = f"{PANEL}.context.model.dirty"
CELL = 'import jupyter_comfy_lock as comfy\ncomfy.pin("gpu-2")'


def write_notebook(server: JupyterServer, **metadata: Any) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    notebook.metadata.update(metadata)
    nbformat.write(notebook, server.root / "a.ipynb")


def on_disk(server: JupyterServer) -> dict[str, Any]:
    return json.loads((server.root / "a.ipynb").read_text())["metadata"]


def execute(page: Page, name: str) -> None:
    page.evaluate(f"window.jupyterapp.commands.execute('{name}')")


def save(page: Page) -> None:
    execute(page, "docmanager:save")
    page.wait_for_function(f"!{IS_DIRTY}")
    # What asks whether to overwrite a file that changed on disk is a dialog.
    expect(page.get_by_role("dialog")).to_have_count(0)


def wait_for_pin(page: Page, pin: str | None) -> None:
    found = f"{PANEL}.content.model.getMetadata('comfy_lock')?.pin ?? null"
    page.wait_for_function(f"({found}) === {json.dumps(pin)}")


@pytest.mark.parametrize(("app", "path"), [("jupyterlab", "lab/tree"), ("notebook", "notebooks")])
def test_a_pin_is_in_the_file_after_the_notebook_was_saved(
    embedded_pool: list[dict[str, str]], app: str, path: str, tmp_path: Path
) -> None:
    with (
        jupyter_server(embedded_pool, folder=tmp_path, app=app) as server,
        chromium() as browser,
    ):
        write_notebook(server, comfy_lock={"pin": "gpu-1", "more": 3})
        page = browser.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.goto(f"{server.url}{path}/a.ipynb?token={server.token}")
        page.wait_for_function(IDLE)

        execute(page, "notebook:run-all-cells")
        output = page.locator(".jp-OutputArea-output")
        expect(output).to_contain_text("is pinned to gpu-2.", timeout=TIMEOUT_MS)
        wait_for_pin(page, "gpu-2")
        assert on_disk(server)["comfy_lock"]["pin"] == "gpu-1"
        save(page)
        assert on_disk(server)["comfy_lock"] == {"pin": "gpu-2", "more": 3}

        # Another life of the kernel is heard too, and unpins.
        page.evaluate(f"{KERNEL}.restart()")
        page.wait_for_function(IDLE)
        code = "import jupyter_comfy_lock as comfy; comfy.pin(None)"
        page.evaluate(f"{KERNEL}.requestExecute({{ code: '{code}' }}).done")
        wait_for_pin(page, None)
        save(page)
        assert on_disk(server)["comfy_lock"] == {"more": 3}
