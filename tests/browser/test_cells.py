"""Views under several cells of one notebook: each changes in its own cell, whatever else runs."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.test_notebook import TIMEOUT_MS, open_and_run
from tests.chromium import chromium
from tests.installed_once import install_into, installed_once
from tests.jupyter_servers import JupyterServer, jupyter_server

REQUIREMENTS = Path(__file__).with_name("ipykernel6-requirements.txt")
SAVE = "window.jupyterapp.commands.execute('docmanager:save')"

SETUP = """
import ipykernel, jupyter_comfy_lock as comfy
comfy.lock("gpu-1")
print("ipykernel", ipykernel.version_info[0])
"""
# The kernel is busy meanwhile.
WAIT = """
one.wait()
print("one is over")
"""


def workflow(steps: int) -> dict[str, Any]:
    """Another one each time: what ComfyUI has in its cache shows no progress."""
    inputs = {"steps": steps, "delay": 0.15, "preview": True, "seed": secrets.randbelow(2**32)}
    return {
        "1": {"class_type": "TrSteps", "inputs": inputs},
        "2": {
            "class_type": "SaveImage",
            "inputs": {"images": ["1", 0], "filename_prefix": "cells"},
        },
    }


def write_notebook(server: JupyterServer) -> None:
    cells = [
        SETUP,
        f"one = comfy.submit({workflow(20)})",
        f"two = comfy.submit({workflow(1000)})",
        WAIT,
    ]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in cells]
    )
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, server.root / "a.ipynb")


def output(page: Page, number: int) -> Locator:
    return page.locator(".jp-CodeCell").nth(number).locator(".jp-OutputArea")


def line(page: Page, number: int) -> Locator:
    return output(page, number).locator(".jp-ComfyTask-text")


@pytest.fixture(params=[6, 7])
def server(
    request: pytest.FixtureRequest, embedded_pool: list[dict[str, str]], tmp_path: Path
) -> Iterator[tuple[JupyterServer, int]]:
    """A JupyterLab whose kernels are of that ipykernel."""
    packages = []
    if request.param == 6:
        folder = installed_once(
            "ipykernel6",
            lambda folder: install_into(folder, REQUIREMENTS),
            of=[REQUIREMENTS.read_text()],
        )
        packages = [folder]
    with jupyter_server(
        embedded_pool, folder=tmp_path, app="jupyterlab", packages=packages
    ) as running:
        write_notebook(running)
        yield running, request.param


@pytest.mark.complaint(16)
@pytest.mark.complaint(17)
@pytest.mark.timeout(300)
def test_each_view_changes_in_its_own_cell_and_is_true_in_every_page(
    server: tuple[JupyterServer, int],
) -> None:
    jupyter, version = server
    with chromium() as browser:
        page = browser.new_page()
        open_and_run(page, jupyter, "lab/tree")
        expect(output(page, 0)).to_contain_text(f"ipykernel {version}", timeout=TIMEOUT_MS)
        expect(line(page, 1)).to_contain_text("/20", timeout=TIMEOUT_MS)
        expect(line(page, 2)).to_contain_text("1 ahead, 1 of them yours")
        expect(output(page, 1).locator(".jp-ComfyTask-preview")).to_be_visible()
        expect(output(page, 2).locator(".jp-ComfyTask-preview")).to_be_hidden()
        expect(output(page, 3)).to_contain_text("one is over", timeout=TIMEOUT_MS)
        check_saved(page, jupyter)
        page.reload()
        second = browser.new_page()
        second.set_default_timeout(TIMEOUT_MS)
        second.goto(f"{jupyter.url}lab/workspaces/second/tree/a.ipynb?token={jupyter.token}")
        for each in (page, second):
            expect(line(each, 2)).to_contain_text("/1000", timeout=TIMEOUT_MS)
            expect(line(each, 1)).to_contain_text("gpu-1 · 1 picture")
        page.locator(".jp-ComfyTask-cancel:visible").click()
        for each in (page, second):
            badges = each.locator(".jp-ComfyTask-badge")
            expect(badges).to_have_text(["succeeded", "cancelled"])
            assert output(each, 3).locator(".jp-ComfyTask, img").count() == 0


def check_saved(page: Page, jupyter: JupyterServer) -> None:
    """The saved notebook has the picture of the task that has ended, small, and no preview."""
    page.evaluate(SAVE)
    cells = json.loads((jupyter.root / "a.ipynb").read_text())["cells"]
    kinds = [
        sorted(kind for each in cell["outputs"] for kind in each.get("data", {})) for cell in cells
    ]
    assert [[each for each in kind if each.startswith("image/")] for kind in kinds] == [
        [],
        ["image/png"],
        [],
        [],
    ]
    assert (jupyter.root / "a.ipynb").stat().st_size < 60_000
