"""ComfyUI's own template workflows, and what its editor makes of them.

Recorded once, with comfyui-frontend-package 1.53.6 in a browser on ComfyUI 0.33.0, for the
templates of comfyui-workflow-templates-json 0.1.123:

    python -m tests.domain.workflow.templates URL   # of a ComfyUI that serves that interface

`templates.json.xz` has what the conversion needs of `/object_info`, and for each template the hash
of its file and of the prompt that the editor made of it. The templates themselves come from the
package; those that a later version of it has changed are only converted, not compared.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import lzma
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).with_name("templates.json.xz")
#: What of a class and of an input the conversion looks at.
_CLASS = ("input", "input_order", "output", "output_name", "output_node")
_INPUT = (
    *("default", "options", "multiselect", "control_after_generate", "forceInput", "widgetType"),
    *("image_upload", "video_upload", "audio_upload", "animated_image_upload", "file_upload"),
    *("dynamicPrompts", "template", "remote", "min", "max", "inputs", "key"),
)
#: What the browser's three-dimensional views add themselves is left out of the comparison.
VIEWS = frozenset({"SaveGLB", "Preview3D", "Load3D", "Save3DAdvanced", "Preview3DAdvanced"})


def templates() -> Iterator[tuple[str, bytes]]:
    """The name and the file of each template that is a workflow of the editor's."""
    spec = importlib.util.find_spec("comfyui_workflow_templates_json")
    assert spec is not None, "comfyui-workflow-templates-json is missing"
    assert spec.origin is not None
    for path in sorted((Path(spec.origin).parent / "templates").glob("*.json")):
        content = path.read_bytes()
        workflow = json.loads(content)
        if isinstance(workflow, dict) and isinstance(workflow.get("nodes"), list):
            yield path.stem, content


@cache
def recorded() -> dict[str, Any]:
    """What was recorded: `object_info`, and `prompts` by the hash of the template."""
    found: dict[str, Any] = json.loads(lzma.decompress(RECORDED.read_bytes()))
    return found


def short_hash(content: bytes) -> str:
    """Enough of a hash to tell files apart."""
    return hashlib.sha256(content).hexdigest()[:20]


def shape(prompt: Mapping[str, Any]) -> str:
    """The hash of a prompt, whatever its nodes are called and without what nobody runs.

    The editor gives ids anew where those in a subgraph are those of nodes around it.
    """
    known: dict[str, str] = {}

    def made_of(node_id: str) -> str:
        if node_id not in known:
            node, inputs = prompt[node_id], {}
            for name, value in sorted(node["inputs"].items()):
                if isinstance(value, list) and value[0] in prompt:
                    inputs[name] = [made_of(value[0]), value[1]]
                elif value is not None and node["class_type"] not in VIEWS:
                    inputs[name] = _as_in_a_browser(value)
            text = json.dumps([node["class_type"], inputs], sort_keys=True)
            known[node_id] = short_hash(text.encode())
        return known[node_id]

    return short_hash("".join(sorted(map(made_of, prompt))).encode())


def _as_in_a_browser(value: Any) -> Any:
    """There 1.0 is 1."""
    if isinstance(value, list):
        return [_as_in_a_browser(each) for each in value]
    if isinstance(value, dict):
        return {key: _as_in_a_browser(each) for key, each in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def trimmed(object_info: Mapping[str, Any]) -> dict[str, Any]:
    """What the conversion needs of it: neither texts for people nor long lists."""
    return {
        name: {key: _trimmed(each[key]) for key in _CLASS if key in each}
        for name, each in object_info.items()
    }


def _trimmed(value: Any) -> Any:
    if isinstance(value, list):
        if value and isinstance(value[-1], dict) and isinstance(value[0], str | list):
            options = {key: _trimmed(x) for key, x in value[-1].items() if key in _INPUT}
            return [value[0][:1] if isinstance(value[0], list) else value[0], options]
        return [_trimmed(each) for each in value]
    if isinstance(value, dict):
        return {key: _trimmed(each) for key, each in value.items()}
    return value


def record(url: str) -> None:
    """Record what the editor at `url` makes of the templates."""
    from playwright.sync_api import Error

    from tests.browser.comfyui_interface import Interface
    from tests.browser.test_workflow_conversion import CONVERT
    from tests.chromium import chromium

    with urllib.request.urlopen(f"{url}/object_info", timeout=60) as answer:
        object_info = json.load(answer)
    prompts = {}
    with chromium() as browser:
        page = browser.new_page()
        Interface(page, url)
        for name, content in templates():
            try:
                prompt = page.evaluate(CONVERT, json.loads(content))
            except Error as error:
                print(name, error)
                continue
            if all(node.get("class_type") in object_info for node in prompt.values()):
                prompts[short_hash(content)] = [name, shape(prompt)]
    write(object_info, prompts)


def write(object_info: Mapping[str, Any], prompts: Mapping[str, Any]) -> None:
    """Write the record."""
    record = {"object_info": trimmed(object_info), "prompts": dict(prompts)}
    # In the order told: that of the inputs means something.
    text = json.dumps(record, separators=(",", ":"))
    RECORDED.write_bytes(lzma.compress(text.encode(), preset=9))


if __name__ == "__main__":
    record(sys.argv[1])
