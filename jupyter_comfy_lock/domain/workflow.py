"""What a person calls a workflow, checked before it is sent; and why ComfyUI refused it."""

from collections.abc import Mapping
from typing import Any

from jupyter_comfy_lock.domain.comfy import items, mapping
from jupyter_comfy_lock.domain.errors import InvalidWorkflow, PromptRejected
from jupyter_comfy_lock.domain.progress import progress_of


def check_api_workflow(workflow: object) -> dict[str, Any]:
    """Return `workflow` as a prompt in ComfyUI's API format: `{node id: {class_type, inputs}}`.

    Everything that can be told without the ComfyServer is told at once, for all nodes.

    Raises:
        InvalidWorkflow: it is not in API format; the message names each wrong node.
    """
    if not isinstance(workflow, Mapping):
        msg = (
            "A workflow is a mapping {node id: {'class_type': …, 'inputs': {…}}}, "
            f"got {type(workflow).__name__}."
        )
        raise InvalidWorkflow(msg)
    if isinstance(workflow.get("nodes"), list) and "links" in workflow:
        msg = (
            "This is a workflow in the format of ComfyUI's editor. Export it in API format "
            '(in ComfyUI: menu Workflow, "Export (API)") and submit that.'
        )
        raise InvalidWorkflow(msg)
    if not workflow:
        msg = "The workflow is empty: it has no nodes."
        raise InvalidWorkflow(msg)
    ids = {str(key) for key in workflow}
    wrong = {str(key): why for key, node in workflow.items() if (why := _wrong(node, ids))}
    if wrong:
        lines = "".join(f"\n  node {node_id}: {why}" for node_id, why in wrong.items())
        msg = f"The workflow is not in ComfyUI's API format:{lines}"
        raise InvalidWorkflow(msg, nodes=wrong)
    return {str(key): dict(node) for key, node in workflow.items()}


def classes(prompt: Mapping[str, Any]) -> dict[str, str]:
    """Return the class of each node of a prompt."""
    return {str(key): str(node.get("class_type")) for key, node in prompt.items()}


def rejection(
    task_id: str,
    holder: str,
    comfy_id: str,
    answer: Mapping[str, Any],
    unknown: Mapping[str, str] | None = None,
) -> PromptRejected:
    """Return the error for ComfyUI's refusal `answer` of a prompt: every node and reason at once.

    `answer` is the body of a 400 to `POST /prompt`: `{"error": …, "node_errors": …}`. ComfyUI stops
    at the first node of a class that it does not have; `unknown` names them all, by node id.
    """
    error = answer.get("error")
    error = dict(error) if isinstance(error, Mapping) else {"message": str(error or "no reason")}
    node_errors = answer.get("node_errors")
    node_errors = dict(node_errors) if isinstance(node_errors, Mapping) else {}
    reasons = list(node_error_lines(node_errors)) or [
        f"node {node_id} ({class_type}): this ComfyServer has no such node. Custom nodes missing?"
        for node_id, class_type in (unknown or {}).items()
    ]
    if not reasons:
        details = str(error.get("details") or "")
        reasons = [f"{error.get('message', 'no reason')}" + (f" ({details})" if details else "")]
    lines = "".join(f"\n  {reason}" for reason in reasons)
    return PromptRejected(
        f"ComfyServer {comfy_id!r} refused the prompt of kernel {holder} (task {task_id}); "
        f"nothing ran:{lines}",
        task_id=task_id,
        comfy_id=comfy_id,
        error=error,
        node_errors=node_errors,
    )


def dropped_outputs(node_errors: Mapping[str, Any], prompt: Mapping[str, Any]) -> dict[str, Any]:
    """Name the outputs that ComfyUI will not make while it runs the rest, and what is to blame.

    `node_errors` is of a 200 to `POST /prompt`. Returns `{node id: {class_type, errors}}`.
    """
    entries = {node_id: mapping(entry) for node_id, entry in node_errors.items()}
    refused = {
        str(output)
        for entry in entries.values()
        for output in items(entry.get("dependent_outputs"))
    }
    outputs = refused or set(entries)
    # ComfyUI lists under `dependent_outputs` also outputs that do not depend on the node: all that
    # it checked later.
    needed = {output: progress_of(prompt, [output]).needed for output in outputs}
    return {
        output: {
            "class_type": str(prompt.get(output, {}).get("class_type", "?")),
            "errors": [
                {**mapping(error), "node_id": node_id, "node_class": entry.get("class_type")}
                for node_id, entry in entries.items()
                if node_id in needed[output]
                for error in items(entry.get("errors"))
            ],
        }
        for output in sorted(outputs)
    }


def node_error_lines(node_errors: Mapping[str, Any]) -> list[str]:
    """Return one line per fault: node, class, input and reason.

    An error may name the node that is to blame itself (`node_id`, `node_class`), as those of
    dropped outputs do: an output is dropped for a fault in what it needs.
    """
    lines = []
    for node_id, entry in node_errors.items():
        if not isinstance(entry, Mapping):
            lines.append(f"node {node_id}: {entry}")
            continue
        errors = entry.get("errors")
        for error in errors if isinstance(errors, list) and errors else [{}]:
            if not isinstance(error, Mapping):
                lines.append(f"node {node_id} ({entry.get('class_type', '?')}): {error}")
                continue
            extra = error.get("extra_info")
            name = extra.get("input_name") if isinstance(extra, Mapping) else None
            where = (
                f"node {error.get('node_id', node_id)} "
                f"({error.get('node_class', entry.get('class_type', '?'))})"
            )
            where += f", input {name!r}" if name else ""
            details = str(error.get("details") or "")
            why = str(error.get("message") or "refused")
            lines.append(f"{where}: {why}" + (f" ({details})" if details else ""))
    return lines


def _wrong(node: object, ids: set[str]) -> str | None:
    if not isinstance(node, Mapping):
        return f"must be an object, got {type(node).__name__}"
    if not isinstance(node.get("class_type"), str) or not node["class_type"]:
        return "has no class_type"
    inputs = node.get("inputs", {})
    if not isinstance(inputs, Mapping):
        return f"inputs must be an object, got {type(inputs).__name__}"
    missing = [
        f"{name!r} is linked to node {value[0]!r}, which does not exist"
        for name, value in inputs.items()
        if _is_link(value) and str(value[0]) not in ids
    ]
    return "; ".join(missing) or None


def _is_link(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and not isinstance(value[1], bool)
    )
