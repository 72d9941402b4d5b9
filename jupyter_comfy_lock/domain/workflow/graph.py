"""A workflow in the format of ComfyUI's editor, read: nodes, slots, links, subgraphs.

Versions 0.4 (links are lists) and 1 (links are objects) are one here, and so are the subgraphs,
whose links are objects in both.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from jupyter_comfy_lock.domain.comfy import items, mapping
from jupyter_comfy_lock.domain.errors import InvalidWorkflow

#: The ends of a subgraph's links that lead out of it.
INPUT_END = "-10"
OUTPUT_END = "-20"

MUTED = 2
BYPASSED = 4

#: A node and the number of one of its outputs, or inputs.
Link = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Slot:
    """An input or output of a node as the file has it."""

    name: str
    type: str
    #: The field that the input stands for; None if it is a mere input.
    widget: str | None = None
    #: Where the input's value comes from: a node, and which of its outputs.
    link: Link | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A node as the file has it."""

    id: str
    type: str
    title: str
    mode: int
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    #: The values of its fields: a list, or an object by name.
    saved: Any
    properties: Mapping[str, Any]

    @property
    def is_off(self) -> bool:
        """Whether it is muted or bypassed."""
        return self.mode in (MUTED, BYPASSED)

    def input(self, name: str) -> Slot | None:
        """The input of that name."""
        return next((slot for slot in self.inputs if slot.name == name), None)


@dataclass(frozen=True, slots=True)
class Graph:
    """The nodes of a workflow, or of one of its subgraphs."""

    id: str
    name: str
    nodes: dict[str, Node]
    #: What each output of each node leads to: nodes, and which of their inputs.
    targets: Mapping[Link, list[Link]]
    #: A subgraph's own inputs, and its outputs with where they come from.
    inputs: tuple[Slot, ...] = ()
    outputs: tuple[Slot, ...] = ()


@dataclass(frozen=True, slots=True)
class UiWorkflow:
    """A whole workflow."""

    root: Graph
    subgraphs: dict[str, Graph] = field(default_factory=dict)

    @property
    def graphs(self) -> Iterator[Graph]:
        """The root and all subgraphs."""
        yield self.root
        yield from self.subgraphs.values()


def is_ui_format(workflow: object) -> bool:
    """Whether this is what ComfyUI's editor saves, rather than a prompt."""
    return isinstance(workflow, Mapping) and isinstance(workflow.get("nodes"), list)


def read_ui(workflow: Mapping[str, Any]) -> UiWorkflow:
    """Return a workflow in the editor's format, read.

    Raises:
        InvalidWorkflow: a node or link is no such thing, or there is no node.
    """
    definitions = list(_definitions(workflow))
    subgraphs = {}
    for each in definitions:
        graph = _graph(each, f"subgraph {each.get('name') or each.get('id')!r}")
        subgraphs[graph.id] = graph
    root = _graph(workflow, "the workflow")
    if not root.nodes:
        msg = "The workflow is empty: it has no nodes."
        raise InvalidWorkflow(msg)
    return UiWorkflow(root, subgraphs)


def _definitions(workflow: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    holders = [workflow]
    while holders:
        for each in items(mapping(holders.pop().get("definitions")).get("subgraphs")):
            if isinstance(each, Mapping):
                yield each
                holders.append(each)


def _graph(data: Mapping[str, Any], where: str) -> Graph:
    links = _links(data, where)
    placed = {wire.target: wire.origin for wire in links.values()}
    nodes: dict[str, Node] = {}
    targets: dict[Link, list[Link]] = {}
    for entry in items(data.get("nodes")):
        node = _node(entry, links, placed, where)
        if node.id in nodes:
            msg = f"Two nodes of {where} have the id {node.id}."
            raise InvalidWorkflow(msg)
        nodes[node.id] = node
        for place, slot in enumerate(node.inputs):
            if slot.link is not None:
                targets.setdefault(slot.link, []).append((node.id, place))
    return Graph(
        id=str(data.get("id") or ""),
        name=str(data.get("name") or ""),
        nodes=nodes,
        targets=targets,
        inputs=tuple(_slot(each, None) for each in items(data.get("inputs"))),
        outputs=tuple(
            _slot(each, placed.get((OUTPUT_END, index)))
            for index, each in enumerate(items(data.get("outputs")))
        ),
    )


@dataclass(frozen=True, slots=True)
class _Wire:
    origin: Link
    target: Link


def _links(data: Mapping[str, Any], where: str) -> dict[str, _Wire]:
    links = {}
    for entry in items(data.get("links")):
        if entry is None:
            continue
        try:
            if isinstance(entry, Mapping):
                key, *ends = (
                    entry[name]
                    for name in ("id", "origin_id", "origin_slot", "target_id", "target_slot")
                )
            else:
                key, *ends = entry[:5]
            origin, out, target, into = ends
            links[str(key)] = _Wire((str(origin), int(out)), (str(target), int(into)))
        except (KeyError, TypeError, ValueError) as error:
            msg = f"A link of {where} is not one that ComfyUI's editor saves: {entry!r}"
            raise InvalidWorkflow(msg) from error
    return links


def _node(
    entry: object, links: Mapping[str, _Wire], placed: Mapping[Link, Link], where: str
) -> Node:
    if not isinstance(entry, Mapping) or "id" not in entry or "type" not in entry:
        msg = f"A node of {where} has no id or no type: {str(entry)[:200]}"
        raise InvalidWorkflow(msg)
    node_id = str(entry["id"])
    return Node(
        id=node_id,
        type=str(entry["type"]),
        title=str(entry.get("title") or ""),
        mode=entry["mode"] if isinstance(entry.get("mode"), int) else 0,
        inputs=tuple(_inputs(entry, node_id, links, placed)),
        outputs=tuple(_slot(each, None) for each in items(entry.get("outputs"))),
        saved=entry.get("widgets_values"),
        properties=mapping(entry.get("properties")),
    )


def _inputs(
    entry: Mapping[str, Any],
    node_id: str,
    links: Mapping[str, _Wire],
    placed: Mapping[Link, Link],
) -> Iterator[Slot]:
    for place, each in enumerate(items(entry.get("inputs"))):
        # The input says which link is its own; only where it says nothing the place decides.
        link_id = mapping(each).get("link")
        if link_id is None:
            yield _slot(each, placed.get((node_id, place)))
        else:
            wire = links.get(str(link_id))
            mine = wire is not None and wire.target[0] == node_id
            yield _slot(each, wire.origin if wire is not None and mine else None)


def _slot(entry: object, link: Link | None) -> Slot:
    data = mapping(entry)
    widget = mapping(data.get("widget")).get("name")
    kind = data.get("type")
    return Slot(
        name=str(data.get("name") or ""),
        type="*" if kind in (None, "", 0) else str(kind),
        widget=str(widget) if widget is not None else None,
        link=link,
    )
