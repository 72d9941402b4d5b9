"""What we make of an editor's workflow is what the editor itself makes of it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.sync_api import Page

from jupyter_comfy_lock.domain.workflow.graph import read_ui
from jupyter_comfy_lock.domain.workflow.nodes import NodeSpec, node_specs
from jupyter_comfy_lock.domain.workflow.ui import ui_to_prompt
from jupyter_comfy_lock.embedded.front_end import installed_front_end
from tests.browser.comfyui_interface import Interface
from tests.chromium import chromium
from tests.comfy_servers import comfy_servers
from tests.domain.workflow.canvas import BYPASSED, MUTED, Canvas

pytestmark = pytest.mark.timeout(300)

PART, WHOLE = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
CONVERT = """async workflow => {
  await app.loadGraphData(workflow, true, false, null, { skipAssetScans: true })
  return (await app.graphToPrompt()).output
}"""


@dataclass
class Editor:
    """ComfyUI's editor, open in a browser."""

    page: Page
    specs: dict[str, NodeSpec]

    def prompt(self, workflow: dict[str, Any]) -> dict[str, Any]:
        """What it would send."""
        prompt: dict[str, Any] = self.page.evaluate(CONVERT, workflow)
        return untitled(prompt)


@contextmanager
def opened() -> Iterator[Editor]:
    """The editor of an embedded server."""
    with (
        comfy_servers(1, "embedded", front_end=installed_front_end()) as [url],
        chromium() as browser,
    ):
        page = browser.new_page()
        Interface(page, url)
        with urllib.request.urlopen(f"{url}/object_info", timeout=30) as answer:
            yield Editor(page, node_specs(json.load(answer)))


def untitled(prompt: dict[str, Any]) -> dict[str, Any]:
    """A prompt without titles, which are translated in the browser."""
    return {key: {k: v for k, v in x.items() if k != "_meta"} for key, x in prompt.items()}


class Bench:
    """A canvas with what most of these workflows begin with."""

    def __init__(self, editor: Editor) -> None:
        self.canvas = Canvas(editor.specs)

    def square(self, colour: int, **options: Any) -> int:
        return self.canvas.node("EmptyImage", [32, 16, 1, colour], **options)


def part(editor: Editor, **options: Any) -> dict[str, Any]:
    """A subgraph: an image is blended with a square of its own."""
    inner = Bench(editor)
    image, factor = inner.canvas.input("image", "IMAGE"), inner.canvas.input("factor", "FLOAT")
    square = inner.square(5, id=11)
    inner.canvas.node(
        "ImageBlend",
        [0.25, "screen"],
        image1=image,
        image2=(square, 0),
        blend_factor=factor,
        id=12,
        **options,
    )
    inner.canvas.output("IMAGE", "IMAGE", (12, 0))
    return inner.canvas.subgraph(PART)


def whole(editor: Editor) -> dict[str, Any]:
    """A subgraph with two of the other in a row."""
    inner = Canvas(editor.specs)
    image, share = inner.input("image", "IMAGE"), inner.input("share", "FLOAT")
    inner.node(PART, [0.1], id=21, image=image, factor=share, outputs=["IMAGE"])
    inner.node(PART, [0.2], id=22, image=(21, 0), outputs=["IMAGE"])
    inner.output("IMAGE", "IMAGE", (22, 0))
    return inner.subgraph(WHOLE)


def plain(editor: Editor) -> dict[str, Any]:
    bench = Bench(editor)
    one, two = bench.square(1, title="One"), bench.square(2)
    blend = bench.canvas.node("ImageBlend", [0.5, "multiply"], image1=(one, 0), image2=(two, 0))
    wire = bench.canvas.node("Reroute", any=(blend, 0))
    bench.canvas.node("Note", ["hello"], outputs=[])
    bench.canvas.node("SaveImage", ["x"], images=(wire, 0))
    return bench.canvas.saved()


def switched_off(editor: Editor) -> dict[str, Any]:
    bench = Bench(editor)
    one, two = bench.square(1), bench.square(2, mode=MUTED)
    blend = bench.canvas.node(
        "ImageBlend", [0.5, "normal"], mode=BYPASSED, image1=(one, 0), image2=(two, 0)
    )
    other = bench.canvas.node("ImageBlend", [0.7], image1=(blend, 0), image2=(two, 0))
    bench.canvas.node("SaveImage", ["x"], images=(other, 0))
    bench.canvas.node("PreviewImage", mode=MUTED, images=(other, 0))
    return bench.canvas.saved()


def primitive(editor: Editor) -> dict[str, Any]:
    bench = Bench(editor)
    number = bench.canvas.node("PrimitiveNode", [48, "fixed"], outputs=["INT"])
    one = bench.square(1, width=(number, 0))
    two = bench.square(2, width=(number, 0))
    blend = bench.canvas.node("ImageBlend", [], image1=(one, 0), image2=(two, 0))
    bench.canvas.node("SaveImage", ["x"], images=(blend, 0))
    return bench.canvas.saved()


def upload(editor: Editor) -> dict[str, Any]:
    canvas = Canvas(editor.specs)
    canvas.node("LoadImage", ["some.png", "image"])
    canvas.node("SaveImage", ["x"], images=(1, 0))
    return canvas.saved()


def in_parts(editor: Editor, **options: Any) -> dict[str, Any]:
    """Three uses, with values of their own."""
    bench = Bench(editor)
    square = bench.square(1)
    shown = {"proxyWidgets": [["12", "blend_mode"], ["11", "color"], ["-1", "factor"]]}
    first = bench.canvas.node(PART, [0.9], image=(square, 0), outputs=["IMAGE"])
    second = bench.canvas.node(
        PART,
        ["overlay", 77, 0.4],
        image=(first, 0),
        outputs=["IMAGE"],
        properties=shown,
        **options,
    )
    third = bench.canvas.node(PART, image=(second, 0), outputs=["IMAGE"])
    bench.canvas.node("SaveImage", ["x"], images=(third, 0))
    return bench.canvas.saved(part(editor))


def in_parts_bypassed(editor: Editor) -> dict[str, Any]:
    return in_parts(editor, mode=BYPASSED)


def bypassed_inside(editor: Editor) -> dict[str, Any]:
    bench = Bench(editor)
    use = bench.canvas.node(PART, image=(bench.square(1), 0), outputs=["IMAGE"])
    bench.canvas.node("SaveImage", ["x"], images=(use, 0))
    return bench.canvas.saved(part(editor, mode=BYPASSED))


def nested(editor: Editor) -> dict[str, Any]:
    bench = Bench(editor)
    use = bench.canvas.node(WHOLE, [0.6], image=(bench.square(1), 0), outputs=["IMAGE"])
    bench.canvas.node("SaveImage", ["x"], images=(use, 0))
    # In the other order the editor forgets what two uses in one subgraph have outside.
    return bench.canvas.saved(part(editor), whole(editor))


def version_1(editor: Editor) -> dict[str, Any]:
    bench = Bench(editor)
    bench.canvas.node("SaveImage", ["x"], images=(bench.square(1), 0))
    return bench.canvas.saved(version=1)


WORKFLOWS = [
    plain,
    switched_off,
    primitive,
    upload,
    in_parts,
    in_parts_bypassed,
    bypassed_inside,
    nested,
    version_1,
]


def test_they_are_the_same_prompts() -> None:
    ours, theirs = {}, {}
    with opened() as editor:
        for make in WORKFLOWS:
            workflow = make(editor)
            converted = untitled(ui_to_prompt(read_ui(workflow), editor.specs))
            ours[make.__name__] = converted
            theirs[make.__name__] = editor.prompt(workflow)
    assert ours == theirs
