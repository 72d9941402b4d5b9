"""Is a prompt fit to run? ComfyUI's rules, without any I/O of our own.

Values are coerced in place while they are checked: what runs, and what queue and history
show, is the coerced prompt.
"""

from __future__ import annotations

import traceback
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from jupyter_comfy_lock.embedded.files import Folders
from jupyter_comfy_lock.embedded.nodes.spec import Input, NodeSpec, input_config

Prompt: TypeAlias = dict[str, dict[str, Any]]
Problem: TypeAlias = dict[str, Any]

#: A longer list of choices is not spelled out in an error.
_MAX_LISTED_CHOICES = 20

_COERCE: Mapping[str, Callable[[Any], Any]] = {
    "INT": int,
    "FLOAT": float,
    "STRING": str,
    "BOOLEAN": bool,
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came out of checking a prompt."""

    #: Why nothing of it can run; None if at least one output can.
    error: Problem | None
    #: The output nodes that can run, in the prompt's order.
    outputs: list[str] = field(default_factory=list)
    #: Problems by node id, also of outputs that are dropped while others run.
    node_errors: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(slots=True)
class _Finding:
    """What is known of one node: its own problems, and whether all it needs is fine."""

    valid: bool
    problems: list[Problem]


def is_prompt_id(value: object) -> bool:
    """Whether `value` is a UUID in canonical lower-case hyphenated form."""
    if not isinstance(value, str):
        return False
    try:
        return str(uuid.UUID(value)) == value
    except ValueError:
        return False


def problem(kind: str, message: str, details: str = "", **extra: Any) -> Problem:
    """Return an error as ComfyUI words it."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra}


NO_PROMPT = problem("no_prompt", "No prompt provided", "No prompt provided")
INVALID_PROMPT_ID = problem(
    "invalid_prompt_id",
    "prompt_id must be a valid UUID",
    "prompt_id must be a UUID string in canonical lowercase hyphenated form; "
    "omit it to let the server generate one",
)


def check(
    prompt: Prompt,
    nodes: Mapping[str, NodeSpec],
    folders: Folders,
    targets: Collection[str] | None = None,
) -> Verdict:
    """Check `prompt`, or only its output nodes in `targets`, and coerce its values in place."""
    for node_id, node in prompt.items():
        if missing := _missing_class(node_id, node, nodes):
            return Verdict(missing)
    wanted = [
        node_id
        for node_id, node in prompt.items()
        if nodes[node["class_type"]].output_node and (targets is None or node_id in targets)
    ]
    if not wanted:
        return Verdict(problem("prompt_no_outputs", "Prompt has no outputs"))
    return _Checker(prompt, nodes, folders).verdict(wanted)


def _missing_class(
    node_id: str, node: dict[str, Any], nodes: Mapping[str, NodeSpec]
) -> Problem | None:
    class_type = node.get("class_type")
    if class_type in nodes:
        return None
    title = node.get("_meta", {}).get("title", class_type)
    if "class_type" in node:
        message = f"Node '{title}' not found. The custom node may not be installed."
    else:
        message = (
            f"Node '{title or f'ID #{node_id}'}' has no class_type. "
            "The workflow may be corrupted or a custom node is missing."
        )
    return problem(
        "missing_node_type",
        message,
        f"Node ID '#{node_id}'",
        node_id=node_id,
        class_type=class_type,
        node_title=title,
    )


class _Checker:
    """Walks from the outputs up; every node is looked at once."""

    def __init__(self, prompt: Prompt, nodes: Mapping[str, NodeSpec], folders: Folders) -> None:
        self._prompt = prompt
        self._nodes = nodes
        self._folders = folders
        self._found: dict[str, _Finding] = {}
        self._path: list[str] = []

    def verdict(self, wanted: list[str]) -> Verdict:
        good: list[str] = []
        reasons: list[str] = []
        node_errors: dict[str, dict[str, Any]] = {}
        for output in wanted:
            finding = self._output(output)
            if finding.valid:
                good.append(output)
                continue
            reasons += [f"{x['message']}: {x['details']}" for x in finding.problems]
            self._collect(output, node_errors)
        if good:
            return Verdict(None, good, node_errors)
        message = "Prompt outputs failed validation"
        error = problem("prompt_outputs_failed_validation", message, "\n".join(reasons))
        return Verdict(error, [], node_errors)

    def _collect(self, output: str, node_errors: dict[str, dict[str, Any]]) -> None:
        # A node that is fine but for its ancestors has no problems of its own: left out.
        for node_id, finding in self._found.items():
            if finding.valid or not finding.problems:
                continue
            entry = node_errors.setdefault(
                node_id,
                {
                    "errors": finding.problems,
                    "dependent_outputs": [],
                    "class_type": self._prompt[node_id]["class_type"],
                },
            )
            entry["dependent_outputs"].append(output)

    def _output(self, node_id: str) -> _Finding:
        try:
            return self._node(node_id)
        except Exception as error:  # noqa: BLE001 - a malformed node is an answer, not a crash
            self._path.clear()
            found = _Finding(
                False,
                [
                    problem(
                        "exception_during_validation",
                        "Exception when validating node",
                        str(error),
                        exception_type=type_name(error),
                        traceback=traceback.format_tb(error.__traceback__),
                    )
                ],
            )
            self._found[node_id] = found
            return found

    def _node(self, node_id: str) -> _Finding:
        if node_id in self._found:
            return self._found[node_id]
        if node_id in self._path:
            return self._cycle(node_id)
        node = self._prompt[node_id]
        spec = self._nodes[node["class_type"]]
        values = node["inputs"]
        problems: list[Problem] = []
        valid = True
        for item in spec.inputs:
            if item.name not in values:
                if item.required:
                    problems.append(
                        problem(
                            "required_input_missing",
                            "Required input is missing",
                            item.name,
                            input_name=item.name,
                        )
                    )
            elif isinstance(values[item.name], list):
                found, source_is_valid = self._link(node_id, spec, item, values[item.name])
                problems += found
                valid = valid and source_is_valid
            else:
                problems += self._value(spec, item, values)
        problems += self._own_check(spec, values)
        # A cycle found further up may already have said something about this node.
        before = self._found.get(node_id, _Finding(True, []))
        merged = before.problems + [x for x in problems if x not in before.problems]
        finding = _Finding(before.valid and valid and not problems, merged)
        self._found[node_id] = finding
        return finding

    def _link(
        self, node_id: str, spec: NodeSpec, item: Input, link: list[Any]
    ) -> tuple[list[Problem], bool]:
        config = input_config(item, self._folders, spec.style)
        name = item.name
        if len(link) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            extra = {"input_name": name, "input_config": config, "received_value": link}
            return [problem("bad_linked_input", message, name, **extra)], True
        source, slot = link
        received = self._nodes[self._prompt[source]["class_type"]].outputs[slot]
        if not _fits(received, item.type):
            details = f"{name}, received_type({received}) mismatch input_type({config[0]})"
            extra = {"input_name": name, "input_config": config, "received_type": received}
            message = "Return type mismatch between linked nodes"
            found = problem("return_type_mismatch", message, details, **extra, linked_node=link)
            return [found], True
        self._path.append(node_id)
        try:
            return [], self._node(source).valid
        except Exception as error:  # noqa: BLE001 - the source is malformed: say so there
            del self._path[self._path.index(node_id) + 1 :]
            self._found[source] = _Finding(False, [_inner(error, name, config, link)])
            return [], False
        finally:
            self._path.pop()

    def _value(self, spec: NodeSpec, item: Input, values: dict[str, Any]) -> list[Problem]:
        config = input_config(item, self._folders, spec.style)
        value, name = values[item.name], item.name
        if isinstance(value, dict) and "__value__" in value:
            value = values[name] = value["__value__"]
        if coerce := _COERCE.get(item.type):
            try:
                value = values[name] = coerce(value)
            except (TypeError, ValueError, OverflowError) as error:
                message = f"Failed to convert an input value to a {item.type} value"
                return [
                    problem(
                        "invalid_input_type",
                        message,
                        f"{name}, {value}, {error}",
                        input_name=name,
                        input_config=config,
                        received_value=value,
                        exception_message=str(error),
                    )
                ]
        if spec.check and name in spec.check.inputs:
            return []
        extra = {"input_name": name, "input_config": config, "received_value": value}
        options = item.options or {}
        if "min" in options and value < options["min"]:
            message = f"Value {value} smaller than min of {options['min']}"
            return [problem("value_smaller_than_min", message, name, **extra)]
        if "max" in options and value > options["max"]:
            message = f"Value {value} bigger than max of {options['max']}"
            return [problem("value_bigger_than_max", message, name, **extra)]
        choices = item.choices_now(self._folders)
        if item.type == "COMBO" and value not in choices:
            listed = str(choices)
            if len(choices) > _MAX_LISTED_CHOICES:
                listed, extra["input_config"] = f"(list of length {len(choices)})", None
            details = f"{name}: {value!r} not in {listed}"
            return [problem("value_not_in_list", "Value not in list", details, **extra)]
        return []

    def _own_check(self, spec: NodeSpec, values: Mapping[str, Any]) -> list[Problem]:
        if spec.check is None:
            return []
        given = {x: values[x] for x in spec.check.inputs if x in values}
        constants = {k: v for k, v in given.items() if not isinstance(v, list)}
        if not constants or not (complaint := spec.check.complaint(self._folders, constants)):
            return []
        message = "Custom validation failed for node"
        return [
            problem("custom_validation_failed", message, f"{x} - {complaint}", input_name=x)
            for x in constants
        ]

    def _cycle(self, node_id: str) -> _Finding:
        path = [*self._path[self._path.index(node_id) :], node_id]
        members = list(dict.fromkeys(path))
        drawn = " -> ".join(f"{x} ({self._prompt[x]['class_type']})" for x in path)
        for member in members:
            found = problem(
                "dependency_cycle",
                "Dependency cycle detected",
                drawn,
                node_id=member,
                cycle_nodes=members,
            )
            self._found[member] = _Finding(False, [found])
        return self._found[node_id]


def _inner(error: Exception, name: str, config: list[Any], link: list[Any]) -> Problem:
    return problem(
        "exception_during_inner_validation",
        "Exception when validating inner node",
        str(error),
        input_name=name,
        input_config=config,
        exception_message=str(error),
        exception_type=type_name(error),
        traceback=traceback.format_tb(error.__traceback__),
        linked_node=link,
    )


def _fits(received: str, expected: str) -> bool:
    if received == expected or "*" in (received, expected):
        return True
    return set(received.split(",")) <= set(expected.split(","))


def type_name(error: BaseException) -> str:
    """The error's class as ComfyUI writes it: without module if built in."""
    kind = type(error)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"
