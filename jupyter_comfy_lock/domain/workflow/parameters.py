"""The parameters of a prompt: the values that its nodes have, by node and by name."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jupyter_comfy_lock.domain.comfy import mapping
from jupyter_comfy_lock.domain.errors import InvalidWorkflow
from jupyter_comfy_lock.domain.workflow.check import input_specs, node_label, title_of
from jupyter_comfy_lock.domain.workflow.nodes import InputSpec, NodeSpec
from jupyter_comfy_lock.domain.workflow.values import Unfit, close_to, fitted, is_link

#: What a text is for, by the name under which it is set.
_ROLES = {
    "prompt": "positive",
    "positive": "positive",
    "positive_prompt": "positive",
    "negative": "negative",
    "negative_prompt": "negative",
}
_TEXTS = ("text", "prompt")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value that can be set: an input of a node that is not linked."""

    node_id: str
    title: str
    class_type: str
    name: str
    value: Any
    spec: InputSpec | None = None

    @property
    def node(self) -> str:
        """What to call its node."""
        return node_label(self.node_id, self.title, self.class_type)


def parameters(
    prompt: Mapping[str, Any], specs: Mapping[str, NodeSpec] | None = None
) -> list[Parameter]:
    """Return the parameters of `prompt`, in the order of its nodes."""
    return [each for node_id in prompt for each in _of_node(prompt, node_id, specs or {})]


def inputs_of(
    prompt: Mapping[str, Any], node_id: str, specs: Mapping[str, NodeSpec] | None = None
) -> dict[str, InputSpec | None]:
    """Return the inputs that a node has or could have; None for those nothing is known of."""
    node = prompt[node_id]
    spec = (specs or {}).get(str(node.get("class_type")))
    inputs = mapping(node.get("inputs"))
    known = input_specs(spec, inputs) if spec is not None else {}
    return {**dict.fromkeys(inputs), **known}


def find_node(prompt: Mapping[str, Any], key: object) -> str:
    """Return the id of the node that `key` names: its id, its title, or its class.

    Raises:
        InvalidWorkflow: there is none, or several; the message lists them.
    """
    name = str(key)
    if name in prompt:
        return name
    for says in (title_of, lambda node: str(node.get("class_type"))):
        found = [node_id for node_id, node in prompt.items() if says(node) == name]
        if len(found) == 1:
            return found[0]
        if found:
            labels = "".join(f"\n  {_label(prompt, each)}" for each in found)
            msg = f"{name!r} is the name of {len(found)} nodes; take one by its id:{labels}"
            raise InvalidWorkflow(msg, nodes=found)
    names = {*prompt, *map(title_of, prompt.values())}
    names |= {str(node.get("class_type")) for node in prompt.values()}
    msg = f"The workflow has no node {name!r}{close_to(name, names)}"
    hint = "" if msg.endswith("?") else ". Its nodes are listed by `workflow.nodes`."
    raise InvalidWorkflow(msg + hint)


def find_parameter(
    prompt: Mapping[str, Any], name: str, specs: Mapping[str, NodeSpec] | None = None
) -> tuple[str, str]:
    """Return the node and the input that `name` means.

    That is "node.input", or an input that one node alone has, or a node's title when the node
    has one parameter, or, for `prompt` and `negative_prompt`, the text that leads to the inputs
    of that kind.

    Raises:
        InvalidWorkflow: nothing or more than one thing is meant; the message says which.
    """
    node_key, dot, input_name = name.rpartition(".")
    if dot and _is_node(prompt, node_key):
        return find_node(prompt, node_key), input_name
    everything = parameters(prompt, specs)
    for found in (
        [each for each in everything if each.name == name],
        _by_title(everything, name),
        _by_role(prompt, name),
    ):
        places = [(each.node_id, each.name) for each in found]
        if len(places) == 1:
            return places[0]
        if places:
            lines = "".join(f"\n  {each.node}: {each.value!r}" for each in found)
            msg = (
                f"{name!r} is a parameter of {len(places)} nodes. Say of which: "
                f"`workflow[{found[0].node_id!r}].{found[0].name} = …`, or "
                f"set(**{{'{found[0].node_id}.{found[0].name}': …}}).{lines}"
            )
            raise InvalidWorkflow(msg, nodes=[each.node_id for each in found])
    linked = [x for x, node in prompt.items() if is_link(mapping(node.get("inputs")).get(name))]
    if linked:
        labels = ", ".join(_label(prompt, each) for each in linked)
        msg = f"{name!r} is linked: its value comes from another node. Where: {labels}."
        raise InvalidWorkflow(msg, nodes=linked)
    hint = close_to(name, {each.name for each in everything})
    names = ", ".join(dict.fromkeys(each.name for each in everything)) or "none"
    msg = f"The workflow has no parameter {name!r}{hint or f'. It has: {names}'}"
    raise InvalidWorkflow(msg)


def with_value(
    prompt: Mapping[str, Any],
    node_id: str,
    name: str,
    value: Any,
    specs: Mapping[str, NodeSpec] | None = None,
) -> dict[str, Any]:
    """Return `prompt` with one input set.

    Raises:
        InvalidWorkflow: the node has no such input, or the value does not fit it; the message
            names node, class and input, what was given and what is allowed.
    """
    known = inputs_of(prompt, node_id, specs)
    label = _label(prompt, node_id)
    if name not in known:
        hint = close_to(name, known) or f". It has: {', '.join(known) or 'none'}"
        msg = f"{label} has no input {name!r}{hint}"
        raise InvalidWorkflow(msg, node_id=node_id)
    spec = known[name]
    if is_link(value):
        if value[0] not in prompt:
            msg = f"{label}, input {name!r}: there is no node {value[0]!r} to link it to."
            raise InvalidWorkflow(msg, node_id=node_id, input=name)
    else:
        try:
            value = fitted(value, spec)
        except Unfit as unfit:
            msg = f"{label}, input {name!r}: {unfit.why}"
            raise InvalidWorkflow(msg, node_id=node_id, input=name) from unfit
        if isinstance(value, list):
            value = {"__value__": value}  # a bare list would be a link
    node = prompt[node_id]
    return {**prompt, node_id: {**node, "inputs": {**mapping(node.get("inputs")), name: value}}}


def identifier(title: str) -> str:
    """Return a title as it can be written as a name in Python: "My Sampler" is `my_sampler`."""
    return re.sub(r"\W+", "_", title.strip().lower()).strip("_")


def _of_node(
    prompt: Mapping[str, Any], node_id: str, specs: Mapping[str, NodeSpec]
) -> Iterator[Parameter]:
    node = prompt[node_id]
    known = inputs_of(prompt, node_id, specs)
    for name, value in mapping(node.get("inputs")).items():
        if not is_link(value):
            title, kind = title_of(node), str(node.get("class_type"))
            yield Parameter(node_id, title, kind, name, value, known[name])


def _by_title(everything: list[Parameter], name: str) -> list[Parameter]:
    found = [each for each in everything if identifier(each.title) == name]
    nodes = {each.node_id for each in found}
    texts = [each for each in found if each.name in (*_TEXTS, "value")]
    return texts if len(texts) == len(nodes) else found


def _by_role(prompt: Mapping[str, Any], name: str) -> list[Parameter]:
    role = _ROLES.get(name)
    if role is None:
        return []
    starts = [
        mapping(node.get("inputs"))[role][0]
        for node in prompt.values()
        if is_link(mapping(node.get("inputs")).get(role))
    ]
    found: dict[tuple[str, str], Parameter] = {}
    seen: set[str] = set()
    while starts:
        node_id = starts.pop()
        if node_id in seen or node_id not in prompt:
            continue
        seen.add(node_id)
        texts = [each for each in _of_node(prompt, node_id, {}) if each.name in _TEXTS]
        found |= {(each.node_id, each.name): each for each in texts}
        if not texts:
            inputs = mapping(prompt[node_id].get("inputs"))
            # A text may be made of several, and a node in between may pass both kinds on.
            kept = [role] if role in inputs else [x for x in inputs if x not in _ROLES.values()]
            starts += [inputs[x][0] for x in kept if is_link(inputs[x])]
    return list(found.values())


def _is_node(prompt: Mapping[str, Any], key: str) -> bool:
    return key in prompt or any(
        key in (title_of(node), node.get("class_type")) for node in prompt.values()
    )


def _label(prompt: Mapping[str, Any], node_id: str) -> str:
    node = prompt[node_id]
    return node_label(node_id, title_of(node), str(node.get("class_type")))
