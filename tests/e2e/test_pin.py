"""The ComfyServer that a notebook file prefers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.comfy_servers import comfy_servers
from tests.e2e.comfy import steps_workflow
from tests.e2e.jupyter import CellFailed, Jupyter, Kernel, running_jupyter


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    with comfy_servers(2, "embedded") as urls:
        pool = [{"id": f"gpu-{n}", "url": url} for n, url in enumerate(urls, start=1)]
        with running_jupyter(pool, folder=tmp_path_factory.mktemp("jupyter")) as running:
            yield running


def notebook(jupyter: Jupyter, name: str, pin: object) -> Kernel:
    metadata = {"comfy_lock": {"pin": pin}}
    content = {"cells": [], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    (jupyter.server.root / name).write_text(json.dumps(content))
    kernel = jupyter.kernel(name)
    kernel.run("import jupyter_comfy_lock as comfy")
    return kernel


def test_submitting_without_a_lock_takes_the_notebooks_pin_and_says_so(jupyter):
    kernel = notebook(jupyter, "pinned.ipynb", "gpu-2")
    cell = kernel.run(f"task = comfy.submit({steps_workflow(steps=1, delay=0)!r}).wait()")
    assert kernel.ask("comfy.locked_server") == "gpu-2"
    assert "gpu-2" in cell.text
    assert "pin" in cell.text


def test_a_pin_to_nothing_in_the_pool_is_refused_with_what_there_is(jupyter):
    kernel = notebook(jupyter, "astray.ipynb", "gpu-9")
    with pytest.raises(CellFailed, match=r"gpu-9.*Known: gpu-1, gpu-2"):
        kernel.run("comfy.lock()")
    assert kernel.ask("comfy.locked_server") is None


@pytest.mark.parametrize("pin", [7, None, ["gpu-1"]])
def test_what_is_no_pin_is_no_hindrance(jupyter, pin):
    kernel = notebook(jupyter, f"{type(pin).__name__}.ipynb", pin)
    kernel.run("comfy.lock()")
    assert kernel.ask("comfy.locked_server") in ("gpu-1", "gpu-2")
