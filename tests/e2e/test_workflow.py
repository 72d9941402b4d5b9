"""One workflow in three formats is one prompt and one picture, in a real kernel."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from jupyter_comfy_lock.domain.workflow.nodes import node_specs
from tests.domain.workflow.canvas import Canvas
from tests.e2e.jupyter import CellFailed, Kernel, running_jupyter

pytestmark = pytest.mark.timeout(300)

LOAD = """
import hashlib
import jupyter_comfy_lock as comfy

comfy.lock("gpu-1")
def picture(task):
    return hashlib.sha256(task.wait().images[0].tobytes()).hexdigest()
"""


def as_prompt() -> dict[str, Any]:
    """A red square out of its opposite."""
    empty = {"width": 32, "height": 16, "batch_size": 1, "color": 0x00FFFF}
    nodes = {
        "1": ("EmptyImage", empty),
        "2": ("ImageInvert", {"image": ["1", 0]}),
        "3": ("SaveImage", {"images": ["2", 0], "filename_prefix": "formats"}),
    }
    return {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}


def as_editor(url: str) -> dict[str, Any]:
    """The same as ComfyUI's editor saves it, with a reroute on the way and a note beside it."""
    specs = node_specs(httpx.get(f"{url}/object_info", timeout=60).json())
    canvas = Canvas(specs)
    canvas.node("EmptyImage", [32, 16, 1, 0x00FFFF])
    canvas.node("ImageInvert", image=(1, 0))
    wire = canvas.node("Reroute", any=(2, 0), id=9)
    canvas.node("SaveImage", ["formats"], images=(wire, 0), id=3)
    canvas.node("Note", ["a note"], outputs=[], id=8)
    return canvas.saved()


def bare(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """A prompt without the titles that nobody runs."""
    return {key: {k: v for k, v in x.items() if k != "_meta"} for key, x in prompt.items()}


def kernel_of(place: Any) -> Kernel:
    kernel = place.kernel("a.ipynb")
    kernel.run(LOAD)
    return kernel


@pytest.mark.complaint(19)
def test_three_formats_are_one_prompt_and_one_picture(
    comfy_pool: Sequence[Mapping[str, str]], tmp_path: Path
) -> None:
    editor = as_editor(comfy_pool[0]["url"])
    files = {"api": tmp_path / "api.json", "editor": tmp_path / "editor.json"}
    files["api"].write_text(json.dumps(as_prompt()))
    files["editor"].write_text(json.dumps(editor))
    with running_jupyter(comfy_pool, folder=tmp_path / "jupyter") as jupyter:
        kernel = kernel_of(jupyter)
        kernel.run(f"task = comfy.submit({str(files['api'])!r})")
        first = kernel.ask("picture(task)")
        # The picture carries what made it: the prompt, and what a client said of its workflow.
        png = str(tmp_path / "made.png")
        kernel.run(f"task.files[0].save({png!r})")
        about = {"extra_pnginfo": {"workflow": editor}}
        kernel.run(f"task = comfy.submit({str(files['editor'])!r}, extra_data={about!r})")
        assert kernel.ask("picture(task)") == first
        both = str(tmp_path / "both.png")
        kernel.run(f"task.files[0].save({both!r})")
        for path in (png, both, *map(str, files.values())):
            prompt = kernel.ask(f"comfy.Workflow.load({path!r}).prompt")
            assert bare(prompt) == as_prompt(), path
        kernel.run(
            "file = task.files[0]\n"
            "url = f'{comfy.url}view?filename={file.filename}&type=output&subfolder='\n"
            "wf = comfy.Workflow.load(url)"
        )
        assert bare(kernel.ask("wf.prompt")) == as_prompt()
        assert kernel.ask("picture(comfy.submit(wf))") == first

        kernel.run("wf.set(color=0)")
        assert kernel.ask("picture(comfy.submit(wf))") != first
        with pytest.raises(CellFailed, match=r"node 1 .*\(EmptyImage\), input 'width': 0 is less"):
            kernel.run("wf.set(width=0)")
        assert kernel.ask("len(wf.check())") == 0


def test_a_picture_of_the_notebook_goes_to_the_server_and_comes_back(
    comfy_pool: Sequence[Mapping[str, str]], tmp_path: Path
) -> None:
    prompt = as_prompt()
    prompt["1"] = {"class_type": "LoadImage", "inputs": {"image": "?"}}
    with running_jupyter(comfy_pool, folder=tmp_path / "jupyter") as jupyter:
        kernel = kernel_of(jupyter)
        kernel.run(
            "import PIL.Image\n"
            f"wf = comfy.Workflow.load({prompt!r})\n"
            "wf['LoadImage'].image = PIL.Image.new('RGB', (8, 8), (0, 255, 0))\n"
            "image = comfy.submit(wf).wait().images[0].convert('RGB')"
        )
        assert kernel.ask("[image.size, image.getpixel((3, 3))]") == [[8, 8], [255, 0, 255]]
