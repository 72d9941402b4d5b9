"""All that is wrong with a prompt at once, before a ComfyServer is asked to run it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jupyter_comfy_lock.domain.comfy import mapping
from jupyter_comfy_lock.domain.progress import progress_of
from jupyter_comfy_lock.domain.workflow.nodes import (
    AUTOGROW,
    DYNAMIC_COMBO,
    InputSpec,
    NodeSpec,
    chosen_inputs,
    grown_input,
)
from jupyter_comfy_lock.domain.workflow.values import BAD_LINK, Unfit, close_to, fitted, is_link


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong."""

    #: ComfyUI's word for it, as in its own `node_errors`.
    kind: str
    why: str
    node_id: str = ""
    title: str = ""
    class_type: str = ""
    input: str = ""

    def __str__(self) -> str:
        if not self.node_id:
            return self.why
        where = node_label(self.node_id, self.title, self.class_type)
        return f"{where}{f', input {self.input!r}' if self.input else ''}: {self.why}"


def node_label(node_id: str, title: str, class_type: str) -> str:
    """Return what to call a node in a message: its id, the title somebody gave it, its class."""
    named = f" {title!r}" if title and title != class_type else ""
    return f"node {node_id}{named} ({class_type})"


def title_of(node: Mapping[str, Any]) -> str:
    """Return a node's title: as it was given, or its class."""
    return str(mapping(node.get("_meta")).get("title") or node.get("class_type"))


def check(prompt: Mapping[str, Any], specs: Mapping[str, NodeSpec]) -> list[Fault]:
    """Return every fault that ComfyUI would find in `prompt`, in the prompt's order.

    As ComfyUI does, it looks at what the outputs need and leaves the rest alone. What only the
    nodes' own code can tell (whether a file is there, say) is left to the ComfyServer.
    """
    faults = [
        _fault(
            "missing_node_type",
            "this ComfyServer has no such node. Custom nodes missing?"
            + close_to(str(node.get("class_type")), specs).replace("; did", " Did"),
            node_id,
            node,
        )
        for node_id, node in prompt.items()
        if node.get("class_type") not in specs
    ]
    outputs = [
        node_id
        for node_id, node in prompt.items()
        if (spec := specs.get(str(node.get("class_type")))) is not None and spec.is_output
    ]
    if not outputs and not faults:
        why = "The workflow has no output: no node that saves or shows something."
        return [Fault("prompt_no_outputs", why)]
    needed = progress_of(prompt, outputs).needed
    for node_id, node in prompt.items():
        spec = specs.get(str(node.get("class_type")))
        if node_id in needed and spec is not None:
            faults += _faults_of(prompt, specs, node_id, spec)
    return faults + _circle(prompt, needed)


def input_specs(spec: NodeSpec, inputs: Mapping[str, Any]) -> dict[str, InputSpec]:
    """Return the inputs that a node has, with those of what its dynamic ones have chosen."""
    found: dict[str, InputSpec] = {}
    left = list(spec.inputs)
    while left:
        each = left.pop(0)
        found[each.name] = each
        if each.type == DYNAMIC_COMBO:
            left = chosen_inputs(each, inputs.get(each.name)) + left
        elif each.type == AUTOGROW:
            grown = {name: grown_input(each, name) for name in inputs}
            found |= {name: it for name, it in grown.items() if it is not None}
    return found


def _faults_of(
    prompt: Mapping[str, Any], specs: Mapping[str, NodeSpec], node_id: str, spec: NodeSpec
) -> Iterator[Fault]:
    node = prompt[node_id]
    inputs = mapping(node.get("inputs"))
    for name, each in input_specs(spec, inputs).items():
        if name not in inputs:
            if each.required and each.type != AUTOGROW:
                why = f"is missing; it takes {_what(each)}"
                yield _fault("required_input_missing", why, node_id, node, name)
            continue
        value = inputs[name]
        if isinstance(value, list):
            unfit = _link_fault(prompt, specs, each, value)
        else:
            unfit = _value_fault(each, value)
        if unfit is not None:
            yield _fault(unfit.kind, unfit.why, node_id, node, name)


def _value_fault(spec: InputSpec, value: Any) -> Unfit | None:
    try:
        fitted(value, spec)
    except Unfit as unfit:
        return unfit
    return None


def _link_fault(
    prompt: Mapping[str, Any],
    specs: Mapping[str, NodeSpec],
    spec: InputSpec,
    link: list[Any],
) -> Unfit | None:
    if not is_link(link) or link[0] not in prompt:
        why = f"a link is [id of a node, number of its output], not {link!r}"
        return Unfit(BAD_LINK, why)
    source = prompt[link[0]]
    outputs = specs.get(str(source.get("class_type")))
    if outputs is None:
        return None
    label = node_label(link[0], title_of(source), str(source.get("class_type")))
    if not 0 <= link[1] < len(outputs.outputs):
        has = len(outputs.outputs)
        why = f"{label} has {has} output{'s' if has != 1 else ''}, none with the number {link[1]}"
        return Unfit(BAD_LINK, why)
    given = outputs.outputs[link[1]]
    if spec.accepts(given) or given.startswith("COMFY_") or spec.type == AUTOGROW:
        return None
    why = f"takes {spec.type}, but output {link[1]} of {label} gives {given}"
    return Unfit("return_type_mismatch", why)


def _circle(prompt: Mapping[str, Any], needed: Any) -> list[Fault]:
    """Return a fault for links that go in a circle, if any do."""
    done: set[str] = set()
    for start in prompt:
        if start not in needed or start in done:
            continue
        path: list[str] = []
        stack = [(start, iter(_sources(prompt, start)))]
        path.append(start)
        while stack:
            _, sources = stack[-1]
            source = next(sources, None)
            if source is None:
                stack.pop()
                done.add(path.pop())
            elif source in path:
                drawn = " → ".join([*path[path.index(source) :], source])
                return [Fault("dependency_cycle", f"These nodes need each other: {drawn}.")]
            elif source not in done:
                path.append(source)
                stack.append((source, iter(_sources(prompt, source))))
    return []


def _sources(prompt: Mapping[str, Any], node_id: str) -> list[str]:
    inputs = mapping(prompt[node_id].get("inputs"))
    return [value[0] for value in inputs.values() if is_link(value) and value[0] in prompt]


def _what(spec: InputSpec) -> str:
    return "a value" if spec.is_widget else f"a link to an output of type {spec.type}"


def _fault(kind: str, why: str, node_id: str, node: Mapping[str, Any], name: str = "") -> Fault:
    return Fault(kind, why, node_id, title_of(node), str(node.get("class_type")), name)
