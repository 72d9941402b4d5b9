"""Workflows as ComfyUI's editor saves them, put together as one would on its canvas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jupyter_comfy_lock.domain.workflow.graph import read_ui
from jupyter_comfy_lock.domain.workflow.nodes import NodeSpec, node_specs
from jupyter_comfy_lock.domain.workflow.ui import ui_to_prompt

MUTED, BYPASSED = 2, 4
IN, OUT = -10, -20

Source = tuple[int, int]


def info(
    *,
    required: Mapping[str, Any] | None = None,
    optional: Mapping[str, Any] | None = None,
    output: Sequence[str] = (),
    output_node: bool = False,
) -> dict[str, Any]:
    """One class of `/object_info`."""
    groups = {"required": dict(required or {}), "optional": dict(optional or {})}
    return {
        "input": groups,
        "input_order": {name: list(group) for name, group in groups.items()},
        "output": list(output),
        "output_name": list(output),
        "output_node": output_node,
    }


#: Classes that need nothing, close to ComfyUI's own.
OBJECT_INFO = {
    "Picture": info(
        required={
            "width": ["INT", {"default": 64, "min": 1, "max": 512}],
            "seed": ["INT", {"default": 0, "min": 0, "max": 2**64 - 1}],
            "style": [["flat", "round"], {}],
        },
        output=["IMAGE"],
    ),
    "Text": info(required={"text": ["STRING", {"dynamicPrompts": True}]}, output=["STRING"]),
    "Blend": info(
        required={
            "one": ["IMAGE"],
            "two": ["IMAGE"],
            "factor": ["FLOAT", {"default": 0.5, "min": 0.0, "max": 1.0}],
            "mode": ["COMBO", {"options": ["normal", "screen"]}],
        },
        optional={"mask": ["MASK"]},
        output=["IMAGE"],
    ),
    "Mask": info(required={"image": ["IMAGE"]}, output=["MASK"]),
    "Load": info(required={"image": [["a.png"], {"image_upload": True}]}, output=["IMAGE", "MASK"]),
    "Save": info(
        required={"images": ["IMAGE"], "prefix": ["STRING", {"default": "pic"}]}, output_node=True
    ),
    "SaveImage": info(
        required={"images": ["IMAGE"], "filename_prefix": ["STRING", {}]}, output_node=True
    ),
    "Number": info(
        required={"value": ["INT", {"default": 1, "control_after_generate": True}]},
        output=["INT"],
    ),
    "Cycle": info(
        required={
            "name": [["a", "b"], {"control_after_generate": True}],
            "size": ["INT", {"default": 8}],
        }
    ),
    "Old": info(
        required={"forced": ["INT", {"forceInput": True}], "size": ["INT", {"default": 8}]},
        output=["INT"],
    ),
    "Resize": info(
        required={
            "image": ["IMAGE"],
            "how": [
                "COMFY_DYNAMICCOMBO_V3",
                {
                    "options": [
                        {"key": "factor", "inputs": {"required": {"by": ["FLOAT", {}]}}},
                        {
                            "key": "size",
                            "inputs": {"required": {"w": ["INT", {}], "h": ["INT", {}]}},
                        },
                    ]
                },
            ],
            "sharp": ["BOOLEAN", {"default": False}],
        },
        output=["IMAGE"],
    ),
}
SPECS = node_specs(OBJECT_INFO)


class Canvas:
    """A workflow, or a subgraph, in the making."""

    def __init__(self, specs: Mapping[str, NodeSpec] = SPECS) -> None:
        self._specs = specs
        self._nodes: list[dict[str, Any]] = []
        self._links: list[list[Any]] = []
        self._inputs: list[dict[str, Any]] = []
        self._outputs: list[dict[str, Any]] = []

    def node(
        self,
        kind: str,
        values: Any = None,
        *,
        mode: int = 0,
        title: str | None = None,
        id: int | None = None,
        outputs: Sequence[str] | None = None,
        properties: Mapping[str, Any] | None = None,
        **sources: Source,
    ) -> int:
        """Put a node there; `sources` are what its inputs are linked to. Returns its id."""
        node_id = id if id is not None else len(self._nodes) + 1
        spec = self._specs.get(kind)
        slots = []
        for name, source in sources.items():
            known = spec.by_name.get(name) if spec else None
            kind_of = known.type if known else "*"
            slot = {"name": "" if name == "any" else name, "type": kind_of}
            slot["link"] = self._link(source, (node_id, len(slots)), kind_of)
            if known is not None and known.is_widget:
                slot["widget"] = {"name": name}
            slots.append(slot)
        if outputs is None:
            outputs = spec.outputs if spec else ["*"]
        node = {
            "id": node_id,
            "type": kind,
            "mode": mode,
            "pos": [60 * node_id, 40],
            "size": [210, 80],
            "flags": {},
            "order": len(self._nodes),
            "inputs": slots,
            "outputs": [{"name": x, "type": x, "links": []} for x in outputs],
            "properties": dict(properties or {}),
            "widgets_values": values if values is not None else [],
        }
        if title is not None:
            node["title"] = title
        self._nodes.append(node)
        return node_id

    def input(self, name: str, kind: str) -> Source:
        """Give the subgraph an input; returns what leads to it inside."""
        self._inputs.append({"id": f"in-{name}", "name": name, "type": kind, "linkIds": []})
        return (IN, len(self._inputs) - 1)

    def output(self, name: str, kind: str, source: Source) -> None:
        """Give the subgraph an output."""
        link = self._link(source, (OUT, len(self._outputs)), kind)
        entry = {"id": f"out-{name}", "name": name, "type": kind, "linkIds": [link]}
        self._outputs.append(entry)

    def saved(self, *subgraphs: dict[str, Any], version: float = 0.4) -> dict[str, Any]:
        """The workflow as a file has it."""
        links: list[Any] = self._links
        if version != 0.4:
            links = [_as_object(link) for link in self._links]
        graph = {
            "version": version,
            "id": "6a4ae2ff-7a8b-4c9d-8e1f-000000000001",
            "revision": 0,
            "last_node_id": max(node["id"] for node in self._nodes),
            "last_link_id": len(self._links),
            "nodes": self._nodes,
            "links": links,
            "groups": [{"title": "a group", "bounding": [0, 0, 100, 100]}],
            "config": {},
            "extra": {},
        }
        if version != 0.4:
            graph["state"] = {
                "lastNodeId": graph["last_node_id"],
                "lastLinkId": len(self._links),
                "lastGroupId": 0,
                "lastRerouteId": 0,
            }
        if subgraphs:
            graph["definitions"] = {"subgraphs": list(subgraphs)}
        return graph

    def subgraph(self, id: str, name: str = "part") -> dict[str, Any]:
        """The subgraph as a file has it among its definitions."""
        end = {"bounding": [0, 0, 120, 60]}
        return {
            "id": id,
            "name": name,
            "version": 1,
            "revision": 0,
            "state": {"lastNodeId": 99, "lastLinkId": 99, "lastGroupId": 0, "lastRerouteId": 0},
            "config": {},
            "inputNode": {"id": IN, **end},
            "outputNode": {"id": OUT, **end},
            "inputs": self._inputs,
            "outputs": self._outputs,
            "widgets": [],
            "nodes": self._nodes,
            "links": [_as_object(link) for link in self._links],
            "groups": [],
        }

    def _link(self, source: Source, target: Source, kind: str) -> int:
        link_id = len(self._links) + 1
        self._links.append([link_id, *source, *target, kind])
        origin, out = source
        if origin == IN:
            self._inputs[out]["linkIds"].append(link_id)
        for node in self._nodes:
            if node["id"] == origin:
                node["outputs"][out]["links"].append(link_id)
        return link_id


def prompt_of(workflow: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """The prompt that a saved workflow is."""
    return ui_to_prompt(read_ui(workflow), SPECS, **options)


def inputs_of(workflow: Mapping[str, Any], node_id: int | str, **options: Any) -> dict[str, Any]:
    """The inputs that a node has in the prompt."""
    return dict(prompt_of(workflow, **options)[str(node_id)]["inputs"])


def _as_object(link: Sequence[Any]) -> dict[str, Any]:
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    return dict(zip(names, link, strict=True))
