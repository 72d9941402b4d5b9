"""The values of a workflow's fields, and the subgraphs where they are used.

A subgraph's nodes are saved once, however often the subgraph is used; what differs from use to
use are the values of the fields that it shows on its outside. Those are the fields that its own
inputs lead to, and (`proxyWidgets`, as editors before 2026 saved them) fields of its nodes by name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jupyter_comfy_lock.domain.comfy import items
from jupyter_comfy_lock.domain.errors import InvalidWorkflow
from jupyter_comfy_lock.domain.workflow.graph import INPUT_END, Graph, Node, UiWorkflow
from jupyter_comfy_lock.domain.workflow.nodes import NodeSpec
from jupyter_comfy_lock.domain.workflow.widgets import Field, restored

PRIMITIVE = "PrimitiveNode"
#: Before the field's name, in files of an early editor: the node it is of.
_PREFIX = re.compile(r"^\s*(\d+)\s*:\s*(.+)$")

#: A node of a subgraph, and one of its inputs by name.
Place = tuple[str, str]


@dataclass(frozen=True)
class Scope:
    """The workflow itself, or one use of a subgraph."""

    graph: Graph
    #: The ids of the nodes that lead here, outermost first.
    path: tuple[str, ...] = ()
    parent: "Scope | None" = None
    host: Node | None = None
    #: The values on the outside, by the subgraph's input.
    given: Mapping[str, Any] = field(default_factory=dict)
    #: Values of fields inside that are shown on the outside without an input of the subgraph.
    shown: Mapping[Place, Any] = field(default_factory=dict)

    def execution_id(self, node: Node) -> str:
        """The node's id in the prompt."""
        return ":".join((*self.path, node.id))


class Fields:
    """The values of the fields of all nodes, as the file has them."""

    def __init__(self, workflow: UiWorkflow, specs: Mapping[str, NodeSpec]) -> None:
        self._workflow = workflow
        self._specs = specs
        self._of: dict[tuple[str, str], list[Field]] = {}
        self._outside: dict[tuple[str, str], tuple[dict[str, Any], dict[Place, Any]]] = {}
        self._set_by_primitives: dict[tuple[str, str, str], Any] = {}
        for graph in workflow.graphs:
            self._apply_primitives(graph)

    def of(self, graph: Graph, node: Node) -> list[Field]:
        """Return the fields of a node of a known class."""
        key = (graph.id, node.id)
        if key not in self._of:
            spec = self._specs.get(node.type)
            self._of[key] = restored(spec, node.saved) if spec else []
        return self._of[key]

    def value(self, graph: Graph, node: Node, found: Field) -> Any:
        """Return a field's value, or that of the primitive node that sets it."""
        key = (graph.id, node.id, found.widget.name)
        return self._set_by_primitives.get(key, found.value)

    def enter(self, scope: Scope, node: Node) -> Scope:
        """Return the use of a subgraph that `node` is.

        Raises:
            InvalidWorkflow: the subgraph contains itself.
        """
        graph = self._workflow.subgraphs[node.type]
        above: Scope | None = scope
        while above is not None:
            if above.graph is graph:
                msg = f"The subgraph {graph.name or graph.id!r} contains itself."
                raise InvalidWorkflow(msg)
            above = above.parent
        given, shown = self.outside(scope.graph, node)
        return Scope(graph, (*scope.path, node.id), scope, node, given, shown)

    def outside(self, graph: Graph, node: Node) -> tuple[dict[str, Any], dict[Place, Any]]:
        """Return what a subgraph's use has on its outside: `given` and `shown` of its scope."""
        key = (graph.id, node.id)
        if key not in self._outside:
            self._outside[key] = ({}, {})  # what a subgraph that contains itself would find
            inner = self._workflow.subgraphs[node.type]
            self._outside[key] = self._read_outside(inner, node)
        return self._outside[key]

    def _read_outside(self, inner: Graph, node: Node) -> tuple[dict[str, Any], dict[Place, Any]]:
        sources = {
            slot.name: source
            for index, slot in enumerate(inner.inputs)
            if (source := self._source(inner, index)) is not None
        }
        given = {name: value for name, (_, value) in sources.items()}
        if isinstance(node.saved, Mapping):
            given |= {name: value for name, value in node.saved.items() if name in given}
            return given, {}
        saved = items(node.saved)
        # The file says whose values these are, unless it was stripped of what is not linked.
        names = [slot.name for slot in node.inputs if slot.widget is not None]
        by_name = dict(zip(names if len(names) == len(saved) else given, saved, strict=False))
        given |= {name: value for name, value in by_name.items() if name in given}
        shown: dict[Place, Any] = {}
        for entry, value in zip(items(node.properties.get("proxyWidgets")), saved, strict=False):
            if value is None or not isinstance(entry, list) or len(entry) < 2:
                continue
            node_id, name = str(entry[0]), str(entry[1])
            if node_id == "-1":
                given |= {name: value} if name in given else {}
                continue
            name = self._own_name(inner, node_id, name)
            linked = next((key for key, (at, _) in sources.items() if at == (node_id, name)), None)
            if linked is not None:
                given[linked] = value
            else:
                shown |= dict.fromkeys(self._places(inner, node_id, name), value)
        return given, shown

    def _source(self, inner: Graph, index: int) -> tuple[Place, Any] | None:
        """Return the first field that a subgraph's input leads to, and its value inside."""
        for node_id, place in inner.targets.get((INPUT_END, index), ()):
            node = inner.nodes[node_id]
            name = node.inputs[place].name
            if node.type in self._workflow.subgraphs:
                given, _ = self.outside(inner, node)
                if name in given:
                    return (node_id, name), given[name]
                continue
            for each in self.of(inner, node):
                if each.widget.name == (node.inputs[place].widget or name):
                    return (node_id, each.widget.name), each.value
        return None

    def _own_name(self, inner: Graph, source: str, name: str) -> str:
        while not self._places(inner, source, name) and (match := _PREFIX.match(name)):
            name = match[2]
        return name

    def _places(self, inner: Graph, source: str, name: str) -> list[Place]:
        """Return the inputs that a field shown on the outside stands for."""
        node = inner.nodes.get(source)
        if node is None:
            return []
        if node.type == PRIMITIVE:
            return [
                (target, inner.nodes[target].inputs[place].name)
                for target, place in inner.targets.get((source, 0), ())
            ]
        if node.type in self._workflow.subgraphs:
            return self._places_of_use(inner, node, name)
        return [(source, name)] if any(x.widget.name == name for x in self.of(inner, node)) else []

    def _places_of_use(self, inner: Graph, node: Node, name: str) -> list[Place]:
        given, _ = self.outside(inner, node)
        if name in given:
            return [(node.id, name)]
        deeper = self._workflow.subgraphs[node.type]
        for index, slot in enumerate(deeper.inputs):
            source = self._source(deeper, index)
            if source is not None and source[0][1] == name:
                return [(node.id, slot.name)]
        return []

    def _apply_primitives(self, graph: Graph) -> None:
        for node in graph.nodes.values():
            saved = items(node.saved)
            if node.type != PRIMITIVE or not saved:
                continue
            for target_id, place in graph.targets.get((node.id, 0), ()):
                slot = graph.nodes[target_id].inputs[place]
                if slot.widget is not None:
                    self._set_by_primitives[graph.id, target_id, slot.widget] = saved[0]
