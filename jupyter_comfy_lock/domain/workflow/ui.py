"""A workflow as ComfyUI's editor saves it, made into the prompt that the editor would send.

This follows the editor's own `graphToPrompt`, step by step; where that one is silent about
something that cannot run, this one says what it is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jupyter_comfy_lock.domain.errors import InvalidWorkflow
from jupyter_comfy_lock.domain.workflow.file_names import SAVES, filled_in
from jupyter_comfy_lock.domain.workflow.graph import (
    BYPASSED,
    INPUT_END,
    MUTED,
    Graph,
    Node,
    Slot,
    UiWorkflow,
)
from jupyter_comfy_lock.domain.workflow.nodes import ANY, NodeSpec
from jupyter_comfy_lock.domain.workflow.subgraphs import PRIMITIVE, Fields, Scope
from jupyter_comfy_lock.domain.workflow.widgets import (
    CUSTOM_COMBO,
    Choose,
    Field,
    chosen_option,
    resolve_choices,
)

_REROUTES = frozenset({"Reroute", "Reroute (rgthree)"})
_GETTER, _SETTER = "GetNode", "SetNode"
#: Nodes of the editor alone.
_VIRTUAL = _REROUTES | {
    *(PRIMITIVE, "Note", "MarkdownNote", _GETTER, _SETTER),
    *("Label (rgthree)", "Bookmark (rgthree)", "Fast Groups Bypasser (rgthree)"),
    *("Fast Groups Muter (rgthree)", "Fast Bypasser (rgthree)", "Fast Muter (rgthree)"),
}
#: So many nodes in a row that are no nodes of the prompt: their links go in a circle.
_TOO_FAR = 200
#: Subgraphs that use each other twice, ten deep, are a thousand; forty deep fill any memory.
_TOO_MANY = 20_000


@dataclass(frozen=True, slots=True)
class _FromNode:
    node_id: str
    slot: int


@dataclass(frozen=True, slots=True)
class _FromField:
    value: Any


_Source = _FromNode | _FromField | None


def ui_to_prompt(
    workflow: UiWorkflow,
    specs: Mapping[str, NodeSpec],
    *,
    choose: Choose = lambda _: 0,
    now: datetime | None = None,
) -> dict[str, Any]:
    """Return the prompt that the editor would send for a workflow in its format.

    `choose` decides between the alternatives of a text such as "{red|blue} car"; `now` is what a
    file's name with a date in it gets.

    Raises:
        InvalidWorkflow: it cannot be converted; the message names each node that is to blame.
    """
    try:
        return _Conversion(workflow, specs, choose, now).prompt()
    except RecursionError as error:
        msg = "The workflow's subgraphs are nested too deep."
        raise InvalidWorkflow(msg) from error


class _Conversion:
    def __init__(
        self,
        workflow: UiWorkflow,
        specs: Mapping[str, NodeSpec],
        choose: Choose,
        now: datetime | None,
    ) -> None:
        self._workflow = workflow
        self._specs = specs
        self._choose = choose
        self._now = now
        self._fields = Fields(workflow, specs)
        self._scopes: dict[tuple[str, ...], Scope] = {}
        self._slots: dict[tuple[str, str], list[Slot]] = {}
        self._unknown: dict[str, str] = {}

    def prompt(self) -> dict[str, Any]:
        """Return the prompt."""
        prompt: dict[str, Any] = {}
        for node_id, node in self._nodes(Scope(self._workflow.root)):
            prompt[node_id] = node
            if len(prompt) > _TOO_MANY:
                msg = f"The workflow's subgraphs contain each other: over {_TOO_MANY} nodes."
                raise InvalidWorkflow(msg)
        if self._unknown:
            raise _unknown_nodes(self._unknown)
        if not prompt:
            msg = "The workflow has no node that runs: all are muted, bypassed or mere notes."
            raise InvalidWorkflow(msg)
        for node in prompt.values():
            # What is linked to a node that does not run is not linked.
            node["inputs"] = {
                name: value
                for name, value in node["inputs"].items()
                if not (isinstance(value, list) and value[0] not in prompt)
            }
        return prompt

    def _nodes(self, scope: Scope) -> Iterator[tuple[str, dict[str, Any]]]:
        for node in scope.graph.nodes.values():
            if node.is_off or node.type in _VIRTUAL:
                continue
            if node.type in self._workflow.subgraphs:
                yield from self._nodes(self._enter(scope, node))
            elif node.type in self._specs:
                yield scope.execution_id(node), self._node(scope, node)
            elif node.inputs or node.outputs:
                title = f" {node.title!r}" if node.title and node.title != node.type else ""
                self._unknown[scope.execution_id(node)] = f"{node.type}{title}"

    def _node(self, scope: Scope, node: Node) -> dict[str, Any]:
        spec = self._specs[node.type]
        inputs = {
            each.widget.name: self._sent(each, self._fields.value(scope.graph, node, each))
            for each in self._fields.of(scope.graph, node)
            if each.widget.sent
        }
        prefix = inputs.get("filename_prefix")
        if node.type in SAVES and isinstance(prefix, str):
            named = filled_in(prefix, value_of=self._value_of, now=self._now)
            inputs["filename_prefix"] = named
        for index, slot in enumerate(self._slots_of(scope.graph, node)):
            source = self._input(scope, node, index)
            if isinstance(source, _FromNode):
                inputs[slot.name] = [source.node_id, source.slot]
            elif isinstance(source, _FromField):
                inputs[slot.name] = _wrapped(source.value)
        if node.type == CUSTOM_COMBO:
            inputs["index"] = chosen_option(inputs)
        title = node.title or spec.display_name
        return {"inputs": inputs, "class_type": node.type, "_meta": {"title": title}}

    def _value_of(self, name: str, field: str) -> Any:
        """Return the value of a field of the node that a file is named after."""
        nodes = [(x, node) for x in self._workflow.graphs for node in x.nodes.values()]
        called = [x for x in nodes if x[1].properties.get("Node name for S&R") == name]
        called = called or [x for x in nodes if (x[1].title or x[1].type) == name]
        for graph, node in called[:1]:
            for each in self._fields.of(graph, node):
                if each.widget.name == field:
                    return self._fields.value(graph, node, each)
        return None

    def _sent(self, found: Field, value: Any) -> Any:
        spec = found.widget.spec
        if isinstance(value, str) and spec.options.get("dynamicPrompts"):
            return resolve_choices(value, self._choose)
        if spec.type == "CURVE" and value is not None:
            return {"__type__": "CURVE", "__value__": value}
        return _wrapped(value)

    def _enter(self, scope: Scope, node: Node) -> Scope:
        path = (*scope.path, node.id)
        if path not in self._scopes:
            self._scopes[path] = self._fields.enter(scope, node)
        return self._scopes[path]

    # -- where an input's value comes from ------------------------------------------------------

    def _input(
        self, scope: Scope, node: Node, index: int, kind: str | None = None, depth: int = 0
    ) -> _Source:
        if depth > _TOO_FAR:
            msg = f"The links into node {scope.execution_id(node)} ({node.type}) go in a circle."
            raise InvalidWorkflow(msg)
        slots = self._slots_of(scope.graph, node)
        if not 0 <= index < len(slots):
            return None
        slot = slots[index]
        if (node.id, slot.name) in scope.shown:
            return _FromField(scope.shown[node.id, slot.name])
        if slot.link is None:
            return None
        origin, out = slot.link
        if origin == INPUT_END:
            return self._from_outside(scope, out, depth + 1)
        if origin not in scope.graph.nodes:
            return None
        return self._output(scope, scope.graph.nodes[origin], out, kind or slot.type, depth + 1)

    def _from_outside(self, scope: Scope, index: int, depth: int) -> _Source:
        if scope.parent is None or scope.host is None:
            return None
        if not 0 <= index < len(scope.graph.inputs):
            return None
        slot = self._slots_of(scope.parent.graph, scope.host)[index]
        place = (scope.host.id, slot.name)
        if slot.link is not None or place in scope.parent.shown:
            return self._input(scope.parent, scope.host, index, depth=depth)
        return _FromField(scope.given[slot.name]) if slot.name in scope.given else None

    def _output(self, scope: Scope, node: Node, index: int, kind: str, depth: int) -> _Source:
        if node.mode == MUTED:
            return None
        if node.mode == BYPASSED:
            return self._past(scope, node, index, kind, depth)
        if node.type in self._workflow.subgraphs:
            return self._out_of(self._enter(scope, node), index, kind, depth)
        if node.type in _REROUTES:
            return self._input(scope, node, index, kind, depth)
        if node.type == _GETTER:
            return self._from_setter(scope, node, kind, depth)
        if node.type == _SETTER:
            return self._input(scope, node, 0, kind, depth)
        if node.type in _VIRTUAL:
            return None
        return _FromNode(scope.execution_id(node), index)

    def _out_of(self, inner: Scope, index: int, kind: str, depth: int) -> _Source:
        outputs = inner.graph.outputs
        link = outputs[index].link if 0 <= index < len(outputs) else None
        if link is None:
            return None
        origin, out = link
        if origin == INPUT_END:
            return self._from_outside(inner, out, depth + 1)
        if origin not in inner.graph.nodes:
            return None
        return self._output(inner, inner.graph.nodes[origin], out, kind, depth + 1)

    def _past(self, scope: Scope, node: Node, index: int, kind: str, depth: int) -> _Source:
        """Return what a bypassed node passes on: its input that fits best."""
        slots = self._slots_of(scope.graph, node)
        past = _passed_on(slots, index, self._output_type(node, index), kind)
        return None if past is None else self._input(scope, node, past, depth=depth)

    def _from_setter(self, scope: Scope, getter: Node, kind: str, depth: int) -> _Source:
        name = _first(getter.saved)
        within: Scope | None = scope
        while within is not None:
            for node in within.graph.nodes.values():
                if node.type == _SETTER and _first(node.saved) == name:
                    return self._output(within, node, 0, kind, depth + 1)
            within = within.parent
        return None

    # -- slots ----------------------------------------------------------------------------------

    def _output_type(self, node: Node, index: int) -> str:
        spec = self._specs.get(node.type)
        if spec is not None and 0 <= index < len(spec.outputs):
            return spec.outputs[index]
        return node.outputs[index].type if 0 <= index < len(node.outputs) else ANY

    def _slots_of(self, graph: Graph, node: Node) -> list[Slot]:
        key = (graph.id, node.id)
        if key not in self._slots:
            self._slots[key] = list(self._read_slots(graph, node))
        return self._slots[key]

    def _read_slots(self, graph: Graph, node: Node) -> Iterator[Slot]:
        """The inputs in the editor's order: as its class defines them, then others of the file."""
        if node.type in self._workflow.subgraphs:
            defined = [(x.name, x.type) for x in self._workflow.subgraphs[node.type].inputs]
        elif node.type in self._specs:
            inputs = self._specs[node.type].inputs
            sockets = [(x.name, x.type) for x in inputs if not x.is_widget]
            defined = sockets + [(x.name, x.type) for x in inputs if x.is_widget]
        else:
            yield from node.inputs
            return
        for name, kind in defined:
            slot = node.input(name)
            yield Slot(name, kind, slot.widget if slot else None, slot.link if slot else None)
        known = {name for name, _ in defined}
        fields = {each.widget.name for each in self._fields.of(graph, node)}
        for slot in node.inputs:
            # A field that the class has no more has taken its input with it.
            if slot.name not in known and (slot.widget is None or slot.widget in fields):
                yield slot


def _passed_on(slots: list[Slot], index: int, output: str, kind: str) -> int | None:
    if not slots:
        return None
    there = 0 <= index < len(slots)
    if kind in ("*", ""):
        return index if there else 0
    if there and _fit(slots[index].type, output) and _fit(slots[index].type, kind):
        return index
    for place, slot in enumerate(slots):
        if slot.type == kind:
            return place
    for place, slot in enumerate(slots):
        if _fit(slot.type, output) and _fit(slot.type, kind):
            return place
    return None


def _fit(one: str, other: str) -> bool:
    """Whether the editor would link these types."""
    if ANY in (one, other) or "" in (one, other):
        return True
    return bool(set(one.lower().split(",")) & set(other.lower().split(",")))


def _wrapped(value: Any) -> Any:
    # A bare list would be a link.
    return {"__value__": value} if isinstance(value, list) else value


def _first(saved: Any) -> Any:
    if isinstance(saved, list) and saved:
        return saved[0]
    return None


def _unknown_nodes(unknown: Mapping[str, str]) -> InvalidWorkflow:
    lines = "".join(f"\n  node {node_id} ({what})" for node_id, what in unknown.items())
    return InvalidWorkflow(
        "The workflow cannot be converted: this ComfyServer has no such nodes. Custom nodes "
        f"missing?{lines}",
        nodes=dict(unknown),
    )
